"""A structure's border found by the image's contrast, on bright balls in dark surroundings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from crossmoda.segmentation.contrast import refine_by_contrast, without_fluid

SPACING_MM = (0.5, 0.8, 1.5)
SHAPE = (60, 40, 20)
SETTINGS: dict[str, Any] = {
    "shift_mm": 0.0,
    "distance_mm": 1.6,
    "context_mm": 3.0,
    "threshold_share": 0.5,
    "closing_mm": 1.0,
}


def ball(centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """Return a ball about a point, mm from the first voxel's centre, bool ``SHAPE``."""
    axes = [np.arange(n) * size - at for n, size, at in zip(SHAPE, SPACING_MM, centre_mm, strict=True)]
    squares = [axis**2 for axis in axes]
    return squares[0][:, None, None] + squares[1][None, :, None] + squares[2] <= radius_mm**2


def scan(*bright: tuple[np.ndarray, float], dark: float = 10.0) -> np.ndarray:
    image = np.random.default_rng(0).normal(dark, 1.0, SHAPE).astype(np.float32)
    for mask, signal in bright:
        image[mask] += signal
    return image


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def refine(mask: np.ndarray, image: np.ndarray, **changes: Any) -> np.ndarray:
    allowed = changes.pop("allowed", np.ones(SHAPE, bool))
    return refine_by_contrast(mask, image, SPACING_MM, allowed, **{**SETTINGS, **changes})


@pytest.mark.parametrize("radius_mm", [3.5, 4.8])
def test_a_label_too_small_or_too_large_comes_to_the_bright_ball(radius_mm: float) -> None:
    truth = ball((15, 16, 15), 4.0)
    found = refine(ball((15, 16, 15), radius_mm), scan((truth, 60)))
    assert dice(found, truth) > 0.99


def test_a_label_that_lies_beside_its_structure_moves_onto_it() -> None:
    truth, label = ball((15, 16, 15), 4.0), ball((16, 16.8, 15), 4.0)
    found = refine(label, scan((truth, 60)))
    assert dice(label, truth) < 0.85
    assert dice(found, truth) > 0.98


def test_a_label_a_whole_voxel_off_is_first_moved_back_along_every_axis() -> None:
    truth = ball((15, 16, 15), 4.0)
    for axis, size in enumerate(SPACING_MM):
        centre = np.array([15.0, 16.0, 15.0])
        centre[axis] += size
        label = ball(tuple(centre), 4.0)
        assert dice(label, truth) < 0.93
        moved = refine(label, scan((truth, 60)), shift_mm=1.6, distance_mm=0.01, closing_mm=0.01)
        np.testing.assert_array_equal(moved, truth)


def test_a_label_is_not_moved_farther_than_allowed() -> None:
    truth, label = ball((15, 16, 15), 3.0), ball((17, 16, 15), 3.0)  # 4 voxels of 0.5 mm beside it
    settings = {"distance_mm": 0.01, "closing_mm": 0.01}
    near, far = (refine(label, scan((truth, 60)), shift_mm=reach, **settings) for reach in (1.0, 2.0))
    np.testing.assert_array_equal(far, truth)
    np.testing.assert_array_equal(near, ball((16, 16, 15), 3.0) & truth)  # moved by 1.0, and what is dark left out


def test_a_label_is_not_moved_onto_a_brighter_structure_beside_its_own() -> None:
    truth, canal = ball((15, 16, 15), 3.0), ball((22, 16, 15), 3.0)
    label = ball((15.5, 16, 15), 3.0)
    found = refine(label, scan((truth, 60), (canal, 300)), shift_mm=1.6, distance_mm=0.8)
    assert dice(found, truth) > 0.98


def test_a_label_stays_inside_the_volume_when_it_is_moved() -> None:
    truth = ball((1.0, 16, 15), 3.0)  # cut by the volume's edge
    label = ball((1.5, 16, 15), 3.0)
    found = refine(label, scan((truth, 60)), shift_mm=1.6)
    assert dice(found, truth) > 0.97


