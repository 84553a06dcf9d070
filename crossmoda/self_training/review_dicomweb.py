"""A folder under review whose scans come from a DICOMweb server, and whose labels go back there.

The folder is a ``ReviewStore`` like any other; its image ids are SeriesInstanceUIDs. ``refresh`` fetches the series
that a search finds, ``send`` stores each case's deciding label as DICOM SEG. Both can be interrupted and repeated at
any time: what has been fetched and sent stands in the scans' infos (``series`` and ``segmentation``).
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from crossmoda.data.volumes import Grid, read_grid, same_grid
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review import FLAGGED, deciding_tag, label_in_store
from crossmoda.self_training.review_archive import Archive, ArchiveAwayError, Found
from crossmoda.self_training.review_labels import GRID_TOLERANCE_MM, read_label
from crossmoda.self_training.review_segmentation import AUTOMATIC, MANUAL_CORRECTION, About, segmentation_of
from crossmoda.self_training.review_store import (
    DICOMWEB,
    LABEL_EXTENSION,
    SERIES_FAULT,
    UID,
    ReviewStore,
    now_text,
)
from crossmoda.self_training.review_tags import ORIGINAL

logger = logging.getLogger(__name__)

FOLDER = ".series"  # where a series lies while it is read
LEFT_SECONDS = 3600.0


def take_folder(store: ReviewStore, address: str) -> None:
    """Make a folder under review that of a DICOMweb server; a folder of another server's series may be taken over.

    Raises:
        CrossmodaError: it holds scans that are no DICOM series.
    """
    with store.edit() as model:
        others = [image_id for image_id in model["objects"] if not UID.fullmatch(image_id)]
        if others:
            raise CrossmodaError(f"{store.folder}: holds other scans ({others[0]}); give the series another folder")
        model[DICOMWEB] = address


class DicomWebMirror:
    """Keep a folder under review in step with a DICOMweb server; for several threads.

    Args:
        store: the folder.
        archive: the server.
        search: what the series must match, as QIDO-RS has it, e.g. ``{"Modality": "MR", "SeriesDescription": "*T2*"}``.

    Raises:
        CrossmodaError: the folder holds scans that are no DICOM series.
    """

    def __init__(self, store: ReviewStore, archive: Archive, search: Mapping[str, Any]) -> None:
        self.store = store
        self.archive = archive
        self.search = dict(search)
        self._fetching, self._sending = threading.Lock(), threading.Lock()
        take_folder(store, archive.address)
        for left in (store.folder / FOLDER).glob("*"):
            if time.time() - left.stat().st_mtime > LEFT_SECONDS:  # another process may be at work on a newer one
                shutil.rmtree(left, ignore_errors=True)

    def refresh(self) -> list[str]:
        """Fetch the series that are new or have changed on the server, and return their ids.

        Raises:
            CrossmodaError: the server does not answer, or the search finds too many.
        """
        return [series["SeriesInstanceUID"] for series in self.archive.find(self.search) if self._fetch(series)]

    def fetch(self, image_id: str) -> bool:
        """Fetch one series now, if the search finds it, and tell whether the folder has it.

        Raises:
            CrossmodaError: the server does not answer.
        """
        if not UID.fullmatch(image_id):
            return False
        found = self.archive.find({**self.search, "SeriesInstanceUID": image_id})
        for series in found:
            if series["SeriesInstanceUID"] == image_id:  # some servers pay no heed to what they are asked
                self._fetch(series)
        return image_id in self.store.read()["objects"]

    def send(self, current: Mapping[str, Any]) -> list[str]:
        """Store the labels that decide their cases on the server, those that it does not have, and return the ids.

        Flagged labels stay here. A label that cannot be stored remains outstanding, and its scan's info says why.

        Args:
            current: the run's ``current.json``.
        """
        sent = []
        with self._sending:
            for image_id, entry in self.store.read()["objects"].items():
                tag = outstanding(entry)
                if tag is None:
                    continue
                try:
                    facts = self._send(image_id, entry, tag, current)
                except (CrossmodaError, OSError) as error:
                    self._note(image_id, waiting=str(error) if isinstance(error, CrossmodaError) else "no such file")
                    if isinstance(error, ArchiveAwayError):
                        break  # the others would wait for nothing
                else:
                    self._note(image_id, **facts)
                    sent.append(image_id)
        return sent

    def segmentation(self, image_id: str, label: Path, values: Mapping[str, int], about: About) -> Dataset:
        """Return a label of a scan as DICOM SEG.

        Args:
            image_id: the scan's id.
            label: file on the scan's grid.
            values: structure -> voxel value in the file.
            about: what is said of it.

        Raises:
            CrossmodaError: the server does not answer, or its series is not the scan any more.
        """
        info = self.store.read()["objects"][image_id]["image"]["info"]
        image = self.store.folder / f"{image_id}{LABEL_EXTENSION}"
        voxels, _ = read_label(label, image, f"label for '{image_id}'")
        series = self.archive.headers(info["series"])
        if not same_grid(Grid(series.shape, series.affine), read_grid(image), GRID_TOLERANCE_MM):
            raise CrossmodaError(f"{image_id}: the series on the server has changed since it was fetched")
        return segmentation_of(voxels, values, series, about)

    def _fetch(self, found: Found) -> bool:
        """Bring one series into the folder unless it is there as it is now; tell whether something has changed."""
        image_id = found["SeriesInstanceUID"]
        with self._fetching:
            entry = self.store.read()["objects"].get(image_id)
            if entry is not None and entry["image"]["info"].get("series") == found:
                return False
            if entry is not None and deciding_tag(entry["labels"]) is not None:
                self._enter(found, None, "the series on the server has changed since a label was saved; look at both")
                return True
            folder = self.store.folder / FOLDER
            folder.mkdir(mode=0o700, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as place:
                try:
                    self._enter(found, self.archive.read(found, Path(place)), None)
                except ArchiveAwayError:
                    raise
                except CrossmodaError as error:
                    self._enter(found, None, str(error))
        return True

    def _enter(self, found: Found, scan: Path | None, fault: str | None) -> None:
        """Write what was found into the store: the scan, or an entry without a file that says why."""
        image_id = found["SeriesInstanceUID"]
        with self.store.edit() as model:
            former = model["objects"].get(image_id)
            if scan is not None:
                if former is not None:  # nobody has decided on it; a pseudo-label of other voxels would mislead
                    for tag in list(former["labels"]):
                        self.store.remove_label(model, image_id, tag)
                    self.store.image_path(image_id, former).unlink(missing_ok=True)
                self.store.add_image(model, scan, image_id, {"series": found})
                model["objects"][image_id]["image"]["info"].pop(SERIES_FAULT, None)
                return
            entry = former or {"image": {"ext": LABEL_EXTENSION, "info": {"ts": int(time.time())}}, "labels": {}}
            entry["image"]["info"] |= {"name": f"{image_id}{LABEL_EXTENSION}", "series": found, SERIES_FAULT: fault}
            model["objects"][image_id] = entry
        logger.warning("a series is not handed out: %s", fault)  # not which: its number leads to a patient

    def _send(self, image_id: str, entry: Mapping[str, Any], tag: str, current: Mapping[str, Any]) -> dict[str, Any]:
        """Store one label and return what is to be noted of it."""
        info = entry["labels"][tag]["info"]
        reviewed = label_in_store(self.store, image_id, entry, tag, current["structures"])
        number = int((entry["image"]["info"].get("segmentation") or {}).get("number", 0)) + 1
        origin = info if "model" in info else info.get("started_from") or {}
        about = About(
            digest=reviewed.sha256,
            number=number,
            who=reviewed.who,
            algorithm=f"crossmoda, round {origin['round']}" if "round" in origin else "crossmoda",
            kind=AUTOMATIC if tag == ORIGINAL else MANUAL_CORRECTION,
        )
        segmentation = self.segmentation(image_id, reviewed.label, reviewed.values, about)
        self.archive.store(segmentation)
        uids = {name: str(segmentation[name].value) for name in ("SeriesInstanceUID", "SOPInstanceUID")}
        return {"sha256": reviewed.sha256, "tag": tag, "number": number, "stored": now_text(), **uids}

    def _note(self, image_id: str, **facts: Any) -> None:
        """Write into a scan's info what became of its label; a reason to wait stands beside what was stored before."""
        with self.store.edit() as model:
            if image_id in model["objects"]:
                info = model["objects"][image_id]["image"]["info"]
                info["segmentation"] = {**(info.get("segmentation") or {}), **facts} if "waiting" in facts else facts


def outstanding(entry: Mapping[str, Any]) -> str | None:
    """Return the tag of the label that is to be stored on the server, given a case's entry; None where none is."""
    info = entry["image"]["info"]
    tag = deciding_tag(entry["labels"])
    if tag is None or "series" not in info or info.get(SERIES_FAULT):
        return None
    label = entry["labels"][tag]["info"]
    flagged = (label.get("segmentationMeta") or {}).get("status") == FLAGGED
    return None if flagged or (info.get("segmentation") or {}).get("sha256") == label.get("sha256") else tag
