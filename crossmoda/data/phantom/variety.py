"""What real heads have and the plain phantom leaves out, drawn at random: the details that mislead a segmenter.

A segmenter that has learnt from the plain phantom alone takes for a schwannoma what it never saw: Meckel's cave, the
jugular foramen, fatty marrow, a cyst, fluid that does not shine because it flows. A ``Variety`` adds these to a patient
as smooth blobs of a tissue and a few numbers. Places and sizes are read off anatomy texts by eye; the shares of
patients that have each are chosen wide, to teach, not to mirror a population.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from crossmoda.data.phantom.ear import PORUS
from crossmoda.data.phantom.frame import Triple
from crossmoda.data.phantom.shapes import Coordinates, ellipsoid
from crossmoda.data.phantom.texture import noise
from crossmoda.data.phantom.tissues import Tissue
from crossmoda.data.phantom.tumour import Tumour

STAGES = ("bone", "soft", "last")  # after the skull; after brain and vessels; after the ears, right before the tumour

# Relaxation chosen within the range of soft tissue, since what such a lesion is differs; fluid that moves through the
# excited slab while it is measured has lost a part of its signal, which a shorter T2 imitates.
ADDED_TISSUES: dict[str, Tissue] = {
    "lesion": Tissue(1200, 110, 0.85, 0.45),
    "moving_csf": Tissue(4000, 400, 0.6),
}
LESION_TISSUES = ("lesion", "mucosa", "cyst", "fat", "gland", "muscle", "dura")
LEAST_DISTANCE_MM = 17.0  # of a lesion's middle from the mouth of either canal: nearer, it could be the schwannoma


@dataclass(frozen=True)
class Blob:
    """Hold a smooth body of one tissue: middle and radii in mm (x > 0 is right), and how uneven its surface is.

    ``stage`` says when it is painted (one of ``STAGES``), ``spares_bone`` that bone, air and marrow stay as they are.
    """

    stage: str
    tissue: str
    centre: Triple
    radii: Triple
    spares_bone: bool = False
    uneven: float = 0.12

    def shape(self, p: Coordinates, seed: int) -> np.ndarray:
        """Return the signed distance (mm) at coordinates, the surface moved by smooth noise of the patient."""
        size = min(self.radii)
        return ellipsoid(p, self.centre, self.radii) + np.float32(self.uneven * size) * noise(p, 1.2 * size, seed, 20)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest corner of what it can fill."""
        reach = np.asarray(self.radii) + 3 * self.uneven * min(self.radii)
        return np.subtract(self.centre, reach), np.add(self.centre, reach)


@dataclass(frozen=True)
class Variety:
    """Hold what sets one varied patient apart from the plain phantom.

    ``marrow`` (0..1) is how much of the thick bones is fatty marrow, ``strands`` (0..1) how much fibrous tissue runs
    through fat and marrow, ``strand_mm`` its size; ``cleft_mm`` the fluid between tumour and brain at its widest;
    ``flow`` (0..1) how much of the cisterns' fluid moves; ``sulci`` multiplies the width of the brain's furrows,
    ``folia`` the number of the cerebellum's;
    ``canal_mm`` is added to the radius of the healthy canals (right, left); ``nerve_width`` and ``nerve_spread``
    multiply the width of the nerves in both canals and how far they lie apart; ``vessel_loops`` lets a branch of the
    basilar artery enter the canal (right, left); ``labyrinth_removed`` is the side (1 or -1) of a translabyrinthine
    operation, 0 for none.
    """

    blobs: tuple[Blob, ...] = ()
    marrow: float = 0.0
    strands: float = 0.0
    strand_mm: float = 2.0
    cleft_mm: float = 0.8
    flow: float = 0.0
    sulci: float = 1.0
    folia: float = 1.0
    canal_mm: tuple[float, float] = (0.0, 0.0)
    nerve_width: tuple[float, float] = (1.0, 1.0)
    nerve_spread: tuple[float, float] = (1.0, 1.0)
    vessel_loops: tuple[bool, bool] = (False, False)
    labyrinth_removed: int = 0
    tissues: dict[str, Tissue] = field(default_factory=lambda: dict(ADDED_TISSUES))

    def of_stage(self, stage: str) -> Iterator[Blob]:
        """Yield the blobs that are painted at a stage, in order."""
        return (blob for blob in self.blobs if blob.stage == stage)


