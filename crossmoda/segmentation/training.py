"""What the segmenter's trainer needs beside the handlers that all trainers share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines import IterationEvents
from torch import nn

from crossmoda.engines import load_weights

_WARM_UP = 9  # iterations; while it warms up, the average covers about the last ninth of the training
_MOMENTUM = "ema_momentum"  # ignite looks for it under this name in the engine's state


def begin_with(network: nn.Module, initial_weights: str | Path | None, structures: Sequence[str]) -> None:
    """Let a training begin with given weights instead of random ones, as each round of card C does.

    To be called before anything copies the network, as ``WeightAverage`` does. A training that is resumed takes its
    checkpoint's weights afterwards.

    Args:
        network: changed in place.
        initial_weights: a file of a plain state dictionary; None leaves the network as it is.
        structures: that the training seeks; those of the weights must be the same, in the same order.

    Raises:
        CrossmodaError: the file is missing, is not a state dictionary, or belongs to another network or structures.
    """
    if initial_weights is not None:
        load_weights(network, initial_weights, {"structures": list(structures)}, "initial_weights")


class GradientClip:
    """Scale the gradients of each step down to a largest norm, so that one odd patch cannot upset a training.

    Args:
        network: whose gradients are clipped.
        max_norm: of all gradients together.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Engine) -> None:
        """Listen to the moment between an iteration's backward pass and its optimiser step."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Clip now."""
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class WeightAverage(EMAHandler):
    """Keep a moving average of the weights that forgets the start of a training, however short the training is.

    The momentum of iteration t is ``max(momentum, 9 / (9 + t))``, the schedule of TensorFlow's moving averages. It
    depends on the iteration's number alone, so a resumed training goes on with it; ignite's own would begin anew.

    Args:
        network: whose weights are averaged; the average is ``ema_model``.
        momentum: weight of the newest iteration once warm, in (0, 1).
    """

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__(network, momentum=momentum, handle_buffers="copy")

    def attach(self, engine: Engine, *args: object, **kwargs: object) -> None:
        """Listen to every iteration of ``engine``."""
        setattr(engine.state, _MOMENTUM, self.momentum)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._warm_up)
        super().attach(engine, name=_MOMENTUM, warn_if_exists=False)

    def _warm_up(self, engine: Engine) -> None:
        momentum = max(self.momentum, _WARM_UP / (_WARM_UP + engine.state.iteration))
        setattr(engine.state, _MOMENTUM, momentum)
