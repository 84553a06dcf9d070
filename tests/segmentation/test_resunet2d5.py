from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.losses import DeepSupervisionLoss
from torch import nn

from crossmoda.engines import load_weights, save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.losses import DiceAndWeightedCrossEntropy, WeightedCaseLoss, WeightedTarget
from crossmoda.segmentation.resunet2d5 import ResUNet2D5
from crossmoda.segmentation.unet2d5 import UNet2D5


def small(**settings) -> ResUNet2D5:
    torch.manual_seed(0)
    return ResUNet2D5(1, 3, **{"channels": 2, "blocks": 2, **settings})


def test_parameter_count_is_that_of_the_published_layers() -> None:
    # convolution: in * out * taps + out; 9 taps in convolutions that halve the plane, 1 in their shortcuts, else 27.
    # Instance norm has no weights.
    def convolution(fine: int, coarse: int, taps: int = 27) -> int:
        return fine * coarse * taps + coarse

    def layer(fine: int, coarse: int) -> int:
        halving = convolution(fine, coarse, 9) + convolution(coarse, coarse) + convolution(fine, coarse, 1)
        return halving + 4 * convolution(coarse, coarse)  # two more blocks of two convolutions

    stem = convolution(1, 32, 9) + convolution(32, 32)
    encoder = layer(32, 64) + layer(64, 128) + layer(128, 256)
    decoder = convolution(256 + 128, 128) + convolution(128, 128)
    decoder += convolution(128 + 64, 64) + convolution(64, 64)
    decoder += convolution(64 + 32, 32) + convolution(32, 32)
    heads = convolution(32, 4, 1) + convolution(32, 4, 1) + convolution(64, 4, 1) + convolution(128, 4, 1)
    found = sum(parameter.numel() for parameter in ResUNet2D5(1, 4).parameters())
    assert found == stem + encoder + decoder + heads == 14_397_296


def test_x_and_y_are_halved_four_times_and_z_never() -> None:
    network, shapes = small().eval(), []
    for module in (network.stem, *network.layers, *network.decoder):
        module.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        assert network(torch.rand(2, 1, 32, 48, 5)).shape == (2, 3, 32, 48, 5)
    encoder = [(2, 16, 24, 5), (4, 8, 12, 5), (8, 4, 6, 5), (16, 2, 3, 5)]
    decoder = [(8, 4, 6, 5), (4, 8, 12, 5), (2, 16, 24, 5)]
    assert shapes == encoder + decoder


def test_convolutions_that_halve_are_slice_wise_and_all_others_volumetric() -> None:
    modules = [module for module in ResUNet2D5(1, 3, channels=1).modules() if isinstance(module, nn.Conv3d)]
    kinds = [(module.kernel_size, module.stride) for module in modules]
    assert kinds.count(((3, 3, 1), (2, 2, 1))) == 4  # stem and three layers
    assert kinds.count(((1, 1, 1), (2, 2, 1))) == 3  # the layers' shortcuts
    assert kinds.count(((3, 3, 3), (1, 1, 1))) == 1 + 3 * 5 + 3 * 2  # stem, layers, decoder
    assert kinds.count(((1, 1, 1), (1, 1, 1))) == 4  # heads
    assert len(kinds) == 4 + 3 + 22 + 4


def test_a_slice_is_seen_by_as_many_neighbours_as_volumetric_convolutions_follow_each_other() -> None:
    """Stem 1, one block a layer 3 * 1, decoder 3 * 2: 10 slices to either side, once norms and ReLUs are away."""
    network = small(channels=1, blocks=1).eval()
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.InstanceNorm3d | nn.ReLU):
                setattr(module, name, nn.Identity())
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.1)
    image = torch.zeros(1, 1, 16, 16, 25, requires_grad=True)
    network(image)[..., 12].sum().backward()
    reached = image.grad.abs().sum(dim=(0, 1, 2, 3)) > 0
    assert reached.nonzero().flatten().tolist() == list(range(12 - 10, 12 + 10 + 1))


def test_the_output_is_that_of_the_paper_s_order_of_enlarging_and_head() -> None:
    network, features = small().eval(), []
    network.decoder[-1].register_forward_hook(lambda _module, _inputs, output: features.append(output))
    with torch.no_grad():
        output = network(torch.rand(1, 1, 32, 16, 3))
        torch.testing.assert_close(output, network.head(network.enlarge(features[0])))


def test_in_training_it_returns_four_levels_and_in_evaluation_one() -> None:
    image = torch.rand(2, 1, 32, 48, 5)
    shapes = [tuple(level.shape) for level in small().train()(image)]
    assert shapes == [(2, 3, 32, 48, 5), (2, 3, 16, 24, 5), (2, 3, 8, 12, 5), (2, 3, 4, 6, 5)]
    assert small().eval()(image).shape == (2, 3, 32, 48, 5)
    assert small(deep_supervision=False).train()(image).shape == (2, 3, 32, 48, 5)


def test_every_parameter_learns_under_deep_supervision() -> None:
    network = small().train()
    loss = WeightedCaseLoss(DeepSupervisionLoss(DiceAndWeightedCrossEntropy([1.0, 5.0, 15.0])))
    label = torch.randint(0, 3, (2, 1, 32, 48, 3), dtype=torch.uint8)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss(network(torch.rand(2, 1, 32, 48, 3)), WeightedTarget(label, torch.ones(2))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    optimizer.step()
    weights = {name: parameter for name, parameter in network.named_parameters() if name.endswith("weight")}
    assert [name for name, weight in weights.items() if torch.equal(weight, before[name])] == []


@pytest.mark.parametrize("shape", [(24, 32, 4), (16, 40, 4)])
def test_a_plane_that_cannot_be_halved_four_times_is_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(CrossmodaError, match=r"not divisible by \(16, 16, 1\)"):
        small()(torch.rand(1, 1, *shape))


@pytest.mark.parametrize(
    ("setting", "least"), [("in_channels", 1), ("out_channels", 2), ("channels", 1), ("blocks", 1)]
)
def test_settings_that_are_too_small_are_refused(setting: str, least: int) -> None:
    with pytest.raises(CrossmodaError, match=f"network_def::{setting} must be at least {least}, got {least - 1}"):
        ResUNet2D5(**{"in_channels": 1, "out_channels": 3, setting: least - 1})


def test_weights_come_back_from_the_file(tmp_path: Path) -> None:
    network, other, image = small().eval(), ResUNet2D5(1, 3, 2, 2).eval(), torch.rand(1, 1, 16, 32, 2)
    save_weights(network, tmp_path / "model.pt")
    load_weights(other, tmp_path / "model.pt")
    torch.testing.assert_close(other(image), network(image), rtol=0, atol=0)


@pytest.mark.parametrize(
    "network",
    [UNet2D5(1, 3, channels=(2, 2, 2, 2, 2)), ResUNet2D5(1, 4, 2, 2), ResUNet2D5(1, 3, 2, 1), ResUNet2D5(1, 3, 3, 2)],
    ids=["UNet2D5", "four classes", "one block", "three channels"],
)
def test_weights_of_another_network_are_refused(network: nn.Module, tmp_path: Path) -> None:
    save_weights(network, tmp_path / "model.pt")
    with pytest.raises(CrossmodaError, match=r"model\.pt: weights of another network than network_def \(ResUNet2D5\)"):
        load_weights(small(), tmp_path / "model.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_gives_the_same_output() -> None:
    network, image = small().eval(), torch.rand(1, 1, 32, 16, 3)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))
