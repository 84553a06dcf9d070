"""Query-selected attention against plain computations with the whole matrix."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from crossmoda.translation import attention


def features(positions: int = 24, channels: int = 5, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(2, positions, channels, generator=torch.Generator().manual_seed(0))


def plain_entropy(weights: torch.Tensor) -> torch.Tensor:
    """Return the entropy as the paper writes it, -log 0 counting as 0."""
    logarithm = -weights.log()
    logarithm = torch.where(logarithm.isinf(), torch.zeros(()), logarithm)
    return (weights * logarithm).sum(dim=-1)


def plain_attention(x: torch.Tensor) -> torch.Tensor:
    return torch.bmm(x, x.transpose(1, 2)).softmax(dim=2)


@pytest.mark.parametrize("block_rows", [1, 7, 24, 1000])
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 20.0])
def test_global_entropy_in_blocks_equals_the_plain_one(block_rows: int, scale: float) -> None:
    x = features(scale=scale)
    torch.testing.assert_close(
        attention.global_entropy(x, block_rows), plain_entropy(plain_attention(x)), rtol=1e-4, atol=1e-5
    )


def test_entropies_of_known_rows() -> None:
    even = torch.zeros(1, 8)
    assert attention.entropy_of_rows(even).item() == pytest.approx(math.log(8))
    certain = torch.tensor([[0.0, 500.0]])
    assert attention.entropy_of_rows(certain).item() == 0.0
    # shares 1/4 and 3/4: -(0.25 log 0.25 + 0.75 log 0.75)
    uneven = torch.tensor([[0.0, math.log(3.0)]])
    assert attention.entropy_of_rows(uneven).item() == pytest.approx(0.5623351)


def test_at_64_x_64_positions_no_whole_matrix_is_made() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return result

    x = torch.randn(1, 4096, 8)
    with Watch():
        entropies = attention.global_entropy(x)
    assert entropies.shape == (1, 4096)
    assert largest <= 256 * 4096  # a sixteenth of the matrix


def windows_by_unfold(x: torch.Tensor, sides: tuple[int, int]) -> torch.Tensor:
    """Return the 7 x 7 windows (B, N, 49, C) with PyTorch's unfold, whose channels come first."""
    maps = x.transpose(1, 2).unflatten(2, sides)
    columns = F.unfold(maps, kernel_size=7, padding=3)  # (B, C * 49, N)
    return columns.unflatten(1, (x.shape[2], 49)).permute(0, 3, 2, 1)


@pytest.mark.parametrize("block_rows", [1, 9, 500])
def test_local_entropy_equals_that_of_unfolded_windows(block_rows: int) -> None:
    sides = (4, 6)
    x = features(24)
    weights = torch.einsum("bnc,bnwc->bnw", x, windows_by_unfold(x, sides)).softmax(dim=2)
    found = attention.local_entropy(x, sides, block_rows)
    torch.testing.assert_close(found, plain_entropy(weights), rtol=1e-4, atol=1e-5)


def test_windows_about_chosen_positions() -> None:
    sides = (4, 6)
    x, chosen = features(24), torch.tensor([[0, 23, 8], [5, 18, 11]])
    every = windows_by_unfold(x, sides)
    expected = torch.stack([every[image, chosen[image]] for image in range(2)])
    torch.testing.assert_close(attention.windows_at(x, sides, chosen), expected)


def test_the_lowest_entropies_are_most_significant() -> None:
    entropies = torch.tensor([[3.0, 1.0, 2.0, 1.0]])
    assert attention.most_significant(entropies, 3).tolist() == [[1, 3, 2]]
    assert attention.most_significant(entropies, 99).shape == (1, 4)


def test_selected_rows_are_those_of_the_whole_matrix() -> None:
    x, chosen = features(), torch.tensor([[4, 0], [23, 9]])
    whole = plain_attention(x)
    expected = torch.stack([whole[image, chosen[image]] for image in range(2)])
    torch.testing.assert_close(attention.global_rows(x, chosen), expected)