def draw_variety(tumour: Tumour | None, rng: np.random.Generator) -> Variety:
    """Draw what a patient has beyond the plain phantom; ``tumour`` is the patient's, None in a healthy one."""
    blobs: list[Blob] = []
    for side in (1, -1):
        blobs += [*_skull_base(side, rng), *_nerves_and_veins(side, rng)]
    blobs += [*_midline(rng), *_lesions(rng)]
    removed = 0
    if tumour is not None:
        blobs += _cysts_beside(tumour, rng)
    if rng.random() < 0.08:
        side = tumour.side if tumour is not None else int(rng.choice([1, -1]))
        removed = side if rng.random() < 0.5 else 0
        blobs += _operated(side, removed != 0, rng)
    canals = np.clip(rng.normal(-0.3, 0.6, 2), -1.2, 1.5)
    widths, spreads = rng.uniform(0.7, 1.7, 2), rng.uniform(0.3, 1.2, 2)
    return Variety(
        blobs=tuple(blobs),
        marrow=_rounded(rng.beta(1.2, 1.5)),
        strands=_rounded(rng.beta(1.5, 1.5)),
        strand_mm=_rounded(rng.uniform(0.8, 3.0)),
        cleft_mm=_rounded(max(rng.uniform(-0.8, 1.8), 0.0)),
        flow=_rounded(rng.beta(1.0, 2.5)),
        sulci=_rounded(rng.uniform(0.5, 2.2)),
        folia=_rounded(rng.uniform(0.4, 2.0)),
        canal_mm=(_rounded(canals[0]), _rounded(canals[1])),
        nerve_width=(_rounded(widths[0]), _rounded(widths[1])),
        nerve_spread=(_rounded(spreads[0]), _rounded(spreads[1])),
        vessel_loops=(bool(rng.random() < 0.3), bool(rng.random() < 0.3)),
        labyrinth_removed=removed,
    )


def vary_tumour(tumour: Tumour, rng: np.random.Generator) -> Tumour:
    """Return a tumour of wider variety: canals widened, mouths worn away, grains from speckle to halves, mixtures."""
    widened = min(rng.gamma(1.2, 0.8), 4.0) if rng.random() < 0.5 else 0.0
    worn = rng.uniform(0.3, 0.8) * min(float(np.mean(tumour.radii)), 9.0)
    return replace(
        tumour,
        widening=_rounded(max(tumour.widening, 0.0) + widened),
        erosion=_rounded(worn if rng.random() < 0.4 and tumour.radii[0] > 0 else 0.0),
        mixture=_rounded(rng.uniform(0.2, 0.9) if rng.random() < 0.6 else rng.uniform(0.0, 0.15)),
        grain=_rounded(np.exp(rng.uniform(np.log(0.8), np.log(12.0)))),
    )


def _skull_base(side: int, rng: np.random.Generator) -> Iterator[Blob]:
    """Yield marrow, effusions and cells of one petrous bone and its neighbours."""
    if rng.random() < 0.5:  # a fatty petrous apex
        size = rng.uniform(3.5, 8.0)
        yield _blob("bone", "marrow", (side * 16, 18, 0), (0.9 * size, size, 0.9 * size), rng, 2.0)
    if rng.random() < 0.12:  # an apex full of fluid
        yield _blob("bone", "mucosa", (side * 17, 18, 1), (5, 5, 5), rng, 2.0)
    if rng.random() < 0.4:  # a mastoid that is not aerated
        tissue = str(rng.choice(["marrow", "mucosa"]))
        yield _blob("bone", tissue, (side * 55, -8, -8), (9, 10, 17), rng, 2.0)
    yield _blob("bone", "marrow", (side * 18, 4, -33), (6, 9, 6), rng, 1.5)  # occipital condyle
    yield _blob("bone", "marrow", (side * 36, 26, -8), (9, 8, 5), rng, 2.5)  # root of the zygoma, greater wing


def _nerves_and_veins(side: int, rng: np.random.Generator) -> Iterator[Blob]:
    """Yield Meckel's cave, the jugular foramen with its bulb and nerves, sac and plexus."""
    wide = rng.uniform(0.5, 1.35)
    yield _blob("soft", "csf", (side * 19.5, 19, 4.5), (3.4 * wide, 6.5 * wide, 3.4 * wide), rng, 0.8)
    if rng.random() < 0.7:  # rootlets and ganglion fill its lower half
        yield _blob("soft", "nerve", (side * 19.5, 21, 3.5), (1.8 * wide, 3.5 * wide, 1.5), rng, 0.5)
    high = rng.uniform(-24, -12) if rng.random() < 0.6 else rng.uniform(-12, -5)
    size = rng.uniform(3.0, 6.5)
    tissue = "lesion" if rng.random() < 0.15 else "vein"
    yield _blob("soft", tissue, (side * 35, -2, high), (size, size, 1.2 * size), rng, 1.0)
    nervous = rng.uniform(2.0, 4.5)
    yield _blob(
        "soft", "nerve" if rng.random() < 0.7 else "csf", (side * 29, 0, -20), (nervous, nervous, 3.0), rng, 1.0
    )
    yield _blob("soft", "csf", (side * 14, -3, -29), (2.2, 2.2, 2.2), rng, 0.8)  # hypoglossal canal
    if rng.random() < 0.3:
        yield _blob("soft", "mucosa", (side * 44, -12, -1), (2.5, 5.0, 4.0), rng, 1.0)  # endolymphatic sac
    if rng.random() < 0.6:  # choroid plexus that hangs from the fourth ventricle's side opening into the cistern
        yield _blob("soft", str(rng.choice(["gland", "grey"])), (side * 14.5, -7, -12), (2.6, 2.0, 1.6), rng, 1.0)


