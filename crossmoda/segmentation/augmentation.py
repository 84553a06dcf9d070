"""Augmentation that MONAI lacks: new intensities for a structure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import TransformBackends, convert_to_numpy
from scipy import ndimage

from crossmoda.labels import model_labels, numbers_of

LARGEST_FACTOR = 10.0


class RandomTwind(RandomizableTransform, MapTransform):
    """The base of dictionary twins of this project's random transforms: what is drawn, the array transform draws.

    Args:
        keys: of the images (C, X, Y, Z), changed in copies; all get the same draw.
        transform: the array transform.
        label_key: of the label map.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(
        self, keys: KeysCollection, transform: RandomizableTransform, label_key: str, allow_missing_keys: bool = False
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, transform.prob)
        self.transform: Any = transform
        self.label_key = label_key

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandomTwind:
        """Seed the array transform."""
        self.transform.set_random_state(seed, state)
        self.R = self.transform.R
        return self

    def randomize(self, data: Any = None) -> None:
        """Let the array transform draw."""
        self.transform.randomize(data)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with changed images."""
        item = dict(data)
        self.randomize()
        for key in self.key_iterator(item):
            item[key] = self.transform(item[key], item[self.label_key], randomize=False)
        return item


class RandStructureIntensity(RandomizableTransform):
    """Give a labelled structure a new brightness at random, with a soft edge, and leave the rest as it is.

    Tumours and cochleae vary more in signal than translated images show, and segmenters that have seen such variation
    cross the domain gap better (Choi 2021: training copies with the tumour's signal halved raised VS Dice from .72 to
    .84; Salle 2022 doubles to quadruples the cochlea's). The brightness is drawn as a level of the image itself: 0 is
    its 5th percentile (bone and air), 1 its 99th (on hrT2 the fluid). A factor would not do, because how dark a
    translator has left a cochlea differs from one to the next, and on a real scan that is bright already the same
    factor would be absurd. The signal above the image's minimum is multiplied so that the structure's median comes to
    that level, at most by ``LARGEST_FACTOR`` up or down, which keeps its pattern; the change grows linearly with the
    distance to the structure's outside and is whole from ``edge_voxels`` on. Random; not invertible.

    It is meant for translated scans. On a real scan the brightness is what it ought to be, and where a pseudo-label
    reaches too far, changing all that it covers would make its border look right.

    Args:
        structures: names in the order of the network's output channels.
        levels: structure name -> lowest and highest level, drawn uniformly. ``vs`` may be named where ``structures``
            holds its parts.
        prob: probability for each structure, independently of the others.
        edge_voxels: width of the soft edge inside the structure, at least 0 (0 is a hard edge).

    Raises:
        CrossmodaError: a structure is named that the network does not seek.
        ValueError: a range is not ascending within 0..1, or the edge is negative.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        structures: Sequence[str],
        levels: Mapping[str, Sequence[float]],
        prob: float = 0.3,
        edge_voxels: float = 1.5,
    ) -> None:
        super().__init__(prob)
        for name, (low, high) in levels.items():
            if not 0 <= low <= high <= 1:
                raise ValueError(f"levels of {name} must ascend within 0 and 1, got {[low, high]}")
        if edge_voxels < 0:
            raise ValueError(f"edge_voxels must not be negative, got {edge_voxels}")
        self.edge_voxels = edge_voxels
        self.ranges = {numbers_of(name, model_labels(structures)): tuple(limits) for name, limits in levels.items()}
        self._drawn: dict[tuple[int, ...], float] = {}

    def randomize(self, data: None = None) -> None:
        """Draw which structures change and to which levels; the same number of draws whatever the image shows."""
        self._drawn = {}
        for numbers, (low, high) in self.ranges.items():
            chosen = self.R.random() < self.prob
            level = float(self.R.uniform(low, high))
            if chosen:
                self._drawn[numbers] = level
        self._do_transform = bool(self._drawn)

    def __call__(  # type: ignore[override]
        self, image: torch.Tensor, label: torch.Tensor, randomize: bool = True
    ) -> torch.Tensor:
        """Return the image (C, X, Y, Z) with structures in new brightness; it is not changed itself.

        Args:
            image: of any scale and offset.
            label: (1, X, Y, Z), or (2, X, Y, Z) with its trust, numbered as ``model_labels(structures)``.
            randomize: False repeats the last draw.
        """
        if randomize:
            self.randomize()
        if not self._do_transform:
            return image
        plain = convert_to_numpy(label)[0]
        for numbers, level in self._drawn.items():
            mask = np.isin(plain, numbers)
            if mask.any():
                image = _bring_to_level(image, mask, _share_inside(mask, self.edge_voxels), level)
        return image


class RandStructureIntensityd(RandomTwind):
    """Dictionary twin of ``RandStructureIntensity``.

    Args:
        keys: of the images (C, X, Y, Z), changed in copies; all get the same draw.
        label_key: of the label map (1, X, Y, Z), whose values are ``crossmoda.labels.model_labels(structures)``.
        structures: see ``RandStructureIntensity``, as the following.
        levels: structure name -> lowest and highest level.
        prob: probability for each structure, independently of the others.
        translated_only: leave alone items whose ``view``, the translator that rendered them, is missing or empty.
        edge_voxels: width of the soft edge.
        allow_missing_keys: skip keys that an item lacks.
    """

    backend = RandStructureIntensity.backend

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        structures: Sequence[str],
        levels: Mapping[str, Sequence[float]],
        prob: float = 0.3,
        translated_only: bool = False,
        edge_voxels: float = 1.5,
        allow_missing_keys: bool = False,
    ) -> None:
        change = RandStructureIntensity(structures, levels, prob, edge_voxels)
        super().__init__(keys, change, label_key, allow_missing_keys)
        self.translated_only = translated_only

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with changed images; as much is drawn for one that is left alone."""
        if self.translated_only and not data.get("view"):
            self.randomize()
            return dict(data)
        return super().__call__(data)


def _share_inside(mask: np.ndarray, edge_voxels: float) -> np.ndarray:
    """Return (X, Y, Z) float32 shares: 0 outside the mask, rising to 1 at ``edge_voxels`` from the outside.

    Distances are computed in the mask's bounding box grown by one voxel, which is all they depend on.
    """
    share = np.zeros(mask.shape, np.float32)
    box = ndimage.find_objects(mask.astype(np.int8))
    if not box:
        return share
    grown = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in box[0])
    if edge_voxels == 0 or mask[grown].all():
        share[grown] = mask[grown]
    else:
        share[grown] = np.clip(ndimage.distance_transform_edt(mask[grown]) / edge_voxels, 0, 1)
    return share


def _bring_to_level(image: torch.Tensor, mask: np.ndarray, share: np.ndarray, level: float) -> torch.Tensor:
    """Return the image with each channel's median within the mask (X, Y, Z) brought to a level of that channel."""
    factors = [_factor(channel, mask, level) for channel in convert_to_numpy(image)]
    change = np.stack([share * (factor - 1) for factor in factors])
    low = image.amin(dim=(1, 2, 3), keepdim=True)
    return image + (image - low) * torch.as_tensor(change, dtype=image.dtype, device=image.device)


def _factor(channel: np.ndarray, mask: np.ndarray, level: float) -> float:
    """Return what multiplies the signal above the minimum, so that the median within the mask comes to the level."""
    dark, bright = np.percentile(channel, [5, 99])
    low = channel.min()
    wanted = dark + level * (bright - dark) - low
    return float(np.clip(wanted / max(np.median(channel[mask]) - low, 1e-6), 1 / LARGEST_FACTOR, LARGEST_FACTOR))
