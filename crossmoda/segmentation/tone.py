"""Labelled scans of one sequence seen in any contrast, so that their anatomy is learnt and their brightness is not."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_numpy

from crossmoda.errors import CrossmodaError

BRIGHTEST_PERCENTILE = 99.5  # of what an image shows: a few voxels of flow or fat must not take most of the curve


class RandToneCurved(RandomizableTransform, MapTransform):
    """Give an image a new contrast: its tones are mapped by a curve of random heights, which may rise and fall.

    The curve's points lie at random tones from the image's darkest to its ``BRIGHTEST_PERCENTILE``, all above being
    alike. Their heights are drawn from 0 to 1, and between the points the curve is straight. Mean and standard
    deviation of the image are kept. On a ceT1 fluid may so become brighter than brain while bone stays dark, as on
    hrT2, and a tumour of any brightness: what is left to learn is where it lies and what it looks like. MONAI's
    ``RandHistogramShift`` keeps the order of tones; shallow random convolutions (C. Ouyang et al., IEEE Transactions
    on Medical Imaging 42, 2023) serve the same end.

    Random; not invertible.

    Args:
        keys: of images (C, X, Y, Z), changed in copies; all, and all channels, get the same heights.
        prob: of a new contrast.
        points: fewest and most points between the darkest and the brightest tone.
        dark_share: of curves whose darkest tone, air and bone, stays the darkest.
        allow_missing_keys: skip keys that an item lacks.

    Raises:
        CrossmodaError: ``points`` are not two ascending numbers from 0 up.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.75,
        points: Sequence[int] = (1, 6),
        dark_share: float = 0.85,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if len(points) != 2 or not 0 <= points[0] <= points[1]:
            raise CrossmodaError(f"points {list(points)}: give the fewest and the most, from 0 up")
        self.points = (int(points[0]), int(points[1]))
        self.dark_share = dark_share
        self._places, self._heights = np.array([0.0, 1.0]), np.array([0.0, 1.0])

    def randomize(self, data: Any = None) -> None:
        """Draw a curve."""
        super().randomize(data)
        count = int(self.R.randint(self.points[0], self.points[1] + 1))
        self._places = np.concatenate([[0.0], np.sort(self.R.uniform(0, 1, count)), [1.0]])
        self._heights = self.R.uniform(0, 1, count + 2)
        if self.R.uniform() < self.dark_share:
            self._heights[0] = 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with its images in a new contrast."""
        item = dict(data)
        self.randomize()
        if self._do_transform:
            for key in self.key_iterator(item):
                item[key] = self._mapped(item[key])
        return item

    def _mapped(self, image: torch.Tensor) -> torch.Tensor:
        values = convert_to_numpy(image).astype(np.float32)
        changed = np.stack([self._of_channel(channel) for channel in values])
        return torch.as_tensor(changed, device=image.device, dtype=image.dtype)

    def _of_channel(self, channel: np.ndarray) -> np.ndarray:
        """Return the channel (X, Y, Z) along the curve; as it is if all its voxels, or all they become, are alike."""
        # What a crop was padded with, and air that was cut to one value, is no part of what it shows.
        low = channel.min()
        shown = channel[channel > low]
        if not shown.size:
            return channel
        tones = low + self._places * (np.percentile(shown, BRIGHTEST_PERCENTILE) - low)
        curved = np.interp(channel, tones, self._heights)
        spread = curved.std()
        if spread < 1e-6:
            return channel
        return (curved - curved.mean()) * (channel.std() / spread) + channel.mean()
