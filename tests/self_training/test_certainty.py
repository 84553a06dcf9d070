from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.self_training import RejectMostUncertain, RejectUncertain, TrustVoxels, WeightByUncertainty
from crossmoda.self_training.candidates import Candidate, Cohort


def candidate(uncertainty: float = 0.2, maps: dict[str, np.ndarray] | None = None, **measures: float) -> Candidate:
    label = np.zeros((4, 2, 1), np.uint8)
    label[:2, 0] = 1
    return Candidate("c", label, ("vs", "cochlea"), uncertainty, measures=measures, maps=maps or {})


def test_a_case_above_the_limit_is_left_out_and_one_at_the_limit_stays() -> None:
    assert RejectUncertain(limit=0.2)(candidate(0.2)).weight == 1
    rejected = RejectUncertain(limit=0.2)(candidate(0.25))
    assert rejected.weight == 0
    assert rejected.reasons == ("uncertainty 0.250, at most 0.200 allowed",)


def test_votes_that_disagree_by_more_than_card_c_allows_are_left_out() -> None:
    rule = RejectUncertain(source="disagreement")
    assert rule.limit == 0.7
    assert rule.needs().measures == ("disagreement",)
    assert rule(candidate(0.0, disagreement=0.71)).reasons == ("disagreement 0.710, at most 0.700 allowed",)
    assert rule(candidate(0.9, disagreement=0.69)).weight == 1


def test_the_most_uncertain_are_ranked_by_the_source_that_is_named() -> None:
    scores = {"uncertainty": {"a": 0.9, "b": 0.1}, "mutual_information": {"a": 0.1, "b": 0.2}}
    rule = RejectMostUncertain(fraction=0.5, source="mutual_information").prepare(Cohort(scores))
    assert rule(candidate(0.9, mutual_information=0.1)).weight == 1
    rejected = rule(candidate(0.1, mutual_information=0.2))
    assert rejected.reasons == ("mutual information 0.200, at most 0.100 allowed (50% of the cases are left out)",)
    with pytest.raises(CrossmodaError, match=r"no 'disagreement'.*add votes\.yaml"):
        RejectMostUncertain(source="disagreement").prepare(Cohort(scores))


@pytest.mark.parametrize(
    ("form", "uncertainty", "weight"),
    [
        ("linear", 0.1, 1.0),  # at low
        ("linear", 0.2, 1 - 0.75 * 0.25),  # a quarter of the way
        ("linear", 0.5, 0.25),  # at high
        ("linear", 0.9, 0.25),  # beyond
        ("linear", 0.0, 1.0),
        ("exponential", 0.1, 1.0),
        ("exponential", 0.3, 0.5),  # half of the way: the root of 0.25
        ("exponential", 0.5, 0.25),
    ],
)
def test_weight_falls_from_low_to_high(form: str, uncertainty: float, weight: float) -> None:
    rule = WeightByUncertainty(form=form, least_weight=0.25, low=0.1, high=0.5).prepare(Cohort({"uncertainty": {}}))
    after = rule(candidate(uncertainty))
    assert after.weight == pytest.approx(weight)
    expected = f"uncertainty {uncertainty:.3f} between 0.100 and 0.500: weight times {weight:.3f}"
    assert after.reasons == (expected,)


def test_low_and_high_are_those_of_the_cases_where_they_are_none() -> None:
    scores = {"uncertainty": {"a": 0.2, "b": 0.4, "c": 0.3}}
    rule = WeightByUncertainty(least_weight=0.5, low=None, high=None).prepare(Cohort(scores))
    assert [rule(candidate(value)).weight for value in (0.2, 0.3, 0.4)] == pytest.approx([1.0, 0.75, 0.5])
    same = WeightByUncertainty(low=None, high=None).prepare(Cohort({"uncertainty": {"a": 0.3, "b": 0.3}}))
    assert same(candidate(0.3)).weight == 1
    both = rule(rule(candidate(0.4)))
    assert both.weight == pytest.approx(0.25)  # weights multiply


PROBABILITY = np.array([[0.95, 1.0], [0.85, 1.0], [0.9, 0.4], [0.0, 1.0]], np.float32)[..., None]


def test_voxels_below_a_probability_are_ignored_and_the_others_count_fully() -> None:
    after = TrustVoxels()(candidate(maps={"confidence": PROBABILITY}))
    np.testing.assert_array_equal(after.confidence[..., 0], [[1, 1], [0, 1], [1, 0], [0, 1]])
    text = "37.5% of all voxels and 50.0% of the structures' ignored: probability below 0.900"
    assert after.reasons == (text,)
    assert after.weight == 1


@pytest.mark.parametrize("source", ["uncertainty", "mutual_information"])
def test_uncertain_voxels_are_ignored_or_weighted(source: str) -> None:
    case = candidate(maps={source: 1 - PROBABILITY})
    hard = TrustVoxels(source=source, least=0.9)(case)
    np.testing.assert_array_equal(hard.confidence[..., 0], [[1, 1], [0, 1], [1, 0], [0, 1]])
    assert hard.reasons[0].endswith(f": {source.replace('_', ' ')} above 0.100")
    soft = TrustVoxels(source=source, least=None)(case)
    np.testing.assert_allclose(soft.confidence, PROBABILITY, atol=1e-6)
    told = source.replace("_", " ")
    assert soft.reasons == (f"voxels weighted by {told}, mean in structures 0.900",)  # of 0.95 and 0.85


def test_an_empty_label_has_no_share_of_its_own() -> None:
    empty = Candidate("c", np.zeros((4, 2, 1), np.uint8), ("vs",), 0.1, maps={"confidence": PROBABILITY})
    assert "and none of the structures' ignored" in TrustVoxels()(empty).reasons[0]
    assert TrustVoxels(least=None)(empty).reasons[0].endswith("mean in structures none")


@pytest.mark.parametrize(
    ("rule", "maps"), [(TrustVoxels(), ("confidence",)), (TrustVoxels("uncertainty", None), ("uncertainty",))]
)
def test_a_rule_of_voxels_needs_its_map_and_a_training_that_reads_its_own(rule: Any, maps: tuple[str, ...]) -> None:
    assert rule.needs().maps == maps
    assert rule.needs().trust
    assert math.isclose(rule(candidate(maps={maps[0]: PROBABILITY})).weight, 1)
