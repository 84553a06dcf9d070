"""Halving and doubling of feature maps without aliasing, so that fine structures stay where they are.

After Zhang, "Making convolutional networks shift-invariant again" (ICML 2019), as CUT uses it (recipe card 0.2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class BlurHalving(nn.Module):
    """Blur with the binomial kernel 1 : 2 : 1 along both axes and keep every second pixel.

    (B, C, X, Y) becomes (B, C, ceil(X / 2), ceil(Y / 2)); the border is reflected. The kernel belongs to the state
    dictionary, so that weights trained with blurring do not load into a network without.
    """

    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.tensor([0.25, 0.5, 0.25]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the halved feature maps."""
        before, centre, after = self.kernel.to(features.dtype)
        padded = F.pad(features, (1, 1, 1, 1), mode="reflect")
        rows = before * padded[..., :-2:2, :] + centre * padded[..., 1:-1:2, :] + after * padded[..., 2::2, :]
        return before * rows[..., :-2:2] + centre * rows[..., 1:-1:2] + after * rows[..., 2::2]


class BlurDoubling(nn.Upsample):
    """Double both sides of (B, C, X, Y) by bilinear interpolation; the border is replicated.

    That is what putting a zero after every pixel and blurring with 1 : 3 : 3 : 1 gives, CUT's way of writing it.
    """

    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="bilinear", align_corners=False)
