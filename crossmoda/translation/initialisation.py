"""How the weights of generators, discriminators and samplers are drawn at the start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from crossmoda.errors import CrossmodaError

_DRAWN = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def _normal(weight: torch.Tensor) -> None:
    nn.init.normal_(weight, 0.0, 0.02)


def _xavier(weight: torch.Tensor) -> None:
    nn.init.xavier_normal_(weight, gain=0.02)


def _he(weight: torch.Tensor) -> None:
    nn.init.kaiming_normal_(weight, a=0, mode="fan_in")


METHODS: dict[str, Callable[[torch.Tensor], None]] = {
    "normal": _normal,  # N(0, 0.02): CycleGAN (recipe card 0.1)
    "xavier": _xavier,  # Glorot and Bengio's normal with a gain of 0.02: CUT (card 0.2)
    "he": _he,  # He et al.'s normal for ReLU: Chen 2023 (card C)
}


def initialise(network: nn.Module, method: str = "normal") -> None:
    """Draw the weights of all convolutions and linear layers of a network, and set their biases to 0.

    Args:
        network: changed in place; its other layers are left alone.
        method: ``normal``, ``xavier`` or ``he``.

    Raises:
        CrossmodaError: the method is unknown.
    """
    if method not in METHODS:
        raise CrossmodaError(f"initialisation '{method}' is unknown; choose {', '.join(METHODS)}")
    for module in network.modules():
        if isinstance(module, _DRAWN):
            METHODS[method](module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
