"""The brain-centred window on a scan's own grid, for segmenters that do their own resampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Transform
from monai.utils import convert_to_dst_type
from scipy.ndimage import find_objects

from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing.crop import bright_centre
from crossmoda.preprocessing.each_key import EachKeyd
from crossmoda.preprocessing.intensity import require_contrast
from crossmoda.preprocessing.lengths import lengths_in_voxels

Box = tuple[slice, ...]
EDGE = 2  # voxels by which a window that was taken on another grid may seem larger


class KeepBrainWindow(Transform):
    """Make a scan 0 outside a window about the brain, as translated scans are outside the window of their translation.

    nnU-Net crops a scan to what is not 0 before it resamples it, so that it learns from and predicts on translated and
    real scans alike (cards B and E of the recipes crop both). The window is ``BrainCentredCrop``'s, in mm and on the
    scan's own grid; all slices are kept. A scan that is 0 outside such a window already stays as it is. Not random,
    not invertible; labels need no window, since nothing outside is predicted.

    Args:
        size_mm: of the window along the patient's x (left-right) and y. The array's axes may run in any order and
            direction; on an oblique grid each takes the nearest of the three.

    Raises:
        CrossmodaError: at construction, sizes that are not two lengths above 0; at a call, a volume without an affine,
            with NaN voxels, or with one value throughout; the file is named.
    """

    def __init__(self, size_mm: Sequence[float]) -> None:
        self.size_mm = tuple(float(length) for length in size_mm)
        if len(self.size_mm) != 2 or not all(0 < length < np.inf for length in self.size_mm):
            raise CrossmodaError(f"window_mm {list(size_mm)}: give two positive lengths (x, y), in mm")

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the scan, float32 (1, X, Y, Z), with 0 outside the window and the input's metadata."""
        voxels = require_contrast(image)
        kept = np.zeros_like(voxels)
        box = self.box(image)
        inside = (slice(None), *box)
        kept[inside] = voxels[inside]
        result: torch.Tensor = convert_to_dst_type(kept, image, dtype=torch.float32)[0]
        return result

    def box(self, image: torch.Tensor) -> Box:
        """Return the window of a scan (1, X, Y, Z) as a slice along each of its own array axes."""
        voxels = require_contrast(image)[0]
        most = self._lengths(image, np.asarray(voxels.shape))
        (shown,) = find_objects((voxels != 0).astype(np.uint8))
        if all(part.stop - part.start <= length + EDGE for part, length in zip(shown, most, strict=True)):
            return tuple(slice(0, length) for length in voxels.shape)
        start = np.floor(bright_centre(voxels) - (most - 1) / 2 + 0.5).astype(int)
        start = np.clip(start, 0, np.asarray(voxels.shape) - most)
        return tuple(slice(int(first), int(first + length)) for first, length in zip(start, most, strict=True))

    def _lengths(self, image: torch.Tensor, shape: np.ndarray) -> np.ndarray:
        """Return the window's voxels along each array axis, at most those that there are."""
        lengths = lengths_in_voxels(image, [*self.size_mm, np.inf])
        return np.minimum(np.ceil(lengths - 1e-6), shape).astype(int)


class KeepBrainWindowd(EachKeyd):
    """Dictionary twin of ``KeepBrainWindow``; each key by its own affine."""

    def __init__(self, keys: KeysCollection, size_mm: Sequence[float], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, KeepBrainWindow(size_mm), allow_missing_keys)
