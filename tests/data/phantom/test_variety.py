"""Tests of what varied patients have beyond the plain phantom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossmoda.data.phantom import draw_patient, draw_varied_patient, rasterise
from crossmoda.data.phantom.anatomy import Patient
from crossmoda.data.phantom.ear import PORUS, Ear, canal_radii
from crossmoda.data.phantom.skull import petrous_face
from crossmoda.data.phantom.tumour import Tumour
from crossmoda.data.phantom.variety import LEAST_DISTANCE_MM, Blob, Variety

SHAPE, SPACING_MM = (120, 76, 20), (0.9, 0.9, 2.4)


def affine_about(patient: Patient) -> np.ndarray:
    """Return the affine of a grid about the patient's ears."""
    affine = np.diag([*SPACING_MM, 1.0])
    middle = patient.frame.to_scanner(np.zeros((3, 1)))[:, 0]
    affine[:3, 3] = middle - np.multiply(SPACING_MM, np.subtract(SHAPE, 1)) / 2
    return affine


def plain_patient(**variety: object) -> Patient:
    """Return a patient with a tumour in the right ear and the given variety."""
    rng = np.random.default_rng(3)
    patient = draw_patient(rng, 2)
    while patient.tumour is None or patient.tumour.side < 0:
        patient = draw_patient(rng, 2)
    wide = Variety(**variety)  # type: ignore[arg-type]
    return replace(patient, variety=wide, tissues={**patient.tissues, **wide.tissues})


