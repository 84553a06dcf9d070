import json
from dataclasses import replace

import numpy as np
import pytest

from crossmoda.data.phantom import draw_grid, draw_patient, draw_protocol, rasterise, render, scan
from crossmoda.data.phantom.acquisition import (
    add_rician_noise,
    bias_field,
    mixed_signal,
    slab_profile,
    tissue_signals,
)
from crossmoda.data.phantom.canvas import Canvas
from crossmoda.data.phantom.ear import cochlea, draw_ear
from crossmoda.data.phantom.frame import Frame
from crossmoda.data.phantom.tumour import KOOS_VOLUME_ML, draw_tumour, measured_ml

SPACING = (0.8, 0.9, 1.5)
SHAPE = (132, 70, 36)


def patient_grid(patient, flip=(1, 1, 1)):
    middle = patient.frame.to_scanner(np.array([[0.0], [-3.0], [1.0]]))[:, 0]
    linear = np.diag(np.multiply(SPACING, flip))
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = middle - linear @ ((np.array(SHAPE) - 1) / 2)
    return affine


@pytest.fixture(scope="module")
def patient():
    return draw_patient(np.random.default_rng(5), koos=3)


@pytest.fixture(scope="module")
def anatomy(patient):
    return rasterise(patient, SHAPE, patient_grid(patient))


def test_fractions_sum_to_one_and_stay_between_zero_and_one(anatomy):
    np.testing.assert_allclose(sum(anatomy.fractions.values()), 1, atol=1e-5)
    assert min(f.min() for f in anatomy.fractions.values()) >= 0


def test_every_tissue_of_the_posterior_fossa_is_there(anatomy):
    for tissue in (
        "bone",
        "csf",
        "white",
        "grey",
        "nerve",
        "dura",
        "artery",
        "vein",
        "perilymph",
        "tumour_dense",
        "fat",
    ):
        assert anatomy.fractions[tissue].max() > 0.3, tissue


def test_intra_and_extra_are_the_whole_tumour_without_overlap(anatomy):
    labels = anatomy.labels
    assert np.array_equal(labels["intra"] | labels["extra"], labels["vs"])
    assert not (labels["intra"] & labels["extra"]).any()
    assert labels["intra"].any()
    assert labels["extra"].sum() > labels["intra"].sum()


def test_tumour_and_cochleae_do_not_overlap(anatomy):
    assert not (anatomy.labels["vs"] & anatomy.labels["cochlea"]).any()


def test_one_cochlea_lies_on_each_side_about_70_mm_apart(patient, anatomy):
    index = np.argwhere(anatomy.labels["cochlea"])
    x = index[:, 0] * SPACING[0]
    left, right = x[x < x.mean()], x[x > x.mean()]
    assert 58 < right.mean() - left.mean() < 80
    assert min(len(left), len(right)) > 0.3 * len(x)


def test_flipping_the_axes_mirrors_fractions_and_labels(patient, anatomy):
    flipped = rasterise(patient, SHAPE, patient_grid(patient, (-1, -1, 1)))
    for name, mask in anatomy.labels.items():
        assert np.array_equal(flipped.labels[name][::-1, ::-1], mask), name
    np.testing.assert_allclose(flipped.fractions["csf"][::-1, ::-1], anatomy.fractions["csf"], atol=2e-3)


def test_an_oblique_grid_holds_the_same_tumour_volume(patient, anatomy):
    turned = replace(patient, angles_deg=tuple(a + d for a, d in zip(patient.angles_deg, (12, -8, 20), strict=True)))
    other = rasterise(turned, SHAPE, patient_grid(turned))
    assert other.labels["vs"].sum() == pytest.approx(anatomy.labels["vs"].sum(), rel=0.05)


@pytest.mark.parametrize("spacing", [(0.41, 0.41, 1.5), (0.8, 0.8, 1.0), (1.0, 1.0, 1.5)])
def test_a_cochlea_has_the_volume_that_was_drawn_for_it(spacing):
    one = draw_ear(-1, np.random.default_rng(2))
    spiral = cochlea(one)
    low, high = spiral.box
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = low - 2
    canvas = Canvas(np.ceil((high - low + 4) / spacing).astype(int), affine, Frame((0, 0, 0), (0, 0, 0), (1, 1, 1)))
    mask = canvas.whole(canvas.cover(spiral.whole, spiral.box, 0.4)) >= 0.5
    assert mask.sum() * np.prod(spacing) == pytest.approx(one.cochlea_mm3, rel=0.08)


def test_cochlear_volumes_are_those_of_the_challenge():
    rng = np.random.default_rng(0)
    volumes = [draw_ear(1, rng).cochlea_mm3 for _ in range(300)]
    assert np.mean(volumes) == pytest.approx(92, abs=3)
    assert 8 < np.std(volumes) < 14


@pytest.mark.parametrize("koos", [1, 2, 3, 4])
def test_tumours_have_the_volume_of_their_grade(koos):
    _, _, least, most = KOOS_VOLUME_ML[koos]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        one = draw_ear(1, rng)
        tumour = draw_tumour(one, koos, rng)
        assert least <= tumour.volume_ml <= most
        assert measured_ml(tumour, one) == pytest.approx(tumour.volume_ml, rel=0.35 if koos == 1 else 0.08)


def test_tumour_volumes_spread_as_the_challenges_do():
    rng = np.random.default_rng(1)
    volumes = [draw_patient(rng).tumour.volume_ml for _ in range(150)]
    assert 0.05 <= min(volumes) < 0.3
    assert 6 < max(volumes) <= 27
    assert 0.8 < np.median(volumes) < 2.2