def test_a_label_is_not_moved_onto_another_structure() -> None:
    truth, other = ball((15, 16, 15), 3.0), ball((15, 20.5, 15), 2.0)
    label = ball((15, 16.8, 15), 3.0) & ~other
    found = refine(label, scan((truth, 60), (other, 60)), shift_mm=1.6, allowed=~other)
    assert not (found & other).any()
    assert dice(found, truth & ~other) > 0.95


def test_a_single_voxel_between_others_stays() -> None:
    label = np.zeros(SHAPE, bool)
    label[30, 20, 10] = True
    found = refine(label, scan((ball((16, 16, 15), 1.0), 60)), shift_mm=1.6, allowed=np.zeros(SHAPE, bool))
    np.testing.assert_array_equal(found, label)


def test_a_move_of_exactly_the_allowed_length_is_made() -> None:
    truth, label = ball((15, 16, 15), 3.0), ball((15, 18.4, 15), 3.0)  # 3 voxels of 0.8 mm
    found = refine(label, scan((truth, 60)), shift_mm=2.4, distance_mm=0.01, closing_mm=0.01)
    np.testing.assert_array_equal(found, truth)


def test_slices_thicker_than_the_allowed_length_are_not_crossed() -> None:
    truth, label = ball((15, 16, 15), 3.2), ball((15, 16, 16.5), 3.2)  # slices 8 to 12, and 9 to 13
    found = refine(label, scan((truth, 60)), shift_mm=1.3, distance_mm=0.01, closing_mm=0.01)
    assert truth[:, :, 8].any()
    assert not found[:, :, 8].any()
    assert refine(label, scan((truth, 60)), shift_mm=1.5)[:, :, 8].any()


def test_scale_and_offset_of_the_signal_do_not_matter() -> None:
    truth, label = ball((15, 16, 15), 4.0), ball((15, 16, 15), 4.8)
    image = scan((truth, 60))
    np.testing.assert_array_equal(refine(label, image), refine(label, image * 0.01 - 7))


def test_what_is_bright_farther_away_is_not_taken() -> None:
    label, beyond = ball((15, 16, 15), 6.0), ball((15, 16, 15), 7.5)
    found = refine(label, scan((beyond, 60)), distance_mm=0.8, closing_mm=0.1)
    outside = ndimage.distance_transform_edt(~label, sampling=SPACING_MM)
    np.testing.assert_array_equal(found, outside <= 0.8)


def test_a_dark_core_as_of_the_modiolus_is_closed() -> None:
    truth, core = ball((15, 16, 15), 4.0), ball((15, 16, 15), 0.9)
    image = scan((truth & ~core, 60))
    assert (refine(truth, image) & core).sum() == core.sum()
    assert not (refine(truth, image, closing_mm=0.1) & core).any()


def test_each_side_has_a_threshold_of_its_own() -> None:
    left, right = ball((7, 16, 15), 3.5), ball((22, 16, 15), 3.5)
    found = refine(left | right, scan((left, 200), (right, 20)))
    assert dice(found, left | right) > 0.99


def test_voxels_of_another_structure_are_not_taken() -> None:
    truth = ball((15, 16, 15), 4.0)
    other = truth & (np.arange(SHAPE[0])[:, None, None] > 35)
    found = refine(ball((15, 16, 15), 3.0) & ~other, scan((truth, 60)), allowed=~other)
    assert not (found & other).any()


@pytest.mark.parametrize("image", [np.full(SHAPE, 0.1, np.float32), scan((ball((15, 16, 15), 2.5), 60))])
def test_without_contrast_or_where_the_volume_would_more_than_halve_the_label_stays(image: np.ndarray) -> None:
    label = ball((15, 16, 15), 4.0)
    np.testing.assert_array_equal(refine(label, image), label)
    np.testing.assert_array_equal(refine(label, image, shift_mm=1.3), label)


