"""The generator's size, shapes and start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.translation.generators import ResNetGenerator


def test_nine_blocks_of_64_filters_have_the_published_number_of_weights() -> None:
    # convolution k x k from a to b channels: a * b * k^2 weights and b biases; instance normalisation learns nothing
    first = 1 * 64 * 49 + 64
    halvings = (64 * 128 * 9 + 128) + (128 * 256 * 9 + 256)
    blocks = 9 * 2 * (256 * 256 * 9 + 256)
    doublings = (256 * 128 * 9 + 128) + (128 * 64 * 9 + 64)
    last = 64 * 1 * 49 + 1
    expected = first + halvings + blocks + doublings + last
    assert expected == 11_365_633
    assert sum(weights.numel() for weights in ResNetGenerator().parameters()) == expected


def test_output_keeps_unequal_sides_and_stays_in_range() -> None:
    translated = ResNetGenerator(ngf=4, n_blocks=1)(100 * torch.randn(2, 1, 24, 36))
    assert translated.shape == (2, 1, 24, 36)
    assert translated.abs().max() <= 1


@pytest.mark.parametrize("sides", [(24, 38), (22, 36), (4, 8)])
def test_sides_that_cannot_be_restored_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(CrossmodaError, match=f"slices of {sides[0]} x {sides[1]} pixels.*multiples of 4"):
        ResNetGenerator(ngf=4, n_blocks=1)(torch.zeros(1, 1, *sides))


def test_a_slice_of_eight_pixels_is_the_smallest_that_works() -> None:
    assert ResNetGenerator(ngf=2, n_blocks=1).train()(torch.randn(1, 1, 8, 8)).shape == (1, 1, 8, 8)


def test_weights_start_from_a_normal_distribution_of_deviation_0_02() -> None:
    torch.manual_seed(3)
    convolutions = [
        m for m in ResNetGenerator(ngf=16, n_blocks=2).modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    weights = torch.cat([m.weight.detach().flatten() for m in convolutions])
    assert weights.mean().abs() < 1e-4
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    assert all(m.bias is not None and not m.bias.any() for m in convolutions)


def test_slices_of_a_batch_do_not_influence_each_other() -> None:
    generator = ResNetGenerator(ngf=4, n_blocks=1)
    slices = torch.randn(3, 1, 16, 20)
    torch.testing.assert_close(generator(slices)[1:2], generator(slices[1:2]), rtol=1e-4, atol=1e-5)
