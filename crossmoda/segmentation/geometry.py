"""Where voxels of a tensor (C, X, Y, Z) lie, and the boxes that keep work small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from crossmoda.data.volumes import Grid, same_grid
from crossmoda.errors import CrossmodaError

Box = tuple[slice, slice, slice]


def affine_of(image: Any) -> np.ndarray:
    """Return the affine (4, 4) of a tensor, from voxel indices to RAS+ mm; the identity where it carries none."""
    affine = getattr(image, "affine", None)
    return np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)


def require_same_grid(first: torch.Tensor, second: torch.Tensor, names: str) -> None:
    """Refuse two tensors (C, X, Y, Z) whose voxels do not lie in the same places.

    Args:
        first: with or without an affine.
        second: likewise; affines are compared where both have one.
        names: what the two are, for the message.

    Raises:
        CrossmodaError: the shapes differ, or a voxel lies in another place.
    """
    shapes = [tuple(int(n) for n in tensor.shape[1:]) for tensor in (first, second)]
    if shapes[0] != shapes[1]:
        sizes = " and ".join(" x ".join(str(n) for n in shape) for shape in shapes)
        raise CrossmodaError(f"{names} have {sizes} voxels; bring them to one grid first")
    if getattr(first, "affine", None) is None or getattr(second, "affine", None) is None:
        return
    if not same_grid(Grid(shapes[0], affine_of(first)), Grid(shapes[1], affine_of(second)), tolerance_mm=0.01):
        raise CrossmodaError(f"{names} lie in different places by their affines; bring them to one grid first")


def box_of(mask: torch.Tensor, margins: Sequence[int] = (0, 0, 0)) -> Box | None:
    """Return the box of a mask's (X, Y, Z) voxels, grown by margins in voxels within the volume; None if it is empty.

    Projections are looked at one after the other, so that a whole head costs no copy of its size.
    """
    box = []
    for axis, margin in enumerate(margins):
        others = tuple(other for other in range(3) if other != axis)
        places = torch.nonzero(torch.amax(mask, dim=others))
        if not len(places):
            return None
        first, last = int(places[0]), int(places[-1])
        box.append(slice(max(first - margin, 0), min(last + margin + 1, mask.shape[axis])))
    return (box[0], box[1], box[2])
