"""Mining of hard examples: voxels next to a structure's border, on both sides, weigh more in the cross-entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.errors import CrossmodaError
from crossmoda.labels import VS, model_labels, numbers_of
from crossmoda.segmentation.losses import label_and_trust


class HardExampleLoss(nn.Module):
    """Add to a loss the cross-entropy of the voxels about a structure's border, of the finest head alone.

    Card C (Chen 2023: "hard-example mining by eroding/dilating masks"): hard negatives are a ring around the tumour,
    the mask dilated by a cube minus the mask; its released code has no hard positives, which are here the rim that
    eroding the mask takes away. Every call draws the cubes' widths anew, from PyTorch's global generator on the CPU,
    which ``crossmoda.engines.EpochSeed`` seeds in every epoch. The voxels' weight comes on top of the class weights in
    ``loss``, and the sum is divided by the number of voxels.

    Belongs outside ``DeepSupervisionLoss``, so that coarser heads have no ring, and inside ``WeightedCaseLoss``.

    Args:
        loss: logits (B, C, X, Y, Z), or a list of these, and a target (B, 1 or 2, X, Y, Z) to a scalar.
        structures: names in the order of the network's output channels.
        structure: whose border; ``vs`` may be named where the network seeks its parts.
        negative_weight: of voxels in the ring, at least 0.
        negative_widths: of the dilating cube, odd, in voxels; one is drawn.
        positive_weight: of voxels in the rim, at least 0; 0 mines no hard positives (card C's code).
        positive_widths: of the eroding cube, odd, in voxels; one is drawn.
        cross_entropy_weight: of this term, that of the cross-entropy in ``loss`` (20 in card C).
        in_plane: squares in each axial slice instead of cubes, for slices farther apart than voxels.

    Raises:
        CrossmodaError: a structure that the network does not seek, a width that is not odd, or a negative weight.
    """

    def __init__(
        self,
        loss: Callable[[Any, torch.Tensor], torch.Tensor],
        structures: Sequence[str],
        structure: str = VS,
        negative_weight: float = 15.0,
        negative_widths: Sequence[int] = (7, 9, 11, 13, 15),
        positive_weight: float = 0.0,
        positive_widths: Sequence[int] = (3, 5),
        cross_entropy_weight: float = 20.0,
        in_plane: bool = False,
    ) -> None:
        super().__init__()
        for widths in (negative_widths, positive_widths):
            if not widths or any(width < 1 or width % 2 == 0 for width in widths):
                raise CrossmodaError(f"widths {list(widths)} of hard examples must be odd numbers of voxels")
        if min(negative_weight, positive_weight, cross_entropy_weight) < 0:
            raise CrossmodaError("weights of hard examples must not be negative")
        self.loss = loss
        self.numbers = numbers_of(structure, model_labels(structures))
        self.negative_weight, self.negative_widths = negative_weight, list(negative_widths)
        self.positive_weight, self.positive_widths = positive_weight, list(positive_widths)
        self.cross_entropy_weight = cross_entropy_weight
        self.in_plane = in_plane

    def forward(self, prediction: torch.Tensor | list[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Return the loss with the term of the hard examples, a scalar; of a list, the first is the finest head."""
        finest = prediction if isinstance(prediction, torch.Tensor) else prediction[0]
        label, trust = label_and_trust(target)
        entropy = F.cross_entropy(finest.float(), label[:, 0].long(), reduction="none")[:, None]
        weights = self.voxel_weights(label)
        mined = (entropy * (weights if trust is None else weights * trust)).mean()
        return self.loss(prediction, target) + self.cross_entropy_weight * mined

    def voxel_weights(self, label: torch.Tensor) -> torch.Tensor:
        """Return the extra weight of each voxel, (B, 1, X, Y, Z) float32, for widths drawn now.

        Args:
            label: maps (B, 1, X, Y, Z).
        """
        mask = torch.isin(label, torch.tensor(self.numbers, dtype=label.dtype, device=label.device)).float()
        weights = torch.zeros_like(mask)
        if self.negative_weight:
            weights += self.negative_weight * (self._dilate(mask, _drawn(self.negative_widths)) - mask)
        if self.positive_weight:
            outside = 1 - mask
            weights += self.positive_weight * (self._dilate(outside, _drawn(self.positive_widths)) - outside)
        return weights

    def _dilate(self, mask: torch.Tensor, width: int) -> torch.Tensor:
        """Return the mask (B, 1, X, Y, Z) dilated by a cube, one axis after the other, which is faster than at once."""
        for axis in range(2 if self.in_plane else 3):
            kernel = [width if other == axis else 1 for other in range(3)]
            mask = F.max_pool3d(mask, kernel, stride=1, padding=[size // 2 for size in kernel])
        return mask


def _drawn(widths: Sequence[int]) -> int:
    return int(widths[int(torch.randint(len(widths), ()))])
