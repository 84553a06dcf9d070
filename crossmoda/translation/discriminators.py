"""Networks that tell real slices from translated ones, patch by patch."""

from __future__ import annotations

import torch
from monai.networks.nets import PatchDiscriminator
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.translation.initialisation import initialise
from crossmoda.translation.resampling import BlurHalving


class PatchGAN(PatchDiscriminator):
    """Score overlapping patches of a slice as real or translated (recipe cards 0.1 and 0.2).

    MONAI's ``PatchDiscriminator`` as Isola et al. (CVPR 2017, section 6.1.2) and CycleGAN set it: 4x4 kernels, leaky
    ReLU of 0.2, instance normalisation without learnt scale and therefore biases everywhere, weights from N(0, 0.02).
    With three layers each score sees 70 x 70 pixels. Unlike MONAI's, it returns the scores alone, not all features
    before them.

    CUT halves by blurring instead of by strides (``antialias``), which needs no more weights; each score then sees
    84 x 84 pixels, the rim of them faintly.

    With ``sites`` there is one score map per site, and each slice is judged as one of its own site's (as the
    multi-task discriminator of Choi et al., CVPR 2020).

    Args:
        in_channels: channels of the slices.
        ndf: filters of the first convolution, doubled in each layer.
        n_layers: layers between the first and the last convolution; all but the last halve the size.
        antialias: halve by blurring.
        initialisation: ``normal``, ``xavier`` or ``he``; see ``crossmoda.translation.initialisation``.
        sites: number of sites told apart; 0 for none.
    """

    def __init__(
        self,
        in_channels: int = 1,
        ndf: int = 64,
        n_layers: int = 3,
        antialias: bool = False,
        initialisation: str = "normal",
        sites: int = 0,
    ) -> None:
        super().__init__(
            spatial_dims=2,
            channels=ndf,
            in_channels=in_channels,
            out_channels=max(sites, 1),
            num_layers_d=n_layers,
            norm="INSTANCE",
            bias=True,
        )
        self.sites = sites
        if antialias:
            for block in self.children():
                _blur_instead_of_stride(block)
        if initialisation != "normal":  # which MONAI has drawn already
            initialise(self, initialisation)

    def forward(self, slices: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:  # type: ignore[override]
        """Return scores (B, 1, X', Y') without activation for slices (B, C, X, Y); about an eighth of each side.

        Args:
            slices: to be judged.
            site: number of each slice's site, (B,) int64, where the discriminator tells sites apart.
        """
        scores = super().forward(slices)[-1]
        if (site is None) != (self.sites == 0):
            raise CrossmodaError(
                f"this discriminator knows {self.sites} sites; tell it the slices' site if it knows any"
            )
        if site is None:
            return scores
        return scores[torch.arange(len(scores), device=scores.device), site][:, None]


def _blur_instead_of_stride(block: nn.Module) -> None:
    """Let a block of convolution, normalisation and activation halve behind the activation, by blurring."""
    convolution = next(m for m in block.modules() if isinstance(m, nn.Conv2d))
    if convolution.stride == (2, 2):
        convolution.stride = (1, 1)
        block.add_module("blur", BlurHalving())
