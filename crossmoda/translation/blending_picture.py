"""The picture of a tumour blending: before, altered, blended, with the structure's outline, a row per case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

from crossmoda.data.volumes import spacing_mm
from crossmoda.files import atomic_path
from crossmoda.labels import COLOURS

_MARGIN_MM = 16.0  # about the structure's largest piece
_PANEL_INCHES = 2.6
_TITLE_INCHES = 0.4
_DOTS_PER_INCH = 100


@dataclass(frozen=True)
class PictureRow:
    """One case.

    Args:
        case: its name.
        structure: whose outline is drawn.
        affine: of the arrays, from voxels to RAS+ mm.
        mask: of the structure, (X, Y, Z).
        columns: title -> volume (X, Y, Z) in [0, 1].
    """

    case: str
    structure: str
    affine: NDArray[Any]
    mask: NDArray[np.bool_]
    columns: Mapping[str, NDArray[np.float32]]


def draw_rows(rows: Sequence[PictureRow], path: str | Path) -> None:
    """Write a PNG with the axial slice of each row that shows most of the structure; equal rows give equal bytes."""
    columns = max(len(row.columns) for row in rows)
    figure = Figure(figsize=(columns * _PANEL_INCHES, len(rows) * (_PANEL_INCHES + _TITLE_INCHES)), dpi=_DOTS_PER_INCH)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        _draw_row(line, row)
    top = 1 - _TITLE_INCHES / figure.get_figheight()
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.005, top=top, wspace=0.03, hspace=_TITLE_INCHES / _PANEL_INCHES
    )
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _draw_row(line: Sequence[Axes], row: PictureRow) -> None:
    orientation = nib.orientations.io_orientation(row.affine)
    upright = nib.orientations.apply_orientation(row.mask, orientation)
    z = int(upright.sum(axis=(0, 1)).argmax())
    spacing = spacing_mm(row.affine @ nib.orientations.inv_ornt_aff(orientation, row.mask.shape))
    window = _window(upright[..., z], spacing)
    outline = _radiological(upright[..., z][window])
    for axis, (title, volume) in zip(line, row.columns.items(), strict=False):
        picture = nib.orientations.apply_orientation(volume, orientation)[..., z][window]
        aspect = float(spacing[1] / spacing[0])
        axis.imshow(_radiological(picture), cmap="gray", vmin=0.0, vmax=1.0, aspect=aspect, interpolation="nearest")
        axis.contour(outline, levels=[0.5], colors=[COLOURS[row.structure]], linewidths=0.8)
        axis.set_title(title, fontsize=8)
    line[0].set_title(f"{row.case}\n{row.structure}, {line[0].get_title()}", fontsize=8)


def _window(mask: NDArray[np.bool_], spacing: NDArray[Any]) -> tuple[slice, ...]:
    """Return a square, in mm, about the largest piece of a slice's mask, moved and then cut to lie inside."""
    pieces, count = ndimage.label(mask)
    largest = int(np.argmax(ndimage.sum_labels(mask, pieces, range(1, count + 1))))
    box = ndimage.find_objects(pieces)[largest]
    side_mm = max((part.stop - part.start) * float(size) for part, size in zip(box, spacing, strict=False))
    side_mm += 2 * _MARGIN_MM
    return tuple(
        _span((part.start + part.stop) / 2, side_mm / float(size), length)
        for part, size, length in zip(box, spacing, mask.shape, strict=False)
    )


def _span(centre: float, length: float, limit: int) -> slice:
    count = min(round(length), limit)
    start = min(max(round(centre - count / 2), 0), limit - count)
    return slice(start, start + count)


def _radiological(slice_: NDArray[Any]) -> NDArray[Any]:
    """Return (rows, columns) of an RAS slice (X, Y): anterior on top, the patient's right on the left."""
    return np.asarray(slice_[::-1, ::-1].T, dtype=np.float32)
