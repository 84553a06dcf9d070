"""What a predicted label map must look like to be true of a patient: pieces dropped, failed rules told as data."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends
from scipy import ndimage

from crossmoda.data.volumes import voxel_volume_mm3
from crossmoda.errors import CrossmodaError
from crossmoda.labels import COCHLEA, EXTRA, INTRA, VS, mask_of, model_labels, numbers_of
from crossmoda.preprocessing.each_key import EachKeyd
from crossmoda.segmentation.anatomy import (
    APART_MM,
    FAR_VS,
    JOIN_MM,
    NEAR_MM,
    NEIGHBOURS,
    joined_components,
    left_to_right_mm,
    nearest_mm,
    spacing_of,
)
from crossmoda.segmentation.by_name import values_sought
from crossmoda.segmentation.geometry import affine_of

# Volumes in mm3. Both cochleae of the challenge measure 184 +- 28 together, its largest tumour 27 mL outside the canal,
# and the canal holds 2 mL at most.
VOLUMES_MM3 = {VS: (10.0, 30000.0), COCHLEA: (30.0, 250.0), INTRA: (0.0, 2000.0), EXTRA: (0.0, 30000.0)}

DROPPED_VS = "far_vs_mm3"  # the one rule about what a label map no longer shows

# What ``check_anatomy`` measures: of which structure, and how it is told.
RULES = {
    "vs_mm3": (VS, "vs of {} mm3"),
    "intra_mm3": (INTRA, "intra-meatal part of {} mm3"),
    "extra_mm3": (EXTRA, "extra-meatal part of {} mm3"),
    DROPPED_VS: (VS, "vs of {} mm3 dropped far from both cochleae"),
    "tumours": (VS, "number of tumours {}"),
    "vs_to_cochlea_mm": (VS, "vs {} mm from the nearest cochlea"),
    "cochleae": (COCHLEA, "number of cochleae {}"),
    "cochlea_least_mm3": (COCHLEA, "smallest cochlea of {} mm3"),
    "cochlea_largest_mm3": (COCHLEA, "largest cochlea of {} mm3"),
    "cochleae_apart_mm": (COCHLEA, "cochleae {} mm apart from left to right"),
}


class RemoveSmallComponents(Transform):
    """Make background of a structure's connected components (26 neighbours) below a volume.

    Step 6 of card A removes those below 10 mm3. MONAI's ``RemoveSmallObjects`` has one size for all labels and takes
    each part of a tumour by itself. The parts of a tumour, where a model tells them apart, count together as ``vs``.
    Deterministic; not invertible.

    Args:
        structures: names in the order of the network's output channels.
        least_mm3: volume by structure; others are left alone, and those that the model does not tell apart passed over.

    Raises:
        CrossmodaError: a name of ``least_mm3`` is no structure.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(self, structures: Sequence[str], least_mm3: Mapping[str, float]) -> None:
        self.labels = model_labels(structures)
        self.least_mm3 = values_sought(least_mm3, structures, "least_mm3")

    def __call__(self, label_map: torch.Tensor) -> torch.Tensor:
        """Return a label map (1, X, Y, Z) like the given one, without the small components."""
        array = _array(label_map)
        voxel_mm3 = voxel_volume_mm3(affine_of(label_map))
        dropped = np.zeros(array.shape, bool)
        for structure, least in self.least_mm3.items():
            components, _ = ndimage.label(mask_of(structure, array, self.labels), NEIGHBOURS)
            small = np.bincount(components.ravel()) * voxel_mm3 < least
            small[0] = False
            dropped |= small[components]
        return _without(label_map, dropped)


