"""Learning rates over the epochs of a training."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from crossmoda.engines import History


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


class FallOnPlateau(ReduceLROnPlateau):
    """Multiply the learning rate by a factor when the epochs' mean loss has stopped falling (Chen 2023; recipe card C).

    To be stepped at the end of each epoch without arguments, as other schedulers are.

    Args:
        optimizer: whose rate is to be scheduled.
        history: knows the mean loss of the epoch that ends.
        options: of PyTorch's ``ReduceLROnPlateau``: ``factor``, ``patience``, ``threshold`` and so on.
    """

    def __init__(self, optimizer: Optimizer, history: History, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self._history = history

    def step(self) -> None:  # type: ignore[override]
        """Look at the epoch that ends."""
        super().step(self._history.mean_loss())

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the history, which keeps its own."""
        return {key: value for key, value in super().state_dict().items() if key != "_history"}
