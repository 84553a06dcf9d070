"""Predictions averaged over mirrored copies of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

SMALLEST_PROBABILITY = 1e-7  # keeps the logarithm finite; far below what a prediction or an entropy can show


class FlipAveragingInferer(Inferer):
    """Average the class probabilities that a network gives for an image and for mirrored copies of it.

    Each copy is flipped, predicted, and its probabilities flipped back. What comes out is the logarithm of the mean
    probability, so the softmax that follows any other inferer gives the mean probability here.

    Args:
        inferer: predicts one copy; a plain forward call by default.
        flips: the spatial axes of each further copy, 0 for x; by default one copy, mirrored left-right, since heads are
            symmetric in x alone. The unflipped image always counts as well.
    """

    def __init__(self, inferer: Inferer | None = None, flips: Sequence[Sequence[int]] = ((0,),)) -> None:
        super().__init__()
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.flips = [tuple(axis + 2 for axis in axes) for axes in flips]

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return log mean probabilities (B, C, X, Y, Z) for inputs (B, channels, X, Y, Z)."""
        mean = self._probabilities(inputs, network, *args, **kwargs)
        for axes in self.flips:
            mirrored = self._probabilities(torch.flip(inputs, axes), network, *args, **kwargs)
            mean += torch.flip(mirrored, axes)
        mean /= len(self.flips) + 1
        return mean.clamp_(min=SMALLEST_PROBABILITY).log_()

    def _probabilities(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        return torch.softmax(self.inferer(inputs, network, *args, **kwargs), dim=1)
