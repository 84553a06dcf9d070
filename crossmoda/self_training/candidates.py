"""What a rule is shown of a predicted label, what it can make of it, and how that is told.

A rule is a frozen dataclass, so that a run can write down which rules it used and build them again. It is shown what
is known of all cases first (``prepare``) and then each candidate by itself, so that memory does not grow with the
number of cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor

from crossmoda.data.volumes import voxel_volume_mm3
from crossmoda.errors import CrossmodaError
from crossmoda.labels import PARTS, mask_of, model_labels

# What a rule did, or found, about a case.
LEFT_OUT = "left out"
STRUCTURE_LEFT_OUT = "structure left out"
CHANGED = "changed"
WEIGHTED = "weighted"
PASSED = "passed"

# Which overlay of the segmentation bundle writes what rules read: NAME.json {case: ...}, or maps <case>_NAME.nii.gz.
WRITTEN_BY = {
    "uncertainty": "uncertainty.yaml",
    "mutual_information": "mutual_information.yaml",
    "disagreement": "votes.yaml",
    "confidence": "confidence.yaml",
    "crf_agreement": "crf.yaml and crf_agreement.yaml",
}
CASE_SCORES = ("uncertainty", "mutual_information", "disagreement")  # one number a case, 0 (sure) to 1
VOXEL_MAPS = ("uncertainty", "mutual_information", "confidence")  # 0 (sure) to 1, the last the other way round


@dataclass(frozen=True)
class Finding:
    """What one rule did to a case, or measured, in words with the figure and the limit.

    Args:
        rule: name of its class.
        effect: "left out", "structure left out", "changed", "weighted" or "passed".
        text: for people.
    """

    rule: str
    effect: str
    text: str


@dataclass(frozen=True)
class Candidate:
    """A predicted label on its way to become a pseudo-label.

    Args:
        case: the target case.
        label: (X, Y, Z) uint8 on the image's own grid, numbered as ``model_labels(structures)``.
        structures: names in the order of the numbers.
        uncertainty: 0 (sure) to 1, over the whole case.
        spacing_mm: of the voxels along the label's axes.
        image: the scan (X, Y, Z) on the same grid, for rules that look at it.
        weight: the case's share in the loss; 0 leaves it out.
        findings: what was done to it and why, for the datalist and the report.
        affine: (4, 4), voxels to RAS+ mm; by default that of upright axes with ``spacing_mm``.
        measures: what else the prediction was measured by, name -> value, see ``WRITTEN_BY``.
        maps: voxelwise, name -> (X, Y, Z), see ``VOXEL_MAPS``.
        confidence: how far each voxel is trusted, (X, Y, Z) from 0 to 1; None trusts all.
        structure_weights: how far a structure's label is trusted, 0 (as if nobody had drawn it) to 1, where not 1.
    """

    case: str
    label: np.ndarray
    structures: tuple[str, ...]
    uncertainty: float
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    image: np.ndarray | None = None
    weight: float = 1.0
    findings: tuple[Finding, ...] = ()
    affine: np.ndarray | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    confidence: np.ndarray | None = None
    structure_weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What was done to the case and why; what it merely passed is not told."""
        return tuple(finding.text for finding in self.findings if finding.effect != PASSED)

    def mask(self, structure: str) -> np.ndarray:
        """Return a structure's boolean mask (X, Y, Z)."""
        return mask_of(structure, self.label, model_labels(self.structures))

    def seeks(self, structure: str) -> bool:
        """Return whether the model that made the label tells this structure, or all of its parts, apart."""
        parts = PARTS.get(structure, (structure,))
        return structure in self.structures or all(part in self.structures for part in parts)

    def trusts(self, structure: str) -> bool:
        """Return whether the model seeks the structure and no rule has left out it or the whole that it is part of."""
        wholes = [whole for whole, parts in PARTS.items() if structure in parts]
        return self.seeks(structure) and all(self.structure_weights.get(name, 1) > 0 for name in (structure, *wholes))

    def world(self) -> np.ndarray:
        """Return the affine (4, 4), voxels to RAS+ mm."""
        return np.diag([*self.spacing_mm, 1.0]) if self.affine is None else self.affine

    def mm3(self, structure: str) -> float:
        """Return a structure's volume."""
        return float(self.mask(structure).sum()) * voxel_volume_mm3(self.world())

    def label_map(self) -> MetaTensor:
        """Return a copy of the label as MONAI's transforms take it, (1, X, Y, Z) with its affine."""
        return MetaTensor(torch.from_numpy(self.label[None].copy()), affine=torch.from_numpy(self.world().copy()))

    def measure(self, name: str) -> Any:
        """Return what the prediction was measured by.

        Raises:
            CrossmodaError: it was not.
        """
        if name == "uncertainty":
            return self.uncertainty
        if name not in self.measures:
            raise CrossmodaError(f"{self.case}: {not_written(name)}")
        return self.measures[name]

    def found(self, effect: str, text: str, **changes: Any) -> Candidate:
        """Return the candidate with changes and what is told of them; ``apply_rules`` notes whose finding it is."""
        return replace(self, findings=(*self.findings, Finding("", effect, text)), **changes)

    def relabelled(self, label: np.ndarray, reason: str) -> Candidate:
        """Return the candidate with another label (X, Y, Z) of the same numbers, for this reason."""
        return self.found(CHANGED, reason, label=label.astype(np.uint8))

    def rejected(self, reason: str) -> Candidate:
        """Return the candidate left out, for this reason."""
        return self.found(LEFT_OUT, reason, weight=0.0)

    def weighted(self, factor: float, reason: str) -> Candidate:
        """Return the candidate with its weight times a factor, for this reason."""
        return self.found(WEIGHTED, reason, weight=self.weight * factor)

    def without(self, structure: str, reason: str) -> Candidate:
        """Return the candidate with a structure as if nobody had drawn it; left out if none is trusted after that."""
        left = replace(self, structure_weights={**self.structure_weights, structure: 0.0})
        if not any(left.trusts(name) for name in self.structures):
            return self.rejected(f"{reason}; no other structure is left")
        return left.found(STRUCTURE_LEFT_OUT, reason)

    def trusting(self, confidence: np.ndarray, reason: str) -> Candidate:
        """Return the candidate with each voxel trusted less, (X, Y, Z) from 0 to 1, for this reason."""
        together = confidence if self.confidence is None else self.confidence * confidence
        return self.found(WEIGHTED, reason, confidence=together)

    def passed(self, figure: str) -> Candidate:
        """Return the candidate as it was, with what a rule measured and allows."""
        return self.found(PASSED, figure)


