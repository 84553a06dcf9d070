"""Label maps as 3D Slicer sends them, read by the names of their segments.

What a voxel value means depends on who wrote the file. MONAI Label's module in 3D Slicer numbers the voxels by the
order of the segments that it exports (1, 2, ...) and sends these segments' names in that order as ``label_info``; the
``idx`` beside each name counts hidden segments too and says nothing about the voxels. A segmentation file
(``.seg.nrrd``, which the Reviewer module sends) carries names and values in its own header. In the store every label
has the same numbers, ``stored_values``, and its info says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import itk
import numpy as np

from crossmoda.data.volumes import Grid, read_grid, read_volume, same_grid
from crossmoda.errors import CrossmodaError
from crossmoda.labels import BACKGROUND, FULL_NAMES, PARTS, STRUCTURES, model_labels
from crossmoda.self_training.review_headers import require_plain_header

GRID_TOLERANCE_MM = 0.01  # headers written by other programs are rounded; a hundredth of a voxel is nobody's mistake

_NAMES = {name.lower(): name for name in STRUCTURES} | {full.lower(): name for name, full in FULL_NAMES.items()}


def stored_values(structures: Sequence[str]) -> dict[str, int]:
    """Return the numbers of labels in the store: the model's own, then the parts that its structures may be drawn in.

    A model of ``vs`` and ``cochlea`` gives ``{"vs": 1, "cochlea": 2, "intra": 3, "extra": 4}``.
    """
    parts = [part for name in structures for part in PARTS.get(name, ()) if part not in structures]
    return model_labels([*structures, *parts])


def label_info_of(values: Mapping[str, int], present: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the ``label_info`` that tells MONAI Label's clients which voxel value has which name."""
    return [{"name": name, "idx": number} for name, number in values.items() if present is None or name in present]


def structure_named(name: Any, values: Mapping[str, int], what: str) -> str:
    """Return the structure that a segment's name means, in any case of letters, short or in full.

    Raises:
        CrossmodaError: the name is not one of ``values``.
    """
    structure = _NAMES.get(str(name).strip().lower())
    if structure is None or structure not in values:
        known = ", ".join(values)
        raise CrossmodaError(f"{what}: unknown segment '{str(name)[:60]}'; rename it to one of {known} or delete it")
    return structure


def names_in_order(label_info: Any, values: Mapping[str, int], what: str) -> dict[int, str]:
    """Return voxel value -> structure of a label map exported by 3D Slicer: value ``i`` is the ``i``-th segment listed.

    Raises:
        CrossmodaError: ``label_info`` is not a list of named segments, or a name is unknown.
    """
    if not isinstance(label_info, list) or not all(isinstance(item, Mapping) and "name" in item for item in label_info):
        raise CrossmodaError(f"{what}: label_info is not a list of {{'name', 'idx'}}; save from 3D Slicer's module")
    listed = [item["name"] for item in label_info if str(item["name"]).strip().lower() != BACKGROUND]
    return {index: structure_named(name, values, what) for index, name in enumerate(listed, start=1)}


def names_in_header(path: Path, values: Mapping[str, int], what: str) -> dict[int, str]:
    """Return voxel value -> structure from a segmentation file's header; empty for any other file.

    Raises:
        CrossmodaError: the header names an unknown segment, or stores overlapping segments in layers.
    """
    if not path.name.lower().endswith(".nrrd"):
        return {}
    header = _nrrd_fields(path, what)
    names: dict[int, str] = {}
    for key, name in header.items():
        segment = key.removesuffix("_Name")
        if key.startswith("Segment") and segment != key and f"{segment}_LabelValue" in header:
            if header.get(f"{segment}_Layer", "0") != "0":
                raise CrossmodaError(f"{what}: segments overlap; allow no overlap in the Segment Editor, save again")
            names[int(header[f"{segment}_LabelValue"])] = structure_named(name, values, what)
    return names


