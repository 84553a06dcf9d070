"""Arteries, veins and the nerves of the cisterns as tubes in the patient's frame (mm)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from crossmoda.data.phantom.shapes import Coordinates, Point, smooth_path, tube


@dataclass(frozen=True)
class Tubes:
    """Hold tubes of one tissue: points (N, 3) with their radii (N,), and the box that holds them."""

    points: np.ndarray
    radii: np.ndarray

    def __call__(self, p: Coordinates) -> np.ndarray:
        """Return the signed distance (mm) to the tubes."""
        return tube(p, self.points, self.radii, reach_mm=float(self.radii.max()) + 2.5)

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest corner of what the tubes fill."""
        edge = float(self.radii.max())
        return self.points.min(0) - edge, self.points.max(0) + edge

    def wider(self, by_mm: float) -> Tubes:
        """Return the tubes with their radii grown."""
        return Tubes(self.points, self.radii + by_mm)

    def pieces(self, reach_mm: float = 9.0) -> Iterator[Tubes]:
        """Yield short stretches that overlap by two points and together are the whole."""
        gaps = np.linalg.norm(np.diff(self.points, axis=0), axis=1)
        breaks = [0, *(np.flatnonzero(gaps > 5 * np.median(gaps)) + 1), len(self.points)]
        count = max(int(reach_mm / float(np.median(gaps))), 3)
        for first, last in itertools.pairwise(breaks):
            for start in range(first, last, count):
                part = slice(max(start - 1, first), min(start + count + 1, last))
                yield Tubes(self.points[part], self.radii[part])


def make_tubes(paths: Sequence[tuple[Sequence[Point], float, float]], step_mm: float = 0.4) -> Tubes:
    """Return tubes along smooth paths, each given as (points, radius at the start, radius at the end) in mm."""
    points, radii = [], []
    for knots, first, last in paths:
        curve = smooth_path(knots, step_mm)
        points.append(curve)
        radii.append(np.linspace(first, last, len(curve)))
    return Tubes(np.concatenate(points), np.concatenate(radii))


def on_side(side: int, points: Sequence[Point]) -> list[Point]:
    """Return points drawn for the right (x > 0) on the side asked for (+1 right, -1 left)."""
    return [(side * x, y, z) for x, y, z in points]


def carotid(side: int) -> Tubes:
    """Return the internal carotid artery: up the neck, through the petrous bone, around the siphon."""
    knots = [(29, 14, -70), (27, 13, -40), (26, 14, -16), (23, 17, -8), (16, 21, -5), (12, 24, 2), (12, 30, 9),
             (12, 35, 13), (11, 31, 18), (13, 27, 23)]  # fmt: skip
    return make_tubes([(on_side(side, knots), 2.7, 2.2)])


def brain_arteries(wobble: np.ndarray) -> Tubes:
    """Return basilar and vertebral arteries with their branches; ``wobble`` (6,) in mm makes the course individual."""
    w = [float(v) for v in wobble]
    paths: list[tuple[Sequence[Point], float, float]] = [
        ([(w[0], 3.5, -18), (w[1], 9, -8), (w[2], 10.4, 4), (w[3] * 0.5, 10.5, 14), (0, 8, 21)], 1.7, 1.5),
    ]
    for side in (1, -1):
        own = w[4] if side > 0 else w[5]
        paths += [
            (on_side(side, [(12, -8, -60), (14, -8, -42), (9, -1 + own * 0.5, -32), (0, 3.5, -18)]), 1.6, 1.5),
            (on_side(side, [(1, 9.5, -5), (9, 8, -7 + own), (17, 3, -4 + own), (20, -1, -2), (16, -6, -6)]), 0.6, 0.45),
            (on_side(side, [(1, 9, 18), (9, 6, 17 + own * 0.5), (16, -5, 18), (15, -18, 22)]), 0.7, 0.5),
            (on_side(side, [(0, 8, 21), (8, 8, 23), (17, -3, 24), (17, -20, 30)]), 1.0, 0.7),
            (on_side(side, [(13, 27, 23), (22, 25, 26), (32, 27, 27), (42, 28, 30)]), 1.4, 1.1),
        ]
    return make_tubes(paths)


def sinuses(dominance: float) -> tuple[Tubes, ...]:
    """Return the dural sinuses and jugular veins, per side and midline; ``dominance`` > 0 widens the right one (mm)."""
    made = []
    for side in (1, -1):
        wide = 4.0 + side * dominance
        knots = [(0, -68, 13), (25, -60, 13), (46, -40, 12), (52, -23, 8), (49, -14, -3), (45, -9, -14)]
        knots += [(36, -2, -24), (31, 5, -27), (31, 8, -38), (32, 8, -75)]
        made.append(make_tubes([(on_side(side, knots), wide * 0.85, wide * 1.1)], 0.8))
    sagittal = [(0, -68, 13), (0, -64, 45), (0, -38, 85), (0, 17, 103), (0, 70, 88)]
    straight = [(0, -68, 13), (0, -45, 30), (0, -24, 38)]
    made.append(make_tubes([(sagittal, 4, 2.5), (straight, 2.2, 1.6)], 0.8))
    return tuple(made)


def trigeminal() -> Tubes:
    """Return both trigeminal nerves from the pons to Meckel's caves."""
    knots = [(14, 2, 4), (16, 8, 5.5), (18, 14, 6), (19, 19, 4)]
    return make_tubes([(on_side(side, knots), 1.6, 2.0) for side in (1, -1)])


def lower_nerves() -> Tubes:
    """Return nerves IX to XI of both sides, from the medulla to the jugular foramina."""
    paths: list[tuple[Sequence[Point], float, float]] = []
    for side in (1, -1):
        paths.append((on_side(side, [(8, -8, -16), (17, -5, -17), (27, -1, -19)]), 0.5, 0.5))
        paths.append((on_side(side, [(8, -9, -20), (17, -6, -20), (28, -2, -21)]), 0.5, 0.5))
    return make_tubes(paths)


def loop_into_canal(side: int, porus: np.ndarray, axis: np.ndarray) -> Tubes:
    """Return a branch of the basilar artery that enters the internal auditory canal and turns back, as in many ears.

    Args:
        side: +1 right, -1 left.
        porus: middle of the canal's opening (3,), right-sided, mm.
        axis: unit vector along the canal, right-sided.
    """
    turn = porus + 3.5 * axis
    knots = [(15.0, -1.0, -5.0), porus + [-1.5, 0.6, -1.4], turn + [0, 0.3, -0.6], turn + [0.4, -0.2, 0.4],
             porus + [-1.5, -0.8, 1.3], (16.0, -6.0, -2.0)]  # fmt: skip
    return make_tubes([(on_side(side, knots), 0.55, 0.45)], 0.3)
