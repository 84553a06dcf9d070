"""Tests of patches rendered from tissue maps: where things come to lie, and what they shine like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import zoom

from crossmoda.data.teacher import RandTissuePatchd
from crossmoda.data.teacher.acquisition import add_noise, grains, with_ghost
from crossmoda.data.teacher.clutter import add_clutter, add_outer_layer, move_fluid
from crossmoda.data.teacher.contrast import Contrast, draw_contrast, expected_statistics
from crossmoda.data.teacher.patches import HEALTHY_CANAL
from crossmoda.data.teacher.tissue_maps import TISSUE_NAMES
from crossmoda.data.volumes import write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.preprocessing.space import working_space

STILL: dict[str, Any] = {"rotate_deg": (0, 0, 0), "scale": 0.0, "shear": 0.0, "bend_mm": 0.0}
SHAPE, SPACING_MM = (60, 50, 16), (0.5, 0.8, 2.0)


def case_of(folder: Path, boxes: dict[str, tuple[slice, slice, slice]]) -> dict[str, Any]:
    """Return a case of white matter with boxes of tumour and cochlea (fluid) in it, on an anisotropic grid."""
    voxels = np.zeros((4, *SHAPE), np.uint8)
    voxels[0] = voxels[1] = TISSUE_NAMES.index("white")
    voxels[2] = 255
    tissues = {"intra": "tumour_dense", "extra": "tumour_loose", "cochlea": "perilymph"}
    for number, (name, tissue) in enumerate(tissues.items(), 1):
        if name in boxes:
            voxels[3][boxes[name]] = number
            voxels[0][boxes[name]] = TISSUE_NAMES.index(tissue)
    np.save(folder / "one.npy", voxels)
    centres = {"vs": np.argwhere(np.isin(voxels[3], (1, 2))).tolist(), "cochlea": np.argwhere(voxels[3] == 3).tolist()}
    counts = np.bincount(voxels[0].ravel(), minlength=len(TISSUE_NAMES)).tolist()
    return {"tissue_map": str(folder / "one.npy"), "affine": np.diag([*SPACING_MM, 1.0]).tolist(), "shape": list(SHAPE),
            "counts": counts, "centres": centres, "case": "one"}  # fmt: skip


BOXES = {
    "extra": (slice(20, 32), slice(20, 30), slice(5, 9)),  # 6 x 8 x 8 mm
    "intra": (slice(32, 40), slice(20, 30), slice(5, 9)),  # beside it, further to the right
    "cochlea": (slice(44, 50), slice(36, 41), slice(7, 9)),  # 3 x 4 x 4 mm, in front and to the right
}


def drawn(transform: RandTissuePatchd, case: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return what a seed makes of a case."""
    transform.set_random_state(seed)
    return {key: np.asarray(value) for key, value in transform(dict(case)).items()}


@pytest.mark.parametrize("seed", range(6))
def test_sizes_and_places_in_mm_are_kept(tmp_path: Path, seed: int) -> None:
    transform = RandTissuePatchd(
        ["intra", "extra", "cochlea"], (72, 64, 32), (1.0, 1.0, 1.0), {"vs": 1}, narrow_share=0, **STILL
    )
    label = drawn(transform, case_of(tmp_path, BOXES), seed)["label"][0]
    volumes = [(label == number).sum() for number in (1, 2, 3)]
    np.testing.assert_allclose(volumes, [4 * 8 * 8, 6 * 8 * 8, 3 * 4 * 4], rtol=0.25)
    intra, extra, cochlea = (np.argwhere(label == number).mean(0) for number in (1, 2, 3))
    towards = intra - extra
    np.testing.assert_allclose(np.abs(towards), [5, 0, 0], atol=0.7)  # the middles lie 5 mm apart, along x alone
    across = (cochlea - intra) * [
        np.sign(towards[0]),
        1,
        1,
    ]  # mirrored or not, the cochlea lies beyond the intra-meatal part
    np.testing.assert_allclose(across, [5.5, 10.8, 2], atol=0.9)


def test_left_and_right_are_exchanged_in_half_of_the_draws_and_nothing_else_is(tmp_path: Path) -> None:
    transform = RandTissuePatchd(
        ["intra", "extra", "cochlea"], (72, 64, 32), (1.0, 1.0, 1.0), {"vs": 1}, narrow_share=0, **STILL
    )
    case = case_of(tmp_path, BOXES)
    signs = []
    for seed in range(24):
        label = drawn(transform, case, seed)["label"][0]
        signs.append(np.sign((np.argwhere(label == 1).mean(0) - np.argwhere(label == 2).mean(0))[0]))
        assert np.argwhere(label == 3).mean(0)[1] > np.argwhere(label == 1).mean(0)[1]
    assert 5 <= sum(sign > 0 for sign in signs) <= 19


