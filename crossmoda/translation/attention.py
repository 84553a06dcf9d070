"""Query-selected attention: which features of a slice say most, and what they attend to.

After Hu et al., "QS-Attn: query-selected attention for contrastive learning in I2I translation" (CVPR 2022; recipe
card 0.3). For features X (B, N, C) of N positions, the global attention is A = softmax(X X^T) over rows, without
scaling by the square root of C; a row with low entropy attends to few positions and is taken for a significant query.
At 64 x 64 positions A has 16.8 million entries a slice, of which 256 rows are wanted: rows are therefore computed in
blocks, their entropies kept, and only the selected rows computed again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_BLOCK_ROWS = 256  # 4 MiB of attention for 4096 positions in float32
WINDOW = 7  # positions along either side of the local attention's window


def entropy_of_rows(logits: torch.Tensor) -> torch.Tensor:
    """Return the entropy (nats) of the softmax over the last axis; a share that underflows to 0 adds nothing."""
    logarithms = logits.log_softmax(dim=-1)
    return -(logarithms.exp() * logarithms).sum(dim=-1)


def global_entropy(features: torch.Tensor, block_rows: int = _BLOCK_ROWS) -> torch.Tensor:
    """Return the entropies (B, N) of the global attention of features (B, N, C), never holding more than one block."""
    keys = features.transpose(1, 2)
    blocks = [entropy_of_rows(torch.bmm(rows, keys)) for rows in features.split(block_rows, dim=1)]
    return torch.cat(blocks, dim=1)


def windows_at(features: torch.Tensor, sides: tuple[int, int], positions: torch.Tensor) -> torch.Tensor:
    """Return the 7 x 7 windows of features about ``positions``, (B, P, 49, C); beyond the border features are 0.

    Args:
        features: (B, N, C), N = X * Y in the order of ``flatten``.
        sides: (X, Y).
        positions: (B, P), each from 0 to N - 1.
    """
    columns = sides[1] + WINDOW - 1  # of the padded map
    padded = F.pad(features.unflatten(1, sides), (0, 0) + (WINDOW // 2,) * 4).flatten(1, 2)
    steps = torch.arange(WINDOW, device=features.device)
    offsets = (steps[:, None] * columns + steps).flatten()  # of a window's positions from its first one
    first = torch.div(positions, sides[1], rounding_mode="floor") * columns + positions % sides[1]
    wanted = (first[:, :, None] + offsets).flatten(1)
    return gather_positions(padded, wanted).unflatten(1, (positions.shape[1], WINDOW**2))


def local_entropy(features: torch.Tensor, sides: tuple[int, int], block_rows: int = _BLOCK_ROWS) -> torch.Tensor:
    """Return the entropies (B, N) of each position's attention to its 7 x 7 window.

    Positions beyond the border take part with features of 0, hence logits of 0, as in the authors' code.
    """
    columns = sides[1]
    lines = max(block_rows // columns, 1)  # whole lines of the slice, with the lines beside them
    maps = F.pad(features.unflatten(1, sides), (0, 0) + (WINDOW // 2,) * 4)  # (B, X + 6, Y + 6, C)
    blocks = []
    for first in range(0, sides[0], lines):
        centre = features.unflatten(1, sides)[:, first : first + lines]
        windows = maps[:, first : first + centre.shape[1] + WINDOW - 1].unfold(1, WINDOW, 1).unfold(2, WINDOW, 1)
        logits = torch.einsum("bxyc,bxycij->bxyij", centre, windows).flatten(3)
        blocks.append(entropy_of_rows(logits).flatten(1))
    return torch.cat(blocks, dim=1)


def most_significant(entropies: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions (B, count) with the lowest entropies (B, N), lowest first; all N where there are fewer."""
    return entropies.sort(dim=1, stable=True).indices[:, :count]


def global_rows(features: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the rows (B, P, N) of the global attention that belong to ``positions`` (B, P)."""
    queries = gather_positions(features, positions)
    return torch.bmm(queries, features.transpose(1, 2)).softmax(dim=-1)


def gather_positions(features: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Return the features (B, P, C) at ``positions`` (B, P) of features (B, N, C)."""
    return features.gather(1, positions[:, :, None].expand(-1, -1, features.shape[2]))
