"""Which cases a segmenter learns from and is validated on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmoda.data.datalist import load_datalist, segmentation_items
from crossmoda.errors import CrossmodaError
from crossmoda.files import hash_of, sha256_of

Item = dict[str, Any]


def disk_labels(dataset_dir: str | Path) -> dict[str, int]:
    """Return the ``structure -> number`` mapping of the label files of a dataset folder or datalist."""
    return dict(load_datalist(dataset_dir)["labels"])


def cases_to_learn(dataset_dir: str | Path, sections: Sequence[str]) -> list[Item]:
    """Return the labelled items of positive weight: ``image, label, case, site, view, weight``.

    Args:
        dataset_dir: a dataset folder or a datalist JSON.
        sections: of the datalist, e.g. ``source``.

    Raises:
        CrossmodaError: there is none to learn from.
    """
    return _labelled(dataset_dir, sections, "to train on; add labels, or name other sections with --train_sections")


def cases_to_validate(dataset_dir: str | Path, sections: Sequence[str] = ("validation",)) -> list[Item]:
    """Return the labelled items of the validation section, of which there may be none."""
    return segmentation_items(dataset_dir, sections=tuple(sections))


def cases_to_evaluate(dataset_dir: str | Path, sections: Sequence[str]) -> list[Item]:
    """Return the labelled items of the sections to be predicted and compared with their labels.

    Raises:
        CrossmodaError: there is none.
    """
    return _labelled(dataset_dir, sections, "to evaluate on; name other sections with --sections")


def training_fingerprint(items: Sequence[Item], *settings: Any) -> str:
    """Return a hash of the cases, their labels' bytes and weights, and of whatever settings decide the result.

    A checkpoint is resumed only under the fingerprint that it was written with.
    """
    cases = [
        [item["case"], item["view"], str(item["image"]), sha256_of(item["label"]), item["weight"]] for item in items
    ]
    return hash_of([cases, *(str(setting) for setting in settings)])


def _labelled(dataset_dir: str | Path, sections: Sequence[str], remedy: str) -> list[Item]:
    items = segmentation_items(dataset_dir, sections=tuple(sections))
    if not items:
        raise CrossmodaError(f"{dataset_dir}: no labelled case in {' or '.join(sections)} {remedy}")
    return items
