"""Borders of predicted structures by the scan's own contrast, as transforms.

The same as the rules ``RefineByContrast`` and ``TakeAwayFluid`` of ``crossmoda.self_training``, which clean
pseudo-labels, with the same settings; here for any prediction ("contrast post-processing" of card C of the recipes).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type

from crossmoda.errors import CrossmodaError
from crossmoda.labels import COCHLEA, VS, mask_of, model_labels, numbers_of
from crossmoda.segmentation.anatomy import spacing_of
from crossmoda.segmentation.contrast import refine_by_contrast, without_fluid
from crossmoda.segmentation.geometry import require_same_grid


class RedrawByContrast(Transform):
    """Redraw a structure that is bright in dark surroundings, as the cochlea's fluid in bone, where the scan shows it.

    See ``refine_by_contrast`` for how; a component whose volume would be halved or doubled stays. Other structures keep
    their voxels. Deterministic; not invertible.

    Args:
        structures: names in the order of the network's output channels.
        structure: to redraw, one of these.
        shift_mm: see ``refine_by_contrast``, as the following.
        distance_mm: how far the border may move outwards.
        context_mm: how far around a component the signal is looked at.
        threshold_share: of the way from bone's signal to the fluid's, from 0 to 1.
        closing_mm: radius of the closing.

    Raises:
        CrossmodaError: the model does not tell the structure apart, or a setting is not in its range; at a call, label
            map and scan lie on two grids.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        structures: Sequence[str],
        structure: str = COCHLEA,
        shift_mm: float = 1.3,
        distance_mm: float = 0.8,
        context_mm: float = 2.5,
        threshold_share: float = 0.3,
        closing_mm: float = 1.6,
    ) -> None:
        self.labels = model_labels(structures)
        (self.number,) = numbers_of(structure, {name: n for name, n in self.labels.items() if name == structure})
        lengths = {"distance_mm": distance_mm, "context_mm": context_mm, "closing_mm": closing_mm}
        _require("RedrawByContrast", lengths, {"shift_mm": shift_mm}, {"threshold_share": threshold_share})
        self.settings = (shift_mm, distance_mm, context_mm, threshold_share, closing_mm)

    def __call__(self, label_map: torch.Tensor, scan: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the label map (1, X, Y, Z) with the structure redrawn by the scan (1, X, Y, Z) on the same grid."""
        array, image = _arrays(label_map, scan)
        before = array == self.number
        after = refine_by_contrast(before, image, spacing_of(label_map), array == 0, *self.settings)
        return _changed(label_map, np.where(after, self.number, np.where(before, 0, array)))


class RemoveFluid(Transform):
    """Take from a tumour the bright fluid of cistern and canal that was counted in, and the brain beyond that fluid.

    See ``without_fluid`` for how; where less than a quarter would remain the tumour stays. Deterministic; not
    invertible.

    Args:
        structures: names in the order of the network's output channels.
        structure: to trim, also ``vs`` where the model tells its parts apart.
        origin: beside which it grows; where a model does not seek it, what lies beyond fluid is not taken.
        threshold_share: see ``without_fluid``, as the following.
        least_contrast: between core and fluid, from 0 to 1.
        least_separation: the same in interquartile ranges of the core's signal.
        small_ml: volume of a small tumour.
        smoothing_mm: standard deviation of the Gaussian.
        opening_mm: radius of the opening.

    Raises:
        CrossmodaError: the model does not tell the structure apart, or a setting is not in its range; at a call, label
            map and scan lie on two grids.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        structures: Sequence[str],
        structure: str = VS,
        origin: str = COCHLEA,
        threshold_share: float = 0.3,
        least_contrast: float = 0.2,
        least_separation: float = 2.5,
        small_ml: float = 1.0,
        smoothing_mm: float = 0.3,
        opening_mm: float = 0.9,
    ) -> None:
        self.labels = model_labels(structures)
        numbers_of(structure, self.labels)
        self.structure, self.origin = structure, origin
        lengths = {"smoothing_mm": smoothing_mm, "opening_mm": opening_mm, "least_separation": least_separation}
        shares = {"threshold_share": threshold_share, "least_contrast": least_contrast}
        _require("RemoveFluid", lengths, {"small_ml": small_ml}, shares)
        self.settings = (threshold_share, least_contrast, least_separation, small_ml, smoothing_mm, opening_mm)

    def __call__(self, label_map: torch.Tensor, scan: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return the label map (1, X, Y, Z) without the fluid that the scan (1, X, Y, Z) shows on the same grid."""
        array, image = _arrays(label_map, scan)
        before = mask_of(self.structure, array, self.labels)
        sought = self.origin in self.labels
        origin = mask_of(self.origin, array, self.labels) if sought else np.zeros_like(before)
        after = without_fluid(before, image, spacing_of(label_map), origin, *self.settings)
        return _changed(label_map, np.where(before & ~after, 0, array))


class _RefineByScand(MapTransform):
    """Refine label maps (1, X, Y, Z) by the scan on the same grid; subclasses say how.

    Args:
        keys: of label maps.
        structures: names in the order of the network's output channels.
        scan_key: of the scan (1, X, Y, Z).
        allow_missing_keys: skip keys that an item lacks.
        settings: those of the array transform.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 - as MONAI declares it
    transform: type[RedrawByContrast] | type[RemoveFluid]

    def __init__(
        self,
        keys: KeysCollection,
        structures: Sequence[str],
        scan_key: str = "scan",
        allow_missing_keys: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.refine = self.transform(structures, **settings)
        self.scan_key = scan_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item whose label maps are refined."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.refine(item[key], item[self.scan_key])
        return item


class RedrawByContrastd(_RefineByScand):
    """Dictionary twin of ``RedrawByContrast``: ``keys``, ``structures``, ``scan_key``, then its settings."""

    transform = RedrawByContrast


class RemoveFluidd(_RefineByScand):
    """Dictionary twin of ``RemoveFluid``: ``keys``, ``structures``, ``scan_key``, then its settings."""

    transform = RemoveFluid


def _require(name: str, above_0: Mapping[str, float], from_0: Mapping[str, float], shares: Mapping[str, float]) -> None:
    """Refuse settings out of their ranges."""
    wrong = [f"{key} is {value}, but must be above 0" for key, value in above_0.items() if value <= 0]
    wrong += [f"{key} is {value}, but must not be below 0" for key, value in from_0.items() if value < 0]
    wrong += [f"{key} is {value}, but must be from 0 to 1" for key, value in shares.items() if not 0 <= value <= 1]
    if wrong:
        raise CrossmodaError(f"{name}: {wrong[0]}")


def _arrays(label_map: torch.Tensor, scan: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return label map and scan (X, Y, Z) as arrays."""
    require_same_grid(label_map, scan, "label map and scan")
    return np.asarray(label_map.detach().cpu())[0], np.asarray(scan.detach().cpu())[0]


def _changed(label_map: torch.Tensor, array: np.ndarray) -> torch.Tensor:
    """Return the array (X, Y, Z) with the label map's type and metadata."""
    return convert_to_dst_type(torch.as_tensor(array)[None], label_map)[0]
