from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import DynUNet
from monai.networks.nets.mednext import create_mednext
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.checks import check_network
from crossmoda.segmentation.resunet2d5 import ResUNet2D5
from crossmoda.segmentation.unet2d5 import UNet2D5

NAMES = ["vs", "cochlea"]


def dynunet() -> nn.Module:
    """Strides (2, 2, 1), (2, 2, 2), (2, 2, 2): multiples of 8, 8 and 4."""
    strides = [[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]]
    return DynUNet(3, 1, 3, [3] * 4, strides, strides[1:], filters=[2] * 4, deep_supervision=True)


def unet2d5() -> nn.Module:
    return UNet2D5(1, 3, channels=(2, 2, 2, 2, 2))


def resunet2d5() -> nn.Module:
    return ResUNet2D5(1, 3, channels=2, blocks=1)


def mednext() -> nn.Module:
    return create_mednext("S", out_channels=3, deep_supervision=True)


@pytest.mark.parametrize("make", [dynunet, unet2d5, resunet2d5, mednext])
def test_a_patch_of_the_networks_multiples_is_taken(make: Callable[[], nn.Module]) -> None:
    check_network(make(), [32, 48, 16], NAMES)


@pytest.mark.parametrize(
    ("make", "patch", "multiples", "remedy"),
    [
        (dynunet, [40, 44, 30], [8, 8, 4], [40, 48, 32]),
        (unet2d5, [40, 32, 30], [16, 16, 4], [48, 32, 32]),
        (resunet2d5, [33, 24, 7], [16, 16, 1], [48, 32, 7]),
        (mednext, [32, 32, 40], [16, 16, 16], [32, 32, 48]),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_with_the_multiples_and_one_that_does(
    make: Callable[[], nn.Module], patch: list[int], multiples: list[int], remedy: list[int]
) -> None:
    with pytest.raises(CrossmodaError) as caught:
        check_network(make(), patch, NAMES)
    message = str(caught.value)
    assert message.startswith(f"patch_size {patch} does not fit network_def ({type(make()).__name__})")
    assert f"multiples of {multiples}; give --patch_size '{remedy}'" in message
    assert "\n" not in message
    check_network(make(), remedy, NAMES)


def test_a_patch_of_the_right_multiples_may_still_be_too_small() -> None:
    """Four halvings leave one voxel of 16, whose instance norm is not defined."""
    with pytest.raises(CrossmodaError, match=r"patch_size \[16, 16, 16\] is too small for network_def \(MedNeXt\)"):
        check_network(mednext(), [16, 16, 16], NAMES)


@pytest.mark.parametrize("patch", [[32, 32], [32, 32, 16, 1], [32, 0, 16]])
def test_sizes_that_are_no_patch_are_refused(patch: list[int]) -> None:
    with pytest.raises(CrossmodaError, match="give three numbers of voxels"):
        check_network(dynunet(), patch, NAMES)


@pytest.mark.parametrize("structures", [["vs"], ["intra_meatal_vs", "extra_meatal_vs", "cochlea"]])
def test_a_number_of_classes_that_is_not_the_structures_is_refused(structures: list[str]) -> None:
    with pytest.raises(CrossmodaError, match=rf"out_channels is 3, but .* make {len(structures) + 1};"):
        check_network(unet2d5(), [32, 32, 16], structures)


def test_a_network_of_two_channels_is_refused_in_its_own_words() -> None:
    with pytest.raises(CrossmodaError, match=r"network_def \(UNet2D5\) does not segment an image of one channel: .+"):
        check_network(UNet2D5(2, 3, channels=(2, 2, 2, 2, 2)), [32, 32, 16], NAMES)


def test_a_network_that_returns_another_size_is_refused() -> None:
    halving = nn.Conv3d(1, 3, kernel_size=2, stride=2)
    with pytest.raises(CrossmodaError, match=r"does not segment .*: it returns \[8, 8, 8\] voxels for \[16, 16, 16\]"):
        check_network(halving, [16, 16, 16], NAMES)


@pytest.mark.parametrize("make", [dynunet, unet2d5, resunet2d5])
def test_nothing_is_changed_and_no_random_number_drawn(make: Callable[[], nn.Module]) -> None:
    network = make().train()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    check_network(network, [32, 32, 16], NAMES)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert all(weight.device.type == "cpu" and weight.requires_grad for weight in network.parameters())
