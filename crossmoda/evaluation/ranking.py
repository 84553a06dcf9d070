"""The challenge's ranking of several systems, with how stable it is.

Rank then aggregate, as the challenge of 2021 to 2023 did (its website's page on evaluation, its published script of
2022): the systems are ranked in every case by every structure and metric, the best first, equal values sharing the
smallest rank; the mean of a system's ranks in a case is its rank there, and the mean of these over all cases its
cumulative rank. Of systems that tell the parts of the tumour apart, the parts, the boundary between them and the
cochlea are ranked (2023), of others the whole tumour and the cochlea. The challenge published no ranking code for 2023;
that the boundary counts as one more criterion beside Dice and ASSD follows the tables of that year's teams. The ASSD
that is ranked is ``assd``, with the distances of both directions pooled (see ``metrics``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.compare import holm, wilcoxon_p
from crossmoda.evaluation.metrics import BOUNDARY, HIGHER_IS_BETTER
from crossmoda.labels import COCHLEA, EXTRA, INTRA, STRUCTURES, VS

RESAMPLES = 1000  # of the cases, as many as the challenge drew
INTERVAL = (2.5, 97.5)  # percentiles
SAME_VOLUME = 1e-6  # relative; of one truth in two evaluations


@dataclass(frozen=True)
class Criterion:
    """What systems are ranked by in every case: a metric of a structure."""

    structure: str
    metric: str


_WHOLE = tuple(Criterion(structure, metric) for structure in (VS, COCHLEA) for metric in ("dice", "assd"))
_PARTS = tuple(Criterion(structure, metric) for structure in (EXTRA, INTRA, COCHLEA) for metric in ("dice", "assd"))
CRITERIA: dict[str, tuple[Criterion, ...]] = {
    "2021": _WHOLE,
    "2022": _WHOLE,
    "2023": (*_PARTS, Criterion(BOUNDARY, "assd")),
}

Metrics = Mapping[str, Any]  # what metrics.json holds
Array = NDArray[np.float64]


def rank_systems(
    systems: Mapping[str, Metrics], edition: str = "", seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Rank systems that were scored on the same cases.

    A case without a prediction counts as an empty one, since ``evaluate`` has scored it so (Dice 0, 350 mm). Systems
    that were scored on different cases are refused: leaving out the cases that one of them lacks would favour it.

    Args:
        systems: ``{name: content of metrics.json}``, two at least.
        edition: whose criteria count; by default 2023 where all systems tell the tumour's parts, else 2022.
        seed: of the bootstrap.
        resamples: of the bootstrap, each as many cases as there are, drawn with replacement.

    Returns:
        What ``ranking.json`` holds: ``edition``, ``criteria``, ``cases``, ``seed``, ``resamples``; ``systems`` in order
        of their place, each with ``name``, ``place``, ``cumulative_rank``, ``interval`` (95 %, over resamples),
        ``places`` (``{place: share of the resamples}``), ``sites`` (place and cumulative rank among a site's cases),
        ``criteria`` (mean rank and mean value of each), ``missing`` (cases without a prediction) and ``case_ranks``;
        ``neighbours``: each system against the next one, Wilcoxon's signed-rank test of the ranks per case, with Holm's
        correction over all pairs.

    Raises:
        CrossmodaError: fewer than two systems, other cases or another truth in one of them, a criterion that one lacks.
    """
    if len(systems) < 2:
        raise CrossmodaError("a ranking needs two systems at least; give NAME=metrics.json for each")
    cases, sites = _shared_cases(systems)
    edition = edition or _edition_of(systems)
    if edition not in CRITERIA:
        raise CrossmodaError(f"edition '{edition}' is not known; give one of {', '.join(CRITERIA)}")
    found = _Ranked(list(systems), cases, sites, CRITERIA[edition], _values(systems, cases, CRITERIA[edition]))
    drawn = found.resampled(seed, resamples)
    places = places_of(found.cumulative)
    order = sorted(range(len(systems)), key=lambda i: (places[i], found.names[i]))
    missing = [sorted(systems[name].get("missing", [])) for name in systems]
    return {
        "edition": edition,
        "criteria": [[criterion.structure, criterion.metric] for criterion in found.criteria],
        "cases": cases,
        "seed": seed,
        "resamples": resamples,
        "systems": [{**found.described(i), **_stability(drawn, i), "missing": missing[i]} for i in order],
        "neighbours": _neighbours([found.names[i] for i in order], found.case_ranks[order]),
    }


@dataclass(frozen=True)
class _Ranked:
    """Systems with their values (systems, cases, criteria), and what follows from these."""

    names: list[str]
    cases: list[str]
    sites: list[str]  # of the cases
    criteria: tuple[Criterion, ...]
    values: Array

    @cached_property
    def ranks(self) -> Array:
        """As ``values``."""
        return ranks_of(self.values, [HIGHER_IS_BETTER[criterion.metric] for criterion in self.criteria])

    @property
    def case_ranks(self) -> Array:
        """(systems, cases)."""
        return np.asarray(self.ranks.mean(axis=2))

    @property
    def cumulative(self) -> Array:
        """(systems,)."""
        return np.asarray(self.case_ranks.mean(axis=1))

    def resampled(self, seed: int, resamples: int) -> Array:
        """Return the cumulative ranks (systems, resamples) over cases drawn with replacement."""
        count = len(self.cases)
        draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
        return np.stack([own[draws].mean(axis=1) for own in self.case_ranks])

    def described(self, i: int) -> dict[str, Any]:
        """Return what the ranking says of the system number ``i``."""
        return {
            "name": self.names[i],
            "place": int(places_of(self.cumulative)[i]),
            "cumulative_rank": float(self.cumulative[i]),
            "sites": {site: self._among(np.array(self.sites) == site, i) for site in sorted(set(self.sites))},
            "criteria": self._by_criterion(i),
            "case_ranks": dict(zip(self.cases, map(float, self.case_ranks[i]), strict=True)),
        }

    def _among(self, cases: NDArray[np.bool_], i: int) -> dict[str, float]:
        cumulative = self.case_ranks[:, cases].mean(axis=1)
        return {"place": int(places_of(cumulative)[i]), "cumulative_rank": float(cumulative[i])}

    def _by_criterion(self, i: int) -> dict[str, dict[str, dict[str, float]]]:
        found: dict[str, dict[str, dict[str, float]]] = {}
        for number, criterion in enumerate(self.criteria):
            rank, mean = (float(of[i, :, number].mean()) for of in (self.ranks, self.values))
            found.setdefault(criterion.structure, {})[criterion.metric] = {"rank": rank, "mean": mean}
        return found


