"""The brain-centred crop: one window per case, found from the image, taken back exactly."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Cropd, CropForeground

from crossmoda.data.transforms import file_name_of
from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing.intensity import require_contrast

logger = logging.getLogger(__name__)

CUT_OFF = 0.01  # share of a label outside the window that is worth a warning
BRIGHT_PERCENTILE = 75.0  # Choi 2021, as used by recipes.md card B


class BrainCentredCrop(CropForeground):
    """Cut a window about the mean position of an image's brightest quarter (Choi 2021; recipes.md card B).

    The window is moved, never shrunk, where it would leave the image; an image smaller than the window is padded, as
    evenly as it goes, with its minimum. Scaling to [0, 1] first, as the source does, would not change which voxels lie
    above a percentile. Not random; invertible: the inverse has the original shape and affine, 0 outside the window.

    Args:
        size: window in voxels, (x, y) or (x, y, z); with two numbers all slices are kept.
        minimum_slices: pad along z up to this number of slices; by default z is left as it is.
        pad_size: (x, y) in voxels, up to which smaller images are padded; by default up to ``size``.

    Raises:
        CrossmodaError: at construction, a size that is not positive; at a call, NaN voxels or a constant image.
    """

    def __init__(
        self, size: Sequence[int], minimum_slices: int | None = None, pad_size: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.size = tuple(int(n) for n in size)
        self.pad_size = self.size[:2] if pad_size is None else tuple(int(n) for n in pad_size)[:2]
        self.minimum_slices = minimum_slices
        if len(self.size) not in (2, 3) or min(self.size) < 1 or (minimum_slices is not None and minimum_slices < 1):
            raise CrossmodaError(
                f"crop size {list(size)}, minimum_slices {minimum_slices}: give 2 or 3 positive numbers of voxels"
            )

    def compute_bounding_box(self, img: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return the window's first and one-past-last voxel, (3,) each; beyond the image where it must be padded.

        Args:
            img: (1, X, Y, Z).
        """
        shape = np.asarray(img.shape[1:])
        size = self._window(shape)
        centre = bright_centre(require_contrast(img)[0])
        start = np.floor(centre - (size - 1) / 2 + 0.5).astype(int)
        inside = np.clip(start, 0, np.maximum(shape - size, 0))
        start = np.where(size >= shape, -((size - shape) // 2), inside)
        return start, start + size

    def __call__(  # type: ignore[override]
        self, img: torch.Tensor, mode: str | None = None, lazy: bool | None = None, **pad_kwargs: Any
    ) -> torch.Tensor:
        """Return the window of an image, (1, x, y, z); padding takes the image's minimum unless ``value`` is given."""
        return super().__call__(img, mode=mode, lazy=lazy, **({"value": float(img.min())} | pad_kwargs))

    def _window(self, shape: np.ndarray) -> np.ndarray:
        depth = self.size[2] if len(self.size) == 3 else int(shape[2])
        plane = np.clip(shape[:2], np.minimum(self.pad_size, self.size[:2]), self.size[:2])
        return np.asarray([*plane, max(depth, self.minimum_slices or 0)])


def bright_centre(voxels: np.ndarray) -> np.ndarray:
    """Return the mean index (3,) of the voxels above the 75th percentile of (X, Y, Z)."""
    bright = voxels > np.percentile(voxels, BRIGHT_PERCENTILE)
    if not bright.any():  # more than a quarter of the image is saturated
        bright = voxels > voxels.min()
    sums = [bright.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64) for axis in range(3)]
    return np.asarray([(counts * np.arange(counts.size)).sum() / counts.sum() for counts in sums])


class BrainCentredCropd(Cropd):
    """Dictionary twin of ``BrainCentredCrop``: every key gets the window found in ``reference_key``.

    Args:
        keys: entries on one grid, (C, X, Y, Z) each.
        size: window in voxels, (x, y) or (x, y, z).
        reference_key: the image that the window is found in.
        label_keys: those of ``keys`` that are padded with 0 (background) instead of their minimum.
        minimum_slices: pad along z up to this number of slices.
        pad_size: as of ``BrainCentredCrop``.
        whole_keys: those of ``label_keys`` of which the user is told where the window cuts them; a map of confidence,
            which is nowhere 0, is always cut.
        allow_missing_keys: pass over entries that are not there (``reference_key`` must be).

    Raises:
        CrossmodaError: NaN voxels, a constant reference image, or an entry of another shape than the reference.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: Sequence[int],
        reference_key: str,
        label_keys: Sequence[str] = (),
        minimum_slices: int | None = None,
        allow_missing_keys: bool = False,
        pad_size: Sequence[int] | None = None,
        whole_keys: Sequence[str] = ("label",),
    ) -> None:
        super().__init__(keys, BrainCentredCrop(size, minimum_slices, pad_size), allow_missing_keys)
        self.whole_keys = frozenset(whole_keys)
        self.reference_key = reference_key
        self.label_keys = frozenset(label_keys)

    def __call__(self, data: Mapping[Hashable, torch.Tensor], lazy: bool | None = None) -> dict[Hashable, torch.Tensor]:
        """Return the item with every key cropped alike; the input is not changed."""
        d = dict(data)
        assert isinstance(self.cropper, BrainCentredCrop)
        reference = d[self.reference_key]
        start, end = self.cropper.compute_bounding_box(reference)
        for key in self.key_iterator(d):
            _require_same_shape(d[key], reference)
            value = 0.0 if key in self.label_keys else float(d[key].min())
            cropped = self.cropper.crop_pad(d[key], start, end, value=value)
            if key in self.whole_keys:
                where = f"the window of {' x '.join(str(n) for n in end - start)} voxels; give a larger crop_size"
                tell_of_cut_label(file_name_of(d[key]), d[key].count_nonzero(), cropped.count_nonzero(), where)
            d[key] = cropped
        return d


def tell_of_cut_label(name: str, whole: int | torch.Tensor, kept: int | torch.Tensor, outside: str) -> None:
    """Warn where part of a label lies outside what networks see and is not learnt; cards A and E let none be lost.

    Args:
        name: of the label's file.
        whole: its labelled voxels.
        kept: those that networks see.
        outside: what the others lie outside of, and what can be done.
    """
    if int(whole) - int(kept) > CUT_OFF * int(whole):
        logger.warning("%s: %.0f %% of the label lies outside %s", name, 100 * (1 - int(kept) / int(whole)), outside)


def _require_same_shape(image: torch.Tensor, reference: torch.Tensor) -> None:
    if image.shape[1:] != reference.shape[1:]:
        raise CrossmodaError(
            f"{file_name_of(image)}: {tuple(image.shape[1:])} voxels, but {file_name_of(reference)} has "
            f"{tuple(reference.shape[1:])}; resample it to the image's grid"
        )
