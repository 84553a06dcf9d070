"""Which configuration and post-processing did best on the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crossmoda.evaluation.aggregate import summarise_cases
from crossmoda.self_training.cross_validation.settings import NONE

DIGITS = 6  # of Dice and mm that are compared: what differs beyond them is rounding
LOSS = 10.0**-DIGITS


@dataclass(frozen=True)
class Result:
    """What one configuration with one post-processing reached on all left-out cases together.

    Attributes:
        configuration: its name.
        postprocessing: its name.
        structures: ``{structure: {metric: summary}}`` as in ``metrics.json``.
        dice: mean over the network's structures of their mean Dice.
        assd: the same of the average symmetric surface distance, mm; 350 for a missed structure, as in the challenge.
    """

    configuration: str
    postprocessing: str
    structures: Mapping[str, Mapping[str, Mapping[str, float]]]
    dice: float
    assd: float

    def described(self) -> dict[str, Any]:
        """Return the result for a JSON file."""
        return dict(vars(self))


def sum_up(
    configuration: str, postprocessing: str, cases: Sequence[dict[str, Any]], structures: Sequence[str]
) -> Result:
    """Return the result over cases of all folds, each ``{"case", <structure>: {metric: value}}``."""
    summary = summarise_cases(cases)

    def mean(metric: str) -> float:
        return round(float(np.mean([summary[name][metric]["mean"] for name in structures])), DIGITS)

    return Result(configuration, postprocessing, summary, mean("dice"), mean("assd"))


def choose(results: Sequence[Result], structures: Sequence[str]) -> tuple[Result, str]:
    """Return the best result, and why it is.

    The highest mean Dice wins; at equal Dice the shorter mean surface distance; at equal distance the one named first,
    which should be the simpler. A post-processing takes part only where no structure's mean Dice is lower with it than
    without any, in the same configuration: nnU-Net asks the same, so that a gain in one structure does not hide a loss
    in another. nnU-Net chooses the configuration before the post-processing; here both are chosen together, because
    pieces that a post-processing takes away say nothing against a network.

    Args:
        results: configurations and post-processings in the order of the settings; each configuration has one with the
            post-processing ``none``.
        structures: whose Dice may not fall.
    """
    admitted = [result for result in results if not losses(result, results, structures)]
    best = min(admitted, key=rank)  # the first of equals
    ties = [result for result in admitted if result is not best and result.dice == best.dice]
    reason = f"highest mean Dice ({best.dice:.4f}) of {len(admitted)} that lose on no structure"
    if ties:
        nearer = all(result.assd > best.assd for result in ties)
        reason += "; at equal Dice " + ("the shorter surface distance" if nearer else "the one named first")
    return best, reason


def rank(result: Result) -> tuple[float, float]:
    """Return what results are sorted by, the best first."""
    return (-result.dice, result.assd)


def losses(result: Result, results: Sequence[Result], structures: Sequence[str]) -> list[str]:
    """Return the structures on which a post-processing does worse than none, in the same configuration."""
    plain = next(r for r in results if r.configuration == result.configuration and r.postprocessing == NONE)

    def dice(of: Result, name: str) -> float:
        return of.structures[name]["dice"]["mean"]

    return [name for name in structures if dice(result, name) < dice(plain, name) - LOSS]
