"""What belongs to a prediction's case on disk: its scan, and what another model predicted for it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ImageMetaKey

from crossmoda.data.naming import case_name
from crossmoda.data.transforms import CASE, LoadVolume
from crossmoda.errors import CrossmodaError


class LoadOfCased(MapTransform):
    """Load the volume that belongs to a prediction's case: the scan itself, or what another model wrote for the case.

    A prediction that was brought back to its image's grid knows the image's file and case. The volume is loaded as it
    is on disk, on its own grid. Not random; not invertible.

    Args:
        keys: one key, of the prediction.
        output_key: where the volume (1, X, Y, Z), float32, goes.
        folder: of files ``<case>_<suffix>.nii.gz``; by default the image's own file is loaded.
        suffix: what the files hold.

    Raises:
        CrossmodaError: at a call, the prediction knows no file, or the file is missing or damaged.
    """

    def __init__(
        self, keys: KeysCollection, output_key: str, folder: str | Path | None = None, suffix: str = "Label"
    ) -> None:
        super().__init__(keys)
        self.output_key = output_key
        self.folder = None if folder is None else Path(folder)
        self.suffix = suffix
        self._load = LoadVolume()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with the volume."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[self.output_key] = self._load(self._path(getattr(item[key], "meta", None) or {}))
        return item

    def _path(self, meta: Mapping[Any, Any]) -> Path:
        path = meta.get(ImageMetaKey.FILENAME_OR_OBJ)
        if not path:
            raise CrossmodaError("LoadOfCased: the prediction knows no file; bring it back to its image's grid before")
        if self.folder is None:
            return Path(str(path))
        return predicted_file(self.folder, meta.get(CASE) or case_name(str(path)), self.suffix)


def predicted_file(folder: str | Path, case: str, suffix: str = "Label") -> Path:
    """Return the file that the segmentation bundle writes for a case."""
    return Path(folder) / f"{case}_{suffix}.nii.gz"


def require_predictions(items: Sequence[Mapping[str, Any]], folder: str | Path, suffix: str = "Label") -> None:
    """Make sure, before any image is predicted, that another model's prediction of every case is there.

    Args:
        items: with ``case``.
        folder: of files ``<case>_<suffix>.nii.gz``.
        suffix: what the files hold.

    Raises:
        CrossmodaError: files are missing; the first is named.
    """
    missing = [path for item in items if not (path := predicted_file(folder, item["case"], suffix)).is_file()]
    if missing:
        raise CrossmodaError(
            f"{missing[0]}: no such file, nor those of {len(missing) - 1} more cases; predict them with the other "
            "model first or name its folder"
        )
