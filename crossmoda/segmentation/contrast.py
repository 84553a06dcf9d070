"""Where a structure ends, by the image's own contrast: fluid in bone, and solid tumour in fluid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu
from skimage.morphology import isotropic_closing, isotropic_opening

BRIGHTEST_PERCENTILE = 95  # of the component's signal; brighter fluid of the cistern must not move the threshold
RIM_MM = 1.5  # about a structure, what it must stand out from; a wider rim reaches the canal and the vestibule
DARK_PERCENTILE, FLUID_PERCENTILE = 5, 99  # of an hrT2 image's signal: bone and air, and fluid
LEAST_REMAINDER = 0.25  # of a structure's voxels: small tumours are labelled up to four times too large


def refine_by_contrast(
    mask: np.ndarray,
    image: np.ndarray,
    spacing_mm: Sequence[float],
    allowed: np.ndarray,
    shift_mm: float,
    distance_mm: float,
    context_mm: float,
    threshold_share: float,
    closing_mm: float,
) -> np.ndarray:
    """Redraw each component of a bright structure in dark surroundings, such as the fluid of the cochlea in bone.

    Each connected component (26 neighbours) is first moved as a whole, by at most ``shift_mm`` and by whole voxels (so
    not across slices that are thicker), to where it stands out most from its rim. Then Otsu's method parts the voxels
    within ``context_mm`` into dark and bright. Those within ``distance_mm`` of the component whose signal is more than
    ``threshold_share`` of the way from the dark ones' mean to the bright ones' are taken, gaps of up to twice
    ``closing_mm`` are closed, and the part that shares most with the component replaces it, unless its volume is less
    than half or more than twice the component's.

    Args:
        mask: the structure, bool (X, Y, Z).
        image: signal (X, Y, Z) on the same grid, of any scale and offset.
        spacing_mm: of the voxels.
        allowed: where the structure may come to lie, bool (X, Y, Z); the mask itself is always allowed.
        shift_mm: how far a component may be moved as a whole; 0 leaves it in its place.
        distance_mm: how far the border may then move outwards.
        context_mm: how far around a component the signal is looked at.
        threshold_share: from 0 to 1; a voxel that the structure half fills lies at 0.5.
        closing_mm: radius of the closing.

    Returns:
        The redrawn mask, bool (X, Y, Z).
    """
    components, _ = ndimage.label(mask, np.ones((3, 3, 3)))
    reach_mm = max(shift_mm + RIM_MM, shift_mm + max(distance_mm, context_mm) + closing_mm)
    redrawn = np.zeros_like(mask, dtype=bool)
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        near = _grown_box(box, reach_mm, spacing_mm)
        found = components[near] == number
        free = allowed[near] | found
        signal = np.minimum(image[near], np.percentile(image[near][found], BRIGHTEST_PERCENTILE))
        component = _moved_onto_signal(found, signal, free, spacing_mm, shift_mm)
        distance = ndimage.distance_transform_edt(~component, sampling=spacing_mm)
        threshold = _between_dark_and_bright(signal[distance <= context_mm], threshold_share)
        bright = (distance <= distance_mm) & (signal > threshold)
        part = _sharing_most(component, _closed(bright, closing_mm, spacing_mm) & free)
        redrawn[near] |= part if 0.5 <= part.sum() / found.sum() <= 2 else found
    return redrawn


def without_fluid(
    mask: np.ndarray,
    image: np.ndarray,
    spacing_mm: Sequence[float],
    origin: np.ndarray,
    threshold_share: float,
    least_contrast: float,
    least_separation: float,
    small_ml: float,
    smoothing_mm: float,
    opening_mm: float,
) -> np.ndarray:
    """Take away from a solid structure, such as a tumour, the bright fluid about it that was counted in.

    The structure's own signal is the median of its core, the voxels deeper than its median depth; fluid's is the
    image's 99th percentile. What is more than ``threshold_share`` of the way from the one to the other, and connected
    with such voxels outside the mask, is fluid. Taken away are the fluid, what an opening then takes, and what can be
    seen from the deepest point that remains only through fluid: brain beyond the cleft, for one. What lies nearer to
    ``origin`` than that point is not asked to be in sight, because a tumour follows the bent canal that it grows from.
    A cyst that the structure encloses is not connected with the fluid outside, and stays; one at its surface is lost.

    The mask is left as it is where it holds no fluid, where its core is about as bright as fluid or of mixed signal,
    and where less than a quarter of it would remain. In a small structure a mixed core means that fluid fills much of
    the mask, for cystic tumours are large: there the core's darker part (Otsu) counts, if its contrast is twice the
    least.

    Args:
        mask: the structure, bool (X, Y, Z).
        image: signal (X, Y, Z) on the same grid, of any scale and offset, in which fluid is bright, as on hrT2.
        spacing_mm: of the voxels.
        origin: what the structure grows from or beside, bool (X, Y, Z), for a VS the cochlea; may be empty, and then
            nothing is taken for being out of sight.
        threshold_share: from 0 to 1.
        least_contrast: between core and fluid, as a share of what lies between the image's 5th percentile (bone, air)
            and its 99th.
        least_separation: the same contrast in interquartile ranges of the core; below it the core is mixed.
        small_ml: below this volume a structure is small.
        smoothing_mm: standard deviation of the Gaussian that keeps noise out of the border.
        opening_mm: radius of the opening, between voxel centres: it takes what is nowhere deeper than this.

    Returns:
        The remaining mask, bool (X, Y, Z), part of the given one.
    """
    if not mask.any():
        return mask
    reach_mm = 3 * smoothing_mm + opening_mm
    near = _grown_box(ndimage.find_objects(mask.astype(np.uint8))[0], reach_mm, spacing_mm)
    dark, fluid = (float(value) for value in np.percentile(image, [DARK_PERCENTILE, FLUID_PERCENTILE]))
    small = mask.sum() * np.prod(spacing_mm) < 1000 * small_ml
    values = image[near][_deep_part(mask[near], spacing_mm)]
    core = _core_signal(values, dark, fluid, least_contrast, least_separation, small)
    if core is None:
        return mask
    smooth = ndimage.gaussian_filter(image[near].astype(np.float32), [smoothing_mm / size for size in spacing_mm])
    outside = _connected_with_outside(smooth >= core + threshold_share * (fluid - core), mask[near])
    if not (mask[near] & outside).any():
        return mask
    solid = _opened(mask[near] & ~outside, opening_mm, spacing_mm)
    if not solid.any():
        return mask
    centre = np.array(np.unravel_index(np.argmax(_depth(solid, spacing_mm)), solid.shape))
    origin_voxels = np.argwhere(origin) - [part.start for part in near]
    kept = _in_sight(solid, centre, outside, spacing_mm) | _nearer(solid, centre, origin_voxels, spacing_mm)
    components, _ = ndimage.label(_opened(kept, opening_mm, spacing_mm), np.ones((3, 3, 3)))
    number = components[tuple(centre)]
    remaining = np.zeros_like(mask)
    remaining[near] = ndimage.binary_fill_holes((components == number) & (number > 0)) & mask[near]
    return remaining if remaining.sum() >= LEAST_REMAINDER * mask.sum() else mask


def _core_signal(
    values: np.ndarray, dark: float, fluid: float, least_contrast: float, least_separation: float, small: bool
) -> float | None:
    """Return the signal that stands for a structure, given its core's, or ``None`` where fluid is not told apart."""
    lower, middle, upper = np.percentile(values, [25, 50, 75])
    contrast = fluid - middle
    if contrast >= least_contrast * (fluid - dark) and contrast >= least_separation * (upper - lower):
        return float(middle)
    if not small or values.min() == values.max():
        return None
    darker = values[values <= threshold_otsu(values)]
    clearly_darker = fluid - darker.mean() >= 2 * least_contrast * (fluid - dark)
    return float(np.median(darker)) if clearly_darker else None


