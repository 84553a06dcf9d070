"""From the scanner's millimetres to the patient's own: pose, size, individual shape, and what a tumour pushes aside.

The patient's frame: origin in the midline between the two internal auditory canals' openings, x to the Right, y to
Anterior, z to Superior, mm, before the individual's size and warp are applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossmoda.data.phantom.shapes import Coordinates, rotation

Triple = tuple[float, float, float]
INVERSE_STEPS = 3  # of the fixed-point iteration; each shrinks the error about tenfold


@dataclass(frozen=True)
class Wave:
    """Hold one plane wave of the individual warp: displacement (mm), wave vector (radians per mm), phase (radians)."""

    amplitude: Triple
    vector: Triple
    phase: float


@dataclass(frozen=True)
class Push:
    """Hold a ball inserted into soft tissue, which moves radially so that its own volume is kept."""

    centre: Triple
    radius: float


@dataclass(frozen=True)
class Frame:
    """Map scanner coordinates to one patient's frame.

    Args:
        angles_deg: pitch, roll, yaw of the head in the scanner.
        shift_mm: where the patient's origin lies in the scanner.
        scale: the patient's size along x, y, z relative to the average.
        waves: the individual warp, added to the rigid coordinates.
        push: what a tumour pushes aside, None for nothing.
    """

    angles_deg: Triple
    shift_mm: Triple
    scale: Triple
    waves: tuple[Wave, ...] = ()
    push: Push | None = None

    def to_scanner(self, points: np.ndarray) -> np.ndarray:
        """Return scanner mm of points (3, N) of the patient's frame: the inverse of ``bone``, within 0.1 mm."""
        points = np.asarray(points, float)
        plain = points
        for _ in range(INVERSE_STEPS):
            plain = points - self._warp(plain)
        scaled = plain * np.asarray(self.scale)[:, None]
        return rotation(self.angles_deg) @ scaled + np.asarray(self.shift_mm)[:, None]

    def bone(self, scanner: Coordinates) -> Coordinates:
        """Return the patient's coordinates of scanner points, warp included."""
        inverse = rotation(self.angles_deg).T / np.asarray(self.scale)[:, None]
        offsets = [axis - np.float32(s) for axis, s in zip(scanner, self.shift_mm, strict=True)]
        plain = [float(a) * offsets[0] + float(b) * offsets[1] + float(c) * offsets[2] for a, b, c in inverse]
        if not self.waves:
            return plain[0], plain[1], plain[2]
        moved = self._warp(plain)
        return plain[0] + moved[0], plain[1] + moved[1], plain[2] + moved[2]

    def _warp(self, plain: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Return the warp's displacement (3, ...) in mm at points given as x, y, z."""
        moved = np.zeros((3, *np.shape(plain[0])), np.float32)
        for wave in self.waves:
            angle = sum((float(k) * axis for k, axis in zip(wave.vector, plain, strict=True)), np.float32(wave.phase))
            ripple = np.sin(angle)
            for axis, amplitude in enumerate(wave.amplitude):
                moved[axis] += np.float32(amplitude) * ripple
        return moved

    def soft(self, p: Coordinates) -> Coordinates:
        """Return where the soft tissue at each point came from, before the tumour pushed it there.

        A ball of radius R at c sends a point at distance r from c to (r^3 + R^3)^(1/3): volume is kept. This is the
        inverse; points inside the ball, which the tumour covers anyway, come from its centre.
        """
        if self.push is None:
            return p
        offsets = [axis - np.float32(c) for axis, c in zip(p, self.push.centre, strict=True)]
        distance = np.maximum(np.sqrt(offsets[0] ** 2 + offsets[1] ** 2 + offsets[2] ** 2), np.float32(1e-3))
        factor = np.cbrt(np.maximum(1 - (self.push.radius / distance) ** 3, 0)).astype(np.float32)
        moved = [np.float32(c) + o * factor for c, o in zip(self.push.centre, offsets, strict=True)]
        return moved[0], moved[1], moved[2]
