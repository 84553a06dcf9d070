"""What is asked of a hospital's archive, a DICOMweb server: its series, their volumes, and to keep segmentations."""

from __future__ import annotations

import os
import shutil
import string
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

from crossmoda.data.volumes import UNREADABLE, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path
from crossmoda.self_training.review_series import Series, order_series, read_series
from crossmoda.self_training.review_store import LABEL_EXTENSION, UID

USER, PASSWORD = "MONAI_LABEL_DICOMWEB_USERNAME", "MONAI_LABEL_DICOMWEB_PASSWORD"  # variables of the environment
MOST_SERIES = 2000  # a search that finds more was hardly meant
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 120.0
PIXEL_DATA = "7FE00010"
AS_THEY_ARE = string.ascii_letters + string.digits + "*?.,:/_-"  # characters of a search
ALWAYS_QUOTED = "\\&=#+%"  # they part values, or would part the address

Found = dict[str, Any]  # StudyInstanceUID, SeriesInstanceUID; instances: how many, None if the server does not say


class ArchiveSession(requests.Session):
    """Requests that end after a while and carry the archive's password, and no other out of a ``.netrc``.

    Args:
        name: of the user; empty where the archive asks nobody.
        password: of the user.
    """

    def __init__(self, name: str, password: str) -> None:
        super().__init__()
        self.trust_env = False
        if name and password:
            self.auth = (name, password)

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        """Send a request."""
        options.setdefault("timeout", (CONNECT_SECONDS, ANSWER_SECONDS))
        return super().request(*arguments, **options)


class Archive:
    """A DICOMweb server.

    Args:
        client: of the server. It is made to fail at once: whoever asks tries again later, and nobody is to wait.
        session: the client's own.
    """

    def __init__(self, client: DICOMwebClient, session: requests.Session) -> None:
        client.set_http_retry_params(retry=False)
        self.address = str(client.base_url)
        self._client = client
        self._session = session
        prefix = [client.qido_url_prefix] if client.qido_url_prefix else []
        self._series = "/".join([self.address.rstrip("/"), *prefix, "series"])

    def find(self, search: Mapping[str, Any]) -> list[Found]:
        """Return the series that match a search, as QIDO-RS has it.

        Raises:
            CrossmodaError: the server does not answer, or the search finds too many.
        """
        asked = {**search, "includefield": "NumberOfSeriesRelatedInstances", "limit": MOST_SERIES + 1}
        query = search_query((str(key), str(value)) for key, value in asked.items())
        try:
            response = self._session.get(f"{self._series}?{query}", headers={"Accept": "application/dicom+json"})
            response.raise_for_status()
            answers = response.json() if response.content else []
        except (requests.RequestException, OSError, ValueError) as error:
            raise _not_answering(error) from error
        if len(answers) > MOST_SERIES:
            raise CrossmodaError(
                f"the search finds more than {MOST_SERIES} series; narrow MONAI_LABEL_DICOMWEB_SEARCH_FILTER"
            )
        found = [Dataset.from_json(answer) for answer in answers]
        return [_found_of(series) for series in found if UID.fullmatch(str(series.get("SeriesInstanceUID", "")))]

    def read(self, found: Found, place: Path) -> Path:
        """Fetch a series and return the NIfTI file of its volume, whole numbers as int16, others as float32.

        Args:
            found: the series.
            place: an empty folder for its slices and the file.

        Raises:
            CrossmodaError: the slices make no volume, or not all have come.
            ArchiveAwayError: the server does not answer.
        """
        files: list[Path] = []
        try:
            slices = self._client.iter_series(
                found["StudyInstanceUID"], found["SeriesInstanceUID"], media_types=(("application/dicom", "*"),)
            )
            for dataset in slices:
                files.append(place / f"{len(files)}.dcm")
                dataset.save_as(files[-1], write_like_original=False)
        except (requests.RequestException, ConnectionError) as error:
            raise _not_answering(error) from error
        except UNREADABLE as error:
            raise CrossmodaError("a slice is no DICOM file or is cut off; send the series again") from error
        if found["instances"] not in (None, len(files)):
            raise CrossmodaError(f"{len(files)} of its {found['instances']} slices have come; send the series again")
        volume = read_series(files)
        whole = np.array_equal(volume.array, np.round(volume.array)) and np.abs(volume.array).max() < 2**15
        scan = place / f"{found['SeriesInstanceUID']}{LABEL_EXTENSION}"
        write_volume(scan, volume.array, volume.affine, dtype=np.int16 if whole else np.float32)
        return scan

    def headers(self, found: Found) -> Series:
        """Return a series without its voxels.

        Raises:
            CrossmodaError: the server does not answer, or the slices make no volume.
        """
        try:
            slices = self._client.retrieve_series_metadata(found["StudyInstanceUID"], found["SeriesInstanceUID"])
        except (requests.RequestException, OSError, ValueError) as error:
            raise _not_answering(error) from error
        without_voxels = [{tag: value for tag, value in item.items() if tag != PIXEL_DATA} for item in slices]
        return order_series([Dataset.from_json(header) for header in without_voxels])

    def store(self, instance: Dataset) -> None:
        """Store an instance; one that is there already is left as it is.

        Raises:
            CrossmodaError: the server does not answer, or refuses it.
        """
        try:
            answer = self._client.store_instances([instance])
        except (requests.RequestException, OSError, ValueError) as error:
            raise _not_answering(error) from error
        if answer.get("FailedSOPSequence"):
            reason = answer.FailedSOPSequence[0].get("FailureReason", "no reason given")
            raise CrossmodaError(f"the DICOMweb server refuses the segmentation ({reason}); its log says why")


