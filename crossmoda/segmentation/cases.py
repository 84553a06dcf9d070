"""Which cases a segmenter learns from and is validated on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmoda.data.datalist import AUGMENTED, load_datalist, segmentation_items
from crossmoda.data.folds import folds_of_cases, require_fold
from crossmoda.errors import CrossmodaError
from crossmoda.files import hash_of, sha256_of

Item = dict[str, Any]

TRUST_KEYS = ("confidence", "structure_weights")  # of an item: how far its voxels, or its structures, are trusted


def disk_labels(dataset_dir: str | Path) -> dict[str, int]:
    """Return the ``structure -> number`` mapping of the label files of a dataset folder or datalist."""
    return dict(load_datalist(dataset_dir)["labels"])


def cases_to_learn(
    dataset_dir: str | Path,
    sections: Sequence[str],
    fold: int | None = None,
    folds: int = 5,
    seed: int = 0,
    reads_trust: bool = False,
) -> list[Item]:
    """Return the labelled items of positive weight: ``image, label, case, site, view, weight``.

    Args:
        dataset_dir: a dataset folder or a datalist JSON.
        sections: of the datalist, e.g. ``source``.
        fold: which fold's cases to leave out, with all their views and augmented copies; None learns from all.
        folds: number of folds.
        seed: of the folds.
        reads_trust: the training uses what items say of how far a label is trusted (``TRUST_KEYS``).

    Raises:
        CrossmodaError: there is none to learn from, or no such fold; or an item says how far its label is trusted, and
            the training does not use it.
    """
    items = _labelled(dataset_dir, sections, "to train on; add labels, or name other sections with --train_sections")
    out = _held_out(items, fold, folds, seed, dataset_dir)
    learnt = [item for item in items if item["case"] not in out]
    for item in learnt if not reads_trust else ():
        _require_no_trust(item, dataset_dir)
    return learnt


def _require_no_trust(item: Item, dataset_dir: str | Path) -> None:
    for key in TRUST_KEYS:
        if item.get(key):
            raise CrossmodaError(
                f"{dataset_dir}: case {item['case']} has '{key}', which train.yaml reads with "
                "variant_partial_labels.yaml alone; add that overlay, or take the key out of the item"
            )


def cases_to_validate(
    dataset_dir: str | Path,
    sections: Sequence[str] = ("validation",),
    fold: int | None = None,
    folds: int = 5,
    seed: int = 0,
    train_sections: Sequence[str] = (),
) -> list[Item]:
    """Return the labelled items of the validation section, of which there may be none; with a fold, that fold's.

    Of a fold every view is judged, but no augmented copy and nothing whose label is a network's. Where a training
    learns from augmented copies alone, these are judged, and where all labels are a network's, all items.

    Args:
        dataset_dir: a dataset folder or a datalist JSON.
        sections: of the datalist, where no fold is held out.
        fold: the one that ``cases_to_learn`` leaves out.
        folds: number of folds.
        seed: of the folds.
        train_sections: the sections that the folds are made of.
    """
    if fold is None:
        return segmentation_items(dataset_dir, sections=tuple(sections))
    out = _held_out(segmentation_items(dataset_dir, tuple(train_sections)), fold, folds, seed, dataset_dir)
    return [item for item in _truest(dataset_dir, train_sections) if item["case"] in out]


def _truest(dataset_dir: str | Path, sections: Sequence[str]) -> list[Item]:
    """Return the items that tell most of how good a segmenter is."""
    true = segmentation_items(dataset_dir, tuple(sections), pseudo_labelled=False)
    plain = [item for item in true if AUGMENTED not in item["view"]]
    return plain or true or segmentation_items(dataset_dir, tuple(sections))


def _held_out(items: Sequence[Item], fold: int | None, folds: int, seed: int, where: str | Path) -> set[str]:
    """Return the cases of the fold that is left out."""
    require_fold(fold, folds)
    if fold is None:
        return set()
    return {case for case, at in folds_of_cases(items, folds, seed, where).items() if at == fold}


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
        [item["case"], item["view"], str(item["image"]), sha256_of(item["label"]), item["weight"], *_annotation(item)]
        for item in items
    ]
    return hash_of([cases, *(str(setting) for setting in settings)])


def _annotation(item: Item) -> list[Any]:
    """Return what else decides how an item's label is learnt from; nothing for a plain one."""
    confidence = [sha256_of(item["confidence"])] if item.get("confidence") else []
    return [*confidence, *(item[key] for key in ("labels", "structure_weights") if item.get(key))]


def _labelled(dataset_dir: str | Path, sections: Sequence[str], remedy: str) -> list[Item]:
    items = segmentation_items(dataset_dir, sections=tuple(sections))
    if not items:
        raise CrossmodaError(f"{dataset_dir}: no labelled case in {' or '.join(sections)} {remedy}")
    return items
