"""Networks that tell real slices from translated ones, patch by patch."""

from __future__ import annotations

import torch
from monai.networks.nets import PatchDiscriminator


class PatchGAN(PatchDiscriminator):
    """Score overlapping patches of a slice as real or translated (recipe card 0.1).

    MONAI's ``PatchDiscriminator`` as Isola et al. (CVPR 2017, section 6.1.2) and CycleGAN set it: 4x4 kernels, leaky
    ReLU of 0.2, instance normalisation without learnt scale and therefore biases everywhere, weights from N(0, 0.02).
    With three layers each score sees 70 x 70 pixels. Unlike MONAI's, it returns the scores alone, not all features
    before them.

    Args:
        in_channels: channels of the slices.
        ndf: filters of the first convolution, doubled in each layer.
        n_layers: layers between the first and the last convolution; all but the last halve the size.
    """

    def __init__(self, in_channels: int = 1, ndf: int = 64, n_layers: int = 3) -> None:
        super().__init__(
            spatial_dims=2, channels=ndf, in_channels=in_channels, num_layers_d=n_layers, norm="INSTANCE", bias=True
        )

    def forward(self, slices: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return scores (B, 1, X', Y') without activation for slices (B, C, X, Y); about an eighth of each side."""
        return super().forward(slices)[-1]
