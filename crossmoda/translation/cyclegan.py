"""CycleGAN: two generators that undo each other, two discriminators (Zhu et al., ICCV 2017; recipe card 0.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from crossmoda.translation.image_pool import ImagePool
from crossmoda.translation.losses import CycleGANLoss
from crossmoda.translation.trainer import TranslationTrainer, frozen

Losses = dict[str, torch.Tensor]


class CycleGANTrainer(TranslationTrainer):
    """Train a generator and its return generator against one discriminator per modality.

    Each iteration updates both generators on the adversarial, cycle and identity terms with the discriminators frozen,
    then both discriminators on real slices and slices from the pools. Slices that meet the same network at the same
    moment share a forward call; since every normalisation is per slice, the losses are those of separate calls.

    Args:
        device: where the networks are and the batches go.
        max_epochs: epochs to train.
        train_data_loader: yields ``{"source", "target"}`` slices (B, C, X, Y), both of one shape, in [-1, 1].
        network: generator from source to target, the one to deploy.
        return_network: generator from target to source.
        target_discriminator: judges slices of the target modality.
        source_discriminator: judges slices of the source modality.
        generator_optimizer: over the weights of both generators.
        discriminator_optimizer: over the weights of both discriminators.
        loss_function: weighs the terms.
        target_pool: earlier translations into the target modality.
        source_pool: earlier translations into the source modality.
        options: further arguments of ``TranslationTrainer``: ``inferer``, ``epoch_length``, ``train_handlers``.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: DataLoader,
        network: nn.Module,
        return_network: nn.Module,
        target_discriminator: nn.Module,
        source_discriminator: nn.Module,
        generator_optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        loss_function: CycleGANLoss,
        target_pool: ImagePool,
        source_pool: ImagePool,
        **options: Any,
    ) -> None:
        super().__init__(device, max_epochs, train_data_loader, network, **options)
        self.return_network = return_network
        self.target_discriminator = target_discriminator
        self.source_discriminator = source_discriminator
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.loss_function = loss_function
        self.target_pool = target_pool
        self.source_pool = source_pool

    def update(self, source: torch.Tensor, target: torch.Tensor) -> tuple[Losses, torch.Tensor]:
        """Update the generators, then the discriminators; source and target are (B, C, X, Y) of one shape."""
        for network in (self.network, self.return_network, self.target_discriminator, self.source_discriminator):
            network.train()
        with frozen((self.target_discriminator, self.source_discriminator)):
            terms, fake_target, fake_source = self._generator_terms(source, target)
            total = torch.stack(list(terms.values())).sum()
            self._step(self.generator_optimizer, total)
        judged = self._discriminator_terms(source, target, fake_source, fake_target)
        self._step(self.discriminator_optimizer, torch.stack(list(judged.values())).sum())
        return {"loss": total, **terms, **judged}, fake_target

    def _generator_terms(self, source: torch.Tensor, target: torch.Tensor) -> tuple[Losses, torch.Tensor, torch.Tensor]:
        weigh = self.loss_function
        fake_target, same_target = self._translate(self.network, source, target)
        fake_source, same_source = self._translate(self.return_network, target, source)
        terms = {
            "loss_adversarial_target": weigh.adversarial(self.inferer(fake_target, self.target_discriminator)),
            "loss_adversarial_source": weigh.adversarial(self.inferer(fake_source, self.source_discriminator)),
            "loss_cycle_source": weigh.cycle(self.inferer(fake_target, self.return_network), source),
            "loss_cycle_target": weigh.cycle(self.inferer(fake_source, self.network), target),
        }
        if same_target is not None and same_source is not None:
            terms["loss_identity_target"] = weigh.identity(same_target, target)
            terms["loss_identity_source"] = weigh.identity(same_source, source)
        return terms, fake_target, fake_source

    def _translate(
        self, network: nn.Module, slices: torch.Tensor, own: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Translate ``slices`` and, where the loss asks for it, ``own``, which is of the output's modality."""
        if self.loss_function.identity_weight == 0:
            return self.inferer(slices, network), None
        translated, same = self.inferer(torch.cat([slices, own]), network).split([len(slices), len(own)])
        return translated, same

    def _discriminator_terms(
        self, source: torch.Tensor, target: torch.Tensor, fake_source: torch.Tensor, fake_target: torch.Tensor
    ) -> Losses:
        return {
            "loss_discriminator_target": self._judge(
                self.target_discriminator, target, self.target_pool.query(fake_target)
            ),
            "loss_discriminator_source": self._judge(
                self.source_discriminator, source, self.source_pool.query(fake_source)
            ),
        }

    def _judge(self, discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        real_scores, fake_scores = self.inferer(torch.cat([real, fake]), discriminator).split([len(real), len(fake)])
        return self.loss_function.gan.discriminator(real_scores, fake_scores)
