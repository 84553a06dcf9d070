from __future__ import annotations

import numpy as np
import pytest
from medpy.metric import binary
from scipy import ndimage

from crossmoda.evaluation.metrics import boundary_scores, dice, structure_scores

SPACING_MM = (0.41, 0.6, 1.5)


def blob(seed: int, shape: tuple[int, ...] = (31, 24, 17)) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return smooth > np.quantile(smooth, 0.85)


def box(
    corner: tuple[int, int, int], size: tuple[int, int, int], shape: tuple[int, int, int] = (20, 16, 12)
) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_all_metrics_equal_medpy_on_random_blobs_with_anisotropic_voxels(seed: int) -> None:
    prediction, truth = blob(seed), blob(seed + 100)
    scores = structure_scores(prediction, truth, SPACING_MM)
    directed = [binary.asd(a, b, SPACING_MM) for a, b in ((prediction, truth), (truth, prediction))]
    assert scores["dice"] == pytest.approx(binary.dc(prediction, truth), abs=1e-6)
    assert scores["assd"] == pytest.approx(binary.assd(prediction, truth, SPACING_MM), abs=1e-6)
    assert scores["hd95"] == pytest.approx(binary.hd95(prediction, truth, SPACING_MM), abs=1e-6)
    assert scores["assd_2022"] == pytest.approx(np.mean(directed), abs=1e-6)


def test_masks_that_touch_the_edge_of_the_array_have_their_surface_there_as_in_medpy() -> None:
    prediction, truth = box((0, 0, 0), (7, 6, 5)), box((13, 10, 7), (7, 6, 5))
    scores = structure_scores(prediction, truth, SPACING_MM)
    assert scores["assd"] == pytest.approx(binary.assd(prediction, truth, SPACING_MM), abs=1e-6)


def anywhere(name: str, shape: tuple[int, int, int] = (9, 8, 7)) -> np.ndarray:
    """A mask that surfaces may be got wrong on."""
    mask = np.zeros(shape, dtype=bool)
    if name == "one voxel":
        mask[4, 4, 3] = True
    elif name == "a corner":
        mask[0, 0, 0] = True
    elif name == "a face":
        mask[:, :, -1] = True
    elif name == "everything":
        mask[:] = True
    elif name == "scattered":
        mask |= np.random.default_rng(5).random(shape) < 0.1
    elif name == "a box with a hole":
        mask[2:7, 2:7, 1:6], mask[4, 4, 3] = True, False
    return mask


ANYWHERE = ("one voxel", "a corner", "a face", "everything", "scattered", "a box with a hole")


def plain_distances(prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Distances from each surface to the other by the formula: erosion with six neighbours, distance transform."""
    six = ndimage.generate_binary_structure(3, 1)
    first, second = (mask & ~ndimage.binary_erosion(mask, six) for mask in (prediction, truth))
    maps = (ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in (second, first))
    return np.concatenate([distances[surface] for distances, surface in zip(maps, (first, second), strict=True)])


@pytest.mark.parametrize("spacing_mm", [(0.41, 0.6, 1.5), (0.8, 0.35, 3.5)])
@pytest.mark.parametrize("truth", ANYWHERE)
@pytest.mark.parametrize("prediction", ANYWHERE)
def test_distances_equal_the_plain_formula_to_a_millionth_of_a_millimetre(
    prediction: str, truth: str, spacing_mm: tuple[float, ...]
) -> None:
    masks = anywhere(prediction), anywhere(truth)
    scores, distances = structure_scores(*masks, spacing_mm), plain_distances(*masks, spacing_mm)
    assert scores["assd"] == pytest.approx(distances.mean(), abs=1e-6)
    assert scores["hd95"] == pytest.approx(np.percentile(distances, 95), abs=1e-6)


def test_the_order_of_the_voxels_in_memory_changes_nothing() -> None:
    prediction, truth = blob(4), blob(104)
    scores = structure_scores(prediction, truth, SPACING_MM)
    assert structure_scores(np.asfortranarray(prediction), truth, SPACING_MM) == scores


def test_single_voxels_three_apart_along_z_are_three_spacings_apart() -> None:
    scores = structure_scores(box((4, 4, 2), (1, 1, 1)), box((4, 4, 5), (1, 1, 1)), SPACING_MM)
    assert (scores["dice"], scores["assd"], scores["hd95"]) == (0.0, pytest.approx(4.5), pytest.approx(4.5))


def test_a_box_shifted_by_half_its_length_has_a_dice_of_one_half() -> None:
    scores = structure_scores(box((2, 2, 2), (4, 3, 3)), box((4, 2, 2), (4, 3, 3)), SPACING_MM)
    assert scores["dice"] == pytest.approx(0.5)
    assert scores["volume_mm3"] == pytest.approx(36 * 0.41 * 0.6 * 1.5)


def test_pooled_and_directed_averages_differ_when_one_surface_is_larger() -> None:
    # one voxel against a bar of three voxels along x, starting at that voxel: distances 0 and 0, 1, 2 mm
    scores = structure_scores(box((4, 4, 4), (1, 1, 1)), box((4, 4, 4), (3, 1, 1)), (1, 1, 1))
    assert scores["assd"] == pytest.approx(3 / 4)
    assert scores["assd_2022"] == pytest.approx((0 + 1) / 2)


@pytest.mark.parametrize("swap", [False, True], ids=["prediction empty", "truth empty"])
def test_one_empty_mask_scores_zero_dice_and_the_challenges_350_mm(swap: bool) -> None:
    pair = [np.zeros((20, 16, 12), dtype=bool), box((2, 2, 2), (3, 3, 3))]
    scores = structure_scores(*(pair[::-1] if swap else pair), SPACING_MM)
    assert [scores[key] for key in ("dice", "assd", "assd_2022", "hd95")] == [0.0, 350.0, 350.0, 350.0]


def test_nothing_to_find_and_nothing_found_is_perfect() -> None:
    empty = np.zeros((5, 6, 7), dtype=bool)
    scores = structure_scores(empty, empty, SPACING_MM)
    assert [scores[key] for key in ("dice", "assd", "hd95")] == [1.0, 0.0, 0.0]
    assert dice(empty, empty) == binary.dc(empty, empty)


def test_the_boundary_is_where_the_two_parts_touch() -> None:
    # the plane between the parts moves from x = 8|9 to x = 10|11, so the nearest interface voxel is 2 voxels away or 1
    intra, extra = box((4, 4, 4), (5, 4, 3)), box((9, 4, 4), (6, 4, 3))
    moved = box((4, 4, 4), (7, 4, 3)), box((11, 4, 4), (4, 4, 3))
    scores = boundary_scores(moved, (intra, extra), (0.5, 1.0, 1.0))
    assert scores["assd"] == pytest.approx((0.5 + 1.0) / 2)
    assert boundary_scores((intra, extra), (extra, intra), (0.5, 1.0, 1.0))["assd"] == 0.0


def test_parts_that_do_not_touch_have_no_boundary_and_cost_350_mm() -> None:
    apart = box((2, 2, 2), (3, 3, 3)), box((10, 2, 2), (3, 3, 3))
    touching = box((2, 2, 2), (3, 3, 3)), box((5, 2, 2), (3, 3, 3))
    assert boundary_scores(apart, touching, SPACING_MM)["assd"] == 350.0


def test_the_masks_are_left_as_they_were() -> None:
    prediction, truth = blob(1), blob(2)
    copies = prediction.copy(), truth.copy()
    structure_scores(prediction, truth, SPACING_MM)
    assert np.array_equal(prediction, copies[0])
    assert np.array_equal(truth, copies[1])