def test_image_label_and_tissue_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signal = np.full(len(TISSUE_NAMES), 100.0, np.float32)
    for name in ("tumour_dense", "tumour_loose"):
        signal[TISSUE_NAMES.index(name)] = 400
    signal[TISSUE_NAMES.index("perilymph")] = 900
    contrast = Contrast(signal, np.zeros_like(signal))
    monkeypatch.setattr("crossmoda.data.teacher.patches.draw_contrast", lambda rng, *shares: contrast)
    monkeypatch.setattr("crossmoda.data.teacher.patches.draw_acquisition", lambda image, *rest: image)
    transform = RandTissuePatchd(
        ["vs", "cochlea"], (64, 56, 20), (0.6, 0.6, 1.5), {"vs": 1}, narrow_share=0, layers=False
    )
    case = case_of(tmp_path, BOXES)
    _, mean, deviation = expected_statistics(contrast, np.array(case["counts"]))
    found = drawn(transform, case, 3)
    image, label, tissue = found["image"][0] * deviation + mean, found["label"][0], found["tissue"][0]
    assert image.dtype == np.float32
    assert label.dtype == np.uint8
    bright = image > 650  # half-way from tumour to fluid
    assert (label[bright] == 2).all()
    assert bright[label == 2].mean() > 0.5
    assert ((image > 250) & (image < 650))[label == 1].mean() > 0.9
    assert (tissue[label == 1] == 5).mean() > 0.8  # the group named tumour


def test_a_patch_is_what_the_working_space_makes_of_the_rendered_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = {"white": 300, "tumour_dense": 500, "tumour_loose": 600, "perilymph": 1000}
    signal = np.array([levels.get(name, 0) for name in TISSUE_NAMES], np.float32)
    contrast = Contrast(signal, np.zeros_like(signal))
    monkeypatch.setattr("crossmoda.data.teacher.patches.draw_contrast", lambda rng, *shares: contrast)
    monkeypatch.setattr("crossmoda.data.teacher.patches.draw_acquisition", lambda image, *rest: image)
    case = case_of(tmp_path, BOXES)
    voxels = np.load(case["tissue_map"])
    voxels[0][:5] = TISSUE_NAMES.index("air")  # the head ends within the scan
    np.save(case["tissue_map"], voxels)
    counts = np.bincount(voxels[0].ravel(), minlength=len(TISSUE_NAMES))
    spacing, size = (1.0, 1.0, 1.0), (64, 96, 64)  # twice the scan: all of it lies in the patch, wherever its middle is
    transform = RandTissuePatchd(
        ["vs", "cochlea"], size, spacing, {"vs": 1}, narrow_share=0, clutter=False, layers=False, **STILL
    )
    drawn_patch = drawn(transform, {**case, "counts": counts.tolist()}, 2)

    write_volume(tmp_path / "scan.nii.gz", signal[voxels[0]], np.array(case["affine"]))
    write_volume(tmp_path / "label.nii.gz", np.array([0, 1, 1, 2], np.uint8)[voxels[3]], np.array(case["affine"]))
    files = {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "label.nii.gz")}
    from_file = working_space("image", "label", spacing, size)(files)
    patch, scan = ({key: np.asarray(item[key])[0] for key in files} for item in (drawn_patch, from_file))
    for number in (1, 2):
        volumes = [(found["label"] == number).sum() for found in (patch, scan)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.15)  # linear in the one, nearest in the other
    for brightness in (np.min, np.max, lambda image: np.median(image[image > image.min() + 0.1])):
        assert brightness(patch["image"]) == pytest.approx(brightness(scan["image"]), rel=0.03, abs=0.05)
    of_tumour = [np.mean(found["image"][found["label"] == 1]) for found in (patch, scan)]
    assert of_tumour[0] == pytest.approx(of_tumour[1], rel=0.06)  # its border is drawn half a voxel farther out


def test_outside_the_scan_is_its_minimum_and_background(tmp_path: Path) -> None:
    transform = RandTissuePatchd(
        ["vs", "cochlea"], (96, 80, 32), (0.6, 0.6, 1.5), {"anywhere": 1}, narrow_share=0, **STILL
    )
    case = case_of(tmp_path, BOXES)  # 30 x 40 x 32 mm: the patch, 58 x 48 x 48 mm, reaches beyond
    found = drawn(transform, case, 1)
    values, often = np.unique(found["image"][0], return_counts=True)  # noise never gives one value twice
    outside = found["image"][0] == values[often.argmax()]
    assert 0.4 < outside.mean() < 0.9
    assert not found["label"][0][outside].any()
    assert not found["tissue"][0][outside].any()


