"""What the processes of one training tell one another; a training of one process has nothing to tell.

Of the items of an epoch, which all N processes draw alike, the process of rank r takes those at positions r, r + N,
r + 2N, ... So the batches that the processes hold at one moment are, put together, the batch that one process would
hold if its batches were N times as large.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.optim import Optimizer


def process_count() -> int:
    """Return how many processes share this training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_processes(values: Sequence[float]) -> list[float]:
    """Return the means of some numbers over all processes, each of which gives as many."""
    if process_count() == 1:
        return list(values)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    totals = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(totals)
    return [total / process_count() for total in totals.tolist()]


def whole_batch(own: torch.Tensor) -> torch.Tensor:
    """Return the batches (B, ...) of all N processes as one, (N * B, ...), in the order of the epoch."""
    if process_count() == 1:
        return own
    parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(process_count())]
    dist.all_gather(parts, own.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def own_share(whole: torch.Tensor) -> torch.Tensor:
    """Return what of ``whole_batch`` is this process's own, (B, ...)."""
    return whole if process_count() == 1 else whole[dist.get_rank() :: process_count()]


def average_gradients(optimizer: Optimizer) -> None:
    """Average an optimiser's gradients over all processes.

    ``DistributedDataParallel`` expects one forward call per backward call and all gradients each time, whereas
    translators call a generator several times per step and freeze discriminators in between.
    """
    if process_count() == 1:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = torch.cat([parameter.grad.flatten() for parameter in parameters])
    dist.all_reduce(flat)
    flat /= process_count()
    for parameter, gradient in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad.copy_(gradient.view_as(parameter))
