"""Verdicts that count only if nobody else has spoken since their author looked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.files import hash_of
from crossmoda.self_training.review import deciding_tag
from crossmoda.self_training.review_info import meta_of
from crossmoda.self_training.review_tags import ORIGINAL

SEEN = "seen"  # what a page sends with a verdict: the state of the case that its reader looked at


class ChangedMeanwhileError(CrossmodaError):
    """Somebody else has saved a label or given a verdict since the author of this one looked."""


def state_of(entry: Mapping[str, Any]) -> str:
    """Return a mark of what speaks for a case of the store: which label, its content, and the verdict on it.

    Args:
        entry: the object of the store.
    """
    labels = entry["labels"]
    tag = deciding_tag(labels) or (ORIGINAL if ORIGINAL in labels else None)
    info = labels[tag]["info"] if tag else {}
    return hash_of([tag, info.get("sha256"), info.get("ts"), meta_of(info)])[:32]


def require_as_seen(image_id: str, entry: Mapping[str, Any], seen: object) -> None:
    """Refuse a verdict on a case that is no longer as its author saw it; call it while the store is locked.

    Args:
        image_id: for the message.
        entry: the object of the store.
        seen: ``state_of`` the case then; None where the author does not tell, as 3D Slicer's Reviewer does not.

    Raises:
        ChangedMeanwhileError: the case has changed.
    """
    if seen is not None and seen != state_of(entry):
        raise ChangedMeanwhileError(f"image '{image_id}': somebody has saved or judged it meanwhile; look again")
