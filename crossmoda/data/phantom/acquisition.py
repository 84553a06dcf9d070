"""What the scanner makes of the signal: slice profile, blur, coil sensitivity, the slab's ends, noise."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import convolve1d, gaussian_filter1d

from crossmoda.data.phantom.protocols import Protocol
from crossmoda.data.phantom.rasterise import Anatomy
from crossmoda.data.phantom.tissues import at_field, with_gadolinium

SLICE_OVERLAP = 0.07  # share of a slice's signal that comes from each neighbour
STORED_WHITE_MATTER = 200.0  # stored value of white matter: images are written as integers


def tissue_signals(anatomy: Anatomy, protocol: Protocol) -> dict[str, float]:
    """Return each tissue's signal under a protocol, with white matter at one."""
    signals = {}
    for name, tissue in anatomy.patient.tissues.items():
        uptake = tissue.gadolinium if protocol.contrast_agent else 0.0
        stained = with_gadolinium(at_field(tissue, protocol.field_t), uptake)
        signals[name] = float(protocol.sequence.signal(stained.t1, stained.t2, stained.pd))
    signals["artery"] *= protocol.artery_flow
    signals["vein"] *= protocol.vein_flow
    return {name: value / signals["white"] for name, value in signals.items()}


def mixed_signal(anatomy: Anatomy, protocol: Protocol) -> np.ndarray:
    """Return the noiseless signal (X, Y, Z), each voxel the sum of its tissues by their share; white matter is one."""
    signals = tissue_signals(anatomy, protocol)
    image = np.zeros(next(iter(anatomy.fractions.values())).shape, np.float32)
    for name, fraction in anatomy.fractions.items():
        image += np.float32(signals[name]) * fraction
    return image


def acquire(signal: np.ndarray, protocol: Protocol, rng: np.random.Generator) -> np.ndarray:
    """Return the image (X, Y, Z), float32 >= 0, that a protocol yields from the noiseless signal.

    Slice profile, in-plane blur, receive field, then Rician noise: the magnitude of a complex signal with independent
    normal noise in both channels (H. Gudbjartsson and S. Patz, MRM 34, 1995).
    """
    image = convolve1d(signal, [SLICE_OVERLAP, 1 - 2 * SLICE_OVERLAP, SLICE_OVERLAP], axis=2, mode="nearest")
    for axis in (0, 1):
        image = gaussian_filter1d(image, protocol.point_spread, axis=axis, truncate=3, mode="nearest")
    image *= bias_field(image.shape, protocol.bias, rng)
    if protocol.slab_fade:
        image *= slab_profile(image.shape[2], protocol.spacing_mm[2], rng)
    return STORED_WHITE_MATTER * add_rician_noise(image, 1 / protocol.signal_to_noise, rng)


def add_rician_noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return the magnitude of the image with normal noise of standard deviation ``sigma`` in each channel."""
    real = image + np.float32(sigma) * rng.standard_normal(image.shape, np.float32)
    imaginary = np.float32(sigma) * rng.standard_normal(image.shape, np.float32)
    return np.sqrt(real**2 + imaginary**2)


def bias_field(shape: tuple[int, ...], amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth receive field about 1 (X, Y, Z): the exponential of a random quadratic in the coordinates."""
    x, y, z = np.ogrid[tuple(slice(-1, 1, complex(0, max(n, 2))) for n in shape)]
    x, y, z = x[: shape[0]], y[:, : shape[1]], z[:, :, : shape[2]]
    c = (rng.normal(0, amplitude / 2, 9)).astype(np.float32)
    plane = c[0] * x + c[1] * y + c[3] * x * y + c[4] * x**2 + c[5] * y**2
    return np.exp(plane + c[2] * z + c[6] * z**2 + c[7] * x * z + c[8] * y * z).astype(np.float32)


def slab_profile(slices: int, thickness_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return the excitation profile along z (Z,): one inside the slab, falling over its outermost few mm."""
    edge = rng.uniform(1.0, 4.0, 2)
    position = (np.arange(slices) + 0.5) * thickness_mm
    rise = np.clip(0.35 + position / edge[0], 0, 1)
    fall = np.clip(0.35 + (slices * thickness_mm - position) / edge[1], 0, 1)
    return (rise * fall).astype(np.float32)


def render(anatomy: Anatomy, protocol: Protocol, rng: np.random.Generator) -> np.ndarray:
    """Return the image (X, Y, Z), float32 >= 0, of a rasterised patient; axis 2 is the slice direction.

    The same anatomy rendered under a ceT1 and an hrT2 protocol gives the true pair that translation tries to find.
    """
    return acquire(mixed_signal(anatomy, protocol), protocol, rng)
