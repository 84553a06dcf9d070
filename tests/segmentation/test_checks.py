from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import DynUNet
from monai.networks.nets.mednext import create_mednext
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.checks import check_augmentation_device, check_bfloat16, check_network
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


CPU = torch.device("cpu")


@pytest.mark.parametrize(("make", "patch"), [(dynunet, [16, 32, 16]), (resunet2d5, [32, 48, 16])])
def test_patches_that_bfloat16_would_not_learn_from_on_the_cpu_are_refused(
    make: Callable[[], nn.Module], patch: list[int]
) -> None:
    network = make()
    check_network(network, patch, NAMES)
    with pytest.raises(CrossmodaError, match=r"leaves \[2, .*give a larger patch_size or --amp False") as caught:
        check_bfloat16(network, patch, CPU, enabled=True)
    assert str(caught.value).startswith(f"patch_size {patch} leaves [2, ")
    check_bfloat16(network, patch, CPU, enabled=False)
    check_bfloat16(network, patch, torch.device("cuda"), enabled=True)
    check_bfloat16(network, [2 * patch[0], *patch[1:]], CPU, enabled=True)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_stride_over_one_voxel_is_refused_and_convolutions_by_channel_are_not() -> None:
    strided = nn.Conv3d(1, 4, 3, stride=(1, 1, 2), padding=1)
    with pytest.raises(CrossmodaError, match=r"leaves \[8, 8, 1\] voxels to a convolution of \[3, 3, 3\]"):
        check_bfloat16(nn.Sequential(strided, nn.Upsample(size=(8, 8, 1))), [8, 8, 1], CPU, enabled=True)
    check_bfloat16(nn.Conv3d(1, 1, 3, padding=1), [1, 8, 8], CPU, enabled=True)
    by_channel = nn.Sequential(nn.Conv3d(1, 4, 1), nn.Conv3d(4, 4, 3, padding=1, groups=4))
    check_bfloat16(by_channel, [2, 8, 8], CPU, enabled=True)


@pytest.mark.parametrize(("shape", "stride"), [((4, 4, 4), 1), ((3, 2, 2), 1), ((4, 2, 2), 2)])
def test_what_is_not_refused_has_the_gradients_of_float32(shape: tuple[int, int, int], stride: int) -> None:
    """The memory that PyTorch hands out next is filled with NaN, so that what nobody writes is seen."""
    convolution, image = nn.Conv3d(16, 16, 3, padding=1, stride=stride), torch.randn(2, 16, *shape)
    check_bfloat16(nn.Sequential(nn.Conv3d(1, 16, 1), convolution, nn.Upsample(shape)), shape, CPU, enabled=True)
    output = convolution(image)
    upstream = torch.randn_like(output)
    (wanted,) = torch.autograd.grad(output, convolution.weight, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        output = convolution(image)
    freed = [torch.full((size,), torch.nan) for size in (64, 1024, 4096, 2**14, 2**16) for _ in range(8)]
    del freed
    (gradient,) = torch.autograd.grad(output, convolution.weight, upstream.to(output.dtype))
    assert torch.allclose(gradient, wanted, atol=float(wanted.abs().max()) * 0.03)


def test_patches_are_augmented_on_a_device_that_is_there_by_one_process() -> None:
    check_augmentation_device("cpu", num_workers=4)
    check_augmentation_device("meta", num_workers=0)
    with pytest.raises(CrossmodaError, match=r"^augmentation_device meta: patches of 2 processes .* --num_workers 0$"):
        check_augmentation_device("meta", num_workers=2)
    with pytest.raises(CrossmodaError, match=r"^augmentation_device cuda:99: not on this machine; .* cpu$"):
        check_augmentation_device("cuda:99", num_workers=0)
