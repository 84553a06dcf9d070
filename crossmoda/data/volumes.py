"""Volumes in and out of files: the one place where headers, axes and spacing are handled.

NIfTI is read by nibabel and everything else by ITK, both through MONAI's readers. MONAI's own choice for NRRD is not
taken: it converts the affine only where the header's space is LPS, while ITK converts every space that NRRD knows.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import ImageReader, ITKReader, NibabelReader
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import DTypeLike, NDArray

from crossmoda.data.naming import case_name as case_name
from crossmoda.data.naming import extension_of
from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path

# What readers raise on damaged files: cut streams, bad compressed data, impossible headers.
UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    MemoryError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)


@dataclass(frozen=True)
class Volume:
    """A volume on its own grid.

    Attributes:
        array: float32 (X, Y, Z), axes as in the file (not reoriented).
        affine: (4, 4) float64, from voxel indices to RAS+ millimetres.
    """

    array: NDArray[np.float32]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return self.array.shape

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance between neighbouring voxel centres along each axis, in mm."""
        return spacing_mm(self.affine)


@dataclass(frozen=True)
class Grid:
    """Where a volume's voxels lie: what its header says, without the voxels.

    Attributes:
        shape: voxels along each axis, as stored (a 4D file has four).
        affine: (4, 4) float64, from voxel indices to RAS+ millimetres.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]


def reader_for(path: str | Path) -> ImageReader:
    """Return the MONAI reader for a file's format; its affines are RAS+ in mm.

    Raises:
        CrossmodaError: the extension is none of those the project reads.
    """
    extension = extension_of(path)
    if extension is None:
        raise CrossmodaError(f"{path}: not a volume format that is read here; convert it to .nii.gz, .nrrd or .mha")
    if extension in (".nii", ".nii.gz"):
        return NibabelReader(squeeze_non_spatial_dims=True)
    return ITKReader(affine_lps_to_ras=True)


def read_volume(path: str | Path) -> Volume:
    """Read a NIfTI, NRRD or MetaImage volume on its own grid.

    Returns:
        The voxels as float32 (X, Y, Z) with the file's scaling applied, and the RAS+ affine in mm.

    Raises:
        CrossmodaError: the file is missing, damaged, of another format, or does not hold one 3D volume.
    """
    reader = reader_for(path)
    try:
        array, meta = reader.get_data(reader.read(str(path)))
        array = np.asarray(array, dtype=np.float32)
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    require_3d(path, array.shape)
    return Volume(array, np.asarray(meta["affine"], dtype=np.float64))


def read_grid(path: str | Path) -> Grid:
    """Read only where the voxels lie (for NIfTI from the header alone, which takes no time).

    Raises:
        CrossmodaError: the file is missing, damaged or of another format.
    """
    try:
        if extension_of(path) in (".nii", ".nii.gz"):
            image: Any = nib.load(str(path))
            return Grid(tuple(int(n) for n in image.shape), np.asarray(image.affine, dtype=np.float64))
        reader = reader_for(path)
        array, meta = reader.get_data(reader.read(str(path)))
    except CrossmodaError:
        raise
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    return Grid(array.shape, np.asarray(meta["affine"], dtype=np.float64))


def require_3d(path: str | Path, shape: tuple[int, ...]) -> None:
    """Refuse a shape that is not one volume of at least two voxels along each of three axes.

    Raises:
        CrossmodaError: the array is 2D, a single slice, 4D, or has an axis without voxels.
    """
    size = " x ".join(str(n) for n in shape)
    if len(shape) > 3:
        raise CrossmodaError(
            f"{path}: holds {len(shape)}D data ({size}), one 3D volume is needed; split it into single volumes"
        )
    if len(shape) < 3 or min(shape) < 2:
        raise CrossmodaError(f"{path}: holds a 2D image ({size}), a 3D volume is needed; replace it by the whole scan")


def unreadable(path: str | Path, error: BaseException) -> CrossmodaError:
    """Return the one-line error for a file that could not be read."""
    path = Path(path)
    if not path.exists():
        return CrossmodaError(f"{path}: no such file; correct the path or restore the file")
    if path.is_file() and path.stat().st_size == 0:
        return CrossmodaError(f"{path}: the file is empty (0 bytes); copy or download it again")
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return CrossmodaError(f"{path}: truncated or damaged, cannot be read ({reason}); copy or download it again")


def write_volume(path: str | Path, array: Any, affine: Any, dtype: DTypeLike | None = None) -> None:
    """Write a NIfTI file, whole or not at all; the same input always gives the same bytes.

    Args:
        path: ends in ``.nii`` or ``.nii.gz`` (gzip without a time stamp).
        array: (X, Y, Z).
        affine: (4, 4), from voxel indices to RAS+ mm; stored as sform and qform with code 1, units mm.
        dtype: voxel type on disk; by default uint8 for labels (bool or integers in 0..255), int32 for other integers,
            float32 otherwise.

    Raises:
        CrossmodaError: the path has another extension or cannot be written, or the array is not 3D.
    """
    if extension_of(path) not in (".nii", ".nii.gz"):
        raise CrossmodaError(f"{path}: volumes are written as NIfTI; use a name that ends in .nii.gz")
    array = np.asarray(array)
    if array.ndim != 3:
        raise CrossmodaError(f"{path}: an array of shape {array.shape} cannot be written; (X, Y, Z) is needed")
    image = nifti_image(array.astype(dtype or _dtype_on_disk(array), copy=False), np.asarray(affine, dtype=np.float64))
    with atomic_path(path) as partial:
        nib.save(image, partial)


def nifti_image(array: NDArray[Any], affine: NDArray[np.float64]) -> nib.nifti1.Nifti1Image:
    """Return a NIfTI image whose sform and qform (code 1, scanner) both hold the affine, units mm."""
    image = nib.nifti1.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


def _dtype_on_disk(array: NDArray[Any]) -> DTypeLike:
    if array.dtype == bool:
        return np.uint8
    if not np.issubdtype(array.dtype, np.integer):
        return np.float32
    fits = array.size == 0 or (array.min() >= 0 and array.max() <= 255)
    return np.uint8 if fits else np.int32


def spacing_mm(affine: Any) -> NDArray[np.float64]:
    """Return the voxel spacing (3,) in mm: the lengths of the affine's columns, right also for oblique scans."""
    return np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)


def voxel_volume_mm3(affine: Any) -> float:
    """Return the volume of one voxel in mm3: the affine's absolute determinant, right also for sheared grids."""
    return float(abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])))


def same_grid(a: Volume | Grid | str | Path, b: Volume | Grid | str | Path, tolerance_mm: float = 1e-3) -> bool:
    """Tell whether two volumes (or files) have the same shape and no voxel centre further apart than ``tolerance_mm``.

    The eight corners are compared: an affine map that moves none of them far moves nothing inside far.
    """
    first, second = _grid(a), _grid(b)
    if first.shape != second.shape:
        return False
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in first.shape[:3]], [1.0], indexing="ij")).reshape(4, -1)
    distances = np.linalg.norm(((first.affine - second.affine) @ corners)[:3], axis=0)
    return bool(distances.max() <= tolerance_mm)


def _grid(value: Volume | Grid | str | Path) -> Volume | Grid:
    return read_grid(value) if isinstance(value, (str, Path)) else value
