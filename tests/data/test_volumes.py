from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from crossmoda.data.volumes import (
    Grid,
    Volume,
    read_grid,
    read_volume,
    same_grid,
    spacing_mm,
    voxel_volume_mm3,
    write_volume,
)
from crossmoda.errors import CrossmodaError

OBLIQUE = np.array(
    [[0.4, -0.24, 0, 5], [0.3, 0.32, 0, -7], [0, 0, -1.5, 11], [0, 0, 0, 1]]
)  # 0.5 x 0.4 x 1.5 mm, turned


def write_nrrd(path: Path, array: np.ndarray, space: str, directions: np.ndarray, origin: tuple[float, ...]) -> Path:
    """Write a NRRD by hand; ``directions[i]`` is where axis i leads, in mm of ``space``."""
    vectors = " ".join("(" + ",".join(f"{value:g}" for value in row) + ")" for row in directions)
    header = [
        "NRRD0004",
        "type: float",
        "dimension: 3",
        f"space: {space}",
        "sizes: " + " ".join(str(n) for n in array.shape),
        f"space directions: {vectors}",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: raw",
        "space origin: (" + ",".join(f"{value:g}" for value in origin) + ")",
    ]
    path.write_bytes("\n".join(header).encode() + b"\n\n" + array.astype("<f4").tobytes(order="F"))
    return path


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(5, 4, 3)).astype(np.float32)


@pytest.mark.parametrize("affine", [np.diag([0.5, 0.6, 2, 1]), np.diag([-0.5, -0.6, 2, 1]), OBLIQUE])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_is_written_is_read_back_with_its_geometry(
    tmp_path: Path, array: np.ndarray, affine: np.ndarray, name: str
) -> None:
    write_volume(tmp_path / name, array, affine)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.array.dtype == np.float32


def test_header_holds_sform_and_qform_in_mm_and_labels_are_uint8(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", np.ones((3, 4, 5), np.int64), OBLIQUE)
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_dtype() == np.uint8
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "stored"),
    [([True, False], np.uint8), ([0, 300], np.int32), ([-1, 2], np.int32), ([0.5, 1.0], np.float32)],
)
def test_voxel_type_on_disk_follows_the_values(tmp_path: Path, values: list[float], stored: type) -> None:
    write_volume(tmp_path / "a.nii", np.array(values * 4).reshape(2, 2, 2), np.eye(4))
    assert nib.load(tmp_path / "a.nii").get_data_dtype() == stored


def test_the_same_volume_gives_the_same_bytes_under_any_name(tmp_path: Path, array: np.ndarray) -> None:
    write_volume(tmp_path / "a.nii.gz", array, OBLIQUE)
    write_volume(tmp_path / "other.nii.gz", array, OBLIQUE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()
    assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == bytes(4)  # gzip's time stamp
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "other.nii.gz"]


def test_only_3d_arrays_are_written_and_only_as_nifti(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"a\.nrrd: volumes are written as NIfTI"):
        write_volume(tmp_path / "a.nrrd", np.zeros((2, 2, 2)), np.eye(4))
    with pytest.raises(CrossmodaError, match=r"\(X, Y, Z\) is needed"):
        write_volume(tmp_path / "a.nii", np.zeros((1, 2, 2, 2)), np.eye(4))


def test_nrrd_in_lps_space_gets_a_ras_affine(tmp_path: Path, array: np.ndarray) -> None:
    directions = np.array([[0.3, 0.4, 0], [-0.64, 0.48, 0], [0, 0, 2]])  # 0.5 x 0.8 x 2 mm, turned about z
    volume = read_volume(write_nrrd(tmp_path / "a.nrrd", array, "left-posterior-superior", directions, (10, 20, 30)))
    expected = np.array([[-0.3, 0.64, 0, -10], [-0.4, -0.48, 0, -20], [0, 0, 2, 30], [0, 0, 0, 1]])
    np.testing.assert_allclose(volume.affine, expected, atol=1e-6)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.spacing_mm, [0.5, 0.8, 2], atol=1e-6)