def _connected_with_outside(bright: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the connected components (26 neighbours) of the bright voxels that reach beyond the mask."""
    components, _ = ndimage.label(bright, np.ones((3, 3, 3)))
    reaching = np.unique(components[bright & ~mask])
    return np.isin(components, reaching[reaching > 0])


def _in_sight(solid: np.ndarray, centre: np.ndarray, fluid: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the part of a mask (X, Y, Z) that straight lines from the centre reach without crossing fluid."""
    voxels = np.argwhere(solid)
    ways = voxels - centre
    longest_mm = float(np.linalg.norm(ways * np.asarray(spacing_mm), axis=1).max())
    steps = int(np.ceil(longest_mm / (0.8 * min(spacing_mm)))) + 1  # nowhere farther apart than the smallest voxel
    seen = np.ones(len(voxels), dtype=bool)
    for share in np.linspace(0, 1, steps + 1)[1:-1]:
        seen &= ~fluid[tuple(np.rint(centre + share * ways).astype(int).T)]
    visible = np.zeros_like(solid)
    visible[tuple(voxels[seen].T)] = True
    return visible


def _nearer(solid: np.ndarray, centre: np.ndarray, origin: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the part of a mask (X, Y, Z) that is nearer than the centre to the nearest of the voxels (N, 3).

    Without such voxels it is the whole mask.
    """
    if not len(origin):
        return solid
    tree = cKDTree(origin * np.asarray(spacing_mm))
    voxels = np.argwhere(solid)
    distances, reach = tree.query(voxels * spacing_mm)[0], tree.query(centre * spacing_mm)[0]
    part = np.zeros_like(solid)
    part[tuple(voxels[distances < reach].T)] = True
    return part


def _depth(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the distance in mm of each voxel of the mask to what is outside; beyond the volume all is outside."""
    return ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]


def _grown_box(box: tuple[slice, ...], by_mm: float, spacing_mm: Sequence[float]) -> tuple[slice, ...]:
    """Return a box of voxels grown by at least this on every side, as far as the volume reaches."""
    margins = [int(np.ceil(by_mm / size)) + 1 for size in spacing_mm]
    return tuple(slice(max(part.start - m, 0), part.stop + m) for part, m in zip(box, margins, strict=True))


def _moved_onto_signal(
    component: np.ndarray, signal: np.ndarray, free: np.ndarray, spacing_mm: Sequence[float], reach_mm: float
) -> np.ndarray:
    """Return the component (X, Y, Z) moved by whole voxels, at most this far, to where it stands out most from its rim.

    What is compared is the correlation of the signal with inside (1) and rim (0), the voxels within ``RIM_MM`` of the
    component. The component may only come to lie where the volume is free. Of equally good places the nearest is taken.
    """
    window = np.argwhere(ndimage.distance_transform_edt(~component, sampling=spacing_mm) <= RIM_MM)
    inside = component[tuple(window.T)]
    reach_mm += 1e-6  # 3 voxels of 0.4 mm are 1.2 mm, whatever floating point makes of them
    steps = [np.arange(-int(reach_mm / size), int(reach_mm / size) + 1) for size in spacing_mm]
    moves = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(moves * np.asarray(spacing_mm), axis=1)
    order = np.argsort(lengths, kind="stable")
    best, best_score = np.zeros(3, int), -np.inf
    for move in moves[order[lengths[order] <= reach_mm]]:
        places = window + move
        held = ((places >= 0) & (places < signal.shape)).all(axis=1)
        places, flags = tuple(places[held].T), inside[held]
        fits = flags.sum() == inside.sum() and free[places][flags].all()
        if fits and (score := _correlation(signal[places], flags)) > best_score + 1e-9:
            best, best_score = move, score
    moved = np.zeros_like(component)
    moved[tuple((window[inside] + best).T)] = True
    return moved


def _correlation(values: np.ndarray, flags: np.ndarray) -> float:
    """Return the correlation of values with flags, 0 where either does not vary."""
    if flags.all() or values.min() == values.max():
        return 0.0
    return float(np.corrcoef(values.astype(np.float64), flags)[0, 1])


def _deep_part(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the voxels of the mask that are deeper than its median depth, or all where none is."""
    depth = _depth(mask, spacing_mm)
    deep = depth > np.median(depth[mask])
    return deep if deep.any() else mask


def _opened(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the mask (X, Y, Z) opened by a ball; beyond the volume all is outside."""
    if _depth(mask, spacing_mm).max() <= radius_mm:  # nothing would be left to grow from
        return np.zeros_like(mask)
    return isotropic_opening(np.pad(mask, 1), radius_mm, spacing=spacing_mm)[1:-1, 1:-1, 1:-1]


def _between_dark_and_bright(signal: np.ndarray, share: float) -> float:
    """Return the signal a share of the way from the mean of Otsu's dark class to that of his bright class."""
    parting = threshold_otsu(signal)
    if not (signal > parting).any():  # no contrast at all
        return float(parting)
    dark, bright = float(signal[signal <= parting].mean()), float(signal[signal > parting].mean())
    return dark + share * (bright - dark)


def _closed(mask: np.ndarray, radius_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return the mask (X, Y, Z) closed by a ball; the volume's edge is no border."""
    if not mask.any():
        return mask
    pads = [(int(np.ceil(radius_mm / size)) + 1,) * 2 for size in spacing_mm]
    inner = tuple(slice(before, before + size) for (before, _), size in zip(pads, mask.shape, strict=True))
    return isotropic_closing(np.pad(mask, pads), radius_mm, spacing=spacing_mm)[inner]


def _sharing_most(component: np.ndarray, redrawn: np.ndarray) -> np.ndarray:
    """Return the connected part of the redrawn mask that shares most with the component, empty if none does."""
    parts, count = ndimage.label(redrawn, np.ones((3, 3, 3)))
    if not count:
        return redrawn
    shared = ndimage.sum_labels(component, parts, range(1, count + 1))
    return (parts == int(np.argmax(shared)) + 1) & (shared.max() > 0)
