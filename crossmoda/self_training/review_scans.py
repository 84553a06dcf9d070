"""Scans that cannot be used, found without reading their voxels, and kept from being handed out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from crossmoda.data.volumes import UNREADABLE, read_grid, read_volume, require_3d
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review_headers import require_plain_header
from crossmoda.self_training.review_store import SERIES_FAULT, ReviewStore

QUARANTINED = "quarantined"  # key of a scan's info: why it is not handed out

_known: dict[tuple[str, int, int], str | None] = {}


def scan_fault(path: Path) -> str | None:
    """Return why a scan cannot be used, or None; remembered while size and modification time stay the same.

    Read are the header and, of a compressed file, the length that its end states (about a millisecond); the voxels only
    where these two disagree.
    """
    try:
        status = path.stat()
    except OSError:
        return "no such file; restore it"
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _known:
        _known[key] = _fault(path)
    return _known[key]


def fault_in_store(store: ReviewStore, image_id: str, entry: Mapping[str, Any]) -> str | None:
    """Return why a scan of a store cannot be used, or None; of a DICOM series it may have been known before."""
    known = entry["image"]["info"].get(SERIES_FAULT)
    return str(known) if known else scan_fault(store.image_path(image_id, entry))


def quarantine(store: ReviewStore) -> dict[str, str]:
    """Check every scan of a store, enter the faults into its info, and return image id -> fault.

    A scan that has been mended is released.
    """
    objects = store.read()["objects"]
    faults = {image_id: fault_in_store(store, image_id, entry) for image_id, entry in objects.items()}
    changed = [
        image_id for image_id, fault in faults.items() if objects[image_id]["image"]["info"].get(QUARANTINED) != fault
    ]
    if changed:
        with store.edit() as model:
            for image_id in changed:
                if image_id in model["objects"]:
                    enter_fault(model["objects"][image_id], faults[image_id])
    return {image_id: fault for image_id, fault in faults.items() if fault is not None}


def enter_fault(entry: dict[str, Any], fault: str | None) -> None:
    """Write a scan's fault into its entry among the store's objects, or take it out."""
    if fault is None:
        entry["image"]["info"].pop(QUARANTINED, None)
    else:
        entry["image"]["info"][QUARANTINED] = fault


def _fault(path: Path) -> str | None:
    try:
        require_plain_header(path)
        grid = read_grid(path)
        require_3d(path, grid.shape)
        if not np.isfinite(grid.affine).all() or abs(np.linalg.det(grid.affine[:3, :3])) < 1e-9:
            return "its header does not say where the voxels lie (affine not finite, or flat); export the scan again"
        if path.name.lower().endswith((".nii", ".nii.gz")) and not _is_as_long_as_stated(path):
            read_volume(path)
    except CrossmodaError as error:
        return str(error).replace(f"{path}: ", "").replace(str(path), path.name)
    return None


def _is_as_long_as_stated(path: Path) -> bool:
    """Tell whether a NIfTI file ends where its header says; of a compressed one its last four bytes hold the length."""
    try:
        image: Any = nib.load(str(path))
        length = int(image.dataobj.offset) + int(np.prod(image.shape)) * image.get_data_dtype().itemsize
        if not path.name.lower().endswith(".gz"):
            return path.stat().st_size >= length
        with path.open("rb") as stream:
            stream.seek(-4, 2)
            return int.from_bytes(stream.read(4), "little") == length % (1 << 32)
    except UNREADABLE:
        return False