class KeepTwoCochleae(Transform):
    """Keep at most two cochleae, one on each side.

    Kept is the pair of components with most volume whose centres lie ``apart_mm`` from left to right; where no two do,
    the largest. The head's midline need not be known for it, which a field of view does not tell. Pieces nearer than
    ``join_mm`` count as one. Sides and distances are those of the affine. Deterministic; not invertible.

    Args:
        structures: names in the order of the network's output channels; without a cochlea nothing is done.
        apart_mm: least and largest distance.
        join_mm: between voxel centres, at least 0.

    Raises:
        CrossmodaError: a distance is not in its range.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self, structures: Sequence[str], apart_mm: Sequence[float] = APART_MM, join_mm: float = JOIN_MM
    ) -> None:
        self.labels = model_labels(structures)
        self.apart_mm, self.join_mm = tuple(apart_mm), join_mm
        if len(self.apart_mm) != 2 or not 0 < self.apart_mm[0] <= self.apart_mm[1] or join_mm < 0:
            raise CrossmodaError(
                f"KeepTwoCochleae: apart_mm {list(apart_mm)} must be two rising distances above 0, join_mm {join_mm} "
                "not below 0"
            )

    def __call__(self, label_map: torch.Tensor) -> torch.Tensor:
        """Return a label map (1, X, Y, Z) like the given one, with two cochleae at most."""
        if COCHLEA not in self.labels:
            return label_map
        cochlea = mask_of(COCHLEA, _array(label_map), self.labels)
        affine = affine_of(label_map)
        groups, count = joined_components(cochlea, spacing_of(label_map), self.join_mm)
        if count < 2:
            return label_map
        volumes = np.bincount(groups.ravel(), minlength=count + 1)[1:]
        sides = left_to_right_mm(groups, count, affine)
        least, most = self.apart_mm
        pairs = [
            pair for pair in combinations(range(count), 2) if least <= abs(np.subtract(*sides[list(pair)])) <= most
        ]
        kept = max(pairs, key=lambda pair: volumes[list(pair)].sum(), default=(int(np.argmax(volumes)),))
        return _without(label_map, cochlea & ~np.isin(groups, np.add(kept, 1)))


class RemoveSmallComponentsd(EachKeyd):
    """Dictionary twin of ``RemoveSmallComponents``, for label maps (1, X, Y, Z) under the keys."""

    backend = RemoveSmallComponents.backend

    def __init__(
        self,
        keys: KeysCollection,
        structures: Sequence[str],
        least_mm3: Mapping[str, float],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RemoveSmallComponents(structures, least_mm3), allow_missing_keys)


class KeepTwoCochleaed(EachKeyd):
    """Dictionary twin of ``KeepTwoCochleae``, for label maps (1, X, Y, Z) under the keys."""

    backend = KeepTwoCochleae.backend

    def __init__(
        self,
        keys: KeysCollection,
        structures: Sequence[str],
        apart_mm: Sequence[float] = APART_MM,
        join_mm: float = JOIN_MM,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, KeepTwoCochleae(structures, apart_mm, join_mm), allow_missing_keys)


def check_anatomy(
    label_map: torch.Tensor,
    structures: Sequence[str],
    volumes_mm3: Mapping[str, Sequence[float]] | None = None,
    distance_mm: float = NEAR_MM,
    apart_mm: Sequence[float] = APART_MM,
    far_vs_mm3: float = 0.0,
) -> dict[str, Any]:
    """Return what a label map shows, and which rules of anatomy it breaks; nothing is changed.

    Step 6 of card A asks for a VS, two cochleae, a plausible volume of the VS, and a VS near a cochlea.

    Args:
        label_map: (1, X, Y, Z), numbered as ``model_labels(structures)``.
        structures: what the model tells apart; rules about others are left out.
        volumes_mm3: least and largest volume by structure, in place of ``VOLUMES_MM3``; of the cochlea, for each side.
        distance_mm: largest, between the nearest voxel centres of VS and cochlea.
        apart_mm: least and largest distance of the cochleae's centres from left to right.
        far_vs_mm3: what was dropped as a VS far from both cochleae.

    Returns:
        ``found``: measured values by name. ``failed``: for each broken rule a dictionary of ``rule`` (a key of
        ``found``), the value ``found``, and what is ``allowed``, least and largest.
    """
    array, affine, labels = _array(label_map), affine_of(label_map), model_labels(structures)
    limits = {**VOLUMES_MM3, **(volumes_mm3 or {})}
    found: dict[str, float] = {}
    allowed: dict[str, Sequence[float]] = {}
    masks = {name: mask_of(name, array, labels) for name in (VS, INTRA, EXTRA, COCHLEA) if _tells(name, labels)}
    for name in set(masks) - {COCHLEA}:
        found[f"{name}_mm3"] = round(float(masks[name].sum()) * voxel_volume_mm3(affine), 2)
        allowed[f"{name}_mm3"] = limits[name]
    if VS in masks:
        if far_vs_mm3 > 0:
            found[DROPPED_VS], allowed[DROPPED_VS] = round(far_vs_mm3, 2), (0, 0)
        found["tumours"], allowed["tumours"] = ndimage.label(masks[VS], NEIGHBOURS)[1], (1, 1)
    if COCHLEA in masks:
        found |= _measured_cochleae(masks[COCHLEA], affine, spacing_of(label_map))
        allowed |= {"cochleae": (2, 2), "cochlea_least_mm3": limits[COCHLEA], "cochlea_largest_mm3": limits[COCHLEA]}
        allowed["cochleae_apart_mm"] = apart_mm
    if VS in masks and COCHLEA in masks and masks[VS].any() and masks[COCHLEA].any():
        found["vs_to_cochlea_mm"] = round(nearest_mm(masks[VS], masks[COCHLEA], spacing_of(label_map)), 2)
        allowed["vs_to_cochlea_mm"] = (0, distance_mm)
    failed = [
        {"rule": rule, "found": value, "allowed": list(allowed[rule])}
        for rule, value in sorted(found.items())
        if not allowed[rule][0] <= value <= allowed[rule][1]
    ]
    return {"found": dict(sorted(found.items())), "failed": failed}


def tell_found(rule: str, value: float) -> str:
    """Return a measured value of ``check_anatomy`` in words.

    Raises:
        KeyError: there is no such rule.
    """
    return RULES[rule][1].format(f"{value:g}")


def remarks_on(report: Mapping[str, Any]) -> list[str]:
    """Return the rules that fail in a report of ``check_anatomy``, in words."""
    return [tell_failed(failure) for failure in report["failed"]]


def tell_failed(failure: Mapping[str, Any]) -> str:
    """Return one of ``check_anatomy``'s ``failed`` in words, with what is allowed."""
    least, most = failure["allowed"]
    allowed = f"{least:g}" if least == most else f"{least:g} to {most:g}"
    return f"{tell_found(failure['rule'], failure['found'])}, {allowed} allowed"


