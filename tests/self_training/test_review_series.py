"""Series of DICOM slices, read as volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_support import save_slices, slices_of
from pydicom.uid import RLELossless

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review_series import order_series, read_series

TURN = np.deg2rad(20)
AFFINES = {
    "axial": np.array([[-0.5, 0, 0, 40], [0, -0.7, 0, 30], [0, 0, 1.5, -9], [0, 0, 0, 1.0]]),
    "from head to feet": np.array([[-0.5, 0, 0, 40], [0, -0.7, 0, 30], [0, 0, -1.5, 12], [0, 0, 0, 1.0]]),
    "oblique": np.array(
        [
            [-0.5, 0, 0, 31],
            [0, -0.7 * np.cos(TURN), -1.5 * np.sin(TURN), 25],
            [0, -0.7 * np.sin(TURN), 1.5 * np.cos(TURN), -7],
            [0, 0, 0, 1.0],
        ]
    ),
    "coronal": np.array([[-0.5, 0, 0, 31], [0, 0, 1.5, -20], [0, -0.7, 0, 18], [0, 0, 0, 1.0]]),
}


def scan() -> np.ndarray:
    """A scan (9, 7, 5) in which every voxel has another value."""
    return np.arange(9 * 7 * 5, dtype=np.int16).reshape(9, 7, 5)


def slices(affine: np.ndarray = AFFINES["oblique"], **changes: Any) -> list[Any]:
    return slices_of(scan(), affine, "1.2.3.4", "1.2.3", **changes)


@pytest.mark.parametrize("name", AFFINES)
def test_every_voxel_lies_where_the_headers_say(tmp_path: Path, name: str) -> None:
    affine = AFFINES[name]
    volume = read_series(save_slices(slices(affine), tmp_path))
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    backwards = affine[:3, 2] @ normal < 0  # slices come in the direction of the planes' normal, a right-handed grid
    expected = scan()[:, :, ::-1] if backwards else scan()
    first = affine @ [0, 0, 4 if backwards else 0, 1]
    np.testing.assert_array_equal(volume.array, expected)
    np.testing.assert_allclose(volume.affine[:, 3], first, atol=1e-4)
    np.testing.assert_allclose(volume.affine[:, 2], affine[:, 2] * (-1 if backwards else 1), atol=1e-4)
    np.testing.assert_allclose(volume.affine[:, :2], affine[:, :2], atol=1e-6)


def test_each_slice_is_scaled_as_it_says_itself(tmp_path: Path) -> None:
    headers = slices()
    for header in headers:
        header.RescaleSlope, header.RescaleIntercept = str(header.InstanceNumber), "-3"
    order = order_series(headers).headers
    factors = np.array([float(header.InstanceNumber) for header in order])
    volume = read_series(save_slices(headers, tmp_path))
    np.testing.assert_allclose(volume.array, scan() * factors - 3)


def test_compressed_slices_are_read(tmp_path: Path) -> None:
    headers = slices()
    for header in headers:
        header.compress(RLELossless)
    np.testing.assert_array_equal(read_series(save_slices(headers, tmp_path)).array, scan())


def without(keyword: str) -> list[Any]:
    headers = slices()
    delattr(headers[2], keyword)
    return headers


def turned() -> list[Any]:
    headers = slices()
    headers[1].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    return headers


def shifted() -> list[Any]:
    headers = slices(AFFINES["axial"])
    for place, header in enumerate(order_series(headers).headers):
        header.ImagePositionPatient[1] += 0.2 * place
    return headers


def repeated() -> list[Any]:
    headers = slices()
    headers[1].ImagePositionPatient = headers[0].ImagePositionPatient
    return headers


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "no instances"),
        (without("ImagePositionPatient"), "lacks ImagePositionPatient"),
        (order_series(slices()).headers[:2] + order_series(slices()).headers[3:], "1.50 to 3.00 mm apart"),
        (slices()[:1], "a single slice"),
        (turned(), "several orientations"),
        (shifted(), "shifted against each other"),
        (repeated(), "at the same place"),
        (slices(NumberOfFrames=5), "multi-frame"),
        (slices(SamplesPerPixel=3), "colour"),
        (slices(ImageOrientationPatient=[1, 0, 0, 0.5, 0.5, 0]), "right angles"),
    ],
)
def test_what_makes_no_volume_is_refused_with_the_reason(headers: list[Any], reason: str) -> None:
    with pytest.raises(CrossmodaError, match=reason):
        order_series(headers)


@pytest.mark.parametrize("end", [100, -40], ids=["in its preamble", "in its voxels"])
def test_a_slice_that_is_cut_off_is_refused(tmp_path: Path, end: int) -> None:
    files = save_slices(slices(), tmp_path)
    files[3].write_bytes(files[3].read_bytes()[:end])
    with pytest.raises(CrossmodaError, match="cut off"):
        read_series(files)
