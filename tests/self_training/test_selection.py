from __future__ import annotations

import numpy as np
import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.selection import (
    Candidate,
    Cohort,
    KeepLargestComponent,
    RefineByContrast,
    RejectMostUncertain,
    RequireNear,
    RequireStructures,
    TakeAwayFluid,
    WeightByCertainty,
    apply_rules,
)


def candidate(uncertainty: float = 0.2) -> Candidate:
    label = np.zeros((9, 7, 5), np.uint8)
    label[1:4, 1:4, 1:3] = 1  # 18 voxels of VS
    label[7, 5, 4] = 1  # and a stray one
    label[0, 0, 0] = label[8, 0, 0] = 2  # a cochlea on either side
    return Candidate("case_1", label, ("vs", "cochlea"), uncertainty)


def test_the_largest_component_of_the_tumour_is_kept_and_both_cochleae_stay() -> None:
    before = candidate()
    after = KeepLargestComponent(structures=("vs",))(before)
    assert after.mask("vs").sum() == 18
    assert after.mask("cochlea").sum() == 2
    assert after.reasons == ("1 voxels outside the largest component of vs removed",)
    assert before.mask("vs").sum() == 19  # the argument is not changed


def test_the_parts_of_a_tumour_are_one_component_and_lose_what_is_apart_of_both() -> None:
    label = np.zeros((9, 7, 5), np.uint8)
    label[1:3, 1:4, 1:3] = 2  # 12 voxels within the canal
    label[3:5, 1:4, 1:3] = 1  # 12 beside them
    label[7, 5, 4], label[7, 1, 1] = 1, 2  # two stray ones
    before = Candidate("case_1", label, ("extra", "intra"), 0.2)
    after = KeepLargestComponent(structures=("vs",))(before)
    assert [int(after.mask(name).sum()) for name in ("vs", "intra", "extra")] == [24, 12, 12]


def test_structures_are_found_by_name_whatever_their_number() -> None:
    swapped = Candidate(
        "case_1", np.where(candidate().label > 0, 3 - candidate().label, 0).astype(np.uint8), ("cochlea", "vs"), 0.0
    )
    after = KeepLargestComponent(structures=("vs",))(swapped)
    assert after.mask("vs").sum() == 18
    assert after.mask("cochlea").sum() == 2


def test_the_cochlea_is_redrawn_by_name_and_the_tumour_keeps_its_voxels() -> None:
    truth = np.zeros((24, 24, 12), bool)
    truth[4:12, 4:12, 4:10] = True
    image = np.where(truth, 100.0, 5.0).astype(np.float32)
    label = np.zeros(truth.shape, np.uint8)
    label[5:11, 5:11, 4:10] = 1  # the cochlea's number here: two voxels too small in plane
    label[11, 4:12, 4:10] = 2  # a tumour beside it, as bright
    case = Candidate("c", label, ("cochlea", "vs"), 0.1, (0.5, 0.5, 0.8), image)
    rule = RefineByContrast(shift_mm=0.0, distance_mm=0.8)
    after = rule(case)
    assert (after.label == 2).sum() == (label == 2).sum()
    np.testing.assert_array_equal(after.label == 1, truth & (label != 2))
    # 7 x 8 x 6 voxels instead of 6 x 6 x 6.
    assert after.reasons == ("cochlea redrawn by contrast, 56% of its voxels changed",)
    assert rule(after) is after


def test_a_model_without_cochlea_or_a_candidate_without_image_is_not_redrawn() -> None:
    rule = RefineByContrast()
    without = Candidate("c", np.ones((4, 4, 4), np.uint8), ("vs",), 0.1, image=np.ones((4, 4, 4), np.float32))
    assert rule(without) is without
    assert rule(case := candidate()) is case


@pytest.mark.parametrize(
    "settings", [{"distance_mm": 0.0}, {"closing_mm": -1.0}, {"threshold_share": 1.1}, {"shift_mm": -0.1}]
)
def test_impossible_settings_of_the_contrast_rule_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(CrossmodaError, match=f"RefineByContrast: {next(iter(settings))}"):
        RefineByContrast(**settings)


def fluid_case(structures: tuple[str, ...], tumour_number: int) -> tuple[Candidate, np.ndarray]:
    """Return a dark tumour in fluid, whose label reaches a voxel too far in plane, and a cochlea in bone."""
    truth = np.zeros((24, 24, 12), bool)
    truth[6:16, 6:16, 2:10] = True
    image = np.full(truth.shape, 100.0, np.float32)
    image[:, 20:] = 5.0
    image[truth] = 40.0
    label = np.zeros(truth.shape, np.uint8)
    label[5:17, 5:17, 2:10] = tumour_number
    label[2:4, 20:22, 5:7] = structures.index("cochlea") + 1
    return Candidate("c", label, structures, 0.1, (0.5, 0.5, 0.8), image), truth


