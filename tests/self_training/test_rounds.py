"""What changes from one round to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser

from crossmoda.errors import CrossmodaError
from crossmoda.self_training import BundleUse, FromRound, RequireStructures, WeightByCertainty
from crossmoda.self_training.rounds import RoundMethod, RoundMethods
from crossmoda.self_training.work import describe

SEGMENTER = BundleUse(
    "bundle",
    train={"spacing": [1.0, 1.0, 1.5], "max_epochs": 5},
    inference={"spacing": [1.0, 1.0, 1.5], "window_overlap": 0.5},
    train_overlays=["a.yaml"],
    inference_overlays=["b.yaml"],
)
FIRST = RoundMethod(SEGMENTER, (WeightByCertainty(1.0),))
FINER = FromRound(3, shared={"spacing": [0.5, 0.5, 1.5]}, train={"max_epochs": 10}, inference_overlays=[])
WARM = FromRound(1, rules=[RequireStructures(["vs"])], warm_start=True)


def test_a_change_holds_from_its_round_on() -> None:
    methods = RoundMethods(FIRST, (FINER, WARM))
    assert [methods.of(number).warm_start for number in range(5)] == [False, True, True, True, True]
    assert [methods.of(number).segmenter.train["max_epochs"] for number in range(5)] == [5, 5, 5, 10, 10]
    assert methods.of(0) == FIRST
    assert methods.of(1).rules == methods.of(4).rules == (RequireStructures(["vs"]),)
    assert list(methods.distinct()) == [0, 1, 3]


def test_shared_settings_change_training_and_inference_alike_and_others_stay() -> None:
    last = RoundMethods(FIRST, (FINER,)).of(3).segmenter
    assert last.train == {"spacing": [0.5, 0.5, 1.5], "max_epochs": 10}
    assert last.inference == {"spacing": [0.5, 0.5, 1.5], "window_overlap": 0.5}
    assert last.train_overlays == ["a.yaml"]  # None keeps them
    assert last.inference_overlays == []  # an empty list takes them away
    assert SEGMENTER.train["max_epochs"] == 5


def test_a_start_is_of_round_0_alone() -> None:
    given = RoundMethod(replace(SEGMENTER, train_overlays=["given.yaml"]), FIRST.rules)
    methods = RoundMethods(FIRST, (FINER,), given)
    assert [methods.of(number).segmenter.train_overlays for number in range(3)] == [
        ["given.yaml"],
        ["a.yaml"],
        ["a.yaml"],
    ]
    assert list(methods.distinct()) == [0, 1, 3]
    assert methods.of(3) == RoundMethods(FIRST, (FINER,)).of(3)


@pytest.mark.parametrize(("filters", "warm"), [([4, 4, 4, 4], True), ([4, 4, 4, 8], False)])
def test_round_1_makes_a_warm_start_from_the_network_that_it_trains_alone(filters: list[int], warm: bool) -> None:
    root = Path(__file__).parents[2] / "bundles" / "vs_cochlea_hrt2_segmentation"
    own, other = (BundleUse(root, train={"network_def::filters": value}) for value in ([4, 4, 4, 4], filters))
    methods = RoundMethods(RoundMethod(own, ()), (FromRound(1, warm_start=True),), RoundMethod(other, ()))
    assert [methods.of(number).warm_start for number in range(3)] == [False, warm, True]


@pytest.mark.parametrize("numbers", [(1, 1), (-1,)])
def test_impossible_rounds_are_refused(numbers: tuple[int, ...]) -> None:
    with pytest.raises(CrossmodaError, match="a round of its own, from 0 up"):
        RoundMethods(FIRST, tuple(FromRound(number) for number in numbers))


def test_a_change_is_recorded_so_that_it_can_be_built_again() -> None:
    text = yaml.safe_dump({"change": describe(WARM)})
    built = ConfigParser(yaml.safe_load(text)).get_parsed_content("change")
    assert built.rules == [RequireStructures(["vs"])]
    assert built.warm_start is True
    assert describe(built) == describe(WARM)
