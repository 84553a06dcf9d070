"""Scans that cannot be used are found without reading their voxels."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from crossmoda.self_training.review_scans import quarantine, scan_fault
from crossmoda.self_training.review_store import ReviewStore

VOXELS = np.random.default_rng(0).integers(0, 999, (12, 10, 6)).astype(np.int16)


def nifti(array: np.ndarray = VOXELS) -> bytes:
    return nib.nifti1.Nifti1Image(array, np.diag([0.5, 0.5, 2, 1])).to_bytes()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_whole_scans_have_no_fault(tmp_path: Path) -> None:
    assert scan_fault(written(tmp_path / "a.nii.gz", gzip.compress(nifti()))) is None
    assert scan_fault(written(tmp_path / "b.nii", nifti())) is None
    in_two = gzip.compress(nifti()[:900]) + gzip.compress(nifti()[900:])  # the end tells of the second
    assert scan_fault(written(tmp_path / "c.nii.gz", in_two)) is None


def test_faults_are_named_without_a_path(tmp_path: Path) -> None:
    nowhere = bytearray(nifti())
    nowhere[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    flat = bytearray(nifti())
    flat[312:328] = bytes(16)  # srow_z
    scans = {
        "cut.nii.gz": (gzip.compress(nifti())[:-200], "damaged"),
        "short.nii": (nifti()[:-2], "damaged"),
        "four.nii.gz": (gzip.compress(nifti(np.stack([VOXELS] * 2, -1))), "4D"),
        "slice.nii.gz": (gzip.compress(nifti(VOXELS[:, :, :1])), "2D"),
        "nowhere.nii": (bytes(nowhere), "affine"),
        "flat.nii": (bytes(flat), "affine"),
        "text.nii.gz": (b"no scan", "damaged"),
        "empty.nii.gz": (b"", "empty"),
        "text.nrrd": (b"no scan", "damaged"),
    }
    for name, (data, word) in scans.items():
        fault = scan_fault(written(tmp_path / name, data))
        assert fault is not None, name
        assert word in fault, (name, fault)
        assert str(tmp_path) not in fault
    assert scan_fault(tmp_path / "missing.nii.gz") == "no such file; restore it"


def test_a_mended_scan_is_released(tmp_path: Path) -> None:
    written(tmp_path / "a.nii.gz", gzip.compress(nifti())[:-200])
    written(tmp_path / "b.nii.gz", gzip.compress(nifti()))
    store = ReviewStore(tmp_path)
    store.recover()
    assert set(quarantine(store)) == {"a"}
    assert "damaged" in store.read()["objects"]["a"]["image"]["info"]["quarantined"]
    assert "quarantined" not in store.read()["objects"]["b"]["image"]["info"]
    written(tmp_path / "a.nii.gz", gzip.compress(nifti()))
    assert quarantine(store) == {}
    assert "quarantined" not in store.read()["objects"]["a"]["image"]["info"]


def test_voxels_are_not_read(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 2000, (160, 160, 40)).astype(np.int16)
    path = written(tmp_path / "large.nii.gz", gzip.compress(nifti(large), 1))
    started = time.perf_counter()
    nib.load(path).get_fdata()
    reading = time.perf_counter() - started
    started = time.perf_counter()
    assert scan_fault(path) is None
    assert time.perf_counter() - started < reading / 2