def test_fluid_is_taken_from_the_tumour_by_name_and_the_cochlea_keeps_its_voxels() -> None:
    case, truth = fluid_case(("cochlea", "vs"), 2)
    after = TakeAwayFluid()(case)
    # Opening rounds the corners of the block.
    assert (after.mask("vs") & ~truth).sum() == 0
    assert (after.mask("vs") & truth).sum() > 0.85 * truth.sum()
    np.testing.assert_array_equal(after.mask("cochlea"), case.mask("cochlea"))
    taken = 1 - after.mask("vs").sum() / case.mask("vs").sum()
    assert after.reasons == (f"{taken:.0%} of the vs taken away as fluid or beyond it",)


def test_fluid_is_taken_from_a_tumour_told_apart_in_parts() -> None:
    case, truth = fluid_case(("extra", "intra", "cochlea"), 1)
    label = case.label.copy()
    label[:8][label[:8] == 1] = 2
    after = TakeAwayFluid()(Candidate("c", label, case.structures, 0.1, case.spacing_mm, case.image))
    assert (after.mask("vs") & ~truth).sum() == 0
    assert set(np.unique(after.label)) == {0, 1, 2, 3}


def test_a_model_without_tumour_or_a_candidate_without_image_keeps_its_label() -> None:
    without = Candidate("c", np.ones((4, 4, 4), np.uint8), ("cochlea",), 0.1, image=np.ones((4, 4, 4), np.float32))
    assert TakeAwayFluid()(without) is without
    assert TakeAwayFluid()(case := candidate()) is case


@pytest.mark.parametrize(
    "settings", [{"opening_mm": 0.0}, {"smoothing_mm": -1.0}, {"least_contrast": 1.1}, {"small_ml": -1.0}]
)
def test_impossible_settings_of_the_fluid_rule_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(CrossmodaError, match=f"TakeAwayFluid: {next(iter(settings))}"):
        TakeAwayFluid(**settings)


def test_a_label_without_cochlea_is_left_out_with_the_reason() -> None:
    label = candidate().label.copy()
    label[label == 2] = 0
    after = RequireStructures(("vs", "cochlea"))(Candidate("c", label, ("vs", "cochlea"), 0.1))
    assert after.weight == 0
    assert after.reasons == ("no cochlea found",)


def test_a_tumour_far_from_both_cochleae_is_left_out_and_millimetres_count() -> None:
    label = np.zeros((9, 7, 5), np.uint8)
    label[0, 0, 0], label[0, 3, 2] = 2, 1  # 3 voxels and 2 voxels away: sqrt(3^2 + (2 * 4)^2) mm = 8.5 mm
    case = Candidate("c", label, ("vs", "cochlea"), 0.1, spacing_mm=(1.0, 1.0, 4.0))
    assert RequireNear(distance_mm=8.6)(case).weight == 1
    rejected = RequireNear(distance_mm=8.4)(case)
    assert rejected.weight == 0
    assert rejected.reasons == ("vs 8.5 mm from the nearest cochlea, at most 8.4 mm allowed",)


def test_nearness_to_a_structure_that_was_not_found_is_not_judged() -> None:
    label = np.where(candidate().label == 1, 1, 0).astype(np.uint8)
    assert RequireNear()(Candidate("c", label, ("vs", "cochlea"), 0.1)).weight == 1
    assert RequireNear()(Candidate("c", label, ("vs",), 0.1)).weight == 1


def test_nearness_of_a_tumour_in_parts() -> None:
    label = np.zeros((20, 3, 3), np.uint8)
    label[0, 0, 0], label[12, 0, 0], label[15, 0, 0] = 3, 2, 1
    names = ("extra", "intra", "cochlea")
    assert RequireNear(distance_mm=12)(Candidate("c", label, names, 0.1)).weight == 1
    assert RequireNear(distance_mm=11)(Candidate("c", label, names, 0.1)).weight == 0


def test_a_distance_of_zero_is_refused() -> None:
    with pytest.raises(CrossmodaError, match="distance_mm is 0"):
        RequireNear(distance_mm=0)


def test_the_most_uncertain_share_is_left_out() -> None:
    scores = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
    rule = RejectMostUncertain(fraction=0.25).prepare(Cohort({"uncertainty": scores}))
    assert [rule(candidate(score)).weight for score in scores.values()] == [1, 1, 1, 0]


def test_a_quarter_of_nothing_is_nothing() -> None:
    assert RejectMostUncertain(fraction=0.0).prepare(Cohort({"uncertainty": {"a": 0.9}}))(candidate(0.9)).weight == 1


def test_weight_falls_with_uncertainty() -> None:
    assert WeightByCertainty(power=2.0)(candidate(0.5)).weight == pytest.approx(0.25)


def test_rules_stop_at_a_rejection() -> None:
    label = np.zeros((3, 3, 3), np.uint8)
    empty = Candidate("c", label, ("vs", "cochlea"), 0.5)
    after = apply_rules(empty, [RequireStructures(("vs",)), WeightByCertainty()])
    assert after.weight == 0
    assert after.reasons == ("no vs found",)


def test_a_fraction_outside_its_range_is_refused() -> None:
    with pytest.raises(CrossmodaError, match=r"fraction is 1\.5"):
        RejectMostUncertain(fraction=1.5)