@dataclass(frozen=True)
class Cohort:
    """What rules may know of all cases before they judge one.

    Args:
        measures: name (see ``CASE_SCORES``) -> case -> value, of the target cases.
        source_mm3: returns a structure's volume in every source label that shows it.
    """

    measures: Mapping[str, Mapping[str, Any]]
    source_mm3: Callable[[str], Sequence[float]] = lambda structure: ()


@dataclass(frozen=True)
class Needs:
    """What a rule reads and writes beside labels and scans.

    Args:
        measures: names of measurements of the predictions.
        maps: names of voxelwise maps.
        source_labels: whether it looks at the labels of the source scans.
        trust: whether it writes confidence maps or structure weights, which not every training reads.
    """

    measures: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()
    source_labels: bool = False
    trust: bool = False


@dataclass(frozen=True)
class Rule:
    """Leave a candidate as it is; the base of all rules."""

    def needs(self) -> Needs:
        """Return what the rule reads and writes beside labels and scans; most need nothing."""
        return Needs()

    def prepare(self, cohort: Cohort) -> Rule:
        """Return the rule that knows what it has to of all cases; most need nothing."""
        return self

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate, changed or not."""
        return candidate


@dataclass(frozen=True)
class Verdict:
    """Whether a structure meets a requirement, with the figure and the limit."""

    structure: str
    met: bool
    text: str


@dataclass(frozen=True)
class Requirement(Rule):
    """Leave out what does not meet a requirement; the base of rules that judge structures one by one.

    Args:
        by_structure: leave out a structure that fails instead of the whole case, which is then learnt from as if nobody
            had drawn that structure (``structure_weights`` in the datalist). The segmenter must be trained with
            ``variant_partial_labels.yaml``.
    """

    by_structure: bool = field(default=False, kw_only=True)

    def needs(self) -> Needs:
        """Return that structure weights are written where structures are judged by themselves."""
        return Needs(trust=self.by_structure)

    def judge(self, candidate: Candidate) -> Iterator[Verdict]:
        """Yield what is found of each structure that can be judged."""
        yield from ()

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate, without what failed."""
        verdicts = list(self.judge(candidate))
        failed = [verdict for verdict in verdicts if not verdict.met]
        if failed and not self.by_structure:
            return candidate.rejected("; ".join(verdict.text for verdict in failed))
        for verdict in verdicts:
            if candidate.weight > 0 and verdict.met:
                candidate = candidate.passed(verdict.text)
            elif candidate.weight > 0 and candidate.trusts(verdict.structure):
                candidate = candidate.without(verdict.structure, verdict.text)
        return candidate


def apply_rules(candidate: Candidate, rules: Sequence[Rule]) -> Candidate:
    """Apply the rules in order; a rejected candidate is not shown to the rest."""
    for rule in rules:
        if candidate.weight > 0:
            candidate = _signed(rule(candidate), type(rule).__name__)
    return candidate


def _signed(candidate: Candidate, rule: str) -> Candidate:
    """Return the candidate with the rule's name at the findings that have none yet."""
    findings = tuple(replace(finding, rule=finding.rule or rule) for finding in candidate.findings)
    return replace(candidate, findings=findings)


def not_written(name: str) -> str:
    """Return what is missing where a measurement is, and how to get it."""
    return (
        f"its prediction has no '{name}', which a rule asks for; add {WRITTEN_BY[name]} of the segmentation bundle to "
        "segmenter_inference_overlays, or take the rule out"
    )


def require_above_0(rule: Rule, *names: str) -> None:
    """Refuse settings of a rule that are not above 0."""
    for name in names:
        if getattr(rule, name) <= 0:
            raise CrossmodaError(f"{type(rule).__name__}: {name} is {getattr(rule, name)}, but must be above 0")


def require_shares(rule: Rule, *names: str) -> None:
    """Refuse settings of a rule that are not from 0 to 1."""
    for name in names:
        if not 0 <= getattr(rule, name) <= 1:
            raise CrossmodaError(f"{type(rule).__name__}: {name} is {getattr(rule, name)}, but must be from 0 to 1")


def require_choice(rule: Rule, name: str, choices: Sequence[str]) -> None:
    """Refuse a setting of a rule that is none of the choices."""
    if getattr(rule, name) not in choices:
        raise CrossmodaError(
            f"{type(rule).__name__}: {name} is '{getattr(rule, name)}', but must be one of {', '.join(choices)}"
        )