@pytest.mark.parametrize("seed", range(4))
def test_fractions_sum_to_one_and_both_cochleae_are_there(seed: int) -> None:
    patient = draw_varied_patient(np.random.default_rng(seed))
    anatomy = rasterise(patient, SHAPE, affine_about(patient))
    total = sum(anatomy.fractions.values())
    np.testing.assert_allclose(total, 1, atol=1e-5)
    assert set(anatomy.fractions) <= set(patient.tissues)
    voxel_mm3 = float(np.prod(SPACING_MM))
    for half in (slice(0, SHAPE[0] // 2), slice(SHAPE[0] // 2, None)):
        assert anatomy.labels["cochlea"][half].sum() * voxel_mm3 > 30
    assert anatomy.labels["vs"].any() == (patient.tumour is not None)


def test_the_same_seed_gives_the_same_patient_and_another_seed_another() -> None:
    first, again, other = (draw_varied_patient(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_one_patient_in_five_has_no_tumour() -> None:
    rng = np.random.default_rng(0)
    healthy = sum(draw_varied_patient(rng).tumour is None for _ in range(150))
    assert 18 <= healthy <= 44  # 30 expected, three standard deviations of a binomial either way


def test_lesions_keep_away_from_both_canals() -> None:
    rng = np.random.default_rng(5)
    blobs = [blob for _ in range(80) for blob in _variety(draw_varied_patient(rng)).of_stage("last")]
    lesions = [blob for blob in blobs if blob.uneven == 0.2]  # as lesions alone have it
    assert len(lesions) > 40
    for blob in lesions:
        for side in (1, -1):
            assert np.linalg.norm(np.subtract(blob.centre, np.multiply(PORUS, (side, 1, 1)))) > LEAST_DISTANCE_MM


def _variety(patient: Patient) -> Variety:
    assert patient.variety is not None
    return patient.variety


def test_a_plain_patient_says_nothing_of_variety() -> None:
    plain, varied = (draw(np.random.default_rng(1)).as_json() for draw in (draw_patient, draw_varied_patient))
    assert "variety" not in plain
    assert "erosion" not in plain["tumour"]
    assert "variety" in varied
    assert "erosion" in varied["tumour"]


def test_a_patient_without_a_tumour_has_no_tumour_ear() -> None:
    patient = replace(draw_patient(np.random.default_rng(0)), tumour=None)
    with pytest.raises(ValueError, match="no tumour"):
        _ = patient.tumour_ear


def test_a_blob_fills_its_place_but_spares_bone_where_it_must_and_never_fills_a_cochlea() -> None:
    centre, radii = (38.0, 4.0, 0.0), (12.0, 12.0, 9.0)  # about the right ear: bone, and the cochlea within
    empty = plain_patient()
    affine = affine_about(empty)
    before = rasterise(empty, SHAPE, affine)
    filled = rasterise(plain_patient(blobs=(Blob("last", "fat", centre, radii, uneven=0.0),)), SHAPE, affine)
    spared = rasterise(plain_patient(blobs=(Blob("last", "fat", centre, radii, True, 0.0),)), SHAPE, affine)
    right = before.labels["cochlea"].copy()
    right[: SHAPE[0] // 2] = False
    np.testing.assert_array_equal(filled.labels["cochlea"], before.labels["cochlea"])
    assert filled.fractions["fat"][right].mean() < 0.2
    gained = [made.fractions["fat"].sum() - before.fractions["fat"].sum() for made in (filled, spared)]
    assert gained[0] > 2 * gained[1] > 0


def test_the_labyrinth_is_gone_on_the_operated_side_alone() -> None:
    whole, operated = plain_patient(), plain_patient(labyrinth_removed=1)
    affine = affine_about(whole)
    fluids = [rasterise(patient, SHAPE, affine).fractions["perilymph"] for patient in (whole, operated)]
    left, right = slice(0, SHAPE[0] // 2), slice(SHAPE[0] // 2, None)
    np.testing.assert_array_equal(fluids[0][left], fluids[1][left])
    assert fluids[1][right].sum() < 0.6 * fluids[0][right].sum()


def test_flow_marrow_and_strands_take_their_share_of_fluid_bone_and_fat() -> None:
    plain, varied = plain_patient(), plain_patient(flow=1.0, marrow=1.0, strands=1.0)
    affine = affine_about(plain)
    before, after = (rasterise(patient, SHAPE, affine).fractions for patient in (plain, varied))
    assert "moving_csf" not in before
    assert after["moving_csf"].sum() > 0.15 * before["csf"].sum()
    assert after["csf"].sum() < before["csf"].sum()
    assert after["bone"].sum() < before["bone"].sum()
    assert after["muscle"].sum() > before["muscle"].sum()


@pytest.mark.parametrize("changes", [{"widening": 0.0}, {"widening": 2.0}, {"widening": 4.0}, {"erosion": 6.0}])
def test_the_box_of_a_tumour_holds_it_however_wide_its_canal(changes: dict[str, float]) -> None:
    tumour, ear = _right_tumour(2)
    changed = replace(tumour, **changes)
    step = 0.4
    axes = [
        np.arange(-step * n, step * n + 1e-6, step, dtype=np.float32) + c
        for n, c in zip((60, 50, 50), ear.porus, strict=True)
    ]
    grid = np.meshgrid(*axes, indexing="ij")
    points = np.stack(grid)[:, changed.body((grid[0], grid[1], grid[2]), ear) < 0]
    low, high = changed.box(ear)
    outside = ((points < low[:, None]) | (points > high[:, None])).any(0)
    assert outside.mean() < 0.01


def test_a_widened_canal_is_as_wide_as_said_at_its_mouth_and_narrower_at_its_end() -> None:
    _, ear = _right_tumour(2)
    assert canal_radii(ear, 0.5) == (ear.canal_radius + 0.5, ear.canal_radius + 0.5)
    mouth, end = canal_radii(ear, 2.9)
    assert mouth == pytest.approx(ear.canal_radius + 2.9)
    assert end == pytest.approx(ear.canal_radius + 1.88)  # 1.7 of the 2.9 mm are above 1.2, of which 0.4 reach the end


def test_a_tumour_that_has_worn_away_bone_reaches_deeper_into_it_beside_the_canal() -> None:
    tumour, ear = _right_tumour(3)
    axes = [np.arange(-16, 16, 0.5, dtype=np.float32) + c for c in ear.porus]
    grid = np.meshgrid(*axes, indexing="ij")
    points = (grid[0], grid[1], grid[2])
    beside = np.hypot(points[1] - ear.porus[1], points[2] - ear.porus[2]) > ear.canal_radius + 1.5
    deep, kept = (petrous_face(points) > 2.5) & beside, petrous_face(points) < -8
    before, after = (replace(tumour, erosion=worn, widening=0.0).body(points, ear) < 0 for worn in (0.0, 6.0))
    assert not (before & deep).any()
    assert (after & deep).sum() * 0.5**3 > 25  # mm3
    np.testing.assert_array_equal(before & kept, after & kept)
    inner = replace(tumour, erosion=6.0).intra_meatal(points, ear) < 0
    assert (after & inner).sum() > (before & inner).sum()


def _right_tumour(koos: int) -> tuple[Tumour, Ear]:
    """Return a tumour of a grade in a right ear, and the ear."""
    rng = np.random.default_rng(11)
    patient = draw_patient(rng, koos)
    while patient.tumour is None or patient.tumour.side < 0:
        patient = draw_patient(rng, koos)
    return patient.tumour, patient.tumour_ear
