"""Rules that redraw a predicted label: one tumour, without fluid, and cochleae where the scan shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.transforms import KeepLargestConnectedComponent as MonaiKeepLargest

from crossmoda.errors import CrossmodaError
from crossmoda.labels import model_labels, numbers_of
from crossmoda.segmentation.contrast import refine_by_contrast, without_fluid
from crossmoda.self_training.candidates import Candidate, Rule, require_above_0, require_shares


@dataclass(frozen=True)
class KeepLargestComponent(Rule):
    """Keep the largest connected component (26 neighbours) of each named structure: a patient has one VS.

    Cards B, C and D of the recipes keep the largest tumour component. The parts of a tumour, where a model tells them
    apart, count together as ``vs``. The cochlea has two sides and is left alone.
    """

    structures: tuple[str, ...] = ("vs",)

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate without the smaller components."""
        numbers, kept = model_labels(candidate.structures), torch.from_numpy(candidate.label[None].astype(np.int16))
        for structure in filter(candidate.seeks, self.structures):
            keep = MonaiKeepLargest(applied_labels=numbers_of(structure, numbers), independent=False)
            kept = torch.as_tensor(keep(kept))
        label = kept.numpy()[0]
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
        require_above_0(self, "distance_mm", "context_mm", "closing_mm")
        require_shares(self, "threshold_share")

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
        require_above_0(self, "least_separation", "smoothing_mm", "opening_mm")
        require_shares(self, "threshold_share", "least_contrast")
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
