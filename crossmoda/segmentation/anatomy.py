"""What is known of where a tumour can lie, for choosing among predicted ones."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Transform
from monai.utils import TransformBackends
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from crossmoda.data.volumes import spacing_mm, voxel_volume_mm3
from crossmoda.errors import CrossmodaError
from crossmoda.labels import COCHLEA, PARTS, VS, mask_of, model_labels
from crossmoda.preprocessing.each_key import EachKeyd
from crossmoda.segmentation.geometry import affine_of

NEIGHBOURS = np.ones((3, 3, 3))
APART_MM = (25.0, 80.0)  # left to right between the cochleae's centres: about 45 to 55 mm in adults, and some play
JOIN_MM = 2.0  # pieces of one cochlea: the bone between its turns is thinner
FAR_VS = "_far_vs_mm3"  # after a key's name
NEAR_MM = 10.0  # between the nearest voxels of a VS and the cochlea beside the canal that it grows from


def nearest_mm(a: np.ndarray, b: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Return the distance in mm between the nearest voxel centres of two masks (X, Y, Z), infinity if one is empty."""
    if not a.any() or not b.any():
        return float("inf")
    places = [np.argwhere(mask) * np.asarray(spacing_mm) for mask in (a, b)]
    return float(cKDTree(places[1]).query(places[0])[0].min())


class KeepOneTumour(Transform):
    """Keep one connected component (26 neighbours) of the VS: the largest of those that lie near a cochlea.

    A patient has one VS here, which grows from the canal beside the cochlea. The largest component alone is at times a
    cistern or a vessel far from it. Where no component is near, or no cochlea was sought or found, the largest of all
    stays, for a person to see; but where ``far_mm`` is given and both cochleae were found, only one within that. The
    parts of a tumour, where a model tells them apart, count together. A model that seeks no tumour, or one part alone,
    is left as it is. Deterministic; not invertible.

    Args:
        structures: names in the order of the network's output channels.
        distance_mm: what is near, between the nearest voxel centres.
        far_mm: what is no VS, farther than this from both cochleae; None: anything may be one.

    Raises:
        CrossmodaError: the distance is not above 0, or what is far is nearer than what is near.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, structures: Sequence[str], distance_mm: float = NEAR_MM, far_mm: float | None = None) -> None:
        if distance_mm <= 0:
            raise CrossmodaError(f"KeepOneTumour: distance_mm is {distance_mm}, but must be above 0")
        if far_mm is not None and far_mm < distance_mm:
            raise CrossmodaError(f"KeepOneTumour: far_mm is {far_mm}, but must not be below {distance_mm}")
        self.labels = model_labels(structures)
        self.sought = VS in self.labels or all(part in self.labels for part in PARTS[VS])
        self.distance_mm = distance_mm
        self.far_mm = far_mm

    def __call__(self, label_map: torch.Tensor) -> torch.Tensor:
        """Return a label map (1, X, Y, Z) with one tumour at most; the input is not changed.

        It is numbered as ``crossmoda.labels.model_labels(structures)``; spacing is read from its affine (voxels of 1 mm
        where it has none).
        """
        return self.kept_of(label_map)[0]

    def kept_of(self, label_map: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return what a call returns, and the volume (mm3) of the VS that was dropped as far from both cochleae."""
        if not self.sought:
            return label_map, 0.0
        array = np.asarray(label_map.detach().cpu())[0]
        tumour = mask_of(VS, array, self.labels)
        components, count = ndimage.label(tumour, NEIGHBOURS)
        if count == 0 or (count == 1 and self.far_mm is None):
            return label_map, 0.0
        kept = self._choose(components, array, affine_of(label_map), spacing_of(label_map))
        dropped = torch.as_tensor(tumour & (components != kept), device=label_map.device)[None]
        far_mm3 = 0.0 if kept else float(tumour.sum()) * voxel_volume_mm3(affine_of(label_map))
        return torch.where(dropped, torch.zeros_like(label_map), label_map), far_mm3

    def _choose(
        self, components: np.ndarray, array: np.ndarray, affine: np.ndarray, spacing_mm: Sequence[float]
    ) -> int:
        """Return the number of the component to keep, 0 for none."""
        descending = [int(n) for n in np.argsort(-np.bincount(components.ravel())[1:], kind="stable") + 1]
        if COCHLEA not in self.labels:
            return descending[0]
        cochlea = mask_of(COCHLEA, array, self.labels)
        near, otherwise = _within(self.distance_mm, components, cochlea, spacing_mm), descending[0]
        if not near and self.far_mm is not None and _both_sides(cochlea, affine, spacing_mm):
            near, otherwise = _within(self.far_mm, components, cochlea, spacing_mm), 0
        return next((number for number in descending if number in near), otherwise)


