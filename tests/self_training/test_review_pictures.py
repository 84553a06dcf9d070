"""Pictures of scans under review: what is where, however the file stores its axes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image, ImageColor, ImageDraw, ImageFont

from crossmoda.data.volumes import write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.labels import COLOURS
from crossmoda.self_training.review_pictures import (
    EDGES,
    LETTER_PIXELS,
    PLANES,
    Grey,
    Scene,
    draw_slice,
    draw_wall_picture,
    read_scene,
)

SHAPE, SPACING = (40, 36, 14), (0.8, 1.0, 2.5)  # 32 mm to the right, 36 mm to anterior, 35 mm upwards
VALUES = {"vs": 1, "cochlea": 2}
VS, COCHLEA = (slice(28, 32), slice(5, 10), slice(3, 6)), (slice(6, 10), slice(20, 24), slice(3, 6))
STORED_AS = {"as RAS": ("RAS", 0), "flipped": ("LPS", 0), "sagittal slices": ("PIR", 0), "oblique": ("LAS", 20)}


def blocks(*structures: str) -> np.ndarray:
    """A label map in RAS order: the tumour on the patient's right, posterior; the cochlea on the left, anterior."""
    label = np.zeros(SHAPE, np.uint8)
    for name, block in (("vs", VS), ("cochlea", COCHLEA)):
        if name in structures:
            label[block] = VALUES[name]
    return label


def write(path: Path, array: np.ndarray, codes: str = "RAS", degrees: float = 0) -> Path:
    """Write an array given in RAS order with its axes stored otherwise, the patient turned about the long axis."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = -16, -18, -17.5
    turn = np.eye(4)
    angle = np.deg2rad(degrees)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    transform = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    write_volume(path, apply_orientation(array, transform), turn @ affine @ inv_ornt_aff(transform, array.shape))
    return path


def scene(
    folder: Path,
    codes: str = "RAS",
    degrees: float = 0,
    label: np.ndarray | None = None,
    scan: np.ndarray | None = None,
) -> Scene:
    scan = np.zeros(SHAPE, np.float32) if scan is None else scan
    label = blocks("vs", "cochlea") if label is None else label
    files = [
        write(folder / f"{name}.nii.gz", array, codes, degrees) for name, array in (("scan", scan), ("label", label))
    ]
    return read_scene(files[0], files[1], VALUES, "label")


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def box_of(picture: np.ndarray, structure: str) -> list[int]:
    """Return left, top, right, bottom of the pixels in a structure's colour."""
    near = np.abs(picture - ImageColor.getrgb(COLOURS[structure])).max(axis=-1) < 60
    rows, columns = np.nonzero(near)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize("stored", list(STORED_AS))
def test_contours_lie_where_the_structures_are_in_the_patient(tmp_path: Path, stored: str) -> None:
    case = scene(tmp_path, *STORED_AS[stored])
    axial, coronal, sagittal = (pixels(draw_slice(case, plane, case.middle(plane))) for plane in PLANES)
    assert [picture.shape[:2] for picture in (axial, coronal, sagittal)] == [(720, 640), (720, 658), (700, 720)]
    # 20 pixels a mm. The tumour's voxels 28 to 31 of 40 from the left are 8 to 11 of 40 from the right: 6.4 to 9.6 mm.
    assert box_of(axial, "vs") == pytest.approx([128, 520, 192, 620], abs=3)
    assert box_of(axial, "cochlea") == pytest.approx([480, 240, 544, 320], abs=3)
    per_mm = 720 / 35
    assert box_of(coronal, "vs") == pytest.approx(
        [6.4 * per_mm, 20 * per_mm, 9.6 * per_mm, 27.5 * per_mm], abs=3
    )  # slices 3 to 5 of 14 from below
    assert box_of(sagittal, "vs") == pytest.approx([520, 400, 620, 550], abs=3)


