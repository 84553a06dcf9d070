"""Structures of a label map by name, as masks beside the image in the working space."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy.ndimage import distance_transform_edt, find_objects

from crossmoda.data.transforms import map_labels
from crossmoda.errors import CrossmodaError
from crossmoda.labels import STRUCTURES, numbers_of

UNTOLD = -1  # throughout the channel of a structure that a label map cannot tell apart
Box = tuple[slice, slice, slice]


class StructureMasksd(MapTransform):
    """Turn a label map (1, X, Y, Z) into one int8 mask a structure, (structures, X, Y, Z): 1 inside, 0 outside.

    The mask of a structure that the item's labels cannot tell apart (of a label map of the VS alone, the cochlea's) is
    -1 throughout. Not random, not invertible.

    Args:
        keys: label maps; items may lack them.
        structures: names, in the order of the channels.
        labels_key: entry ``name -> number`` that says what the item's label maps hold; it is removed.

    Raises:
        CrossmodaError: at construction, an unknown name; at a call, a voxel value that the labels do not know.
    """

    def __init__(self, keys: KeysCollection, structures: Sequence[str], labels_key: str = "labels") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.structures = list(structures)
        self.labels_key = labels_key
        for name in self.structures:
            if name not in STRUCTURES:
                raise CrossmodaError(f"structures: '{name}' is unknown; choose among {', '.join(STRUCTURES)}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its label maps as masks; the input is not changed."""
        d = dict(data)
        labels = d.pop(self.labels_key, {})
        for key in self.key_iterator(d):
            map_labels(d[key], labels, [])  # looks for unknown values, whatever the structures
            d[key] = torch.cat([_mask(d[key], labels, name) for name in self.structures])
        return d


def _mask(label_map: torch.Tensor, labels: Mapping[str, int], name: str) -> torch.Tensor:
    known = {structure: int(number) for structure, number in labels.items()}
    try:
        numbers_of(name, known)
    except CrossmodaError:
        return torch.full_like(label_map, UNTOLD, dtype=torch.int8)
    return map_labels(label_map, known, [name]).to(torch.int8)


def named_masks(masks: torch.Tensor, structures: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the boolean masks (X, Y, Z), by name, of the structures that are there; see ``StructureMasksd``."""
    arrays = {name: np.asarray(mask) == 1 for name, mask in zip(structures, masks.cpu(), strict=True)}
    return {name: array for name, array in arrays.items() if array.any()}


def box_about(mask: np.ndarray, margin_voxels: Sequence[int]) -> Box:
    """Return the slices (x, y, z) of a mask's bounding box, widened by a margin as far as the array goes."""
    found = find_objects(mask.astype(np.uint8))[0]
    sides = [
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, margin, length in zip(found, margin_voxels, mask.shape, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def ring_about(mask: np.ndarray, occupied: np.ndarray, spacing_mm: np.ndarray, ring_mm: float) -> np.ndarray:
    """Return the voxels outside all structures that lie within ``ring_mm`` of a mask, boolean (X, Y, Z).

    Args:
        mask: of one structure, not empty.
        occupied: voxels of any structure.
        spacing_mm: edge lengths of a voxel.
        ring_mm: width; distances run between voxel centres.
    """
    box = box_about(mask, [int(np.ceil(ring_mm / side)) for side in spacing_mm])
    ring = np.zeros_like(mask)
    ring[box] = distance_transform_edt(~mask[box], sampling=spacing_mm) <= ring_mm
    return ring & ~occupied
