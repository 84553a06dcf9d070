"""Metrics of a segmenter, one figure for each structure, for ignite engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler
from monai.metrics import DiceMetric, SurfaceDistanceMetric

Output = Sequence[dict[str, torch.Tensor]]
Pair = tuple[list[torch.Tensor], list[torch.Tensor]]


def masks_of_channel(channel: int) -> Callable[[Output], Pair]:
    """Return a function from an engine's decollated output to that channel of one-hot ``pred`` and ``label``."""

    def select(output: Output) -> Pair:
        part = slice(channel, channel + 1)
        return [item["pred"][part] for item in output], [item["label"][part] for item in output]

    return select


def structure_dice(structures: Sequence[str]) -> dict[str, DiceWhereShown]:
    """Return one mean Dice a structure, named ``STRUCTURE_dice``; cases without the structure do not count."""
    return {
        f"{name}_dice": DiceWhereShown(output_transform=masks_of_channel(index + 1))
        for index, name in enumerate(structures)
    }


def structure_assd(structures: Sequence[str]) -> dict[str, IgniteMetricHandler]:
    """Return one average symmetric surface distance in mm a structure, named ``STRUCTURE_assd_mm``."""
    return {
        f"{name}_assd_mm": SurfaceDistanceInMillimetres(output_transform=masks_of_channel(index + 1))
        for index, name in enumerate(structures)
    }


class MeanWhereKnown(IgniteMetricHandler):
    """A mean over the cases that have a value, not a number where none has; MONAI's handlers tell 0 then."""

    def compute(self) -> float:
        """Return the mean."""
        values = self.metric_fn.get_buffer()
        self._is_reduced = True
        known = torch.empty(0) if values is None else values[torch.isfinite(values)]
        return float(known.mean()) if known.numel() else math.nan


class DiceWhereShown(MeanWhereKnown):
    """Mean Dice over the cases whose label shows the structure.

    Args:
        output_transform: from the engine's output to lists of masks (1, X, Y, Z).
    """

    def __init__(self, output_transform: Callable[[Any], Pair]) -> None:
        super().__init__(DiceMetric(include_background=True), output_transform=output_transform, save_details=False)


class SurfaceDistanceInMillimetres(MeanWhereKnown):
    """Average symmetric surface distance with each prediction's own voxel spacing, which MONAI's handler leaves out.

    Cases in which the prediction or the label is empty have no distance and do not count.

    Args:
        output_transform: from the engine's output to lists of masks (1, X, Y, Z); the predictions carry their affine.
    """

    def __init__(self, output_transform: Callable[[Any], Pair]) -> None:
        # One channel a metric, and that a structure's: there is no background channel to leave out.
        metric = SurfaceDistanceMetric(include_background=True, symmetric=True)
        super().__init__(metric_fn=metric, output_transform=output_transform, save_details=False)

    def update(self, output: Sequence[Any]) -> None:
        """Add the cases of one iteration: lists of predicted and of true masks (1, X, Y, Z)."""
        predictions, labels = output
        for prediction, label in zip(predictions, labels, strict=True):
            self.metric_fn(prediction[None], label[None], spacing=prediction.pixdim.tolist())
