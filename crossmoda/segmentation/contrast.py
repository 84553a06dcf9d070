"""Where a structure ends, by the image's own contrast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

BRIGHTEST_PERCENTILE = (
    95  # of the component's signal; what is brighter (the cistern's fluid) must not move the threshold
)


def refine_by_contrast(
    mask: np.ndarray,
    image: np.ndarray,
    spacing_mm: Sequence[float],
    allowed: np.ndarray,
    distance_mm: float,
    context_mm: float,
    threshold_share: float,
    closing_mm: float,
) -> np.ndarray:
    """Redraw each component of a bright structure in dark surroundings, such as the fluid of the cochlea in bone.

    For each connected component (26 neighbours), Otsu's method parts the voxels within ``context_mm`` into dark and
    bright. Those within ``distance_mm`` of the component whose signal is more than ``threshold_share`` of the way from
    the dark ones' mean to the bright ones' are taken, gaps of up to twice ``closing_mm`` are closed, and the part that
    shares most with the component replaces it, unless its volume is less than half or more than twice the component's.

    Args:
        mask: the structure, bool (X, Y, Z).
        image: signal (X, Y, Z) on the same grid, of any scale and offset.
        spacing_mm: of the voxels.
        allowed: where the structure may come to lie, bool (X, Y, Z); the mask itself is always allowed.
        distance_mm: how far the border may move outwards.
        context_mm: how far around a component the signal is looked at.
        threshold_share: from 0 to 1; a voxel that the structure half fills lies at 0.5.
        closing_mm: radius of the closing.

    Returns:
        The redrawn mask, bool (X, Y, Z).
    """
    components, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    margin = [int(np.ceil((max(distance_mm, context_mm) + closing_mm) / size)) + 1 for size in spacing_mm]
    redrawn = np.zeros_like(mask, dtype=bool)
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        near = tuple(slice(max(part.start - m, 0), part.stop + m) for part, m in zip(box, margin, strict=True))
        component = components[near] == number
        distance = ndimage.distance_transform_edt(~component, sampling=spacing_mm)
        signal = np.minimum(image[near], np.percentile(image[near][component], BRIGHTEST_PERCENTILE))
        threshold = _between_dark_and_bright(signal[distance <= context_mm], threshold_share)
        bright = (distance <= distance_mm) & (signal > threshold)
        closed = _closed(bright, closing_mm, spacing_mm) & (allowed[near] | component)
        redrawn[near] |= _in_place_of(component, closed)
    return redrawn


def _between_dark_and_bright(signal: np.ndarray, share: float) -> float:
    """Return the signal a share of the way from the mean of Otsu's dark class to that of his bright class."""
    parting = threshold_otsu(signal)
    if not (signal > parting).any():  # no contrast at all
        return float(parting)
    dark, bright = float(signal[signal <= parting].mean()), float(signal[signal > parting].mean())
    return dark + share * (bright - dark)


def _closed(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the mask grown and then shrunk by a ball; the volume's edge is no border."""
    if not mask.any():
        return mask
    pads = [(int(np.ceil(radius_mm / size)) + 1,) * 2 for size in spacing_mm]
    grown = ndimage.distance_transform_edt(~np.pad(mask, pads), sampling=spacing_mm) <= radius_mm
    shrunk = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > radius_mm
    inner = tuple(slice(before, before + size) for (before, _), size in zip(pads, mask.shape, strict=True))
    return shrunk[inner] | mask


def _in_place_of(component: np.ndarray, redrawn: np.ndarray) -> np.ndarray:
    """Return the part of the redrawn mask that shares most with the component, or the component if that is no match."""
    parts, count = ndimage.label(redrawn, np.ones((3, 3, 3)))
    if not count:
        return component
    shared = ndimage.sum_labels(component, parts, range(1, count + 1))
    best = parts == int(np.argmax(shared)) + 1
    return best if shared.max() > 0 and 0.5 <= best.sum() / component.sum() <= 2 else component
