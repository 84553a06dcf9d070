"""What a segmentation is charged for: the voxels and structures it misses, and how far each case is to be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from monai.losses import DiceLoss
from monai.networks import one_hot
from torch import nn
from torch.nn import functional as F

from crossmoda.data.annotations import CHANNEL_GROUP, FULL_TRUST, STRUCTURE_WEIGHT
from crossmoda.segmentation.partial_labels import levels_of_trust, merge_channels, merge_labels

TINY = 1.0e-8  # keeps a quotient finite where nothing is trusted
Heads = torch.Tensor | list[torch.Tensor]
Annotation = tuple[tuple[int, ...], tuple[float, ...]]  # channel groups and weights of structures, of one case


class WeightedTarget(NamedTuple):
    """What a batch is compared with.

    Attributes:
        label: maps (B, 1, X, Y, Z), or (B, 2, X, Y, Z) with each voxel's trust in 255ths (``AttachConfidenced``); uint8
            or floating point where a network's outputs differ in size, since PyTorch resizes no other integers.
        weight: one a case, (B,).
        channel_group: (B, C), which channels each annotation cannot tell apart (``channel_groups``); None: it can all.
        structure_weight: (B, C - 1), how far each structure's label is trusted, 0 to 1; None: fully.
    """

    label: torch.Tensor
    weight: torch.Tensor
    channel_group: torch.Tensor | None = None
    structure_weight: torch.Tensor | None = None


def label_and_trust(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return label maps (B, 1, X, Y, Z), and voxels' weights (B, 1, X, Y, Z) from 0 to 1 where the target has them.

    Args:
        target: (B, 1 or 2, X, Y, Z).
    """
    return target[:, :1], target[:, 1:].float() / FULL_TRUST if target.shape[1] > 1 else None


