"""The generator's size, shapes and start."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.translation.generators import ResNetGenerator, RoundTrip, SiteNorm, UNetGenerator


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


def test_blurring_adds_no_weights_and_keeps_the_layers_that_cut_compares() -> None:
    generator = ResNetGenerator(antialias=True)
    assert sum(weights.numel() for weights in generator.parameters()) == 11_365_633
    # the input (padded), the two halving convolutions, residual blocks 1 and 5 (recipe card 0.2)
    assert generator.feature_channels([0, 4, 8, 12, 16]) == [1, 128, 256, 256, 256]
    sizes = [tuple(f.shape[2:]) for f in generator.features(torch.zeros(1, 1, 256, 256), [0, 4, 8, 12, 16])]
    assert sizes == [(262, 262), (256, 256), (128, 128), (64, 64), (64, 64)]


def test_weights_with_blurring_do_not_load_without() -> None:
    with pytest.raises(RuntimeError, match="kernel"):
        ResNetGenerator(ngf=2, n_blocks=1).load_state_dict(
            ResNetGenerator(ngf=2, n_blocks=1, antialias=True).state_dict()
        )


@pytest.mark.parametrize("layers", [[], [0, 99], [4, 0], [-1, 3]])
def test_layers_that_are_not_there_are_refused(layers: list[int]) -> None:
    with pytest.raises(CrossmodaError, match="rising numbers from 0 to 19"):
        ResNetGenerator(ngf=2, n_blocks=1).feature_channels(layers)


def test_features_come_from_the_same_pass_as_the_translation() -> None:
    generator, slices = ResNetGenerator(ngf=4, n_blocks=2, antialias=True), torch.randn(2, 1, 16, 24)
    translated, kept = generator.translate_with_features(slices, [0, 8, generator.before_output])
    torch.testing.assert_close(translated, generator(slices))
    for found, again in zip(kept, generator.features(slices, [0, 8, generator.before_output]), strict=True):
        torch.testing.assert_close(found, again)
    last = torch.tanh(generator.model[-2](generator.model[-3](kept[-1])))
    torch.testing.assert_close(last, translated)


def test_a_generator_of_sites_starts_with_one_style_and_learns_others() -> None:
    torch.manual_seed(0)
    generator, slices = ResNetGenerator(ngf=4, n_blocks=1, sites=2), torch.randn(2, 1, 16, 16)
    first, second = (generator(slices, torch.tensor([site])) for site in (0, 1))
    torch.testing.assert_close(first, second)
    for module in generator.modules():
        if isinstance(module, SiteNorm) and module.styles is not None:
            torch.nn.init.normal_(module.styles.weight[1])
    mixed = generator(slices, torch.tensor([0, 1]))
    torch.testing.assert_close(mixed[:1], first[:1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed[1:], first[1:], atol=1e-2)


def test_a_sites_scale_and_shift_follow_the_normalisation() -> None:
    layer = SiteNorm(1, sites=2)
    assert layer.styles is not None
    layer.styles.weight.data = torch.tensor([[0.0, 0.0], [2.0, 5.0]])  # scale - 1 and shift
    features = torch.tensor([[[[-1.0, 1.0]]]])
    found = layer(features, torch.tensor([1]))
    torch.testing.assert_close(found, torch.tensor([[[[2.0, 8.0]]]]), atol=1e-4, rtol=0)  # 3 * (-+1) + 5


def test_a_generator_of_sites_needs_one_and_others_take_none() -> None:
    slices, site = torch.zeros(1, 1, 8, 8), torch.tensor([0])
    with pytest.raises(CrossmodaError, match="knows 2 sites; name one with --site"):
        ResNetGenerator(ngf=2, n_blocks=1, sites=2)(slices)
    with pytest.raises(CrossmodaError, match="knows 0 sites; leave site out"):
        ResNetGenerator(ngf=2, n_blocks=1)(slices, site)
    assert ResNetGenerator(ngf=2, n_blocks=1, sites=2, default_site=1)(slices).shape == slices.shape


def test_unet_256_has_the_weights_counted_by_hand() -> None:
    def convolution(inward: int, outward: int) -> int:
        return inward * outward * 16 + outward

    down = [convolution(a, b) for a, b in ((1, 64), (64, 128), (128, 256), (256, 512), *[(512, 512)] * 4)]
    # on the way up each level but the innermost sees its skip beside what comes from below
    up = [convolution(512, 512), *[convolution(1024, 512)] * 3]
    up += [convolution(a, b) for a, b in ((1024, 256), (512, 128), (256, 64), (128, 1))]
    expected = sum(down) + sum(up)
    assert expected == 54_403_457
    assert sum(weights.numel() for weights in UNetGenerator().parameters()) == expected


def test_the_unet_keeps_sides_and_refuses_those_it_cannot_restore() -> None:
    network = UNetGenerator(ngf=2, n_halvings=3)
    assert network(torch.randn(2, 1, 16, 24)).shape == (2, 1, 16, 24)
    with pytest.raises(CrossmodaError, match=r"16 x 20 pixels.*multiples of 8"):
        network(torch.zeros(1, 1, 16, 20))
    with pytest.raises(CrossmodaError, match="n_halvings is 1"):
        UNetGenerator(n_halvings=1)


def test_the_unet_equals_a_nested_computation() -> None:
    """Two levels, written out: the skip carries what the leaky ReLU made of it."""
    torch.manual_seed(1)
    network, slices = UNetGenerator(ngf=3, n_halvings=2), torch.randn(1, 1, 8, 12)
    outer = nn.functional.leaky_relu(network.first(slices), 0.2)
    bottom = torch.relu(network.inner.down(outer))
    lower = nn.functional.instance_norm(network.inner.up(bottom))
    expected = torch.tanh(network.last(torch.relu(torch.cat([outer, lower], dim=1))))
    torch.testing.assert_close(network(slices), expected)


def test_a_round_trip_goes_there_and_back() -> None:
    trip = RoundTrip(nn.Hardtanh(0.0, 0.5), nn.Hardtanh(0.25, 1.0))
    torch.testing.assert_close(trip(torch.tensor([0.0, 0.3, 0.9])), torch.tensor([0.25, 0.3, 0.5]))


@pytest.mark.parametrize(
    ("method", "deviation"),
    [
        ("normal", 0.02),
        ("xavier", 0.02 * (2 / (9 * (64 + 64))) ** 0.5),  # gain * sqrt(2 / (fan in + fan out))
        ("he", (2 / (9 * 64)) ** 0.5),
    ],
)
def test_weights_start_with_the_deviation_of_their_method(method: str, deviation: float) -> None:
    torch.manual_seed(0)
    block = next(m for m in ResNetGenerator(ngf=16, n_blocks=1, initialisation=method).model if hasattr(m, "block"))
    assert block.block[1].weight.std().item() == pytest.approx(deviation, rel=0.02)


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(CrossmodaError, match="initialisation 'zeros' is unknown; choose normal, xavier, he"):
        ResNetGenerator(ngf=2, n_blocks=1, initialisation="zeros")


def test_in_evaluation_autocast_leaves_no_bands() -> None:
    """bfloat16 has 128 numbers between 0.5 and 1; a translation that is rounded to it has no more grey values."""
    torch.manual_seed(0)
    generator, slices = ResNetGenerator(ngf=8, n_blocks=1, initialisation="he").eval(), torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        exact = generator(slices)
        with torch.autocast("cpu", torch.bfloat16):
            rough = generator(slices)
    assert rough.dtype == torch.float32
    assert len(rough.unique()) > 2000
    assert 0 < (rough - exact).abs().mean() < 0.02
