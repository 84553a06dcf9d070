"""A structure's border found by the image's contrast, on bright balls in dark surroundings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from crossmoda.segmentation.contrast import refine_by_contrast

SPACING_MM = (0.5, 0.8, 1.5)
SHAPE = (60, 40, 20)
SETTINGS: dict[str, Any] = {"distance_mm": 1.6, "context_mm": 3.0, "threshold_share": 0.5, "closing_mm": 1.0}


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


@pytest.mark.parametrize("image", [np.full(SHAPE, 3.0, np.float32), scan((ball((15, 16, 15), 2.5), 60))])
def test_without_contrast_or_where_the_volume_would_more_than_halve_the_label_stays(image: np.ndarray) -> None:
    label = ball((15, 16, 15), 4.0)
    np.testing.assert_array_equal(refine(label, image), label)


def test_a_structure_at_the_images_edge_keeps_its_border_there() -> None:
    truth = ball((0, 16, 15), 4.0)
    assert dice(refine(ball((0, 16, 15), 4.8), scan((truth, 60))), truth) > 0.98


def test_nothing_found_stays_nothing() -> None:
    assert not refine(np.zeros(SHAPE, bool), scan()).any()
