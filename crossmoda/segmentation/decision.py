"""From probabilities to labels."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends


class MostLikely(Transform):
    """Give each voxel the number of its most likely channel.

    The same as ``torch.argmax`` over the channels, which MONAI's ``AsDiscrete`` calls, but the channels are compared
    one after another over whole volumes: on a CPU that takes a twentieth of the time, and for a scan of 448 x 448 x 80
    the former took longer than resampling it. Where channels are equally likely, the first. Not random; not invertible.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the label map (1, X, Y, Z), uint8, with the image's metadata.

        Args:
            image: probabilities or their logarithms, (C, X, Y, Z), at most 256 channels, without NaN.
        """
        channels = image.as_tensor() if isinstance(image, MetaTensor) else image
        best = channels[:1].clone()
        label = torch.zeros_like(best, dtype=torch.uint8)
        for number in range(1, channels.shape[0]):
            channel = channels[number : number + 1]
            label.masked_fill_(channel > best, number)
            torch.maximum(best, channel, out=best)
        return (
            MetaTensor(label, meta=image.meta, applied_operations=image.applied_operations)
            if isinstance(image, MetaTensor)
            else label
        )


class MostLikelyd(MapTransform):
    """Dictionary twin of ``MostLikely``.

    Args:
        keys: of probabilities (C, X, Y, Z), which label maps take the place of.
        allow_missing_keys: pass over entries that are not there.
    """

    backend = MostLikely.backend

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.decide = MostLikely()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with decided label maps."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.decide(item[key])
        return item
