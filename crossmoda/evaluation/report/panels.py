"""A panel: one slice of one scan with outlines on it, as the page's template draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from crossmoda.data.volumes import Volume
from crossmoda.evaluation.report.run_folder import Masks
from crossmoda.evaluation.report.slices import AXIS, Window, grey_levels, grey_png, heat_png, outline
from crossmoda.labels import COCHLEA

Point = tuple[float, float, float]  # voxels of a RAS+ array

KINDS = {"prediction": "prediction", "pseudo": "pseudo-label", "truth": "truth", "label": "label"}


@dataclass(frozen=True)
class Outline:
    """A closed line around one structure: whose it is (``kind`` of ``KINDS``) and its SVG path in mm."""

    structure: str
    kind: str
    path: str


@dataclass(frozen=True)
class Panel:
    """A picture with its true size in mm, outlines in the same mm, and words for people who cannot see it."""

    title: str
    alt: str
    width_mm: float
    height_mm: float
    image: str
    outlines: tuple[Outline, ...] = ()
    heat: str | None = None

    @property
    def ratio(self) -> float:
        """Width over height."""
        return self.width_mm / self.height_mm


def draw_panel(
    title: str, volume: Volume, window: Window, masks: Mapping[str, Masks], heat: Volume | None = None
) -> Panel:
    """Return the panel of a window of a RAS+ volume.

    Args:
        title: stands above the picture.
        volume: the scan.
        window: what part of it to show.
        masks: kind -> structure -> mask (X, Y, Z); drawn in this order. A mask of another shape is left out.
        heat: a map in [0, 1] on the same grid, laid over the scan.
    """
    outlines = []
    for kind, structures in masks.items():
        for structure, mask in structures.items():
            path = outline(window.cut(mask), window) if mask.shape == volume.array.shape else ""
            if path:
                outlines.append(Outline(structure, kind, path))
    drawn = ", ".join(f"{KINDS[o.kind]} of {o.structure}" for o in outlines) or "no outline"
    fits = heat is not None and heat.array.shape == volume.array.shape
    slices = volume.array.shape[AXIS[window.plane]]
    return Panel(
        title=title,
        alt=f"{title}, {window.plane} slice {window.index + 1} of {slices}, {drawn}",
        width_mm=window.size_mm[0],
        height_mm=window.size_mm[1],
        image=grey_png(window.cut(volume.array), grey_levels(volume.array)),
        outlines=tuple(outlines),
        heat=heat_png(window.cut(heat.array)) if heat is not None and fits else None,
    )


def tumour_of(masks: Masks) -> np.ndarray | None:
    """Return the union of everything that is not cochlea, or None where there is nothing."""
    parts = [mask for name, mask in masks.items() if name != COCHLEA]
    union = np.logical_or.reduce(parts) if parts else None
    return union if union is not None and union.any() else None


def cochlea_of(masks: Masks) -> np.ndarray | None:
    """Return the cochlea's mask, or None where it is empty."""
    mask = masks.get(COCHLEA)
    return mask if mask is not None and mask.any() else None


def focus(mask: np.ndarray) -> Point:
    """Return the centre of a mask's largest piece in the axial slice in which the mask is largest."""
    level = int(mask.sum(axis=(0, 1)).argmax())
    pieces, count = ndimage.label(mask[..., level])
    largest = 1 + int(np.argmax(ndimage.sum_labels(mask[..., level], pieces, range(1, count + 1))))
    x, y = ndimage.center_of_mass(pieces == largest)
    return float(x), float(y), float(level)


def middle(masks: Masks, shape: Sequence[int]) -> Point:
    """Return the centre of the box around all structures; that of the array where there are none."""
    boxes = [ndimage.find_objects(mask.astype(np.uint8))[0] for mask in masks.values() if mask.any()]
    if not boxes:
        return (shape[0] - 1) / 2, (shape[1] - 1) / 2, (shape[2] - 1) / 2
    low = [min(box[axis].start for box in boxes) for axis in range(3)]
    high = [max(box[axis].stop - 1 for box in boxes) for axis in range(3)]
    x, y, z = ((a + b) / 2 for a, b in zip(low, high, strict=True))
    return x, y, z
