"""The voxel grid that shapes are painted on: where each voxel lies in the patient, and what fills it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from crossmoda.data.phantom.frame import Frame
from crossmoda.data.phantom.shapes import Coordinates, Point, coverage
from crossmoda.data.phantom.vessels import Tubes

Shape = Callable[[Coordinates], np.ndarray]
Box = tuple[Point, Point]  # lowest and highest corner in the patient's frame, mm
Window = tuple[slice, slice, slice]
Cover = tuple[Window, np.ndarray]  # where on the grid, and the fraction of each voxel there

# A box grows a little, since the patient's warp bends it: its corners follow the warp, what lies between may differ.
LEAST_MARGIN_MM, MARGIN_PER_MM, MOST_MARGIN_MM = 0.8, 0.05, 3.0


class Canvas:
    """Hold the tissue fractions of a grid, and paint shapes over what is there.

    Args:
        shape: (X, Y, Z) voxels.
        affine: voxel index to scanner mm, RAS.
        frame: turns scanner mm into the patient's own frame.
    """

    def __init__(self, shape: Sequence[int], affine: np.ndarray, frame: Frame) -> None:
        self.shape = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.affine = np.asarray(affine, float)
        self.frame = frame
        self.rigid = frame.bone(self._scanner_mm(np.zeros(3), np.ones(3), self.shape))
        self.soft = frame.soft(self.rigid)
        self.fractions: dict[str, np.ndarray] = {"air": np.ones(self.shape, np.float32)}

    def _scanner_mm(self, start: np.ndarray, step: np.ndarray, counts: Sequence[int]) -> Coordinates:
        """Return scanner coordinates of the points ``start + step * index`` (in voxels)."""
        axes = np.ogrid[tuple(slice(n) for n in counts)]
        index = [(s + d * a).astype(np.float32) for s, d, a in zip(start, step, axes, strict=True)]
        rows = [
            sum((float(c) * i for c, i in zip(row[:3], index, strict=True)), np.float32(row[3]))
            for row in self.affine[:3]
        ]
        return tuple(np.broadcast_to(r, counts).astype(np.float32) for r in rows)  # type: ignore[return-value]

    def window(self, box: Box | None) -> Window | None:
        """Return the slices of the grid that hold a box, or None where it lies outside."""
        if box is None:
            return (slice(0, self.shape[0]), slice(0, self.shape[1]), slice(0, self.shape[2]))
        low, high = np.asarray(box[0], float), np.asarray(box[1], float)
        margin = np.minimum(LEAST_MARGIN_MM + MARGIN_PER_MM * float(np.max(high - low)), MOST_MARGIN_MM)
        low, high = low - margin, high + margin
        corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
        inverse = np.linalg.inv(self.affine)
        index = inverse[:3, :3] @ self.frame.to_scanner(corners) + inverse[:3, 3:]
        first = np.maximum(np.floor(index.min(1)).astype(int) - 1, 0)
        last = np.minimum(np.ceil(index.max(1)).astype(int) + 2, self.shape)
        if np.any(last <= first):
            return None
        return tuple(slice(int(a), int(b)) for a, b in zip(first, last, strict=True))  # type: ignore[return-value]

    def cover(
        self, shape: Shape, box: Box | None = None, fine_mm: float | None = None, soft: bool = False
    ) -> Cover | None:
        """Return how much of each voxel a shape fills.

        Args:
            shape: signed distance in the patient's frame.
            box: where the shape can be; None for everywhere.
            fine_mm: sample at about this distance and average (for details smaller than a voxel); None: once a voxel.
            soft: use the coordinates of soft tissue, which a tumour pushes aside.

        Returns:
            The window and the coverage in it, or None where the box misses the grid.
        """
        window = self.window(box)
        if window is None:
            return None
        if fine_mm is None:
            field = self.soft if soft else self.rigid
            return window, coverage(shape((field[0][window], field[1][window], field[2][window])))
        return window, self._fine_coverage(shape, window, fine_mm, soft)

    def _fine_coverage(self, shape: Shape, window: Window, fine_mm: float, soft: bool) -> np.ndarray:
        factors = np.maximum(np.rint(np.linalg.norm(self.affine[:3, :3], axis=0) / fine_mm).astype(int), 1)
        counts = np.array([w.stop - w.start for w in window])
        start = np.array([w.start for w in window]) - 0.5 + 0.5 / factors
        points = self.frame.bone(self._scanner_mm(start, 1 / factors, tuple(counts * factors)))
        fine = coverage(shape(self.frame.soft(points) if soft else points))
        blocks = fine.reshape(counts[0], factors[0], counts[1], factors[1], counts[2], factors[2])
        return blocks.mean(axis=(1, 3, 5), dtype=np.float32)

    def cover_tubes(self, tubes: Tubes, soft: bool = False) -> Cover | None:
        """Return the coverage by tubes, searched piece by piece, since tubes fill little of the box that holds them."""
        found = [self.cover(piece, piece.box, soft=soft) for piece in tubes.pieces()]
        covers = [cover for cover in found if cover is not None]
        if not covers:
            return None
        low = np.min([[w.start for w in window] for window, _ in covers], axis=0)
        high = np.max([[w.stop for w in window] for window, _ in covers], axis=0)
        share = np.zeros(high - low, np.float32)
        for window, part in covers:
            inner = tuple(slice(w.start - first, w.stop - first) for w, first in zip(window, low, strict=True))
            np.maximum(share[inner], part, out=share[inner])
        return (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])), share

    def paint(self, tissue: str, cover: Cover | None, opacity: float | np.ndarray = 1.0) -> None:
        """Let a tissue take its share of each voxel from whatever fills it; the fractions keep summing to one."""
        if cover is None:
            return
        window, share = cover
        share = share * opacity if not (isinstance(opacity, float) and opacity == 1.0) else share
        rest = 1 - share
        for fraction in self.fractions.values():
            fraction[window] *= rest
        if tissue not in self.fractions:
            self.fractions[tissue] = np.zeros(self.shape, np.float32)
        self.fractions[tissue][window] += share

    def draw(
        self, tissue: str, shape: Shape, box: Box | None = None, fine_mm: float | None = None, soft: bool = False
    ) -> Cover | None:
        """Cover and paint in one step; return the cover."""
        cover = self.cover(shape, box, fine_mm, soft)
        self.paint(tissue, cover)
        return cover

    def whole(self, cover: Cover | None) -> np.ndarray:
        """Return a cover as an array of the whole grid (X, Y, Z)."""
        full = np.zeros(self.shape, np.float32)
        if cover is not None:
            full[cover[0]] = cover[1]
        return full
