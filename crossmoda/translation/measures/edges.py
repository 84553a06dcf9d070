"""How much of a label's edge an image shows: the structure's border must survive the translation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import convolve, gaussian_filter, map_coordinates, minimum_filter
from skimage.measure import find_contours

from crossmoda.translation.measures.masks import box_about

SMALLEST_STEP = 0.05  # of intensities in [-1, 1]: an edge between tissues that differ by less counts as none
_NOISE_FACTOR = 3.0  # noise alone exceeds this many of its standard deviations in 1 % of the voxels
_FOREGROUND = -0.9  # above 5 % of the range [-1, 1] is not air
_MARGIN_VOXELS = 8  # about a structure's box: more than smoothing and gradient reach
_NOISE_KERNEL = np.array([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]])  # blind to edges along x and y
_MEDIAN_OF_NORMAL = 0.6744897501960817  # median absolute value of a standard normal variable


def edge_survival(image: np.ndarray, mask: np.ndarray, spacing_mm: ArrayLike) -> float | None:
    """Return how much of a structure's border is an edge of the image, slice by slice in plane.

    All along the structure's outline the direction of the image's gradient is compared with the outline's normal: by
    cos(2 angle), which is 1 where the gradient is along the normal (whichever side is brighter), -1 where it runs along
    the outline, and 0 on average for directions drawn at random. Where the gradient does not exceed the image's noise,
    or that of a step of 0.05, the value is 0. What comes out is the mean over the outline's length. Gradients are taken
    in mm, at the scale of one voxel (the longer in-plane side).

    Args:
        image: (X, Y, Z) in [-1, 1].
        mask: of the structure, boolean (X, Y, Z).
        spacing_mm: edge lengths of a voxel.

    Returns:
        0: there is no edge along the border; 1: everywhere (best). Down to -1 where edges cross the border. None for an
        empty mask, or one that fills the image in plane.
    """
    spacing = np.asarray(spacing_mm, dtype=float)
    if not mask.any():
        return None
    threshold = gradient_threshold(image, spacing)
    box = box_about(mask, (_MARGIN_VOXELS, _MARGIN_VOXELS, 0))
    image, mask = image[box], mask[box]
    shown = np.flatnonzero(mask.any(axis=(0, 1)))
    sums = np.array([_slice_sums(image[..., z], mask[..., z], spacing, threshold) for z in shown])
    agreement, length = sums.sum(axis=0)
    return float(agreement / length) if length else None


def _slice_sums(image: np.ndarray, mask: np.ndarray, spacing: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return the agreement summed along a slice's outline, and the outline's length in mm; images are (X, Y)."""
    points, lengths_mm = outline_points(mask, spacing)
    normal, gradient = (
        np.stack(
            [map_coordinates(component, points.T, order=1, mode="nearest") for component in _gradient(array, spacing)]
        )
        for array in (mask, image)
    )
    sizes = [np.hypot(*vectors) for vectors in (normal, gradient)]
    counted = (sizes[1] > threshold) & (sizes[0] > 0)
    cosine = (normal * gradient).sum(axis=0)[counted] / (sizes[0] * sizes[1])[counted]
    return float(((2 * cosine**2 - 1) * lengths_mm[counted]).sum()), float(lengths_mm.sum())


def outline_points(mask: np.ndarray, spacing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the outline of a mask (X, Y) as points (N, 2) in voxels and the length in mm that each stands for.

    The outline runs half-way between voxel centres inside and outside; the edge of the array is no part of it.
    """
    pieces = find_contours(mask.astype(float), 0.5)
    points = [np.empty((0, 2)), *((piece[1:] + piece[:-1]) / 2 for piece in pieces)]
    lengths = [np.empty(0), *(np.hypot(*(np.diff(piece, axis=0) * spacing[:2]).T) for piece in pieces)]
    return np.concatenate(points), np.concatenate(lengths)


def _gradient(array: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the gradient (2, X, Y) per mm of an array (X, Y), at the scale of one voxel."""
    sigma = spacing[:2].max() / spacing[:2]
    return np.stack(np.gradient(gaussian_filter(array.astype(float), sigma, mode="nearest"), *spacing[:2]))


def gradient_threshold(image: np.ndarray, spacing_mm: np.ndarray) -> float:
    """Return the gradient per mm that an image (X, Y, Z) must exceed to show an edge."""
    sigma_mm = spacing_mm[:2].max()
    smallest = SMALLEST_STEP / (np.sqrt(2 * np.pi) * sigma_mm)  # where a smoothed step is steepest
    impulse = np.zeros((17, 17))
    impulse[8, 8] = 1.0
    response = _gradient(impulse, spacing_mm)
    noise = noise_deviation(image) * float(np.sqrt((response**2).sum(axis=(1, 2)).max()))
    return float(max(smallest, _NOISE_FACTOR * noise))


def noise_deviation(image: np.ndarray) -> float:
    """Return an image's (X, Y, Z) noise as a standard deviation, from the tissue's finest differences in plane.

    J. Immerkaer's kernel (CVIU 64, 1996) with the median instead of the mean, so that edges matter less.
    """
    tissue = minimum_filter(image, (3, 3, 1)) > _FOREGROUND
    if not tissue.any():
        return 0.0
    response = convolve(image.astype(np.float32), _NOISE_KERNEL[..., None].astype(np.float32), mode="nearest")
    norm = float(np.sqrt((_NOISE_KERNEL**2).sum()))
    return float(np.median(np.abs(response[tissue]))) / (_MEDIAN_OF_NORMAL * norm)
