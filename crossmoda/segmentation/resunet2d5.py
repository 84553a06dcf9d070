"""The 2.5D residual U-Net: finer and finer features within slices, and never a slice given up."""

from __future__ import annotations

import torch
from monai.networks.blocks import Convolution
from torch import nn

from crossmoda.errors import CrossmodaError

LAYERS = 3  # of residual blocks; the stem and each of them halve the plane


class ResUNet2D5(nn.Module):
    """Segment anisotropic volumes with a residual encoder that halves x and y four times and z never.

    The network of Chen et al. 2023 (card C). The stem and the first convolution of each layer are slice-wise (kernel
    3x3x1, stride 2x2x1), all others are volumetric (3x3x3); each is followed by instance norm without weights and ReLU.
    The decoder enlarges the plane by linear interpolation, joins the encoder's features and convolves twice.

    Input (B, in_channels, X, Y, Z), x and y divisible by 16 (``factors``); output (B, out_channels, X, Y, Z) logits. In
    training with deep supervision the output is a list of four such logits, with X and Y whole, halved, quartered and
    divided by 8: what ``DeepSupervisionLoss`` takes, whose default weights are the paper's 1, 1/2, 1/4 and 1/8.

    Args:
        in_channels: of the image, at least 1.
        out_channels: classes, background included, at least 2.
        channels: features of the stem, at least 1; each layer doubles them.
        blocks: residual blocks of a layer, at least 1.
        deep_supervision: True adds logits of the coarser levels in training.

    Raises:
        CrossmodaError: a setting is too small, or (in ``forward``) x or y is not divisible by 16.
    """

    def __init__(
        self, in_channels: int, out_channels: int, channels: int = 32, blocks: int = 3, deep_supervision: bool = True
    ) -> None:
        super().__init__()
        _check_at_least(1, in_channels=in_channels, channels=channels, blocks=blocks)
        _check_at_least(2, out_channels=out_channels)
        self.deep_supervision = deep_supervision
        self.factors: tuple[int, int, int] = (2 ** (LAYERS + 1), 2 ** (LAYERS + 1), 1)
        widths = [channels * 2**level for level in range(LAYERS + 1)]
        self.stem = nn.Sequential(_convolution(in_channels, channels, halve=True), _convolution(channels, channels))
        self.layers = nn.ModuleList(_layer(width, 2 * width, blocks) for width in widths[:-1])
        self.decoder = nn.ModuleList(
            nn.Sequential(_convolution(3 * width, width), _convolution(width, width)) for width in widths[-2::-1]
        )
        self.enlarge = nn.Upsample(scale_factor=(2.0, 2.0, 1.0), mode="trilinear", align_corners=False)
        self.head = nn.Conv3d(channels, out_channels, 1)
        coarse_widths = widths[:-1] if deep_supervision else []
        self.coarse_heads = nn.ModuleList(nn.Conv3d(width, out_channels, 1) for width in coarse_widths)

    def forward(self, image: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits for an image (B, in_channels, X, Y, Z); in training with deep supervision a list of four."""
        for axis, factor in enumerate(self.factors):
            if image.shape[2 + axis] % factor != 0:
                raise CrossmodaError(f"a patch of {image.shape[2:]} voxels is not divisible by {self.factors}")
        features = self.stem(image)
        skips: list[torch.Tensor] = []
        for layer in self.layers:
            skips.append(features)
            features = layer(features)
        levels: list[torch.Tensor] = []
        for block in self.decoder:
            features = block(torch.cat([self.enlarge(features), skips.pop()], dim=1))
            levels.append(features)
        # The paper's order, the other way round: interpolation and a convolution of one voxel commute, and so the
        # largest map of the network has as many channels as there are classes instead of 32.
        logits = self.enlarge(self.head(features))
        if not (self.training and self.deep_supervision):
            return logits
        outputs = [logits]
        for head in self.coarse_heads:
            outputs.append(head(levels.pop()))
        return outputs


class _BasicBlock(nn.Module):
    """Two convolutions beside a shortcut: (B, in_channels, X, Y, Z) to (B, out_channels, X, Y, Z), or half X and Y."""

    def __init__(self, in_channels: int, out_channels: int, halve: bool = False) -> None:
        super().__init__()
        self.first = _convolution(in_channels, out_channels, halve)
        self.second = Convolution(3, out_channels, out_channels, adn_ordering="N", norm="INSTANCE")
        self.shortcut: nn.Module = nn.Identity()
        if halve:
            self.shortcut = Convolution(
                3, in_channels, out_channels, strides=(2, 2, 1), kernel_size=1, adn_ordering="N", norm="INSTANCE"
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.activation(self.second(self.first(features)) + self.shortcut(features))


def _layer(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    rest = (_BasicBlock(out_channels, out_channels) for _ in range(1, blocks))
    return nn.Sequential(_BasicBlock(in_channels, out_channels, halve=True), *rest)


def _convolution(in_channels: int, out_channels: int, halve: bool = False) -> Convolution:
    """Return convolution, instance norm and ReLU; one that halves the plane leaves the slices apart."""
    return Convolution(
        3,
        in_channels,
        out_channels,
        strides=(2, 2, 1) if halve else 1,
        kernel_size=(3, 3, 1) if halve else 3,
        adn_ordering="NA",
        act=("RELU", {"inplace": True}),
        norm="INSTANCE",
    )


def _check_at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise CrossmodaError(f"network_def::{name} must be at least {least}, got {value}")