def search_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Return keys and values of a QIDO-RS search as the query of an address.

    Orthanc's plugin 1.7 does not undo the quoting of a query (``%2A``, ``%20``), and then finds nothing. So wildcards
    are written as they are, and what would be quoted, such as a space, becomes the wildcard of any one character;
    letters beyond ASCII, which Orthanc leaves out of what it searches, that of any characters.
    """
    return "&".join(f"{quote(key)}={''.join(map(_in_query, value))}" for key, value in pairs)


def _in_query(character: str) -> str:
    if character in AS_THEY_ARE:
        return character
    if character in ALWAYS_QUOTED:
        return quote(character)
    return "?" if character.isascii() else "*"


class ArchiveAwayError(CrossmodaError):
    """The DICOMweb server does not answer, or not as it should."""


def fetch_command(address: str, folder: str | Path, search: Mapping[str, Any]) -> int:
    """Write the series of an archive as ``FOLDER/SeriesInstanceUID_hrT2.nii.gz`` and return 1 if some make no volume.

    What is there already is left; so the command can be repeated when new patients have come.

    Args:
        address: of the DICOMweb server; name and password come from ``USER`` and ``PASSWORD`` in the environment.
        folder: is made if need be.
        search: as QIDO-RS has it.

    Raises:
        CrossmodaError: the server does not answer, or the search is none or finds too many.
    """
    if not isinstance(search, Mapping):
        raise CrossmodaError('search: not a JSON object; write \'{"Modality": "MR"}\'')
    session = ArchiveSession(os.environ.get(USER, ""), os.environ.get(PASSWORD, ""))
    try:
        archive = Archive(DICOMwebClient(address.rstrip("/"), session=session), session)
    except ValueError as error:
        raise CrossmodaError(f"{address}: no address of a DICOMweb server; write http://HOST:PORT/dicom-web") from error
    count = {"fetched": 0, "there already": 0, "no volume": 0}
    for found in archive.find(search):
        target = Path(folder) / f"{found['SeriesInstanceUID']}_hrT2{LABEL_EXTENSION}"
        if target.exists():
            count["there already"] += 1
            continue
        try:
            with tempfile.TemporaryDirectory() as place, atomic_path(target) as partial:
                shutil.copyfile(archive.read(found, Path(place)), partial)
        except ArchiveAwayError:
            raise
        except CrossmodaError as error:
            print(f"  {found['SeriesInstanceUID']}: {error}")
            count["no volume"] += 1
        else:
            count["fetched"] += 1
    print(f"{folder}: " + ", ".join(f"{number} {what}" for what, number in count.items()))
    return int(count["no volume"] > 0)


def _found_of(series: Dataset) -> Found:
    found: Found = {name: str(series.get(name, "")) for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    instances = series.get("NumberOfSeriesRelatedInstances")
    return {**found, "instances": None if instances is None else int(instances)}


def _not_answering(error: BaseException) -> ArchiveAwayError:
    response = getattr(error, "response", None)
    said = f"answers {response.status_code}" if response is not None else "does not answer"
    return ArchiveAwayError(f"the DICOMweb server {said}; is it running, and are user name and password right?")
