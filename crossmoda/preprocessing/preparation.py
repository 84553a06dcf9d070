"""What is done to a scan on its own grid, right after it is read and before everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from numbers import Real
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import convert_to_dst_type

from crossmoda.data.transforms import file_name_of
from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing.each_key import EachKeyd

SAME_AFFINE_MM = 1e-4  # in any element


class PrepareImage(Transform):
    """Apply transforms of intensity to a scan as it was read, and make sure that its grid stays what it is.

    Card B of the recipes sharpens scans (``VanCittertDeconvolution``) and clips them (MONAI's
    ``ClipIntensityPercentiles``) before a segmenter sees them. Not random, not invertible.

    Args:
        transforms: MONAI array transforms, in order; none leaves the scan as it is.

    Raises:
        CrossmodaError: at construction, what is no array transform, or is random; at a call, a transform that changes
            the grid, naming it and the file.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)
        for transform in self.transforms:
            _require_array_transform(transform)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the prepared scan, float32 (1, X, Y, Z), with the input's metadata; the input is not changed."""
        for transform in self.transforms:
            prepared = transform(image)
            if not _on_same_grid(prepared, image):
                raise CrossmodaError(
                    f"{file_name_of(image)}: prepare changes its grid ({type(transform).__name__}); "
                    "give transforms of intensity alone"
                )
            image = convert_to_dst_type(prepared, image, dtype=torch.float32)[0]
        return image


class PrepareImaged(EachKeyd):
    """Dictionary twin of ``PrepareImage``."""

    def __init__(self, keys: KeysCollection, transforms: Sequence[Transform], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, PrepareImage(transforms), allow_missing_keys)


def describe_transforms(transforms: Sequence[Transform]) -> list[str]:
    """Return what tells array transforms apart: each one's class and all its settings, as in Python.

    The text is the same in every run and on every machine, so that it can be held against what was written beside
    weights. Whole numbers are written without a point, lists as tuples.

    Raises:
        CrossmodaError: what ``PrepareImage`` refuses, or a setting that has no name and no value, such as a lambda.
    """
    for transform in transforms:
        _require_array_transform(transform)
    return [_described(transform, transform) for transform in transforms]


def _require_array_transform(transform: Any) -> None:
    name = type(transform).__name__
    if not isinstance(transform, Transform):
        raise CrossmodaError(f"prepare: {name} is no MONAI transform; give components with a _target_")
    if isinstance(transform, MapTransform):
        raise CrossmodaError(f"prepare: {name} takes a dictionary; give the array transform, without keys")
    if isinstance(transform, Randomizable):
        raise CrossmodaError(f"prepare: {name} may be random; give each deterministic transform as an item of its own")


def _on_same_grid(prepared: torch.Tensor, image: torch.Tensor) -> bool:
    if tuple(prepared.shape) != tuple(image.shape):
        return False
    if not (isinstance(prepared, MetaTensor) and isinstance(image, MetaTensor)):
        return True
    return np.allclose(np.asarray(prepared.affine), np.asarray(image.affine), rtol=0, atol=SAME_AFFINE_MM)


def _described(value: Any, owner: Transform) -> str:
    """Return a setting of ``owner``, or a transform with its own settings, as text that is the same in every run."""
    if isinstance(value, Transform):
        _require_array_transform(value)
        settings = [f"{name}={_described(setting, value)}" for name, setting in vars(value).items()]
        return f"{type(value).__name__}({', '.join(settings)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_described(entry, owner)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(_described(entry, owner) for entry in value) + ")"
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return _described(value.tolist(), owner)
    return _described_plain(value, owner)


def _described_plain(value: Any, owner: Transform) -> str:
    if isinstance(value, Enum):
        return repr(value.value)
    if isinstance(value, Real) and not isinstance(value, bool):
        number = float(value)
        return repr(int(number) if number.is_integer() else number)
    if value is None or isinstance(value, (str, bool, torch.dtype, np.dtype)):
        return repr(value)
    name = str(getattr(value, "__qualname__", None) or getattr(value, "__name__", "<"))
    if "<" in name:  # neither a class nor a function with a name
        raise CrossmodaError(
            f"prepare: a setting of {type(owner).__name__} ({type(value).__name__}) cannot be written down beside the "
            "weights; give plain values, or a transform of your own"
        )
    module = getattr(value, "__module__", None)  # which numpy's own functions lack
    return f"{module}.{name}" if module else name
