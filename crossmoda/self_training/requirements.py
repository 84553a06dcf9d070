"""Rules that leave out a case, or one of its structures, that cannot be right or is not sure enough."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.anatomy import NEAR_MM, nearest_mm
from crossmoda.segmentation.plausibility import APART_MM, DROPPED_VS, RULES, check_anatomy, tell_failed, tell_found
from crossmoda.self_training.candidates import (
    Candidate,
    Cohort,
    Needs,
    Requirement,
    Verdict,
    require_above_0,
    require_choice,
    require_shares,
)


@dataclass(frozen=True)
class RequireStructures(Requirement):
    """Leave out a case in which a structure was not found: card A keeps non-empty predictions only.

    Args:
        structures: that must be found; all must be sought by the model.
        by_structure: see ``Requirement``.
    """

    structures: tuple[str, ...] = ("vs", "cochlea")

    def judge(self, candidate: Candidate) -> Iterator[Verdict]:
        """Yield whether each structure is there."""
        for name in self.structures:
            found = candidate.mask(name).any()
            if not candidate.trusts(name):
                continue  # left out already
            yield Verdict(name, bool(found), f"{name} found" if found else f"no {name} found")


@dataclass(frozen=True)
class RequireNear(Requirement):
    """Leave out a case in which one structure lies far from another: a VS grows from the canal beside the cochlea.

    Step 6 of card A bounds the distance of VS and nearest cochlea by 40 mm. Between their nearest voxels, which is what
    counts here, it is 8.5 mm in the one real crossMoDA case at hand and 1 to 8 mm in the phantom, where false tumours
    of the first round lay 11 mm and farther. Where one of the two is not found, not sought, or left out already,
    nothing is judged.

    Args:
        structure: what must lie near, and is what fails.
        other: near what.
        distance_mm: largest distance between their nearest voxel centres.
        by_structure: see ``Requirement``.
    """

    structure: str = "vs"
    other: str = "cochlea"
    distance_mm: float = NEAR_MM

    def __post_init__(self) -> None:
        """Check the distance."""
        require_above_0(self, "distance_mm")

    def judge(self, candidate: Candidate) -> Iterator[Verdict]:
        """Yield whether the structure is near."""
        names = (self.structure, self.other)
        if not all(candidate.trusts(name) and candidate.mask(name).any() for name in names):
            return
        nearest = nearest_mm(candidate.mask(self.structure), candidate.mask(self.other), candidate.spacing_mm)
        text = (
            f"{self.structure} {nearest:.1f} mm from the nearest {self.other}, at most {self.distance_mm:g} mm allowed"
        )
        yield Verdict(self.structure, nearest <= self.distance_mm, text)


@dataclass(frozen=True)
class RequireVolume(Requirement):
    """Leave out a case whose structure is smaller or larger than allowed.

    Step 6 of card A asks for a VS between the smallest and the largest of the source's labels, which is what a limit
    stands for that is not given. A structure that is not found (see ``RequireStructures``), not sought, or left out
    already is not judged.

    Args:
        structure: whose volume counts, both cochleae together.
        least_mm3: smallest volume allowed; by default the smallest of the source's labels that show the structure.
        most_mm3: likewise the largest.
        by_structure: see ``Requirement``.

    Raises:
        CrossmodaError: a limit is below 0 or the two are crossed; when limits come from the source's labels, none shows
            the structure.
    """

    structure: str = "vs"
    least_mm3: float | None = None
    most_mm3: float | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        least, most = self.least_mm3 or 0.0, self.most_mm3
        if least < 0 or (most is not None and most < least):
            raise CrossmodaError(
                f"RequireVolume: least_mm3 {self.least_mm3} and most_mm3 {most} must be rising volumes from 0 up"
            )

    def needs(self) -> Needs:
        """Return that the source's labels are looked at where a limit is not given."""
        return Needs(source_labels=None in (self.least_mm3, self.most_mm3), trust=self.by_structure)

    def prepare(self, cohort: Cohort) -> RequireVolume:
        """Return the rule with limits filled in from the source's labels."""
        if not self.needs().source_labels:
            return self
        volumes = cohort.source_mm3(self.structure)
        if not volumes:
            raise CrossmodaError(
                f"RequireVolume: no source label shows the {self.structure}; give least_mm3 and most_mm3"
            )
        return replace(
            self,
            least_mm3=min(volumes) if self.least_mm3 is None else self.least_mm3,
            most_mm3=max(volumes) if self.most_mm3 is None else self.most_mm3,
        )

    def judge(self, candidate: Candidate) -> Iterator[Verdict]:
        """Yield whether the volume is allowed."""
        if not candidate.trusts(self.structure) or not (volume := candidate.mm3(self.structure)):
            return
        assert self.least_mm3 is not None
        assert self.most_mm3 is not None
        allowed = f"{self.least_mm3:.0f} to {self.most_mm3:.0f} mm3 allowed"
        met = self.least_mm3 <= volume <= self.most_mm3
        yield Verdict(self.structure, met, f"{self.structure} of {volume:.0f} mm3, {allowed}")


ANATOMY = tuple(rule for rule in RULES if rule != DROPPED_VS)  # what a pseudo-label itself shows


