"""The 70 x 70 PatchGAN."""

from __future__ import annotations

import torch

from crossmoda.translation.discriminators import PatchGAN


def receptive_field(kernels_and_strides: list[tuple[int, int]]) -> int:
    """Return the input pixels that one output sees, walking back from it: r -> (r - 1) * stride + kernel."""
    size = 1
    for kernel, stride in reversed(kernels_and_strides):
        size = (size - 1) * stride + kernel
    return size


def convolutions(network: torch.nn.Module) -> list[tuple[int, int]]:
    return [(m.kernel_size[0], m.stride[0]) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]


def test_each_score_sees_70_pixels() -> None:
    assert convolutions(PatchGAN()) == [(4, 2), (4, 2), (4, 2), (4, 1), (4, 1)]
    assert receptive_field(convolutions(PatchGAN())) == 70


def test_gradients_of_one_score_reach_exactly_70_pixels() -> None:
    network = PatchGAN(ndf=2)
    # instance normalisation spreads gradients over the whole slice, so it is taken out for this count
    for block in network.children():
        if hasattr(block, "adn") and hasattr(block.adn, "N"):
            block.adn.N = torch.nn.Identity()
    slices = torch.randn(1, 1, 128, 128, requires_grad=True)
    scores = network(slices)
    scores[0, 0, 7, 7].backward()
    assert slices.grad is not None
    touched = slices.grad[0, 0].abs().sum(dim=0).nonzero().flatten()
    assert int(touched.max() - touched.min()) + 1 == 70


def test_weights_are_counted_by_hand() -> None:
    expected = (16 * 64 + 64) + (16 * 64 * 128 + 128) + (16 * 128 * 256 + 256) + (16 * 256 * 512 + 512) + (16 * 512 + 1)
    assert expected == 2_762_689
    assert sum(weights.numel() for weights in PatchGAN().parameters()) == expected


def test_with_blurring_each_score_sees_84_pixels_at_the_same_number_of_weights() -> None:
    network = PatchGAN(antialias=True)
    assert all(stride == 1 for _, stride in convolutions(network))
    blur = (3, 2)
    order = [(4, 1), blur, (4, 1), blur, (4, 1), blur, (4, 1), (4, 1)]
    # from the score back: 4, 7, blur 15, 18, blur 37, 40, blur 81, 84
    assert receptive_field(order) == 84
    assert sum(weights.numel() for weights in network.parameters()) == 2_762_689
    assert network(torch.randn(1, 1, 48, 64)).shape == (1, 1, 4, 6)  # 48 -> 47 -> 24 -> 23 -> 12 -> 11 -> 6 -> 5 -> 4


def test_each_slice_is_scored_by_the_map_of_its_own_site() -> None:
    network = PatchGAN(ndf=2, sites=3)
    slices, site = torch.randn(2, 1, 32, 32), torch.tensor([2, 0])
    every = super(PatchGAN, network).forward(slices)[-1]
    torch.testing.assert_close(network(slices, site), torch.stack([every[0, 2:3], every[1, 0:1]]))


def test_scores_have_one_channel_and_no_activation() -> None:
    scores = PatchGAN(ndf=4)(50 * torch.randn(2, 1, 48, 64))
    assert scores.shape == (2, 1, 4, 6)  # 48 -> 24 -> 12 -> 6 -> 5 -> 4 and 64 -> 32 -> 16 -> 8 -> 7 -> 6
    assert scores.min() < 0
