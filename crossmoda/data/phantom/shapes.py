"""Shapes as signed distances: negative inside, positive outside, in mm, evaluated wherever they are asked for.

A shape is a function of coordinates, so that one patient can be rasterised at any spacing and in any orientation. The
values need only be proportional to a distance near the surface: ``coverage`` divides by the local slope.

The primitives and the smooth union follow the standard signed-distance constructions (J. C. Hart, "Sphere tracing",
The Visual Computer 12, 1996).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.interpolate import make_interp_spline
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]  # x, y, z in mm, arrays of one shape (X, Y, Z)
Point = Sequence[float] | np.ndarray  # x, y, z in mm


def ellipsoid(p: Coordinates, centre: Point, radii: Point) -> np.ndarray:
    """Return the approximate signed distance (mm) to an axis-aligned ellipsoid; exact for a sphere."""
    parts = [(axis - float(c)) / float(r) for axis, c, r in zip(p, centre, radii, strict=True)]
    level = np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2)
    slope = np.sqrt(sum((part / float(r)) ** 2 for part, r in zip(parts, radii, strict=True)))
    return level * (level - 1) / np.maximum(slope, 1e-6)


def capsule(p: Coordinates, start: Point, end: Point, radius: float, end_radius: float | None = None) -> np.ndarray:
    """Return the signed distance (mm) to a rounded rod whose radius runs linearly from ``radius`` to ``end_radius``."""
    axis = np.subtract(end, start)
    length_squared = float(axis @ axis)
    offsets = [a - float(s) for a, s in zip(p, start, strict=True)]
    along = np.clip(sum(o * float(d) for o, d in zip(offsets, axis, strict=True)) / length_squared, 0, 1)
    squared = sum((o - along * float(d)) ** 2 for o, d in zip(offsets, axis, strict=True))
    growth = 0.0 if end_radius is None else end_radius - radius
    return np.sqrt(squared) - (radius + growth * along)


def half_space(p: Coordinates, point: Point, normal: Point) -> np.ndarray:
    """Return the signed distance (mm) to a plane through ``point``; negative on the side away from ``normal``."""
    unit = np.asarray(normal, float) / np.linalg.norm(normal)
    return sum((a - float(o)) * float(n) for a, o, n in zip(p, point, unit, strict=True))  # type: ignore[return-value]


def tube(p: Coordinates, centreline: np.ndarray, radii: np.ndarray, reach_mm: float = 4.0) -> np.ndarray:
    """Return the signed distance (mm) to a tube around a dense polyline.

    Args:
        p: coordinates.
        centreline: (N, 3) points in mm, closer together than the finest detail asked for.
        radii: (N,) radius in mm at each point.
        reach_mm: farther than this from the centreline the distance is cut off (which makes the search fast).
    """
    points = np.stack([axis.ravel() for axis in p], axis=1)
    distance, nearest = cKDTree(centreline).query(points, distance_upper_bound=reach_mm)
    radius = np.append(radii, 0.0)[nearest]
    return (np.minimum(distance, reach_mm) - radius).astype(np.float32).reshape(p[0].shape)


def union(*distances: np.ndarray) -> np.ndarray:
    """Return the signed distance to everything that is inside any of the shapes."""
    return np.minimum.reduce(distances)


def smooth_union(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Return the union of two shapes with a fillet of about ``blend_mm`` where they meet."""
    overlap = np.maximum(blend_mm - np.abs(a - b), 0) / blend_mm
    return np.minimum(a, b) - overlap**2 * (blend_mm / 4)


def smooth_intersection(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Return the intersection of two shapes with its edge rounded over about ``blend_mm``."""
    return -smooth_union(-a, -b, blend_mm)


def coverage(distance: np.ndarray) -> np.ndarray:
    """Return the fraction (0 to 1) of each voxel that lies inside a shape, from distances at the voxel centres.

    The surface is taken as flat within a voxel and the fraction as falling linearly over a width whose square is the
    sum, over axes, of the squared change of distance from voxel to voxel: the ramp then has the second moment of the
    voxel itself, so that also curved shapes keep their volume. This holds for anisotropic and oblique voxels, and for
    distances that are off by a constant factor. An axis of length one adds no width.

    Args:
        distance: (X, Y, Z), any unit.
    """
    squared = np.full(distance.shape, 1e-12, np.float32)
    for axis, length in enumerate(distance.shape):
        if length > 1:
            squared += np.gradient(distance, axis=axis) ** 2
    return np.clip(0.5 - distance / np.sqrt(squared), 0, 1).astype(np.float32)


def rotation(angles_deg: Point) -> np.ndarray:
    """Return the 3x3 matrix that rotates about x (pitch), then y (roll), then z (yaw), in degrees."""
    return Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()


def smooth_path(points: Sequence[Point], step_mm: float = 0.5) -> np.ndarray:
    """Return a smooth curve (N, 3) through the given points, sampled about every ``step_mm``."""
    knots = np.asarray(points, float)
    chords = np.linalg.norm(np.diff(knots, axis=0), axis=1)
    position = np.concatenate([[0], np.cumsum(chords)])
    curve = make_interp_spline(position, knots, k=min(3, len(knots) - 1))
    return curve(np.linspace(0, position[-1], max(2, int(np.ceil(position[-1] / step_mm)) + 1)))


def arc(centre: Point, first: Point, second: Point, radius: float, start_deg: float, stop_deg: float) -> np.ndarray:
    """Return points (N, 3) on a circular arc in the plane spanned by the unit vectors ``first`` and ``second``."""
    angles = np.deg2rad(np.linspace(start_deg, stop_deg, 60))[:, None]
    return np.asarray(centre) + radius * (np.cos(angles) * np.asarray(first) + np.sin(angles) * np.asarray(second))


def spiral(turns: float, outer_mm: float, inner_mm: float, height_mm: float, samples: int = 240) -> np.ndarray:
    """Return a conical spiral (N, 3) about +z from the outer radius at z = 0 up to the inner radius at ``height_mm``.

    The radius shrinks geometrically per turn, as a cochlea's does.
    """
    fraction = np.linspace(0, 1, samples)
    radius = outer_mm * (inner_mm / outer_mm) ** fraction
    angle = 2 * np.pi * turns * fraction
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height_mm * fraction], axis=1)
