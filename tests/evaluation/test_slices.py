from __future__ import annotations

import base64
import io
import itertools

import numpy as np
import pytest
from nibabel.orientations import apply_orientation as reorient
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image

from crossmoda.data.volumes import Volume
from crossmoda.evaluation.report.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Window,
    grey_levels,
    grey_png,
    heat_png,
    outline,
    to_ras,
    window_about,
)

RAS = np.diag([0.5, 0.8, 1.5, 1.0])
SHAPE = (14, 11, 9)


def marked() -> np.ndarray:
    """A volume in RAS+ order with one voxel on the patient's right, anterior and superior."""
    array = np.zeros(SHAPE, dtype=np.float32)
    array[12, 9, 7] = 1
    return array


def stored_as(codes: str) -> Volume:
    transform = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    return Volume(reorient(marked(), transform), RAS @ inv_ornt_aff(transform, SHAPE))


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SAL", "ILA"])
def test_right_is_on_the_left_and_anterior_on_top_however_the_axes_are_stored(codes: str) -> None:
    volume = to_ras(stored_as(codes))
    picture = window_about(volume, AXIAL, (6.5, 5, 7), (100, 100)).cut(volume.array)
    assert picture.shape == (11, 14)
    assert np.argwhere(picture).tolist() == [[1, 1]]
    np.testing.assert_allclose(volume.affine, RAS)


def test_superior_is_on_top_of_coronal_slices() -> None:
    volume = to_ras(stored_as("LPI"))
    picture = window_about(volume, CORONAL, (6.5, 9, 4), (100, 100)).cut(volume.array)
    assert picture.shape == (9, 14)
    assert np.argwhere(picture).tolist() == [[1, 1]]


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAL"])
def test_anterior_is_on_the_left_of_sagittal_slices_and_superior_on_top(codes: str) -> None:
    volume = to_ras(stored_as(codes))
    window = window_about(volume, SAGITTAL, (12, 5, 4), (100, 100))
    picture = window.cut(volume.array)
    assert picture.shape == (9, 11)
    assert np.argwhere(picture).tolist() == [[1, 1]]
    assert window.spacing_mm == (0.8, 1.5)
    assert window_about(volume, SAGITTAL, (12, 5, 4), (2.4, 4.5)).columns == (4, 7)


def test_an_oblique_scan_is_shown_on_its_nearest_axes_without_resampling() -> None:
    angle = np.deg2rad(20)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0, 0], [np.sin(angle), np.cos(angle), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    stored = stored_as("LPS")
    volume = to_ras(Volume(stored.array, turn @ stored.affine))
    assert np.array_equal(volume.array, marked())


def test_a_window_keeps_its_size_by_moving_and_shrinks_only_when_the_scan_is_smaller() -> None:
    volume = Volume(marked(), RAS)
    window = window_about(volume, AXIAL, (0, 10, 3), (4.0, 100.0))
    assert (window.columns, window.rows, window.index) == ((0, 8), (0, 11), 3)
    assert window.size_mm == pytest.approx((4.0, 8.8))


def test_an_outline_is_in_millimetres_around_the_voxels() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[1, 2] = True
    path = outline(mask, Window(AXIAL, 0, (0, 5), (0, 4), (0.5, 2.0)))
    points = np.array([pair.split() for pair in path.strip("MZ").split("L")], dtype=float)
    assert path.count("M") == 1
    assert points.mean(axis=0) == pytest.approx([2.5 * 0.5, 1.5 * 2.0])
    assert np.ptp(points, axis=0) == pytest.approx([0.5, 2.0])


def test_an_outline_that_leaves_the_window_is_closed() -> None:
    path = outline(np.ones((3, 4), dtype=bool), Window(AXIAL, 0, (0, 4), (0, 3), (1.0, 1.0)))
    points = np.array([pair.split() for pair in path.strip("MZ").split("L")], dtype=float)
    assert (points.min(axis=0).tolist(), points.max(axis=0).tolist()) == ([0.0, 0.0], [4.0, 3.0])


def test_no_mask_has_no_outline() -> None:
    assert outline(np.zeros((3, 4), dtype=bool), Window(AXIAL, 0, (0, 4), (0, 3), (1.0, 1.0))) == ""


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_grey_levels_clip_and_survive_missing_and_constant_values() -> None:
    array = np.full((8, 8, 3), 7.0)
    assert grey_levels(array) == (7.0, 8.0)
    picture = np.array([[0.0, 5.0, 10.0], [np.nan, -3.0, 99.0]])
    assert decoded(grey_png(picture, (0.0, 10.0))).tolist() == [[0, 127, 255], [0, 0, 255]]


def test_heat_is_transparent_where_nothing_is_uncertain() -> None:
    alpha = decoded(heat_png(np.array([[0.0, 0.3, 1.0]])))[..., 3].tolist()[0]
    assert alpha[0] == 0
    assert all(a < b for a, b in itertools.pairwise(alpha))
