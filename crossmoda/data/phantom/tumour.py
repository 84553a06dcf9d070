"""The vestibular schwannoma: how large, where, how lobulated, how mixed; and its shape in the patient's frame (mm)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from crossmoda.data.phantom.ear import EVENLY_WIDENED_MM, Ear, canal_radii
from crossmoda.data.phantom.frame import Push, Triple
from crossmoda.data.phantom.shapes import Coordinates, capsule, ellipsoid, smooth_intersection, smooth_union
from crossmoda.data.phantom.skull import petrous_face

# Volume per Koos grade, mL: (median, spread of the logarithm, least, most). Grade I stays in the canal; II reaches the
# cistern, III the brainstem, IV presses it (W. T. Koos et al., J. Neurosurg. 88, 1998). The range is the challenge's,
# the medians and shares are chosen so that half of all tumours are below about 1.3 mL, as in the challenge of 2023.
KOOS_VOLUME_ML = {
    1: (0.14, 0.4, 0.05, 0.35),
    2: (0.6, 0.45, 0.2, 1.4),
    3: (2.0, 0.4, 1.0, 4.5),
    4: (7.5, 0.5, 4.0, 27.0),
}
KOOS_SHARE = {1: 0.09, 2: 0.29, 3: 0.36, 4: 0.26}
PUSH_SHARE = {1: 0.0, 2: 0.0, 3: 0.15, 4: 0.55}  # of the extra-meatal volume that displaces brain rather than CSF
EDGE_MM = 3.5  # room about the canal's axis for a tumour that widens it evenly
DRAW_STEP_MM = 0.5  # grid on which a drawn tumour's size is matched to its volume


@dataclass(frozen=True)
class Tumour:
    """Hold one tumour; positions are right-sided, to be mirrored by ``side``.

    ``reach`` is how far it fills the canal from its mouth (mm), ``start`` where a purely intra-meatal one begins;
    ``widening`` by how much it widens the canal's radius at its mouth (mm; ``ear.canal_radii``), ``erosion`` the
    radius of the hollow that it has worn into the petrous bone about the mouth and fills (mm, zero for none);
    ``radii`` of the extra-meatal body (mm, zero for none); ``lobes`` are (wave vector, phase, amplitude as a share of
    the radius); ``cysts`` are (centre, radius); ``mixture`` is the share of loose tissue and ``grain`` the size of its
    patches (mm).
    """

    side: int
    koos: int
    volume_ml: float
    start: float
    reach: float
    widening: float
    centre: Triple
    radii: Triple
    lobes: tuple[tuple[Triple, float, float], ...]
    cysts: tuple[tuple[Triple, float], ...]
    mixture: float
    grain: float
    erosion: float = 0.0

    def body(self, p: Coordinates, ear: Ear) -> np.ndarray:
        """Return the signed distance to the whole tumour."""
        q = ear.own(p)
        intra = self._intra(q, ear)
        if self.radii[0] == 0:
            return smooth_intersection(intra, self.intra_meatal(p, ear) + 0.3, 1.5)
        extra = ellipsoid(q, self.centre, self.radii)
        for vector, phase, share in self.lobes:
            angle = sum((float(k) * (a - float(c)) for k, a, c in zip(vector, q, self.centre, strict=True)), phase)
            extra = extra + np.float32(share * self.radii[0]) * np.sin(angle)
        extra = smooth_intersection(extra, petrous_face(q), 1.5)
        whole = smooth_union(extra, intra, 2.5)
        if self.erosion > 0:
            worn = ellipsoid(q, _rounded(ear.porus), (self.erosion, self.erosion, 0.85 * self.erosion))
            whole = smooth_union(whole, worn, 2.5)
        return whole

    def _intra(self, q: Coordinates, ear: Ear) -> np.ndarray:
        radius, end = canal_radii(ear, self.widening)
        first, last = ear.porus + self.start * ear.axis, ear.porus + self.reach * ear.axis
        return capsule(q, first, last, radius, end * 0.8)

    def intra_meatal(self, p: Coordinates, ear: Ear) -> np.ndarray:
        """Return the distance that is negative on the canal's side of the plane of its mouth.

        The plane is that of the posterior petrous surface through the middle of the opening.
        """
        q = ear.own(p)
        at_porus = petrous_face(tuple(np.array([c]) for c in ear.porus))  # type: ignore[arg-type]
        return float(at_porus[0]) - petrous_face(q)

    def cystic(self, p: Coordinates, ear: Ear) -> np.ndarray:
        """Return the signed distance to the cysts (large where there are none)."""
        q = ear.own(p)
        shapes = [ellipsoid(q, centre, (radius, radius * 0.85, radius)) for centre, radius in self.cysts]
        return np.minimum.reduce(shapes) if shapes else np.full(p[0].shape, 1e3, np.float32)

    def box(self, ear: Ear) -> tuple[np.ndarray, np.ndarray]:
        """Return the box that holds the tumour, on its own side."""
        points = [ear.porus, ear.fundus]
        edge = max(EDGE_MM + 1.5 * max(self.widening - EVENLY_WIDENED_MM, 0), 1.2 * self.erosion)
        low, high = np.min(points, 0) - edge, np.max(points, 0) + edge
        if self.radii[0] > 0:
            reach = np.asarray(self.radii) * (1 + sum(share for *_, share in self.lobes)) + 1
            low, high = np.minimum(low, self.centre - reach), np.maximum(high, self.centre + reach)
        if self.side < 0:
            low[0], high[0] = -high[0], -low[0]
        return low, high

    def push(self) -> Push | None:
        """Return what the extra-meatal body displaces, on its own side."""
        share = PUSH_SHARE[self.koos]
        if share == 0:
            return None
        radius = (share * float(np.prod(self.radii))) ** (1 / 3)
        return Push((self.side * self.centre[0], self.centre[1], self.centre[2]), round(radius, 4))


def draw_koos(rng: np.random.Generator) -> int:
    """Draw a Koos grade (1 to 4) with the shares of a treated population."""
    return int(rng.choice(list(KOOS_SHARE), p=list(KOOS_SHARE.values())))


def draw_tumour(ear: Ear, koos: int, rng: np.random.Generator) -> Tumour:
    """Draw a tumour of a Koos grade in one ear.

    The extra-meatal body leans on the canal's mouth and grows towards the brainstem; its size is matched to the drawn
    volume on a grid, since lobes and the petrous surface take their share.
    """
    median, spread, least, most = KOOS_VOLUME_ML[koos]
    volume = float(np.clip(median * np.exp(spread * rng.standard_normal()), least, most))
    draft = _draw_parts(ear, koos, volume, rng)
    if koos == 1:
        return _match_intra(draft, ear)
    return _with_cysts(_match_extra(draft, ear, _draw_direction(rng), rng.uniform(0.8, 1.2, 3)), rng)


def _draw_parts(ear: Ear, koos: int, volume_ml: float, rng: np.random.Generator) -> Tumour:
    room = ear.canal_length - 1.5
    start, reach = 0.0, float(rng.uniform(0.45, 0.95)) * room
    widening = float(rng.uniform(0.0, 0.3 if koos < 3 else 0.9))
    if koos == 1:
        start, reach = 2.5, min(room, 7.0)
    waviness = 0.25 if koos < 4 else 0.16  # radians per mm; smaller bodies need shorter lobes
    lobes = tuple(
        (_rounded(rng.normal(0, waviness, 3)), round(float(rng.uniform(0, 6.28)), 3), round(float(share), 4))
        for share in rng.uniform(0.03, 0.12, 3)
    )
    mixed = rng.random() < 0.45
    mixture = float(rng.uniform(0.25, 0.85) if mixed else rng.uniform(0.0, 0.2))
    return Tumour(ear.side, koos, round(volume_ml, 4), start, round(reach, 3), round(widening, 3), (0.0, 0.0, 0.0),
                  (0.0, 0.0, 0.0), lobes, (), round(mixture, 3), round(float(rng.uniform(2.0, 5.0)), 2))  # fmt: skip


def _draw_direction(rng: np.random.Generator) -> np.ndarray:
    """Return the unit vector from the canal's mouth to the body's middle: inwards, back, a little up or down."""
    direction = np.array([-0.80, -0.45, 0.10]) + rng.normal(0, [0.05, 0.15, 0.22])
    return direction / np.linalg.norm(direction)


def _rounded(values: np.ndarray) -> Triple:
    return round(float(values[0]), 4), round(float(values[1]), 4), round(float(values[2]), 4)


def measured_ml(tumour: Tumour, ear: Ear) -> float:
    """Return a tumour's volume in mL, counted on a grid in the patient's frame before size and warp."""
    low, high = tumour.box(ear)
    step = max(DRAW_STEP_MM, float(np.max(high - low)) / 64)
    axes = [np.arange(a, b, step, dtype=np.float32) for a, b in zip(low, high, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    return float(np.count_nonzero(tumour.body((grid[0], grid[1], grid[2]), ear) < 0)) * step**3 / 1000


def _match_extra(draft: Tumour, ear: Ear, direction: np.ndarray, aspect: np.ndarray) -> Tumour:
    """Return the draft with a body sized so that the whole has its volume (within 3 %, by the secant of volumes)."""
    aspect = aspect / np.prod(aspect) ** (1 / 3)
    radius = max((3 * draft.volume_ml * 1000 / (4 * np.pi)) ** (1 / 3), 1.5)
    tumour = draft
    for _ in range(8):
        centre = ear.porus + direction * radius * 0.75
        tumour = replace(draft, centre=_rounded(centre), radii=_rounded(radius * aspect))
        ratio = draft.volume_ml / measured_ml(tumour, ear)
        if abs(ratio - 1) < 0.03:
            break
        radius *= float(np.clip(ratio ** (1 / 3), 0.75, 1.3))
    return tumour


def _match_intra(draft: Tumour, ear: Ear) -> Tumour:
    """Return the draft with its length, then its width, changed until it has its volume."""
    tumour = draft
    for _ in range(8):
        ratio = draft.volume_ml / measured_ml(tumour, ear)
        if abs(ratio - 1) < 0.03:
            break
        length = float(np.clip((tumour.reach - tumour.start) * ratio, 0.5, ear.canal_length - 3.5))
        widening = tumour.widening
        if length in (0.5, ear.canal_length - 3.5):
            widening = float(np.clip((ear.canal_radius + widening) * ratio**0.4 - ear.canal_radius, -1.0, 1.2))
        middle = 0.5 * (ear.canal_length - 1.0)
        start, reach = round(middle - length / 2, 3), round(middle + length / 2, 3)
        tumour = replace(tumour, start=start, reach=reach, widening=round(widening, 3))
    return tumour


def _with_cysts(tumour: Tumour, rng: np.random.Generator) -> Tumour:
    """Return the tumour with cysts in about a quarter of those large enough to hold them."""
    if tumour.volume_ml < 0.8 or rng.random() > 0.3:
        return tumour
    mean = float(np.prod(tumour.radii)) ** (1 / 3)
    cysts = []
    for _ in range(int(rng.integers(1, 5))):
        place = np.asarray(tumour.centre) + rng.normal(0, 0.4, 3) * np.asarray(tumour.radii)
        cysts.append((_rounded(place), round(float(rng.uniform(0.12, 0.38) * mean), 3)))
    return replace(tumour, cysts=tuple(cysts))