@dataclass(frozen=True)
class RequireAnatomy(Requirement):
    """Leave out a case that breaks a rule of anatomy: too many pieces, too small or large, too far away.

    The figures are those of ``crossmoda.segmentation.plausibility.check_anatomy``; step 6 of card A asks for a VS, two
    cochleae, a plausible volume of the VS and a VS near a cochlea. A structure that a rule has left out is not judged.

    Args:
        checks: which figures count, names of ``ANATOMY``; by default all that the model's structures allow.
        volumes_mm3: least and largest volume by structure, in place of ``plausibility.VOLUMES_MM3``; of the cochlea,
            for each side.
        distance_mm: largest, between the nearest voxel centres of VS and cochlea (card A: 40).
        apart_mm: least and largest distance of the cochleae's centres from left to right.
        by_structure: see ``Requirement``.

    Raises:
        CrossmodaError: a check is unknown, or limits are crossed or not above 0.
    """

    checks: Sequence[str] = ANATOMY
    volumes_mm3: Mapping[str, Sequence[float]] = field(default_factory=dict)
    distance_mm: float = NEAR_MM
    apart_mm: Sequence[float] = APART_MM

    def __post_init__(self) -> None:
        """Check the settings."""
        require_above_0(self, "distance_mm")
        unknown = [name for name in self.checks if name not in ANATOMY]
        if unknown:
            raise CrossmodaError(f"RequireAnatomy: no check '{unknown[0]}'; known are {', '.join(ANATOMY)}")
        for name, limits in {"apart_mm": self.apart_mm, **self.volumes_mm3}.items():
            if len(limits) != 2 or not 0 <= limits[0] <= limits[1]:
                raise CrossmodaError(f"RequireAnatomy: {name} {list(limits)} must be two rising numbers from 0 up")

    def judge(self, candidate: Candidate) -> Iterator[Verdict]:
        """Yield every figure, with the limits of those that fail."""
        report = check_anatomy(
            candidate.label_map(), candidate.structures, self.volumes_mm3, self.distance_mm, self.apart_mm
        )
        failed = {entry["rule"]: tell_failed(entry) for entry in report["failed"]}
        for name, value in report["found"].items():
            structure = RULES[name][0]
            if name in self.checks and candidate.trusts(structure):
                yield Verdict(structure, name not in failed, failed.get(name) or tell_found(name, value))


@dataclass(frozen=True)
class RequireProbability(Requirement):
    """Leave out a case of one of whose structures the segmenter is not sure enough.

    Chen 2023 (card C) selects pseudo-labels by a threshold on the largest class probability and does not give it; 0.9
    is the card's default. A structure without a single voxel that likely has nothing in it to learn from. Voxel by
    voxel the same threshold is that of ``TrustVoxels``. Read from what the segmentation bundle's ``confidence.yaml``
    writes. A structure that is not found, not sought, or left out already is not judged.

    Args:
        structures: to judge.
        least: probability.
        statistic: "max" or "mean", over the voxels of the predicted structure.
        by_structure: see ``Requirement``.

    Raises:
        CrossmodaError: the probability is not from 0 to 1, or the statistic is neither; at a call, a candidate's
            prediction was not measured.
    """

    structures: tuple[str, ...] = ("vs", "cochlea")
    least: float = 0.9
    statistic: str = "max"

    def __post_init__(self) -> None:
        """Check the settings."""
        require_shares(self, "least")
        require_choice(self, "statistic", ("max", "mean"))

    def needs(self) -> Needs:
        """Return that probabilities within structures are read."""
        return Needs(measures=("confidence",), trust=self.by_structure)

    def judge(self, candidate: Candidate) -> Iterator[Verdict]:
        """Yield whether each structure is sure enough."""
        measured = candidate.measure("confidence")
        kind = {"max": "largest", "mean": "mean"}[self.statistic]
        for name in self.structures:
            if candidate.trusts(name) and name in measured:
                value = measured[name][self.statistic]
                text = f"{kind} probability of the {name} {value:.3f}, at least {self.least:.3f} asked"
                yield Verdict(name, value >= self.least, text)


@dataclass(frozen=True)
class RequireAgreement(Requirement):
    """Leave out a case whose prediction a dense conditional random field changes much.

    Wu 2021 (card A) draws probabilities onto the image's edges by such a field, takes the outcome as the pseudo-label
    and then filters without saying how. The card's default, taken here: the Dice of the two must be above 0.7 for each
    structure, since a label that does not follow the scan's edges is hardly of what the scan shows. Read from what the
    segmentation bundle's ``crf_agreement.yaml``, after its ``crf.yaml``, writes. A structure that neither of the two
    has agrees; one that is not sought, or left out already, is not judged.

    Args:
        structures: to judge.
        above: Dice.
        by_structure: see ``Requirement``.

    Raises:
        CrossmodaError: the Dice is not from 0 to 1; at a call, a candidate's prediction was not measured.
    """

    structures: tuple[str, ...] = ("vs", "cochlea")
    above: float = 0.7

    def __post_init__(self) -> None:
        """Check the Dice."""
        require_shares(self, "above")

    def needs(self) -> Needs:
        """Return that the agreement is read."""
        return Needs(measures=("crf_agreement",), trust=self.by_structure)

    def judge(self, candidate: Candidate) -> Iterator[Verdict]:
        """Yield whether each structure agrees."""
        measured: Mapping[str, Any] = candidate.measure("crf_agreement")
        for name in self.structures:
            if candidate.trusts(name) and name in measured:
                value = measured[name]
                text = f"{name} agrees with its conditional random field by a Dice of {value:.3f}"
                yield Verdict(name, value > self.above, f"{text}, above {self.above:.3f} asked")
