"""What the segmenter's trainer needs beside the handlers that all trainers share."""

from __future__ import annotations

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from monai.engines import IterationEvents
from torch import nn

_WARM_UP = 10  # iterations; the average begins as the plain weights and covers about the last tenth while it warms up


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

    The momentum of iteration t is ``max(momentum, 9 / (9 + t))``, the schedule of TensorFlow's moving averages. It depends
    on the iteration's number alone, so a resumed training goes on with it; ignite's own warm-up counts from zero again.

    Args:
        network: whose weights are averaged; the average is ``ema_model``.
        momentum: weight of the newest iteration once warm, in (0, 1).
    """

    def __init__(self, network: nn.Module, momentum: float) -> None:
        super().__init__(network, momentum=momentum, handle_buffers="copy")

    def attach(self, engine: Engine, *args: object, **kwargs: object) -> None:
        """Listen to every iteration of ``engine``."""
        engine.state.ema_momentum = self.momentum
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._warm_up)
        super().attach(engine, warn_if_exists=False)

    def _warm_up(self, engine: Engine) -> None:
        engine.state.ema_momentum = max(self.momentum, (_WARM_UP - 1) / (_WARM_UP - 1 + engine.state.iteration))
