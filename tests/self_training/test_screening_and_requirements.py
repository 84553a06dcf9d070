"""Which pieces and cases rules leave out, in millimetres, however the scan's axes are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.self_training import (
    KeepTwoCochleae,
    RemoveFarComponents,
    RemoveSmallComponents,
    RequireAgreement,
    RequireAnatomy,
    RequireNear,
    RequireProbability,
    RequireStructures,
    RequireVolume,
)
from crossmoda.self_training.candidates import Candidate, Cohort, Rule, apply_rules

SHAPE, SPACING_MM = (140, 20, 12), (0.5, 0.8, 1.5)  # a voxel of 0.6 mm3; x runs from left to right
STORED = [((0, 1, 2), ()), ((0, 1, 2), (0,)), ((1, 0, 2), (0, 2)), ((2, 0, 1), (1,)), ((1, 2, 0), (0, 1, 2))]
VS, COCHLEA = 1, 2

Draw = Callable[[np.ndarray], None]


def patient() -> np.ndarray:
    """Return a tumour of 36 mm3 beside one of two cochleae of 36 mm3 each, 50 mm apart."""
    label = np.zeros(SHAPE, np.uint8)
    label[20:25, 4:8, 3:6] = COCHLEA  # 5 x 4 x 3 voxels about x = 22
    label[120:125, 4:8, 3:6] = COCHLEA  # about x = 122: 100 voxels of 0.5 mm away
    label[30:35, 4:8, 3:6] = VS  # nearest voxels 6 x 0.5 mm = 3 mm from the cochlea's
    return label


def stored(label: np.ndarray, axes: tuple[int, ...] = (0, 1, 2), flips: tuple[int, ...] = ()) -> Candidate:
    """Return a candidate whose label is stored with its axes permuted and flipped, with the affine of that."""
    affine = np.diag([*SPACING_MM, 1.0])[:, [*axes, 3]]
    for column, axis in enumerate(axes):
        if axis in flips:
            affine[:, 3] += affine[:, column] * (SHAPE[axis] - 1)
            affine[:, column] *= -1
    spacing = tuple(SPACING_MM[axis] for axis in axes)
    array = np.ascontiguousarray(np.flip(label, flips).transpose(axes))
    return Candidate("c", array, ("vs", "cochlea"), 0.1, (spacing[0], spacing[1], spacing[2]), affine=affine)


def restored(candidate: Candidate, axes: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    return np.flip(candidate.label.transpose(np.argsort(axes)), flips)


def far_specks(label: np.ndarray) -> None:
    label[70, 10, 6] = VS  # from the cochlea at x = 24, y = 7, z = 5: (23, 2.4, 1.5) mm, 23.17 mm
    label[36:38, 12, 9] = VS  # from the cochlea: (6, 4, 6) mm, 9.38 mm; two voxels of 1.2 mm3


def third_cochlea(label: np.ndarray) -> None:
    label[60, 4:8, 3:6] = COCHLEA  # 18.5 mm from the left one's centre


@pytest.mark.parametrize(("axes", "flips"), STORED)
def test_small_pieces_are_removed_by_their_volume(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    label = patient()
    far_specks(label)
    after = RemoveSmallComponents({"vs": 1.0})(stored(label, axes, flips))  # the single voxel is 0.6 mm3, the pair 1.2
    expected = label.copy()
    expected[70, 10, 6] = 0
    np.testing.assert_array_equal(restored(after, axes, flips), expected)
    assert after.reasons == ("2% of the vs removed (1 voxels): components below 1 mm3",)  # of 63


@pytest.mark.parametrize(("axes", "flips"), STORED)
def test_far_pieces_are_removed_by_their_distance(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    label = patient()
    far_specks(label)
    after = RemoveFarComponents(distance_mm=9.4)(stored(label, axes, flips))
    expected = label.copy()
    expected[70, 10, 6] = 0
    np.testing.assert_array_equal(restored(after, axes, flips), expected)
    what = "components more than 9.4 mm from the nearest cochlea, the farthest 23.2 mm"
    assert after.reasons == (f"2% of the vs removed (1 voxels): {what}",)
    nearer = RemoveFarComponents(distance_mm=9.3)(stored(label, axes, flips))
    np.testing.assert_array_equal(restored(nearer, axes, flips), patient())


def test_where_all_pieces_are_far_none_is_removed_and_the_case_is_judged() -> None:
    label = patient()
    far_specks(label)
    rules = [RemoveFarComponents(distance_mm=2.0), RequireNear(distance_mm=2.0)]
    after = apply_rules(stored(label), rules)
    np.testing.assert_array_equal(after.label, label)
    assert after.reasons == ("vs 3.0 mm from the nearest cochlea, at most 2 mm allowed",)


@pytest.mark.parametrize(("axes", "flips"), STORED)
def test_two_cochleae_are_kept_by_their_distance_from_left_to_right(
    axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    label = patient()
    third_cochlea(label)
    after = KeepTwoCochleae()(stored(label, axes, flips))
    np.testing.assert_array_equal(restored(after, axes, flips), patient())
    told = "9% of the cochlea removed (12 voxels): pieces beside two cochleae 25 to 80 mm apart"  # of 132
    assert after.reasons == (told,)


@pytest.mark.parametrize("rule", [RemoveSmallComponents(), RemoveFarComponents(), KeepTwoCochleae()])
def test_nothing_is_removed_of_a_plausible_patient_or_of_what_a_model_does_not_seek(rule: Rule) -> None:
    assert rule(case := stored(patient())) is case
    alone = Candidate("c", (patient() == VS).astype(np.uint8), ("vs",), 0.1, SPACING_MM)
    assert rule(alone) is alone


def test_a_volume_between_the_limits_is_accepted_and_told() -> None:
    case = stored(patient())
    after = apply_rules(case, [RequireVolume("vs", least_mm3=36, most_mm3=36.1)])
    assert after.weight == 1
    assert after.findings[0].text == "vs of 36 mm3, 36 to 36 mm3 allowed"
    for limits in ((36.1, 50), (10, 35.9)):
        rejected = RequireVolume("vs", *limits)(case)
        assert rejected.weight == 0
    assert rejected.reasons == ("vs of 36 mm3, 10 to 36 mm3 allowed",)
    assert RequireVolume("cochlea", 71.9, 72.1)(case).weight == 1  # both sides together


def test_limits_that_are_not_given_are_those_of_the_source_s_labels() -> None:
    cohort = Cohort({}, {"vs": [40.0, 900.0, 55.0]}.__getitem__)
    rule = RequireVolume("vs").prepare(cohort)
    assert (rule.least_mm3, rule.most_mm3) == (40, 900)
    assert rule(stored(patient())).reasons == ("vs of 36 mm3, 40 to 900 mm3 allowed",)
    assert RequireVolume("vs", least_mm3=5).prepare(cohort)(stored(patient())).weight == 1
    with pytest.raises(CrossmodaError, match="no source label shows the vs; give least_mm3 and most_mm3"):
        RequireVolume("vs").prepare(Cohort({}, lambda structure: []))
    assert RequireVolume("vs").needs().source_labels
    assert not RequireVolume("vs", 1, 2).needs().source_labels


@pytest.mark.parametrize(("axes", "flips"), STORED)
def test_anatomy_that_fails_is_told_with_figure_and_limits(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    label = patient()
    far_specks(label)
    third_cochlea(label)
    case = stored(label, axes, flips)
    assert apply_rules(stored(patient(), axes, flips), [RequireAnatomy()]).weight == 1
    after = RequireAnatomy(volumes_mm3={"vs": [100, 200]})(case)
    assert after.weight == 0
    (reason,) = after.reasons
    assert set(reason.split("; ")) == {
        "number of cochleae 3, 2 allowed",
        "smallest cochlea of 7.2 mm3, 30 to 250 allowed",
        "number of tumours 3, 1 allowed",
        "vs of 37.8 mm3, 100 to 200 allowed",  # 63 voxels
    }
    chosen = RequireAnatomy(checks=("vs_to_cochlea_mm",), distance_mm=2.5)(case)
    assert chosen.reasons == ("vs 3 mm from the nearest cochlea, 0 to 2.5 allowed",)
    apart = RequireAnatomy(checks=["cochleae_apart_mm"], apart_mm=[51, 60])(stored(patient(), axes, flips))
    assert apart.reasons == ("cochleae 50 mm apart from left to right, 51 to 60 allowed",)


def test_anatomy_by_structure_leaves_out_the_one_whose_fault_it_is() -> None:
    label = patient()
    third_cochlea(label)
    after = RequireAnatomy(by_structure=True)(stored(label))
    assert after.weight == 1
    assert after.structure_weights == {"cochlea": 0.0}
    assert len(after.reasons) == 1  # the first of two faults; what is left out is not judged again
    far = patient()
    far[far == VS] = 0
    far[70, 10, 6] = VS
    after = apply_rules(stored(far), [RequireNear(by_structure=True)])
    assert after.structure_weights == {"vs": 0.0}


def test_an_empty_structure_by_itself_is_left_out_alone() -> None:
    label = np.where(patient() == VS, 0, patient()).astype(np.uint8)
    after = apply_rules(stored(label), [RequireStructures(by_structure=True)])
    assert (after.weight, dict(after.structure_weights)) == (1, {"vs": 0.0})
    assert after.reasons == ("no vs found",)
    assert apply_rules(stored(np.zeros_like(label)), [RequireStructures(by_structure=True)]).weight == 0
    assert RequireStructures()(stored(np.zeros_like(label))).reasons == ("no vs found; no cochlea found",)


def test_probabilities_are_judged_by_their_largest_or_mean() -> None:
    figures = {"vs": {"mean": 0.6, "max": 0.9}, "cochlea": {"mean": 0.8, "max": 0.95}}
    case = replace(stored(patient()), measures={"confidence": figures})
    assert RequireProbability()(case).weight == 1  # at the threshold is enough
    rejected = RequireProbability(statistic="mean", least=0.7)(case)
    assert rejected.reasons == ("mean probability of the vs 0.600, at least 0.700 asked",)
    empty = replace(case, measures={"confidence": {}})
    assert RequireProbability()(empty).weight == 1  # what was not found is for RequireStructures to judge


def test_agreement_with_the_random_field_must_be_above_its_limit() -> None:
    case = replace(stored(patient()), measures={"crf_agreement": {"vs": 0.7, "cochlea": 1.0}})
    assert RequireAgreement(above=0.699)(case).weight == 1
    rejected = RequireAgreement()(case)
    assert rejected.weight == 0
    assert rejected.reasons == ("vs agrees with its conditional random field by a Dice of 0.700, above 0.700 asked",)
