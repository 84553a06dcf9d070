"""What is uneven in a scan without being drawn in a map: bone and soft tissue outside the skull, and moving fluid."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

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


def filled(tissues: Collection[str], share: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how much of each voxel (X, Y, Z) is one of these tissues, 0 to 1, float32; see ``add_clutter``."""
    one_of = np.array([name in tissues for name in TISSUE_NAMES], np.float32)
    return share * one_of[first] + (1 - share) * one_of[second]
