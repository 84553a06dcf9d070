"""The datastore of scans that a DICOMweb server keeps: a folder under review, kept in step with that server."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.endpoints import infer

from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path, sha256_of
from crossmoda.labels import model_labels
from crossmoda.self_training.review_archive import Archive, ArchiveSession
from crossmoda.self_training.review_dicomweb import DicomWebMirror
from crossmoda.self_training.review_segmentation import AUTOMATIC, About
from crossmoda.self_training.review_store import ReviewStore
from lib.answers import answering_client_errors
from lib.datastore import ReviewDatastore

logger = logging.getLogger(__name__)

STEP_SECONDS = 60.0  # between two looks for new series; a save is sent at once
SEARCH = "MONAI_LABEL_DICOMWEB_SEARCH_FILTER"
MONAI_SEARCH = {"Modality": "CT"}  # MONAI Label's default; nobody looks for hrT2 there
DEFAULT_SEARCH = {"Modality": "MR"}


def is_dicomweb(studies: str) -> bool:
    """Tell whether ``--studies`` names a DICOMweb server rather than a folder."""
    return studies.startswith(("http://", "https://"))


def mirror_of(store: ReviewStore, address: str) -> DicomWebMirror:
    """Return the mirror of a DICOMweb server in a folder, with MONAI Label's settings of user name and search.

    Raises:
        CrossmodaError: the folder holds other scans.
    """
    session = ArchiveSession(settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD)
    client = DICOMwebClientX(
        url=address.rstrip("/"),
        session=session,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )
    logging.getLogger("dicomweb_client").setLevel(logging.WARNING)  # it writes down whose series it fetches
    search = settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
    return DicomWebMirror(store, Archive(client, session), DEFAULT_SEARCH if search == MONAI_SEARCH else search)


class DicomWebReviewDatastore(ReviewDatastore):
    """A ``ReviewDatastore`` whose scans come from a DICOMweb server and whose labels go there as DICOM SEG.

    Args:
        mirror: of the server.
        current: gives the run's ``current.json``.
        publish: puts the run's pseudo-labels beside scans that have come.
    """

    def __init__(
        self, mirror: DicomWebMirror, current: Callable[[], Mapping[str, Any]], publish: Callable[[], object]
    ) -> None:
        super().__init__(mirror.store, current)
        self._mirror = mirror
        self._publish = publish
        self._wake = threading.Event()
        self._said = ""
        infer.nifti_to_dicom_seg = self.segmentation_file  # MONAI Label's names segments by the values that are present

    def segmentation_file(self, image_path: str, label: str, *_: Any, **__: Any) -> str:
        """Write a prediction as DICOM SEG and return the file, for a request with ``output=dicom_seg``.

        Args:
            image_path: of the scan, without extension, as MONAI Label has it.
            label: the predicted file.
        """
        image_id, current = Path(image_path).name, self._current()
        algorithm = f"crossmoda, round {current['round']}"
        about = About(digest=sha256_of(label), number=0, who="", algorithm=algorithm, kind=AUTOMATIC)
        with answering_client_errors(502):
            found = self._mirror.segmentation(image_id, Path(label), model_labels(current["structures"]), about)
        file = Path(tempfile.gettempdir()) / f"{image_id}.dcm"
        with atomic_path(file) as partial:
            found.save_as(partial, write_like_original=False)
        return str(file)

    def follow(self) -> None:
        """Keep in step with the server from now on, in a thread of its own."""
        threading.Thread(target=self._follow, name="dicomweb", daemon=True).start()

    def step(self) -> None:
        """Fetch what is new, store labels that the server does not have; a failure is logged once, and tried again."""
        said = ""
        try:
            if self._mirror.refresh():
                self._publish()
        except CrossmodaError as error:
            said = str(error)
        self._mirror.send(self._current())
        if said and said != self._said:
            logger.warning("%s", said)
        self._said = said

    def has_image(self, image_id: str) -> bool:
        """Tell whether there is such a scan; one that the server alone has is fetched."""
        if super().has_image(image_id):
            return True
        with answering_client_errors(502):
            return self._mirror.fetch(image_id)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuse a scan: they come from the DICOMweb server."""
        raise HTTPException(403, "scans come from the DICOMweb server; send the series there")

    def remove_image(self, image_id: str) -> None:
        """Refuse: it would come again."""
        raise HTTPException(403, f"scans come from the DICOMweb server; flag the case, or leave it out by {SEARCH}")

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Store a label here, and soon after on the server."""
        saved = super().save_label(image_id, label_filename, label_tag, label_info)
        self._wake.set()
        return saved

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> dict[str, str]:
        """Add to what is known of a label; one that is approved goes to the server."""
        known = super().update_label_info(label_id, label_tag, info)
        self._wake.set()
        return known

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Take a label out of the store here; what the server has is left there."""
        super().remove_label(label_id, label_tag)
        self._wake.set()

    def _follow(self) -> None:
        while True:
            try:
                self.step()
            except Exception:  # whatever it was, the next step may go well
                logger.exception("DICOMweb: a step failed")
            self._wake.wait(STEP_SECONDS)
            self._wake.clear()


DICOMWebDatastore.register(DicomWebReviewDatastore)  # MONAI Label asks for it before it answers with DICOM SEG
