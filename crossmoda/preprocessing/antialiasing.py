"""What is finer than a network's voxels is averaged before it is resampled, not skipped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Transform
from monai.utils import TransformBackends, convert_to_dst_type
from scipy import ndimage

from crossmoda.data.volumes import spacing_mm as spacing_of
from crossmoda.preprocessing.each_key import EachKeyd

# Linear interpolation reads two voxels along an axis. Scans up to this many times as fine lose little by that and stay
# as they are; crossMoDA's are at most 1.5 times as fine as the working spacing.
LARGEST_RATIO = 2.5


class SmoothFiner(Transform):
    """Blur a scan along the axes in which its voxels are far smaller than those it is about to be resampled to.

    A Gaussian of standard deviation (ratio - 1) / 2 voxels, as scikit-image's ``rescale`` has it; axes of a ratio up to
    ``LARGEST_RATIO`` stay as they are. Deterministic; there is nothing to invert.

    Args:
        spacing_mm: of the grid it will be resampled to, along the scan's own array axes.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, spacing_mm: Sequence[float]) -> None:
        self.spacing_mm = tuple(float(size) for size in spacing_mm)

    def __call__(self, img: MetaTensor) -> torch.Tensor:
        """Return the image, a MetaTensor (C, X, Y, Z), blurred or as it is; the input is not changed."""
        ratios = np.divide(self.spacing_mm, spacing_of(img.affine))
        sigmas = np.where(ratios > LARGEST_RATIO, (ratios - 1) / 2, 0.0)
        if not sigmas.any():
            return img
        blurred = ndimage.gaussian_filter(np.asarray(img.detach().cpu()), (0, *sigmas), mode="nearest")
        return convert_to_dst_type(blurred, img)[0]


class SmoothFinerd(EachKeyd):
    """Dictionary twin of ``SmoothFiner``, for MetaTensors (C, X, Y, Z) under the keys."""

    backend = SmoothFiner.backend

    def __init__(self, keys: KeysCollection, spacing_mm: Sequence[float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, SmoothFiner(spacing_mm), allow_missing_keys)
