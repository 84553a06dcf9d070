"""Networks that turn a slice of one modality into the same anatomy of another."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.translation.initialisation import initialise
from crossmoda.translation.resampling import BlurDoubling, BlurHalving

_SMALLEST_SIDE = 8  # a quarter of it, 2 pixels, is the least that reflection padding and instance normalisation accept


def site_number(site: str | None, sites: Sequence[str]) -> int | None:
    """Return the number that generators know a site by, its position in ``sites``; None for no site.

    Raises:
        CrossmodaError: the site is not listed.
    """
    if site is not None and site not in sites:
        raise CrossmodaError(f"site '{site}' is not among sites {list(sites)}; name one of these, or add it there")
    return None if site is None else list(sites).index(site)


class Generator(nn.Module):
    """What trainers and inference expect of a generator: slices in, slices of the same sides out.

    Called as ``generator(slices, site)`` with slices (B, C, X, Y) in [-1, 1]; ``site`` is the number of the style to
    render, (B,) or (1,), for generators that know several, and is left out for others.
    """

    @abstractmethod
    def forward(self, slices: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:
        """Return the translated slices, (B, C, X, Y) in [-1, 1]."""

    def translate_with_features(
        self, slices: torch.Tensor, layers: Sequence[int], site: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the translated slices and, from the same pass, the outputs of some layers, (B, C', X', Y') each."""
        raise self._without_layers()

    def features(
        self, slices: torch.Tensor, layers: Sequence[int], site: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the outputs of some layers without computing what comes after the last of them."""
        raise self._without_layers()

    def feature_channels(self, layers: Sequence[int]) -> list[int]:
        """Return the number of channels of some layers' outputs."""
        raise self._without_layers()

    @property
    def before_output(self) -> int:
        """Return the layer whose features (B, ngf, X, Y) the last convolution turns into the image."""
        raise self._without_layers()

    def _without_layers(self) -> CrossmodaError:
        return CrossmodaError(
            f"{type(self).__name__} has no numbered layers, which CUT and structure terms look at; use ResNetGenerator"
        )


class ResNetGenerator(Generator):
    """Translate 2D slices with two halvings, residual blocks and two doublings (recipe cards 0.1 and 0.2).

    Reflection-padded 7x7 convolution, two halving 3x3 convolutions, ``n_blocks`` residual blocks, two doubling 3x3
    convolutions, reflection-padded 7x7 convolution, tanh; instance normalisation without learnt scale, no dropout
    (Zhu et al., ICCV 2017, section 4, after Johnson et al., ECCV 2016). CycleGAN halves and doubles by strides; CUT by
    blurring, which adds no weights. Weights start from N(0, 0.02), biases at 0, unless ``initialisation`` says else.

    With ``sites`` the blocks and doublings have a scale and a shift of their own per site behind each normalisation
    (Dumoulin et al., ICLR 2017), so that one network renders the style of any of them; the halvings are shared.

    Input and output are (B, C, X, Y) in [-1, 1]; X and Y are multiples of 4 and at least 8. In evaluation the last
    convolution is computed in float32 even under autocast, so that bright tissue shows no bands.

    Args:
        in_channels: channels of the input: 1, or the slices of a slab.
        out_channels: channels of the output.
        ngf: filters of the first convolution; the residual blocks have four times as many.
        n_blocks: residual blocks; 9 for slices of 256 and more in the paper, 6 below.
        antialias: halve and double by blurring instead of by strides.
        initialisation: ``normal``, ``xavier`` or ``he``; see ``crossmoda.translation.initialisation``.
        sites: how many sites' styles to know; 0 knows one style and takes no site.
        default_site: number of the site that is rendered where the call names none.

    Raises:
        CrossmodaError: when called with a slice whose sides the network cannot restore, or without a site that it
            needs.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        ngf: int = 64,
        n_blocks: int = 9,
        antialias: bool = False,
        initialisation: str = "normal",
        sites: int = 0,
        default_site: int | None = None,
    ) -> None:
        super().__init__()
        self.sites = sites
        self.default_site = default_site
        halving, doubling = (_blur_halving, _blur_doubling) if antialias else (_stride_halving, _stride_doubling)
        self.model = SiteSequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(in_channels, ngf, 7),
            *_norm_relu(ngf),
            *halving(ngf),
            *halving(2 * ngf),
            *[ResidualBlock(4 * ngf, sites) for _ in range(n_blocks)],
            *doubling(4 * ngf, sites),
            *doubling(2 * ngf, sites),
            nn.ReflectionPad2d(3),
            nn.Conv2d(ngf, out_channels, 7),
            nn.Tanh(),
        )
        initialise(self, initialisation)

    @property
    def before_output(self) -> int:
        """Return the layer whose features (B, ngf, X, Y) the last convolution turns into the image."""
        return len(self.model) - 4

    def forward(self, slices: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:
        """Return the translated slices, of the input's (X, Y), in [-1, 1]."""
        site = self._site(slices, site)
        if self.training:
            return self.model(slices, site)
        features = self.model.run(slices, site, [self.before_output], to_the_end=False)[1][0]
        with torch.autocast(slices.device.type, enabled=False):  # bfloat16 has steps of 0.004 near 1: bands
            return self.model[-3:](features.float())

    def translate_with_features(
        self, slices: torch.Tensor, layers: Sequence[int], site: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the translated slices and the outputs of some layers, which are indices into ``model``."""
        return self.model.run(slices, self._site(slices, site), layers, to_the_end=True)

    def features(
        self, slices: torch.Tensor, layers: Sequence[int], site: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Return the outputs of some layers (indices into ``model``) without computing what comes after the last."""
        return self.model.run(slices, self._site(slices, site), layers, to_the_end=False)[1]

    def feature_channels(self, layers: Sequence[int]) -> list[int]:
        """Return the number of channels of some layers' outputs.

        Raises:
            CrossmodaError: there is no such layer.
        """
        if not layers or min(layers) < 0 or max(layers) >= len(self.model) or list(layers) != sorted(set(layers)):
            raise CrossmodaError(
                f"feature layers {list(layers)}: give rising numbers from 0 to {len(self.model) - 1} in nce_layers"
            )
        first = next(m for m in self.modules() if isinstance(m, nn.Conv2d))
        device = first.weight.device
        slices = torch.zeros(1, first.in_channels, 16, 16, device=device)
        site = torch.zeros(1, dtype=torch.long, device=device) if self.sites else None
        with torch.no_grad():
            return [feature.shape[1] for feature in self.features(slices, layers, site)]

    def _site(self, slices: torch.Tensor, site: torch.Tensor | None) -> torch.Tensor | None:
        """Return the site to render, after making sure that these slices can be translated."""
        sides = tuple(slices.shape[2:])
        if any(side % 4 or side < _SMALLEST_SIDE for side in sides):
            raise CrossmodaError(
                f"slices of {' x '.join(map(str, sides))} pixels cannot be translated; "
                f"choose crop_size and patch_size as multiples of 4, at least {_SMALLEST_SIDE}"
            )
        if site is None and self.default_site is not None:
            site = torch.full((1,), self.default_site, device=slices.device)
        if (site is None) != (self.sites == 0):
            remedy = "name one with --site" if self.sites else "leave site out, or train one with --sites"
            raise CrossmodaError(f"this generator knows {self.sites} sites; {remedy}")
        return site


class SiteSequential(nn.Sequential):
    """Layers in a row, of which those that depend on the site are told it."""

    def forward(self, features: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last layer's output."""
        for layer in self:
            features = _call(layer, features, site)
        return features

    def run(
        self, features: torch.Tensor, site: torch.Tensor | None, layers: Sequence[int], to_the_end: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the output of the last layer that was needed and those of ``layers``."""
        kept = []
        for index, layer in enumerate(self):
            features = _call(layer, features, site)
            if index in layers:
                kept.append(features)
            if index == layers[-1] and not to_the_end:
                break
        return features, kept


def _call(layer: nn.Module, features: torch.Tensor, site: torch.Tensor | None) -> torch.Tensor:
    return layer(features, site) if isinstance(layer, (ResidualBlock, SiteNorm, SiteSequential)) else layer(features)


class SiteNorm(nn.Module):
    """Normalise each instance, then scale and shift each channel as the site asks; at the start all sites are alike.

    Args:
        channels: of the features (B, C, X, Y).
        sites: number of sites; 0 normalises only.
    """

    def __init__(self, channels: int, sites: int = 0) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.styles = nn.Embedding(sites, 2 * channels) if sites else None
        if self.styles is not None:
            nn.init.zeros_(self.styles.weight)

    def forward(self, features: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:
        """Return the normalised features; ``site`` is (B,) or (1,), of dtype int64."""
        normalised = self.norm(features)
        if self.styles is None:
            return normalised
        scale, shift = self.styles(site)[:, :, None, None].to(normalised.dtype).chunk(2, dim=1)
        return torch.addcmul(normalised + shift, normalised, scale)


class ResidualBlock(nn.Module):
    """Add to the input what two reflection-padded 3x3 convolutions make of it; (B, C, X, Y) in and out."""

    def __init__(self, channels: int, sites: int = 0) -> None:
        super().__init__()
        self.block = SiteSequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            *_norm_relu(channels, sites),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            SiteNorm(channels, sites),
        )

    def forward(self, features: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:
        """Return the input plus the block's response."""
        return features + self.block(features, site)


def _norm_relu(channels: int, sites: int = 0) -> list[nn.Module]:
    return [SiteNorm(channels, sites), nn.ReLU(inplace=True)]


def _stride_halving(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1), *_norm_relu(2 * channels)]


def _blur_halving(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, 2 * channels, 3, padding=1), *_norm_relu(2 * channels), BlurHalving()]


def _stride_doubling(channels: int, sites: int) -> list[nn.Module]:
    half = channels // 2
    return [nn.ConvTranspose2d(channels, half, 3, stride=2, padding=1, output_padding=1), *_norm_relu(half, sites)]


def _blur_doubling(channels: int, sites: int) -> list[nn.Module]:
    return [BlurDoubling(), nn.Conv2d(channels, channels // 2, 3, padding=1), *_norm_relu(channels // 2, sites)]


class UNetGenerator(Generator):
    """Translate 2D slices with a U-Net of 4x4 convolutions (Isola et al., CVPR 2017; recipe card 0.1's ablation).

    ``n_halvings`` strided convolutions down to a few pixels and as many transposed ones up, a skip connection at each
    size, instance normalisation without learnt scale except around the outermost and innermost level, leaky ReLU of 0.2
    on the way down, ReLU on the way up, tanh, no dropout. As in the authors' code, a skip carries the features behind
    their leaky ReLU. With eight halvings it is their ``unet_256``.

    Input and output are (B, C, X, Y) in [-1, 1]; X and Y are multiples of 2 to the power of ``n_halvings``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        ngf: filters of the outermost level; doubled in each of the next three, then constant.
        n_halvings: levels, 2 and more.
        initialisation: ``normal``, ``xavier`` or ``he``.
        sites: must be 0; this generator knows one style.

    Raises:
        CrossmodaError: fewer than two halvings, or sites; when called, a slice whose sides cannot be restored.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        ngf: int = 64,
        n_halvings: int = 8,
        initialisation: str = "normal",
        sites: int = 0,
    ) -> None:
        super().__init__()
        if sites:
            raise CrossmodaError("the U-Net generator knows one style; leave sites out or use the ResNet generator")
        if n_halvings < 2:
            raise CrossmodaError(f"n_halvings is {n_halvings}; a U-Net needs 2 or more")
        filters = [ngf * 2 ** min(level, 3) for level in range(n_halvings)]
        self.multiple = 2**n_halvings
        inner: nn.Module | None = None
        for level in reversed(range(1, n_halvings)):
            inner = _UNetLevel(filters[level - 1], filters[level], inner)
        assert inner is not None
        self.first = nn.Conv2d(in_channels, ngf, 4, stride=2, padding=1)
        self.inner = inner
        self.last = nn.ConvTranspose2d(2 * ngf, out_channels, 4, stride=2, padding=1)
        initialise(self, initialisation)

    def forward(self, slices: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:
        """Return the translated slices, of the input's (X, Y), in [-1, 1]."""
        sides = tuple(slices.shape[2:])
        if any(side % self.multiple for side in sides):
            raise CrossmodaError(
                f"slices of {' x '.join(map(str, sides))} pixels cannot be translated; "
                f"choose crop_size and patch_size as multiples of {self.multiple}, or fewer halvings"
            )
        features = torch.relu(self.inner(self.first(slices)))
        if self.training:
            return torch.tanh(self.last(features))
        with torch.autocast(slices.device.type, enabled=False):  # as in the ResNet
            return torch.tanh(self.last(features.float()))


class _UNetLevel(nn.Module):
    """One level of the U-Net: (B, outer, X, Y) in, (B, 2 * outer, X, Y) out, the input's half being the skip."""

    def __init__(self, outer: int, channels: int, inner: nn.Module | None) -> None:
        super().__init__()
        self.down = nn.Conv2d(outer, channels, 4, stride=2, padding=1)
        self.norm: Callable[[torch.Tensor], torch.Tensor] = nn.InstanceNorm2d(channels) if inner else nn.Identity()
        self.inner: Callable[[torch.Tensor], torch.Tensor] = inner or nn.Identity()
        self.up = nn.ConvTranspose2d(2 * channels if inner else channels, outer, 4, stride=2, padding=1)
        self.up_norm = nn.InstanceNorm2d(outer)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the activated input and what the lower levels make of it, side by side."""
        skip = nn.functional.leaky_relu(features, 0.2)
        lower = torch.relu(self.inner(self.norm(self.down(skip))))
        return torch.cat([skip, self.up_norm(self.up(lower))], dim=1)


class RoundTrip(Generator):
    """Translate there and back again: slices come out in their own modality, changed in style (Wu 2021; card A).

    Args:
        there: generator from the slices' modality to the other.
        back: generator from the other modality to the slices'.
    """

    def __init__(self, there: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.there = there
        self.back = back

    def forward(self, slices: torch.Tensor, site: torch.Tensor | None = None) -> torch.Tensor:
        """Return the slices after the round trip, (B, C, X, Y) in [-1, 1]."""
        return self.back(self.there(slices) if site is None else self.there(slices, site))
