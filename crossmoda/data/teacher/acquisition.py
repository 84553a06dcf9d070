"""What a scanner makes of a rendered region: blur, thick slices, receive field, ghosts, folds, noise, saturation."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch.nn import functional as F

from crossmoda.data.phantom.acquisition import add_rician_noise, bias_field

TEXTURE_MM = (0.5, 5.0)  # size of the grains that tissues are made of
THICK_MM = (2.0, 6.0)  # slices, thicker than those of the map
THICK_ALONG = (0.25, 0.25, 0.5)  # how often along x (sagittal), y (coronal) and z (axial)


def grains(
    shape: tuple[int, ...],
    spacing_mm: np.ndarray,
    rng: np.random.Generator,
    size_mm: tuple[float, float] = TEXTURE_MM,
) -> np.ndarray:
    """Return smooth noise (X, Y, Z), float32, of unit variance, of grains of a size drawn from a range in mm."""
    size = float(np.exp(rng.uniform(*np.log(size_mm))))
    coarse = np.maximum(np.ceil(np.asarray(shape) * spacing_mm / max(size, 1e-3)).astype(int), 2)
    coarse = np.minimum(coarse, shape)
    field = rng.standard_normal(tuple(coarse), np.float32)
    if tuple(coarse) == tuple(shape):
        return field
    # SciPy's zoom gives the same, with which a patch takes 0.15 s instead of 0.10 s.
    fine = F.interpolate(torch.from_numpy(field)[None, None], size=shape, mode="trilinear")[0, 0].numpy()
    spread = np.prod([_interpolated_variance(*pair) for pair in zip(coarse, shape, strict=True)])
    return fine * np.float32(spread**-0.5)


def _interpolated_variance(nodes: int, voxels: int) -> float:
    """Return the mean variance along an axis of noise of unit variance at its nodes: less between two than at one."""
    places = np.clip((np.arange(voxels) + 0.5) * nodes / voxels - 0.5, 0, nodes - 1)
    nearer = places - np.floor(places)
    return float(np.mean((1 - nearer) ** 2 + nearer**2))


def draw_acquisition(
    image: np.ndarray,
    spacing_mm: np.ndarray,
    unit: float,
    rng: np.random.Generator,
    faults: bool = True,
    thick_share: float = 0.0,
) -> np.ndarray:
    """Return the image (X, Y, Z), float32 >= 0, as a scanner of drawn faults stores it; axis 2 holds the slices.

    Args:
        image: the noiseless signal; changed in place.
        spacing_mm: of the voxels.
        unit: a typical tissue's signal, which noise is relative to.
        rng: the only source of randomness.
        faults: False leaves out ghosts, folded edges and saturation.
        thick_share: of scans in thick slices of any direction, see ``draw_thick_slices``.
    """
    image = gaussian_filter1d(image, float(rng.uniform(0.2, 0.6)), axis=2, truncate=2, mode="nearest")
    in_plane = float(rng.uniform(0.3, 1.0))
    for axis in (0, 1):
        image = gaussian_filter1d(image, in_plane, axis=axis, truncate=2, mode="nearest")
    image *= bias_field(image.shape, float(rng.uniform(0, 0.3)), rng)
    if faults:
        image = _with_faults(image, rng)
    shape = image.shape
    if thick_share > 0 and rng.random() < thick_share:
        image = resized(image, draw_thick_slices(shape, spacing_mm, rng), "area")
    ratio = float(np.exp(rng.uniform(np.log(4), np.log(40))))
    noise_size = float(rng.uniform(0.4, 0.9)) if rng.random() < 0.5 else 0.0
    noisy = add_noise(image, unit / ratio, noise_size, rng)
    return resized(noisy, shape, "trilinear")  # as a scan is brought to the working space


def draw_thick_slices(shape: tuple[int, ...], spacing_mm: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
    """Return a region's voxels (x, y, z) in slices ``THICK_MM`` thick along an axis drawn by ``THICK_ALONG``.

    Where the region's voxels are thicker themselves, or it is thinner than two such slices, they are left as they are.

    Args:
        shape: voxels (X, Y, Z) of the region.
        spacing_mm: of these voxels.
        rng: the only source of randomness.
    """
    axis = int(rng.choice(3, p=THICK_ALONG))
    thick = float(np.exp(rng.uniform(*np.log(THICK_MM))))
    slices = round(shape[axis] * float(spacing_mm[axis]) / thick)
    return tuple(slices if n == axis and 2 <= slices < size else size for n, size in enumerate(shape))


def resized(image: np.ndarray, shape: tuple[int, ...], mode: str) -> np.ndarray:
    """Return an image (X, Y, Z), float32, with as many voxels along each axis over the same extent.

    Args:
        image: of any number of voxels.
        shape: voxels along each axis of the result.
        mode: PyTorch's, such as area (means over thicker voxels) or trilinear.
    """
    if tuple(shape) == image.shape:
        return image
    whole = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    return F.interpolate(whole, size=tuple(shape), mode=mode)[0, 0].numpy()


def add_noise(image: np.ndarray, deviation: float, size: float, rng: np.random.Generator) -> np.ndarray:
    """Return the magnitude (X, Y, Z), float32, of an image with complex Gaussian noise in it.

    Images that were interpolated from fewer lines of k-space, as most are, have noise that is alike in neighbouring
    voxels of a slice.

    Args:
        image: at least 0.
        deviation: of the noise in each channel, in the image's unit.
        size: standard deviation in voxels of the blur of the noise in plane; 0 leaves it white.
        rng: the only source of randomness.
    """
    if size == 0:
        return add_rician_noise(image, deviation, rng)
    channels = []
    for _ in range(2):
        noise = rng.standard_normal(image.shape, np.float32)
        for axis in (0, 1):
            noise = gaussian_filter1d(noise, size, axis=axis, truncate=2, mode="wrap")
        channels.append(noise * np.float32(deviation / max(float(noise.std()), 1e-6)))
    return np.hypot(image + channels[0], channels[1])


def _with_faults(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.12:
        image = with_ghost(image, int(rng.integers(2)), float(rng.uniform(0.03, 0.15)), float(rng.uniform(0.1, 0.5)))
    if rng.random() < 0.06:
        image = with_ghost(image, int(rng.integers(3)), float(rng.uniform(0.1, 0.4)), 0.5)  # a fold, from far away
    if rng.random() < 0.3:  # stored or windowed by software that cuts off the brightest
        np.minimum(image, np.percentile(image, rng.uniform(95, 99.8)), out=image)
    return image


def with_ghost(image: np.ndarray, axis: int, strength: float, shift: float) -> np.ndarray:
    """Return the image with a weaker copy of itself, shifted along an axis by a share of its length and wrapped round.

    Movement between the lines of k-space makes such copies along the phase-encoding axis; half a field of view away
    they look like anatomy folded in from outside.
    """
    return image + np.float32(strength) * np.roll(image, max(1, round(shift * image.shape[axis])), axis=axis)
