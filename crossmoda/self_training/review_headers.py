"""Received files that must not be opened: their header names another file, or more voxels than memory could hold.

NRRD and MetaImage files may say that their voxels lie in a file of any name, which readers then open: a client could
have any file of the server's machine shown as a scan. A compressed file of a few megabytes may unfold to a thousand
times that.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import nibabel as nib

from crossmoda.data.naming import extension_of
from crossmoda.data.volumes import UNREADABLE
from crossmoda.errors import CrossmodaError

MOST_VOXELS = 1 << 28  # 1 GiB as float32; a head at 0.3 mm has a third of them
_LONGEST_HEADER = 1 << 20  # bytes
_LOCAL = re.compile(rb"elementdatafile[ \t]*[=:][ \t]*local[ \t]*\n")
_DIM_SIZE = re.compile(rb"dimsize[ \t]*[=:]([^\n]*)")


def require_plain_header(path: Path) -> None:
    """Refuse a file whose header does not stand for its own voxels, before a reader follows it.

    Args:
        path: to a file of one of the formats that the project reads; what its reader finds wrong is left to that.

    Raises:
        CrossmodaError: voxels in another file, or more than ``MOST_VOXELS``.
    """
    extension = extension_of(path)
    if extension == ".nrrd":
        shape = _nrrd_shape(path)
    elif extension == ".mha":
        shape = _metaimage_shape(path)
    else:
        shape = _nifti_shape(path)
    if math.prod(shape) > MOST_VOXELS:
        listed = "x".join(map(str, shape))
        raise CrossmodaError(f"{path}: {listed} voxels, more than the {MOST_VOXELS} that are read here; crop the scan")


def _nifti_shape(path: Path) -> list[int]:
    try:
        image: Any = nib.load(str(path))
        return [int(size) for size in image.shape]
    except UNREADABLE:
        return []


def _nrrd_shape(path: Path) -> list[int]:
    fields, header = {}, _header(path)
    if not header.startswith(b"NRRD"):
        raise CrossmodaError(f"{path}: damaged, or no NRRD file; save it as .nii.gz")
    for line in header.split(b"\n\n")[0].split(b"\n"):
        key, colon, value = line.partition(b":")
        if colon and not value.startswith(b"="):  # := would be a field of the client's own
            fields[key.replace(b" ", b"").lower()] = value
    if b"datafile" in fields:
        raise _elsewhere(path)
    return _numbers(fields.get(b"sizes", b""))


def _metaimage_shape(path: Path) -> list[int]:
    header = _header(path).lower()
    begin = header.find(b"elementdatafile")  # ends the header, where it is found first
    if begin < 0 or not _LOCAL.match(header, begin):
        raise _elsewhere(path)
    return max((_numbers(size) for size in _DIM_SIZE.findall(header, 0, begin)), key=math.prod, default=[])


def _header(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(_LONGEST_HEADER).replace(b"\r\n", b"\n")
    except OSError:
        return b""


def _numbers(text: bytes) -> list[int]:
    return [int(word) for word in text.split() if word.isdigit() and len(word) < 20]


def _elsewhere(path: Path) -> CrossmodaError:
    return CrossmodaError(f"{path}: its voxels are not in the file itself; save it as one file, such as .nii.gz")
