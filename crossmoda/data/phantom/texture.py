"""Smooth random fields in space: the same at a point whatever grid asks for it."""

from __future__ import annotations

import functools

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from crossmoda.data.phantom.shapes import Coordinates

LATTICE = 48  # nodes per axis before the field repeats
NODES_PER_SCALE = 2.0


@functools.lru_cache(maxsize=16)
def _lattice(seed: int, channel: int) -> np.ndarray:
    """Return a periodic, smooth, zero-mean, unit-variance random lattice (LATTICE, LATTICE, LATTICE)."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, channel])))
    nodes = gaussian_filter(rng.standard_normal((LATTICE,) * 3), 1.0, mode="wrap")
    return ((nodes - nodes.mean()) / nodes.std()).astype(np.float32)


def noise(p: Coordinates, scale_mm: float, seed: int, channel: int = 0) -> np.ndarray:
    """Return a smooth random field, about normal with zero mean and unit variance, at the coordinates.

    Args:
        p: coordinates in mm.
        scale_mm: size of the blobs.
        seed: of the patient.
        channel: tells the fields of one patient apart.
    """
    step = scale_mm / NODES_PER_SCALE
    # A per-channel shift keeps the lattice nodes of different fields from coinciding.
    points = np.stack([(axis / step + 5.3 * channel + 0.5).ravel() for axis in p]).astype(np.float32)
    values = map_coordinates(_lattice(seed, channel), points, order=1, mode="grid-wrap", output=np.float32)
    return values.reshape(p[0].shape)
