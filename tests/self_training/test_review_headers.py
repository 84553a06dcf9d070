"""Headers that name other files or too many voxels, and those that do not."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest

from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review_headers import MOST_VOXELS, require_plain_header
from crossmoda.self_training.review_scans import scan_fault

NRRD = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: {}\nencoding: raw\n"
METAIMAGE = "ObjectType = Image\nNDims = 3\nDimSize = {}\nElementType = MET_UCHAR\nElementDataFile = {}\n"
SECRET = b"0123456789" * 7


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_bytes(SECRET)
    return tmp_path / "secret.txt"


@pytest.mark.parametrize("key", ["data file", "Data File", "datafile", "DATAFILE"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_an_nrrd_file_may_not_name_another_file(tmp_path: Path, secret: Path, key: str, newline: str) -> None:
    path = tmp_path / "scan.nrrd"
    path.write_bytes((NRRD.format("4 4 4") + f"{key}: {secret}\n\n").replace("\n", newline).encode())
    assert read_volume(path).array.ravel(order="F")[:10].tolist() == list(SECRET[:10])  # what readers do with it
    with pytest.raises(CrossmodaError, match=r"scan\.nrrd: its voxels are not in the file itself"):
        require_plain_header(path)
    assert "not in the file itself" in str(scan_fault(path))


@pytest.mark.parametrize("named", ["{}", "secret.txt", "LIST", "%03d.raw 0 3 1"])
def test_a_metaimage_may_not_name_another_file(tmp_path: Path, secret: Path, named: str) -> None:
    path = tmp_path / "scan.mha"
    path.write_text(METAIMAGE.format("4 4 4", named.format(secret)))
    with pytest.raises(CrossmodaError, match=r"scan\.mha: its voxels are not in the file itself"):
        require_plain_header(path)


def test_a_metaimage_s_first_word_about_its_voxels_counts(tmp_path: Path, secret: Path) -> None:
    path = tmp_path / "scan.mha"
    about = METAIMAGE.format("4 4 4", "LOCAL")
    path.write_text(about.replace("ElementDataFile = LOCAL", f"ElementDataFile : {secret}\nElementDataFile = LOCAL"))
    assert read_volume(path).array.ravel(order="F")[:10].tolist() == list(SECRET[:10])
    with pytest.raises(CrossmodaError, match="not in the file itself"):
        require_plain_header(path)


def too_large(folder: Path) -> list[Path]:
    """Return files of every format whose headers claim 2^30 voxels; together they take less than 2 kB."""
    header = bytearray(nib.nifti1.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_bytes())
    header[40:56] = struct.pack("<8h", 3, 1024, 1024, 1024, 1, 1, 1, 1)
    contents = {
        "scan.nii": bytes(header),
        "scan.nrrd": (NRRD.format("1024 1024 1024") + "\n").encode(),
        "scan.mha": METAIMAGE.format("1024 1024 1024", "LOCAL").encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def test_more_voxels_than_memory_could_hold_are_refused_unread(tmp_path: Path) -> None:
    for path in too_large(tmp_path):
        with pytest.raises(CrossmodaError, match=f"1024x1024x1024 voxels, more than the {MOST_VOXELS}"):
            require_plain_header(path)


def test_whole_files_of_every_format_pass(tmp_path: Path) -> None:
    array = np.arange(64, dtype=np.uint8).reshape(4, 4, 4)
    nib.save(nib.nifti1.Nifti1Image(array, np.eye(4)), tmp_path / "scan.nii.gz")
    nrrd.write(str(tmp_path / "scan.nrrd"), array, header={"Segment0_Name": "data file: vs", "space": "LPS"})
    (tmp_path / "scan.mha").write_bytes(METAIMAGE.format("4 4 4", "LOCAL").encode() + array.tobytes())
    for path in tmp_path.iterdir():
        require_plain_header(path)
        assert read_volume(path).array.shape == (4, 4, 4)