def test_half_of_a_patch_s_width_lies_in_the_scan(tmp_path: Path) -> None:
    transform = RandTissuePatchd(
        ["vs"], (40, 40, 16), (0.6, 0.6, 1.5), {"anywhere": 1}, faults=False, narrow_share=0, **STILL
    )
    case = case_of(tmp_path, BOXES)  # 30 x 40 x 32 mm; the patch is 24 x 24 x 24 mm
    inside = np.array([(drawn(transform, case, seed)["tissue"][0] > 0).any(axis=(1, 2)).mean() for seed in range(30)])
    assert inside.min() >= 0.47  # a voxel of 0.6 mm at each border
    assert inside.min() < 0.7  # edges are learnt too


def test_a_patch_lies_about_the_place_that_is_wanted_or_the_nearest_to_it(tmp_path: Path) -> None:
    case = case_of(tmp_path, BOXES)
    case["centres"][HEALTHY_CANAL] = [[5, 45, 12]]
    size: dict[str, Any] = {"patch_size": (40, 40, 16), "spacing_mm": (0.6, 0.6, 1.5)}

    def middles(place: str, **centres: list[list[int]]) -> np.ndarray:
        transform = RandTissuePatchd(["vs"], ratios={place: 1}, **size, **STILL)
        rng = np.random.default_rng(0)
        return np.array([transform._middle({**case["centres"], **centres}, SHAPE, rng) for _ in range(20)])

    assert (middles("healthy_canal") == [5, 45, 12]).all()
    assert (middles("vs", vs=[]) == [5, 45, 12]).all()  # a healthy patient
    where = middles("vs").T.astype(int)
    assert np.isin(np.load(case["tissue_map"])[3][tuple(where)], (1, 2)).all()
    assert len(np.unique(middles("vs", vs=[], healthy_canal=[]), axis=0)) == 20
    with pytest.raises(CrossmodaError, match="ratios: 'canal' is no place in a tissue map; give some of anywhere"):
        RandTissuePatchd(["vs"], ratios={"canal": 1}, **size)
    with pytest.raises(CrossmodaError, match="give numbers from 0 up"):
        RandTissuePatchd(["vs"], ratios={"vs": 0}, **size)


def test_a_narrow_scan_shows_a_box_of_its_map(tmp_path: Path) -> None:
    transform = RandTissuePatchd(["vs"], (20, 20, 8), (0.6, 0.6, 1.5), {"vs": 1}, narrow_share=1, **STILL)
    for seed in range(8):
        shown = drawn(transform, case_of(tmp_path, BOXES), seed)["tissue"][0] > 0
        box = np.argwhere(shown)
        widths = box.max(0) - box.min(0) + 1
        assert shown.sum() == widths.prod()  # the patch of 12 mm lies in the scan, so that the box alone cuts it
        assert (widths >= np.array([7, 7, 3])).all()  # a third of 20, 20 and 8
        assert (widths <= np.array([20, 20, 8])).all()


