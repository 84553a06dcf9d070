"""CycleGAN: two generators that undo each other, two discriminators (Zhu et al., ICCV 2017; recipe card 0.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from crossmoda.translation.generators import Generator
from crossmoda.translation.image_pool import ImagePool
from crossmoda.translation.losses import CycleGANLoss
from crossmoda.translation.trainer import Losses, TranslationTrainer, frozen


class CycleGANTrainer(TranslationTrainer):
    """Train a generator and its return generator against one discriminator per modality.

    Each iteration updates both generators on the adversarial, cycle and identity terms with the discriminators frozen,
    then both discriminators on real slices and slices from the pools. Slices that meet the same network at the same
    moment share a forward call; since every normalisation is per slice, the losses are those of separate calls.

    Args:
        network: generator from source to target, the one to deploy.
        return_network: generator from target to source.
        target_discriminator: judges slices of the target modality.
        source_discriminator: judges slices of the source modality.
        generator_optimizer: over the weights of both generators.
        discriminator_optimizer: over the weights of both discriminators.
        loss_function: weighs the terms.
        target_pool: earlier translations into the target modality.
        source_pool: earlier translations into the source modality.
        training: arguments of ``TranslationTrainer``: ``device``, ``max_epochs``, ``train_data_loader`` and so on.
    """

    def __init__(
        self,
        network: Generator,
        return_network: nn.Module,
        target_discriminator: nn.Module,
        source_discriminator: nn.Module,
        generator_optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        loss_function: CycleGANLoss,
        target_pool: ImagePool,
        source_pool: ImagePool,
        **training: Any,
    ) -> None:
        super().__init__(network, **training)
        self.return_network = return_network
        self.target_discriminator = target_discriminator
        self.source_discriminator = source_discriminator
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.loss_function = loss_function
        self.target_pool = target_pool
        self.source_pool = source_pool

    def update(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        site: torch.Tensor | None = None,
        label: torch.Tensor | None = None,
    ) -> tuple[Losses, torch.Tensor]:
        """Update the generators, then the discriminators; see ``TranslationTrainer.update``."""
        for network in (self.network, self.return_network, self.target_discriminator, self.source_discriminator):
            network.train()
        with frozen((self.target_discriminator, self.source_discriminator)):
            terms, fake_target, fake_source = self._generator_terms(source, target, site, label)
            total = torch.stack(list(terms.values())).sum()
            self._step(total, self.generator_optimizer)
        judged = self._discriminator_terms(source, target, fake_source, fake_target, site)
        self._step(torch.stack(list(judged.values())).sum(), self.discriminator_optimizer)
        return {"loss": total, **terms, **judged}, fake_target

    def _generator_terms(
        self, source: torch.Tensor, target: torch.Tensor, site: torch.Tensor | None, label: torch.Tensor | None
    ) -> tuple[Losses, torch.Tensor, torch.Tensor]:
        weigh = self.loss_function
        fake_target, same_target, structures = self._translate(source, target, site, label)
        fake_source, same_source = self._return(target, source)
        terms = {
            "loss_adversarial_target": weigh.adversarial(self._run(self.target_discriminator, fake_target, site)),
            "loss_adversarial_source": weigh.adversarial(self._run(self.source_discriminator, fake_source)),
            "loss_cycle_source": weigh.cycle(self._run(self.return_network, fake_target), source),
            "loss_cycle_target": weigh.cycle(self._run(self.network, fake_source, site), target),
            **structures,
        }
        if same_target is not None and same_source is not None:
            terms["loss_identity_target"] = weigh.identity(same_target, target)
            terms["loss_identity_source"] = weigh.identity(same_source, source)
        return terms, fake_target, fake_source

    def _translate(
        self, source: torch.Tensor, target: torch.Tensor, site: torch.Tensor | None, label: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None, Losses]:
        """Translate source slices and, where the loss asks for it, target slices, which should stay the same.

        Returns:
            The translated source slices, the target slices or None, and the terms of the labelled structures.
        """
        slices, sites = self._with_own(source, target, site)
        if self.structure_terms is None:
            translated, structures = self._run(self.network, slices, sites), {}
        else:
            layers = [self.network.before_output]
            translated, features = self.inferer(slices, self.network.translate_with_features, layers, sites)
            count = len(source)
            structures = self._structure_losses(features[0][:count], translated[:count], label)
        parts = translated.split(len(source))
        return parts[0], (parts[1] if len(parts) > 1 else None), structures

    def _return(self, target: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Translate target slices back to the source's modality and, where asked for, source slices as they are."""
        slices, _ = self._with_own(target, source, None)
        parts = self._run(self.return_network, slices).split(len(target))
        return parts[0], (parts[1] if len(parts) > 1 else None)

    def _with_own(
        self, slices: torch.Tensor, own: torch.Tensor, site: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Append what is of the output's modality already, if the identity term is wanted."""
        if self.loss_function.identity_weight == 0:
            return slices, site
        return torch.cat([slices, own]), None if site is None else torch.cat([site, site])

    def _discriminator_terms(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        fake_source: torch.Tensor,
        fake_target: torch.Tensor,
        site: torch.Tensor | None,
    ) -> Losses:
        earlier_target, earlier_source = self.target_pool.query(fake_target, site), self.source_pool.query(fake_source)
        return {
            "loss_discriminator_target": self._judge(self.target_discriminator, target, earlier_target, site),
            "loss_discriminator_source": self._judge(self.source_discriminator, source, earlier_source),
        }
