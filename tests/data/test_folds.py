"""Folds of patients."""

from __future__ import annotations

from collections import Counter

import pytest

from crossmoda.data.folds import folds_of_cases, require_fold
from crossmoda.errors import CrossmodaError


def items(views: tuple[str, ...] = ("cyclegan", "qs_attn")) -> list[dict[str, str]]:
    """Thirteen London and eleven Tilburg patients, each rendered by two translators."""
    cases = [(f"ldn_{n}", "ldn") for n in range(13)] + [(f"etz_{n}", "etz") for n in range(11)]
    return [{"case": case, "site": site, "view": view} for view in views for case, site in cases]


def test_a_patient_has_one_fold_whatever_the_number_of_views() -> None:
    assert folds_of_cases(items(), 5) == folds_of_cases(items(("cyclegan",)), 5)
    assert len(folds_of_cases(items(), 5)) == 24


def test_folds_are_of_equal_size_for_every_site_within_one() -> None:
    folds = folds_of_cases(items(), 5)
    assert sorted(Counter(folds.values()).values()) == [4, 5, 5, 5, 5]
    for site in ("ldn", "etz"):
        sizes = Counter(fold for case, fold in folds.items() if case.startswith(site)).values()
        assert max(sizes) - min(sizes) <= 1


def test_the_order_of_the_items_does_not_matter_but_the_seed_does() -> None:
    assert folds_of_cases(items()[::-1], 5) == folds_of_cases(items(), 5)
    assert folds_of_cases(items(), 5, seed=1) != folds_of_cases(items(), 5)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (1, "folds is 1; give 2 or more"),
        (25, r"^list\.json: there are labels of 24 patients, too few for 25 folds; set folds to 24 or less, or add "),
    ],
)
def test_impossible_numbers_of_folds_are_refused(folds: int, message: str) -> None:
    with pytest.raises(CrossmodaError, match=message):
        folds_of_cases(items(), folds, where="list.json")


def test_a_fold_must_be_one_of_its_number() -> None:
    require_fold(None, 5)
    require_fold(4, 5)
    with pytest.raises(CrossmodaError, match="fold is 5; give 0 to 4, or null"):
        require_fold(5, 5)