class CheckAnatomyd(MapTransform):
    """Add ``check_anatomy``'s report to the item, under a key's name + ``"_anatomy"``; label maps stay as they are.

    What ``KeepOneTumourd`` has dropped as far from both cochleae is told, too.

    Args:
        keys: of label maps (1, X, Y, Z).
        structures: names in the order of the network's output channels.
        allow_missing_keys: skip keys that an item lacks.
        limits: ``volumes_mm3``, ``distance_mm`` and ``apart_mm`` of ``check_anatomy``.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self, keys: KeysCollection, structures: Sequence[str], allow_missing_keys: bool = False, **limits: Any
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.structures = list(structures)
        self.limits = limits

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the report."""
        item = dict(data)
        for key in self.key_iterator(item):
            far_mm3 = item.pop(f"{key}{FAR_VS}", 0.0)
            item[f"{key}_anatomy"] = check_anatomy(item[key], self.structures, far_vs_mm3=far_mm3, **self.limits)
        return item


def _measured_cochleae(cochlea: np.ndarray, affine: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    groups, count = joined_components(cochlea, spacing_mm, JOIN_MM)
    if not count:
        return {"cochleae": 0}
    volumes = np.bincount(groups.ravel(), minlength=count + 1)[1:] * voxel_volume_mm3(affine)
    measured = {
        "cochleae": count,
        "cochlea_least_mm3": round(float(volumes.min()), 2),
        "cochlea_largest_mm3": round(float(volumes.max()), 2),
    }
    if count == 2:
        sides = left_to_right_mm(groups, count, affine)
        measured["cochleae_apart_mm"] = round(float(abs(sides[0] - sides[1])), 2)
    return measured


def _tells(structure: str, labels: dict[str, int]) -> bool:
    try:
        return bool(numbers_of(structure, labels))
    except CrossmodaError:
        return False


def _array(label_map: torch.Tensor) -> np.ndarray:
    return np.asarray(label_map.detach().cpu())[0]


def _without(label_map: torch.Tensor, dropped: np.ndarray) -> torch.Tensor:
    """Return the label map (1, X, Y, Z) with background where a mask (X, Y, Z) says; metadata stay."""
    mask = torch.as_tensor(dropped, device=label_map.device)[None]
    return torch.where(mask, torch.zeros_like(label_map), label_map)