class SoftDice(nn.Module):
    """The mean soft Dice loss of the structures, and of the background if asked for, of voxels trusted more or less.

    MONAI's ``DiceLoss``, and where voxels have weights, the same with every sum weighted by them (MONAI's masks
    multiply prediction and label alike, which squares a weight in their intersection).

    Args:
        batch: sum over the cases of a batch before dividing (cards A, C), instead of a Dice for each.
        include_background: count it as a structure (card A).
        smoothing: voxels added to numerator and denominator. Where a structure is absent, ``n`` voxels that are taken
            for it cost ``n / (n + smoothing)``: all alike for next to nothing, in proportion for a hundred.
    """

    def __init__(self, batch: bool = False, include_background: bool = False, smoothing: float = 1e-5) -> None:
        super().__init__()
        self.dice = DiceLoss(
            include_background=include_background,
            to_onehot_y=True,
            softmax=True,
            batch=batch,
            smooth_nr=smoothing,
            smooth_dr=smoothing,
        )

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of logits (B, C, X, Y, Z) and a target (B, 1 or 2, X, Y, Z)."""
        label, trust = label_and_trust(target)
        if trust is None:
            return self.dice(prediction, label)
        first = 0 if self.dice.include_background else 1
        found = prediction.softmax(dim=1)[:, first:]
        drawn = one_hot(label, num_classes=prediction.shape[1])[:, first:]
        axes = [0, 2, 3, 4] if self.dice.batch else [2, 3, 4]
        both = (trust * found * drawn).sum(dim=axes)
        either = (trust * found).sum(dim=axes) + (trust * drawn).sum(dim=axes)
        return (1 - (2 * both + self.dice.smooth_nr) / (either + self.dice.smooth_dr)).mean()


class DiceAndWeightedCrossEntropy(nn.Module):
    """The mean soft Dice loss of the structures, plus a cross-entropy in which rare classes weigh more.

    MONAI's ``DiceCELoss`` hands its class weights to both terms. The Dice loss is blind to the size of a structure, so
    there they do not make up for rareness but choose a favourite: with 1, 5 and 15 the cochlea counts three times the
    tumour, and the cross-entropy, the only term that charges for a tumour found where there is none, a tenth of both.

    Args:
        class_weights: of background and each structure in the cross-entropy, at least 0.
        cross_entropy_weight: of the cross-entropy beside the Dice loss's 1 (20 in card C, 1 in nnU-Net); 0 is the Dice
            loss alone (card A).
        batch: a Dice of the whole batch instead of one for each case (cards A, C).
        smoothing: of the Dice loss, in voxels (``SoftDice``).
        include_background: in the Dice loss (card A). Where that is the only term, nothing else charges a network that
            calls everything a rare structure: the structure's own Dice has next to no slope there.
        per_voxel: divide the cross-entropy by the number of voxels (card C), instead of by the sum of their classes'
            weights; rare classes then weigh more wherever they are, not only beside others.
    """

    def __init__(
        self,
        class_weights: Sequence[float],
        cross_entropy_weight: float = 1.0,
        batch: bool = False,
        per_voxel: bool = False,
        include_background: bool = False,
        smoothing: float = 1e-5,
    ) -> None:
        super().__init__()
        self.dice = SoftDice(batch, include_background, smoothing)
        self.cross_entropy = nn.CrossEntropyLoss(weight=torch.tensor(class_weights, dtype=torch.float32))
        self.cross_entropy_weight = cross_entropy_weight
        self.per_voxel = per_voxel

    def forward(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar, of logits (B, C, X, Y, Z) and a target (B, 1 or 2, X, Y, Z)."""
        dice = self.dice(prediction, target)
        if self.cross_entropy_weight == 0:
            return dice
        return dice + self.cross_entropy_weight * self._entropy(prediction, target)

    def _entropy(self, prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        label, trust = label_and_trust(target)
        classes = label[:, 0].long()
        if trust is None and not self.per_voxel:
            return self.cross_entropy(prediction, classes)
        weights = self.cross_entropy.weight
        assert weights is not None
        entropy = F.cross_entropy(prediction, classes, weight=weights, reduction="none")
        share = torch.ones_like(entropy) if trust is None else trust[:, 0]
        total = entropy.numel() if self.per_voxel else (weights[classes] * share).sum().clamp(min=TINY)
        return (entropy * share).sum() / total


class WeightedCaseLoss(nn.Module):
    """Average a loss over the cases of a batch, each scaled by its weight: ``sum(weight * loss) / cases``.

    Dividing by the number of cases rather than by the sum of weights makes a case of weight 0.5 count half even when it
    is alone in its batch. Deeply supervised networks return K outputs in training, ``DynUNet`` as a stack of one size
    (B, K, C, X, Y, Z), ``ResUNet2D5`` and ``MedNeXt`` as a sequence of K tensors, each of its own size and the finest
    first. Either is handed to the loss as a list of K tensors, as ``DeepSupervisionLoss`` expects.

    A case whose annotation leaves structures open is charged for what it knows: the probabilities of channels that it
    cannot tell apart are added before the loss sees them. Everything is computed in float32.

    Args:
        loss: logits (B, C, X, Y, Z), or a list of these, and a target (B, 1 or 2, X, Y, Z) to a scalar.
        batch_wise: hand it the cases that are annotated alike together, for losses whose Dice is a batch's (card C),
            instead of one by one. A case's weight then scales its voxels, relative to the others'.
    """

    def __init__(self, loss: Callable[[Any, torch.Tensor], torch.Tensor], batch_wise: bool = False) -> None:
        super().__init__()
        self.loss = loss
        self.batch_wise = batch_wise

    def forward(self, prediction: torch.Tensor | Sequence[torch.Tensor], target: WeightedTarget) -> torch.Tensor:
        """Return the weighted mean loss, a scalar.

        Args:
            prediction: logits (B, C, X, Y, Z), a stack (B, K, C, X, Y, Z), or a list of logits, the finest first.
            target: with label maps of the finest resolution.
        """
        heads = _heads_of(prediction, target.label)
        weight = target.weight.to(target.label.device)
        annotations = _annotations(target)
        if not self.batch_wise:
            losses = [
                self._loss_of(_of_cases(heads, slice(i, i + 1)), target.label[i : i + 1], annotation)
                for i, annotation in enumerate(annotations)
            ]
            return (torch.stack(losses) * weight).mean()
        total = weight.new_zeros(())
        for annotation in dict.fromkeys(annotations):
            cases = [i for i, other in enumerate(annotations) if other == annotation]
            mean = weight[cases].mean()
            label = _scale_trust(target.label[cases], weight[cases] / mean.clamp(min=TINY))
            share = len(cases) / len(annotations)
            total = total + share * mean * self._loss_of(_of_cases(heads, cases), label, annotation)
        return total

    def _loss_of(self, heads: Heads, label: torch.Tensor, annotation: Annotation | None) -> torch.Tensor:
        """Return the loss of cases with one annotation, which may trust its structures to different degrees."""
        if annotation is None:
            return self.loss(heads, label)
        whole = heads if isinstance(heads, torch.Tensor) else heads[0]
        total = 0 * whole.sum()  # where nothing is trusted: no loss, and gradients of 0
        for share, groups in levels_of_trust(*annotation):
            merged = [merge_channels(head, groups) for head in ([heads] if whole is heads else heads)]
            total = total + share * self.loss(merged[0] if whole is heads else merged, merge_labels(label, groups))
        return total


def _heads_of(prediction: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor) -> Heads:
    """Return float32 logits, or a list of them if the network is deeply supervised."""
    if not isinstance(prediction, torch.Tensor):
        return [head.float() for head in prediction]
    if prediction.ndim == label.ndim + 1:
        return list(prediction.float().unbind(dim=1))
    return prediction.float()


def _of_cases(heads: Heads, cases: slice | list[int]) -> Heads:
    return heads[cases] if isinstance(heads, torch.Tensor) else [head[cases] for head in heads]


def _annotations(target: WeightedTarget) -> list[Annotation | None]:
    """Return each case's annotation; None where it knows every structure and trusts them all."""
    cases = len(target.label)
    groups, weights = target.channel_group, target.structure_weight
    if groups is None:
        if weights is None:
            return [None] * cases
        groups = torch.arange(weights.shape[1] + 1).expand(cases, -1)
    if weights is None:
        weights = torch.ones(cases, groups.shape[1] - 1)
    plain = list(range(groups.shape[1]))
    return [
        None if of_case == plain and min(trusted) == 1 else (tuple(of_case), tuple(trusted))
        for of_case, trusted in zip(groups.tolist(), weights.tolist(), strict=True)
    ]


def _scale_trust(label: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return label maps (B, 2, X, Y, Z), float32, with the voxels' trust of each case scaled; as they are if alike."""
    if len(scale) == 1 or bool((scale == scale[0]).all()):
        return label
    trust = label[:, 1:].float() if label.shape[1] > 1 else torch.full_like(label, FULL_TRUST, dtype=torch.float32)
    return torch.cat([label[:, :1].float(), trust * scale.reshape(-1, 1, 1, 1, 1)], dim=1)


def prepare_weighted_batch(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, WeightedTarget]:
    """Return a batch's image and target on the device: the ``prepare_batch`` of an engine with ``WeightedCaseLoss``.

    Images and labels become plain tensors, because metadata costs time in every layer and a trainer needs none.
    A batch without ``weight`` counts each case fully. What ``MapKnownLabelsByNamed`` notes of the annotations,
    ``channel_group`` and ``structure_weight``, stays on the CPU, where the loss reads it.
    """
    image, label = (
        torch.as_tensor(batch[key]).as_subclass(torch.Tensor).to(device, non_blocking=non_blocking, **kwargs)
        for key in ("image", "label")
    )
    weight = torch.as_tensor(batch.get("weight", torch.ones(len(label))), dtype=torch.float32)
    target = WeightedTarget(
        label, weight.to(device, non_blocking=non_blocking), batch.get(CHANNEL_GROUP), batch.get(STRUCTURE_WEIGHT)
    )
    return image, target
