"""What the comparisons of translators and of segmenters share: data, names, tables, slices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml

from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError, did_you_mean
from crossmoda.preprocessing import ScaleByPercentiles
from crossmoda.unknown_keys import require_arguments

Settings = dict[str, Any]


def read_settings(
    config: str, size: str, of_a_size: Collection[str], of_a_method: Collection[str]
) -> tuple[Settings, dict[str, Settings]]:
    """Return one of a configuration's sizes and its methods, ``{name: settings}``.

    Args:
        config: the YAML file.
        size: name of one of its sizes.
        of_a_size: keys that a size may have, ``phantom`` besides: the arguments of ``write_phantom_dataset``.
        of_a_method: keys that a method may have.

    Raises:
        CrossmodaError: the file is missing, has no such size, or a key that is not known.
    """
    if not Path(config).is_file():
        raise CrossmodaError(f"{config}: no such file; give --config")
    settings = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    require_keys(config, settings, ("sizes", "methods"), required=("sizes", "methods"))
    scale = require_size(config, settings["sizes"], size, ("phantom", *of_a_size), ("phantom",))
    methods = {name: method or {} for name, method in settings["methods"].items()}
    for name, method in methods.items():
        require_keys(f"{config}: method '{name}'", method, of_a_method)
    return scale, methods


def require_size(
    config: str,
    sizes: Any,
    size: str,
    known: Collection[str],
    phantoms: Collection[str],
    required: Collection[str] = (),
) -> Settings:
    """Return one of a configuration's sizes, whose keys are known.

    Args:
        config: the file, for messages.
        sizes: name -> settings.
        size: one of the names.
        known: keys that a size may have.
        phantoms: those of them that hold arguments of ``write_phantom_dataset``, if they are there.
        required: keys that it must have.

    Raises:
        CrossmodaError: there is no such size, or it has a key that is not known.
    """
    require_keys(f"{config}: sizes", sizes, sizes or ())
    if size not in sizes:
        raise CrossmodaError(f"{config}: no size '{size}'; {did_you_mean(size, sizes)}")
    scale: Settings = sizes[size]
    require_keys(f"{config}: size '{size}'", scale, known, required)
    for key in phantoms:
        require_arguments(f"{config}: {key} of size '{size}'", write_phantom_dataset, scale.get(key) or ())
    return scale


def require_keys(where: str, given: Any, known: Collection[str], required: Collection[str] = ()) -> None:
    """Make sure that settings are a mapping of known keys, the required ones among them.

    Raises:
        CrossmodaError: they are not.
    """
    if not isinstance(given, Mapping):
        raise CrossmodaError(f"{where} must be a mapping")
    for key in given:
        if key not in known:
            raise CrossmodaError(f"{where}: no such key '{key}'; {did_you_mean(key, known)}")
    for key in required:
        if key not in given:
            raise CrossmodaError(f"{where}: '{key}' is missing; add it")


def folder_name(name: str) -> str:
    """Return a method's name as a folder."""
    return "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())


def table(first: str, columns: Mapping[str, tuple[str, int]], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return rows as a table in Markdown, without columns in which nothing was measured.

    Args:
        first: title of the column of names.
        columns: key of a measure -> title and digits.
        rows: name -> measures.
    """
    shown = {key: column for key, column in columns.items() if any(row.get(key) is not None for row in rows.values())}
    titles = [first, *(title for title, _ in shown.values())]
    lines = [titles, ["---"] * len(titles)]
    for name, row in rows.items():
        lines.append([name, *(number(row.get(key), digits) for key, (_, digits) in shown.items())])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def number(value: float | None, digits: int) -> str:
    """Return a measure as text, empty where it was not taken."""
    return "" if value is None else f"{value:.{digits}f}"


def scaled(path: str | Path, level: int) -> np.ndarray:
    """Return one axial slice of a scan, (X, Y) in [-1, 1], its axes turned to RAS."""
    return ScaleByPercentiles()(torch.as_tensor(upright(path)))[..., level].numpy()


def upright(path: str | Path) -> np.ndarray:
    """Return a volume's voxels, (X, Y, Z) float32, its axes turned to RAS."""
    volume = read_volume(path)
    return np.array(nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine)).dataobj)
