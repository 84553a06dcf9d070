"""Losses of labels that know some of a network's structures alone, by merging the channels they cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

NOTHING = -1.0e4  # logit of a channel that another one stands for: its probability is 0 in float32


def merge_channels(logits: torch.Tensor, groups: Sequence[int]) -> torch.Tensor:
    """Return logits whose softmax is the sum of the probabilities of the channels in each group: the marginal.

    What stands for the group has its sum, the others 0. Merging a structure with the background makes it free to find
    or not to find: the loss does not change when probability moves from one to the other.

    Args:
        logits: (B, C, X, Y, Z), float32.
        groups: for each channel, the one that stands for it, as ``crossmoda.data.annotations.channel_groups`` gives it.

    Returns:
        (B, C, X, Y, Z), to be charged by a loss without label smoothing.
    """
    if list(groups) == list(range(len(groups))):
        return logits
    merged = []
    for channel in range(len(groups)):
        members = [member for member, standing in enumerate(groups) if standing == channel]
        merged.append(logits[:, members].logsumexp(dim=1) if members else torch.full_like(logits[:, 0], NOTHING))
    return torch.stack(merged, dim=1)


def merge_labels(label: torch.Tensor, groups: Sequence[int]) -> torch.Tensor:
    """Return label maps (B, 1 or 2, X, Y, Z) whose first channel names what stands for each voxel's structure."""
    if list(groups) == list(range(len(groups))):
        return label
    lookup = torch.tensor(groups, dtype=label.dtype, device=label.device)
    return torch.cat([lookup[label[:, :1].long()], label[:, 1:]], dim=1)


def levels_of_trust(groups: Sequence[int], weights: Sequence[float]) -> Iterator[tuple[float, list[int]]]:
    """Yield the shares, and the groups of channels, whose losses add up to that of structures trusted differently.

    With the VS trusted by 1 and the cochlea by 0.3, the loss is 0.3 times that of a label that knows both, plus 0.7
    times that of one that knows the VS alone. So a structure of weight 0 is one that was not annotated, and equal
    weights scale the case, which scaling each structure's terms would not do: voxels where it is wrongly found are
    labelled background.

    Args:
        groups: for each channel, the one that stands for it.
        weights: for each structure, 0 to 1.
    """
    of_channel = [0.0 if standing == 0 else weights[standing - 1] for standing in groups]
    reached = 0.0
    for level in sorted({weight for weight in of_channel if weight > 0}):
        yield level - reached, [g if of_channel[channel] >= level else 0 for channel, g in enumerate(groups)]
        reached = level
