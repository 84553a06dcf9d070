"""Distances between what was translated and real hrT2, as metrics that MONAI's engines gather case by case."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric

from crossmoda.translation.measures.distances import frechet_distance, kernel_distance_with_error
from crossmoda.translation.measures.intensities import intensity_distance
from crossmoda.translation.measures.real_scans import RealScans
from crossmoda.translation.measures.transforms import INPUT, TRANSLATION, TRUTH


class DistributionDistance(CumulativeIterationMetric):
    """Gather rows that describe cases, and return how far all of them together are from the real scans'.

    Args:
        real: description of the real scans.
    """

    def __init__(self, real: RealScans) -> None:
        super().__init__()
        self.real = real
        self._cases = 0

    def reset(self) -> None:
        """Forget all cases."""
        super().reset()
        self._cases = 0

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        """Take in a list of tensors (rows, values), one a case; a case may have no rows."""
        filled = [rows for rows in y_pred if len(rows)]
        return super().__call__(filled, y, **kwargs) if filled else None

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Return one case's rows (1, rows, values) with the case's number before each, (rows, 1 + values)."""
        rows = y_pred[0].float().cpu()
        self._cases += 1
        return torch.cat([torch.full((len(rows), 1), float(self._cases)), rows], dim=1)

    def aggregate(self) -> torch.Tensor:
        """Return the distance over all cases so far, a scalar; NaN for too few."""
        rows = self.get_buffer()
        if not isinstance(rows, torch.Tensor):
            return torch.tensor(float("nan"))
        return torch.tensor(self.distance(rows[:, 1:], rows[:, 0].int().tolist()))

    @abstractmethod
    def distance(self, rows: torch.Tensor, cases: list[int]) -> float:
        """Return the distance of rows (N, values), of which each is of the case that ``cases`` says."""


class KernelDistance(DistributionDistance):
    """``kernel_distance`` of slice features, pairs of slices of one case left out; keeps its ``standard_error``."""

    standard_error = float("nan")

    def distance(self, rows: torch.Tensor, cases: list[int]) -> float:
        """Return the distance of features (N, 80)."""
        if min(len(set(cases)), len(set(self.real.cases))) < 2:
            return float("nan")
        value, self.standard_error = kernel_distance_with_error(rows, self.real.features, cases, self.real.cases)
        return value


class FrechetDistance(DistributionDistance):
    """``frechet_distance`` of slice features."""

    def distance(self, rows: torch.Tensor, cases: list[int]) -> float:
        """Return the distance of features (N, 80)."""
        if min(len(rows), len(self.real.features)) < 2:
            return float("nan")
        return frechet_distance(rows, self.real.features)


class IntensityDistance(DistributionDistance):
    """``intensity_distance`` of the foreground's quantiles."""

    def distance(self, rows: torch.Tensor, cases: list[int]) -> float:
        """Return the distance of quantiles (N, 101)."""
        return intensity_distance(rows, self.real.quantiles)


# Name of a distance: its metric, and which rows of a case ``DescribeVolumesd`` adds for it.
DISTANCES: dict[str, tuple[Callable[[RealScans], DistributionDistance], str]] = {
    "kernel_distance": (KernelDistance, "features"),
    "frechet_distance": (FrechetDistance, "features"),
    "intensity_distance": (IntensityDistance, "quantiles"),
}


def distance_name(measure: str, kind: str) -> str:
    """Return what a distance is called among an engine's metrics: the translation's by the measure alone."""
    return measure if kind == TRANSLATION else f"{measure}_{kind}"


def distance_metrics(real: RealScans | None) -> dict[str, IgniteMetricHandler] | None:
    """Return the distances of translations, of their ceT1 and of true hrT2 to real scans, for an evaluator.

    They read what ``DescribeVolumesd`` adds to the engine's output. None without real scans.
    """
    if real is None:
        return None
    return {
        distance_name(measure, kind): IgniteMetricHandler(
            metric_fn=metric(real), output_transform=_gathered(f"{kind}_{rows}"), save_details=False
        )
        for kind in (TRANSLATION, INPUT, TRUTH)
        for measure, (metric, rows) in DISTANCES.items()
    }


def _gathered(key: str) -> Callable[[Sequence[dict[str, Any]]], tuple[list[torch.Tensor], None]]:
    """Return a function from an engine's decollated output to that entry of the cases that have it."""
    return lambda output: ([item[key] for item in output if key in item], None)
