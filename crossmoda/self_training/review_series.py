"""Scans as a hospital keeps them: series of DICOM slices, read as volumes whose voxels lie where the headers say.

DICOM's patient coordinates run to the left, to the back and to the head (LPS, mm); a volume's affine, as everywhere
here, to the right, to the front and to the head. Slices are ordered by their position, never by number or file name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import itk
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from crossmoda.data.volumes import UNREADABLE, Volume
from crossmoda.errors import CrossmodaError

POSITION_TOLERANCE_MM = 0.05  # positions are rounded in headers; a missing slice is off by a whole spacing
DIRECTION_TOLERANCE = 1e-3  # of cosines, which are often written with a few decimals
NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """The slices of a series in the order of their positions.

    Attributes:
        headers: one of each slice, from first to last along the normal of the planes.
        shape: voxels along (X, Y, Z): columns, rows, slices.
        affine: (4, 4) float64, from voxel indices to RAS+ mm.
    """

    headers: tuple[Dataset, ...]
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]


def order_series(headers: Sequence[Dataset]) -> Series:
    """Return a series' slices in order, with the grid that they make.

    Args:
        headers: of all slices, in any order, with or without their voxels.

    Raises:
        CrossmodaError: they do not make one volume: multi-frame or colour images, positions missing, several
            orientations or sizes, two slices at one place, a gap. The message says so without naming the series.
    """
    if not headers:
        raise CrossmodaError("the series has no instances; send it again")
    for header in headers:
        _require_single_slice(header)
    first = headers[0]
    across, down = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    _require_one_orientation(headers, np.concatenate([across, down]))
    normal = np.cross(across, down)
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    order = np.argsort(positions @ normal, kind="stable")
    step = _even_step(positions[order], normal)
    affine = np.eye(4)
    affine[:3, 0] = across * float(first.PixelSpacing[1])  # the second number is the distance between columns
    affine[:3, 1] = down * float(first.PixelSpacing[0])
    affine[:3, 2], affine[:3, 3] = step, positions[order[0]]
    shape = (int(first.Columns), int(first.Rows), len(headers))
    return Series(tuple(headers[index] for index in order), shape, LPS_TO_RAS @ affine)


def read_series(files: Sequence[Path]) -> Volume:
    """Return the volume that the files of one series make; compressed slices are read too, each with its own scaling.

    Args:
        files: one for each slice, in any order.

    Raises:
        CrossmodaError: a file cannot be read, or they do not make one volume (see ``order_series``).
    """
    try:
        headers = [dcmread(file, stop_before_pixels=True) for file in files]
    except (InvalidDicomError, *UNREADABLE) as error:
        raise CrossmodaError("a slice is no DICOM file or is cut off; send the series again") from error
    by_header = {id(header): str(file) for header, file in zip(headers, files, strict=True)}
    series = order_series(headers)
    try:
        image = itk.imread([by_header[id(header)] for header in series.headers], itk.F)
        array = np.asarray(itk.array_from_image(image), dtype=np.float32).transpose(2, 1, 0)
    except UNREADABLE as error:
        raise CrossmodaError("the voxels of a slice are cut off or damaged; send the series again") from error
    if array.shape != series.shape:
        raise CrossmodaError(f"its voxels are {array.shape}, its headers say {series.shape}; send the series again")
    return Volume(np.ascontiguousarray(array), series.affine)


def _require_single_slice(header: Dataset) -> None:
    if int(header.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in header:
        raise CrossmodaError("multi-frame images (enhanced MR) are not read here; export the series as single slices")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise CrossmodaError("colour images are no scan; leave the series out by the search filter")
    for name in NEEDED:
        if header.get(name) in (None, "", []):
            raise CrossmodaError(f"a slice lacks {name}, so that nobody can tell where it lies; send the series again")


def _require_one_orientation(headers: Sequence[Dataset], cosines: NDArray[np.float64]) -> None:
    """Refuse slices that are turned against each other, of different sizes, or of axes that are not at right angles."""
    across, down = cosines[:3], cosines[3:]
    if abs(np.linalg.norm(across) - 1) + abs(np.linalg.norm(down) - 1) + abs(across @ down) > 3 * DIRECTION_TOLERANCE:
        raise CrossmodaError("the directions of its rows and columns are not at right angles; send the series again")
    first = headers[0]
    for header in headers:
        turned = np.abs(np.array(header.ImageOrientationPatient, dtype=float) - cosines).max() > DIRECTION_TOLERANCE
        wider = np.abs(np.subtract(header.PixelSpacing, first.PixelSpacing, dtype=float)).max() > 1e-4
        if turned or wider or (header.Rows, header.Columns) != (first.Rows, first.Columns):
            raise CrossmodaError("its slices have several orientations or sizes (a localizer?); it is no volume")
        if header.get("FrameOfReferenceUID") != first.get("FrameOfReferenceUID"):
            raise CrossmodaError("its slices belong to several frames of reference; it is no volume")


def _even_step(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the step (3,) in mm from a slice to the next one, given all positions (Z, 3) in order."""
    if len(positions) < 2:
        raise CrossmodaError("holds a single slice, a 3D volume is needed; it is no scan, or most of it is missing")
    gaps = np.diff(positions @ normal)
    if gaps.min() < POSITION_TOLERANCE_MM:
        raise CrossmodaError("two slices lie at the same place (several echoes or times?); send one volume a series")
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    even = positions[0] + np.outer(np.arange(len(positions)), step)
    if np.abs(positions - even).max() > POSITION_TOLERANCE_MM:
        raise CrossmodaError(
            f"its slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart; one is missing, send the series again"
        )
    if np.linalg.norm(step - (step @ normal) * normal) > POSITION_TOLERANCE_MM:
        raise CrossmodaError("its slices are shifted against each other (a tilted gantry); resample the series")
    return step
