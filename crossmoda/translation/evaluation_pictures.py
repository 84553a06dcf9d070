"""Pictures of an evaluation: input | translation | truth, with the outlines of the label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.transforms import Transform

from crossmoda.data.volumes import spacing_mm
from crossmoda.files import atomic_path
from crossmoda.labels import COLOURS, FULL_NAMES
from crossmoda.translation.measures.transforms import INPUT, TRANSLATION, TRUTH, masks_of, volumes_of

PICTURES = "pictures"
TITLES = {INPUT: "input", TRANSLATION: "pseudo-{}", TRUTH: "true {}"}  # columns from left to right, with the modality
_WIDTH_INCHES = 3.2


@dataclass(frozen=True)
class Picture:
    """Hold one axial slice of a case.

    Attributes:
        title: the case, and the structure at whose largest section it lies.
        images: kind -> (X, Y) in [-1, 1].
        masks: structure -> boolean (X, Y).
        aspect: height of a pixel over its width.
    """

    title: str
    images: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    aspect: float


class CutPicturesd(Transform):
    """Add ``pictures``: an axial slice through the largest section of each structure; without a label, the middle one.

    Args:
        structures: names of the masks' channels.
    """

    def __init__(self, structures: Sequence[str]) -> None:
        self.structures = list(structures)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the item with its pictures; the input is not changed."""
        d = dict(data)
        masks, volumes = masks_of(d, self.structures), volumes_of(d)
        spacing = spacing_mm(np.asarray(d["image"].affine, dtype=float))
        levels = {name: int(mask.sum(axis=(0, 1)).argmax()) for name, mask in masks.items()}
        d[PICTURES] = [
            Picture(
                f"{d['case']}\n{FULL_NAMES.get(name, 'middle slice')}",
                {kind: np.asarray(volumes[kind][0, ..., z]) for kind in TITLES if kind in volumes},
                {shown: mask[..., z] for shown, mask in masks.items()},
                float(spacing[1] / spacing[0]),
            )
            for name, z in (levels or {"": volumes[INPUT].shape[-1] // 2}).items()
        ]
        return d


def draw_pictures(path: Path, pictures: Sequence[Picture], modality: str = "hrT2") -> None:
    """Write a PNG with a row a picture, in the radiological view: anterior up, the patient's right on the left."""
    columns = [kind for kind in TITLES if any(kind in picture.images for picture in pictures)]
    width, height = next(iter(pictures[0].images.values())).shape
    tall = _WIDTH_INCHES * height / width * pictures[0].aspect
    figure = Figure(figsize=(_WIDTH_INCHES * len(columns), tall * len(pictures) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(pictures), len(columns), squeeze=False)
    for row, picture in zip(grid, pictures, strict=True):
        for axes, kind in zip(row, columns, strict=True):
            draw_slice(axes, picture, kind)
        row[0].set_ylabel(picture.title, fontsize=7)
    for axes, kind in zip(grid[0], columns, strict=True):
        axes.set_title(TITLES[kind].format(modality), fontsize=9)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110, metadata={"Software": None})


def draw_slice(axes: Any, picture: Picture, kind: str) -> None:
    """Draw one kind of image of a picture, if it has it, with the outlines of its structures."""
    axes.set_xticks([])
    axes.set_yticks([])
    if kind in picture.images:
        axes.imshow(_upright(picture.images[kind]), cmap="gray", vmin=-1, vmax=1, aspect=picture.aspect)
    for name, mask in picture.masks.items():
        if mask.any():
            axes.contour(_upright(mask), levels=[0.5], colors=COLOURS[name], linewidths=0.8)


def _upright(array: np.ndarray) -> np.ndarray:
    return array[::-1, ::-1].T
