"""What a label file does not say: structures that nobody drew, and voxels or structures that are trusted less.

A structure that was not annotated is not absent. Card A's and B's single-structure labels, whole tumours for a network
that seeks the tumour's parts, and pseudo-labels are learnt from without charging the network for what they leave open.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from crossmoda.data.transforms import MapLabelsByNamed, file_name_of, map_labels
from crossmoda.errors import CrossmodaError
from crossmoda.labels import PARTS, STRUCTURES, model_labels, numbers_of

CHANNEL_GROUP = "channel_group"  # entry of an item: see channel_groups
STRUCTURE_WEIGHT = "structure_weight"  # entry of an item: how far each structure's label is trusted, (structures,)
FULL_TRUST = 255  # of a voxel, in the second channel of a label map; whole numbers, since label maps are uint8


def channel_groups(labels: Mapping[str, int], structures: Sequence[str]) -> list[int]:
    """Return, for each output channel, the channel that stands for all those that an annotation cannot tell from it.

    A structure that the annotation does not know stands with the background (0). Where it knows a structure only as a
    whole and the network seeks all parts, the last part of ``crossmoda.labels.PARTS`` stands for them: the
    extra-meatal one, which is most of a tumour. An annotation that knows everything gives ``[0, 1, 2, ...]``.

    Args:
        labels: ``name -> number`` of the annotation on disk.
        structures: what the network segments, in the order of its channels.

    Returns:
        One channel for the background and for each structure; a channel that stands for others stands for itself.
    """
    channels = model_labels(structures)
    groups = [0]
    for structure in structures:
        name = _annotated_as(structure, labels, structures)
        groups.append(0 if name is None else channels[structure if name == structure else PARTS[name][-1]])
    return groups


def _annotated_as(structure: str, labels: Mapping[str, int], structures: Sequence[str]) -> str | None:
    """Return the name that an annotation tells a structure apart by: its own, that of its undivided whole, or None."""
    if structure in labels or (structure in PARTS and all(part in labels for part in PARTS[structure])):
        return structure
    for whole, parts in PARTS.items():
        undivided = whole in labels and not any(part in labels for part in parts)
        if structure in parts and undivided and all(part in structures for part in parts):
            return whole
    return None


class MapKnownLabelsByNamed(MapLabelsByNamed):
    """``MapLabelsByNamed`` for annotations that may know some of the structures alone.

    Adds to the item ``channel_group`` (channels,), int64, as ``channel_groups`` gives it, and ``structure_weight``
    (structures,), float32: the item's ``structure_weights`` by name, which are removed, or 1. A voxel of an undivided
    structure gets the number of the channel that stands for it. Not random, not invertible.

    Args:
        keys: label entries, (1, X, Y, Z).
        labels: ``name -> number`` on disk; must know at least one structure.
        structures: what the network segments, in the order of its channels.
        labels_key: an entry of the item that, where present, replaces ``labels`` for it and is removed.
        weights_key: an optional entry of the item, structure name -> 0 (not trusted: as if not annotated) to 1.
        allow_missing_keys: pass over entries that are not there.

    Raises:
        CrossmodaError: at construction, if ``labels`` know none of the structures; at a call, for a voxel value that
            the labels do not know (the file is named), an item whose labels know none of the structures, or a weight
            that is not between 0 and 1 or of a structure that the network does not seek.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: Mapping[str, int],
        structures: Sequence[str],
        labels_key: str = "labels",
        weights_key: str = "structure_weights",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, labels, structures, labels_key, allow_missing_keys)
        self.weights_key = weights_key

    def _require_known(self) -> None:
        """Refuse labels that know none of the structures."""
        _require_something_known(channel_groups(self.labels, self.structures), self.labels, self.structures, "labels")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its labels mapped and what they know noted; the input is not changed."""
        d = dict(data)
        labels = {str(name): int(number) for name, number in (d.pop(self.labels_key, None) or self.labels).items()}
        case = str(d.get("case", "an item"))
        groups = channel_groups(labels, self.structures)
        _require_something_known(groups, labels, self.structures, case)
        for key in self.key_iterator(d):
            d[key] = _map_known(d[key], labels, self.structures, groups)
        d[CHANNEL_GROUP] = torch.tensor(groups)
        d[STRUCTURE_WEIGHT] = torch.tensor(_weights(d.pop(self.weights_key, None) or {}, self.structures, case))
        return d


def _require_something_known(
    groups: Sequence[int], labels: Mapping[str, int], structures: Sequence[str], where: str
) -> None:
    if not any(groups):
        raise CrossmodaError(
            f"{where}: the labels {dict(labels)} know none of {', '.join(structures)}; correct them or the structures"
        )


def _map_known(
    label_map: torch.Tensor, labels: Mapping[str, int], structures: Sequence[str], groups: Sequence[int]
) -> torch.Tensor:
    """Return the label map with the channel that stands for each annotated structure, 0 elsewhere."""
    standing = sorted(set(groups) - {0})
    names = [_annotated_as(structures[channel - 1], labels, structures) for channel in standing]
    mapped = map_labels(label_map, labels, [name for name in names if name])
    lookup = torch.tensor([0, *standing], dtype=mapped.dtype, device=mapped.device)
    return mapped.copy_(lookup[mapped.as_subclass(torch.Tensor).long()])


def _weights(weights: Mapping[str, float], structures: Sequence[str], case: str) -> list[float]:
    """Return a weight for each structure: its own, that of the whole it is part of, or 1."""
    channels = model_labels(structures)
    values = [1.0] * len(structures)
    for name in sorted(weights, key=lambda name: name not in PARTS):  # a part's own weight after that of the whole
        weight = weights[name]
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not 0 <= weight <= 1:
            raise CrossmodaError(f"{case}: structure weight {weight!r} of {name} must be a number from 0 to 1")
        try:
            numbers = numbers_of(name, channels)
        except CrossmodaError:
            if name in STRUCTURES:
                continue  # of a structure that this network leaves alone
            raise CrossmodaError(
                f"{case}: structure weight of '{name}', which is no structure; known are {', '.join(STRUCTURES)}"
            ) from None
        for number in numbers:
            values[number - 1] = float(weight)
    return values


class AttachConfidenced(MapTransform):
    """Put the voxelwise confidence of a label beside it, as a second channel of the label map.

    There it goes through every flip, rotation and crop that the label goes through, and the losses of
    ``crossmoda.segmentation.losses`` find it. It is stored in 255ths, because label maps are uint8. A voxel whose
    confidence lies below the threshold is ignored in every term (card C keeps voxels whose largest probability is
    at least 0.9); without a threshold a voxel counts by its confidence. Not random, not invertible.

    Args:
        keys: label entries (1, X, Y, Z), which become (2, X, Y, Z) of the same type.
        confidence_key: an entry (1, X, Y, Z) on the label's grid, 0 to 1, which is removed. An item without one, as
            those that a person labelled, is trusted fully.
        threshold: 0 to 1, or None.
        allow_missing_keys: pass over entries that are not there.

    Raises:
        CrossmodaError: at construction, a threshold that cannot be; at a call, a confidence of another shape than the
            label or outside 0..1 (the file is named).
    """

    def __init__(
        self,
        keys: KeysCollection,
        confidence_key: str = "confidence",
        threshold: float | None = 0.9,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if threshold is not None and not 0 <= threshold <= 1:
            raise CrossmodaError(f"confidence threshold {threshold} must lie between 0 and 1")
        self.confidence_key = confidence_key
        self.threshold = threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its labels in two channels; the input is not changed."""
        d = dict(data)
        confidence = d.pop(self.confidence_key, None)
        for key in self.key_iterator(d):
            label = d[key]
            trust = torch.full_like(label, FULL_TRUST) if confidence is None else self._trust(confidence, label)
            d[key] = torch.cat([label, trust])
        return d

    def _trust(self, confidence: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        if confidence.shape != label.shape or not 0 <= float(confidence.min()) <= float(confidence.max()) <= 1:
            raise CrossmodaError(
                f"{file_name_of(confidence)}: a confidence must lie on its label's grid {tuple(label.shape[1:])} and "
                f"between 0 and 1, but has {tuple(confidence.shape[1:])} voxels between {float(confidence.min()):g} "
                f"and {float(confidence.max()):g}"
            )
        trust = confidence if self.threshold is None else (confidence >= self.threshold).float()
        return (trust * FULL_TRUST).round().to(label.dtype)
