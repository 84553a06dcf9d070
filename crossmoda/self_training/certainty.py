"""Rules that let doubtful cases and voxels teach less, or nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.candidates import (
    CASE_SCORES,
    VOXEL_MAPS,
    Candidate,
    Cohort,
    Needs,
    Rule,
    not_written,
    require_above_0,
    require_choice,
    require_shares,
)

STEPS = 1000  # confidence maps hold multiples of 1 / STEPS, as maps of uncertainty do, so that they compress


def _told(source: str) -> str:
    return source.replace("_", " ")


@dataclass(frozen=True)
class RejectMostUncertain(Rule):
    """Leave out the given share of the cases, the most uncertain ones.

    Wu's later work (after card A) ranks pseudo-labels by the uncertainty of dropout.

    Args:
        fraction: from 0 (none) to below 1.
        threshold: filled in by ``prepare``.
        source: what is ranked: "uncertainty" (of the average over mirrored copies, or an ensemble's members),
            "mutual_information" (how far these disagree) or "disagreement" (of votes).
    """

    fraction: float = 0.1
    threshold: float | None = None
    source: str = "uncertainty"

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 <= self.fraction < 1:
            raise CrossmodaError(f"RejectMostUncertain: fraction is {self.fraction}, but must be from 0 to below 1")
        require_choice(self, "source", CASE_SCORES)

    def needs(self) -> Needs:
        """Return that the score is read."""
        return Needs(measures=(self.source,))

    def prepare(self, cohort: Cohort) -> Rule:
        """Return the rule with the highest uncertainty that is still accepted."""
        ranked = sorted(_values(cohort, self.source).values())
        accepted = int(np.ceil(len(ranked) * (1 - self.fraction)))
        return replace(self, threshold=ranked[accepted - 1]) if accepted else self

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate, rejected if it is among the most uncertain."""
        if self.threshold is None:
            return candidate
        value = float(candidate.measure(self.source))
        text = f"{_told(self.source)} {value:.3f}, at most {self.threshold:.3f} allowed"
        if value <= self.threshold:
            return candidate.passed(text)
        return candidate.rejected(f"{text} ({self.fraction:.0%} of the cases are left out)")


@dataclass(frozen=True)
class RejectUncertain(Rule):
    """Leave out cases whose uncertainty is above a limit.

    Card C leaves out cases whose votes disagree by more than 0.7, which is the default with ``source: disagreement``.

    Args:
        limit: from 0 to 1, the highest that is accepted.
        source: as of ``RejectMostUncertain``.
    """

    limit: float = 0.7
    source: str = "uncertainty"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_shares(self, "limit")
        require_choice(self, "source", CASE_SCORES)

    def needs(self) -> Needs:
        """Return that the score is read."""
        return Needs(measures=(self.source,))

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate, rejected if it is too uncertain."""
        value = float(candidate.measure(self.source))
        text = f"{_told(self.source)} {value:.3f}, at most {self.limit:.3f} allowed"
        return candidate.passed(text) if value <= self.limit else candidate.rejected(text)


@dataclass(frozen=True)
class WeightByCertainty(Rule):
    """Multiply a case's weight by ``(1 - uncertainty) ** power``, so that doubtful pseudo-labels teach less."""

    power: float = 1.0

    def needs(self) -> Needs:
        """Return that the score is read."""
        return Needs(measures=("uncertainty",))

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate with its new weight."""
        factor = (1.0 - candidate.uncertainty) ** self.power
        return candidate.weighted(factor, f"uncertainty {candidate.uncertainty:.3f}: weight times {factor:.3f}")


@dataclass(frozen=True)
class WeightByUncertainty(Rule):
    """Multiply a case's weight by a function of its uncertainty, scaled to what is low and what is high.

    With v from 0 (at ``low`` and below) to 1 (at ``high`` and above) the factor is

    - linear: ``1 - (1 - least_weight) * v``,
    - exponential: ``least_weight ** v``, which falls fastest where doubt begins.

    Both are 1 at ``low`` and ``least_weight`` at ``high``. ``WeightByCertainty`` is the linear one down to 0.

    Args:
        form: "linear" or "exponential".
        least_weight: above 0 to 1.
        low: uncertainty of full weight; None for that of the surest case.
        high: uncertainty of the least weight; None for that of the least sure case, which then has the least weight
            however sure it is. Where no case is less sure than another, all have full weight.
        source: as of ``RejectMostUncertain``.

    Raises:
        CrossmodaError: a setting is not in its range.
    """

    form: str = "linear"
    least_weight: float = 0.1
    low: float | None = 0.0
    high: float | None = 1.0
    source: str = "uncertainty"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_choice(self, "form", ("linear", "exponential"))
        require_above_0(self, "least_weight")
        require_shares(self, "least_weight", *(name for name in ("low", "high") if getattr(self, name) is not None))
        require_choice(self, "source", CASE_SCORES)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise CrossmodaError(f"WeightByUncertainty: low {self.low} is above high {self.high}; swap them")

    def needs(self) -> Needs:
        """Return that the score is read."""
        return Needs(measures=(self.source,))

    def prepare(self, cohort: Cohort) -> Rule:
        """Return the rule with what is low and high among the cases."""
        values = list(_values(cohort, self.source).values())
        low = min(values, default=0.0) if self.low is None else self.low
        return replace(self, low=low, high=max(low, *values) if self.high is None else max(self.high, low))

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate with its new weight."""
        assert self.low is not None
        assert self.high is not None
        value = float(candidate.measure(self.source))
        span = self.high - self.low
        share = min(max((value - self.low) / span, 0.0), 1.0) if span > 0 else 0.0
        linear = 1 - (1 - self.least_weight) * share
        factor = linear if self.form == "linear" else math.exp(math.log(self.least_weight) * share)
        text = f"{_told(self.source)} {value:.3f} between {self.low:.3f} and {self.high:.3f}"
        return candidate.weighted(factor, f"{text}: weight times {factor:.3f}")


@dataclass(frozen=True)
class TrustVoxels(Rule):
    """Trust each voxel of the pseudo-label by how sure the segmenter was of it.

    Writes a ``confidence`` map for the next training, which must be one with ``variant_partial_labels.yaml``: the
    largest class probability (``confidence.yaml``), or 1 less the uncertainty. Card C keeps voxels whose largest
    probability is at least a threshold, and ignores the others in the loss; the paper does not give it, 0.9 is the
    card's default.

    Args:
        source: "confidence", "uncertainty" or "mutual_information", the names of maps beside the predictions.
        least: confidence below which a voxel is ignored, while all others count fully, from 0 to 1. With None a voxel
            counts by its confidence, for which the training's ``confidence_threshold`` must be null.
    """

    source: str = "confidence"
    least: float | None = 0.9

    def __post_init__(self) -> None:
        """Check the settings."""
        require_choice(self, "source", VOXEL_MAPS)
        if self.least is not None:
            require_shares(self, "least")

    def needs(self) -> Needs:
        """Return that the map is read and a confidence map written."""
        return Needs(maps=(self.source,), trust=True)

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate with a confidence map."""
        values = candidate.maps.get(self.source)
        if values is None:
            raise CrossmodaError(f"{candidate.case}: {not_written(self.source)}")
        sure = values if self.source == "confidence" else 1.0 - values
        sure = np.round(np.clip(sure, 0, 1) * STEPS).astype(np.float32) / np.float32(STEPS)
        labelled = candidate.label > 0
        if self.least is None:
            mean = f"{sure[labelled].mean():.3f}" if labelled.any() else "none"
            return candidate.trusting(sure, f"voxels weighted by {_told(self.source)}, mean in structures {mean}")
        kept = sure >= np.float32(self.least)
        text = (
            f"{1 - kept.mean():.1%} of all voxels and {_share(~kept, labelled)} of the structures' ignored: "
            f"{_limit(self.source, self.least)}"
        )
        return candidate.trusting(kept.astype(np.float32), text)


def _limit(source: str, least: float) -> str:
    if source == "confidence":
        return f"probability below {least:.3f}"
    return f"{_told(source)} above {1 - least:.3f}"


def _share(ignored: np.ndarray, within: np.ndarray) -> str:
    return f"{ignored[within].mean():.1%}" if within.any() else "none"


def _values(cohort: Cohort, source: str) -> Mapping[str, Any]:
    """Return all cases' scores.

    Raises:
        CrossmodaError: they have not been measured.
    """
    if source not in cohort.measures:
        raise CrossmodaError(f"the target cases: {not_written(source)}")
    return cohort.measures[source]
