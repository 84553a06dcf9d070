"""Learning rates over the epochs of a training."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def constant_then_linear(optimizer: Optimizer, constant_epochs: int, decay_epochs: int) -> LambdaLR:
    """Keep the learning rate for ``constant_epochs``, then let it fall on a line to 0 (recipe card 0.1).

    In epoch e, counted from 0, the rate is multiplied by 1 - max(0, e + 1 - constant_epochs) / (decay_epochs + 1), so
    that it would reach 0 in the epoch after the last. The scheduler is to be stepped once per epoch.

    Args:
        optimizer: whose rate is to be scheduled.
        constant_epochs: epochs at the full rate.
        decay_epochs: epochs of the fall.
    """

    def factor(epoch: int) -> float:
        return max(0.0, 1.0 - max(0, epoch + 1 - constant_epochs) / (decay_epochs + 1))

    return LambdaLR(optimizer, factor)
