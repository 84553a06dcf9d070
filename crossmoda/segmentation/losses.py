"""What a segmentation is charged for: the voxels and structures it misses, and how far each case is to be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from monai.losses import DiceLoss
from torch import nn


class WeightedTarget(NamedTuple):
    """What a batch is compared with: label maps (B, 1, X, Y, Z) and one weight a case (B,).

    Labels are uint8 or floating point where a network's outputs differ in size: PyTorch resizes no other integers.
    """

    label: torch.Tensor
    weight: torch.Tensor


class DiceAndWeightedCrossEntropy(nn.Module):
    """The mean soft Dice loss of the structures, plus a cross-entropy in which rare classes weigh more.

    MONAI's ``DiceCELoss`` hands its class weights to both terms. The Dice loss is blind to the size of a structure, so
    there they do not make up for rareness but choose a favourite: with 1, 5 and 15 the cochlea counts three times the
    tumour, and the cross-entropy, the only term that charges for a tumour found where there is none, a tenth of both.

    Args:
        class_weights: of background and each structure in the cross-entropy, at least 0.
        cross_entropy_weight: of the cross-entropy beside the Dice loss's 1 (20 in card C, 1 in nnU-Net).
    """

    def __init__(self, class_weights: Sequence[float], cross_entropy_weight: float = 1.0) -> None:
        super().__init__()
        self.dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True)
        self.cross_entropy = nn.CrossEntropyLoss(weight=torch.tensor(class_weights, dtype=torch.float32))
        self.cross_entropy_weight = cross_entropy_weight

    def forward(self, prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of logits (B, C, X, Y, Z) and a label map (B, 1, X, Y, Z)."""
        entropy = self.cross_entropy(prediction, label[:, 0].long())
        return self.dice(prediction, label) + self.cross_entropy_weight * entropy


class WeightedCaseLoss(nn.Module):
    """Average a loss over the cases of a batch, each scaled by its weight: ``sum(weight * loss) / cases``.

    Dividing by the number of cases rather than by the sum of weights makes a case of weight 0.5 count half even when it
    is alone in its batch. Deeply supervised networks return K outputs in training, ``DynUNet`` as a stack of one size
    (B, K, C, X, Y, Z), ``ResUNet2D5`` and ``MedNeXt`` as a sequence of K tensors, each of its own size and the finest
    first. Either is handed to the loss as a list of K tensors, as ``DeepSupervisionLoss`` expects.

    Args:
        loss: of one case: logits (1, C, X, Y, Z), or a list of these, and label map (1, 1, X, Y, Z) to a scalar.
    """

    def __init__(self, loss: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, prediction: torch.Tensor | Sequence[torch.Tensor], target: WeightedTarget) -> torch.Tensor:
        """Return the weighted mean loss, a scalar."""
        label, weight = target
        losses = [self.loss(_output_of_case(prediction, i, label.ndim), label[i : i + 1]) for i in range(len(label))]
        return (torch.stack(losses) * weight.to(losses[0].device)).mean()


def _output_of_case(
    prediction: torch.Tensor | Sequence[torch.Tensor], case: int, dimensions: int
) -> torch.Tensor | list[torch.Tensor]:
    """Return a case's logits, or a list of them if there are several."""
    if not isinstance(prediction, torch.Tensor):
        return [level[case : case + 1] for level in prediction]
    logits = prediction[case : case + 1]
    return list(logits.unbind(dim=1)) if prediction.ndim == dimensions + 1 else logits


def prepare_weighted_batch(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, WeightedTarget]:
    """Return a batch's image and target on the device: the ``prepare_batch`` of an engine with ``WeightedCaseLoss``.

    Images and labels become plain tensors, because metadata costs time in every layer and a trainer needs none.
    A batch without ``weight`` counts each case fully.
    """
    image, label = (
        torch.as_tensor(batch[key]).as_subclass(torch.Tensor).to(device, non_blocking=non_blocking, **kwargs)
        for key in ("image", "label")
    )
    weight = torch.as_tensor(batch.get("weight", torch.ones(len(label))), dtype=torch.float32)
    return image, WeightedTarget(label, weight.to(device, non_blocking=non_blocking))
