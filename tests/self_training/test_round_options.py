"""What may be set for the next round, and how that becomes one of the rounds' changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossmoda.errors import CrossmodaError
from crossmoda.files import write_json, write_text
from crossmoda.self_training import BundleUse, FromRound, LearnFromReviewed, RejectUncertain, WeightByCertainty
from crossmoda.self_training.round_options import RoundOptions, next_round_options, options_of, with_options
from crossmoda.self_training.rounds import RoundMethod, RoundMethods
from crossmoda.self_training.work import describe

BUNDLE = "bundles/vs_cochlea_hrt2_segmentation"
VOTES = RejectUncertain(0.3, source="disagreement")
BY_VOTES = [VOTES, WeightByCertainty()]

pytestmark = pytest.mark.usefixtures("in_the_repository")


def methods(*changes: FromRound, **segmenter: Any) -> RoundMethods:
    use = replace(BundleUse(BUNDLE, train={"max_epochs": 8, "seed": 3}), **segmenter)
    return RoundMethods(RoundMethod(use, tuple(BY_VOTES)), changes)


def changed(before: RoundMethods, number: int, **values: Any) -> RoundMethods:
    return with_options(before, number, options_of(before.of(number)).changed(values))


def test_options_begin_as_the_rounds_have_them() -> None:
    assert options_of(methods().of(1)) == RoundOptions(8, False, 1.0, "all")
    limits = [RejectUncertain(0.6), RejectUncertain(0.4), LearnFromReviewed(approved=True)]
    later = methods(FromRound(2, train={"max_epochs": 3}, warm_start=True), FromRound(3, rules=limits))
    assert options_of(later.of(2)) == RoundOptions(3, True, 1.0, "all")
    assert options_of(later.of(3)) == RoundOptions(3, True, 0.4, "approved")


def test_what_a_segmenter_cannot_do_is_no_option() -> None:
    assert options_of(methods(train={}, train_overlays=["apart.yaml"]).of(1)).max_epochs is None
    nnunet = options_of(methods(train={}, train_overlays=["nnunet.yaml"]).of(1))
    assert nnunet.known() == {"max_epochs": 1000, "highest_uncertainty": 1.0, "learn_from": "all"}
    with pytest.raises(CrossmodaError, match=r"warm_start: no option .* use max_epochs, highest_uncertainty"):
        nnunet.changed({"warm_start": True})


def test_a_changed_option_holds_from_its_round_on_and_leaves_those_before_alone() -> None:
    before = methods(FromRound(1, shared={"spacing": [1.0, 1.0, 2.0]}))
    after = changed(before, 2, max_epochs=5, warm_start=True)
    assert [after.of(number).segmenter.train["max_epochs"] for number in range(4)] == [8, 8, 5, 5]
    assert [after.of(number).warm_start for number in range(4)] == [False, False, True, True]
    assert after.of(1) == before.of(1)
    assert after.of(3).segmenter.train["spacing"] == [1.0, 1.0, 2.0]
    assert list(after.of(2).rules) == BY_VOTES
    again = changed(after, 2, max_epochs=6)  # the round was begun, stopped and is begun otherwise
    assert (again.of(2).segmenter.train["max_epochs"], again.of(2).warm_start) == (6, True)
    assert len(again.changes) == 2


def test_limits_are_rules_beside_the_recipe_s_and_can_be_taken_back() -> None:
    strict = changed(methods(), 1, highest_uncertainty=0.25, learn_from="reviewed")
    assert list(strict.of(1).rules) == [LearnFromReviewed(), RejectUncertain(0.25), *BY_VOTES]
    approved = changed(strict, 2, learn_from="approved")
    assert list(approved.of(2).rules) == [LearnFromReviewed(approved=True), RejectUncertain(0.25), *BY_VOTES]
    free = changed(approved, 3, learn_from="all", highest_uncertainty=1)
    assert list(free.of(3).rules) == BY_VOTES
    assert options_of(free.of(3)) == options_of(methods().of(1))


def test_unchanged_options_change_nothing() -> None:
    before = methods(FromRound(1, warm_start=True))
    same = {"max_epochs": "8", "warm_start": "true", "highest_uncertainty": "1.0", "learn_from": "all"}  # as text
    assert changed(before, 1, **same) is before


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"max_epochs": 0}, "max_epochs '0': give a whole number from 1 up"),
        ({"max_epochs": 2.5}, "max_epochs '2.5'"),
        ({"max_epochs": True}, "max_epochs 'True'"),
        ({"max_epochs": "inf"}, "max_epochs 'inf'"),
        ({"max_epochs": [3]}, "max_epochs"),
        ({"warm_start": "perhaps"}, "warm_start 'perhaps': give true or false"),
        ({"highest_uncertainty": 1.1}, "highest_uncertainty '1.1': give a number from 0 to 1"),
        ({"highest_uncertainty": "nan"}, "highest_uncertainty 'nan'"),
        ({"highest_uncertainty": ""}, "highest_uncertainty ''"),
        ({"learn_from": "mine"}, "learn_from 'mine': use one of all, reviewed, approved"),
        ({"learn_from": ["all"]}, "learn_from"),
        ({"max_epoch": 3}, "max_epoch: no option of this run's next round; use max_epochs"),
    ],
)
def test_impossible_options_are_refused_by_name(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(CrossmodaError) as caught:
        options_of(methods().of(1)).changed(values)
    assert reason in str(caught.value)


def test_a_run_s_options_are_those_of_the_round_after_its_current_one(tmp_path: Path) -> None:
    def describe_run(*changes: FromRound) -> None:
        described = {
            "segmenter": describe(methods().first.segmenter),
            "rules": [describe(rule) for rule in BY_VOTES],
            "later_rounds": [describe(change) for change in changes],
        }
        write_text(tmp_path / "run.yaml", yaml.safe_dump({"trainer": described}))

    with pytest.raises(CrossmodaError, match=r"current\.json"):
        next_round_options(tmp_path)
    write_json(tmp_path / "current.json", {"round": 1})
    with pytest.raises(CrossmodaError, match=r"no run\.yaml there"):
        next_round_options(tmp_path)
    describe_run(FromRound(2, train={"max_epochs": 4}), FromRound(3, rules=[LearnFromReviewed()]))
    assert next_round_options(tmp_path) == RoundOptions(4, False, 1.0, "all")
    write_json(tmp_path / "current.json", {"round": 2})
    assert next_round_options(tmp_path) == RoundOptions(4, False, 1.0, "reviewed")
    describe_run()  # read anew when the file is replaced
    assert next_round_options(tmp_path) == RoundOptions(8, False, 1.0, "all")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"run\.yaml cannot be read \("),
        ("trainer: [", r"run\.yaml cannot be read \("),
        ("other: 1", r"run\.yaml cannot be read \("),
        ("trainer: {segmenter: {_target_: crossmoda.self_training.NoSuch}}", "crossmoda.self_training.NoSuch"),
        (
            "trainer: {segmenter: {_target_: crossmoda.self_training.BundleUse, root: nowhere}}",
            r"nowhere/configs/train\.yaml: no such configuration file",
        ),
    ],
)
def test_a_damaged_description_is_named(tmp_path: Path, text: str, reason: str) -> None:
    write_json(tmp_path / "current.json", {"round": 0})
    write_text(tmp_path / "run.yaml", text)
    with pytest.raises(CrossmodaError, match=reason):
        next_round_options(tmp_path)
