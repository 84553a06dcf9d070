"""SinGAN: a pyramid of small generators that know the patches of one slice (Shaham et al., ICCV 2019; recipe card B).

Scale 0 is the coarsest, the last one has the slice's own pixels. Between neighbouring scales images are resized by
bicubic interpolation with anti-aliasing, always to the size that the scale has. Slices are (B, 1, X, Y) in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Randomizable
from torch import nn

from crossmoda.errors import CrossmodaError

Size = tuple[int, int]

SCALES_PER_DOUBLING = 4  # of the filters
_INITIAL_DEVIATION = 0.02  # of weights about 0, of a normalisation's scales about 1
_LARGEST_SEED = 2**32 - 1


class NoiseSource(Randomizable):
    """Draw standard normal noise on the CPU from a generator of its own, the same on every device.

    A Randomizable, so that ``EpochSeed`` seeds it when an epoch starts.

    Args:
        seed: of the first draws.
    """

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator()
        self.set_random_state(seed=seed)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> NoiseSource:
        """Begin a new sequence of draws."""
        super().set_random_state(seed, state)
        self.generator.manual_seed(int(self.R.randint(_LARGEST_SEED, dtype=np.uint32)))
        return self

    def draw(self, size: Size) -> torch.Tensor:
        """Return noise (1, 1, X, Y), float32, on the CPU."""
        return torch.randn(1, 1, *size, generator=self.generator)


def pyramid_scales(slice_size: Sequence[int], scale_factor: float = 0.85, min_size: int = 25) -> tuple[int, float]:
    """Return how many scales a slice has, and the factor between them that makes the coarsest ``min_size`` wide.

    As many steps of ``scale_factor`` as bring the shorter side to ``min_size`` or below, one more, and the slice
    itself; the factor is then spread evenly. 256 pixels, 0.85 and 25 give 17 scales and (25 / 256)^(1/16) = 0.8647.

    Args:
        slice_size: pixels (x, y).
        scale_factor: wanted factor between scales, above 0 and below 1.
        min_size: shorter side of the coarsest scale, pixels.

    Raises:
        CrossmodaError: an impossible factor, or a slice that is not larger than the coarsest scale.
    """
    if not 0 < scale_factor < 1:
        raise CrossmodaError(f"scale_factor {scale_factor}: give a number between 0 and 1, e.g. 0.85")
    shorter = min(slice_size)
    if shorter <= min_size:
        raise CrossmodaError(
            f"slices of {' x '.join(map(str, slice_size))} pixels are too small for a pyramid whose coarsest scale has "
            f"{min_size}; enlarge crop_size or lower min_size"
        )
    steps = math.ceil(math.log(min_size / shorter) / math.log(scale_factor)) + 1
    return steps + 1, (min_size / shorter) ** (1 / steps)


def resize(slices: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return slices (B, 1, X, Y) at another size, bicubic with anti-aliasing; unchanged where they have it already."""
    if tuple(slices.shape[2:]) == tuple(size):
        return slices
    return F.interpolate(slices, size=tuple(size), mode="bicubic", antialias=True, align_corners=False)


def _convolutions(filters: int, kernel_size: int, layers: int) -> nn.Sequential:
    """Return unpadded convolutions of stride 1 from one channel to one, normalised and rectified but for the last."""
    blocks = []
    for layer in range(layers - 1):
        convolution = nn.Conv2d(filters if layer else 1, filters, kernel_size)
        blocks.append(nn.Sequential(convolution, nn.BatchNorm2d(filters), nn.LeakyReLU(0.2, inplace=True)))
    return nn.Sequential(*blocks, nn.Conv2d(filters, 1, kernel_size))


class _ScaleNetwork(nn.Module):
    """Hold the convolutions of one scale, which take ``margin`` pixels off each side.

    Args:
        filters: of every convolution but the last.
        kernel_size: odd.
        layers: convolutions.
    """

    def __init__(self, filters: int, kernel_size: int = 5, layers: int = 5) -> None:
        super().__init__()
        self.margin = (kernel_size - 1) * layers // 2
        self.convolutions = _convolutions(filters, kernel_size, layers)