def _midline(rng: np.random.Generator) -> Iterator[Blob]:
    """Yield pituitary, clivus and what may lie in front of the pons."""
    yield _blob("soft", str(rng.choice(["gland", "lesion"])), (0, 27, 13), (6.5, 5, 4), rng, 0.8)
    if rng.random() < 0.7:
        yield _blob("bone", "marrow", (0, 17, -8), (9, 6, 17), rng, 1.5)
    if rng.random() < 0.4:
        yield _blob("bone", "marrow", (0, 24, 8), (12, 8, 7), rng, 1.5)


def _lesions(rng: np.random.Generator) -> Iterator[Blob]:
    """Yield bodies of any tissue that are no schwannoma: away from both canals, in the skull, the brain or the neck."""
    for _ in range(int(rng.integers(0, 5))):
        centre = rng.uniform([-62, -60, -40], [62, 50, 40])
        near = min(float(np.linalg.norm(centre - np.multiply(PORUS, (side, 1, 1)))) for side in (1, -1))
        size = rng.uniform(2.0, 9.0)
        if near > LEAST_DISTANCE_MM + size:
            tissue = str(rng.choice(LESION_TISSUES))
            radii = size * np.exp(rng.normal(0, 0.25, 3))
            yield Blob("last", tissue, _triple(centre), _triple(radii), bool(rng.random() < 0.5), 0.2)


def _cysts_beside(tumour: Tumour, rng: np.random.Generator) -> Iterator[Blob]:
    """Yield pouches of fluid that lean on the part of a tumour outside the canal; they are no part of it."""
    if tumour.radii[0] == 0 or rng.random() > 0.35:
        return
    for _ in range(int(rng.integers(1, 3))):
        direction = rng.normal(0, 1, 3)
        direction[0] = -abs(direction[0])  # towards the brain
        direction /= np.linalg.norm(direction)
        middle = np.asarray(tumour.centre) + direction * np.asarray(tumour.radii) * rng.uniform(0.9, 1.25)
        size = rng.uniform(0.3, 0.9) * float(np.mean(tumour.radii))
        centre = middle * [tumour.side, 1, 1]
        tissue = "csf" if rng.random() < 0.6 else "cyst"
        yield Blob("last", tissue, _triple(centre), _triple(size * np.exp(rng.normal(0, 0.2, 3))), True, 0.1)


def _operated(side: int, through_labyrinth: bool, rng: np.random.Generator) -> Iterator[Blob]:
    """Yield the cavity of an earlier operation: through the labyrinth, filled with fat, or behind the sigmoid sinus."""
    if through_labyrinth:
        size = rng.uniform(9, 13)
        yield _blob("last", "fat", (side * 54, -8, -3), (size, size, 1.2 * size), rng, 1.5)
        yield _blob("last", str(rng.choice(["fat", "csf"])), (side * 43, -5, 1), (6.5, 5, 5), rng, 0.8)
    else:
        yield _blob("last", "csf", (side * 38, -33, -2), (rng.uniform(4, 11), 9, 9), rng, 2.0)
        yield _blob("last", str(rng.choice(["csf", "muscle"])), (side * 50, -40, -2), (6, 8, 10), rng, 2.0)


def _blob(
    stage: str, tissue: str, centre: tuple[float, float, float], radii: tuple[float, float, float],
    rng: np.random.Generator, scatter_mm: float
) -> Blob:  # fmt: skip
    """Return a blob near a place, its size scattered by about a tenth."""
    middle = np.asarray(centre) + rng.normal(0, scatter_mm / 2, 3)
    return Blob(stage, tissue, _triple(middle), _triple(np.asarray(radii) * np.exp(rng.normal(0, 0.12, 3))))


def _triple(values: np.ndarray) -> Triple:
    return _rounded(values[0]), _rounded(values[1]), _rounded(values[2])


def _rounded(value: float) -> float:
    return round(float(value), 4)
