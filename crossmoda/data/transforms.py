"""MONAI transforms and writers for the project's files: load, map labels by name, save whole under the case's name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, PathLike
from monai.data import MetaTensor, NibabelWriter
from monai.transforms import LoadImaged, MapTransform, Transform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys, convert_to_numpy

from crossmoda.data.naming import case_name
from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path
from crossmoda.labels import numbers_of

CASE = "case"  # key of an item and of its volumes' metadata


def file_name_of(image: Any) -> str:
    """Return the file that a loaded tensor came from, for messages (``the volume`` when it carries none)."""
    meta = getattr(image, "meta", None) or {}
    return str(meta.get(ImageMetaKey.FILENAME_OR_OBJ) or "the volume")


class LoadVolume(Transform):
    """Load one 3D volume as a float32 MetaTensor (1, X, Y, Z) on its own grid, with a RAS+ affine in mm.

    Not random, not invertible. What reads the file, and what is raised, is ``crossmoda.data.volumes.read_volume``'s.

    Args:
        image_only: give only the tensor; otherwise the pair of tensor and metadata, as MONAI's ``LoadImage``.
    """

    def __init__(self, image_only: bool = True) -> None:
        self.image_only = image_only

    def __call__(self, filename: str | Path, reader: object = None) -> Any:
        """Load ``filename``; ``reader`` is there for MONAI's signature and must stay None, the extension decides."""
        if reader is not None:
            raise ValueError("LoadVolume chooses the reader by the file's extension; pass none")
        volume = read_volume(filename)
        meta = {
            MetaKeys.ORIGINAL_AFFINE: volume.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(volume.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            ImageMetaKey.FILENAME_OR_OBJ: str(filename),
        }
        voxels = torch.from_numpy(np.ascontiguousarray(volume.array)[None])
        image = MetaTensor(voxels, affine=torch.from_numpy(volume.affine), meta=meta)
        return image if self.image_only else (image, image.meta)


class LoadVolumed(LoadImaged):
    """Dictionary twin of ``LoadVolume``; a ``LoadImaged``, so that programs that look for one find it.

    An item's ``case`` is noted in each volume's metadata, so that what is saved of it bears the case's name even where
    the file is called otherwise (a datalist may name its cases as it likes).

    Args:
        keys: entries that hold file names.
        allow_missing_keys: pass over entries that are not there.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        # The parent's constructor sets up every reader that MONAI knows, DICOM's too: slow, and it warns on each use.
        MapTransform.__init__(self, keys, allow_missing_keys)
        self._loader = LoadVolume()  # type: ignore[assignment]
        self.meta_keys = (None,) * len(self.keys)
        self.meta_key_postfix = ("meta_dict",) * len(self.keys)
        self.overwriting = False

    def __call__(self, data: Mapping[Hashable, Any], reader: Any = None) -> dict[Hashable, Any]:
        """Return the item with its files loaded."""
        item = dict(super().__call__(data, reader))
        if "case" in item:
            for key in self.key_iterator(item):
                item[key].meta[CASE] = item["case"]
        return item


class MapLabelsByNamed(MapTransform):
    """Turn a label map's numbers on disk into a network's: ``i + 1`` where ``structures[i]`` lies, 0 elsewhere.

    ``vs`` is the union of ``intra`` and ``extra`` where the disk has these. Known structures that the network does not
    segment become background. Not random, not invertible (many values may become one).

    Args:
        keys: label entries, (1, X, Y, Z).
        labels: ``name -> number`` on disk.
        structures: what the network segments, in the order of its channels; later ones win where they overlap.
        labels_key: an entry of the item that, where present, replaces ``labels`` for it and is removed, because
            pseudo-labels and the challenge's labels may be numbered differently in one list.
        allow_missing_keys: pass over entries that are not there.

    Raises:
        CrossmodaError: at construction, a structure that ``labels`` cannot tell apart; at a call, a voxel value that
            ``labels`` does not know, naming the file.
    """

    def __init__(
        self,
        keys: KeysCollection,
        labels: Mapping[str, int],
        structures: Sequence[str],
        labels_key: str = "labels",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.labels = {str(name): int(number) for name, number in labels.items()}
        self.structures = list(structures)
        self.labels_key = labels_key
        self._require_known()

    def _require_known(self) -> None:
        """Refuse labels that cannot tell a structure apart."""
        for structure in self.structures:
            numbers_of(structure, self.labels)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its labels mapped; the input is not changed."""
        d = dict(data)
        labels = d.pop(self.labels_key, None) or self.labels
        for key in self.key_iterator(d):
            d[key] = map_labels(d[key], labels, self.structures)
        return d


def map_labels(label_map: torch.Tensor, labels: Mapping[str, int], structures: Sequence[str]) -> torch.Tensor:
    """Return a label map of the same shape, type and metadata with ``i + 1`` where ``structures[i]`` lies.

    Raises:
        CrossmodaError: a voxel value is not in ``labels`` (the file is named), or a structure cannot be told apart.
    """
    known = {name: int(number) for name, number in labels.items()}
    unknown = sorted(set(torch.unique(torch.as_tensor(label_map)).tolist()) - {0, *known.values()})
    if unknown:
        raise CrossmodaError(
            f"{file_name_of(label_map)}: unknown label values {unknown[:5]} (known: {known}); correct the label"
        )
    mapped = torch.zeros_like(label_map)
    for index, structure in enumerate(structures):
        for number in numbers_of(structure, known):
            mapped[label_map == number] = index + 1
    return mapped


class CaseNameFormatter:
    """Name saved files ``<case>_<suffix>``: an ``output_name_formatter`` for MONAI's ``SaveImaged``.

    The case is the one that ``LoadVolumed`` found in the item, or else the one that the file's name tells.

    To be used with ``output_postfix=""`` and ``separate_folder=False``, which would add to the name.

    Args:
        suffix: what the file holds, e.g. ``Label`` or ``hrT2``.
    """

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def __call__(self, metadict: Mapping[str, Any] | None, saver: Any) -> dict[str, Any]:
        """Return the ``subject`` and ``idx`` that MONAI's ``FolderLayout`` makes the file name of."""
        meta = dict(metadict or {})
        path = meta.get(ImageMetaKey.FILENAME_OR_OBJ)
        if not (meta.get(CASE) or path):
            raise CrossmodaError("an image without a file name cannot be saved under its case; load it from a file")
        case = meta.get(CASE) or case_name(str(path))
        # FolderLayout takes an extension off; giving it one keeps the dots of a case's own name.
        return {"subject": f"{case}_{self.suffix}.nii.gz", "idx": meta.get(ImageMetaKey.PATCH_INDEX)}


class AtomicNibabelWriter(NibabelWriter):
    """MONAI's NIfTI writer, made to write whole files or none (temporary file, flush, rename), with units in mm."""

    def write(self, filename: PathLike, verbose: bool = False, **obj_kwargs: Any) -> None:
        """Write the file whole or not at all.

        Raises:
            CrossmodaError: the folder cannot be written to or the disk is full.
        """
        with atomic_path(Path(filename)) as partial:
            super().write(str(partial), verbose=verbose, **obj_kwargs)

    @classmethod
    def resample_if_needed(  # type: ignore[override]  # mode, padding_mode, ... pass through
        cls,
        data_array: Any,
        affine: Any = None,
        target_affine: Any = None,
        output_spatial_shape: Any = None,
        **options: Any,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return array and affine as they are when no other grid is asked for.

        MONAI 1.6 otherwise takes a volume whose first two axes span one world axis alone (sagittal slices) for an image
        of two axes, and fails.
        """
        if target_affine is None:
            return convert_to_numpy(data_array), convert_to_numpy(affine)
        return super().resample_if_needed(data_array, affine, target_affine, output_spatial_shape, **options)

    @classmethod
    def create_backend_obj(cls, *args: Any, **kwargs: Any) -> Any:
        """Return the parent's NIfTI image with its spatial unit set to mm."""
        image = super().create_backend_obj(*args, **kwargs)
        image.header.set_xyzt_units("mm")
        return image
