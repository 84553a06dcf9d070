"""CUT, FastCUT and QS-Attn: translation in one direction, held to its source patch by patch.

Park et al., "Contrastive learning for unpaired image-to-image translation" (ECCV 2020; recipe card 0.2), and Hu et al.,
"QS-Attn" (CVPR 2022; card 0.3), which differs in the choice of the patches alone: a variant is another ``projector``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from crossmoda.translation.generators import Generator
from crossmoda.translation.losses import CUTLoss
from crossmoda.translation.patch_samplers import PatchProjector, Route
from crossmoda.translation.trainer import Losses, TranslationTrainer, frozen

Maps = list[torch.Tensor]

_LEFT_RIGHT = 2  # axis x of (B, C, X, Y)


class CUTTrainer(TranslationTrainer):
    """Train one generator against one discriminator and a contrast of patches between a slice and its translation.

    Each iteration translates source (and, with the identity term, target) slices, updates the discriminator on real and
    translated slices, then generator and projector on the adversarial and contrastive terms with the discriminator
    frozen. The source's features come from the pass that translates it: the generator has not changed in between, so
    they are what a second pass would give.

    Args:
        network: generator from source to target, the one to deploy.
        discriminator: judges slices of the target modality.
        projector: chooses patches of the generator's features and projects them.
        generator_optimizer: over the generator's weights.
        discriminator_optimizer: over the discriminator's weights.
        projector_optimizer: over the projector's weights.
        loss_function: weighs the terms.
        nce_layers: layers of the generator whose features are compared, in rising order.
        flip_equivariance: translate the slices mirrored in every second batch or so, and compare the features of the
            mirrored translation, mirrored back, with those of the slice itself (FastCUT).
        training: arguments of ``TranslationTrainer``: ``device``, ``max_epochs``, ``train_data_loader`` and so on.
    """

    def __init__(
        self,
        network: Generator,
        discriminator: nn.Module,
        projector: PatchProjector,
        generator_optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        projector_optimizer: Optimizer,
        loss_function: CUTLoss,
        nce_layers: Sequence[int] = (0, 4, 8, 12, 16),
        flip_equivariance: bool = False,
        **training: Any,
    ) -> None:
        super().__init__(network, **training)
        self.discriminator = discriminator
        self.projector = projector
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.projector_optimizer = projector_optimizer
        self.loss_function = loss_function
        self.nce_layers = list(nce_layers)
        self.flip_equivariance = flip_equivariance

    def update(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        site: torch.Tensor | None = None,
        label: torch.Tensor | None = None,
    ) -> tuple[Losses, torch.Tensor]:
        """Update the discriminator, then generator and projector; see ``TranslationTrainer.update``."""
        for network in (self.network, self.discriminator, self.projector):
            network.train()
        slices = torch.cat([source, target]) if self.loss_function.identity else source
        sites = torch.cat([site, site]) if site is not None and self.loss_function.identity else site
        mirrored = self.flip_equivariance and bool(torch.rand(()) < 0.5)
        translated, maps, features = self._translate(slices.flip(_LEFT_RIGHT) if mirrored else slices, sites)
        fake = translated[: len(source)]
        judged = self._judge(self.discriminator, target, fake.detach(), site)
        self._step(judged, self.discriminator_optimizer)
        with frozen((self.discriminator,)):
            terms = {
                "loss_adversarial_target": self.loss_function.adversarial(self._run(self.discriminator, fake, site))
            }
            if mirrored:
                maps = self.network_features(slices, sites)
                label = None if label is None else label.flip(_LEFT_RIGHT)
            terms |= self._contrast(translated, maps, len(source), sites, mirrored)
            if features is not None:
                terms |= self._structure_losses(features[: len(source)], fake, label)
            total = torch.stack(list(terms.values())).sum()
            self._step(total, self.generator_optimizer, self.projector_optimizer)
        return {"loss": total, **terms, "loss_discriminator_target": judged}, fake.flip(
            _LEFT_RIGHT
        ) if mirrored else fake

    def network_features(self, slices: torch.Tensor, sites: torch.Tensor | None) -> Maps:
        """Return the feature maps of ``nce_layers``, (B, C, X, Y) each, of slices (B, C, X, Y)."""
        return self.inferer(slices, self.network.features, self.nce_layers, sites)

    def _translate(
        self, slices: torch.Tensor, sites: torch.Tensor | None
    ) -> tuple[torch.Tensor, Maps, torch.Tensor | None]:
        """Return the translations, the maps of ``nce_layers`` and, for the structures, the features before the end."""
        further = [] if self.structure_terms is None else [self.network.before_output]
        layers = [*self.nce_layers, *further]
        translated, maps = self.inferer(slices, self.network.translate_with_features, layers, sites)
        return translated, maps[: len(self.nce_layers)], maps[-1] if further else None

    def _contrast(
        self, translated: torch.Tensor, maps: Maps, count: int, sites: torch.Tensor | None, mirrored: bool
    ) -> Losses:
        """Return the contrastive terms of source slices and, behind the first ``count``, of target slices.

        Args:
            translated: translations (B, C, X, Y), mirrored or not.
            maps: features of the untranslated slices, not mirrored.
            count: how many of the slices are of the source.
            sites: of the slices, or None.
            mirrored: whether the translations are.
        """
        found = self.network_features(translated, sites)
        if mirrored:
            found = [features.flip(_LEFT_RIGHT) for features in found]
        names = ("loss_nce_source", "loss_nce_target")
        parts = zip(names, _halves(maps, count), _halves(found, count), strict=False)
        return {name: self.loss_function.contrast(*self._pairs(own, other)) for name, own, other in parts}

    def _pairs(self, maps: Maps, translated_maps: Maps) -> tuple[Maps, Maps]:
        """Return the projected patches of translations and of their sources."""
        routes: list[Route] = self.projector.routes(maps)
        with torch.no_grad():
            keys = self._project(maps, routes)
        return self._project(translated_maps, routes), keys

    def _project(self, maps: Maps, routes: Sequence[Route]) -> Maps:
        return self.inferer(maps[0], lambda first: self.projector([first, *maps[1:]], routes))


def _halves(maps: Maps, count: int) -> list[Maps]:
    """Split every map's batch behind ``count``; the second part is left out where it would be empty."""
    parts = [[features[:count] for features in maps], [features[count:] for features in maps]]
    return parts if len(maps[0]) > count else parts[:1]
