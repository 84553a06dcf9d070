"""How likely a network holds what it decides, voxel by voxel and within each predicted structure (card C)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import TransformBackends, convert_to_dst_type

from crossmoda.labels import PARTS, mask_of, model_labels
from crossmoda.segmentation.geometry import require_same_grid
from crossmoda.segmentation.uncertainty import STEPS

CONFIDENCE = "confidence"


def largest_probability(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the probability of the likeliest class (1, X, Y, Z), in steps of 1 / ``STEPS``.

    The background's is what the structures leave, so that voxels of probability 0 in every class, as outside a crop
    window, are surely background.

    Args:
        probabilities: (C, X, Y, Z), background first.
    """
    plain = probabilities.as_tensor() if isinstance(probabilities, MetaTensor) else probabilities
    largest = 1 - plain[1:].sum(dim=0)
    for channel in plain[1:]:
        largest = torch.maximum(largest, channel)
    largest = largest.clamp_(0, 1).mul_(STEPS).round_().div_(STEPS)[None]
    return convert_to_dst_type(largest, probabilities)[0]


class KeepLargestProbabilityd(MapTransform):
    """Add ``largest_probability`` of class probabilities (C, X, Y, Z) to the item, before they are decided.

    Deterministic; not invertible.

    Args:
        keys: one key, of the probabilities, which stay as they are.
        confidence_key: where the map (1, X, Y, Z) goes, with the probabilities' geometry.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, keys: KeysCollection, confidence_key: str = CONFIDENCE) -> None:
        super().__init__(keys)
        self.confidence_key = confidence_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the map."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[self.confidence_key] = largest_probability(item[key])
        return item


def confidence_within(
    label_map: torch.Tensor,
    confidence: torch.Tensor,
    structures: Sequence[str],
    measured: Sequence[str] | None = None,
) -> dict[str, dict[str, float]]:
    """Return the mean and the largest confidence within each structure that a label map shows.

    Args:
        label_map: (1, X, Y, Z), numbered as ``model_labels(structures)``.
        confidence: (1, X, Y, Z) on the same grid.
        structures: names of the numbers 1, 2, ...
        measured: those that the confidence is about, by default all; a structure whose parts are all among them is
            measured as well.

    Raises:
        CrossmodaError: the two do not lie on one grid.
    """
    require_same_grid(label_map, confidence, "confidence_within: label map and confidence")
    labels, names = model_labels(structures), list(structures if measured is None else measured)
    names += [whole for whole, parts in PARTS.items() if whole not in names and all(part in names for part in parts)]
    label, values = np.asarray(label_map.detach().cpu())[0], np.asarray(confidence.detach().cpu())[0]
    inside = {name: values[mask_of(name, label, labels)] for name in names}
    return {
        name: {"mean": round(float(found.mean()), 6), "max": round(float(found.max()), 6)}
        for name, found in inside.items()
        if found.size
    }


class MeasureConfidenced(MapTransform):
    """Add ``confidence_within`` of a label map to the item, under a key's name + ``"_confidence"``.

    Deterministic; not invertible.

    Args:
        keys: of label maps (1, X, Y, Z).
        structures: names of their numbers 1, 2, ...
        measured: those that the confidence is about, e.g. one model's of a merged label map.
        confidence_key: where ``KeepLargestProbabilityd`` left the map.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        keys: KeysCollection,
        structures: Sequence[str],
        measured: Sequence[str] | None = None,
        confidence_key: str = CONFIDENCE,
    ) -> None:
        super().__init__(keys)
        self.structures = list(structures)
        self.measured = None if measured is None else list(measured)
        self.confidence_key = confidence_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the figures; label map and confidence stay as they are."""
        item = dict(data)
        for key in self.key_iterator(item):
            confidence = item[self.confidence_key]
            item[f"{key}_confidence"] = confidence_within(item[key], confidence, self.structures, self.measured)
        return item
