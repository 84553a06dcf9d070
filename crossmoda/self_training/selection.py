"""Rules that decide what becomes of a predicted label before the next round learns from it.

A rule is a frozen dataclass, so that a run can write down which rules it used and build them again. It is shown all
cases' uncertainty first (``prepare``) and then each candidate by itself, so that memory does not grow with the number
of cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.transforms import KeepLargestConnectedComponent as MonaiKeepLargest

from crossmoda.errors import CrossmodaError
from crossmoda.labels import PARTS, mask_of, model_labels
from crossmoda.segmentation.anatomy import NEAR_MM, nearest_mm
from crossmoda.segmentation.contrast import refine_by_contrast, without_fluid


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
        reasons: what was done to it and why, for the datalist and the report.
    """

    case: str
    label: np.ndarray
    structures: tuple[str, ...]
    uncertainty: float
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    image: np.ndarray | None = None
    weight: float = 1.0
    reasons: tuple[str, ...] = ()

    def mask(self, structure: str) -> np.ndarray:
        """Return a structure's boolean mask (X, Y, Z)."""
        return mask_of(structure, self.label, model_labels(self.structures))

    def seeks(self, structure: str) -> bool:
        """Return whether the model that made the label tells this structure, or all of its parts, apart."""
        parts = PARTS.get(structure, (structure,))
        return structure in self.structures or all(part in self.structures for part in parts)

    def relabelled(self, label: np.ndarray, reason: str) -> Candidate:
        """Return the candidate with another label (X, Y, Z) of the same numbers, for this reason."""
        return replace(self, label=label.astype(np.uint8), reasons=(*self.reasons, reason))

    def rejected(self, reason: str) -> Candidate:
        """Return the candidate left out, for this reason."""
        return replace(self, weight=0.0, reasons=(*self.reasons, reason))


@dataclass(frozen=True)
class Rule:
    """Leave a candidate as it is; the base of all rules."""

    def prepare(self, uncertainties: Mapping[str, float]) -> Rule:
        """Return the rule that knows all cases' uncertainties; most rules do not need them."""
        return self

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate, changed or not."""
        return candidate


def _require_above_0(rule: Rule, *names: str) -> None:
    for name in names:
        if getattr(rule, name) <= 0:
            raise CrossmodaError(f"{type(rule).__name__}: {name} is {getattr(rule, name)}, but must be above 0")


def _require_shares(rule: Rule, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(rule, name) <= 1:
            raise CrossmodaError(f"{type(rule).__name__}: {name} is {getattr(rule, name)}, but must be from 0 to 1")


@dataclass(frozen=True)
class KeepLargestComponent(Rule):
    """Keep the largest connected component (26 neighbours) of each named structure: a patient has one VS.

    Cards B, C and D of the recipes keep the largest tumour component. The cochlea has two sides and is left alone.
    """

    structures: tuple[str, ...] = ("vs",)

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate without the smaller components."""
        numbers = model_labels(candidate.structures)
        keep = MonaiKeepLargest(applied_labels=[numbers[name] for name in self.structures if name in numbers])
        label = np.asarray(keep(torch.from_numpy(candidate.label[None].astype(np.int16))))[0]
        removed = int((label != candidate.label).sum())
        if not removed:
            return candidate
        return candidate.relabelled(
            label, f"{removed} voxels outside the largest component of {', '.join(self.structures)} removed"
        )


