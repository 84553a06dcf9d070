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
