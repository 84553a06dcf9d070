"""How well a model's uncertainty foretells its errors: rank correlation, and what Dice to expect at an uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import spearmanr

LEAST_CASES = 5  # fewer say nothing about an order


@dataclass(frozen=True)
class Calibration:
    """Hold how uncertain a model was of scans whose truth is known, and how right.

    Args:
        uncertainty: of each scan, 0 (sure) to 1.
        dice: of each scan, in the same order, mean over structures.
        measured_on: which scans, for people.
    """

    uncertainty: tuple[float, ...]
    dice: tuple[float, ...]
    measured_on: str

    @property
    def spearman(self) -> float:
        """Spearman's rank correlation of uncertainty and error (1 - Dice); not a number where one never changes."""
        if len(set(self.uncertainty)) < 2 or len(set(self.dice)) < 2:
            return float("nan")
        return float(spearmanr(self.uncertainty, 1 - np.asarray(self.dice)).statistic)

    def expected_dice(self, uncertainty: float) -> float | None:
        """Return the Dice to expect of a scan: never more for a greater uncertainty (isotonic regression).

        Linear between the scans that are known, and as of the surest one where the model is surer still; None where it
        is less sure than of any that is known.
        """
        if uncertainty > max(self.uncertainty):
            return None
        order = np.argsort(self.uncertainty, kind="stable")
        falling = isotonic_regression(np.asarray(self.dice)[order], increasing=False).x
        return float(np.interp(uncertainty, np.asarray(self.uncertainty)[order], falling))

    def as_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return {
            **asdict(self),
            "uncertainty": [round(value, 5) for value in self.uncertainty],
            "dice": [round(value, 4) for value in self.dice],
        }

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Calibration:
        """Return what ``as_json`` has told."""
        return cls(tuple(told["uncertainty"]), tuple(told["dice"]), str(told["measured_on"]))


def calibration_of(
    uncertainties: Mapping[str, float], cases: Sequence[Mapping[str, Any]], structures: Sequence[str], measured_on: str
) -> Calibration | None:
    """Return a model's calibration, or None where fewer than ``LEAST_CASES`` scans have a truth and an uncertainty.

    Args:
        uncertainties: of scans, by case.
        cases: of a ``metrics.json``: ``case``, and by structure ``dice``.
        structures: over which Dice is averaged; a case without one of them is averaged over the others.
        measured_on: which scans, for people.
    """
    known = [case for case in cases if case["case"] in uncertainties and any(name in case for name in structures)]
    if len(known) < LEAST_CASES:
        return None
    dice = [float(np.mean([case[name]["dice"] for name in structures if name in case])) for case in known]
    return Calibration(tuple(uncertainties[case["case"]] for case in known), tuple(dice), measured_on)