class KeepOneTumourd(EachKeyd):
    """Dictionary twin of ``KeepOneTumour``, for label maps (1, X, Y, Z) under the keys.

    Where a VS was dropped as far from both cochleae, its volume (mm3) is under the key's name + ``FAR_VS``.
    """

    backend = KeepOneTumour.backend

    def __init__(
        self,
        keys: KeysCollection,
        structures: Sequence[str],
        distance_mm: float = NEAR_MM,
        allow_missing_keys: bool = False,
        far_mm: float | None = None,
    ) -> None:
        self.keep = KeepOneTumour(structures, distance_mm, far_mm)
        super().__init__(keys, self.keep, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with one tumour at most in each label map."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key], far_mm3 = self.keep.kept_of(item[key])
            if far_mm3:
                item[f"{key}{FAR_VS}"] = far_mm3
        return item


def _within(distance_mm: float, components: np.ndarray, cochlea: np.ndarray, spacing_mm: Sequence[float]) -> set[int]:
    """Return the numbers of the components near the cochlea; one search for all, however many pieces there are."""
    if not cochlea.any():
        return set()
    places, sizes = np.argwhere(components), np.asarray(spacing_mm)
    beyond = np.nextafter(distance_mm, np.inf)  # the search leaves out what lies as far as its bound
    tree = cKDTree(np.argwhere(cochlea) * sizes)
    distances = tree.query(places * sizes, distance_upper_bound=beyond)[0]
    return {int(number) for number in np.unique(components[tuple(places[distances <= distance_mm].T)])}


def _both_sides(cochlea: np.ndarray, affine: np.ndarray, spacing_mm: Sequence[float]) -> bool:
    """Return whether a mask shows a cochlea on either side, pieces of one taken together."""
    groups, count = joined_components(cochlea, spacing_mm, JOIN_MM)
    if count < 2:
        return False
    sides = left_to_right_mm(groups, count, affine)
    return any(APART_MM[0] <= abs(a - b) <= APART_MM[1] for a, b in combinations(sides, 2))


def joined_components(mask: np.ndarray, spacing_mm: Sequence[float], join_mm: float) -> tuple[np.ndarray, int]:
    """Return numbered components (26 neighbours) of a mask (X, Y, Z) and their count; near ones have one number.

    Args:
        mask: bool.
        spacing_mm: of the voxels.
        join_mm: components whose nearest voxel centres are at most this far apart are one.
    """
    components, count = ndimage.label(mask, NEIGHBOURS)
    if count < 2:
        return components, count
    border = np.argwhere(mask & ~ndimage.binary_erosion(mask))  # what is nearest to another component lies there
    near = cKDTree(border * np.asarray(spacing_mm)).query_pairs(join_mm + 1e-6, output_type="ndarray")
    first, second = components[tuple(border.T)][near].T - 1
    graph = coo_matrix((np.ones(len(near)), (first, second)), shape=(count, count))
    joined, groups = connected_components(graph, directed=False)
    return np.concatenate([[0], groups + 1])[components], joined


def left_to_right_mm(groups: np.ndarray, count: int, affine: np.ndarray) -> np.ndarray:
    """Return the world's x (count,) of the centre of each numbered group (X, Y, Z), in mm."""
    centres = np.asarray(ndimage.center_of_mass(groups > 0, groups, range(1, count + 1)))
    return centres @ affine[0, :3] + affine[0, 3]


def spacing_of(image: torch.Tensor) -> tuple[float, ...]:
    """Return the voxel spacing in mm of a (C, X, Y, Z) image, 1 mm where it carries no affine."""
    affine = getattr(image, "affine", None)
    return (1.0, 1.0, 1.0) if affine is None else tuple(float(size) for size in spacing_mm(affine))
