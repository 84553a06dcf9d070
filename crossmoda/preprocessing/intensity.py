"""Intensity scaling that padding cannot disturb and that says which file is at fault.

Statistics are taken over voxels above the image's minimum: padding is done with the minimum, and so is what scanners
leave outside the head, hence a scan cropped tightly and the same scan with a margin are scaled alike.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Transform
from monai.utils import convert_to_numpy

from crossmoda.data.transforms import file_name_of
from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing.each_key import EachKeyd

FOREGROUND_FRACTION = (
    0.05  # of the range up to the 99.9 percentile: above the air's noise, below every tissue on ceT1 and hrT2
)


def require_contrast(image: torch.Tensor) -> np.ndarray:
    """Return an image's voxels as float32, after making sure that they can be scaled.

    Raises:
        CrossmodaError: a voxel is NaN or infinite, or all voxels have one value; the file is named.
    """
    voxels = np.asarray(convert_to_numpy(image), dtype=np.float32)
    if not np.isfinite(voxels).all():
        count = int((~np.isfinite(voxels)).sum())
        raise CrossmodaError(f"{file_name_of(image)}: {count} voxels are NaN or infinite; export the scan again")
    if voxels.size == 0 or voxels.min() == voxels.max():
        raise CrossmodaError(
            f"{file_name_of(image)}: all voxels have one value, there is no image in it; export the scan again"
        )
    return voxels


class ScaleByPercentiles(Transform):
    """Map the range between two percentiles linearly to [-1, 1], clipping what lies outside (recipe cards D, E).

    Not random, not invertible.

    Args:
        lower: lower percentile, 0 to 100; at 0 the image's minimum.
        upper: upper percentile, above ``lower``.

    Raises:
        CrossmodaError: at a call, NaN voxels or a constant image; the file is named.
    """

    def __init__(self, lower: float = 0.0, upper: float = 99.9) -> None:
        _require_percentiles(lower, upper)
        self.lower = lower
        self.upper = upper

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return a float32 image in [-1, 1], shaped as the input, with its metadata."""
        voxels = require_contrast(image)
        bottom, top = _range(voxels, self.lower, self.upper)
        scaled: torch.Tensor = (image.to(torch.float32) - bottom) * (2.0 / (top - bottom)) - 1.0
        return scaled.clamp(-1.0, 1.0)


class ScaleSlicesByPercentiles(Transform):
    """Map each axial slice's range between two percentiles linearly to [-1, 1], clipping what lies outside (card C).

    It evens out brightness that falls off towards a slab's ends, and gives up that slices compare: tissue of one kind
    has another value on a slice with a bright tumour than on its neighbour. Percentiles are of the slice's voxels above
    the volume's minimum. Not random, not invertible.

    Args:
        lower: lower percentile, 0 to 100.
        upper: upper percentile, above ``lower``.
        smallest_range: slices whose values span no more than this, in the scan's own units, hold nothing but noise and
            become -1 throughout, like padding (the authors' code leaves them at 0, which is a grey like tissue's).

    Raises:
        CrossmodaError: at a call, NaN voxels, a constant image, or one without any slice of a larger range, as when it
            has been scaled before; the file is named.
    """

    def __init__(self, lower: float = 5.0, upper: float = 95.0, smallest_range: float = 10.0) -> None:
        _require_percentiles(lower, upper)
        if smallest_range < 0:
            raise CrossmodaError(f"smallest_range {smallest_range}: give 0 or more, in the scan's own units")
        self.lower = lower
        self.upper = upper
        self.smallest_range = smallest_range

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return a float32 image (1, X, Y, Z) in [-1, 1], scaled slice by slice along z, with its metadata."""
        voxels = require_contrast(image)
        ranges = [self._slice_range(voxels[..., z], float(voxels.min())) for z in range(voxels.shape[-1])]
        if not any(ranges):
            raise CrossmodaError(
                f"{file_name_of(image)}: no slice spans more than {self.smallest_range:g}; "
                "give the scan as it was stored, or choose another intensity"
            )
        scaled: torch.Tensor = torch.full_like(image, -1.0, dtype=torch.float32)
        for z, found in enumerate(ranges):
            if found:
                bottom, top = found
                part = (image[..., z].to(torch.float32) - bottom) * (2.0 / (top - bottom)) - 1.0
                scaled[..., z] = part.clamp(-1.0, 1.0)
        return scaled

    def _slice_range(self, voxels: np.ndarray, minimum: float) -> tuple[float, float] | None:
        """Return a slice's two percentiles, or None where it holds nothing; its ends where the two coincide."""
        above = voxels[voxels > minimum]
        if above.size == 0 or voxels.max() - voxels.min() <= self.smallest_range:
            return None
        bottom, top = np.percentile(above, [self.lower, self.upper])
        return (float(bottom), float(top)) if top > bottom else (float(voxels.min()), float(voxels.max()))


class StandardiseForeground(Transform):
    """Shift and scale an image so that its foreground has mean 0 and standard deviation 1.

    Foreground is what exceeds the minimum by ``FOREGROUND_FRACTION`` of the range up to the 99.9 percentile, so neither
    padding nor the share of air in the field of view matters. Not random, not invertible.

    Raises:
        CrossmodaError: NaN voxels or a constant image; the file is named.
    """

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return a float32 image, shaped as the input, with its metadata."""
        voxels = require_contrast(image)
        bottom, top = _range(voxels, 0.0, 99.9)
        foreground = voxels[voxels > bottom + FOREGROUND_FRACTION * (top - bottom)].astype(np.float64)
        mean, deviation = float(foreground.mean()), float(foreground.std())
        # A two-valued image has a foreground without spread; its contrast to the background serves as the scale.
        scale = deviation if deviation > 0 else mean - bottom
        standardised: torch.Tensor = (image.to(torch.float32) - mean) * (1.0 / scale)
        return standardised


def _require_percentiles(lower: float, upper: float) -> None:
    if not 0 <= lower < upper <= 100:
        raise CrossmodaError(f"percentiles {lower} and {upper}: needed are 0 <= lower < upper <= 100")


def _range(voxels: np.ndarray, lower: float, upper: float) -> tuple[float, float]:
    """Return two percentiles of the voxels above the minimum; the minimum itself where ``lower`` is 0."""
    minimum = float(voxels.min())
    above = voxels[voxels > minimum]
    bottom = minimum if lower == 0 else float(np.percentile(above, lower))
    top = float(np.percentile(above, upper))
    return (bottom, top) if top > bottom else (minimum, float(voxels.max()))


class ScaleByPercentilesd(EachKeyd):
    """Dictionary twin of ``ScaleByPercentiles``."""

    def __init__(
        self, keys: KeysCollection, lower: float = 0.0, upper: float = 99.9, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, ScaleByPercentiles(lower, upper), allow_missing_keys)


class ScaleSlicesByPercentilesd(EachKeyd):
    """Dictionary twin of ``ScaleSlicesByPercentiles``."""

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 5.0,
        upper: float = 95.0,
        smallest_range: float = 10.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, ScaleSlicesByPercentiles(lower, upper, smallest_range), allow_missing_keys)


class StandardiseForegroundd(EachKeyd):
    """Dictionary twin of ``StandardiseForeground``."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, StandardiseForeground(), allow_missing_keys)
