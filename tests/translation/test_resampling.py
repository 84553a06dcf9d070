"""Halving and doubling by blurring."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from crossmoda.translation.resampling import BlurDoubling, BlurHalving


def test_halving_weighs_neighbours_1_2_1_and_reflects_the_border() -> None:
    row = torch.tensor([0.0, 4.0, 8.0, 0.0, 0.0]).expand(1, 1, 3, 5)
    # at 0 the left neighbour is the reflected 4: (4 + 0 + 4) / 4; at 2: (4 + 16 + 0) / 4; at 4: 0
    expected = torch.tensor([2.0, 5.0, 0.0]).expand(1, 1, 2, 3)
    torch.testing.assert_close(BlurHalving()(row), expected)


def test_halving_equals_a_strided_convolution_with_the_binomial_kernel() -> None:
    features = torch.randn(2, 3, 9, 14)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(row, row).expand(3, 1, 3, 3)
    expected = F.conv2d(F.pad(features, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=3)
    torch.testing.assert_close(BlurHalving()(features), expected)


def test_doubling_equals_a_transposed_convolution_with_1_3_3_1() -> None:
    features = torch.randn(2, 3, 5, 7)
    row = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4  # adds up to 2 per axis, since every second pixel is a zero
    kernel = torch.outer(row, row).expand(3, 1, 4, 4)
    padded = F.pad(features, (1, 1, 1, 1), mode="replicate")
    expected = F.conv_transpose2d(padded, kernel, stride=2, padding=3, groups=3)
    torch.testing.assert_close(BlurDoubling()(features), expected)


def test_flat_features_stay_flat() -> None:
    flat = torch.full((1, 2, 6, 4), 3.0)
    assert torch.equal(BlurHalving()(flat), torch.full((1, 2, 3, 2), 3.0))
    assert torch.equal(BlurDoubling()(flat), torch.full((1, 2, 12, 8), 3.0))
