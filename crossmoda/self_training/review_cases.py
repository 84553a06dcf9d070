"""The cases under review as a page shows them: what is known of each, the most uncertain first, and their pictures.

What takes long is kept: volumes by the label's sha256 in ``STUDIES/.triage/volumes.json``, the wall's pictures by the
sha256 of scan and label in ``STUDIES/.triage/pictures/<image_id>``, and the last few scans that were leafed through in
memory. The folder can be deleted at any time.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data.volumes import read_volume, voxel_volume_mm3
from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path, hash_of, read_json, sha256_of, write_json
from crossmoda.labels import COLOURS
from crossmoda.self_training.review import CORRECTED, deciding_tag, status_of, values_of, when_of
from crossmoda.self_training.review_info import meta_of
from crossmoda.self_training.review_order import ANATOMY
from crossmoda.self_training.review_pictures import (
    PLANES,
    WALL_MM,
    WALL_PIXELS_PER_MM,
    Grey,
    Scene,
    draw_slice,
    draw_wall_picture,
    read_scene,
)
from crossmoda.self_training.review_store import ORIGINAL, ReviewStore, check_image_id, check_tag
from crossmoda.self_training.review_verdicts import state_of

logger = logging.getLogger(__name__)

OPEN = "open"  # nobody has saved a label or judged the pseudo-label
FOLDER = ".triage"
SCENES_IN_MEMORY = 3  # the case on the screen and its neighbours
SCANS_READ_AT_ONCE = 2  # for the wall; each takes up to 100 MB while it is drawn
MEASURED_BETWEEN_WRITES = 50
DRAWN_AS = [WALL_MM, WALL_PIXELS_PER_MM, 1]  # the number goes up when pictures are drawn otherwise

Row = dict[str, Any]


class UnknownCaseError(CrossmodaError):
    """There is no such scan in the store, or it has no such label."""


class ReviewCases:
    """What a page needs to know of the cases in a store; for several threads.

    Args:
        store: the folder under review.
        current: gives the run's ``current.json``.
    """

    def __init__(self, store: ReviewStore, current: Callable[[], Mapping[str, Any]]) -> None:
        self._store = store
        self._current = current
        self._volumes = LabelVolumes(store.folder / FOLDER / "volumes.json")
        self._scenes: OrderedDict[str, Future[Scene]] = OrderedDict()
        self._looking_up, self._reading = threading.Lock(), threading.Lock()
        self._drawing = threading.BoundedSemaphore(SCANS_READ_AT_ONCE)

    def listing(self) -> dict[str, Any]:
        """Return ``round``, ``colours`` (structure -> sRGB) and ``cases``.

        The most uncertain case comes first, those without a measure last. Volumes that are not known yet are None, and
        measured meanwhile. ``segmentationMeta`` is what 3D Slicer's Reviewer or the page wrote, None where neither did.
        """
        current = self._current()
        rows, unmeasured = [], {}
        for image_id, entry in self._store.read()["objects"].items():
            row = self._row(image_id, entry, current)
            rows.append(row)
            if row["volumes_ml"] is None and row["label_sha256"]:
                extension = entry["labels"][row["tag"]]["ext"]
                unmeasured[row["label_sha256"]] = self._store.label_path(image_id, row["tag"], extension)
        self._volumes.measure_later(unmeasured)
        rows.sort(key=lambda row: (row["uncertainty"] is None, -(row["uncertainty"] or 0.0), row["image"]))
        return {"round": current["round"], "colours": COLOURS, "cases": rows}

    def case(self, image_id: str) -> Row:
        """Return the row of one case, as it is now.

        Raises:
            UnknownCaseError: there is no such scan.
            CrossmodaError: the id is malformed.
        """
        return self._row(image_id, self._entry(image_id), self._current())

    def planes(self, image_id: str, tag: str | None) -> dict[str, dict[str, int]]:
        """Return plane -> ``slices``: how many, and ``middle``: the one through the middle of the label of a tag.

        Raises:
            UnknownCaseError: there is no such scan, or it has no label with this tag.
            CrossmodaError: id or tag are malformed, or a file cannot be read.
        """
        scene = self._scene(image_id, self._entry(image_id), tag)
        return {plane: {"slices": scene.slices(plane), "middle": scene.middle(plane)} for plane in PLANES}

    def slice_picture(
        self, image_id: str, tag: str | None, plane: str, index: int, contours: bool = True, grey: Grey | None = None
    ) -> bytes:
        """Return a whole slice of a scan as PNG, with the contours of the label of a tag, or of none.

        Raises:
            UnknownCaseError: there is no such scan, or it has no label with this tag.
            CrossmodaError: id or tag are malformed, there is no such slice, or a file cannot be read.
        """
        scene = self._scene(image_id, self._entry(image_id), tag)
        return draw_slice(scene, plane, index, contours, grey)

    def wall_picture(self, image_id: str, tag: str | None) -> Path:
        """Return the file of a case's picture for the wall, drawn if need be.

        Raises:
            UnknownCaseError: there is no such scan, or it has no label with this tag.
            CrossmodaError: id or tag are malformed, or a file cannot be read.
        """
        entry = self._entry(image_id)
        image, label, values = self._files(image_id, entry, tag)
        with self._drawing:
            key = hash_of([sha256_of(image), label and sha256_of(label), values, DRAWN_AS])
            file = self._store.folder / FOLDER / "pictures" / image_id / f"{key}.png"
            if not file.is_file():
                drawn = draw_wall_picture(read_scene(image, label, values, _what(image_id)))
                with atomic_path(file) as partial:
                    partial.write_bytes(drawn)
                for former in file.parent.glob("[0-9a-f]*.png"):
                    if former != file:
                        former.unlink(missing_ok=True)
        return file

    def _row(self, image_id: str, entry: Mapping[str, Any], current: Mapping[str, Any]) -> Row:
        about, labels = entry["image"]["info"], entry["labels"]
        deciding = deciding_tag(labels)
        tag = deciding or (ORIGINAL if ORIGINAL in labels else None)
        info = labels[tag]["info"] if tag else {}
        sha256 = self._sha256_of_label(image_id, tag, labels) if tag else ""
        meta = meta_of(info)
        said = {key: str(meta.get(key) or "") for key in ("status", "level", "approvedBy", "comment")}
        touched = bool(deciding or any(said.values()))
        return {
            "image": image_id,
            "case": str(about.get("case") or image_id),
            "site": str(about.get("site") or ""),
            "tag": tag,
            "status": (status_of(info) or CORRECTED) if deciding else OPEN,
            "level": said["level"],
            "comment": said["comment"],
            "who": said["approvedBy"] or (str(info.get("user") or info.get("client_id") or "") if deciding else ""),
            "when": when_of(info, meta) if touched else "",
            "uncertainty": _finite(about.get("uncertainty")),
            ANATOMY: [str(remark) for remark in info.get(ANATOMY) or []] if tag == ORIGINAL else [],
            "volumes_ml": self._volumes_ml(sha256, info, current["structures"]),
            "round": info.get("round", labels.get(ORIGINAL, {}).get("info", {}).get("round")),
            "label_sha256": sha256,
            "state": state_of(entry),
            "segmentationMeta": {**said, "editTime": _finite(meta.get("editTime")) or ""} if meta else None,
        }

    def _sha256_of_label(self, image_id: str, tag: str, labels: Mapping[str, Any]) -> str:
        label = labels[tag]
        if label["info"].get("sha256"):
            return str(label["info"]["sha256"])
        path = self._store.label_path(image_id, tag, label["ext"])  # one that another server stored
        return sha256_of(path) if path.is_file() else ""

    def _volumes_ml(self, sha256: str, info: Mapping[str, Any], structures: list[str]) -> dict[str, float] | None:
        by_value = self._volumes.known(sha256)
        if by_value is None:
            return None
        try:
            values = values_of(info, structures, "label")
        except CrossmodaError:
            return None
        found = {name: by_value.get(str(value), 0.0) for name, value in values.items()}
        return {name: volume for name, volume in found.items() if volume or name in structures}

    def _entry(self, image_id: str) -> dict[str, Any]:
        entry = self._store.read()["objects"].get(check_image_id(image_id))
        if entry is None:
            raise UnknownCaseError(f"image '{image_id[:60]}': not in the store; reload the page")
        return entry

    def _files(
        self, image_id: str, entry: Mapping[str, Any], tag: str | None
    ) -> tuple[Path, Path | None, dict[str, int]]:
        image = self._present(self._store.image_path(image_id, entry))
        if tag is None:
            return image, None, {}
        if check_tag(tag) not in entry["labels"]:
            raise UnknownCaseError(f"label '{image_id}' with tag '{tag}': not in the store; reload the page")
        label = entry["labels"][tag]
        values = values_of(label["info"], self._current()["structures"], _what(image_id))
        return image, self._present(self._store.label_path(image_id, tag, label["ext"])), values

    def _present(self, file: Path) -> Path:
        if not file.is_file():
            raise CrossmodaError(f"{file.relative_to(self._store.folder)}: no such file under review; restore it")
        return file

    def _scene(self, image_id: str, entry: Mapping[str, Any], tag: str | None) -> Scene:
        image, label, values = self._files(image_id, entry, tag)
        key = hash_of([sha256_of(image), label and sha256_of(label), values])
        with self._looking_up:
            known = self._scenes.get(key)
            future = self._scenes.setdefault(key, Future())
            self._scenes.move_to_end(key)
            while len(self._scenes) > SCENES_IN_MEMORY:
                self._scenes.popitem(last=False)
        if known is None:  # others who want the same wait for it, those who want another do not
            try:
                with self._reading:
                    future.set_result(read_scene(image, label, values, _what(image_id)))
            except BaseException as error:
                with self._looking_up:
                    self._scenes.pop(key, None)
                future.set_exception(error)
        return future.result()


class LabelVolumes:
    """Volumes of label maps by the sha256 of their files, measured once, in a thread of their own.

    Args:
        file: where they are kept; damaged or missing, they are measured again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, dict[str, float]] = {}
        self._thread: threading.Thread | None = None
        if file.is_file():
            try:
                self._known = dict(read_json(file))
            except (CrossmodaError, TypeError, ValueError):
                self._known = {}

    def known(self, sha256: str) -> dict[str, float] | None:
        """Return voxel value (as text) -> mL of a label map, or None where it has not been measured yet."""
        return self._known.get(sha256)

    def measure_later(self, labels: Mapping[str, Path]) -> None:
        """Measure label maps, given by the sha256 of their files, without waiting for it.

        While others are being measured nothing is begun; ask again.
        """
        if labels and (self._thread is None or not self._thread.is_alive()):
            self._thread = threading.Thread(target=self._measure, args=(dict(labels),), daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until what was begun has been measured, at most so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _measure(self, labels: Mapping[str, Path]) -> None:
        for number, (sha256, path) in enumerate(labels.items(), start=1):
            if path.is_file():
                self._known[sha256] = _volumes_by_value(path)
            if number % MEASURED_BETWEEN_WRITES == 0 or number == len(labels):
                self._write()

    def _write(self) -> None:
        try:
            write_json(self._file, self._known)
        except CrossmodaError as error:  # a full disk must not keep the page from its answers
            logger.warning("volumes of labels are measured again after the next start: %s", error)


def _volumes_by_value(path: Path) -> dict[str, float]:
    """Return voxel value -> mL of a label map; empty where it cannot be read, which its picture will tell."""
    try:
        label = read_volume(path)
    except CrossmodaError:
        return {}
    numbers, counts = np.unique(label.array[(label.array > 0) & (label.array < 256)], return_counts=True)
    millilitres = voxel_volume_mm3(label.affine) / 1000
    return {str(int(number)): round(count * millilitres, 4) for number, count in zip(numbers, counts, strict=True)}


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _what(image_id: str) -> str:
    return f"label of '{image_id}'"
