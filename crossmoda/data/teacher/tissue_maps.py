"""A patient on a grid as four bytes a voxel: its two commonest tissues, the share of the first, and the label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossmoda.data.phantom.rasterise import Anatomy
from crossmoda.data.phantom.tissues import TISSUES
from crossmoda.data.phantom.variety import ADDED_TISSUES
from crossmoda.files import atomic_path

TISSUE_NAMES: tuple[str, ...] = (*TISSUES, *ADDED_TISSUES)  # their places are the numbers in the maps
FIRST, SECOND, SHARE, LABEL = range(4)  # planes of a map
LABELS = {"intra": 1, "extra": 2, "cochlea": 3}
WHOLE = 255  # share of a voxel that holds one tissue alone

# What a network is taught to tell apart beside the structures: groups that look alike on hrT2.
TISSUE_GROUPS: dict[str, tuple[str, ...]] = {
    "dark": ("air", "bone"),
    "fluid": ("csf", "moving_csf", "perilymph", "cyst"),
    "brain": ("white", "grey", "nerve"),
    "vessel": ("artery", "vein"),
    "outside": ("fat", "muscle", "marrow", "gland", "mucosa", "dura", "lesion"),
    "tumour": ("tumour_dense", "tumour_loose"),
}


def group_numbers() -> np.ndarray:
    """Return the place in ``TISSUE_GROUPS`` of each tissue of ``TISSUE_NAMES``, (tissues,) uint8."""
    groups = list(TISSUE_GROUPS.values())
    return np.array([next(i for i, group in enumerate(groups) if name in group) for name in TISSUE_NAMES], np.uint8)


@dataclass(frozen=True)
class TissueMap:
    """Hold a rasterised patient in little memory.

    ``voxels``: uint8 (4, X, Y, Z): number of the commonest tissue, of the second, the first's share of the two in
    255ths, and the label (``LABELS``). ``affine``: 4x4, voxel index to mm, RAS.
    """

    voxels: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, anatomy: Anatomy) -> TissueMap:
        """Return an anatomy's map; a third tissue in a voxel, rare and small, is left out."""
        shape = anatomy.labels["vs"].shape
        first, second = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        most, next_most = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for name, fraction in anatomy.fractions.items():
            number = TISSUE_NAMES.index(name)
            wins = fraction > most
            follows = ~wins & (fraction > next_most)
            second = np.where(wins, first, np.where(follows, number, second)).astype(np.uint8)
            next_most = np.where(wins, most, np.where(follows, fraction, next_most))
            first, most = np.where(wins, number, first).astype(np.uint8), np.where(wins, fraction, most)
        share = np.rint(WHOLE * most / np.maximum(most + next_most, 1e-6)).astype(np.uint8)
        label = np.zeros(shape, np.uint8)
        for name, number in LABELS.items():
            label[anatomy.labels[name]] = number
        return cls(np.stack([first, second, share, label]), anatomy.affine)

    def counts(self) -> list[int]:
        """Return how many voxels each tissue is the commonest of, in the order of ``TISSUE_NAMES``."""
        return np.bincount(self.voxels[FIRST].ravel(), minlength=len(TISSUE_NAMES)).tolist()

    def save(self, path: Path) -> None:
        """Write the voxels as a NumPy file, whole or not at all."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, self.voxels)
