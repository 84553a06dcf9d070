"""What is wrong between a network and the settings around it, found before any data are read."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from crossmoda.errors import CrossmodaError

_MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # what networks that halve an axis up to six times ask of its size


def check_network(network: nn.Module, patch_size: Sequence[int], structures: Sequence[str]) -> None:
    """Refuse patches that a network cannot take, and a number of classes that is not that of the structures.

    The network is run without data on PyTorch's ``meta`` device, where tensors have shapes and nothing else: some
    hundredths of a second for any network and any patch. The network itself is neither run nor changed, and no random
    number is drawn. To be called before the network has been trained, because what it then holds cannot be copied.

    Args:
        network: takes an image (1, 1, X, Y, Z) and in evaluation returns logits (1, classes, X, Y, Z).
        patch_size: X, Y, Z of a patch, voxels.
        structures: names of all classes but the background.

    Raises:
        CrossmodaError: the sizes are not three, the network does not give the patch's size back, or its classes are not
            background and the structures.
    """
    patch = tuple(patch_size)
    if len(patch) != 3 or min(patch) < 1:
        raise CrossmodaError(f"patch_size {list(patch)}: give three numbers of voxels, for x, y and z, of at least 1")
    twin = _twin_without_data(network)
    try:
        output = _output_shape(twin, patch)
    except _RefusalError as refusal:
        raise CrossmodaError(_explain(twin, patch, str(refusal))) from refusal.__cause__
    if output[1] != len(structures) + 1:
        raise CrossmodaError(
            f"network_def::out_channels is {output[1]}, but background and structures {list(structures)} "
            f"make {len(structures) + 1}; leave out_channels to the configuration"
        )


def check_bfloat16(network: nn.Module, patch_size: Sequence[int], device: torch.device | str, enabled: bool) -> None:
    """Refuse to train in bfloat16 on the CPU what PyTorch computes wrong gradients for.

    Where a map is narrower than the kernel along its first axis, the gradient of a volumetric convolution's weights
    holds memory that nobody wrote, often NaN (PyTorch 2.15 with oneDNN 3.13 on processors with AVX-512 BF16; the output
    and the image's own gradient are right). A stride over an axis of one voxel even damages the heap. Measured for
    kernels of 3 and 5 and strides of 1 and 2; convolutions by channel and transposed ones are right.
    Only patches that a network shrinks to 1 or 2 voxels meet it.

    Args:
        network: takes an image (1, 1, X, Y, Z).
        patch_size: X, Y, Z of a patch, voxels, that ``check_network`` has accepted.
        device: that trains.
        enabled: whether training runs in bfloat16 (``amp``).

    Raises:
        CrossmodaError: a convolution of the network is met with such a map.
    """
    if not enabled or torch.device(device).type != "cpu":
        return
    narrow: list[str] = []

    def look(convolution: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(convolution, nn.Conv3d)
        kernel, shape = convolution.kernel_size, tuple(inputs[0].shape[2:])
        strides_over_one = any(step > 1 and size == 1 for step, size in zip(convolution.stride, shape, strict=True))
        if convolution.groups == 1 and max(kernel) > 1 and (1 < shape[0] < kernel[0] or strides_over_one):
            narrow.append(f"{list(shape)} voxels to a convolution of {list(kernel)}")

    twin = _twin_without_data(network)
    for module in twin.modules():
        if isinstance(module, nn.Conv3d):
            module.register_forward_pre_hook(look)
    _output_shape(twin, patch_size)
    if narrow:
        raise CrossmodaError(
            f"patch_size {list(patch_size)} leaves {narrow[0]}, where PyTorch's bfloat16 gradients on the CPU are "
            "wrong; give a larger patch_size or --amp False"
        )


def check_augmentation_device(device: torch.device | str, num_workers: int) -> None:
    """Refuse to augment where patches cannot be.

    Args:
        device: to which each patch is moved before it is augmented.
        num_workers: processes that load patches.

    Raises:
        CrossmodaError: the device is not there, or other processes would have to share it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch built without CUDA
        raise CrossmodaError(
            f"augmentation_device {device}: not on this machine; give --augmentation_device cpu"
        ) from error
    if torch.device(device).type != "cpu" and num_workers > 0:
        raise CrossmodaError(
            f"augmentation_device {device}: patches of {num_workers} processes cannot be augmented there; "
            "give --num_workers 0"
        )


class _RefusalError(Exception):
    """A network does not take an image, in its own words."""


def _twin_without_data(network: nn.Module) -> nn.Module:
    """Return a copy for evaluation whose weights are on the meta device; nothing large is allocated."""
    memo: dict[int, object] = {
        id(weight): nn.Parameter(weight.to("meta"), requires_grad=False) for weight in network.parameters()
    }
    memo |= {id(buffer): buffer.to("meta") for buffer in network.buffers()}
    return copy.deepcopy(network, memo).eval()


def _output_shape(twin: nn.Module, patch: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the twin's output for an image of one channel; raise ``_RefusalError`` if X, Y, Z differ."""
    try:
        with torch.no_grad():
            output = twin(torch.empty(1, 1, *patch, device="meta"))
    except (RuntimeError, ValueError) as error:
        raise _RefusalError(str(error).splitlines()[0]) from error
    if tuple(output.shape[2:]) != tuple(patch):
        raise _RefusalError(f"it returns {list(output.shape[2:])} voxels for {list(patch)}")
    return tuple(output.shape)


def _explain(twin: nn.Module, patch: Sequence[int], words: str) -> str:
    name = type(twin).__name__
    multiples = _multiples(twin)
    if not multiples:
        return f"network_def ({name}) does not segment an image of one channel: {words}"
    larger = [-(-size // multiple) * multiple for size, multiple in zip(patch, multiples, strict=True)]
    if larger == list(patch):
        return f"patch_size {list(patch)} is too small for network_def ({name}): {words}; give a larger one"
    return (
        f"patch_size {list(patch)} does not fit network_def ({name}), whose x, y and z are multiples of {multiples}; "
        f"give --patch_size '{larger}'"
    )


def _multiples(twin: nn.Module) -> list[int]:
    """Return of what each axis must be a multiple; nothing if no size is taken.

    A size of three times a number is no multiple of twice that number, so the first that is taken is the answer.
    """
    found = []
    for axis in range(3):
        for multiple in _MULTIPLES:
            size = [_MULTIPLES[-1]] * 3
            size[axis] = 3 * multiple
            if _takes(twin, size):
                found.append(multiple)
                break
        else:
            return []
    return found


def _takes(twin: nn.Module, patch: Sequence[int]) -> bool:
    try:
        _output_shape(twin, patch)
    except _RefusalError:
        return False
    return True
