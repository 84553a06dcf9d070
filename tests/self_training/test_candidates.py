"""What all rules share: findings told, structures left out alone, inputs unchanged, written down and built again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser

from crossmoda import self_training
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.candidates import Candidate, Cohort, Finding, Rule, apply_rules
from crossmoda.self_training.work import describe

RULES = [
    getattr(self_training, name)
    for name in self_training.__all__
    if isinstance(getattr(self_training, name), type) and issubclass(getattr(self_training, name), Rule)
]
SETTINGS: dict[str, dict[str, Any]] = {  # so that each rule has something to find in ``everything``
    "RejectMostUncertain": {"fraction": 0.5},
    "RejectUncertain": {"limit": 0.1},
    "RemoveFarComponents": {"distance_mm": 5.0},
    "RequireNear": {"distance_mm": 0.5},
    "RequireVolume": {"least_mm3": 1000.0},
    "RequireAnatomy": {"volumes_mm3": {"vs": [500, 600]}},
}


def everything() -> tuple[Candidate, Cohort]:
    """Return a candidate that breaks every rule but that of found structures, and what is known of two cases."""
    image = np.full((40, 20, 12), 100.0, np.float32)
    image[:, 12:] = 5.0
    label = np.zeros(image.shape, np.uint8)
    label[4:13, 2:11, 2:8] = 1
    image[5:12, 3:10, 2:8] = 40.0
    label[30, 3, 3] = 1  # a far speck
    label[6:9, 14:17, 4:6] = label[30:33, 14:17, 4:6] = label[18:20, 14:16, 4:6] = 2
    image[6:9, 14:18, 4:6] = 100.0
    doubt = np.where(label > 0, 0.4, 0).astype(np.float32)
    measures: dict[str, Any] = {
        "uncertainty": 0.4,
        "mutual_information": 0.2,
        "disagreement": 0.8,
        "confidence": {"vs": {"mean": 0.6, "max": 0.7}, "cochlea": {"mean": 0.6, "max": 0.7}},
        "crf_agreement": {"vs": 0.5, "cochlea": 0.5},
    }
    candidate = Candidate(
        case="a",
        label=label,
        structures=("vs", "cochlea"),
        uncertainty=0.4,
        spacing_mm=(1.5, 0.8, 1.0),
        image=image,
        measures=measures,
        maps={"uncertainty": doubt, "mutual_information": doubt, "confidence": 1 - doubt},
    )
    scores = {name: {"a": measures[name], "b": 0.1} for name in ("uncertainty", "mutual_information", "disagreement")}
    return candidate, Cohort(scores, lambda structure: [2000.0, 3000.0])


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_a_rule_is_built_from_what_it_is_written_down_as(kind: type[Rule]) -> None:
    rule = kind(**SETTINGS.get(kind.__name__, {}))
    parser = ConfigParser(yaml.safe_load(yaml.safe_dump({"rule": _plain(describe(rule))})))
    built = parser.get_parsed_content("rule")
    assert type(built) is kind
    assert _plain(describe(built)) == _plain(describe(rule))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_a_rule_leaves_its_input_alone_and_says_what_it_found(kind: type[Rule]) -> None:
    candidate, cohort = everything()
    arrays = {"label": candidate.label, "image": candidate.image, **candidate.maps}
    before = {name: np.array(array) for name, array in arrays.items()}
    rule = kind(**SETTINGS.get(kind.__name__, {})).prepare(cohort)
    after = apply_rules(candidate, [rule])
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])
    assert candidate.findings == ()
    assert candidate.weight == 1
    assert after.findings
    assert {finding.rule for finding in after.findings} == {kind.__name__}
    if kind.__name__ not in ("RequireStructures", "RefineByContrast", "KeepLargestComponent", "LearnFromReviewed"):
        assert all(any(sign.isdigit() for sign in finding.text) for finding in after.findings)
    if kind.__name__ != "RequireStructures":
        assert after.reasons


@pytest.mark.parametrize("kind", [kind for kind in RULES if "by_structure" in kind.__dataclass_fields__])
def test_a_rule_that_judges_structures_says_that_the_training_must_read_it(kind: type[Rule]) -> None:
    assert not kind().needs().trust
    assert kind(by_structure=True).needs().trust  # type: ignore[call-arg]


def test_findings_carry_the_rules_names_in_order() -> None:
    candidate, cohort = everything()
    rules = [self_training.RejectUncertain(limit=0.5), self_training.WeightByCertainty()]
    after = apply_rules(candidate, [rule.prepare(cohort) for rule in rules])
    assert after.findings == (
        Finding("RejectUncertain", "passed", "uncertainty 0.400, at most 0.500 allowed"),
        Finding("WeightByCertainty", "weighted", "uncertainty 0.400: weight times 0.600"),
    )
    assert after.reasons == ("uncertainty 0.400: weight times 0.600",)


def test_a_structure_that_fails_is_left_out_by_itself_and_the_last_one_takes_the_case_with_it() -> None:
    candidate, _ = everything()
    probability = self_training.RequireProbability(("vs",), least=0.75, by_structure=True)
    after = apply_rules(candidate, [probability])
    assert after.weight == 1
    assert after.structure_weights == {"vs": 0.0}
    assert after.findings == (
        Finding(
            "RequireProbability", "structure left out", "largest probability of the vs 0.700, at least 0.750 asked"
        ),
    )
    assert not after.trusts("vs")
    assert after.trusts("cochlea")
    np.testing.assert_array_equal(after.label, candidate.label)
    both = apply_rules(after, [self_training.RequireAgreement(above=0.5, by_structure=True)])
    assert both.weight == 0
    assert both.reasons[-1].startswith(
        "cochlea agrees with its conditional random field by a Dice of 0.500, above 0.500"
    )
    assert both.reasons[-1].endswith("no other structure is left")


def test_a_structure_left_out_is_not_judged_again() -> None:
    candidate, cohort = everything()
    left = candidate.without("vs", "doubtful")
    for rule in (
        self_training.RequireStructures(("vs",)),
        self_training.RequireNear(distance_mm=0.1),
        self_training.RequireVolume("vs", least_mm3=1e6, most_mm3=1e7),
        self_training.RequireAnatomy(checks=("vs_mm3", "tumours", "vs_to_cochlea_mm")),
        self_training.RequireProbability(("vs",)),
        self_training.RequireAgreement(("vs",)),
    ):
        assert rule.prepare(cohort)(left) == left


def test_a_whole_left_out_takes_its_parts_along() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[0], label[1], label[3] = 1, 2, 3
    candidate = Candidate("c", label, ("extra", "intra", "cochlea"), 0.1)
    left = candidate.without("vs", "far")
    assert [left.trusts(name) for name in ("vs", "extra", "intra", "cochlea")] == [False, False, False, True]
    assert left.without("cochlea", "small").weight == 0


def test_confidence_of_two_rules_is_multiplied() -> None:
    candidate, _ = everything()
    half = np.full(candidate.label.shape, 0.5, np.float32)
    np.testing.assert_array_equal(candidate.trusting(half, "a").trusting(half, "b").confidence, half / 2)


def test_volumes_are_of_the_affine_s_voxels() -> None:
    label = np.zeros((3, 3, 3), np.uint8)
    label[0, 0, :2] = 1
    sheared = np.array([[0.0, 0.5, 0, 1], [-2.0, 0, 0, 2], [0, 0.1, 1.5, 3], [0, 0, 0, 1]])
    assert Candidate("c", label, ("vs",), 0.0, affine=sheared).mm3("vs") == pytest.approx(2 * 0.5 * 2 * 1.5)
    assert Candidate("c", label, ("vs",), 0.0, (0.5, 0.5, 2.0)).mm3("vs") == pytest.approx(2 * 0.5)


def test_a_measurement_that_is_missing_is_named_with_its_remedy() -> None:
    candidate = Candidate("case_7", np.ones((3, 3, 3), np.uint8), ("vs",), 0.1)
    with pytest.raises(CrossmodaError, match=r"case_7: its prediction has no 'confidence'.*add confidence\.yaml"):
        self_training.RequireProbability()(candidate)
    with pytest.raises(
        CrossmodaError, match=r"case_7: its prediction has no 'mutual_information'.*add mutual_information\.yaml"
    ):
        self_training.TrustVoxels(source="mutual_information")(candidate)


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        ("RemoveSmallComponents", {"least_mm3": {"vs": 0}}, "least_mm3 of vs is 0"),
        ("RemoveFarComponents", {"distance_mm": -1}, "distance_mm is -1"),
        ("KeepTwoCochleae", {"apart_mm": [80, 25]}, r"apart_mm \[80, 25\]"),
        ("RequireVolume", {"least_mm3": 20, "most_mm3": 10}, "least_mm3 20 and most_mm3 10"),
        ("RequireAnatomy", {"checks": ["ears"]}, "no check 'ears'; known are vs_mm3"),
        ("RequireAnatomy", {"volumes_mm3": {"vs": [2, 1]}}, r"vs \[2, 1\] must be two rising"),
        ("RequireProbability", {"least": 1.5}, "least is 1.5"),
        ("RequireProbability", {"statistic": "median"}, "statistic is 'median', but must be one of max, mean"),
        ("RequireAgreement", {"above": -0.1}, "above is -0.1"),
        ("RejectMostUncertain", {"source": "confidence"}, "source is 'confidence', but must be one of uncertainty"),
        ("RejectUncertain", {"limit": 2}, "limit is 2"),
        ("WeightByUncertainty", {"form": "square"}, "form is 'square', but must be one of linear, exponential"),
        ("WeightByUncertainty", {"least_weight": 0}, "least_weight is 0, but must be above 0"),
        ("WeightByUncertainty", {"low": 0.6, "high": 0.4}, "low 0.6 is above high 0.4"),
        ("TrustVoxels", {"source": "disagreement"}, "source is 'disagreement', but must be one of uncertainty"),
        ("TrustVoxels", {"least": 1.1}, "least is 1.1"),
    ],
)
def test_impossible_settings_are_refused(kind: str, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(CrossmodaError, match=f"{kind}: {named}"):
        getattr(self_training, kind)(**settings)
