"""Brain, its ventricles and its folds, as signed distances (mm) in the patient's frame (see ``frame``)."""

from __future__ import annotations

import numpy as np

from crossmoda.data.phantom.shapes import Coordinates, capsule, ellipsoid, smooth_union, union
from crossmoda.data.phantom.skull import mirrored


def brainstem(p: Coordinates) -> np.ndarray:
    """Return the signed distance to medulla, pons with its peduncles, and midbrain."""
    q = mirrored(p)
    pons = ellipsoid(p, (0, -4, 1), (17, 11.5, 14))
    medulla = capsule((p[0] * 0.88, p[1], p[2]), (0, -7.5, -10), (0, -18, -42), 8.3, 6.2)
    cord = capsule((p[0] * 0.85, p[1], p[2]), (0, -18, -42), (0, -21, -130), 5.8)
    peduncle = capsule(q, (6, -2, 12), (11, 1, 27), 6.5)
    midbrain = smooth_union(ellipsoid(p, (0, -9, 24), (15, 9.5, 14)), peduncle, 3)
    middle_peduncle = capsule(q, (13, -7, 1), (23, -21, -1), 9, 8.5)
    stem = smooth_union(smooth_union(pons, medulla, 4), midbrain, 4)
    return smooth_union(union(stem, cord), middle_peduncle, 5)


def cerebellum(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the cerebellum's hull."""
    q = mirrored(p)
    hemisphere = ellipsoid(q, (25, -35, -5), (33, 31, 31))
    vermis = ellipsoid(p, (0, -36, 8), (14, 17, 26))
    tonsil = ellipsoid(q, (7, -26, -26), (6.5, 8, 10))
    flocculus = ellipsoid(q, (21, -9, -6), (5, 4, 4))
    return union(smooth_union(smooth_union(hemisphere, vermis, 6), tonsil, 4), flocculus)


def tentorium(p: Coordinates) -> np.ndarray:
    """Return the height above the tentorium: positive on the cerebrum's side, about mm."""
    rise = np.clip((6 - p[1]) / 26, 0, 1) * np.clip(1 - (np.minimum(p[1] + 24, 0) / 44) ** 2, 0, 1)
    tent = 10 + 25 * np.clip(1 - np.abs(p[0]) / 48, 0, 1) * rise
    return (p[2] - tent) * 0.85


def incisura(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the gap of the tentorium, where the midbrain and its cisterns pass."""
    return ellipsoid((p[0], p[1], p[2] * 0), (0, 0, 0), (21, 29, 1))


def basal_cisterns(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the space about the midbrain and above the sella that the cerebrum leaves free."""
    ambient = ellipsoid(p, (0, -7, 21), (18.5, 14, 14))
    interpeduncular = ellipsoid(p, (0, 7, 20), (13, 6, 9))
    suprasellar = ellipsoid(p, (0, 16, 26), (9, 9, 6))
    sylvian = capsule(mirrored(p), (12, 22, 27), (42, 30, 30), 2.2)
    return union(ambient, interpeduncular, suprasellar, sylvian)


def fourth_ventricle(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the fourth ventricle with its recesses and the aqueduct."""
    q = mirrored(p)
    body = ellipsoid(p, (0, -18.5, -3), (6.5, 4.5, 11))
    roof = ellipsoid(p, (0, -23, -1), (3, 5, 4))
    recess = capsule(q, (4, -18, -7), (13, -13, -9), 1.8, 1.0)
    aqueduct = capsule(p, (0, -16, 8), (0, -14, 30), 1.0)
    foramen = capsule(p, (0, -21, -12), (0, -26, -20), 2.0, 1.5)
    return union(smooth_union(body, roof, 3), recess, aqueduct, foramen)


def upper_ventricles(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the third and the lateral ventricles with the temporal horns."""
    q = mirrored(p)
    third = ellipsoid(p, (0, 8, 34), (2.2, 12, 10))
    frontal = capsule(q, (8, 45, 48), (10, 15, 56), 4.5, 5)
    atrium = capsule(q, (12, 10, 56), (24, -22, 40), 5, 7)
    horn = capsule(q, (24, -22, 40), (31, 12, 10), 4.5, 1.6)
    return union(third, frontal, atrium, horn)


def deep_grey(p: Coordinates) -> np.ndarray:
    """Return the signed distance to thalami and striatum."""
    q = mirrored(p)
    return union(ellipsoid(q, (11, 5, 40), (7.5, 14, 9)), ellipsoid(q, (23, 22, 40), (6, 18, 12)))


def cerebellar_core(p: Coordinates) -> np.ndarray:
    """Return the signed distance to the white matter in the middle of the cerebellum."""
    q = mirrored(p)
    return smooth_union(ellipsoid(q, (16, -27, -4), (13, 10, 9)), ellipsoid(p, (0, -30, 1), (6, 6, 6)), 5)


def folia_phase(p: Coordinates, wobble: np.ndarray) -> np.ndarray:
    """Return the phase (radians) whose crests are the fissures between folia.

    Folia fan out about the roof of the fourth ventricle in sagittal cuts and run transversely, curving forward to the
    sides, in axial ones; ``wobble`` (X, Y, Z), about unit variance, makes them individual.
    """
    fan = np.arctan2(p[2] + 4, -(p[1] + 14))
    distance = np.sqrt((p[1] + 14) ** 2 + (p[2] + 4) ** 2)
    return 38 * fan + 0.16 * np.abs(p[0]) + 0.35 * distance + 1.5 * wobble
