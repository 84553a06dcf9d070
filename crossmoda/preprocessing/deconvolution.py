"""Van Cittert deconvolution: a scan made sharper by undoing a known Gaussian blur, a few steps of the way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Transform
from monai.utils import convert_to_dst_type
from scipy.fft import dctn, idctn

from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing.each_key import EachKeyd
from crossmoda.preprocessing.intensity import require_contrast
from crossmoda.preprocessing.lengths import lengths_in_voxels

VS_SIGMA_MM = (1.0, 1.0, 2.5)  # card B, for the VS
COCHLEA_SIGMA_MM = (0.4, 0.4, 1.5)  # card B, for the last inference of the cochlea


class VanCittertDeconvolution(Transform):
    """Sharpen a scan by Van Cittert's iteration: f_0 = g and f_(k+1) = f_k + relaxation (g - h * f_k).

    g is the scan and h a Gaussian point spread function (P. H. van Cittert, Zeitschrift fuer Physik 69, 1931). At
    relaxation 1, k steps amplify a frequency that h passes with the factor H by (1 - (1 - H)^(k+1)) / H: nearly 1 / H
    where H is large, and never more than k + 1, so that few steps spare the noise. Beyond its ends the scan is
    mirrored, so that in its cosine transform all steps are one multiplication.

    Card B (Salle 2022) gives the sizes below and 15 iterations. It leaves open, and this is ours: that the sizes in mm
    are standard deviations, a relaxation of 1, and the clipping to the scan's own range at the end, which takes off the
    overshoot beside strong edges. Also ours is where to use it: on pseudo-hrT2 that a VS segmenter learns from and on
    the real hrT2 that it then labels, alike; not on what a translator is given. Not random, not invertible.

    Args:
        sigma_mm: standard deviation of h along the patient's x (left-right), y and z, above 0. The array's axes may run
            in any order and direction; on an oblique grid each takes the size of the nearest of the three.
        iterations: number of steps, 0 or more.
        relaxation: above 0 and below 2, where the iteration converges.

    Raises:
        CrossmodaError: at construction, a value out of range; at a call, a volume without an affine, with NaN voxels,
            or with one value throughout; the file is named.
    """

    def __init__(self, sigma_mm: Sequence[float] = VS_SIGMA_MM, iterations: int = 15, relaxation: float = 1.0) -> None:
        self.sigma_mm = tuple(float(sigma) for sigma in sigma_mm)
        self.iterations = int(iterations)
        self.relaxation = float(relaxation)
        if len(self.sigma_mm) != 3 or not all(0 < sigma < np.inf for sigma in self.sigma_mm):
            raise CrossmodaError(f"sigma_mm {list(sigma_mm)}: give three positive lengths (x, y, z), in mm")
        if self.iterations != iterations or iterations < 0:
            raise CrossmodaError(f"iterations {iterations}: give a whole number from 0 up")
        if not 0 < self.relaxation < 2:
            raise CrossmodaError(f"relaxation {relaxation}: it must lie above 0 and below 2")

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the sharpened volume, float32 (C, X, Y, Z), within the range of the input and with its metadata.

        Two volumes of one channel are held at a time beside input and output.
        """
        blurred = require_contrast(image)
        sigma = self.sigma_voxels(image)
        sharp = np.stack([self._deconvolve(channel, sigma) for channel in blurred])
        result: torch.Tensor = convert_to_dst_type(sharp, image, dtype=torch.float32)[0]
        return result

    def sigma_voxels(self, image: torch.Tensor) -> tuple[float, float, float]:
        """Return the standard deviation along each of the image's own array axes, in voxels."""
        sizes = lengths_in_voxels(image, self.sigma_mm)
        return float(sizes[0]), float(sizes[1]), float(sizes[2])

    def _deconvolve(self, blurred: np.ndarray, sigma: tuple[float, float, float]) -> np.ndarray:
        """Return one channel (X, Y, Z) deconvolved; ``sigma`` in voxels."""
        gain = self._amplification(blurred.shape, sigma)
        spectrum = dctn(blurred, norm="ortho", workers=-1)
        spectrum *= gain
        del gain
        sharp = idctn(spectrum, norm="ortho", workers=-1, overwrite_x=True)
        return np.clip(sharp, blurred.min(), blurred.max(), out=sharp)

    def _amplification(self, shape: tuple[int, ...], sigma: tuple[float, float, float]) -> np.ndarray:
        """Return what all steps multiply each frequency of a cosine transform by, float32 (X, Y, Z).

        With relaxation r and n steps: (1 - r H)^n + (1 - (1 - r H)^n) / H, that is the sum of r (1 - r H)^k for k < n,
        and (1 - r H)^n; the sum, by Horner's rule, also where H is 0.
        """
        x, y, z = (_response(size, width) for size, width in zip(shape, sigma, strict=True))
        left = (x[:, None, None] * y[:, None]).astype(np.float32) * z.astype(np.float32)
        left *= np.float32(-self.relaxation)
        left += 1
        gain = np.ones_like(left)
        for _ in range(self.iterations):
            gain *= left
            gain += np.float32(self.relaxation)
        return gain


def _response(size: int, sigma: float) -> np.ndarray:
    """Return how much of each frequency of a cosine transform (DCT-II) a Gaussian of ``sigma`` voxels passes."""
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    kernel[1:] *= 2  # both sides
    kernel /= kernel.sum()
    angles = np.pi * np.outer(np.arange(size), np.arange(reach + 1)) / size
    return np.asarray(np.cos(angles) @ kernel)


class VanCittertDeconvolutiond(EachKeyd):
    """Dictionary twin of ``VanCittertDeconvolution``; each key by its own affine."""

    def __init__(
        self,
        keys: KeysCollection,
        sigma_mm: Sequence[float] = VS_SIGMA_MM,
        iterations: int = 15,
        relaxation: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, VanCittertDeconvolution(sigma_mm, iterations, relaxation), allow_missing_keys)