def test_a_structure_at_the_images_edge_keeps_its_border_there() -> None:
    truth = ball((0, 16, 15), 4.0)
    assert dice(refine(ball((0, 16, 15), 4.8), scan((truth, 60))), truth) > 0.98


def test_nothing_found_stays_nothing() -> None:
    assert not refine(np.zeros(SHAPE, bool), scan()).any()


FLUID_SETTINGS: dict[str, Any] = {
    "threshold_share": 0.3,
    "least_contrast": 0.2,
    "least_separation": 2.5,
    "small_ml": 0.0,
    "smoothing_mm": 0.3,
    "opening_mm": 0.9,
}


def fluid_scan(tumour: np.ndarray, signal: float) -> np.ndarray:
    """Return bone of 10 with a cistern of 100, in which a tumour of this signal lies."""
    cistern = np.zeros(SHAPE, bool)
    cistern[:, 8:34, :] = True
    image = scan((cistern, 90))
    image[tumour] += signal - 100
    return image


COCHLEA = ball((1, 16, 15), 1.5)  # on the low side of the first axis, where the canals of these tumours lead


def trim(mask: np.ndarray, image: np.ndarray, origin: np.ndarray = COCHLEA, **changes: Any) -> np.ndarray:
    return without_fluid(mask, image, SPACING_MM, origin, **{**FLUID_SETTINGS, **changes})


@pytest.mark.parametrize("signal", [25, 45, 70])
def test_fluid_counted_in_is_taken_away_from_a_darker_tumour(signal: float) -> None:
    tumour = ball((15, 16, 15), 5.0)
    label = ball((15, 16, 15), 6.2)
    assert dice(label, tumour) < 0.7
    found = trim(label, fluid_scan(tumour, signal))
    assert dice(found, tumour) > 0.97
    assert not (found & ~label).any()


def test_a_tumour_as_bright_as_fluid_is_left_alone() -> None:
    tumour, label = ball((15, 16, 15), 5.0), ball((15, 16, 15), 6.2)
    image = fluid_scan(tumour, 90)
    np.testing.assert_array_equal(trim(label, image), label)
    assert trim(label, image, least_contrast=0.05).sum() < label.sum()


def test_brain_beyond_the_cleft_is_taken_away_though_it_is_as_dark_as_the_tumour() -> None:
    beyond = np.arange(SHAPE[0])[:, None, None] * SPACING_MM[0] > 14
    tumour, brain = ball((12, 16, 15), 5.0), ball((12, 16, 15), 9.0) & ~ball((12, 16, 15), 6.2) & beyond
    label = tumour | ball((12, 16, 15), 8.5) & beyond
    assert (label & brain).sum() > 0.8 * tumour.sum()
    image = fluid_scan(tumour | brain, 40)
    found = trim(label, image)
    assert (found & tumour).sum() > 0.97 * tumour.sum()
    assert (found & brain).sum() == 0
    # Where the cleft is bridged, sight still ends at it, but for what lies behind the bridge.
    bridge = ball((12, 16, 15), 6.2) & beyond & (np.arange(SHAPE[1])[None, :, None] > 24)
    bridged = trim(label, fluid_scan(tumour | brain | bridge, 40))
    assert (bridged & tumour).sum() > 0.97 * tumour.sum()
    assert (bridged & brain).sum() < 0.1 * brain.sum()


def test_the_same_brain_stays_where_nothing_tells_on_which_side_the_canal_is() -> None:
    beyond = np.arange(SHAPE[0])[:, None, None] * SPACING_MM[0] > 14
    tumour, brain = ball((12, 16, 15), 5.0), ball((12, 16, 15), 9.0) & ~ball((12, 16, 15), 6.2) & beyond
    bridge = ball((12, 16, 15), 6.2) & beyond & (np.arange(SHAPE[1])[None, :, None] > 23)
    label = tumour | ball((12, 16, 15), 8.5) & beyond
    image = fluid_scan(tumour | brain | bridge, 40)
    nowhere = np.zeros(SHAPE, bool)
    assert (trim(label, image, nowhere) & brain).sum() > (trim(label, image) & brain).sum()


