"""Dice and surface distances of one structure in one case, as the challenge measures them (recipes.md 0.5).

Surfaces are those of medpy: the voxels of a mask that erosion with the six-neighbourhood removes, voxels at the edge of
the array included. Distances run between voxel centres in millimetres. Nearest neighbours come from a k-d tree over the
surface voxels, which gives the same double-precision values as a distance transform of the whole volume and does not
slow down when a false positive lies far from the truth.

Which ASSD: ``assd`` pools the distances of both directions before averaging, as medpy does since 0.5 and as the
literature defines it. Until 0.4, the release of the years in which the challenge published its figures, medpy averaged
the two directed means instead; that value is kept as ``assd_2022``. They differ where the surfaces differ in size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from scipy.spatial import cKDTree

PENALTY_MM = 350.0  # the challenge's distance for a structure that was not found
METRICS = ("dice", "assd", "hd95")  # what is ranked, compared and tabled
HIGHER_IS_BETTER = {"dice": True, "assd": False, "hd95": False}
BOUNDARY = "boundary"  # the interface between the intra- and the extra-meatal part (2023)


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice coefficient of two boolean masks of one shape, in [0, 1]; 1 when both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2.0 * np.count_nonzero(prediction & truth) / total if total else 1.0


def surface_points_mm(mask: np.ndarray, spacing_mm: ArrayLike) -> np.ndarray:
    """Return the surface voxels of a boolean mask as points (N, dimensions) in mm, along the array's own axes."""
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return np.empty((0, mask.ndim))
    inside = mask[box[0]]
    surface = inside ^ ndimage.binary_erosion(inside)
    corner = [side.start for side in box[0]]
    return (np.argwhere(surface) + corner) * np.asarray(spacing_mm, dtype=float)


def interface_points_mm(first: np.ndarray, second: np.ndarray, spacing_mm: ArrayLike) -> np.ndarray:
    """Return the voxels of either mask that share a face with the other, as points (N, dimensions) in mm.

    The challenge of 2023 measured the boundary between the two parts of the tumour without publishing how; this is the
    symmetric reading of it, independent of which part is named first.
    """
    touching = (ndimage.binary_dilation(first) & second) | (ndimage.binary_dilation(second) & first)
    return np.argwhere(touching) * np.asarray(spacing_mm, dtype=float)


def distances_between(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return ``assd``, ``assd_2022`` and ``hd95`` in mm between two sets of surface points (N, dimensions).

    One set empty: 350 mm each, the challenge's penalty. Both empty: 0 mm, since nothing was to be found and nothing was
    claimed; the challenge has no such case for VS and cochlea, but a 2023 scan may lack one part of the tumour.
    """
    if not len(prediction) and not len(truth):
        return {"assd": 0.0, "assd_2022": 0.0, "hd95": 0.0}
    if not len(prediction) or not len(truth):
        return {"assd": PENALTY_MM, "assd_2022": PENALTY_MM, "hd95": PENALTY_MM}
    forth = cKDTree(truth).query(prediction)[0]
    back = cKDTree(prediction).query(truth)[0]
    both = np.concatenate([forth, back])
    return {
        "assd": float(both.mean()),
        "assd_2022": float((forth.mean() + back.mean()) / 2),
        "hd95": float(np.percentile(both, 95)),
    }


def structure_scores(prediction: np.ndarray, truth: np.ndarray, spacing_mm: ArrayLike) -> dict[str, float]:
    """Return every metric of one structure in one case.

    Args:
        prediction: boolean mask (X, Y, Z).
        truth: boolean mask of the same shape.
        spacing_mm: edge lengths of a voxel. The challenge takes the absolute diagonal of the affine; column norms are
            the same for its axis-aligned scans and stay right for oblique ones.

    Returns:
        ``dice`` in [0, 1]; ``assd``, ``assd_2022`` and ``hd95`` in mm; ``volume_mm3`` and ``truth_volume_mm3``.
        Prediction empty (or truth alone empty): Dice 0 and 350 mm. Both empty: Dice 1 and 0 mm.
    """
    voxel_mm3 = float(np.prod(np.asarray(spacing_mm, dtype=float)))
    return {
        "dice": dice(prediction, truth),
        **distances_between(surface_points_mm(prediction, spacing_mm), surface_points_mm(truth, spacing_mm)),
        "volume_mm3": np.count_nonzero(prediction) * voxel_mm3,
        "truth_volume_mm3": np.count_nonzero(truth) * voxel_mm3,
    }


def boundary_scores(
    prediction: tuple[np.ndarray, np.ndarray], truth: tuple[np.ndarray, np.ndarray], spacing_mm: ArrayLike
) -> dict[str, float]:
    """Return ``assd``, ``assd_2022`` and ``hd95`` in mm of the interface between intra- and extra-meatal tumour.

    Args:
        prediction: boolean masks (X, Y, Z) of the two parts.
        truth: the same two parts, in the same order.
        spacing_mm: edge lengths of a voxel.
    """
    return distances_between(interface_points_mm(*prediction, spacing_mm), interface_points_mm(*truth, spacing_mm))
