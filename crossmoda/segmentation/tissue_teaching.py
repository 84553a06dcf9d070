"""Teaching a segmenter what every voxel is made of, beside the structures that it will be asked for.

A network that must tell fluid, brain, vessels and the tissue outside the skull apart knows more of what is no tumour.
The additional classes are channels of their own with a softmax of their own; they are cut off the weights that are
kept, so what is deployed is the bundle's own network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.losses import WeightedTarget, prepare_weighted_batch
from crossmoda.segmentation.training import begin_with

UNKNOWN_TISSUE = 255  # of a voxel of which nobody knows what it is made of, such as one of a real scan


class TaughtTarget(NamedTuple):
    """What a batch is compared with: the structures' target, and each voxel's tissue group (B, X, Y, Z), int64.

    A group is its place in ``crossmoda.data.teacher.TISSUE_GROUPS``, or ``UNKNOWN_TISSUE``.
    """

    structures: WeightedTarget
    tissue: torch.Tensor


class TaughtNetwork(nn.Module):
    """A network with channels for tissue groups behind those of background and structures.

    In training it returns all channels, otherwise the first ``classes``, so that validation and checks see the
    network that will be deployed.

    Args:
        network: with ``classes`` channels and one a tissue group; deeply supervised or not.
        classes: background and structures.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.classes = classes

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C, X, Y, Z), in training those of all heads, (B, heads, C, X, Y, Z)."""
        logits = self.network(image)
        return logits if self.training else logits[:, : self.classes]


class DeployedPart(nn.Module):
    """The part of a taught network that is deployed: its ``state_dict`` fits the bundle's own network.

    Args:
        taught: a ``TaughtNetwork``, or its moving average.
        plain: a network of the same definition with the channels of background and structures alone.
    """

    def __init__(self, taught: nn.Module, plain: nn.Module) -> None:
        super().__init__()
        self.taught = taught
        self.shapes = {name: value.shape for name, value in plain.state_dict().items()}

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """Return the weights under the plain network's names, output layers cut to its channels."""
        weights = self.taught.network.state_dict()  # type: ignore[union-attr]
        return {name: weights[name][: shape[0]] if shape else weights[name] for name, shape in self.shapes.items()}


def begin_taught_with(
    taught: TaughtNetwork, plain: nn.Module, initial_weights: str | Path | None, structures: Sequence[str]
) -> None:
    """Let a taught network begin with deployed weights; its channels of tissue groups stay random.

    Args:
        taught: changed in place.
        plain: of the deployed definition; changed in place.
        initial_weights: a file of a plain state dictionary; None leaves the network as it is.
        structures: as in ``begin_with``.

    Raises:
        CrossmodaError: as ``begin_with``.
    """
    if initial_weights is None:
        return
    begin_with(plain, initial_weights, structures)
    own = taught.network.state_dict()
    with torch.no_grad():
        for name, value in plain.state_dict().items():
            (own[name][: value.shape[0]] if value.ndim else own[name]).copy_(value)


class LossWithTissues(nn.Module):
    """A loss of the structures' channels plus a cross-entropy of the tissue groups' channels, of the finest head.

    The cross-entropy is the mean over the voxels whose tissue is known, 0 where none is.

    Args:
        loss: of logits, or a stack of heads' logits, and a ``WeightedTarget``.
        classes: background and structures.
        tissue_weight: of the cross-entropy.
    """

    def __init__(
        self, loss: Callable[[torch.Tensor, WeightedTarget], torch.Tensor], classes: int, tissue_weight: float
    ):
        super().__init__()
        self.loss = loss
        self.classes = classes
        self.tissue_weight = tissue_weight

    def forward(self, prediction: torch.Tensor, target: TaughtTarget) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            prediction: logits (B, C, X, Y, Z), or of several heads (B, heads, C, X, Y, Z), the finest first.
            target: of the batch.
        """
        stacked = prediction.ndim == 6
        channels = 2 if stacked else 1
        structures, tissues = prediction.split([self.classes, prediction.shape[channels] - self.classes], dim=channels)
        finest = tissues[:, 0] if stacked else tissues
        charged = F.cross_entropy(finest.float(), target.tissue, ignore_index=UNKNOWN_TISSUE, reduction="sum")
        known = (target.tissue != UNKNOWN_TISSUE).sum().clamp(min=1)
        return self.loss(structures, target.structures) + self.tissue_weight * charged / known


def prepare_taught_batch(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, TaughtTarget]:
    """Return a batch's image and targets on the device: ``prepare_batch`` of an engine with ``LossWithTissues``.

    Raises:
        CrossmodaError: nothing is told of the voxels' tissues, since no case is the synthetic teacher's.
    """
    if "tissue" not in batch:
        raise CrossmodaError(
            "variant_tissues.yaml: no tissue is known of the cases; put it after teacher.yaml and "
            "variant_synthetic_teacher.yaml or variant_beside_teacher.yaml"
        )
    image, target = prepare_weighted_batch(batch, device, non_blocking, **kwargs)
    tissue = torch.as_tensor(batch["tissue"]).as_subclass(torch.Tensor)[:, 0].to(device, torch.long)
    return image, TaughtTarget(target, tissue)
