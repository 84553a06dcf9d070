"""Values of options, as panels and shells send them."""

from __future__ import annotations

from typing import Any

import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.option_values import choice, share, switch, whole_number


def test_numbers_and_switches_may_be_text() -> None:
    assert [whole_number("a", value) for value in (3, 3.0, "3")] == [3, 3, 3]
    assert [share("a", value) for value in (0, "0.25", 1)] == [0.0, 0.25, 1.0]
    assert [switch("a", value) for value in (True, "true", "False", False)] == [True, True, False, False]
    assert choice("a", "one", ["one", "two"]) == "one"


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "", "many", "inf", "nan", None, [3], 10**400])
def test_what_is_no_whole_number_from_1_up_is_refused_by_name(value: Any) -> None:
    with pytest.raises(CrossmodaError, match=r"^epochs '.{0,40}': give a whole number from 1 up$"):
        whole_number("epochs", value)


@pytest.mark.parametrize("value", [-0.1, 0.91, True, "nan", "", None, {}])
def test_a_share_lies_between_0_and_its_limit(value: Any) -> None:
    with pytest.raises(CrossmodaError, match=r"^overlap '.*': give a number from 0 to 0\.9$"):
        share("overlap", value, most=0.9)


def test_other_words_are_refused_with_the_known_ones() -> None:
    for value in ("yes", 1, None):
        with pytest.raises(CrossmodaError, match=r"^mirrored '.*': give true or false$"):
            switch("mirrored", value)
    for value in ("three", ["one"], None):
        with pytest.raises(CrossmodaError, match=r"^number .*: use one of one, two$"):
            choice("number", value, ["one", "two"])
