"""How good a translation is: against the same anatomy if that is known, else against the modality's intensities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric, PSNRMetric, SSIMMetric
from monai.transforms import Compose
from monai.utils import ImageMetaKey

from crossmoda.translation.items import section_items

_RANGE = 2.0  # of intensities in [-1, 1]
_FOREGROUND = -0.9  # above 5 % of the range is not air
_QUANTILES = 101
_SSIM_WINDOW = (7, 7, 1)  # voxels (x, y, z): within slices, of which thick scans have few


def foreground_quantiles(volume: torch.Tensor) -> torch.Tensor:
    """Return 101 quantiles (0 %, 1 %, ... 100 %) of a volume's voxels above air; all -1 if there are none."""
    voxels = torch.as_tensor(volume).float().flatten()
    voxels = voxels[voxels > _FOREGROUND]
    if voxels.numel() == 0:
        return torch.full((_QUANTILES,), -1.0)
    ordered = voxels.sort().values  # torch.quantile refuses more than 16 million values
    positions = torch.linspace(0, ordered.numel() - 1, _QUANTILES).round().long()
    return ordered[positions].cpu()


class IntensityDistance(CumulativeIterationMetric):
    """Measure how far the foreground intensities of translated volumes lie from those of real ones.

    The quantiles of each volume are averaged over the volumes of either kind; the distance is the mean absolute
    difference between the two averages, which is the Wasserstein-1 distance of the averaged distributions. 0 is best;
    an offset of all intensities by d gives d, on the scale of [-1, 1].

    Args:
        reference: quantiles of the real volumes (volumes, 101), from ``foreground_quantiles``.
    """

    def __init__(self, reference: torch.Tensor) -> None:
        super().__init__()
        self.reference = reference.mean(dim=0)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """Return the quantiles (B, 101) of volumes (B, C, X, Y, Z)."""
        return torch.stack([foreground_quantiles(volume) for volume in y_pred])

    def aggregate(self) -> torch.Tensor:
        """Return the distance over all volumes so far, a scalar."""
        quantiles = self.get_buffer()
        return (torch.as_tensor(quantiles).mean(dim=0) - self.reference).abs().mean()


def evaluation_metrics(
    truth_dir: str | Path | None,
    dataset_dir: str | Path,
    preprocessing: Callable[[dict[str, Any]], dict[str, Any]],
    reference_section: str = "target",
) -> dict[str, IgniteMetricHandler]:
    """Return the metrics for an evaluator: SSIM and PSNR against true images, or else the intensity distance.

    Args:
        truth_dir: folder of true images, or None where they are unknown.
        dataset_dir: data set whose real scans of ``reference_section`` are compared with when there is no truth.
        preprocessing: brings ``image`` of a real scan to (1, X, Y, Z) in [-1, 1].
        reference_section: section with the real scans of the target modality.
    """
    if truth_dir is not None:
        pairs = from_engine(["pred", "label"])
        ssim = SSIMMetric(spatial_dims=3, data_range=_RANGE, win_size=_SSIM_WINDOW, kernel_type="uniform")
        return {
            "ssim": IgniteMetricHandler(metric_fn=ssim, output_transform=pairs),
            "psnr_db": IgniteMetricHandler(metric_fn=PSNRMetric(max_val=_RANGE), output_transform=pairs),
        }
    reference = reference_quantiles(section_items(dataset_dir, reference_section), preprocessing)
    return {
        "intensity_distance": IgniteMetricHandler(metric_fn=IntensityDistance(reference), output_transform=_predictions)
    }


def _predictions(output: Sequence[dict[str, Any]]) -> tuple[list[torch.Tensor], None]:
    return [item["pred"] for item in output], None


def reference_quantiles(
    items: Sequence[dict[str, Any]], preprocessing: Callable[[dict[str, Any]], dict[str, Any]]
) -> torch.Tensor:
    """Return the foreground quantiles (volumes, 101) of scans, one prepared at a time."""
    prepare = Compose([preprocessing])
    return torch.stack([foreground_quantiles(prepare(dict(item))["image"]) for item in items])


def case_files(batch: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Return what ``MetricsSaver`` names its rows by, from a decollated batch: the cases."""
    return [{ImageMetaKey.FILENAME_OR_OBJ: item["case"]} for item in batch]
