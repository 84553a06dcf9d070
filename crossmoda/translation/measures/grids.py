"""Volumes that are compared voxel by voxel must show the same places."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from crossmoda.data.transforms import file_name_of
from crossmoda.data.volumes import Grid, same_grid
from crossmoda.errors import CrossmodaError

TOLERANCE_MM = 0.1  # by which headers of one scan differ when programs round them


class RequireOneGridd(MapTransform):
    """Make sure that an item's volumes lie on one grid, as they do in the working space if they do on disk.

    Args:
        keys: the reference first; entries that the item lacks are passed over.

    Raises:
        CrossmodaError: at a call, a volume lies elsewhere than the reference; both files are named.
    """

    def __init__(self, keys: KeysCollection) -> None:
        super().__init__(keys, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item as it is."""
        d = dict(data)
        reference, *others = (d[key] for key in self.key_iterator(d))
        for volume in others:
            if not same_grid(_grid(volume), _grid(reference), TOLERANCE_MM):
                raise CrossmodaError(
                    f"{file_name_of(volume)}: lies on another grid than {file_name_of(reference)}; resample it to that"
                )
        return d


def _grid(volume: MetaTensor) -> Grid:
    return Grid(tuple(volume.shape[1:]), np.asarray(volume.affine, dtype=float))