def _stability(drawn: Array, i: int) -> dict[str, Any]:
    """Return the interval of a system's cumulative rank, and in what share of the resamples it holds each place."""
    places = places_of(drawn)[i]
    shares = {str(place): float((places == place).mean()) for place in range(1, len(drawn) + 1)}
    return {"interval": [float(bound) for bound in np.percentile(drawn[i], INTERVAL)], "places": shares}


def ranks_of(values: Array, higher_is_better: Sequence[bool]) -> Array:
    """Return the rank of every system in every case by every criterion: 1 + how many systems are better.

    Args:
        values: (systems, cases, criteria).
        higher_is_better: for each criterion.

    Returns:
        The same shape; the best has 1, equal values share the smallest rank.
    """
    costs = np.where(np.asarray(higher_is_better), -values, values)
    return np.asarray([1.0 + (costs < own).sum(axis=0) for own in costs])


def places_of(cumulative: Array) -> NDArray[np.int_]:
    """Return the places of systems along the first axis; equal cumulative ranks share the better place."""
    rounded = np.round(cumulative, 9)  # sums in another order must not part what is equal
    return np.asarray([1 + (rounded < own).sum(axis=0) for own in rounded])


def _shared_cases(systems: Mapping[str, Metrics]) -> tuple[list[str], list[str]]:
    """Return the cases that all systems were scored on, and their sites; refuse other cases and another truth."""
    (first, reference), *others = ((name, _by_case(name, metrics)) for name, metrics in systems.items())
    for name, found in others:
        for one, other, lacking in ((first, name, reference.keys() - found), (name, first, found.keys() - reference)):
            if lacking:
                raise CrossmodaError(
                    f"{other}: lacks {len(lacking)} case(s) that {one} was scored on, {min(lacking)} among them; score "
                    "all systems on the same cases"
                )
        for case in reference:
            _require_same_truth(case, (first, reference[case]), (name, found[case]))
    cases = sorted(reference)
    return cases, [str(reference[case].get("site", "unknown")) for case in cases]


def _by_case(name: str, metrics: Metrics) -> dict[str, dict[str, Any]]:
    try:
        found = {case["case"]: case for case in metrics["cases"]}
    except (KeyError, TypeError) as error:
        raise CrossmodaError(f"{name}: holds no list of cases; give a metrics.json") from error
    if not found:
        raise CrossmodaError(f"{name}: holds no case; score its predictions first")
    return found


def _require_same_truth(case: str, *scored: tuple[str, dict[str, Any]]) -> None:
    (first, a), (second, b) = scored
    for structure in STRUCTURES:
        volumes = [float(found.get(structure, {}).get("truth_volume_mm3", np.nan)) for found in (a, b)]
        if abs(volumes[0] - volumes[1]) > SAME_VOLUME * max(volumes):  # never so where one has none
            raise CrossmodaError(
                f"{case}: {first} and {second} were scored against different truths ({structure} of {volumes[0]:.1f} "
                f"and {volumes[1]:.1f} mm3); score both against the same labels"
            )


def _edition_of(systems: Mapping[str, Metrics]) -> str:
    in_parts = all(structure in case for m in systems.values() for case in m["cases"] for structure in (INTRA, EXTRA))
    return "2023" if in_parts else "2022"


def _values(systems: Mapping[str, Metrics], cases: Sequence[str], criteria: Sequence[Criterion]) -> Array:
    """Return the values (systems, cases, criteria)."""

    def value(name: str, case: dict[str, Any], criterion: Criterion) -> float:
        found = case.get(criterion.structure, {}).get(criterion.metric)
        if found is None or not np.isfinite(found):
            raise CrossmodaError(
                f"{name}: case {case['case']} has no {criterion.metric} of '{criterion.structure}', which the ranking "
                "needs; score it with labels that tell it, or give another --edition"
            )
        return float(found)

    scored = {name: _by_case(name, metrics) for name, metrics in systems.items()}
    return np.array([[[value(name, of[case], c) for c in criteria] for case in cases] for name, of in scored.items()])


def _neighbours(names: Sequence[str], case_ranks: Array) -> list[dict[str, Any]]:
    # Ranks are means over criteria: equal differences may differ in the last bit, and would then not count as ties.
    differences = [np.round(case_ranks[j] - case_ranks[i], 9) for i, j in pairwise(range(len(names)))]
    p_values = [wilcoxon_p(difference) for difference in differences]
    return [
        {"first": first, "second": second, "difference": float(d.mean()), "p_wilcoxon": p, "p_holm": adjusted}
        for (first, second), d, p, adjusted in zip(pairwise(names), differences, p_values, holm(p_values), strict=True)
    ]
