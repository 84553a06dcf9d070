"""What the augmentation of Chen et al. 2023 (card C) has and MONAI lacks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import AdjustContrast, Compose, MapTransform, Randomizable, RandomizableTransform, Transform
from monai.utils import TransformBackends

from crossmoda.errors import CrossmodaError
from crossmoda.labels import model_labels, numbers_of
from crossmoda.segmentation.augmentation import RandomTwind
from crossmoda.segmentation.by_name import values_sought

Units = tuple[torch.Tensor, torch.Tensor]  # of an image: its minimum, and half of its range


class RandBlankBands(RandomizableTransform):
    """Blank a band at both ends of an axis at random, as an incomplete field of view does.

    Both bands have the same number of rows, drawn from 0 to a share of the axis (card C: along y, up to a third). The
    image becomes its minimum there and the label background, which is trusted as before. Random; not invertible.

    Args:
        axis: 0, 1 or 2 for x, y or z.
        largest_share: of the axis that one band may take, 0 to 0.5.
        prob: probability.

    Raises:
        ValueError: an axis or a share that cannot be.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, axis: int = 1, largest_share: float = 1 / 3, prob: float = 0.5) -> None:
        super().__init__(prob)
        if axis not in (0, 1, 2):
            raise ValueError(f"axis must be 0, 1 or 2, got {axis}")
        if not 0 <= largest_share <= 0.5:
            raise ValueError(f"largest_share must lie between 0 and 0.5, got {largest_share}")
        self.axis = axis
        self.largest_share = largest_share
        self._rows = 0

    def randomize(self, data: int) -> None:
        """Draw the number of rows of a band for an axis of ``data`` rows."""
        super().randomize(None)
        self._rows = int(self.R.randint(0, int(data * self.largest_share) + 1))

    def __call__(  # type: ignore[override]
        self, image: torch.Tensor, label: torch.Tensor, randomize: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image and label with their bands blanked; they are not changed themselves.

        Args:
            image: (C, X, Y, Z); each channel has its own minimum.
            label: (1, X, Y, Z), or (2, X, Y, Z) with its trust.
            randomize: False repeats the last draw.
        """
        if randomize:
            self.randomize(label.shape[self.axis + 1])
        return self.blank_image(image), self.blank_label(label)

    def blank_image(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image (C, X, Y, Z) with the bands that were drawn at its minimum."""
        if not self._do_transform or self._rows == 0:
            return image
        blanked = image.clone()
        lowest = image.amin(dim=(1, 2, 3), keepdim=True)
        for band in self._bands(blanked):
            band.copy_(lowest.expand_as(band))
        return blanked

    def blank_label(self, label: torch.Tensor) -> torch.Tensor:
        """Return a label map (1 or 2, X, Y, Z) with background in the bands that were drawn."""
        if not self._do_transform or self._rows == 0:
            return label
        blanked = label.clone()
        for band in self._bands(blanked[:1]):
            band.zero_()
        return blanked

    def _bands(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return views of a tensor's (C, X, Y, Z) first and last rows."""
        axis = self.axis + 1
        return [tensor.narrow(axis, start, self._rows) for start in (0, tensor.shape[axis] - self._rows)]


class RandBlankBandsd(RandomTwind):
    """Dictionary twin of ``RandBlankBands``.

    Args:
        keys: of the images (C, X, Y, Z), changed in copies; all get the same bands.
        label_key: of the label map (1, X, Y, Z), or (2, X, Y, Z) with its trust.
        axis: see ``RandBlankBands``, as the following.
        largest_share: of the axis that one band may take.
        prob: probability.
        allow_missing_keys: skip image keys that an item lacks.
    """

    backend = RandBlankBands.backend

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        axis: int = 1,
        largest_share: float = 1 / 3,
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        self.blank = RandBlankBands(axis, largest_share, prob)
        super().__init__(keys, self.blank, label_key, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its bands blanked; the input is not changed."""
        item = dict(data)
        self.randomize(item[self.label_key].shape[self.blank.axis + 1])
        for key in self.key_iterator(item):
            item[key] = self.blank.blank_image(item[key])
        item[self.label_key] = self.blank.blank_label(item[self.label_key])
        return item


class RandStructureContrast(RandomizableTransform):
    """Change contrast, brightness and gamma at random inside the box about a structure, and nothing outside.

    As card C does with the tumour and the cochlea. In this order, each by a factor drawn uniformly: the distance from
    the box's mean is multiplied; the intensity is multiplied; the intensity's place in the box's range is raised to a
    power, with mean and standard deviation restored. Brightness depends on where 0 lies, so give the images in the
    card's units, from -1 to 1 (``InUnitRange``). Random; not invertible.

    Args:
        structures: names in the order of the network's output channels.
        structure: about which the box lies; both cochleae are in one box. ``vs`` may be named where ``structures``
            holds its parts. Where it is none of them or not in the image, nothing happens.
        contrast: smallest and largest factor.
        brightness: smallest and largest factor.
        gamma: smallest and largest power.
        margin: by which the box is larger on each side, in voxels (x, y, z).
        prob: probability.

    Raises:
        CrossmodaError: the name is of no structure.
        ValueError: a range is not ascending above 0, or the margin is not three numbers from 0 up.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        structures: Sequence[str],
        structure: str,
        contrast: Sequence[float],
        brightness: Sequence[float],
        gamma: Sequence[float],
        margin: Sequence[int] = (2, 2, 1),
        prob: float = 1.0,
    ) -> None:
        super().__init__(prob)
        self.ranges = {"contrast": tuple(contrast), "brightness": tuple(brightness), "gamma": tuple(gamma)}
        for name, limits in self.ranges.items():
            if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
                raise ValueError(f"{name} must be two ascending numbers above 0, got {list(limits)}")
        if len(margin) != 3 or min(margin) < 0:
            raise ValueError(f"margin must be three numbers of voxels from 0 up, got {list(margin)}")
        self.numbers = _numbers_sought(structure, structures)
        self.margin = tuple(margin)
        self._factors: dict[str, float] = {}

    def randomize(self, data: None = None) -> None:
        """Draw the factors; the same number of draws whatever the image shows."""
        super().randomize(None)
        self._factors = {name: float(self.R.uniform(limits[0], limits[1])) for name, limits in self.ranges.items()}

    def __call__(  # type: ignore[override]
        self, image: torch.Tensor, label: torch.Tensor, randomize: bool = True
    ) -> torch.Tensor:
        """Return the image (C, X, Y, Z) with the box changed; it is not changed itself.

        Args:
            image: channels share the factors.
            label: (1, X, Y, Z), or (2, X, Y, Z) with its trust.
            randomize: False repeats the last draw.
        """
        if randomize:
            self.randomize()
        box = self._box(label[0]) if self._do_transform else None
        if box is None:
            return image
        changed = image.clone()
        changed[box] = self._changed(changed[box])
        return changed

    def _box(self, label: torch.Tensor) -> tuple[slice, ...] | None:
        """Return the box about the structure in a label map (X, Y, Z), for an image (C, X, Y, Z)."""
        mask = torch.isin(label, torch.tensor(self.numbers, dtype=label.dtype, device=label.device))
        places = mask.nonzero()
        if not len(places):
            return None
        low, high = places.amin(dim=0).tolist(), places.amax(dim=0).tolist()
        sides = (slice(max(a - m, 0), b + m + 1) for a, b, m in zip(low, high, self.margin, strict=True))
        return (slice(None), *sides)

    def _changed(self, part: torch.Tensor) -> torch.Tensor:
        mean = part.mean(dim=(1, 2, 3), keepdim=True)
        part = ((part - mean) * self._factors["contrast"] + mean) * self._factors["brightness"]
        if part.max() == part.min():  # a flat box has no standard deviation to restore
            return part
        return torch.as_tensor(AdjustContrast(self._factors["gamma"], retain_stats=True)(part))


class RandStructureContrastd(RandomTwind):
    """Dictionary twin of ``RandStructureContrast``.

    Args:
        keys: of the images (C, X, Y, Z), changed in copies; all get the same factors.
        label_key: of the label map (1, X, Y, Z), or (2, X, Y, Z) with its trust.
        structures: see ``RandStructureContrast``, as the following.
        structure: about which the box lies.
        contrast: smallest and largest factor.
        brightness: smallest and largest factor.
        gamma: smallest and largest power.
        margin: by which the box is larger on each side, in voxels (x, y, z).
        prob: probability.
        allow_missing_keys: skip keys that an item lacks.
    """

    backend = RandStructureContrast.backend

    def __init__(
        self,
        keys: KeysCollection,
        label_key: str,
        structures: Sequence[str],
        structure: str,
        contrast: Sequence[float],
        brightness: Sequence[float],
        gamma: Sequence[float],
        margin: Sequence[int] = (2, 2, 1),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        change = RandStructureContrast(structures, structure, contrast, brightness, gamma, margin, prob)
        super().__init__(keys, change, label_key, allow_missing_keys)


def _numbers_sought(structure: str, structures: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of a structure in the network's label map; none where it is not sought."""
    sought = values_sought({structure: None}, structures, "structure")
    return numbers_of(structure, model_labels(structures)) if sought else ()


class InUnitRange(Randomizable, Transform):
    """Run transforms on an image brought to -1..1, and bring the result back to the image's own units.

    Published augmentations state noise, brightness and limits for images from -1 to 1, while ours are z-scored: here
    the stated numbers apply as they are. The image's minimum becomes -1 and its upper percentile 1; what lies beyond is
    clipped before and after, as card C clips. The same linear map is undone at the end, so an image whose structures
    were brightened is not darkened for it. Random where the transforms are; not invertible.

    Args:
        transforms: on images (C, X, Y, Z).
        upper_percentile: which becomes 1, above 50 to 100 (as in the working space's ``minmax_percentile``).

    Raises:
        CrossmodaError: a percentile that cannot be.
    """

    def __init__(self, transforms: Sequence[Any], upper_percentile: float = 99.9) -> None:
        if not 50 < upper_percentile <= 100:
            raise CrossmodaError(f"upper_percentile {upper_percentile} must lie above 50 and not above 100")
        self.transforms = Compose(transforms)
        self.upper_percentile = upper_percentile

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> InUnitRange:
        """Seed the transforms."""
        super().set_random_state(seed, state)
        self.transforms.set_random_state(seed, state)
        return self

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return the changed image (C, X, Y, Z); it is not changed itself."""
        scaled, units = self.into_range(image)
        return self.out_of_range(self.transforms(scaled), units)

    def into_range(self, image: torch.Tensor) -> tuple[torch.Tensor, Units]:
        """Return the image from -1 to 1, and its own units."""
        low, high = _limits(image, self.upper_percentile)
        half = (high - low).clamp(min=1e-6) / 2
        return ((image - low) / half - 1).clamp(-1, 1), (low, half)

    def out_of_range(self, image: torch.Tensor, units: Units) -> torch.Tensor:
        """Return an image from -1 to 1 in the units that it had."""
        low, half = units
        return (image.clamp(-1, 1) + 1) * half + low


class InUnitRanged(Randomizable, MapTransform):
    """Dictionary twin of ``InUnitRange``, for transforms on dictionaries, which may use and change other entries.

    Args:
        keys: of the images (C, X, Y, Z); each item's images have their own map.
        transforms: on dictionaries.
        upper_percentile: see ``InUnitRange``.
        allow_missing_keys: skip keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transforms: Sequence[Any],
        upper_percentile: float = 99.9,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.within = InUnitRange(transforms, upper_percentile)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> InUnitRanged:
        """Seed the transforms."""
        super().set_random_state(seed, state)
        self.within.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with changed images; the input is not changed."""
        item, units = dict(data), {}
        for key in self.key_iterator(item):
            item[key], units[key] = self.within.into_range(item[key])
        item = dict(self.within.transforms(item))
        for key, own in units.items():
            item[key] = self.within.out_of_range(item[key], own)
        return item


def _limits(image: torch.Tensor, upper_percentile: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image's minimum and its upper percentile; ``torch.quantile`` refuses images above 16 million voxels."""
    values = image.as_subclass(torch.Tensor).flatten()
    rank = min(max(round(len(values) * upper_percentile / 100), 1), len(values))
    return values.min(), values.kthvalue(rank).values
