"""The clinicians' labels as they stood when a round began, copied into the round."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.files import read_json, sha256_of, write_json

REVIEWS_FILE = "reviews.json"
APPROVED, CORRECTED, FLAGGED = "approved", "corrected", "flagged"  # what clinicians may have decided about a case
FULL_WEIGHT = 1.0  # what a clinician has approved or corrected is truth to the next round


@dataclass(frozen=True)
class FrozenReview:
    """What a clinician decided about a case.

    Args:
        case: the target case.
        status: approved, corrected or flagged.
        label: the label file in the round, numbered as ``model_labels(structures)``; None for a flagged case.
        who: the clinician, as the review tool knows them.
        when: ISO time of the review.
    """

    case: str
    status: str
    label: Path | None
    who: str | None
    when: str | None

    def fate(self, admitted: bool = True) -> dict[str, Any]:
        """Return what the round's datalist says of the case: weight, status, who and when.

        Args:
            admitted: whether the round learns from labels of this status.
        """
        used = admitted and self.label is not None
        why = "" if used else ", left out" if admitted else f", left out until it is {APPROVED}"
        reason = f"{self.status} by a clinician{why}"
        return {
            "status": self.status,
            "weight": FULL_WEIGHT if used else 0.0,
            "who": self.who,
            "when": self.when,
            "reasons": [reason],
        }


def freeze_reviews(studies: Path | None, output: Path, structures: Sequence[str]) -> None:
    """Copy a MONAI Label datastore's reviewed labels to ``output``, with ``reviews.json``; none without a folder."""
    output.mkdir(parents=True, exist_ok=True)
    frozen = []
    for case, review in _collect(studies, structures).items():
        entry = {"case": case, "status": review.status, "who": review.who, "when": review.when, "label": None}
        if review.status != FLAGGED:
            name = f"{case}{LABEL_SUFFIX}"
            shutil.copyfile(review.label, output / name)
            entry |= {"label": name, "sha256": sha256_of(output / name)}
        frozen.append(entry)
    write_json(output / REVIEWS_FILE, frozen)


def _collect(studies: Path | None, structures: Sequence[str]) -> dict[str, Any]:
    if studies is None or not studies.is_dir():
        return {}
    from crossmoda.self_training.review import collect

    return dict(collect(studies, structures))


def read_frozen_reviews(folder: Path) -> dict[str, FrozenReview]:
    """Read what ``freeze_reviews`` wrote: case -> review."""
    return {
        entry["case"]: FrozenReview(
            case=entry["case"],
            status=entry["status"],
            label=folder / entry["label"] if entry["label"] else None,
            who=entry["who"],
            when=entry["when"],
        )
        for entry in read_json(folder / REVIEWS_FILE)
    }
