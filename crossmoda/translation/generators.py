"""Networks that turn a slice of one modality into the same anatomy of another."""

from __future__ import annotations

import torch
from torch import nn

from crossmoda.errors import CrossmodaError

_SMALLEST_SIDE = 8  # a quarter of it, 2 pixels, is the least that reflection padding and instance normalisation accept


class ResNetGenerator(nn.Module):
    """Translate 2D slices with two halvings, residual blocks and two doublings (recipe card 0.1).

    Reflection-padded 7x7 convolution, two 3x3 convolutions of stride 2, ``n_blocks`` residual blocks, two transposed
    convolutions of stride 2, reflection-padded 7x7 convolution, tanh; instance normalisation without learnt scale, no
    dropout (Zhu et al., ICCV 2017, section 4, after Johnson et al., ECCV 2016). Weights start from N(0, 0.02), biases
    at 0.

    Input and output are (B, C, X, Y) in [-1, 1]; X and Y are multiples of 4 and at least 8.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        ngf: filters of the first convolution; the residual blocks have four times as many.
        n_blocks: residual blocks; 9 for slices of 256 and more in the paper, 6 below.

    Raises:
        CrossmodaError: when called with a slice whose sides the network cannot restore.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, ngf: int = 64, n_blocks: int = 9) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, ngf, 7),
            *_norm_relu(ngf),
            *_halving(ngf),
            *_halving(2 * ngf),
            *[ResidualBlock(4 * ngf) for _ in range(n_blocks)],
            *_doubling(4 * ngf),
            *_doubling(2 * ngf),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ngf, out_channels, 7),
            nn.Tanh(),
        )
        self.apply(initialise)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Return the translated slices, of the input's (X, Y), in [-1, 1]."""
        sides = tuple(slices.shape[2:])
        if any(side % 4 or side < _SMALLEST_SIDE for side in sides):
            raise CrossmodaError(
                f"slices of {' x '.join(map(str, sides))} pixels cannot be translated; "
                f"choose crop_size and patch_size as multiples of 4, at least {_SMALLEST_SIDE}"
            )
        return self.model(slices)


class ResidualBlock(nn.Module):
    """Add to the input what two reflection-padded 3x3 convolutions make of it; (B, C, X, Y) in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            *_norm_relu(channels),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the input plus the block's response."""
        return features + self.block(features)


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]


def _halving(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), *_norm_relu(2 * channels)]


def _doubling(channels: int) -> list[nn.Module]:
    half = channels // 2
    return [nn.ConvTranspose2d(channels, half, 3, stride=2, padding=1, output_padding=1), *_norm_relu(half)]


def initialise(module: nn.Module) -> None:
    """Draw a convolution's weights from N(0, 0.02) and set its biases to 0; other modules are left alone."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
