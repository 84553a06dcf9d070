"""A loss that trusts some cases more than others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn


class WeightedTarget(NamedTuple):
    """What a batch is compared with: label maps (B, 1, X, Y, Z) and one weight a case (B,)."""

    label: torch.Tensor
    weight: torch.Tensor


class WeightedCaseLoss(nn.Module):
    """Average a loss over the cases of a batch, each scaled by its weight: ``sum(weight * loss) / cases``.

    Dividing by the number of cases rather than by the sum of weights makes a case of weight 0.5 count half even when it
    is alone in its batch. A stack of outputs (B, K, C, X, Y, Z), which a deeply supervised ``DynUNet`` returns in
    training, is handed to the loss as a list of K tensors, as ``DeepSupervisionLoss`` expects.

    Args:
        loss: of one case: logits (1, C, X, Y, Z), or a list of these, and label map (1, 1, X, Y, Z) to a scalar.
    """

    def __init__(self, loss: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, prediction: torch.Tensor, target: WeightedTarget) -> torch.Tensor:
        """Return the weighted mean loss, a scalar."""
        label, weight = target
        losses = [self._loss_of_case(prediction[i : i + 1], label[i : i + 1]) for i in range(len(label))]
        return (torch.stack(losses) * weight.to(prediction.device)).mean()

    def _loss_of_case(self, prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        deeply_supervised = prediction.ndim == label.ndim + 1
        return self.loss(list(prediction.unbind(dim=1)) if deeply_supervised else prediction, label)


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
