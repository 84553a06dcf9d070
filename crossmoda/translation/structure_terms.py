"""What keeps VS and cochlea where the label says while a slice changes its modality.

An option of every trainer, in the direction of the 2023 challenge's winner (Liu et al., arXiv 2311.12437), whose
generator segments the slice that it translates (weight 0.5) and keeps its edges (weight 1). There the edges of the
source image are kept; here those of the label, because the cochlea has next to none on ceT1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss
from torch import nn


class LabelEdgeLoss(nn.Module):
    """Ask for an edge of the translated slice wherever the label has one, along it and of either sign.

    The normalised gradient field of Haber and Modersitzki (MICCAI 2006): with the gradients t of the slice and l of the
    smoothed label, 1 - <t, l>^2 / (|l|^2 (|t|^2 + visible^2)), averaged over the label's border with weights |l|. It is
    0 for a strong edge along the border and 1 for none or one across it. Slices without structures count as 0.

    Args:
        visible: gradient per pixel, on intensities in [-1, 1], at which an edge counts half.
        sigma: of the label's smoothing, in pixels.
    """

    kernel: torch.Tensor

    def __init__(self, visible: float = 0.1, sigma: float = 1.0) -> None:
        super().__init__()
        self.visible = visible
        steps = torch.arange(-3.0, 4.0)
        row = torch.exp(-0.5 * (steps / sigma) ** 2)
        self.register_buffer("kernel", (row / row.sum()), persistent=False)

    def forward(self, translated: torch.Tensor, label: torch.Tensor, structures: int) -> torch.Tensor:
        """Return the loss of slices (B, 1, X, Y) and labels (B, 1, X, Y) with structures 1, 2, ..., as a scalar."""
        slopes = gradients(translated.float())
        terms = [self._of_structure(slopes, (label == index + 1).float()) for index in range(structures)]
        return torch.stack(terms).mean()

    def _of_structure(self, slopes: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        borders = gradients(self._smooth(mask))
        border = borders.square().sum(dim=1)
        strength = slopes.square().sum(dim=1) + self.visible**2
        along = (slopes * borders).sum(dim=1).square() / (border.clamp_min(1e-12) * strength)
        weights = border.sqrt()
        return (weights * (1 - along)).sum() / weights.sum().clamp_min(1e-6)

    def _smooth(self, mask: torch.Tensor) -> torch.Tensor:
        kernel = self.kernel.to(mask.dtype)
        padded = F.pad(mask, (3, 3, 3, 3), mode="replicate")
        return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None, :])


def gradients(slices: torch.Tensor) -> torch.Tensor:
    """Return the central differences (B, 2, X, Y) along x and y of slices (B, 1, X, Y); the border is replicated."""
    padded = F.pad(slices, (1, 1, 1, 1), mode="replicate")
    along_x = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    along_y = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    return torch.cat([along_x, along_y], dim=1)


class StructureTerms(nn.Module):
    """A segmentation head on the generator's last features, and the label's edges in the translated slice.

    The head takes part in the training alone; the generator that is deployed stays as it is.

    Args:
        feature_channels: of the generator's features before its last convolution: its ``ngf``.
        structures: how many structures the label tells apart: 1, 2, ...
        segmentation_weight: of Dice and cross-entropy of what the head predicts; 0 leaves it out.
        edge_weight: of ``LabelEdgeLoss``; 0 leaves it out.
        visible: gradient at which an edge counts half.
    """

    def __init__(
        self,
        feature_channels: int,
        structures: int,
        segmentation_weight: float = 0.5,
        edge_weight: float = 1.0,
        visible: float = 0.1,
    ) -> None:
        super().__init__()
        self.structures = structures
        self.segmentation_weight = segmentation_weight
        self.edge_weight = edge_weight
        self.head = nn.Conv2d(feature_channels, structures + 1, 3, padding=1)
        self.segmentation = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
        self.edges = LabelEdgeLoss(visible)

    def forward(self, features: torch.Tensor, translated: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the weighted losses by name.

        Args:
            features: of the source slices before the generator's last convolution, (B, feature_channels, X, Y).
            translated: the translated slices (B, C, X, Y); of a slab the middle one is looked at.
            label: structures of the (middle) slices, (B, 1, X, Y).
        """
        losses = {}
        if self.segmentation_weight > 0:
            logits = self.head(features).float()
            losses["loss_structure_segmentation"] = self.segmentation_weight * self.segmentation(logits, label)
        if self.edge_weight > 0:
            middle = translated.shape[1] // 2
            slices = translated[:, middle : middle + 1]
            losses["loss_structure_edges"] = self.edge_weight * self.edges(slices, label, self.structures)
        return losses
