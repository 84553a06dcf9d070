"""Debian's Orthanc with its DICOMweb plugin, started for a test on this machine alone."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from dicomweb_client import DICOMwebClient
from pydicom.dataset import Dataset

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
NAME, PASSWORD = "review", "a password of the archive"


@dataclass
class Orthanc:
    """A running Orthanc.

    Args:
        address: of its DICOMweb service.
        client: of this service, signed in.
        session: the client's own.
        process: may be ended and started again by ``start``.
        configuration: its file.
    """

    address: str
    client: DICOMwebClient
    session: requests.Session
    process: subprocess.Popen[bytes]
    configuration: Path

    def upload(self, slices: Sequence[Dataset]) -> None:
        """Store instances by STOW-RS."""
        answer = self.client.store_instances(slices)
        assert not answer.get("FailedSOPSequence"), answer

    def segmentations(self, study: str) -> list[Dataset]:
        """Return the segmentations of a study, by series number."""
        found = self.client.search_for_series(study, search_filters={"Modality": "SEG"})
        series = [str(Dataset.from_json(item).SeriesInstanceUID) for item in found]
        instances = [item for uid in series for item in self.client.retrieve_series(study, uid)]
        return sorted(instances, key=lambda item: int(item.SeriesNumber))

    def stop(self) -> None:
        """End it, as when the machine goes down."""
        self.process.terminate()
        self.process.wait(30)

    def start(self) -> None:
        """Start it again, with what it had stored."""
        self.process = _started(self.configuration, self.address)


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Start Orthanc with a storage and a configuration of its own; the test is skipped where it is not installed."""
    if shutil.which("Orthanc") is None or not PLUGIN.is_file():
        pytest.skip("no Orthanc with DICOMweb here; apt install orthanc orthanc-dicomweb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "orthanc.json"
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": port,
        "RemoteAccessAllowed": False,  # this version listens on all addresses, whatever it is told
        "DicomServerEnabled": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {NAME: PASSWORD},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    configuration.write_text(json.dumps(settings))
    address = f"http://127.0.0.1:{port}/dicom-web"
    session = requests.Session()
    session.auth = (NAME, PASSWORD)
    client = DICOMwebClient(address, session=session)
    server = Orthanc(address, client, session, _started(configuration, address), configuration)
    try:
        yield server
    finally:
        server.stop()


def _started(configuration: Path, address: str, seconds: float = 60) -> subprocess.Popen[bytes]:
    log = configuration.with_name("orthanc.log")
    with log.open("a") as stream:
        process = subprocess.Popen([shutil.which("Orthanc") or "", str(configuration)], stdout=stream, stderr=stream)
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(f"{address}/studies", auth=(NAME, PASSWORD), timeout=10).status_code == 200:
                return process
        except requests.ConnectionError:
            time.sleep(0.1)
    process.kill()
    pytest.fail(f"Orthanc did not start:\n{log.read_text(errors='replace')[-2000:]}")
