"""What is uneven in a scan without being drawn in a map: bone, soft tissue, moving fluid, a tumour's outer layer."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from scipy.ndimage import gaussian_filter1d

from crossmoda.data.teacher.acquisition import grains
from crossmoda.data.teacher.contrast import Contrast
from crossmoda.data.teacher.tissue_maps import TISSUE_NAMES

CLUTTERED = ("air", "bone", "marrow", "fat", "muscle", "gland", "mucosa", "vein")
ZONE_MM = (12.0, 40.0)  # size of the parts of a scan that have any
PIECE_MM = (0.8, 5.0)
MOST_LAYERS = 2
MOVING = ("csf", "moving_csf")
MOVING_SHARE = 0.5  # of scans in which fluid moved
STREAK_MM = (0.6, 4.0)
LONGEST_STREAK = 3.0  # along an axis, times its width
LAYERED_SHARE = 0.4  # of tumours
LAYER_MM = (0.4, 1.6)
LAYER_FACTOR = (0.3, 1.2)  # of the tumour's signal


def add_clutter(
    signal: np.ndarray,
    share: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    contrast: Contrast,
    spacing_mm: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the signal with pieces of another brightness wherever a voxel's tissue is one of ``CLUTTERED``.

    A real mastoid, skull base or neck has hundreds of pieces that no map draws one by one. A network that never saw
    any takes them for a tumour. There are none to ``MOST_LAYERS`` layers, each of one brightness.

    Args:
        signal: (X, Y, Z), at least 0.
        share: of the first tissue in each voxel, 0 to 1.
        first: number of each voxel's commonest tissue.
        second: number of its second.
        contrast: of the scan; no piece is brighter than its brightest tissue.
        spacing_mm: of the voxels.
        rng: the only source of randomness.
    """
    room = filled(CLUTTERED, share, first, second)
    for _ in range(int(rng.integers(MOST_LAYERS + 1))):
        level = float(rng.uniform(0, 1)) * float(contrast.signal.max())
        zone = grains(signal.shape, spacing_mm, rng, ZONE_MM) > rng.normal(0, 0.3)
        field = grains(signal.shape, spacing_mm, rng, PIECE_MM)
        pieces = zone & (field > field.std() * rng.uniform(-0.5, 1.5))
        signal = signal + pieces * room * (np.float32(level) - signal)
    return signal


def move_fluid(
    signal: np.ndarray,
    share: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    spacing_mm: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the signal in which, in ``MOVING_SHARE`` of scans, cerebrospinal fluid has lost some of it in streaks.

    Fluid that pulses in a cistern is mottled and streaked on real hrT2. A network that knew fluid as smooth alone takes
    such a cistern for a tumour.

    Args:
        signal: (X, Y, Z), at least 0.
        share: of the first tissue in each voxel, 0 to 1.
        first: number of each voxel's commonest tissue.
        second: number of its second.
        spacing_mm: of the voxels.
        rng: the only source of randomness.
    """
    if rng.random() >= MOVING_SHARE:
        return signal
    zone = grains(signal.shape, spacing_mm, rng, ZONE_MM) > rng.normal(0, 0.5)
    streaks = grains(signal.shape, spacing_mm / rng.uniform(1, LONGEST_STREAK, 3), rng, STREAK_MM)
    lost = np.float32(rng.uniform(0.2, 0.9)) * np.clip(streaks + np.float32(rng.uniform(-0.5, 1)), 0, 1)
    return signal * (1 - zone * lost * filled(MOVING, share, first, second))


def add_outer_layer(
    signal: np.ndarray, tumour: np.ndarray, spacing_mm: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the signal with a tumour's outermost layer mostly darker than its inside, in ``LAYERED_SHARE`` of scans.

    A capsule, compact tissue about a loose core, the dura and nerves that the tumour has spread over itself, blood's
    remains: a reader counts them as tumour, and a network that only saw tumours alike to their edge leaves them out.
    The layer fades inwards, over ``LAYER_MM``.

    Args:
        signal: (X, Y, Z), at least 0.
        tumour: mask (X, Y, Z).
        spacing_mm: of the voxels.
        rng: the only source of randomness.
    """
    if rng.random() >= LAYERED_SHARE or not tumour.any():
        return signal
    width = float(rng.uniform(*LAYER_MM))
    factor = np.float32(np.exp(rng.uniform(*np.log(LAYER_FACTOR))))
    inside = tumour.astype(np.float32)
    for axis, step in enumerate(spacing_mm):  # a half at a flat surface, 0.9 as deep as 1.28 standard deviations
        inside = gaussian_filter1d(inside, width / 1.28 / float(step), axis=axis, truncate=2.5, mode="nearest")
    layer = tumour * np.clip((0.9 - inside) / 0.4, 0, 1)
    return signal * (1 - layer * (1 - factor))


def filled(tissues: Collection[str], share: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how much of each voxel (X, Y, Z) is one of these tissues, 0 to 1, float32; see ``add_clutter``."""
    one_of = np.array([name in tissues for name in TISSUE_NAMES], np.float32)
    return share * one_of[first] + (1 - share) * one_of[second]