class ScaleGenerator(_ScaleNetwork):
    """Add to the image of the scale below what a few convolutions make of it and of noise."""

    def forward(self, noisy: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """Return ``previous`` plus a residual in [-1, 1]; all (B, 1, X, Y), ``noisy`` being ``previous`` plus noise."""
        residual: torch.Tensor = self.convolutions(F.pad(noisy, [self.margin] * 4))
        return residual.tanh() + previous


class ScaleDiscriminator(_ScaleNetwork):
    """Score every patch of a slice: (B, 1, X, Y) in, (B, 1, X - 2 margin, Y - 2 margin) out, unbounded."""

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Return the scores, higher for what looks real."""
        scores: torch.Tensor = self.convolutions(slices)
        return scores


def initialise(network: nn.Module, noise: NoiseSource) -> None:
    """Draw convolutions' weights from N(0, 0.02) and normalisations' scales from N(1, 0.02); biases are 0."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            mean = float(isinstance(module, nn.BatchNorm2d))
            drawn = torch.randn(module.weight.shape, generator=noise.generator)
            module.weight.data.copy_(mean + _INITIAL_DEVIATION * drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class SinGAN(nn.Module):
    """The pyramid of generators of one slice, with all that drawing from it needs in one ``state_dict``.

    Scale k has ``filters * 2^(k // 4)`` filters, at most ``maximum_filters``. Buffers hold each scale's share of noise
    and the noise of the coarsest scale from which the training slice itself is reconstructed.

    Args:
        slice_size: pixels (x, y) of the training slice.
        filters: of the coarsest generators' convolutions.
        maximum_filters: of any.
        kernel_size: of every convolution, odd; 5 in the authors' tumour blending, 3 in the original paper.
        layers: convolutions of each generator.
        scale_factor: wanted factor between scales, see ``pyramid_scales``.
        min_size: shorter side of the coarsest scale, pixels.

    Raises:
        CrossmodaError: an impossible pyramid or kernel, or scales too coarse for the discriminator's convolutions.
    """

    noise_amplitudes: torch.Tensor
    reconstruction_noise: torch.Tensor

    def __init__(
        self,
        slice_size: Sequence[int],
        filters: int = 32,
        maximum_filters: int = 128,
        kernel_size: int = 5,
        layers: int = 5,
        scale_factor: float = 0.85,
        min_size: int = 25,
    ) -> None:
        super().__init__()
        _require_room(kernel_size, layers, min_size)
        self.scales, self.factor = pyramid_scales(slice_size, scale_factor, min_size)
        self.sizes = self.sizes_of(slice_size)
        self.filters = [
            min(filters * 2 ** (scale // SCALES_PER_DOUBLING), maximum_filters) for scale in range(self.scales)
        ]
        self.convolution = {"kernel_size": kernel_size, "layers": layers}
        self.generators = nn.ModuleList(ScaleGenerator(count, **self.convolution) for count in self.filters)
        self.register_buffer("noise_amplitudes", torch.ones(self.scales))
        self.register_buffer("reconstruction_noise", torch.zeros(1, 1, *self.sizes[0]))

    def sizes_of(self, slice_size: Sequence[int]) -> list[Size]:
        """Return the size (x, y) that a slice has at each scale, the coarsest first.

        Fractions of a pixel are dropped (165 and 221 of 256 pixels at scales 13 and 15 of 16, as recipe card B has
        them; the original code rounds them up).
        """
        ratios = [self.factor ** (self.scales - 1 - scale) for scale in range(self.scales)]
        x, y = slice_size
        return [(_whole(x * ratio), _whole(y * ratio)) for ratio in ratios]

    def make_discriminator(self, scale: int) -> ScaleDiscriminator:
        """Return an untrained discriminator for a scale, as large as its generator."""
        return ScaleDiscriminator(self.filters[scale], **self.convolution)

    def render(self, scale: int, previous: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return what a scale makes of the image below, resized to it, and of standard normal noise (B, 1, X, Y)."""
        amplitude = self.noise_amplitudes[scale]
        image: torch.Tensor = self.generators[scale](amplitude * noise.to(previous.device) + previous, previous)
        return image

    @torch.no_grad()
    def draw_below(self, scale: int, noise: NoiseSource) -> torch.Tensor:
        """Return a random image of all scales below ``scale``, resized to it; 0 everywhere for the coarsest."""
        previous = self._nothing()
        for lower in range(scale):
            drawn = self.render(lower, previous, noise.draw(self.sizes[lower]))
            previous = resize(drawn, self.sizes[lower + 1])
        return previous

    @torch.no_grad()
    def reconstruct_below(self, scale: int) -> torch.Tensor:
        """Return what the scales below ``scale`` make of the one noise that stands for the training slice."""
        previous = self._nothing()
        for lower in range(scale):
            noise = self.reconstruction_noise if lower == 0 else torch.zeros_like(previous)
            previous = resize(self.render(lower, previous, noise), self.sizes[lower + 1])
        return previous

    def _nothing(self) -> torch.Tensor:
        return torch.zeros_like(self.reconstruction_noise)

    def require_scale(self, scale: int) -> None:
        """Make sure that harmonisation can start at a scale.

        Raises:
            CrossmodaError: the pyramid has no such scale, or nothing lies below it.
        """
        if isinstance(scale, bool) or not isinstance(scale, int) or not 1 <= scale < self.scales:
            raise CrossmodaError(
                f"scale {scale} is not one to harmonise from: this pyramid has 1 to {self.scales - 1}; mend the "
                "rule's scales"
            )

    @torch.no_grad()
    def harmonise(self, slices: torch.Tensor, start_scale: int, noise: NoiseSource) -> torch.Tensor:
        """Return slices whose patches down to the size that ``start_scale`` sees look like the training slice's.

        The slice is brought to the scale below ``start_scale``, so that it loses what is finer, and handed upwards
        through the generators from ``start_scale`` on with fresh noise. Slices of other sizes than the training slice's
        are fine; their pixels must be as large. Puts the network into evaluation mode.

        Args:
            slices: (1, 1, X, Y) in [-1, 1].
            start_scale: 1 (changes most) to the finest scale (changes least); the papers' n0.
            noise: where the noise comes from.

        Returns:
            (1, 1, X, Y) in [-1, 1].
        """
        self.eval()
        self.require_scale(start_scale)
        sizes = self.sizes_of(slices.shape[2:])
        image = resize(slices, sizes[start_scale - 1])
        for scale in range(start_scale, self.scales):
            image = self.render(scale, resize(image, sizes[scale]), noise.draw(sizes[scale]))
        return image.clamp(-1.0, 1.0)


def _whole(length: float) -> int:
    return max(math.floor(length + 1e-6), 1)  # 25 pixels may come out as 24.99999999999998


def _require_room(kernel_size: int, layers: int, min_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0 or layers < 2:
        raise CrossmodaError(
            f"kernel_size {kernel_size}, layers {layers}: needed are an odd kernel and 2 layers or more"
        )
    taken = (kernel_size - 1) * layers
    if min_size <= taken:
        raise CrossmodaError(
            f"min_size {min_size}: {layers} convolutions of {kernel_size} x {kernel_size} see patches of {taken + 1} "
            f"pixels; give {taken + 1} or more"
        )