def read_upload(
    path: Path, image: Path, label_info: Any, structures: Sequence[str], what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read a label map that a client sent and return it in the store's own numbers.

    Args:
        path: of the file received.
        image: the scan that it belongs to.
        label_info: as 3D Slicer sent it; None where the client sent none, then the numbers are taken as the store's.
        structures: of the run.
        what: what messages call the label, since the file received has a meaningless name.

    Returns:
        The label map (X, Y, Z) uint8, numbered as ``stored_values``, and the scan's affine (4, 4).

    Raises:
        CrossmodaError: not a readable 3D label map of whole numbers on the scan's grid, or a value or name is
            not known.
    """
    values = stored_values(structures)
    try:
        require_plain_header(path)
    except CrossmodaError as error:
        raise CrossmodaError(f"{what}: {str(error).replace(f'{path}: ', '')}") from error
    names = names_in_header(path, values, what)
    if not names and label_info is not None:
        names = names_in_order(label_info, values, what)
    names = names or {number: name for name, number in values.items()}
    label, scan = read_label(path, image, what)
    return renumber(label, {number: values[name] for number, name in names.items()}, what), scan.affine


def read_label(path: Path, image: Path, what: str) -> tuple[np.ndarray, Grid]:
    """Return a label map (X, Y, Z) of whole numbers from 0 to 255 as uint8, and the scan's grid, on which it lies.

    Raises:
        CrossmodaError: unreadable, not 3D, other numbers, or on another grid than the scan.
    """
    try:
        label = read_volume(path)
    except CrossmodaError as error:
        raise CrossmodaError(f"{what}: {str(error).replace(f'{path}: ', '')}") from error
    scan = read_grid(image)
    if not same_grid(label, scan, GRID_TOLERANCE_MM):
        raise CrossmodaError(
            f"{what}: its grid of {'x'.join(map(str, label.shape))} voxels is not that of {image.name} "
            f"({'x'.join(map(str, scan.shape))}); use the scan as the segmentation's reference geometry"
        )
    if not np.isfinite(label.array).all() or label.array.min() < 0 or label.array.max() > 255:
        raise CrossmodaError(f"{what}: holds values outside 0 to 255; save a label map, not an image")
    whole = label.array.astype(np.uint8)
    if not np.array_equal(whole, label.array):
        raise CrossmodaError(f"{what}: holds fractions; save a label map, not an image or a probability map")
    return whole, scan


def renumber(label: np.ndarray, numbers: Mapping[int, int], what: str) -> np.ndarray:
    """Return a uint8 label map with every value replaced as ``numbers`` says; 0 stays 0.

    Raises:
        CrossmodaError: a value is not among ``numbers``.
    """
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    unknown = [int(number) for number in present if number and number not in numbers]
    if unknown:
        listed = ", ".join(map(str, unknown))
        raise CrossmodaError(f"{what}: voxels of value {listed} belong to no named segment; name it and save again")
    table = np.zeros(256, np.uint8)
    for number, new in numbers.items():
        if 0 < number < 256:
            table[number] = new
    return table[label]


def numbers_for(
    structures: Sequence[str], values: Mapping[str, int], present: Sequence[int], what: str
) -> dict[int, int]:
    """Return stored number -> number in ``model_labels(structures)``; parts count as their whole.

    Raises:
        CrossmodaError: a value that is present belongs to none of the structures, e.g. a whole VS where its parts are
            asked for.
    """
    wholes = {part: whole for whole, parts in PARTS.items() for part in parts}
    numbers = model_labels(structures)
    found: dict[int, int] = {}
    for name, value in values.items():
        target = numbers.get(name) or numbers.get(wholes.get(name, ""))
        if target:
            found[value] = target
        elif value in present:
            raise CrossmodaError(f"{what}: '{name}' is none of {', '.join(structures)}; correct the label")
    return found


def _nrrd_fields(path: Path, what: str) -> dict[str, str]:
    """Return an NRRD header's custom fields."""
    try:
        reader = itk.NrrdImageIO.New(FileName=str(path))
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise CrossmodaError(f"{what}: not a readable NRRD file; save it again") from error
    fields = reader.GetMetaDataDictionary()
    return {key: str(fields[key]) for key in fields.GetKeys()}
