"""Uncertainty held against errors."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from crossmoda.evaluation.calibration import Calibration, calibration_of

MEASURED = Calibration((0.1, 0.4, 0.2, 0.3, 0.5), (0.9, 0.5, 0.7, 0.8, 0.2), "five scans")


def test_the_rank_correlation_is_that_of_the_ranks() -> None:
    # Ranks of uncertainty 1 4 2 3 5, of error 1 4 3 2 5: 1 - 6 * (0 + 0 + 1 + 1 + 0) / (5 * 24)
    assert MEASURED.spearman == pytest.approx(0.9)
    assert np.isnan(Calibration((0.1, 0.1), (0.2, 0.9), "").spearman)


@pytest.mark.parametrize(
    ("uncertainty", "expected"),
    [(0.1, 0.9), (0.2, 0.75), (0.3, 0.75), (0.25, 0.75), (0.45, 0.35), (0.0, 0.9), (0.5, 0.2)],  # .7 and .8 are pooled
)
def test_the_expected_dice_falls_with_uncertainty(uncertainty: float, expected: float) -> None:
    assert MEASURED.expected_dice(uncertainty) == pytest.approx(expected)


def test_nothing_is_foretold_of_a_scan_that_is_less_sure_than_any_measured() -> None:
    assert MEASURED.expected_dice(0.51) is None


def test_it_is_told_and_read_again() -> None:
    assert Calibration.from_json(json.loads(json.dumps(MEASURED.as_json()))) == MEASURED


def test_cases_without_truth_or_uncertainty_do_not_count() -> None:
    cases: list[dict[str, Any]] = [
        {"case": f"c{n}", "vs": {"dice": n / 10}, "cochlea": {"dice": 0.5}} for n in range(6)
    ]
    cases[1].pop("vs")
    uncertainties = {f"c{n}": 0.1 * n for n in range(5)} | {"other": 0.9}
    found = calibration_of(uncertainties, cases, ["vs", "cochlea"], "six scans")
    assert found is not None
    assert found.uncertainty == pytest.approx((0.0, 0.1, 0.2, 0.3, 0.4))
    assert found.dice == pytest.approx((0.25, 0.5, 0.35, 0.4, 0.45))
    assert calibration_of(dict(list(uncertainties.items())[:4]), cases, ["vs", "cochlea"], "") is None