@pytest.mark.parametrize(
    ("space", "sign"), [("right-anterior-superior", (1, 1, 1)), ("left-anterior-superior", (-1, 1, 1))]
)
def test_nrrd_in_other_spaces_gets_a_ras_affine_too(
    tmp_path: Path, array: np.ndarray, space: str, sign: tuple[int, int, int]
) -> None:
    volume = read_volume(write_nrrd(tmp_path / "a.nrrd", array, space, np.diag([0.5, 0.8, 2.0]), (10, 20, 30)))
    expected = np.diag([*sign, 1]) @ np.array([[0.5, 0, 0, 10], [0, 0.8, 0, 20], [0, 0, 2, 30], [0, 0, 0, 1]])
    np.testing.assert_allclose(volume.affine, expected, atol=1e-6)


def test_a_trailing_axis_of_one_voxel_is_dropped(tmp_path: Path, array: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(array[..., None], OBLIQUE), tmp_path / "a.nii.gz")
    assert read_volume(tmp_path / "a.nii.gz").shape == (5, 4, 3)


def test_scaled_integers_are_read_as_the_values_they_stand_for(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, -1)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "a.nii").array.ravel(), 0.5 * np.arange(24) - 1)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4, 2)])
def test_2d_and_4d_files_are_refused_by_name(tmp_path: Path, shape: tuple[int, ...]) -> None:
    nib.save(nib.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)), tmp_path / "flat.nii.gz")
    with pytest.raises(CrossmodaError, match=r"flat\.nii\.gz: holds"):
        read_volume(tmp_path / "flat.nii.gz")


def test_damaged_empty_missing_and_foreign_files_are_told_apart(tmp_path: Path, array: np.ndarray) -> None:
    write_volume(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(20, 20, 20)), OBLIQUE)
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "plain.nii.gz").write_bytes(b"no volume at all")
    (tmp_path / "short.nii").write_bytes(gzip.decompress(whole)[:1000])
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "broken.nrrd").write_bytes(b"NRRD0004\ntype: float\n\n")
    for name in ("cut.nii.gz", "plain.nii.gz", "short.nii", "broken.nrrd"):
        with pytest.raises(CrossmodaError, match=f"{name}: truncated or damaged") as caught:
            read_volume(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(CrossmodaError, match="the file is empty"):
        read_volume(tmp_path / "empty.nii.gz")
    with pytest.raises(CrossmodaError, match="no such file"):
        read_volume(tmp_path / "absent.nii.gz")
    with pytest.raises(CrossmodaError, match="not a volume format"):
        read_volume(tmp_path / "a.txt")


def test_spacing_and_voxel_volume_of_an_oblique_grid() -> None:
    np.testing.assert_allclose(spacing_mm(OBLIQUE), [0.5, 0.4, 1.5])
    assert voxel_volume_mm3(OBLIQUE) == pytest.approx(0.5 * 0.4 * 1.5)


def test_grids_are_the_same_within_a_tolerance_at_the_farthest_corner(tmp_path: Path, array: np.ndarray) -> None:
    volume = Volume(array, OBLIQUE)
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 5e-4
    turned = OBLIQUE.copy()
    turned[0, 0] += 5e-4  # 2 micrometres at index 4
    assert same_grid(volume, Grid(array.shape, shifted))
    assert not same_grid(volume, Grid(array.shape, shifted), tolerance_mm=1e-4)
    assert not same_grid(volume, Grid(array.shape, turned))
    assert not same_grid(volume, Grid((5, 4, 4), OBLIQUE))
    write_volume(tmp_path / "a.nii.gz", array, OBLIQUE)
    assert same_grid(tmp_path / "a.nii.gz", volume)


def test_a_header_alone_gives_the_grid(tmp_path: Path, array: np.ndarray) -> None:
    write_volume(tmp_path / "a.nii.gz", array, OBLIQUE)
    grid = read_grid(tmp_path / "a.nii.gz")
    assert grid.shape == (5, 4, 3)
    np.testing.assert_allclose(grid.affine, OBLIQUE, atol=1e-6)


def test_real_nrrd_lies_where_its_header_says(real_data: Path) -> None:
    volume = read_volume(real_data / "brain1_ceT1.nrrd")
    assert volume.shape == (256, 256, 25)
    np.testing.assert_allclose(volume.spacing_mm, [0.78125, 0.78125, 6.5], atol=1e-4)
    directions = (real_data / "brain1_ceT1.nrrd").read_bytes().split(b"space directions: ")[1].split(b"\n")[0].decode()
    first = np.array([float(value) for value in directions.split(")")[0].strip(" (").split(",")])
    np.testing.assert_allclose(volume.affine[:3, 0], first * [-1, -1, 1], atol=1e-6)