def test_a_grade_one_tumour_stays_in_the_canal():
    patient = draw_patient(np.random.default_rng(3), koos=1)
    labels = rasterise(patient, SHAPE, patient_grid(patient)).labels
    assert labels["intra"].any()
    assert labels["extra"].sum() <= 0.03 * labels["intra"].sum()


def test_a_large_tumour_pushes_the_brainstem_away():
    patient = draw_patient(np.random.default_rng(4), koos=4)
    affine = patient_grid(patient)
    pushed = Canvas(SHAPE, affine, patient.frame)
    tumour = patient.tumour
    inner = np.array([tumour.side * (tumour.centre[0] - 1.3 * tumour.radii[0]), tumour.centre[1], tumour.centre[2]])
    index = np.rint(np.linalg.solve(affine[:3, :3], patient.frame.to_scanner(inner[:, None])[:, 0] - affine[:3, 3]))
    at = tuple(index.astype(int))
    # The tissue that is now beside the tumour came from further out towards the tumour's middle.
    assert abs(pushed.soft[0][at]) > abs(pushed.rigid[0][at]) + 0.5


def test_koos_grades_other_than_one_to_four_are_refused():
    with pytest.raises(ValueError, match="koos must be 1, 2, 3, 4 or None, got 5"):
        draw_patient(np.random.default_rng(0), koos=5)


def test_a_patient_is_plain_json_and_repeats_with_the_seed(patient):
    text = json.dumps(patient.as_json())
    assert text == json.dumps(draw_patient(np.random.default_rng(5), koos=3).as_json())
    assert text != json.dumps(draw_patient(np.random.default_rng(6), koos=3).as_json())


@pytest.mark.parametrize("site", ["ldn", "etz", "ukm"])
def test_one_patient_renders_as_cet1_with_bright_tumour_and_as_hrt2_with_bright_fluid(site, patient, anatomy):
    tumour, fluid = anatomy.labels["vs"], anatomy.fractions["csf"] > 0.95
    images = {}
    for modality in ("ceT1", "hrT2"):
        protocol = draw_protocol(site, modality, np.random.default_rng(1))
        images[modality] = render(anatomy, protocol, np.random.default_rng(2))
    assert np.median(images["ceT1"][tumour]) > 2 * np.median(images["ceT1"][fluid])
    assert np.median(images["hrT2"][fluid]) > 1.2 * np.median(images["hrT2"][tumour])
    assert images["ceT1"].min() >= 0


def test_the_cochlea_is_dark_on_cet1_and_bright_on_hrt2(anatomy):
    cochlea_mask, brain = anatomy.labels["cochlea"], anatomy.fractions["white"] > 0.95
    cet1 = mixed_signal(anatomy, draw_protocol("ldn", "ceT1", np.random.default_rng(0)))
    hrt2 = mixed_signal(anatomy, draw_protocol("ldn", "hrT2", np.random.default_rng(0)))
    assert np.median(cet1[cochlea_mask]) < 0.6 * np.median(cet1[brain])
    assert np.median(hrt2[cochlea_mask]) > 1.3 * np.median(hrt2[brain])


def test_sites_differ_in_contrast(anatomy):
    ratio = {}
    for site in ("ldn", "etz"):
        signals = tissue_signals(anatomy, draw_protocol(site, "hrT2", np.random.default_rng(0)))
        ratio[site] = signals["fat"] / signals["csf"]
    assert ratio["ldn"] > 1.5 * ratio["etz"]  # fat is bright on CISS, dim on heavily T2-weighted TSE


def test_rician_noise_has_the_rayleigh_mean_where_there_is_no_signal():
    noisy = add_rician_noise(np.zeros((40, 50, 30), np.float32), 2.0, np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)


def test_bias_field_is_smooth_positive_and_flat_without_amplitude():
    field = bias_field((20, 30, 10), 0.2, np.random.default_rng(0))
    assert field.min() > 0
    assert np.abs(np.diff(field, axis=0)).max() < 0.15
    assert np.all(bias_field((5, 6, 7), 0.0, np.random.default_rng(0)) == 1)


def test_slab_profile_is_one_inside_and_falls_at_its_ends():
    profile = slab_profile(40, 1.5, np.random.default_rng(0))
    assert np.all(profile[5:-5] == 1)
    assert profile[0] < 1
    assert profile[-1] < 1


def test_slabs_give_the_same_scan_as_the_whole_volume_at_once(patient, monkeypatch):
    import crossmoda.data.phantom.scanner as module

    protocol = draw_protocol("etz", "hrT2", np.random.default_rng(0))
    grid = draw_grid(patient, protocol, np.random.default_rng(1), (80, 50, 12), coarsen=3)
    whole = scan(patient, protocol, grid, np.random.default_rng(2))
    monkeypatch.setattr(module, "SLAB_VOXELS", 5 * grid.shape[0] * grid.shape[1])
    pieces = scan(patient, protocol, grid, np.random.default_rng(2))
    np.testing.assert_allclose(pieces.image, whole.image, atol=0.02 * whole.image.max())
    assert all((pieces.labels[n] != whole.labels[n]).mean() < 1e-3 for n in whole.labels)


def test_the_grid_has_the_sites_spacing_field_and_voxel_order(patient):
    protocol = draw_protocol("ldn", "ceT1", np.random.default_rng(0))
    grid = draw_grid(patient, protocol, np.random.default_rng(0), (100, 60, 45), coarsen=2)
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    assert spacing[:2] == pytest.approx([0.8203125, 0.8203125])
    np.testing.assert_allclose(np.array(grid.shape) * spacing, [100, 60, 45], atol=1.5)
    assert grid.affine[0, 0] < 0  # LPS on disk, as the challenge's London files
    assert grid.affine[1, 1] < 0
    assert draw_grid(patient, protocol, np.random.default_rng(0)).shape[:2] == (512, 512)