@dataclass(frozen=True)
class RefineByContrast(Rule):
    """Move a bright structure in dark surroundings, and then its border, to where the real scan shows it.

    A segmenter taught by translated scans finds the cochlea, but half a millimetre beside its place and not quite where
    it ends, and the next round would learn that. On the real scan the fluid in bone shows it. Chen 2023 does so after
    each round ("contrast post-processing" of the cochlea, card C, which leaves the how open; its default is Otsu's
    threshold within two voxels of the label); here by ``refine_by_contrast``. The defaults were chosen on synthetic
    scans with their truth: the demo's target scans and 24 others.

    Args:
        structure: to refine, each of its components by itself; a model that does not seek it is left alone.
        shift_mm: how far each component may first be moved as a whole, 0 for not at all. A translator cannot know
            where the cochlea lies, since ceT1 hardly shows it; segmenters learn from what it draws beside the label.
        distance_mm: how far the border may then move outwards.
        context_mm: how far around a component the signal is looked at.
        threshold_share: of the way from bone's signal to the fluid's, from 0 to 1. A voxel half filled by fluid lies at
            0.5; lower, since readers count the cochlea's thin walls too.
        closing_mm: radius of the closing over what is dark within the structure: modiolus and bone between the turns.

    Raises:
        CrossmodaError: a distance is not above 0, or the share is not from 0 to 1.
    """

    structure: str = "cochlea"
    shift_mm: float = 1.3
    distance_mm: float = 0.8
    context_mm: float = 2.5
    threshold_share: float = 0.3
    closing_mm: float = 1.6

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.shift_mm < 0:
            raise CrossmodaError(f"RefineByContrast: shift_mm is {self.shift_mm}, but must not be below 0")
        _require_above_0(self, "distance_mm", "context_mm", "closing_mm")
        _require_shares(self, "threshold_share")

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate with the structure redrawn; other structures keep their voxels."""
        numbers = model_labels(candidate.structures)
        if self.structure not in numbers or candidate.image is None:
            return candidate
        before = candidate.mask(self.structure)
        allowed = candidate.label == 0
        settings = (self.shift_mm, self.distance_mm, self.context_mm, self.threshold_share, self.closing_mm)
        after = refine_by_contrast(before, candidate.image, candidate.spacing_mm, allowed, *settings)
        changed = int((before != after).sum())
        if not changed:
            return candidate
        return candidate.relabelled(
            np.where(after, numbers[self.structure], np.where(before, 0, candidate.label)),
            f"{self.structure} redrawn by contrast, {changed / before.sum():.0%} of its voxels changed",
        )


@dataclass(frozen=True)
class TakeAwayFluid(Rule):
    """Take from a tumour the cistern's and the canal's fluid that was counted in, and the brain beyond that fluid.

    Chen 2023 keeps the darker-than-CSF part of the intra-meatal VS ("contrast post-processing", card C, which leaves
    the how open; its default is Otsu's threshold); here that of the whole VS, by ``without_fluid``. The defaults were
    chosen on synthetic scans with their truth: the demo's target and validation scans and 24 others.

    Args:
        structure: to trim; a model that does not seek it is left alone.
        origin: beside which it grows; where a model does not seek it, what lies beyond fluid is not taken.
        threshold_share: of the way from the core's signal to the fluid's, from 0 to 1.
        least_contrast: between core and fluid, as a share of what lies between bone and fluid, from 0 to 1; a tumour
            that is about as bright as fluid is left alone.
        least_separation: the same contrast in interquartile ranges of the core's signal; a mixed tumour is left alone,
            unless it is small.
        small_ml: volume of a small tumour, in which a mixed core means that fluid fills much of the label.
        smoothing_mm: standard deviation of the Gaussian that keeps noise out of the border.
        opening_mm: radius of the opening, which takes away what is nowhere deeper than this.

    Raises:
        CrossmodaError: a length is not above 0, or a share is not from 0 to 1.
    """

    structure: str = "vs"
    origin: str = "cochlea"
    threshold_share: float = 0.3
    least_contrast: float = 0.2
    least_separation: float = 2.5
    small_ml: float = 1.0
    smoothing_mm: float = 0.3
    opening_mm: float = 0.9

    def __post_init__(self) -> None:
        """Check the settings."""
        _require_above_0(self, "least_separation", "smoothing_mm", "opening_mm")
        _require_shares(self, "threshold_share", "least_contrast")
        if self.small_ml < 0:
            raise CrossmodaError(f"TakeAwayFluid: small_ml is {self.small_ml}, but must not be below 0")

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate without the fluid in its structure; other structures keep their voxels."""
        if candidate.image is None or not candidate.seeks(self.structure):
            return candidate
        before = candidate.mask(self.structure)
        taken = before & ~without_fluid(
            before,
            candidate.image,
            candidate.spacing_mm,
            candidate.mask(self.origin) if candidate.seeks(self.origin) else np.zeros_like(before),
            threshold_share=self.threshold_share,
            least_contrast=self.least_contrast,
            least_separation=self.least_separation,
            small_ml=self.small_ml,
            smoothing_mm=self.smoothing_mm,
            opening_mm=self.opening_mm,
        )
        if not taken.any():
            return candidate
        return candidate.relabelled(
            np.where(taken, 0, candidate.label),
            f"{taken.sum() / before.sum():.0%} of the {self.structure} taken away as fluid or beyond it",
        )


@dataclass(frozen=True)
class RequireStructures(Rule):
    """Leave out a case in which a structure was not found: card A keeps non-empty predictions only."""

    structures: tuple[str, ...] = ("vs", "cochlea")

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate, rejected if a structure is empty."""
        missing = [name for name in self.structures if not candidate.mask(name).any()]
        return candidate.rejected(f"no {' and no '.join(missing)} found") if missing else candidate


@dataclass(frozen=True)
class RequireNear(Rule):
    """Leave out a case in which one structure lies far from another: a VS grows from the canal beside the cochlea.

    Step 6 of card A bounds the distance of VS and nearest cochlea by 40 mm. Between their nearest voxels, which is what
    counts here, it is 8.5 mm in the one real crossMoDA case at hand and 1 to 8 mm in the phantom, where false tumours
    of the first round lay 11 mm and farther.

    Args:
        structure: what must lie near.
        other: near what.
        distance_mm: largest distance between their nearest voxel centres.
    """

    structure: str = "vs"
    other: str = "cochlea"
    distance_mm: float = NEAR_MM

    def __post_init__(self) -> None:
        """Check the distance."""
        _require_above_0(self, "distance_mm")

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate, rejected if the two are far apart; where one is not found or not sought, it stays."""
        try:
            masks = [candidate.mask(name) for name in (self.structure, self.other)]
        except CrossmodaError:  # a model of the tumour alone has no cochlea to measure from
            return candidate
        if not all(mask.any() for mask in masks):
            return candidate
        nearest = nearest_mm(masks[0], masks[1], candidate.spacing_mm)
        if nearest <= self.distance_mm:
            return candidate
        return candidate.rejected(f"{self.structure} {nearest:.0f} mm from the nearest {self.other}")


@dataclass(frozen=True)
class RejectMostUncertain(Rule):
    """Leave out the given share of the cases, the most uncertain ones.

    Args:
        fraction: from 0 (none) to below 1.
        threshold: filled in by ``prepare``.
    """

    fraction: float = 0.1
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check the fraction."""
        if not 0 <= self.fraction < 1:
            raise CrossmodaError(f"RejectMostUncertain: fraction is {self.fraction}, but must be from 0 to below 1")

    def prepare(self, uncertainties: Mapping[str, float]) -> Rule:
        """Return the rule with the highest uncertainty that is still accepted."""
        accepted = int(np.ceil(len(uncertainties) * (1 - self.fraction)))
        ranked = sorted(uncertainties.values())
        return replace(self, threshold=ranked[accepted - 1]) if accepted else self

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate, rejected if it is among the most uncertain."""
        if self.threshold is None or candidate.uncertainty <= self.threshold:
            return candidate
        return candidate.rejected(f"uncertainty {candidate.uncertainty:.3f} above {self.threshold:.3f}")


@dataclass(frozen=True)
class WeightByCertainty(Rule):
    """Multiply a case's weight by ``(1 - uncertainty) ** power``, so that doubtful pseudo-labels teach less."""

    power: float = 1.0

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate with its new weight."""
        return replace(candidate, weight=candidate.weight * (1.0 - candidate.uncertainty) ** self.power)


def apply_rules(candidate: Candidate, rules: Sequence[Rule]) -> Candidate:
    """Apply the rules in order; a rejected candidate is not shown to the rest."""
    for rule in rules:
        if candidate.weight > 0:
            candidate = rule(candidate)
    return candidate
