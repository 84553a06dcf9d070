"""The 2.5D U-Net: slice-wise convolutions where slices are far apart, volumetric ones where voxels are isotropic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.blocks import Convolution
from torch import nn

from crossmoda.errors import CrossmodaError

LEVELS = 5


class UNet2D5(nn.Module):
    """Segment anisotropic volumes with 2D convolutions at the fine levels and 3D ones at the coarse levels.

    The network of Wu et al. 2021 (card A), as in PyMIC: each block is two times convolution 3, batch norm, PReLU, with
    dropout between them; maximum pooling by 2 and transposed convolutions of stride 2 join the levels. A level of
    dimension 2 convolves, pools and up-samples within axial slices alone (kernels 3x3x1 and 2x2x1).

    Input (B, C, X, Y, Z), output (B, out_channels, X, Y, Z) logits. A spatial size must be divisible by ``factors``:
    with the default dimensions 16 in x and y and 4 in z.

    Args:
        in_channels: of the image.
        out_channels: classes, background included.
        channels: feature channels of the five levels, fine to coarse.
        dimensions: 2 or 3 for each level.
        dropout: probability between the convolutions of each level's blocks, in encoder and decoder.

    Raises:
        CrossmodaError: not five levels, a dimension other than 2 or 3, or (``forward``) a size that is not divisible.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        dimensions: Sequence[int] = (2, 2, 3, 3, 3),
        dropout: Sequence[float] = (0.0, 0.0, 0.3, 0.4, 0.5),
    ) -> None:
        super().__init__()
        _check_levels(channels=channels, dimensions=dimensions, dropout=dropout)
        if any(dimension not in (2, 3) for dimension in dimensions):
            raise CrossmodaError(f"dimensions must be 2 or 3 for each level, got {list(dimensions)}")
        inputs = [in_channels, *channels[:-1]]
        *blocks, bottom = (_block(*level) for level in zip(inputs, channels, dimensions, dropout, strict=True))
        self.encoder = nn.ModuleList(blocks)
        self.pools = nn.ModuleList(nn.MaxPool3d(_size(2, dimension)) for dimension in dimensions[:-1])
        self.bottom = bottom
        self.upsamplers = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level in reversed(range(LEVELS - 1)):
            stride = _size(2, dimensions[level])
            self.upsamplers.append(nn.ConvTranspose3d(channels[level + 1], channels[level], stride, stride))
            self.decoder.append(_block(2 * channels[level], channels[level], dimensions[level], dropout[level]))
        self.head = nn.Conv3d(channels[0], out_channels, (3, 3, 1), padding=(1, 1, 0))
        in_slice = 2 ** (LEVELS - 1)
        across_slices = 2 ** sum(dimension == 3 for dimension in dimensions[:-1])
        self.factors: tuple[int, int, int] = (in_slice, in_slice, across_slices)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, out_channels, X, Y, Z) for an image (B, in_channels, X, Y, Z)."""
        for axis, factor in enumerate(self.factors):
            if image.shape[2 + axis] % factor != 0:
                raise CrossmodaError(f"a patch of {image.shape[2:]} voxels is not divisible by {self.factors}")
        skips: list[torch.Tensor] = []
        features = image
        for block, pool in zip(self.encoder, self.pools):  # noqa: B905 - TorchScript knows no strict
            features = block(features)
            skips.append(features)
            features = pool(features)
        features = self.bottom(features)
        for upsample, block in zip(self.upsamplers, self.decoder):  # noqa: B905
            features = block(torch.cat([skips.pop(), upsample(features)], dim=1))
        return self.head(features)


def _check_levels(**settings: Sequence[float]) -> None:
    for name, values in settings.items():
        if len(values) != LEVELS:
            raise CrossmodaError(f"{name} needs {LEVELS} values, one a level, got {list(values)}")


def _size(size: int, dimension: int) -> tuple[int, int, int]:
    """Return a kernel or stride that leaves slices apart where the level is two-dimensional."""
    return (size, size, size if dimension == 3 else 1)


def _block(in_channels: int, out_channels: int, dimension: int, dropout: float) -> nn.Sequential:
    kernel = _size(3, dimension)
    first = Convolution(
        3, in_channels, out_channels, kernel_size=kernel, adn_ordering="NAD", act="PRELU", norm="BATCH", dropout=dropout
    )
    second = Convolution(
        3, out_channels, out_channels, kernel_size=kernel, adn_ordering="NA", act="PRELU", norm="BATCH"
    )
    return nn.Sequential(first, second)
