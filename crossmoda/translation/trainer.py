"""The mechanism that trainers of unpaired translators share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from monai.engines import Trainer
from monai.inferers import Inferer, SimpleInferer
from monai.utils.enums import CommonKeys
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from crossmoda.engines.distribution import average_gradients
from crossmoda.errors import CrossmodaError
from crossmoda.translation.generators import Generator
from crossmoda.translation.losses import LeastSquaresGANLoss
from crossmoda.translation.structure_terms import StructureTerms

SOURCE = "source"  # key of a batch's ceT1 slices
TARGET = "target"  # key of its hrT2 slices, of other patients
SITE = "site"  # key of the number of each target slice's site
LABEL = "label"  # key of the source slices' structures

Losses = dict[str, torch.Tensor]


class TranslationTrainer(Trainer):
    """Train a source-to-target generator on unpaired slices; one subclass per method implements ``update``.

    A batch is ``{"source": (B, C, X, Y), "target": (B, C, X, Y), ...}`` in [-1, 1]; where they are wanted also
    ``site``, the number of each target slice's site, (B,), and ``label``, the structures of the source slices,
    (B, 1, X, Y). After each iteration
    ``engine.state.output`` holds every loss as a float under a name with ``loss`` in it (``loss`` itself is the
    generators' sum) and, detached, the slices ``source``, ``target`` and ``pred`` (source in the target's modality).

    Args:
        network: the generator to deploy, source to target; ``update`` may train others beside it.
        device: where the networks are and the batches go.
        max_epochs: epochs to train.
        train_data_loader: yields the batches.
        inferer: runs a network on slices; ``crossmoda.engines.AutocastInferer`` makes that bfloat16.
        structure_terms: keeps labelled structures in their place; needs a ``ResNetGenerator`` and labels.
        share_casts: under autocast, cast each weight once per update of an optimizer instead of once per forward call.
            Networks of many weights and few pixels (U-Nets) take a fifth less time and memory; gradients of a weight
            that is used twice are then summed in bfloat16. Without autocast it changes nothing.
        epoch_length: iterations of an epoch, those of the data loader by default.
        train_handlers: ignite handlers with an ``attach`` method.

    Raises:
        CrossmodaError: structure terms with a generator without numbered layers.
    """

    def __init__(
        self,
        network: Generator,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: DataLoader,
        inferer: Inferer | None = None,
        structure_terms: StructureTerms | None = None,
        share_casts: bool = False,
        epoch_length: int | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            handlers=train_handlers,
            decollate=False,  # losses belong to the batch, not to its items
        )
        self.network = network
        if structure_terms is not None:
            _ = network.before_output  # a generator that has none says so now
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.structure_terms = None if structure_terms is None else structure_terms.to(self.state.device)
        self.share_casts = share_casts
        self.gan = LeastSquaresGANLoss()

    @abstractmethod
    def update(
        self,
        source: torch.Tensor,
        target: torch.Tensor,
        site: torch.Tensor | None = None,
        label: torch.Tensor | None = None,
    ) -> tuple[Losses, torch.Tensor]:
        """Take one optimisation step.

        Args:
            source: slices (B, C, X, Y) in [-1, 1].
            target: slices of other patients, of the same shape.
            site: number of each target slice's site, (B,) int64, where the networks tell sites apart.
            label: the source slices' structures as 0, 1, 2, ..., (B, 1, X, Y), where ``structure_terms`` need it.

        Returns:
            The scalar losses by name, and the translated source slices.
        """

    def learn(
        self, source: torch.Tensor, target: torch.Tensor, *extras: torch.Tensor | None
    ) -> tuple[Losses, torch.Tensor]:
        """Take and return an ``update``, sharing casts where that is wanted, and free the gradients."""
        # casts outlive their forward call only within an outer autocast
        shared = torch.autocast(self.state.device.type, enabled=False) if self.share_casts else nullcontext()
        with shared:
            updated = self.update(source, target, *extras)
        for optimizer in self._optimizers():
            optimizer.zero_grad(set_to_none=True)  # the next forward calls need the memory, and nobody these gradients
        return updated

    def _optimizers(self) -> list[Optimizer]:
        return [part for part in vars(self).values() if isinstance(part, Optimizer)]

    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        source, target = self._slices(batchdata, SOURCE), self._slices(batchdata, TARGET)
        losses, translated = self.learn(source, target, *(self._extra(batchdata, key) for key in (SITE, LABEL)))
        return {**_as_floats(losses), SOURCE: source, TARGET: target, CommonKeys.PRED: translated.detach()}

    def _slices(self, batch: Mapping[str, Any], key: str) -> torch.Tensor:
        return torch.as_tensor(batch[key]).to(self.state.device, torch.float32, non_blocking=True)

    def _extra(self, batch: Mapping[str, Any], key: str) -> torch.Tensor | None:
        return torch.as_tensor(batch[key]).to(self.state.device, non_blocking=True) if key in batch else None

    def _step(self, loss: torch.Tensor, *optimizers: Optimizer) -> None:
        torch.clear_autocast_cache()  # the weights are about to change; the graph keeps what it needs of the casts
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            average_gradients(optimizer)
            optimizer.step()

    def _run(self, network: Callable[..., Any], slices: torch.Tensor, site: torch.Tensor | None = None) -> Any:
        """Run a network, telling it the site where there is one."""
        return self.inferer(slices, network) if site is None else self.inferer(slices, network, site)

    def _judge(
        self, discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor, site: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the least-squares loss of a discriminator on real and translated slices, in one forward call."""
        sites = None if site is None else torch.cat([site, site])
        real_scores, fake_scores = self._run(discriminator, torch.cat([real, fake]), sites).split(len(real))
        return self.gan.discriminator(real_scores, fake_scores)

    def _structure_losses(
        self, features: torch.Tensor, translated: torch.Tensor, label: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        if self.structure_terms is None:
            return {}
        if label is None:
            raise CrossmodaError("structure_terms need labelled source slices; name the structures to be kept")
        return self.structure_terms(features, translated, label)


def _as_floats(losses: Mapping[str, torch.Tensor]) -> dict[str, float]:
    values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()  # one transfer from the device
    return dict(zip(losses, values, strict=True))


@contextmanager
def frozen(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Let gradients pass through these networks without computing those of their weights."""
    parameters = [parameter for network in networks for parameter in network.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def headline_losses(output: Mapping[str, Any]) -> dict[str, float]:
    """Return the two sums that a progress bar has room for: the generators' loss and the discriminators'."""
    judged = [value for name, value in output.items() if name.startswith("loss_discriminator")]
    return {"generators": float(output["loss"]), "discriminators": float(sum(judged))}
