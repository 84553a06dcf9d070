"""Lengths along the patient's axes, in voxels of a scan's own grid."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor

from crossmoda.data.transforms import file_name_of
from crossmoda.data.volumes import spacing_mm
from crossmoda.errors import CrossmodaError


def lengths_in_voxels(image: torch.Tensor, lengths_mm: Sequence[float]) -> np.ndarray:
    """Return lengths in mm as voxels (not rounded) along each of a volume's own array axes, (3,) float64.

    Args:
        image: (C, X, Y, Z), whose array axes may run in any order and direction; on an oblique grid each takes the
            nearest of the patient's axes.
        lengths_mm: along the patient's x (left-right), y and z.

    Raises:
        CrossmodaError: the volume has no affine, or a singular one; the file is named.
    """
    if not isinstance(image, MetaTensor):
        raise CrossmodaError("a volume without an affine has no lengths in mm; load it with LoadVolumed")
    affine = np.asarray(image.affine, dtype=float)
    world = nib.orientations.io_orientation(affine)[:, 0]
    if not np.isfinite(world).all():
        raise CrossmodaError(f"{file_name_of(image)}: its affine is singular; export the scan again")
    lengths: np.ndarray = np.asarray(lengths_mm, dtype=float)[world.astype(int)] / spacing_mm(affine)
    return lengths
