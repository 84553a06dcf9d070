"""Training steps as the papers write them: one forward call for each use of a network, whole matrices, no sharing.

Tests hold the trainers' losses and gradients against these, benchmarks their time and memory. A trainer is taken with
its networks, optimisers, weights of the terms and rules for patches, and updated; replay pools must not be full yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Optimizer

from crossmoda.translation.cut import CUTTrainer
from crossmoda.translation.cyclegan import CycleGANTrainer
from crossmoda.translation.patch_samplers import GlobalAttentionPatches, PatchChoice

Losses = dict[str, torch.Tensor]


def cyclegan_step(trainer: CycleGANTrainer, source: torch.Tensor, target: torch.Tensor) -> Losses:
    """Update all four networks on slices (B, C, X, Y) and return the terms by name (recipe card 0.1)."""
    fakes = trainer.network(source), trainer.return_network(target)
    losses = _cyclegan_losses(trainer, source, target, *fakes)
    _descend([trainer.generator_optimizer], losses)
    judged = {
        "loss_discriminator_target": _judge(trainer.target_discriminator, target, fakes[0].detach()),
        "loss_discriminator_source": _judge(trainer.source_discriminator, source, fakes[1].detach()),
    }
    _descend([trainer.discriminator_optimizer], judged)
    return {**losses, **judged}


def _cyclegan_losses(
    t: CycleGANTrainer,
    source: torch.Tensor,
    target: torch.Tensor,
    fake_target: torch.Tensor,
    fake_source: torch.Tensor,
) -> Losses:
    weights = t.loss_function
    return {
        "loss_adversarial_target": weights.adversarial_weight * _squared(t.target_discriminator(fake_target), 1),
        "loss_adversarial_source": weights.adversarial_weight * _squared(t.source_discriminator(fake_source), 1),
        "loss_cycle_source": weights.cycle_weight * (t.return_network(fake_target) - source).abs().mean(),
        "loss_cycle_target": weights.cycle_weight * (t.network(fake_source) - target).abs().mean(),
        "loss_identity_target": weights.identity_weight * (t.network(target) - target).abs().mean(),
        "loss_identity_source": weights.identity_weight * (t.return_network(source) - source).abs().mean(),
    }


def cut_step(trainer: CUTTrainer, source: torch.Tensor, target: torch.Tensor, mirrored: bool = False) -> Losses:
    """Update all three networks on slices (B, C, X, Y) and return the terms by name (recipe cards 0.2 and 0.3).

    Args:
        trainer: whose networks are updated.
        source: slices of the source.
        target: slices of the target.
        mirrored: translate the slices mirrored along x, as FastCUT does in about every second step.
    """
    weights = trainer.loss_function
    turn = _mirror if mirrored else _leave
    fake = trainer.network(turn(source))
    judged = {"loss_discriminator_target": _judge(trainer.discriminator, target, fake.detach())}
    _descend([trainer.discriminator_optimizer], judged)
    share = weights.nce_weight * (0.5 if weights.identity else 1.0)
    losses = {
        "loss_adversarial_target": weights.adversarial_weight * _squared(trainer.discriminator(fake), 1),
        "loss_nce_source": share * _contrast(trainer, source, fake, turn),
    }
    if weights.identity:
        losses["loss_nce_target"] = share * _contrast(trainer, target, trainer.network(turn(target)), turn)
    _descend([trainer.generator_optimizer, trainer.projector_optimizer], losses)
    return {**losses, **judged}


def _mirror(slices: torch.Tensor) -> torch.Tensor:
    return slices.flip(2)


def _leave(slices: torch.Tensor) -> torch.Tensor:
    return slices


def _contrast(
    t: CUTTrainer,
    original: torch.Tensor,
    translated: torch.Tensor,
    turn: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Return the mean over layers of a cross-entropy with one positive, the others being negatives."""
    source_maps, maps = (t.network.features(slices, t.nce_layers) for slices in (original, translated))
    total = torch.zeros((), device=original.device)
    for project, choice, source, other in zip(
        t.projector.projections, t.projector.choices, source_maps, maps, strict=True
    ):
        keys, queries = (_unit(project(patches)) for patches in patches_of(choice, source, turn(other)))
        total = total + _one_positive(queries, keys.detach(), t.loss_function.patches.temperature)
    return total / len(source_maps)


def patches_of(choice: PatchChoice, source: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the patches (B, P, C) of source and translated maps (B, C, X, Y); global attention by its whole matrix."""
    positions = [maps.flatten(2).transpose(1, 2) for maps in (source, other)]
    if type(choice) is GlobalAttentionPatches:
        attention = torch.bmm(positions[0], positions[0].transpose(1, 2)).softmax(dim=2)
        logarithm = -attention.log()
        entropy = (attention * torch.where(logarithm.isinf(), torch.zeros_like(logarithm), logarithm)).sum(dim=2)
        chosen = entropy.sort(dim=1, stable=True).indices[:, : choice.patches]
        rows = torch.stack([matrix[index] for matrix, index in zip(attention, chosen, strict=True)])
        return torch.bmm(rows, positions[0]), torch.bmm(rows, positions[1])
    route = choice.route(source)
    return route(positions[0]), route(positions[1])


def _unit(patches: torch.Tensor) -> torch.Tensor:
    return patches / (patches.norm(dim=2, keepdim=True) + 1e-7)


def _one_positive(queries: torch.Tensor, keys: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the cross-entropy with the logits side by side, a patch's own among the negatives set to exp(-10 / T)."""
    positive = (queries * keys).sum(dim=2).reshape(-1, 1)
    same = torch.eye(queries.shape[1], dtype=torch.bool, device=queries.device)[None]
    negative = torch.bmm(queries, keys.transpose(1, 2)).masked_fill(same, -10.0).flatten(0, 1)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


def _squared(scores: torch.Tensor, wanted: float) -> torch.Tensor:
    return ((scores - wanted) ** 2).mean()


def _judge(discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    return 0.5 * (_squared(discriminator(real), 1) + _squared(discriminator(fake), 0))


def _descend(optimizers: Sequence[Optimizer], losses: Losses) -> None:
    for optimizer in optimizers:
        optimizer.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
