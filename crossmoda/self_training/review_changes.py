"""How much an annotator changed: a saved label against the one that the annotator began with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.metrics import dice
from crossmoda.files import sha256_of
from crossmoda.labels import model_labels
from crossmoda.self_training.review_events import starting_label
from crossmoda.self_training.review_labels import numbers_for, renumber, stored_values

if TYPE_CHECKING:
    from crossmoda.self_training.review_store import ReviewStore


def started_from(
    store: ReviewStore,
    image_id: str,
    entry: Mapping[str, Any],
    info: Mapping[str, Any],
    label: np.ndarray,
    affine: np.ndarray,
    structures: Sequence[str],
) -> dict[str, Any]:
    """Return the label that a save began with, and what was changed; without figures where it cannot be compared.

    Args:
        store: the folder, whose lock need not be held: reading scans takes a second that other saves need not wait.
        image_id: of the scan.
        entry: its object in the store, before the save.
        info: of the save, with ``client_id`` or ``user``.
        label: (X, Y, Z) uint8, what is being saved, numbered as ``stored_values(structures)``.
        affine: (4, 4), of the scan, mm.
        structures: of the run; parts of one count as the whole.

    Returns:
        ``tag``, ``sha256``, ``model`` and ``round`` of the label begun with, and structure -> ``dice`` between the two,
        ``added_ml`` and ``removed_ml``. Empty where there was no label.
    """
    start = starting_label(entry, info)
    found = _file_of(store, image_id, entry, start.get("sha256"))
    if found is None:
        return start
    path, values = found
    try:
        before = _in_model_numbers(_whole_numbers(path, label.shape), values, structures)
        after = _in_model_numbers(label, stored_values(structures), structures)
    except CrossmodaError:  # other structures than the run's: nothing to compare, and no reason to refuse a save
        return start
    return {**start, **changes(before, after, abs(np.linalg.det(affine[:3, :3])) / 1000, structures)}


def changes(before: np.ndarray, after: np.ndarray, voxel_ml: float, structures: Sequence[str]) -> dict[str, Any]:
    """Return structure -> ``dice``, ``added_ml`` and ``removed_ml`` between two label maps (X, Y, Z).

    Args:
        before: numbered as ``model_labels(structures)``.
        after: the same.
        voxel_ml: volume of a voxel in mL.
        structures: of the run.
    """
    figures: dict[str, dict[str, float]] = {"dice": {}, "added_ml": {}, "removed_ml": {}}
    for name, number in model_labels(structures).items():
        former, new = before == number, after == number
        figures["dice"][name] = round(dice(new, former), 4)
        figures["added_ml"][name] = round(np.count_nonzero(new & ~former) * voxel_ml, 4)
        figures["removed_ml"][name] = round(np.count_nonzero(former & ~new) * voxel_ml, 4)
    return figures


def _file_of(
    store: ReviewStore, image_id: str, entry: Mapping[str, Any], digest: str | None
) -> tuple[Path, Mapping[str, int]] | None:
    """Return the file with these bytes, wherever it is kept by now, and its values by structure."""
    if not digest:
        return None
    for tag, label in entry["labels"].items():
        if label["info"].get("sha256") == digest:
            path, info = store.label_path(image_id, tag, label["ext"]), label["info"]
            break
    else:  # replaced or deleted since the annotator began
        aside = store.label_set_aside(image_id, digest)
        if aside is None:
            return None
        path, info = aside
    known = bool(info.get("values")) and path.is_file() and sha256_of(path) == digest
    return (path, info["values"]) if known else None


def _whole_numbers(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    volume = read_volume(path).array
    if volume.shape != shape:
        raise CrossmodaError(f"{path}: another grid than the scan's; delete the label")
    return volume.astype(np.uint8)


def _in_model_numbers(label: np.ndarray, values: Mapping[str, int], structures: Sequence[str]) -> np.ndarray:
    present = [int(number) for number in np.flatnonzero(np.bincount(label.ravel(), minlength=256))]
    return renumber(label, numbers_for(structures, values, present, "label"), "label")
