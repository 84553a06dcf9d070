"""The measures of one case as MONAI transforms, to stand in an evaluator's postprocessing.

Each takes the case's volumes in the working space: ``image`` (the ceT1), ``pred`` (its translation), ``label`` (the
true hrT2, where known) and ``structures`` (masks, where there are labels; see ``StructureMasksd``). Each adds what it
finds to ``measures``: ``{measure: {kind: value}}``, where kind is one of ``KINDS``, or ``difference``, which is the
translation's value less the truth's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import PSNRMetric, SSIMMetric
from monai.transforms import Transform
from monai.utils import convert_to_numpy

from crossmoda.data.volumes import spacing_mm
from crossmoda.translation.measures.contrast import RING_MM, structure_contrasts
from crossmoda.translation.measures.edges import edge_survival
from crossmoda.translation.measures.features import SliceFeatures, volume_features
from crossmoda.translation.measures.flicker import FOREGROUND, brightness_flicker
from crossmoda.translation.measures.intensities import foreground_quantiles
from crossmoda.translation.measures.masks import named_masks

TRANSLATION, INPUT, TRUTH, DIFFERENCE = "translation", "input", "truth", "difference"
KINDS = {TRANSLATION: "pred", INPUT: "image", TRUTH: "label"}  # kind -> key of the item
MEASURES = "measures"
STRUCTURES = "structures"
_RANGE = 2.0  # of intensities in [-1, 1]
_SSIM_WINDOW = (7, 7, 1)  # voxels (x, y, z): within slices, of which thick scans have few

Item = dict[Hashable, Any]
Values = Mapping[str, float | None]


def volumes_of(item: Mapping[Hashable, Any]) -> dict[str, torch.Tensor]:
    """Return the item's volumes (1, X, Y, Z) by kind, on the CPU; those that it lacks are left out."""
    found = {kind: item.get(key) for kind, key in KINDS.items()}
    return {kind: torch.as_tensor(v).detach().cpu() for kind, v in found.items() if isinstance(v, torch.Tensor)}


class CaseMeasured(Transform):
    """Measure each of a case's volumes on its own and note the values."""

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Return the item with more ``measures``; the input is not changed."""
        d = dict(data)
        measures = {name: dict(values) for name, values in d.get(MEASURES, {}).items()}
        for kind, volume in volumes_of(d).items():
            for name, value in self.measure(kind, volume, d).items():
                if value is not None and np.isfinite(value):
                    measures.setdefault(name, {})[kind] = float(value)
        d[MEASURES] = measures
        return d

    @abstractmethod
    def measure(self, kind: str, volume: torch.Tensor, item: Item) -> Values:
        """Return the values, by measure's name, of one volume (1, X, Y, Z); None where there is nothing to measure."""


class MeasureSimilarityd(CaseMeasured):
    """``psnr_db`` and ``ssim`` of the translation, and of the ceT1, against the true hrT2, where that is known.

    Over the whole window, by MONAI; SSIM with a uniform window of 7 x 7 pixels within slices.
    """

    def __init__(self) -> None:
        self._psnr = PSNRMetric(max_val=_RANGE)
        self._ssim = SSIMMetric(spatial_dims=3, data_range=_RANGE, win_size=_SSIM_WINDOW, kernel_type="uniform")

    def measure(self, kind: str, volume: torch.Tensor, item: Item) -> Values:
        """Return both values of a volume (1, X, Y, Z)."""
        truth = volumes_of(item).get(TRUTH)
        if truth is None or kind == TRUTH:
            return {}
        pair = {"y_pred": volume[None].float(), "y": truth[None].float()}
        return {
            "psnr_db": float(torch.as_tensor(self._psnr(**pair))),
            "ssim": float(torch.as_tensor(self._ssim(**pair))),
        }


