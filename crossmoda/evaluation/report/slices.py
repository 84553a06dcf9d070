"""Slices of a volume as a radiologist expects them, and outlines on them, ready to be put into a page.

Every picture is drawn in the radiological convention, however the file stores its axes: the patient's right is on the
left of the picture, anterior is on top of axial slices and on the left of sagittal ones, superior on top of coronal and
sagittal ones. Axes are swapped and flipped to get there, never resampled, so what is shown is the native grid at its
true aspect ratio.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from PIL import Image
from skimage.measure import find_contours

from crossmoda.data.volumes import Volume, spacing_mm

AXIAL, CORONAL, SAGITTAL = "axial", "coronal", "sagittal"
AXIS = {AXIAL: 2, CORONAL: 1, SAGITTAL: 0}  # of a RAS+ array: the axis that the plane cuts
COLUMN_AXIS = {AXIAL: 0, CORONAL: 0, SAGITTAL: 1}  # the patient's right or anterior is on the left
ROW_AXIS = {AXIAL: 1, CORONAL: 2, SAGITTAL: 2}  # anterior or superior is on top


def to_ras(volume: Volume) -> Volume:
    """Return the volume with its axes swapped and flipped into the order nearest to RAS+, not resampled."""
    orientation = nib.orientations.io_orientation(volume.affine)
    array = nib.orientations.apply_orientation(volume.array, orientation)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(orientation, volume.array.shape)
    return Volume(np.ascontiguousarray(array), affine)


@dataclass(frozen=True)
class Window:
    """A rectangle of one slice of a RAS+ array.

    Args:
        plane: ``axial``, ``coronal`` or ``sagittal``.
        index: of the slice along the axis that the plane cuts.
        columns: first and one past the last voxel along x (axial, coronal) or y (sagittal).
        rows: the same along y (axial) or z (coronal, sagittal).
        spacing_mm: edge lengths of a voxel along the columns' and along the rows' axis.
    """

    plane: str
    index: int
    columns: tuple[int, int]
    rows: tuple[int, int]
    spacing_mm: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height in mm."""
        return (
            (self.columns[1] - self.columns[0]) * self.spacing_mm[0],
            (self.rows[1] - self.rows[0]) * self.spacing_mm[1],
        )

    def cut(self, array: np.ndarray) -> np.ndarray:
        """Return the window's picture (rows, columns) of a RAS+ array (X, Y, Z) in the radiological convention."""
        section = np.take(array, self.index, axis=AXIS[self.plane])
        return section[slice(*self.columns), slice(*self.rows)][::-1, ::-1].T


def window_about(
    volume: Volume, plane: str, centre: tuple[float, float, float], size_mm: tuple[float, float]
) -> Window:
    """Return the window of a size about a voxel of a RAS+ volume, moved and then cut so that it lies inside the array.

    Args:
        volume: in RAS+ order.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        centre: (x, y, z) in voxels; the slice is the nearest to it.
        size_mm: wanted width and height.
    """
    spacing = spacing_mm(volume.affine)
    column_axis, row_axis, cut_axis = COLUMN_AXIS[plane], ROW_AXIS[plane], AXIS[plane]
    index = int(np.clip(round(centre[cut_axis]), 0, volume.array.shape[cut_axis] - 1))
    return Window(
        plane,
        index,
        _span(centre[column_axis], size_mm[0] / float(spacing[column_axis]), volume.array.shape[column_axis]),
        _span(centre[row_axis], size_mm[1] / float(spacing[row_axis]), volume.array.shape[row_axis]),
        (float(spacing[column_axis]), float(spacing[row_axis])),
    )


def _span(centre: float, length: float, limit: int) -> tuple[int, int]:
    """Return ``length`` voxels about ``centre`` as (start, stop), shifted into [0, limit] and no longer than it."""
    count = min(max(round(length), 1), limit)
    start = min(max(round(centre - (count - 1) / 2), 0), limit - count)
    return start, start + count


def grey_levels(array: np.ndarray) -> tuple[float, float]:
    """Return the intensities shown as black and as white: the 1st and the 99.7th percentile (of every 4th voxel)."""
    sample = array[::2, ::2]
    low, high = np.percentile(sample[np.isfinite(sample)], [1.0, 99.7])
    return float(low), float(high if high > low else low + 1)


def grey_png(picture: np.ndarray, levels: tuple[float, float]) -> str:
    """Return a picture (rows, columns) as a grey PNG in a data URI."""
    scaled = (np.nan_to_num(picture) - levels[0]) / (levels[1] - levels[0])
    return _data_uri(Image.fromarray((np.clip(scaled, 0, 1) * 255).astype(np.uint8)))


def heat_png(picture: np.ndarray) -> str:
    """Return a picture (rows, columns) in [0, 1] as a transparent PNG, violet (low) to yellow (high), in a data URI."""
    value = np.clip(np.nan_to_num(picture), 0, 1)[..., None]
    low, high = np.array([148.0, 50, 255]), np.array([255.0, 232, 70])
    colour = low + (high - low) * value
    alpha = 255 * np.clip(1.6 * value, 0, 0.9)
    return _data_uri(Image.fromarray(np.concatenate([colour, alpha], axis=-1).astype(np.uint8)))


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def outline(mask: np.ndarray, window: Window) -> str:
    """Return the outline of a mask's picture (rows, columns) as an SVG path's ``d``, in mm from the top left corner.

    The line runs half-way between voxel centres inside and outside; what leaves the window is closed at its edge.
    """
    return "".join(
        "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + "Z" for points in outline_points_mm(mask, window)
    )


def outline_points_mm(mask: np.ndarray, window: Window) -> list[np.ndarray]:
    """Return the closed lines of ``outline``, each as (points, 2): mm to the right and downwards from the top left."""
    lines = []
    for contour in find_contours(np.pad(mask.astype(float), 1), 0.5):
        rows, columns = contour[:-1].T - 1
        lines.append(np.stack([(columns + 0.5) * window.spacing_mm[0], (rows + 0.5) * window.spacing_mm[1]], axis=1))
    return lines
