"""What is known of where a tumour can lie, for choosing among predicted ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Transform
from monai.utils import TransformBackends
from scipy import ndimage
from scipy.spatial import cKDTree

from crossmoda.data.volumes import spacing_mm
from crossmoda.errors import CrossmodaError
from crossmoda.labels import COCHLEA, PARTS, VS, mask_of, model_labels
from crossmoda.preprocessing.each_key import EachKeyd

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
    stays, for a person to see, unless ``keep_far`` is false and both cochleae were found: then there is none. The parts
    of a tumour, where a model tells them apart, count together. A model that seeks no tumour, or one part alone, is
    left as it is. Deterministic; not invertible.

    Args:
        structures: names in the order of the network's output channels.
        distance_mm: what is near, between the nearest voxel centres.
        keep_far: whether a tumour far from both cochleae stays.

    Raises:
        CrossmodaError: the distance is not above 0.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, structures: Sequence[str], distance_mm: float = NEAR_MM, keep_far: bool = True) -> None:
        if distance_mm <= 0:
            raise CrossmodaError(f"KeepOneTumour: distance_mm is {distance_mm}, but must be above 0")
        self.labels = model_labels(structures)
        self.sought = VS in self.labels or all(part in self.labels for part in PARTS[VS])
        self.distance_mm = distance_mm
        self.keep_far = keep_far

    def __call__(self, label_map: torch.Tensor) -> torch.Tensor:
        """Return a label map (1, X, Y, Z) with one tumour at most; the input is not changed.

        It is numbered as ``crossmoda.labels.model_labels(structures)``; spacing is read from its affine (voxels of 1 mm
        where it has none).
        """
        if not self.sought:
            return label_map
        array = np.asarray(label_map.detach().cpu())[0]
        tumour = mask_of(VS, array, self.labels)
        components, count = ndimage.label(tumour, np.ones((3, 3, 3)))
        if count == 0 or (count == 1 and self.keep_far):
            return label_map
        kept = self._choose(components, array, spacing_of(label_map))
        dropped = torch.as_tensor(tumour & (components != kept), device=label_map.device)[None]
        return torch.where(dropped, torch.zeros_like(label_map), label_map)

    def _choose(self, components: np.ndarray, array: np.ndarray, spacing_mm: Sequence[float]) -> int:
        """Return the number of the component to keep, 0 for none."""
        descending = np.argsort(-np.bincount(components.ravel())[1:], kind="stable") + 1
        if COCHLEA not in self.labels:
            return int(descending[0])
        cochlea = mask_of(COCHLEA, array, self.labels)
        near = self._near(components, cochlea, spacing_mm)
        far = 0 if not self.keep_far and ndimage.label(cochlea, np.ones((3, 3, 3)))[1] > 1 else int(descending[0])
        return next((int(number) for number in descending if number in near), far)

    def _near(self, components: np.ndarray, cochlea: np.ndarray, spacing_mm: Sequence[float]) -> set[int]:
        """Return the numbers of the components near the cochlea; one search for all, however many pieces there are."""
        if not cochlea.any():
            return set()
        places, sizes = np.argwhere(components), np.asarray(spacing_mm)
        beyond = np.nextafter(self.distance_mm, np.inf)  # the search leaves out what lies as far as its bound
        tree = cKDTree(np.argwhere(cochlea) * sizes)
        distances = tree.query(places * sizes, distance_upper_bound=beyond)[0]
        return {int(number) for number in np.unique(components[tuple(places[distances <= self.distance_mm].T)])}


class KeepOneTumourd(EachKeyd):
    """Dictionary twin of ``KeepOneTumour``, for label maps (1, X, Y, Z) under the keys."""

    backend = KeepOneTumour.backend

    def __init__(
        self,
        keys: KeysCollection,
        structures: Sequence[str],
        distance_mm: float = NEAR_MM,
        allow_missing_keys: bool = False,
        keep_far: bool = True,
    ) -> None:
        super().__init__(keys, KeepOneTumour(structures, distance_mm, keep_far), allow_missing_keys)


def spacing_of(image: torch.Tensor) -> tuple[float, ...]:
    """Return the voxel spacing in mm of a (C, X, Y, Z) image, 1 mm where it carries no affine."""
    affine = getattr(image, "affine", None)
    return (1.0, 1.0, 1.0) if affine is None else tuple(float(size) for size in spacing_mm(affine))
