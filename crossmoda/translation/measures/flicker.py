"""Whether slices that were translated one by one fit together."""

from __future__ import annotations

import numpy as np

FOREGROUND = -0.9  # above 5 % of the range [-1, 1] is not air
_SMALLEST_SHARE = 0.05  # of a slice's pixels that three neighbouring slices must have in common
_DARK_ENDS = 2  # slices at either end of a slab, which its excitation does not reach fully
_RANGE = 2.0  # of intensities in [-1, 1]
_OF_SECOND_DIFFERENCE = 1.5  # variance of v[z] - (v[z-1] + v[z+1]) / 2 for independent v of variance 1


def brightness_flicker(volume: np.ndarray, foreground: np.ndarray | None = None) -> float | None:
    """Return how much slices jump in brightness against both neighbours.

    For every inner slice, v[z] - (v[z-1] + v[z+1]) / 2 is averaged over the pixels that are foreground on all three;
    anatomy that changes steadily along z cancels, and so does noise. (Averaged over smaller areas, anatomy outweighs
    what a translator adds.) The value is the root mean square over the slices, scaled so that independent offsets of
    the slices give their standard deviation. Two slices at either end are left out: a slab's ends are dark, which is
    no flicker (with them, the synthetic real hrT2 has twice the value).

    Args:
        volume: (X, Y, Z) in [-1, 1].
        foreground: boolean (X, Y, Z); the volume's own voxels above air by default. Give the ceT1's to a translation,
            so that both are judged on the same voxels.

    Returns:
        In shares of the range, 0 (best) to 1; anatomy itself gives more than 0, so compare it with the ceT1's and with
        that of real hrT2. None below seven slices, and where no three have 5 % of their pixels in common.
    """
    inside = volume > FOREGROUND if foreground is None else foreground
    jumps = []
    for z in range(_DARK_ENDS + 1, volume.shape[2] - _DARK_ENDS - 1):
        common = inside[..., z - 1] & inside[..., z] & inside[..., z + 1]
        if common.mean() >= _SMALLEST_SHARE:
            before, here, after = (volume[..., k][common].mean(dtype=np.float64) for k in (z - 1, z, z + 1))
            jumps.append(here - (before + after) / 2)
    if not jumps:
        return None
    return float(np.sqrt(np.mean(np.square(jumps)) / _OF_SECOND_DIFFERENCE)) / _RANGE
