"""A smoother translator than the last one: the moving average of its weights."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from ignite.handlers import EMAHandler
from torch import nn


class MovingAverage:
    """Follow a network with an exponential moving average of its weights, or deploy the network itself.

    Args:
        network: to follow; it must be on its device already.
        momentum: share of the newest weights in the average after each iteration, in [0, 1); 0 follows nothing, and the
            network itself is deployed, as the papers do.
    """

    def __init__(self, network: nn.Module, momentum: float = 0.0) -> None:
        self._handler = EMAHandler(network, momentum=momentum) if momentum > 0 else None
        self.network = network if self._handler is None else self._handler.ema_model

    def attach(self, engine: Engine) -> None:
        """Update the average after every iteration of ``engine``."""
        if self._handler is not None:
            self._handler.attach(engine, warn_if_exists=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the average's weights; empty when nothing is averaged."""
        return {} if self._handler is None else self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved average."""
        if self._handler is not None:
            self.network.load_state_dict(state)
