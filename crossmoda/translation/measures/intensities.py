"""How far the grey values of translated volumes lie from those of real ones."""

from __future__ import annotations

import torch

_FOREGROUND = -0.9  # above 5 % of the range is not air
_QUANTILES = 101


def foreground_quantiles(volume: torch.Tensor) -> torch.Tensor:
    """Return 101 quantiles (0 %, 1 %, ... 100 %) of a volume's voxels above air; all -1 if there are none."""
    voxels = torch.as_tensor(volume).float().flatten()
    voxels = voxels[voxels > _FOREGROUND]
    if voxels.numel() == 0:
        return torch.full((_QUANTILES,), -1.0)
    ordered = voxels.sort().values  # torch.quantile refuses more than 16 million values
    positions = torch.linspace(0, ordered.numel() - 1, _QUANTILES).round().long()
    return ordered[positions].cpu()


def intensity_distance(quantiles: torch.Tensor, real: torch.Tensor) -> float:
    """Return the mean absolute difference of two sets' averaged quantiles, (volumes, 101) each.

    It is the Wasserstein-1 distance of the averaged distributions. 0 is best; an offset of all intensities by d gives
    d, on the scale of [-1, 1].
    """
    return float((quantiles.mean(dim=0) - real.mean(dim=0)).abs().mean())
