"""What a run's tumour blending did: the counts per rule and the picture, view by view."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmoda.evaluation.report.run_folder import RunFolder
from crossmoda.files import read_json

_NAME = "tumour_blending"  # of the plan (.json) and the picture (.png) beside the volumes
_SELECTED = "selected"
_SIZED = ("mm3", "standard deviation")  # reasons that hold a measurement of the case


@dataclass(frozen=True)
class Blended:
    """One view's augmentation.

    Args:
        view: the translator's name.
        harmonised: whether a SinGAN blended the structures in.
        rows: per rule its ``name``, ``structure``, ``selected``, ``of``, ``volumes``, and ``reasons`` of the others.
        picture: a data URI; empty where there is none.
    """

    view: str
    harmonised: bool
    rows: list[dict[str, Any]]
    picture: str


def blended_views(run: RunFolder) -> list[Blended]:
    """Return the augmentation of every view that has one, in order of their names."""
    plans = sorted(run.path.glob(f"round_0/blended/*/{_NAME}.json"))
    return [_read(path) for path in plans if not path.parent.name.startswith(".")]


def _read(path: Path) -> Blended:
    plan = read_json(path)
    rows = [{"name": name, **count, "reasons": _reasons(plan, name)} for name, count in plan["counts"].items()]
    picture = path.with_suffix(".png")
    uri = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii") if picture.is_file() else ""
    return Blended(path.parent.name, bool(plan["harmonised"]), rows, uri)


def _reasons(plan: dict[str, Any], rule: str) -> str:
    """Return why the other cases were left out, the commonest reason first, measurements of single cases taken out."""
    fates = [case["rules"][rule] for case in plan["cases"]]
    counted = Counter(_general(fate) for fate in fates if fate != _SELECTED)
    return ", ".join(f"{count} x {reason}" for reason, count in counted.most_common())


def _general(reason: str) -> str:
    """Return ``mm3 not above 2340`` for ``312 mm3, not above 2340``; other reasons as they are."""
    measured, _, limit = reason.partition(", ")
    kind = next((kind for kind in _SIZED if kind in measured), None)
    return reason if kind is None else f"{kind} {limit}"