class MeasureContrastd(CaseMeasured):
    """``contrast_NAME`` of each structure, with its difference to the truth's; see ``structure_contrasts``.

    Args:
        structures: names of the masks' channels.
        ring_mm: width of the ring that a structure is compared with.
    """

    def __init__(self, structures: Sequence[str], ring_mm: float = RING_MM) -> None:
        self.structures = list(structures)
        self.ring_mm = ring_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Return the item with more ``measures``."""
        d = super().__call__(data)
        for name in self.structures:
            found = d[MEASURES].get(f"contrast_{name}", {})
            if TRANSLATION in found and TRUTH in found:
                found[DIFFERENCE] = found[TRANSLATION] - found[TRUTH]
        return d

    def measure(self, kind: str, volume: torch.Tensor, item: Item) -> Values:
        """Return the contrast of every structure that the case's label shows."""
        masks = masks_of(item, self.structures)
        found = structure_contrasts(_array(volume), masks, _spacing(item), self.ring_mm) if masks else {}
        return {f"contrast_{name}": value for name, value in found.items()}


class MeasureEdgesd(CaseMeasured):
    """``edges_NAME``: how much of each structure's border is an edge of the volume; see ``edge_survival``.

    Args:
        structures: names of the masks' channels.
    """

    def __init__(self, structures: Sequence[str]) -> None:
        self.structures = list(structures)

    def measure(self, kind: str, volume: torch.Tensor, item: Item) -> Values:
        """Return the value of every structure that the case's label shows."""
        masks, image, spacing = masks_of(item, self.structures), _array(volume), _spacing(item)
        return {f"edges_{name}": edge_survival(image, mask, spacing) for name, mask in masks.items()}


class MeasureFlickerd(CaseMeasured):
    """``flicker`` of all volumes on the ceT1's foreground; see ``brightness_flicker``."""

    def measure(self, kind: str, volume: torch.Tensor, item: Item) -> Values:
        """Return the value of a volume (1, X, Y, Z)."""
        return {"flicker": brightness_flicker(_array(volume), _array(volumes_of(item)[INPUT]) > FOREGROUND)}


class DescribeVolumesd(Transform):
    """Add what distances between distributions need: ``KIND_features`` (slices, 80) and ``KIND_quantiles`` (1, 101).

    Where the case has masks, only slices about the structures count, as far up and down as a real hrT2 goes: a ceT1
    often shows the whole head, and its other slices have no counterpart among the real hrT2's.

    Args:
        structures: names of the masks' channels.
        height_mm: of the slab about the structures; None for all slices.
    """

    def __init__(self, structures: Sequence[str], height_mm: float | None = None) -> None:
        self.structures = list(structures)
        self.height_mm = height_mm
        self._features = SliceFeatures()

    def __call__(self, data: Mapping[Hashable, Any]) -> Item:
        """Return the item with the descriptions of its volumes; the input is not changed."""
        d = dict(data)
        slab = self._slab(d)
        for kind, volume in volumes_of(d).items():
            d[f"{kind}_features"] = volume_features(volume[..., slab], self._features)
            d[f"{kind}_quantiles"] = foreground_quantiles(volume[..., slab])[None]
        return d

    def _slab(self, item: Item) -> slice:
        masks = masks_of(item, self.structures)
        if not masks or self.height_mm is None:
            return slice(None)
        shown = np.flatnonzero(np.logical_or.reduce(list(masks.values())).any(axis=(0, 1)))
        half = max(self.height_mm / _spacing(item)[2], 1.0) / 2
        middle = (shown[0] + shown[-1] + 1) / 2
        return slice(max(round(middle - half), 0), max(round(middle + half), 1))


def masks_of(item: Mapping[Hashable, Any], structures: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the case's boolean masks (X, Y, Z) by name; none where it has no label."""
    masks = item.get(STRUCTURES)
    return {} if masks is None else named_masks(torch.as_tensor(masks), structures)


def _array(volume: torch.Tensor) -> np.ndarray:
    return np.asarray(convert_to_numpy(volume)[0], dtype=np.float32)


def _spacing(item: Mapping[Hashable, Any]) -> np.ndarray:
    return spacing_mm(np.asarray(item[KINDS[INPUT]].affine, dtype=float))
