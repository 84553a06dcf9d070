"""Internal auditory canal, its nerves, cochlea, vestibule and semicircular canals, drawn per side and per patient.

Everything is drawn for the right ear (x > 0) in the patient's frame, mm, and mirrored. Sizes: cochlea of 2.5 turns,
whole volume 92 +/- 14 mm3 (crossMoDA 2021 organisers); semicircular canals of radius 2.9 to 3.4 mm, bore about 1.2 mm;
internal auditory canal about 10 mm long and 4 to 6 mm wide (anatomy texts).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossmoda.data.phantom.shapes import (
    Coordinates,
    Point,
    arc,
    capsule,
    ellipsoid,
    rotation,
    smooth_union,
    spiral,
    union,
)
from crossmoda.data.phantom.vessels import Tubes, make_tubes, on_side

TURNS = 2.5
UNIT_OUTER_MM, UNIT_INNER_MM, UNIT_HEIGHT_MM = 3.25, 0.75, 3.9  # of the spiral's axis, before scaling
UNIT_RADIUS_MM, UNIT_APEX_RADIUS_MM = 1.05, 0.72  # of its bore
WALL_MM = 0.22  # thin bone and partition that readers count as cochlea
UNIT_VOLUME_MM3 = 138.1  # of the labelled shape at scale 1, measured on a 0.1 mm grid
CENTRE: Point = (34.0, 7.6, -1.5)  # of the cochlea's base
VESTIBULE: Point = (38.0, 1.5, 0.6)
FUNDUS: Point = (33.4, 3.4, 0.8)
PORUS: Point = (23.2, 0.8, 0.2)
# What a tumour adds to the radius of the whole canal; more widens the mouth rather than the end.
EVENLY_WIDENED_MM = 1.2


@dataclass(frozen=True)
class Ear:
    """Hold one ear's sizes: cochlear volume (mm3), canal radius and length (mm), tilts (degrees), shift (mm)."""

    side: int
    cochlea_mm3: float
    canal_radius: float
    canal_length: float
    cochlea_tilt_deg: tuple[float, float, float]
    shift: tuple[float, float, float]
    loop_scale: float

    @property
    def fundus(self) -> np.ndarray:
        """Return the canal's blind end, right-sided."""
        return np.add(FUNDUS, self.shift)

    @property
    def axis(self) -> np.ndarray:
        """Return the unit vector along the canal from its opening to its end, right-sided."""
        direction = np.subtract(FUNDUS, PORUS)
        return direction / np.linalg.norm(direction)

    @property
    def porus(self) -> np.ndarray:
        """Return the middle of the canal's opening, right-sided."""
        return self.fundus - self.canal_length * self.axis

    def here(self, point: Point) -> np.ndarray:
        """Return a right-sided point at this ear's individual place, right-sided."""
        return np.add(point, self.shift)

    def own(self, p: Coordinates) -> Coordinates:
        """Return coordinates in which this ear is a right ear."""
        return self.side * p[0], p[1], p[2]


