"""Look into one case's files: headers first, then each file's voxels once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from crossmoda.data.datalist import Item
from crossmoda.data.findings import ERROR, WARNING, Problem, Scan
from crossmoda.data.parts import Volumes, label_volumes_mm3
from crossmoda.data.volumes import Grid, Volume, read_grid, read_volume, require_3d, same_grid, spacing_mm
from crossmoda.errors import CrossmodaError


def inspect(section: str, item: Item, labels: dict[str, int]) -> tuple[Scan, list[Problem]]:
    """Check one case's files; a truth's image is looked at as its own section's."""
    image, problems = Path(item["image"]), []
    grid: Grid | None = None
    volumes: Volumes | None = None
    try:
        grid = _checked_grid(image)
        if section != "truth":
            _require_voxels(image, read_volume(image))
    except CrossmodaError as error:
        problems += [] if section == "truth" else [_problem(image, error, section)]
    if item.get("label"):
        label = Path(item["label"])
        try:
            volumes = _checked_label(label, grid, image, labels)
        except CrossmodaError as error:
            problems.append(_problem(label, error, section))
        else:
            problems += _empty_label(label, volumes, section)
    return Scan(section, item.get("site", "unknown"), grid, volumes), problems


def _empty_label(label: Path, volumes: Volumes, section: str) -> list[Problem]:
    return (
        []
        if volumes
        else [Problem(label, "the label is empty; look whether the scan shows neither structure", WARNING, section)]
    )


def _problem(path: Path, error: CrossmodaError, section: str) -> Problem:
    return Problem(path, str(error).removeprefix(f"{path}: "), ERROR, section)


def _checked_grid(path: Path) -> Grid:
    grid = read_grid(path)
    shape = grid.shape
    while len(shape) > 3 and shape[-1] == 1:  # trailing axes of one voxel are dropped on reading
        shape = shape[:-1]
    require_3d(path, shape)
    if not np.isfinite(grid.affine).all() or abs(np.linalg.det(grid.affine[:3, :3])) < 1e-9:
        raise CrossmodaError(f"{path}: its header gives no usable voxel spacing and axes; export the scan again")
    return Grid(shape, grid.affine)


def _require_voxels(path: Path, volume: Volume) -> None:
    finite = np.isfinite(volume.array)
    if not finite.all():
        raise CrossmodaError(f"{path}: {int((~finite).sum())} voxels are NaN or infinite; export the scan again")
    if volume.array.min() == volume.array.max():
        raise CrossmodaError(f"{path}: all voxels have one value, there is no image in it; export the scan again")


def _checked_label(path: Path, grid: Grid | None, image: Path, labels: dict[str, int]) -> Volumes:
    own = _checked_grid(path)
    if grid is not None and not same_grid(own, grid):
        raise CrossmodaError(
            f"{path}: lies on another grid than {image.name} ({_difference(own, grid)}); resample it to the image"
        )
    volume = read_volume(path)
    if not np.isfinite(volume.array).all():
        raise CrossmodaError(f"{path}: some voxels are NaN or infinite; export the label again")
    unknown = sorted(set(np.unique(volume.array).tolist()) - {0.0, *map(float, labels.values())})
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:5])
        known = ", ".join(f"{name} {number}" for name, number in labels.items())
        raise CrossmodaError(f"{path}: unknown label values {shown} (known: {known}); correct the label")
    return label_volumes_mm3(volume.array, volume.affine)


def _difference(label: Grid, image: Grid) -> str:
    if label.shape != image.shape:
        return f"{_times(label.shape)} voxels instead of {_times(image.shape)}"
    if not np.allclose(spacing_mm(label.affine), spacing_mm(image.affine), atol=1e-3):
        return "another voxel spacing"
    return "another position or orientation"


def _times(numbers: Iterable[float]) -> str:
    return "x".join(f"{number:.3g}" for number in numbers)
