"""Pictures of a case under review: hrT2 slices in three planes with the contours of a label, drawn as PNG.

Slices are those of the report (``crossmoda.evaluation.report.slices``): the scan's own grid in the radiological
convention, brought to square pixels, so that thick slices keep their true proportions.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy import ndimage

from crossmoda.data.volumes import Volume, read_volume
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.report.panels import cochlea_of, focus, tumour_of
from crossmoda.evaluation.report.slices import (
    AXIAL,
    AXIS,
    CORONAL,
    SAGITTAL,
    Window,
    grey_levels,
    outline_points_mm,
    to_ras,
    window_about,
)
from crossmoda.labels import COLOURS
from crossmoda.self_training.review_labels import read_label

PLANES = (AXIAL, CORONAL, SAGITTAL)
EDGES = {AXIAL: "RLAP", CORONAL: "RLSI", SAGITTAL: "APSI"}  # which side of the patient is left, right, top, bottom
SLICE_PIXELS = 720  # the longer side of a whole slice
WALL_MM = 96.0  # the wall shows this width about the tumour, not the whole head, so that contours can be judged
WALL_PIXELS_PER_MM = 2.5
LINE_PIXELS = 1.5
LETTER_PIXELS = {"slice": 24, "wall": 15}
LETTER_COLOUR = "#ffe08a"
OTHER_COLOUR = "#bbbbbb"  # of structures that the project does not know
_FINER = 3  # lines are drawn this much larger and then reduced, which smooths them
_WHOLE_MM = 1e6


@dataclass(frozen=True)
class Grey:
    """What is shown as mid-grey and how much from black to white.

    Args:
        level: in percent of the scan's normal range of grey (1st to 99.7th percentile).
        width: in percent of the same, above 0.
    """

    level: float = 50.0
    width: float = 100.0

    def shade(self, picture: np.ndarray, normal: tuple[float, float]) -> np.ndarray:
        """Return intensities of any shape as uint8, black to white, given the scan's normal range."""
        percent = (np.nan_to_num(picture) - normal[0]) / (normal[1] - normal[0]) * 100
        return (np.clip((percent - self.level) / self.width + 0.5, 0, 1) * 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Scene:
    """A scan and the structures of one label, in the axis order nearest to RAS+.

    Args:
        scan: the volume.
        masks: structure -> mask (X, Y, Z), none of them empty.
        levels: the scan's normal range of grey.
        centre: the voxel that is shown first.
    """

    scan: Volume
    masks: Mapping[str, np.ndarray]
    levels: tuple[float, float]
    centre: tuple[int, int, int]

    def slices(self, plane: str) -> int:
        """Return the number of slices in a plane."""
        return int(self.scan.array.shape[AXIS[plane]])

    def middle(self, plane: str) -> int:
        """Return the index of the slice through the centre."""
        return self.centre[AXIS[plane]]


def read_scene(image: Path, label: Path | None, values: Mapping[str, int], what: str) -> Scene:
    """Read a scan and a label of it.

    The centre is that of the largest piece of tumour; of the cochlea where there is no tumour; of the head where there
    is no label.

    Args:
        image: the scan.
        label: the label map, or None.
        values: structure -> voxel value in it.
        what: what messages call the label.

    Raises:
        CrossmodaError: a file is unreadable, or the label lies on another grid.
    """
    try:
        stored = read_volume(image)
    except CrossmodaError as error:
        raise CrossmodaError(str(error).replace(str(image), image.name)) from error
    scan = to_ras(stored)
    masks: dict[str, np.ndarray] = {}
    if label is not None:
        numbers, _ = read_label(label, image, what)
        upright = to_ras(Volume(numbers, stored.affine)).array
        found = {name: upright == value for name, value in values.items()}
        masks = {name: mask for name, mask in found.items() if mask.any()}
    return Scene(scan, masks, grey_levels(scan.array), _centre(scan.array, masks))


def _centre(array: np.ndarray, masks: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    shown = next((mask for mask in (tumour_of(dict(masks)), cochlea_of(dict(masks))) if mask is not None), None)
    x, y, z = (round(value) for value in (focus(shown) if shown is not None else _middle_of_head(array)))
    return x, y, z


def _middle_of_head(array: np.ndarray) -> tuple[float, ...]:
    finite = np.nan_to_num(array)
    head = finite > finite.mean()
    middle: tuple[float, ...] = ndimage.center_of_mass(head if head.any() else np.ones_like(head))
    return middle


def draw_slice(scene: Scene, plane: str, index: int, contours: bool = True, grey: Grey | None = None) -> bytes:
    """Return a whole slice as PNG, its longer side ``SLICE_PIXELS`` long.

    Args:
        scene: scan and label.
        plane: one of ``PLANES``.
        index: of the slice in the scene's axis order: from left, posterior or inferior.
        contours: draw the structures' outlines.
        grey: what is black and white; by default the scan's normal range.

    Raises:
        CrossmodaError: there is no such slice.
    """
    if not 0 <= index < scene.slices(plane):
        raise CrossmodaError(f"{plane} slice {index}: this scan has slices 0 to {scene.slices(plane) - 1}")
    window = window_about(scene.scan, plane, (index, index, index), (_WHOLE_MM, _WHOLE_MM))
    panel = _panel(scene, window, SLICE_PIXELS / max(window.size_mm), contours, grey or Grey())
    _draw_letters(panel, EDGES[plane], LETTER_PIXELS["slice"])
    return _png(panel)


def draw_wall_picture(scene: Scene) -> bytes:
    """Return one PNG for the wall: axial on the left, coronal above sagittal on the right, about the centre.

    All three have the same scale, ``WALL_PIXELS_PER_MM``; where the scan ends, the picture is black.
    """
    side = round(WALL_MM * WALL_PIXELS_PER_MM)
    picture = Image.new("RGB", (2 * side, side))
    places = {AXIAL: (0, 0, side), CORONAL: (side, 0, side // 2), SAGITTAL: (side, side // 2, side // 2)}
    for plane, (left, top, height) in places.items():
        size_mm = (WALL_MM, height / WALL_PIXELS_PER_MM)
        window = window_about(scene.scan, plane, scene.centre, size_mm)
        panel = _panel(scene, window, WALL_PIXELS_PER_MM, contours=True, grey=Grey())
        panel = panel.crop((0, 0, min(panel.width, side), min(panel.height, height)))
        _draw_letters(panel, EDGES[plane], LETTER_PIXELS["wall"])
        picture.paste(panel, (left + (side - panel.width) // 2, top + (height - panel.height) // 2))
    return _png(picture)


def _panel(scene: Scene, window: Window, pixels_per_mm: float, contours: bool, grey: Grey) -> Image.Image:
    width, height = (max(round(length * pixels_per_mm), 1) for length in window.size_mm)
    shades = Image.fromarray(grey.shade(window.cut(scene.scan.array), scene.levels))
    panel = shades.resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    for structure, mask in scene.masks.items() if contours else ():
        _draw_contour(panel, window.cut(mask), window, COLOURS.get(structure, OTHER_COLOUR))
    return panel


def _draw_contour(panel: Image.Image, mask: np.ndarray, window: Window, colour: str) -> None:
    if not mask.any():
        return
    scale = np.array(panel.size) / window.size_mm * _FINER
    line = Image.new("L", (panel.width * _FINER, panel.height * _FINER))
    pen = ImageDraw.Draw(line)
    for points in outline_points_mm(mask, window):
        closed = np.concatenate([points, points[:2]]) * scale
        pen.line([(x, y) for x, y in closed], fill=255, width=round(LINE_PIXELS * _FINER), joint="curve")
    panel.paste(ImageColor.getrgb(colour), (0, 0), line.reduce(_FINER))


def _draw_letters(panel: Image.Image, letters: str, pixels: int) -> None:
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(pixels)
    width, height = panel.size
    places = {"lm": (3, height / 2), "rm": (width - 3, height / 2), "mt": (width / 2, 3), "mb": (width / 2, height - 3)}
    for letter, (anchor, place) in zip(letters, places.items(), strict=True):
        pen.text(place, letter, fill=LETTER_COLOUR, font=font, anchor=anchor, stroke_width=1, stroke_fill="black")


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()