def test_a_seed_gives_the_same_patch_and_another_seed_another_contrast(tmp_path: Path) -> None:
    transform = RandTissuePatchd(["vs", "cochlea"], (32, 32, 16), (0.6, 0.6, 1.5))
    case = case_of(tmp_path, BOXES)
    first, again, other = (drawn(transform, case, seed)["image"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_an_unknown_structure_is_refused() -> None:
    with pytest.raises(CrossmodaError, match="structure 'nerve': tissue maps hold vs, cochlea, intra, extra"):
        RandTissuePatchd(["vs", "nerve"], (8, 8, 8), (1, 1, 1))


def test_statistics_are_those_of_the_foreground() -> None:
    signal = np.zeros(len(TISSUE_NAMES), np.float32)
    signal[:3] = [0.0, 10.0, 30.0]
    counts = np.zeros(len(TISSUE_NAMES), int)
    counts[:3] = [500, 30, 10]
    lowest, mean, deviation = expected_statistics(Contrast(signal, np.zeros_like(signal)), counts)
    assert (lowest, mean) == (0.0, 15.0)  # (30 * 10 + 10 * 30) / 40; what is dark does not count
    assert deviation == pytest.approx(np.sqrt((30 * 25 + 10 * 225) / 40))


def test_fluid_is_brighter_than_brain_under_every_sequence_and_not_under_every_other_contrast() -> None:
    fluid, brain = TISSUE_NAMES.index("csf"), TISSUE_NAMES.index("white")
    by_rule = [draw_contrast(np.random.default_rng(seed), 0.0).signal for seed in range(60)]
    without = [draw_contrast(np.random.default_rng(seed), 1.0).signal for seed in range(60)]
    assert all(signal[fluid] > 1.3 * signal[brain] for signal in by_rule)
    assert 15 < sum(signal[fluid] > signal[brain] for signal in without) < 45


def test_gadolinium_makes_tumour_blood_and_dura_brighter_and_leaves_fluid_and_brain() -> None:
    def ratios(agent_share: float) -> dict[str, float]:
        drawn = [draw_contrast(np.random.default_rng(seed), 0.0, agent_share, 0.0).signal for seed in range(1000)]
        of = {name: np.array([signal[TISSUE_NAMES.index(name)] for signal in drawn]) for name in TISSUE_NAMES}
        return {name: float(np.median(values / of["white"])) for name, values in of.items()}

    before, after = ratios(0.0), ratios(1.0)
    for name in ("tumour_dense", "tumour_loose", "vein", "artery", "dura", "mucosa"):
        assert after[name] > 1.2 * before[name]
    for name in ("grey", "csf", "perilymph", "cyst"):
        assert after[name] == pytest.approx(before[name], rel=0.2)


def test_clutter_changes_bone_and_leaves_brain_fluid_and_tumour_alone() -> None:
    names = ["bone", "white", "csf", "tumour_dense"]
    first = np.repeat(np.array([TISSUE_NAMES.index(name) for name in names], np.uint8), 20)[:, None, None]
    first = np.broadcast_to(first, (80, 24, 12))
    share = np.ones(first.shape, np.float32)
    contrast = draw_contrast(np.random.default_rng(0), 0.0)
    plain = contrast.signal[first]
    changed = []
    for seed in range(12):
        found = add_clutter(
            plain, share, first, first, contrast, np.array([0.8, 0.8, 1.5]), np.random.default_rng(seed)
        )
        np.testing.assert_array_equal(found[20:], plain[20:])
        assert 0 <= found.min() <= found.max() <= contrast.signal.max()
        changed.append((found[:20] != plain[:20]).mean())
    assert sum(share == 0 for share in changed) < 8  # one draw of three has no layer, and a zone may miss the region
    assert 0.1 < np.mean(changed) < 0.6


def test_clutter_fills_the_part_of_a_voxel_that_is_bone() -> None:
    bone, fluid = (np.full((16, 16, 8), TISSUE_NAMES.index(name), np.uint8) for name in ("bone", "csf"))
    contrast = draw_contrast(np.random.default_rng(1), 0.0)
    signal = np.full(bone.shape, 10.0, np.float32)
    quarter = np.full(bone.shape, 0.25, np.float32)
    whole = np.ones(bone.shape, np.float32)
    for seed in range(8):
        part = add_clutter(signal, quarter, bone, fluid, contrast, np.ones(3), np.random.default_rng(seed))
        rest = add_clutter(signal, 1 - quarter, fluid, bone, contrast, np.ones(3), np.random.default_rng(seed))
        np.testing.assert_allclose(part, rest, rtol=1e-6)  # whichever of the two comes first
        if (part != signal).any():
            full = add_clutter(signal, whole, bone, fluid, contrast, np.ones(3), np.random.default_rng(seed))
            assert np.abs(part - signal).max() < np.abs(full - signal).max()


def test_moving_fluid_loses_signal_in_half_of_the_scans_and_all_else_keeps_it() -> None:
    names = ["csf", "perilymph", "white", "tumour_dense"]
    first = np.repeat(np.array([TISSUE_NAMES.index(name) for name in names], np.uint8), 20)[:, None, None]
    first = np.broadcast_to(first, (80, 24, 12))
    signal, whole = np.full(first.shape, 10.0, np.float32), np.ones(first.shape, np.float32)
    moved = []
    for seed in range(60):
        found = move_fluid(signal, whole, first, first, np.array([0.8, 0.8, 1.5]), np.random.default_rng(seed))
        np.testing.assert_array_equal(found[20:], signal[20:])  # the cochlea's fluid does not pulse
        assert 1.0 - 1e-5 <= found.min() <= found.max() <= 10.0  # nine tenths at most
        moved.append((found[:20] < 10).mean())
    assert 15 < sum(share > 0 for share in moved) < 40
    assert 0.1 < np.mean([share for share in moved if share > 0]) < 0.7


def test_moving_fluid_loses_as_much_as_it_fills_of_a_voxel() -> None:
    fluid, brain = (np.full((16, 16, 8), TISSUE_NAMES.index(name), np.uint8) for name in ("csf", "white"))
    signal = np.full(fluid.shape, 10.0, np.float32)
    quarter, whole = np.full(fluid.shape, 0.25, np.float32), np.ones(fluid.shape, np.float32)
    for seed in range(8):
        full = move_fluid(signal, whole, fluid, brain, np.ones(3), np.random.default_rng(seed))
        for share, first, second in ((quarter, fluid, brain), (1 - quarter, brain, fluid)):
            part = move_fluid(signal, share, first, second, np.ones(3), np.random.default_rng(seed))
            np.testing.assert_allclose(10 - part, (10 - full) / 4, atol=1e-4)


def test_a_tumour_s_outer_layer_differs_and_nothing_else_does() -> None:
    tumour = np.zeros((40, 36, 20), bool)
    tumour[10:30, 8:28, 5:15] = True
    spacing, signal = np.array([0.5, 0.5, 1.0]), np.full(tumour.shape, 200.0, np.float32)
    found = [add_outer_layer(signal, tumour, spacing, np.random.default_rng(seed)) for seed in range(200)]
    changed = [one for one in found if not np.array_equal(one, signal)]
    assert 50 <= len(changed) <= 110  # of two fifths
    for one in changed:
        assert (one[~tumour] == 200).all()
        assert one[20, 18, 10] == pytest.approx(200)  # 5 mm deep
        assert one.dtype == np.float32
        edge = one[10, 18, 10]
        assert 55 < edge < 245
        profile = one[10:20, 18, 10] if edge < 200 else 400 - one[10:20, 18, 10]
        assert (np.diff(profile) >= -1e-3).all()  # fades inwards
    darker = np.mean([one[10, 18, 10] < 200 for one in changed])
    assert darker > 0.7
    assert np.array_equal(add_outer_layer(signal, np.zeros_like(tumour), spacing, np.random.default_rng(3)), signal)


def test_grains_have_unit_variance_and_a_ghost_is_a_shifted_copy() -> None:
    field = grains((40, 40, 20), np.array([0.5, 0.5, 1.0]), np.random.default_rng(1))
    assert field.shape == (40, 40, 20)
    fields = [grains((40, 40, 20), np.array([0.5, 0.5, 1.0]), np.random.default_rng(seed)) for seed in range(40)]
    assert np.mean(np.square(fields)) == pytest.approx(1.0, rel=0.05)
    rng = np.random.default_rng(1)
    size = float(np.exp(rng.uniform(*np.log((0.5, 5.0)))))
    nodes = [int(np.ceil(voxels * step / size)) for voxels, step in zip((40, 40, 20), (0.5, 0.5, 1.0), strict=True)]
    coarse = rng.standard_normal(nodes, np.float32)
    by_scipy = zoom(coarse, np.divide((40, 40, 20), nodes), order=1, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(field / field.max(), by_scipy / by_scipy.max(), atol=1e-4)
    image = np.zeros((10, 4, 2), np.float32)
    image[1, 2, 1] = 1
    ghosted = with_ghost(image, 0, 0.25, 0.5)
    assert ghosted[1, 2, 1] == 1
    assert ghosted[6, 2, 1] == 0.25
    assert ghosted.sum() == 1.25


@pytest.mark.parametrize("size", [0.0, 0.8])
def test_noise_has_the_deviation_asked_for_and_is_alike_in_neighbours_where_it_is_coarse(size: float) -> None:
    noisy = add_noise(np.full((60, 60, 12), 100.0, np.float32), 4.0, size, np.random.default_rng(0))
    assert noisy.std() == pytest.approx(4.0, rel=0.05)
    assert noisy.mean() == pytest.approx(100.0, abs=0.3)
    left, right = noisy[:-1].ravel() - noisy.mean(), noisy[1:].ravel() - noisy.mean()
    alike = np.corrcoef(left, right)[0, 1]
    expected = np.exp(-1 / (4 * size**2)) if size else 0.0  # of white noise through a Gaussian
    assert alike == pytest.approx(expected, abs=0.06)
    between_slices = np.corrcoef(noisy[..., :-1].ravel(), noisy[..., 1:].ravel())[0, 1]
    assert abs(between_slices) < 0.03