@pytest.mark.parametrize("stored", list(STORED_AS))
def test_the_letters_at_the_borders_name_the_side_on_which_a_structure_lies(tmp_path: Path, stored: str) -> None:
    picture = pixels(draw_slice(scene(tmp_path, *STORED_AS[stored], label=blocks("vs")), "axial", 4))
    left, top, right, bottom = box_of(picture, "vs")
    height, width = picture.shape[:2]
    assert EDGES["axial"] == "RLAP"
    assert (left + right) / 2 < width / 2  # on the patient's right, where the letter R is
    assert (top + bottom) / 2 > height / 2  # posterior, where the letter P is
    places = [(3, height / 2, "lm"), (width - 3, height / 2, "rm"), (width / 2, 3, "mt"), (width / 2, height - 3, "mb")]
    for letter, (x, y, anchor) in zip("RLAP", places, strict=True):
        expected = Image.new("RGB", (width, height))
        font = ImageFont.load_default(LETTER_PIXELS["slice"])
        pen = ImageDraw.Draw(expected)
        pen.text((x, y), letter, fill="#ffe08a", font=font, anchor=anchor, stroke_width=1, stroke_fill="black")
        box = expected.getbbox()
        assert box is not None
        part = slice(box[1], box[3]), slice(box[0], box[2])
        np.testing.assert_array_equal(picture[part], np.asarray(expected)[part])


def test_contours_can_be_left_out(tmp_path: Path) -> None:
    case = scene(tmp_path)
    picture = pixels(draw_slice(case, "axial", 4, contours=False))
    assert np.ptp(picture[100:-100, 100:-100], axis=-1).max() == 0  # grey only
    assert np.ptp(pixels(draw_slice(case, "axial", 4))[100:-100, 100:-100], axis=-1).max() > 0


def test_the_window_says_what_is_black_and_white() -> None:
    values = np.array([0.0, 50, 100, 200, np.nan])
    normal = (0.0, 200.0)
    assert Grey().shade(values, normal).tolist() == [0, 64, 128, 255, 0]
    assert Grey(level=25, width=50).shade(values, normal).tolist() == [0, 128, 255, 255, 0]
    assert Grey(level=50, width=200).shade(values, normal).tolist() == [64, 96, 128, 191, 64]


def test_a_slice_that_is_not_there_is_refused(tmp_path: Path) -> None:
    case = scene(tmp_path)
    for index in (-1, 14):
        with pytest.raises(CrossmodaError, match="this scan has slices 0 to 13"):
            draw_slice(case, "axial", index)
    assert draw_slice(case, "sagittal", 39)[:4] == b"\x89PNG"


def test_the_tumour_is_shown_first_then_the_cochlea_then_the_middle_of_the_head(tmp_path: Path) -> None:
    head = np.zeros(SHAPE, np.float32)
    head[4:20, 10:30, 2:8] = 100  # its middle lies at (11.5, 19.5, 4.5)
    assert scene(tmp_path).centre == (30, 7, 3)
    assert scene(tmp_path, label=blocks("cochlea")).centre == (8, 22, 3)
    assert scene(tmp_path, label=blocks(), scan=head).centre == pytest.approx((11.5, 19.5, 4.5), abs=0.5)
    assert read_scene(tmp_path / "scan.nii.gz", None, {}, "label").masks == {}
    assert scene(tmp_path, label=blocks()).centre == pytest.approx((19.5, 17.5, 6.5), abs=0.5)  # nothing to see at all


def test_the_wall_shows_the_tumour_in_three_planes_at_one_scale(tmp_path: Path) -> None:
    picture = pixels(draw_wall_picture(scene(tmp_path, "LPS", 20)))
    assert picture.shape[:2] == (240, 480)
    boxes = [box_of(part, "vs") for part in (picture[:, :240], picture[:120, 240:], picture[120:, 240:])]
    # 2.5 pixels a mm: 3.2 mm to the right, 5 mm to anterior, 7.5 mm upwards
    sizes = [(right - left, bottom - top) for left, top, right, bottom in boxes]
    for size, expected in zip(sizes, [(8, 12.5), (8, 18.75), (12.5, 18.75)], strict=True):
        assert size == pytest.approx(expected, abs=2.5)


def test_a_label_on_another_grid_is_refused(tmp_path: Path) -> None:
    image = write(tmp_path / "scan.nii.gz", np.zeros(SHAPE, np.float32))
    label = write(tmp_path / "label.nii.gz", np.zeros((40, 36, 13), np.uint8))
    with pytest.raises(CrossmodaError, match="label of 'x': its grid of 40x36x13"):
        read_scene(image, label, VALUES, "label of 'x'")


def test_a_damaged_scan_is_refused_by_its_name_alone(tmp_path: Path) -> None:
    image = tmp_path / "scan.nii.gz"
    image.write_bytes(b"no scan")
    with pytest.raises(CrossmodaError, match=r"^scan\.nii\.gz: truncated or damaged"):
        read_scene(image, None, {}, "label")
