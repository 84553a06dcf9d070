"""Head, skull and what is hollow in it, as signed distances (mm) in the patient's frame (see ``frame``).

Sizes are those of an average adult head, read off anatomy texts and the real volumes by eye; the individual comes from
the frame's size and warp.
"""

from __future__ import annotations

import numpy as np

from crossmoda.data.phantom.shapes import Coordinates, capsule, ellipsoid, smooth_intersection, smooth_union, union

# The posterior surface of the petrous bone: unit normal (pointing into the bone, right side) and offset along it.
FACE_NORMAL = (0.618, 0.786)
FACE_OFFSET_MM = 16.4
FACE_TILT = 0.42  # below the canals the surface leans back by this much per mm, as the clivus does


def mirrored(p: Coordinates) -> Coordinates:
    """Return the coordinates with the left half folded onto the right, for shapes that both sides share."""
    return np.abs(p[0]), p[1], p[2]


def petrous_face(p: Coordinates) -> np.ndarray:
    """Return the distance beyond the posterior petrous surface: positive in the bone, negative in the fossa."""
    tilt = FACE_TILT * np.minimum(p[2], 0)
    return FACE_NORMAL[0] * np.abs(p[0]) + FACE_NORMAL[1] * p[1] - tilt - FACE_OFFSET_MM


def _step(value: np.ndarray, width_mm: float) -> np.ndarray:
    """Return 0 to 1 over about ``width_mm`` around zero."""
    return np.clip(value / (2 * width_mm) + 0.5, 0, 1)


def posterior_fossa(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the inner surface of the posterior fossa and the spinal canal."""
    _, y, z = p
    bowl = ellipsoid(p, (0, -22, -3), (53, 43, 39))
    clivus = (y - 13 - 0.42 * np.minimum(z, 0) - 0.25 * np.maximum(z, 0)) * 0.94
    front = smooth_intersection(clivus, petrous_face(p), 7)
    canal = capsule(p, (0, -17, -30), (0, -21, -130), 11.5)
    return smooth_union(smooth_intersection(bowl, front, 9), canal, 9)


def floor_height(p: Coordinates) -> np.ndarray:
    """Return the height z (mm) of the floor under the cerebrum: middle fossa, petrous ridge, sella, anterior fossa."""
    x, y, _ = p
    front = FACE_NORMAL[0] * np.abs(x) + FACE_NORMAL[1] * y - FACE_OFFSET_MM
    height = np.clip(10 - 0.9 * (front - 4), -11, 10)
    sella = _step(14 - np.abs(x), 3) * _step(y - 10, 2)
    height = height + (19 - height) * sella
    return height + (28 - height) * _step(y - 47, 4)


def cavity(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the inner surface of the skull."""
    vault = ellipsoid(p, (0, 17, 28), (65, 84, 80))
    cerebral = smooth_intersection(vault, (floor_height(p) - p[2]) * 0.75, 6)
    return smooth_union(posterior_fossa(p), cerebral, 3)


def head(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the skin."""
    q = mirrored(p)
    vault = ellipsoid(p, (0, 17, 25), (77, 98, 97))
    face = ellipsoid(p, (0, 62, -35), (62, 55, 75))
    neck = capsule(p, (0, -5, -20), (0, -15, -160), 60)
    jaw = ellipsoid(q, (46, 15, -40), (25, 35, 45))
    return smooth_union(smooth_union(vault, union(face, jaw), 15), neck, 20)


def petrous(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the petrous pyramids and mastoids."""
    q = mirrored(p)
    pyramid = capsule(q, (17, 18, -1), (52, -2, -1), 10, 13)
    return smooth_union(pyramid, ellipsoid(q, (56, -9, -10), (12, 13, 22)), 5)


def bone(p: Coordinates, cavity_mm: np.ndarray) -> np.ndarray:
    """Return the signed distance to everything within the skull's outer surface, given the cavity's distance."""
    clivus = ellipsoid(p, (0, 20, -8), (16, 10, 28))
    return smooth_union(union(cavity_mm - 6, clivus), petrous(p), 4)


def clivus_marrow(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the marrow of clivus and skull base."""
    q = (p[0] * 0.3, p[1] - 0.004 * p[0] ** 2, p[2])
    return capsule(q, (0, 12, -26), (0, 22, 8), 4.2, 5)


def apex_marrow(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the marrow of the petrous apices."""
    return ellipsoid(mirrored(p), (15.5, 19, 1), (5, 6, 6))


def mastoid_cells(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the region of the mastoid air cells."""
    return ellipsoid(mirrored(p), (55, -8, -8), (10, 11, 19))


def middle_ear(p: Coordinates) -> np.ndarray:
    """Return the signed distance to tympanic cavity and outer ear canal (air)."""
    q = mirrored(p)
    return union(ellipsoid(q, (44, 8, -1), (3.5, 5, 7)), capsule(q, (47, 8, -4), (80, 6, -4), 3.6))


def sinuses(p: Coordinates) -> np.ndarray:
    """Return the signed distance to sphenoid, ethmoid and maxillary sinuses and the nasal airway (air)."""
    q = mirrored(p)
    sphenoid = ellipsoid(q, (7, 37, 6), (7.5, 11, 9))
    ethmoid = ellipsoid(q, (6, 65, 12), (5, 18, 11))
    maxillary = ellipsoid(q, (27, 62, -24), (13, 16, 16))
    nose = ellipsoid(q, (6, 68, -20), (4, 26, 16))
    return union(sphenoid, ethmoid, maxillary, nose, airway(p))


def airway(p: Coordinates) -> np.ndarray:
    """Return the signed distance to nasopharynx and pharynx (air)."""
    return capsule((p[0] * 0.55, p[1], p[2]), (0, 38, -26), (0, 30, -120), 7)


def mandible(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the jaw's condyles and rami."""
    q = mirrored(p)
    ramus = capsule((q[0] * 1.5, q[1], q[2]), (49 * 1.5, 20, -16), (45 * 1.5, 32, -75), 7)
    return union(ellipsoid(q, (49, 19, -11), (8.5, 4.5, 5)), ramus)


def orbits(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the fat of the orbits."""
    return capsule(mirrored(p), (17, 46, 16), (33, 82, 14), 4, 18)


def eyes(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the eyeballs."""
    return ellipsoid(mirrored(p), (33, 89, 13), (12, 12, 12))


def parotids(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the parotid glands."""
    return ellipsoid(mirrored(p), (59, 8, -38), (11, 15, 25))


def cavernous_sinuses(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the cavernous sinuses, beside the sella."""
    return ellipsoid(mirrored(p), (13, 27, 11), (4.5, 9, 7))
