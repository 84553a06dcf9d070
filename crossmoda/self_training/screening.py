"""Rules that take pieces out of a predicted label that are not where, or not as large as, a structure can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from crossmoda.errors import CrossmodaError
from crossmoda.labels import COCHLEA
from crossmoda.segmentation import plausibility
from crossmoda.self_training.candidates import Candidate, Rule, require_above_0

NEIGHBOURS = np.ones((3, 3, 3))


@dataclass(frozen=True)
class RemoveSmallComponents(Rule):
    """Make background of a structure's connected components (26 neighbours) below a volume.

    Step 6 of card A removes those below 10 mm3. The parts of a tumour, where a model tells them apart, count together
    as ``vs``. A model that does not seek a structure is left alone.

    Args:
        least_mm3: volume by structure.

    Raises:
        CrossmodaError: a volume is not above 0.
    """

    least_mm3: Mapping[str, float] = field(default_factory=lambda: {"vs": 10.0, "cochlea": 10.0})

    def __post_init__(self) -> None:
        """Check the volumes."""
        for structure, least in self.least_mm3.items():
            if least <= 0:
                raise CrossmodaError(f"RemoveSmallComponents: least_mm3 of {structure} is {least}, but must be above 0")

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate without the small components."""
        for structure, least in self.least_mm3.items():
            if candidate.seeks(structure):
                remove = plausibility.RemoveSmallComponents(candidate.structures, {structure: least})
                label = np.asarray(remove(candidate.label_map()))[0]
                candidate = _without_pieces(candidate, structure, label, f"components below {least:g} mm3")
        return candidate


@dataclass(frozen=True)
class RemoveFarComponents(Rule):
    """Make background of a structure's connected components (26 neighbours) that lie far from another structure.

    Step 6 of card A bounds the distance of VS and nearest cochlea by 40 mm. Where no component is near, all stay, for
    ``RequireNear`` to judge the case; where the other structure is not found, or a model does not seek both, nothing is
    done.

    Args:
        structure: whose components must lie near.
        other: near what.
        distance_mm: largest distance between nearest voxel centres.

    Raises:
        CrossmodaError: the distance is not above 0.
    """

    structure: str = "vs"
    other: str = "cochlea"
    distance_mm: float = 40.0

    def __post_init__(self) -> None:
        """Check the distance."""
        require_above_0(self, "distance_mm")

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate without the far components."""
        if not candidate.seeks(self.structure) or not candidate.seeks(self.other):
            return candidate
        mask, other = candidate.mask(self.structure), candidate.mask(self.other)
        components, count = ndimage.label(mask, NEIGHBOURS)
        if count < 2 or not other.any():
            return candidate
        nearest = _nearest_mm(components, count, other, candidate.spacing_mm)
        far = np.concatenate([[False], nearest > self.distance_mm])
        if far[1:].all():
            return candidate
        label = np.where(far[components], 0, candidate.label)
        what = f"components more than {self.distance_mm:g} mm from the nearest {self.other}"
        farthest = f"the farthest {nearest.max():.1f} mm"
        return _without_pieces(candidate, self.structure, label, what, farthest)


@dataclass(frozen=True)
class KeepTwoCochleae(Rule):
    """Keep at most two cochleae, one on each side, by ``crossmoda.segmentation.plausibility.KeepTwoCochleae``.

    Card A asks for two components of the cochlea. Which two: those of most volume whose centres lie ``apart_mm`` from
    left to right; where no two do, the largest alone. A model without cochlea is left alone.

    Args:
        apart_mm: least and largest distance.
        join_mm: pieces whose nearest voxel centres are at most this far apart are one cochlea.

    Raises:
        CrossmodaError: a distance is not in its range.
    """

    apart_mm: Sequence[float] = plausibility.APART_MM
    join_mm: float = plausibility.JOIN_MM

    def __post_init__(self) -> None:
        """Check the distances."""
        plausibility.KeepTwoCochleae((COCHLEA,), self.apart_mm, self.join_mm)

    def __call__(self, candidate: Candidate) -> Candidate:
        """Return the candidate without further cochleae."""
        keep = plausibility.KeepTwoCochleae(candidate.structures, self.apart_mm, self.join_mm)
        label = np.asarray(keep(candidate.label_map()))[0]
        least, most = self.apart_mm
        return _without_pieces(candidate, COCHLEA, label, f"pieces beside two cochleae {least:g} to {most:g} mm apart")


def _nearest_mm(components: np.ndarray, count: int, other: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return each numbered component's distance (count,) to the nearest voxel centre of a mask (X, Y, Z), in mm."""
    places, sizes = np.argwhere(components), np.asarray(spacing_mm)
    distances = cKDTree(np.argwhere(other) * sizes).query(places * sizes)[0]
    return np.asarray(ndimage.minimum(distances, components[tuple(places.T)], range(1, count + 1)))


def _without_pieces(candidate: Candidate, structure: str, label: np.ndarray, what: str, figure: str = "") -> Candidate:
    """Return the candidate with a label that lacks pieces of a structure, and how many voxels in mm3 that were."""
    removed = int((label != candidate.label).sum())
    if not removed:
        return candidate
    share = removed / int(candidate.mask(structure).sum())
    told = f", {figure}" if figure else ""
    return candidate.relabelled(label, f"{share:.0%} of the {structure} removed ({removed} voxels): {what}{told}")
