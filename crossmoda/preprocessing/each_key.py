"""From an array transform to its dictionary twin."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform


class EachKeyd(MapTransform):
    """Apply one array transform to every key.

    Args:
        keys: entries of the item.
        transform: of one entry.
        allow_missing_keys: pass over entries that are not there.
    """

    def __init__(self, keys: KeysCollection, transform: Transform, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = transform

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with each key transformed; the input is not changed."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key])
        return d
