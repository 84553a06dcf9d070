"""Small datasets on disk, in the challenge's layouts, written without the code under test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

AFFINE = np.array([[-0.5, 0, 0, 30], [0, -0.6, 0, 40], [0, 0, 1.5, -20], [0, 0, 0, 1]])  # LPS axes, 0.45 mm3 a voxel
SHAPE = (12, 10, 6)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def scan(path: Path, affine: np.ndarray = AFFINE) -> Path:
    return save_nifti(path, np.random.default_rng(0).random(SHAPE).astype(np.float32), affine)


def label(path: Path, blocks: dict[int, int] | None = None, affine: np.ndarray = AFFINE) -> Path:
    """Write a label with ``value -> number of voxels``, each value along its own row of slices."""
    array = np.zeros(SHAPE, np.uint8)
    for row, (value, voxels) in enumerate((blocks or {1: 8, 2: 4}).items()):
        array[:voxels, row, 2] = value
    return save_nifti(path, array, affine)


@pytest.fixture
def dataset_2022(tmp_path: Path) -> Path:
    """Two sites, two source, two target and one validation case, with the truth of the target cases."""
    root = tmp_path / "dataset"
    training = root / "crossmoda2022_training"
    for case in ("crossmoda2021_ldn_1", "crossmoda2022_etz_0"):
        scan(training / "training_source" / f"{case}_ceT1.nii.gz")
        label(training / "training_source" / f"{case}_Label.nii.gz")
    for case in ("crossmoda2021_ldn_106", "crossmoda2022_etz_105"):
        scan(training / "training_target" / f"{case}_hrT2.nii.gz")
        label(root / "truth" / f"{case}_Label.nii.gz")
    scan(root / "crossmoda2022_validation" / "crossmoda2021_ldn_211_hrT2.nii.gz")
    return root


@pytest.fixture
def make_2023(tmp_path: Path) -> Callable[[list[dict[int, int]]], Path]:
    """Write a 2023 dataset whose source labels hold the given numbers of voxels, of 0.45 mL each, per value."""

    def make(source: list[dict[int, int]]) -> Path:
        root = tmp_path / "dataset23"
        large = AFFINE @ np.diag([10, 10, 10, 1])
        training = root / "crossmoda23_training"
        for number, blocks in enumerate(source, start=1):
            scan(training / "TrainingSource" / f"crossmoda2023_etz_{number}_ceT1.nii.gz", large)
            label(training / "TrainingSource" / f"crossmoda2023_etz_{number}_Label.nii.gz", blocks, large)
        scan(training / "TrainingTarget" / "crossmoda2023_ukm_44_T2.nii.gz")
        scan(root / "crossmoda23_validation" / "crossmoda2023_ldn_211_T2.nii.gz")
        return root

    return make
