"""How far a structure stands out against what is around it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from crossmoda.translation.measures.masks import ring_about

RING_MM = 3.0  # about the cistern's width beside a tumour, and half a cochlea's
_RANGE = 2.0  # of intensities in [-1, 1]


def structure_contrasts(
    image: np.ndarray, masks: Mapping[str, np.ndarray], spacing_mm: ArrayLike, ring_mm: float = RING_MM
) -> dict[str, float]:
    """Return each structure's contrast: the mean inside less the mean in a ring about it, in shares of the range.

    Args:
        image: (X, Y, Z) in [-1, 1].
        masks: name -> boolean mask (X, Y, Z), not empty; voxels of any structure belong to no ring.
        spacing_mm: edge lengths of a voxel.
        ring_mm: width of the ring.

    Returns:
        Name -> contrast in [-1, 1], positive where the structure is brighter. A structure without a ring is left out.
    """
    occupied = np.logical_or.reduce([np.zeros(image.shape, bool), *masks.values()])
    spacing = np.asarray(spacing_mm, dtype=float)
    rings = {name: ring_about(mask, occupied, spacing, ring_mm) for name, mask in masks.items()}
    return {
        name: float(image[masks[name]].mean(dtype=np.float64) - image[ring].mean(dtype=np.float64)) / _RANGE
        for name, ring in rings.items()
        if ring.any()
    }
