"""Which patches of two feature maps are compared, and the small networks that project them for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.translation import attention
from crossmoda.translation.initialisation import initialise

Route = Callable[[torch.Tensor], torch.Tensor]  # (B, N, C) features of all positions -> (B, P, C) of the patches


@dataclass(frozen=True)
class PatchChoice(ABC):
    """A rule that chooses patches by looking at the features of the source slice alone.

    Args:
        patches: how many to choose in a slice; all of them where the map has fewer positions.
    """

    patches: int = 256

    def __post_init__(self) -> None:
        """Refuse a number of patches that leaves nothing to compare."""
        if self.patches < 2:
            raise CrossmodaError(f"patches is {self.patches}; a patch is told from others, so give 2 or more")

    @abstractmethod
    def route(self, source: torch.Tensor) -> Route:
        """Return what takes the chosen patches from source and translated features alike.

        Args:
            source: features of the source slices, (B, C, X, Y).
        """


@dataclass(frozen=True)
class RandomPatches(PatchChoice):
    """Random positions, the same in all slices of a batch (CUT; recipe card 0.2)."""

    def route(self, source: torch.Tensor) -> Route:
        """Return what takes the features at the positions drawn now."""
        positions = torch.randperm(source[0, 0].numel(), device=source.device)[: self.patches]
        return lambda features: features[:, positions]


@dataclass(frozen=True)
class GlobalAttentionPatches(PatchChoice):
    """The rows of lowest entropy of the source's global attention, which route both slices' features (card 0.3).

    Each patch is a mix of all positions, weighted by what the chosen query of the *source* attends to. Gradients pass
    through the attention into the source's features, as in the authors' code.
    """

    def route(self, source: torch.Tensor) -> Route:
        """Return what mixes the features by the selected rows of the source's attention."""
        features = positions_of(source).float()
        with torch.no_grad():
            chosen = attention.most_significant(self._entropies(features, source), self.patches)
        rows = attention.global_rows(features, chosen)
        return lambda other: torch.bmm(rows, other.to(rows.dtype))

    def _entropies(self, features: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return attention.global_entropy(features)


@dataclass(frozen=True)
class LocalGlobalAttentionPatches(GlobalAttentionPatches):
    """Queries chosen by the entropy of their attention to a 7 x 7 window, routed by the global attention (card 0.3)."""

    def _entropies(self, features: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return attention.local_entropy(features, (source.shape[2], source.shape[3]))


@dataclass(frozen=True)
class LocalAttentionPatches(PatchChoice):
    """Queries chosen by the entropy of their attention to a 7 x 7 window, and routed by that attention (card 0.3)."""

    def route(self, source: torch.Tensor) -> Route:
        """Return what mixes each chosen position's window by the source's attention to it."""
        features, sides = positions_of(source).float(), (source.shape[2], source.shape[3])
        with torch.no_grad():
            chosen = attention.most_significant(attention.local_entropy(features, sides), self.patches)
        queries = attention.gather_positions(features, chosen)
        windows = attention.windows_at(features, sides, chosen)
        rows = torch.einsum("bpc,bpwc->bpw", queries, windows).softmax(dim=-1)

        def mix(other: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bpw,bpwc->bpc", rows, attention.windows_at(other.to(rows.dtype), sides, chosen))

        return mix


def positions_of(maps: torch.Tensor) -> torch.Tensor:
    """Return feature maps (B, C, X, Y) as features of positions (B, X * Y, C), a view."""
    return maps.flatten(2).transpose(1, 2)


class PatchProjector(nn.Module):
    """Take patches from several feature maps and project each onto the unit sphere, with one small network per map.

    The network is two linear layers with a ReLU between (the MLP of Chen et al., ICML 2020, as CUT has it).

    Args:
        channels: of each feature map, from ``ResNetGenerator.feature_channels``.
        choices: the rule for each map, or one for all.
        width: features of a projected patch.
        initialisation: ``xavier``, ``normal`` or ``he``.

    Raises:
        CrossmodaError: as many rules as maps are needed.
    """

    def __init__(
        self,
        channels: Sequence[int],
        choices: PatchChoice | Sequence[PatchChoice],
        width: int = 256,
        initialisation: str = "xavier",
    ) -> None:
        super().__init__()
        self.choices = [choices] * len(channels) if isinstance(choices, PatchChoice) else list(choices)
        if len(self.choices) != len(channels):
            raise CrossmodaError(
                f"{len(self.choices)} rules for patches, but {len(channels)} feature layers; give one for each layer"
            )
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(count, width), nn.ReLU(), nn.Linear(width, width)) for count in channels
        )
        initialise(self, initialisation)

    def routes(self, source_maps: Sequence[torch.Tensor]) -> list[Route]:
        """Choose patches by looking at the source's feature maps, (B, C, X, Y) each."""
        with torch.autocast(source_maps[0].device.type, enabled=False):  # entropies need float32
            return [choice.route(maps) for choice, maps in zip(self.choices, source_maps, strict=True)]

    def forward(self, maps: Sequence[torch.Tensor], routes: Sequence[Route]) -> list[torch.Tensor]:
        """Return the chosen patches of each map as unit vectors (B, P, width), float32."""
        return [
            F.normalize(project(route(positions_of(features))).float(), dim=-1, eps=1e-7)
            for project, route, features in zip(self.projections, routes, maps, strict=True)
        ]


ATTENTION: dict[str, Callable[[int], PatchChoice]] = {
    "global": GlobalAttentionPatches,
    "local": LocalAttentionPatches,
    "local_global": LocalGlobalAttentionPatches,
}


def attended(mode: str, patches: int, layers: int, attention_layers: int) -> list[PatchChoice]:
    """Return QS-Attn's rule for each layer: random in the first ones, by attention in the last ``attention_layers``.

    Args:
        mode: ``global``, ``local`` or ``local_global``.
        patches: how many in each layer of each slice.
        layers: number of feature layers.
        attention_layers: how many of them choose by attention; 2 of 5 in the paper.

    Raises:
        CrossmodaError: the mode is unknown or there are not as many layers.
    """
    if mode not in ATTENTION:
        raise CrossmodaError(f"qs_mode '{mode}' is unknown; choose {', '.join(ATTENTION)}")
    if not 0 < attention_layers <= layers:
        raise CrossmodaError(f"attention_layers is {attention_layers}; give 1 to {layers}, the number of nce_layers")
    random = layers - attention_layers
    return [*[RandomPatches(patches)] * random, *[ATTENTION[mode](patches)] * attention_layers]