def canal(offset_mm: float) -> np.ndarray:
    """Return a canal of radius 2.4 mm from the low side of the first axis to a ball at (18, 16, 15), off its middle."""
    axes = [np.arange(n) * size for n, size in zip(SHAPE, SPACING_MM, strict=True)]
    inside = (axes[1][None, :, None] - 16 - offset_mm) ** 2 + (axes[2][None, None, :] - 15) ** 2 <= 2.4**2
    return inside & ((axes[0] > 4) & (axes[0] < 18))[:, None, None]


@pytest.mark.parametrize("offset_mm", [0.0, 2.5, 4.0])
def test_a_right_label_keeps_its_canal_part_also_round_a_corner(offset_mm: float) -> None:
    tumour = ball((18, 16, 15), 6.0) | canal(offset_mm)
    label = tumour | ball((19, 16, 15), 6.2)
    found = trim(label, fluid_scan(tumour, 40))
    in_canal = canal(offset_mm) & ~ball((18, 16, 15), 7.0)
    assert (found & in_canal).sum() > 0.85 * in_canal.sum()
    assert dice(found, tumour) > 0.95


def test_a_tumour_cut_by_the_volumes_edge_is_trimmed_as_well() -> None:
    tumour, label = ball((28, 16, 15), 5.0), ball((28, 16, 15), 6.2)
    found = trim(label, fluid_scan(tumour, 40))
    assert dice(found, tumour) > 0.95


def test_a_label_that_holds_no_fluid_is_not_touched() -> None:
    tumour = ball((15, 16, 15), 5.0) | ball((20.5, 16, 15), 0.9)  # with a thin tip, which opening would take
    np.testing.assert_array_equal(trim(tumour, fluid_scan(tumour, 40), smoothing_mm=0.01), tumour)


def test_a_mixed_tumour_is_left_alone_unless_it_is_small() -> None:
    label, tumour = ball((15, 16, 15), 5.0), ball((13.5, 16, 15), 3.5)
    image = fluid_scan(tumour, 40)
    np.testing.assert_array_equal(trim(label, image), label)
    small = trim(label, image, small_ml=1.0)  # the label holds 0.52 mL
    assert dice(small, tumour & label) > 0.9


def test_a_cyst_within_the_tumour_stays() -> None:
    tumour, cyst = ball((15, 16, 15), 5.0), ball((15, 16, 15), 1.5)
    image = fluid_scan(tumour & ~cyst, 40)
    assert (trim(ball((15, 16, 15), 6.2), image) & cyst).sum() == cyst.sum()


def test_a_second_dark_patch_and_a_thin_bridge_are_taken_away() -> None:
    tumour, other = ball((12, 16, 15), 5.0), ball((25, 16, 15), 2.0)
    bridge = np.zeros(SHAPE, bool)
    bridge[24:50, 20, 10] = True
    dark = tumour | other | bridge
    found = trim(dark | ball((20, 16, 15), 3.0), fluid_scan(dark, 40))
    assert dice(found, tumour) > 0.97
    assert not (found & other).any()


def test_scale_and_offset_do_not_move_the_tumours_border() -> None:
    tumour, label = ball((15, 16, 15), 5.0), ball((15, 16, 15), 6.2)
    image = fluid_scan(tumour, 40)
    np.testing.assert_array_equal(trim(label, image), trim(label, image * 0.02 - 3))


def test_a_label_of_fluid_with_a_dark_speck_in_its_middle_is_left_as_it_is() -> None:
    label, speck = ball((15, 16, 15), 6.0), ball((15, 16, 15), 3.0)
    image = fluid_scan(speck, 40)
    assert speck.sum() < 0.25 * label.sum()
    assert trim(label, image, small_ml=1.0).sum() == label.sum()
    np.testing.assert_array_equal(trim(label, image), label)


def test_no_tumour_stays_none() -> None:
    nothing = np.zeros(SHAPE, bool)
    assert not trim(nothing, fluid_scan(nothing, 40)).any()
