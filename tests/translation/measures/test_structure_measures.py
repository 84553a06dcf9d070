"""Contrast, edges and flicker of volumes that are known to the voxel."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.errors import CrossmodaError
from crossmoda.translation.measures.contrast import structure_contrasts
from crossmoda.translation.measures.edges import edge_survival, gradient_threshold, noise_deviation, outline_points
from crossmoda.translation.measures.flicker import brightness_flicker
from crossmoda.translation.measures.masks import StructureMasksd, named_masks, ring_about

SPACING_MM = (0.8, 1.2, 1.5)


def block(shape: tuple[int, ...] = (14, 12, 8), start: int = 4, stop: int = 7) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[start:stop, start:stop, 3:5] = True
    return mask


def disc(radius_mm: float, shape: tuple[int, ...] = (64, 48, 4)) -> np.ndarray:
    x, y, _ = np.meshgrid(*map(np.arange, shape), indexing="ij")
    return (0.8 * (x - 32)) ** 2 + (1.2 * (y - 24)) ** 2 < radius_mm**2


def label_map(values: list[float]) -> MetaTensor:
    return MetaTensor(torch.tensor(values).view(1, -1, 1, 1), meta={"filename_or_obj": "p_Label.nii.gz"})


def test_masks_are_found_by_name_and_the_vs_is_the_union_of_its_parts() -> None:
    item = {"structures": label_map([0, 1, 2, 3]), "labels": {"extra": 1, "intra": 2, "cochlea": 3}, "case": "p"}
    found = StructureMasksd("structures", ["vs", "cochlea", "intra"])(item)
    assert found["structures"].flatten(1).tolist() == [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert found["structures"].dtype == torch.int8
    assert set(found) == {"structures", "case"}


def test_a_structure_that_a_label_cannot_tell_or_does_not_hold_has_no_mask() -> None:
    item = {"structures": label_map([0, 1, 0]), "labels": {"vs": 1, "intra": 5}}
    masks = StructureMasksd("structures", ["vs", "cochlea", "intra"])(item)["structures"]
    assert masks.flatten(1).tolist() == [[0, 1, 0], [-1, -1, -1], [0, 0, 0]]
    assert list(named_masks(masks, ["vs", "cochlea", "intra"])) == ["vs"]
    assert StructureMasksd("structures", ["vs"])({"case": "p"}) == {"case": "p"}


def test_unknown_values_and_names_are_refused() -> None:
    with pytest.raises(CrossmodaError, match=r"p_Label\.nii\.gz: unknown label values \[7"):
        StructureMasksd("structures", ["cochlea"])({"structures": label_map([7]), "labels": {"vs": 1}})
    with pytest.raises(CrossmodaError, match="structures: 'tumour' is unknown; choose among vs"):
        StructureMasksd("structures", ["tumour"])


def test_a_ring_is_as_wide_in_mm_whatever_the_spacing() -> None:
    mask = np.zeros((15, 15, 9), bool)
    mask[7, 7, 4] = True
    ring = ring_about(mask, mask, np.array(SPACING_MM), 2.5)
    points = np.array(list(itertools.product(range(15), range(15), range(9)))).reshape(15, 15, 9, 3)
    distance = np.linalg.norm((points - [7, 7, 4]) * SPACING_MM, axis=-1)
    np.testing.assert_array_equal(ring, (distance <= 2.5) & (distance > 0))


def test_contrast_by_hand_and_rings_leave_other_structures_out() -> None:
    vs, cochlea = block(), np.zeros((14, 12, 8), bool)
    cochlea[7, 4:7, 3:5] = True  # touches the VS
    image = np.full(vs.shape, -0.2)
    image[vs], image[cochlea] = 0.4, 0.9
    image[11:] = 1.0  # beyond the VS's ring of 1.7 mm, 5 voxels away from it
    found = structure_contrasts(image, {"vs": vs, "cochlea": cochlea}, SPACING_MM, ring_mm=1.7)
    assert found == pytest.approx({"vs": (0.4 + 0.2) / 2, "cochlea": (0.9 + 0.2) / 2})
    assert structure_contrasts(image, {"all": np.ones(vs.shape, bool)}, SPACING_MM) == {}


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2)])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_border_with_an_edge_all_round_gives_one_whichever_side_is_brighter(axes: tuple[int, ...], sign: int) -> None:
    mask = disc(12).transpose(axes)
    spacing = np.array(SPACING_MM)[list(axes)]
    assert edge_survival(sign * np.where(mask, 0.3, -0.3), mask, spacing) == pytest.approx(1, abs=0.03)


def test_an_image_without_the_structure_gives_zero() -> None:
    mask = disc(12)
    noise = np.random.default_rng(0).normal(0, 0.1, mask.shape)
    ramp = np.broadcast_to(np.linspace(-0.9, 0.9, 64)[:, None, None], mask.shape)
    assert edge_survival(np.zeros(mask.shape), mask, SPACING_MM) == 0
    assert edge_survival(noise, mask, SPACING_MM) == pytest.approx(0, abs=0.05)
    assert edge_survival(ramp, mask, SPACING_MM) == pytest.approx(0, abs=0.05)  # normals run in all directions
    assert edge_survival(np.where(mask, 0.02, -0.02), mask, SPACING_MM) == 0  # a step of 0.04


def test_the_share_of_the_border_that_shows_counts() -> None:
    mask = disc(12)
    half = np.where(mask, 0.3, -0.3)
    half[:32] = 0.0
    half = half + np.random.default_rng(0).normal(0, 0.01, mask.shape)
    assert edge_survival(half, mask, SPACING_MM) == pytest.approx(0.5, abs=0.08)


def test_edges_that_cross_the_border_count_against_it() -> None:
    mask = np.zeros((40, 40, 1), bool)
    mask[:20] = True  # its border runs along y
    stripes = np.broadcast_to(0.5 * np.sin(np.arange(40) / 2)[None, :, None], mask.shape)
    assert edge_survival(stripes, mask, (1, 1, 1)) < -0.8


def test_a_blurred_edge_survives_less_and_a_shifted_one_too() -> None:
    from scipy.ndimage import gaussian_filter, shift

    mask = disc(6)
    sharp = np.where(mask, 0.12, -0.12) + np.random.default_rng(0).normal(0, 0.02, mask.shape)
    blurred = gaussian_filter(sharp, (6, 4, 0))
    found = [edge_survival(image, mask, SPACING_MM) for image in (sharp, blurred, shift(sharp, (8, 0, 0), order=0))]
    assert found[0] > 0.9
    assert found[1] < 0.6 * found[0]
    assert found[2] < 0.4 * found[0]


def test_masks_without_a_border_have_no_edge() -> None:
    image = np.zeros((12, 12, 3))
    assert edge_survival(image, np.zeros(image.shape, bool), SPACING_MM) is None
    assert edge_survival(image, np.ones(image.shape, bool), SPACING_MM) is None


def test_the_outline_of_a_rectangle_by_hand() -> None:
    mask = np.zeros((8, 9), bool)
    mask[2:5, 3:7] = True
    points, lengths_mm = outline_points(mask, np.array([0.5, 2.0]))
    # 3 x 4 voxels: sides of 2 and 3 between the outermost centres, cut corners of half a voxel along either axis
    assert lengths_mm.sum() == pytest.approx(2 * (2 * 0.5 + 3 * 2.0) + 4 * np.hypot(0.25, 1.0))
    assert points.min(axis=0) == pytest.approx([1.5, 2.5])
    assert points.max(axis=0) == pytest.approx([4.5, 6.5])


def test_the_edge_of_the_array_is_no_outline() -> None:
    mask = np.zeros((6, 5), bool)
    mask[:3] = True
    points, lengths_mm = outline_points(mask, np.array([1.0, 1.5]))
    assert set(points[:, 0]) == {2.5}
    assert lengths_mm.sum() == pytest.approx(4 * 1.5)


@pytest.mark.parametrize("deviation", [0.02, 0.1])
def test_noise_is_estimated_in_tissue_alone(deviation: float) -> None:
    image = np.where(disc(15, (64, 48, 6)), 0.3, -1.0)
    noisy = image + np.random.default_rng(0).normal(0, deviation, image.shape) * (image > -1)
    assert noise_deviation(noisy) == pytest.approx(deviation, rel=0.15)
    assert noise_deviation(np.full((4, 4, 2), -1.0)) == 0


def test_the_threshold_is_three_deviations_of_the_noises_gradient() -> None:
    from crossmoda.translation.measures.edges import _gradient

    noise = np.random.default_rng(0).normal(0, 0.3, (200, 200, 1))
    spacing = np.array([1.0, 1.0, 2.0])
    gradient = _gradient(noise[..., 0], spacing)[:, 10:-10, 10:-10]
    assert gradient_threshold(noise, spacing) == pytest.approx(3 * gradient.std(), rel=0.05)
    assert gradient_threshold(0 * noise, 2 * spacing) == pytest.approx(0.05 / (np.sqrt(2 * np.pi) * 2))


def test_flicker_by_hand() -> None:
    volume = np.zeros((4, 4, 9))
    volume[..., 4] = 0.3  # jumps of -0.15, 0.3 and -0.15
    expected = np.sqrt((0.15**2 + 0.3**2 + 0.15**2) / 3 / 1.5) / 2
    assert brightness_flicker(volume) == pytest.approx(expected)


def test_the_dark_ends_of_a_slab_do_not_flicker() -> None:
    volume = np.zeros((4, 4, 9))
    volume[..., [0, 1, 7, 8]] = [-0.8, -0.3, -0.2, -0.7]
    assert brightness_flicker(volume) == 0


def test_flicker_of_independent_offsets_is_their_deviation() -> None:
    offsets = np.random.default_rng(0).normal(0, 0.05, 4000)
    assert brightness_flicker(np.tile(offsets, (2, 2, 1))) == pytest.approx(0.05 / 2, rel=0.05)


def test_steady_change_along_z_noise_and_air_do_not_flicker() -> None:
    ramp = np.broadcast_to(np.linspace(-0.8, 0.8, 9), (40, 40, 9)).copy()
    assert brightness_flicker(ramp) == pytest.approx(0, abs=1e-12)
    assert brightness_flicker(ramp + np.random.default_rng(0).normal(0, 0.1, ramp.shape)) < 0.002
    ramp[:20] = -1.0
    ramp[:20, :, 4] = -0.95
    assert brightness_flicker(ramp) == pytest.approx(0, abs=1e-12)


def test_flicker_is_taken_on_the_foreground_that_is_given() -> None:
    volume = np.zeros((4, 4, 7))
    volume[0, :, 3] = 0.4
    foreground = np.zeros(volume.shape, bool)
    foreground[:2] = True
    assert brightness_flicker(volume, foreground) == pytest.approx(0.2 / np.sqrt(1.5) / 2)


def test_too_few_slices_have_no_flicker() -> None:
    assert brightness_flicker(np.zeros((4, 4, 6))) is None
    assert brightness_flicker(np.full((4, 4, 9), -1.0)) is None
