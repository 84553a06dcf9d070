"""Paired statistics between two evaluations of the same cases: is B really better than A?"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from scipy import stats

from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.metrics import BOUNDARY, METRICS
from crossmoda.labels import STRUCTURES

RESAMPLES = 9999
CONFIDENCE = 0.95


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for testing all of them at once (Holm, Scandinavian Journal of Statistics 1979)."""
    count = len(p_values)
    adjusted = np.empty(count)
    largest = 0.0
    for position, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (count - position) * p_values[index]))
        adjusted[index] = largest
    return [float(p) for p in adjusted]


def paired_statistics(first: np.ndarray, second: np.ndarray, generator: np.random.Generator) -> dict[str, float]:
    """Return the paired comparison of two vectors of one metric over the same n >= 2 cases.

    Returns:
        ``mean_a``, ``mean_b``, ``difference`` (the mean of B minus A), ``low`` and ``high`` (95 % interval of the mean
        difference, percentile bootstrap over cases), ``p_t`` (paired t-test), ``p_wilcoxon`` (signed-rank),
        ``signed_ranks`` (the sum of ranks in favour of B less that in favour of A, which that test is about: a mean may
        point the other way) and ``n``. All differences equal to zero: both p are 1.
    """
    difference = second - first
    low, high = _bootstrap_interval(difference, generator)
    same, constant = not difference.any(), np.ptp(difference) == 0
    return {
        "mean_a": float(first.mean()),
        "mean_b": float(second.mean()),
        "difference": float(difference.mean()),
        "low": low,
        "high": high,
        "p_t": float(same) if constant else float(stats.ttest_rel(second, first).pvalue),
        "p_wilcoxon": wilcoxon_p(difference),
        "signed_ranks": signed_ranks(difference),
        "n": len(difference),
    }


def wilcoxon_p(difference: np.ndarray) -> float:
    """Return the p-value of Wilcoxon's signed-rank test of paired differences; 1 where all of them are zero."""
    return float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0


def signed_ranks(difference: np.ndarray) -> float:
    """Return the sum of the ranks of positive differences less that of negative ones; zeros are left out."""
    there = difference[difference != 0]
    return float((np.sign(there) * stats.rankdata(np.abs(there))).sum())


def _bootstrap_interval(difference: np.ndarray, generator: np.random.Generator) -> tuple[float, float]:
    draws = generator.integers(len(difference), size=(RESAMPLES, len(difference)))
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(difference[draws].mean(axis=1), [tail, 100 - tail])
    return float(low), float(high)


def compare_metrics(first: dict[str, Any], second: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    """Compare two evaluations (contents of ``metrics.json``) on the cases that both hold.

    Args:
        first: evaluation A.
        second: evaluation B.
        seed: of the bootstrap.

    Returns:
        ``{"cases": [...], "only_a": [...], "only_b": [...], "rows": [...]}``; a row names ``structure`` and ``metric``
        and holds what ``paired_statistics`` gives plus ``p_holm``, the Wilcoxon p adjusted over all rows.

    Raises:
        CrossmodaError: fewer than two cases or no metric in common.
    """
    a, b = ({case["case"]: case for case in metrics["cases"]} for metrics in (first, second))
    common = sorted(a.keys() & b.keys())
    if len(common) < 2:
        raise CrossmodaError(f"only {len(common)} case(s) in common and a paired test needs 2; score the same cases")
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for structure, metric in product((*STRUCTURES, BOUNDARY), METRICS):
        if all(metric in side[case].get(structure, {}) for side in (a, b) for case in common):
            first_values, second_values = (
                np.array([side[case][structure][metric] for case in common]) for side in (a, b)
            )
            statistics = paired_statistics(first_values, second_values, generator)
            rows.append({"structure": structure, "metric": metric, **statistics})
    if not rows:
        raise CrossmodaError("the two evaluations share no structure; score both with the same labels")
    for row, p_holm in zip(rows, holm([row["p_wilcoxon"] for row in rows]), strict=True):
        row["p_holm"] = p_holm
    return {"cases": common, "only_a": sorted(a.keys() - b.keys()), "only_b": sorted(b.keys() - a.keys()), "rows": rows}