def draw_ear(side: int, rng: np.random.Generator) -> Ear:
    """Draw one ear; ``side`` is +1 for right, -1 for left."""
    return Ear(
        side=side,
        cochlea_mm3=round(float(np.clip(rng.normal(92, 11), 66, 118)), 2),
        canal_radius=round(float(rng.uniform(2.1, 2.8)), 3),
        canal_length=round(float(np.clip(rng.normal(10.3, 1.0), 8.0, 12.5)), 3),
        cochlea_tilt_deg=_triple(rng.normal(0, 5, 3)),
        shift=_triple(rng.normal(0, [0.8, 0.6, 0.6])),
        loop_scale=round(float(rng.normal(1, 0.05)), 3),
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    return round(float(values[0]), 3), round(float(values[1]), 3), round(float(values[2]), 3)


@dataclass(frozen=True)
class Cochlea:
    """Hold one cochlea as its labelled shape (all turns, modiolus and thin walls) and as its fluid alone."""

    scale: float
    bore: Tubes
    start: np.ndarray
    end: np.ndarray

    def whole(self, p: Coordinates) -> np.ndarray:
        """Return the signed distance to the whole cochlea."""
        core = capsule(p, self.start, self.end, 2.0 * self.scale, 0.6 * self.scale)
        return smooth_union(self.bore(p) - WALL_MM, core, 0.6)

    def fluid(self, p: Coordinates) -> np.ndarray:
        """Return the signed distance to the fluid in the turns."""
        return self.bore(p)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the box that holds the whole cochlea."""
        low, high = self.bore.box
        return low - WALL_MM, high + WALL_MM


def cochlea(ear: Ear) -> Cochlea:
    """Return the cochlea: a conical spiral along the modiolus, which points forward, outward and a little down."""
    scale = (ear.cochlea_mm3 / UNIT_VOLUME_MM3) ** (1 / 3)
    path = scale * spiral(TURNS, UNIT_OUTER_MM, UNIT_INNER_MM, UNIT_HEIGHT_MM)
    outward = np.array([0.60, 0.76, -0.25]) / np.linalg.norm([0.60, 0.76, -0.25])
    across = np.cross(outward, [0, 0, 1.0])
    across /= np.linalg.norm(across)
    basis = rotation(ear.cochlea_tilt_deg) @ np.stack([-across, np.cross(outward, -across), outward], axis=1)
    base = ear.here(CENTRE) - 0.5 * scale * UNIT_HEIGHT_MM * basis[:, 2]
    mirror = np.array([ear.side, 1, 1])
    points = (base + path @ basis.T) * mirror
    radii = scale * np.linspace(UNIT_RADIUS_MM, UNIT_APEX_RADIUS_MM, len(points))
    top = base + scale * UNIT_HEIGHT_MM * basis[:, 2]
    return Cochlea(scale, Tubes(points, radii), base * mirror, top * mirror)


def labyrinth(ear: Ear) -> Tubes:
    """Return the three semicircular canals."""
    ridge = np.array([0.79, -0.61, 0])  # along the petrous ridge, outward and back
    across = np.array([0.61, 0.79, 0])  # forward and outward
    up = np.array([0, 0, 1.0])
    radius = ear.loop_scale
    horizontal = arc(ear.here((41.2, 0.2, 1.0)), ridge, across, 2.9 * radius, -150, 150)
    superior = arc(ear.here((39.0, 2.0, 4.4)), across, up, 3.2 * radius, -40, 220)
    posterior = arc(ear.here((41.4, -2.6, -0.6)), ridge, up, 3.1 * radius, -150, 130)
    loops = [np.asarray(loop) * [ear.side, 1, 1] for loop in (horizontal, superior, posterior)]
    return Tubes(np.concatenate(loops), np.full(sum(len(loop) for loop in loops), 0.62))


def vestibule(ear: Ear, p: Coordinates) -> np.ndarray:
    """Return the signed distance to vestibule and common crus."""
    q = ear.own(p)
    crus = capsule(q, ear.here((39.3, -1.2, 1.5)), ear.here((39.8, -1.6, 4.5)), 0.8)
    return union(smooth_union(ellipsoid(q, ear.here(VESTIBULE), (1.9, 2.6, 2.4)), crus, 1), _aqueduct(ear, q))


def _aqueduct(ear: Ear, q: Coordinates) -> np.ndarray:
    """Return the link between the vestibule and the cochlea's basal turn."""
    return capsule(q, ear.here(VESTIBULE), ear.here((36.2, 5.0, -2.6)), 1.0, 0.8)


def canal_radii(ear: Ear, widened_mm: float) -> tuple[float, float]:
    """Return the canal's radius at its mouth and at its end, mm: what widens it much does so like a trumpet."""
    much = max(widened_mm - EVENLY_WIDENED_MM, 0)
    return ear.canal_radius + widened_mm, ear.canal_radius + widened_mm - 0.6 * much


def canal(ear: Ear, p: Coordinates, widened_mm: float = 0.0) -> np.ndarray:
    """Return the signed distance to the internal auditory canal, its mouth flared; ``widened_mm`` as by a tumour."""
    q = ear.own(p)
    radius, end = canal_radii(ear, widened_mm)
    inner = ear.fundus - 1.2 * ear.axis
    tube = capsule(q, ear.porus - 2 * ear.axis, inner, radius + 0.5, max(end - 0.3, 1.6))
    mouth = ellipsoid(q, ear.porus - 1.0 * ear.axis, (2.6, radius + 1.6, radius + 1.2))
    return smooth_union(tube, mouth, 1.5)


def canal_nerves(ear: Ear, width: float = 1.0, spread: float = 1.0) -> Tubes:
    """Return facial, cochlear and the two vestibular nerves from the brainstem to the canal's end.

    Args:
        ear: whose.
        width: of each nerve, times its usual radius of half a millimetre.
        spread: how far they lie apart, times the usual; little makes one bundle of them.
    """
    root, mouth = np.array([12.0, -3.0, -5.0]), ear.porus
    ends = {"facial": (0.7, 1.3), "cochlear": (0.7, -1.0), "superior": (-0.9, 1.0), "inferior": (-0.9, -0.9)}
    paths = []
    for name, (forward, upward) in ends.items():
        beside = np.array([-0.3, spread * forward, spread * upward])
        along = mouth + (ear.fundus - mouth) * 0.5 + 0.8 * beside
        begin = root + ([0, 1.6, 0.8] if name == "facial" else [0, 0, 0])
        middle, end = (begin + mouth) / 2 + 0.25 * beside, ear.fundus + beside - ear.axis
        knots = on_side(ear.side, [begin, middle, mouth + 0.5 * beside, along, end])
        paths.append((knots, 0.55 * width, 0.5 * width))
    return make_tubes(paths, 0.3)
