"""A folder under review in step with a DICOMweb server: Orthanc."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orthanc_support
import pytest
from dicom_support import points_of, segments_of, slices_of
from orthanc_support import Orthanc, orthanc

from crossmoda.data.volumes import case_name, read_volume, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import write_json
from crossmoda.self_training.review import serve_command, store_upload
from crossmoda.self_training.review_archive import PASSWORD, USER, Archive, ArchiveSession, fetch_command, search_query
from crossmoda.self_training.review_dicomweb import DicomWebMirror
from crossmoda.self_training.review_scans import quarantine
from crossmoda.self_training.review_store import ReviewStore

TURN = np.deg2rad(20)
OBLIQUE = np.array(  # to the right and upwards, slices against the normal of their planes
    [
        [1.1, 0, 0, -14],
        [0, -0.9 * np.cos(TURN), -2 * np.sin(TURN), 8],
        [0, -0.9 * np.sin(TURN), 2 * np.cos(TURN), 3],
        [0, 0, 0, 1.0],
    ]
)
AXIAL = np.array([[-1.1, 0, 0, 20], [0, -0.9, 0, 15], [0, 0, 2, -9], [0, 0, 0, 1.0]])
SHAPE = (13, 11, 7)
CURRENT = {"structures": ["vs", "cochlea"], "round": 0, "segmenter": "round_0/segmenter/model.pt"}
STUDY, OTHER_STUDY = "1.2.826.7", "1.2.826.8"
SCAN, GAP, LATE, CT = "1.2.826.7.1", "1.2.826.7.2", "1.2.826.8.1", "1.2.826.8.2"
VS, COCHLEA = np.s_[2:6, 3:7, 1:4], np.s_[8:10, 1:4, 3:6]


def voxels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 900, SHAPE).astype(np.int16)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An archive with a scan, a series that lacks a slice, and a CT."""
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        server.upload(slices_of(voxels(1), OBLIQUE, SCAN, STUDY))
        in_order = sorted(slices_of(voxels(2), AXIAL, GAP, STUDY), key=lambda header: header.ImagePositionPatient[2])
        server.upload(in_order[:3] + in_order[4:])
        server.upload(slices_of(voxels(3), AXIAL, CT, OTHER_STUDY, Modality="CT", PatientID="P8"))
        yield server


@pytest.fixture
def mirror(archive: Orthanc, tmp_path: Path) -> DicomWebMirror:
    """A new folder in step with the archive."""
    mirror = DicomWebMirror(
        ReviewStore(tmp_path / "review"),
        Archive(archive.client, archive.session),
        {"Modality": "MR", "PatientID": "P7"},
    )
    mirror.refresh()
    return mirror


def save(mirror: DicomWebMirror, tmp_path: Path, **blocks: Any) -> np.ndarray:
    """Save a label of the scan as 3D Slicer does, and return it as the store has it."""
    image = read_volume(mirror.store.folder / f"{SCAN}.nii.gz")
    label = np.zeros(image.shape, np.uint8)
    for number, where in enumerate(blocks.values(), start=1):
        label[where] = number
    write_volume(tmp_path / "sent.nii.gz", label, image.affine)
    named = [{"name": name, "idx": number} for number, name in enumerate(blocks, start=1)]
    info = {"label_info": named or None, "client_id": "anna"} if named else {"client_id": "anna"}
    store_upload(mirror.store, SCAN, "final", tmp_path / "sent.nii.gz", info, CURRENT["structures"])  # type: ignore[arg-type]
    return read_volume(mirror.store.folder / "labels" / "final" / f"{SCAN}.nii.gz").array.astype(np.uint8)


def stored(archive: Orthanc, mirror: DicomWebMirror) -> Any:
    """The segmentation that the folder says it has stored last."""
    uid = info_of(mirror, SCAN)["segmentation"]["SOPInstanceUID"]
    return next(item for item in archive.segmentations(STUDY) if uid == item.SOPInstanceUID)


def info_of(mirror: DicomWebMirror, image_id: str) -> dict[str, Any]:
    info: dict[str, Any] = mirror.store.read()["objects"][image_id]["image"]["info"]
    return info


def test_series_that_the_search_finds_become_scans_with_their_geometry(mirror: DicomWebMirror) -> None:
    assert sorted(mirror.store.read()["objects"]) == [SCAN, GAP]
    scan = read_volume(mirror.store.folder / f"{SCAN}.nii.gz")
    np.testing.assert_array_equal(scan.array, voxels(1)[:, :, ::-1])
    np.testing.assert_allclose(scan.affine[:, :2], OBLIQUE[:, :2], atol=1e-5)
    np.testing.assert_allclose(scan.affine[:, 2], -OBLIQUE[:, 2], atol=1e-5)
    np.testing.assert_allclose(scan.affine[:, 3], OBLIQUE @ [0, 0, SHAPE[2] - 1, 1], atol=1e-4)
    assert mirror.refresh() == []


def test_a_series_that_lacks_a_slice_is_quarantined_until_it_is_whole(mirror: DicomWebMirror, archive: Orthanc) -> None:
    assert quarantine(mirror.store) == {GAP: info_of(mirror, GAP)["quarantined"]}
    assert "2.00 to 4.00 mm apart; one is missing" in info_of(mirror, GAP)["quarantined"]
    mirror.store.recover()
    assert GAP in mirror.store.read()["objects"]
    archive.upload(slices_of(voxels(2), AXIAL, GAP, STUDY))
    assert mirror.refresh() == [GAP]
    assert quarantine(mirror.store) == {}
    np.testing.assert_array_equal(read_volume(mirror.store.folder / f"{GAP}.nii.gz").array, voxels(2))


def test_a_series_that_has_just_come_is_fetched_when_it_is_asked_for(mirror: DicomWebMirror, archive: Orthanc) -> None:
    assert not mirror.fetch(LATE)
    archive.upload(slices_of(voxels(4), AXIAL, LATE, OTHER_STUDY))
    assert mirror.fetch(LATE)
    np.testing.assert_array_equal(read_volume(mirror.store.folder / f"{LATE}.nii.gz").array, voxels(4))
    for other in (CT, "1.2.3", "../../etc"):  # not what the search finds, not there, no series
        assert not mirror.fetch(other)


def test_saved_labels_become_segmentations_whose_voxels_lie_where_they_were_drawn(
    mirror: DicomWebMirror, archive: Orthanc, tmp_path: Path
) -> None:
    affine = read_volume(mirror.store.folder / f"{SCAN}.nii.gz").affine
    before = len(archive.segmentations(STUDY))
    label = save(mirror, tmp_path, cochlea=COCHLEA, vs=VS)
    assert mirror.send(CURRENT) == [SCAN]
    assert mirror.send(CURRENT) == []
    assert len(archive.segmentations(STUDY)) == before + 1
    found = segments_of(stored(archive, mirror))
    assert list(found) == ["vestibular schwannoma", "cochlea"]
    for value, points in enumerate(found.values(), start=1):
        np.testing.assert_allclose(points, points_of(label, affine, value), atol=0.011)
    assert [len(points) for points in found.values()] == [48, 18]
    note = info_of(mirror, SCAN)["segmentation"]
    assert (note["number"], note["tag"]) == (1, "final")
    cochlea_alone = save(mirror, tmp_path, cochlea=COCHLEA)
    assert mirror.send(CURRENT) == [SCAN]
    found = segments_of(stored(archive, mirror))
    assert [len(points) for points in found.values()] == [0, 18]
    np.testing.assert_allclose(found["cochlea"], points_of(cochlea_alone, affine, 2), atol=0.011)


def test_dcmqi_reads_the_same_voxels(mirror: DicomWebMirror, archive: Orthanc, tmp_path: Path) -> None:
    program = shutil.which("segimage2itkimage")
    if program is None:
        pytest.skip("no segimage2itkimage here; pip install dcmqi, in an environment of its own, and put it on PATH")
    label = save(mirror, tmp_path, vs=VS, cochlea=COCHLEA)
    affine = read_volume(mirror.store.folder / f"{SCAN}.nii.gz").affine
    mirror.send(CURRENT)
    stored(archive, mirror).save_as(tmp_path / "seg.dcm", write_like_original=False)
    command = [program, "--inputDICOM", str(tmp_path / "seg.dcm"), "--outputDirectory", str(tmp_path / "read")]
    (tmp_path / "read").mkdir()
    subprocess.run([*command, "--outputType", "nifti"], check=True, capture_output=True, timeout=60)
    for number in (1, 2):
        read = read_volume(tmp_path / "read" / f"{number}.nii.gz")
        found = points_of((read.array > 0).astype(np.uint8), read.affine, 1)
        np.testing.assert_allclose(found, points_of(label, affine, number), atol=0.011)


def test_dciodvfy_finds_no_fault(mirror: DicomWebMirror, archive: Orthanc, tmp_path: Path) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("no dciodvfy here; apt install dicom3tools")
    save(mirror, tmp_path, vs=VS)
    mirror.send(CURRENT)
    stored(archive, mirror).save_as(tmp_path / "seg.dcm", write_like_original=False)
    checked = subprocess.run([program, str(tmp_path / "seg.dcm")], capture_output=True, text=True, timeout=60)
    faults = [line for line in (checked.stdout + checked.stderr).splitlines() if line.startswith("Error")]
    assert faults == []
    assert "Segmentation" in checked.stdout + checked.stderr


def test_a_label_waits_while_the_server_is_away(mirror: DicomWebMirror, archive: Orthanc, tmp_path: Path) -> None:
    before = len(archive.segmentations(STUDY))
    save(mirror, tmp_path, vs=COCHLEA)
    archive.stop()
    try:
        with pytest.raises(CrossmodaError, match="does not answer"):
            mirror.refresh()
        assert mirror.send(CURRENT) == []
        assert "does not answer" in info_of(mirror, SCAN)["segmentation"]["waiting"]
    finally:
        archive.start()
    assert mirror.send(CURRENT) == [SCAN]
    assert "waiting" not in info_of(mirror, SCAN)["segmentation"]
    assert len(archive.segmentations(STUDY)) == before + 1


def test_flagged_labels_stay_here_and_approved_pseudo_labels_go(mirror: DicomWebMirror, tmp_path: Path) -> None:
    save(mirror, tmp_path, vs=VS)
    with mirror.store.edit() as model:
        labels = model["objects"][SCAN]["labels"]
        labels["final"]["info"]["segmentationMeta"] = {"status": "flagged"}
    assert mirror.send(CURRENT) == []
    with mirror.store.edit() as model:
        model["objects"][SCAN]["labels"]["final"]["info"]["segmentationMeta"] = {"status": "approved"}
    assert mirror.send(CURRENT) == [SCAN]


def test_a_folder_of_other_scans_is_not_taken(archive: Orthanc, tmp_path: Path) -> None:
    write_volume(tmp_path / "case_hrT2.nii.gz", voxels(1), AXIAL)
    store = ReviewStore(tmp_path)
    store.recover()
    with pytest.raises(CrossmodaError, match=r"other scans .case_hrT2.*another folder"):
        DicomWebMirror(store, Archive(archive.client, archive.session), {})


def test_a_wrong_password_is_named(archive: Orthanc, tmp_path: Path) -> None:
    session = ArchiveSession("", "")
    client = type(archive.client)(archive.address, session=session)
    with pytest.raises(CrossmodaError, match=r"answers 401; .* password right"):
        DicomWebMirror(ReviewStore(tmp_path), Archive(client, session), {}).refresh()


def test_searches_use_wildcards_and_what_an_address_would_quote(archive: Orthanc, tmp_path: Path) -> None:
    searched = Archive(archive.client, archive.session)
    for description, number in (("T2 CISS 0.4", 1), ("*CISS*", 1), ("T2?CISS*", 1), ("T1*", 0), ("T2", 0)):
        found = searched.find({"SeriesInstanceUID": SCAN, "SeriesDescription": description})
        assert [series["SeriesInstanceUID"] for series in found] == [SCAN] * number, description
    assert searched.find({"SeriesInstanceUID": SCAN, "PatientName": "Müller^*"}) == [
        {"StudyInstanceUID": STUDY, "SeriesInstanceUID": SCAN, "instances": SHAPE[2]}
    ]
    assert search_query([("PatientName", "a b&c=d"), ("UID", "1.2\\1.3")]) == "PatientName=a?b%26c%3Dd&UID=1.2%5C1.3"


def test_series_become_a_dataset_whose_cases_are_named_by_them(
    archive: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(USER, orthanc_support.NAME)
    monkeypatch.setenv(PASSWORD, orthanc_support.PASSWORD)
    search = {"Modality": "MR", "SeriesInstanceUID": SCAN}
    assert fetch_command(archive.address, tmp_path, search) == 0
    assert case_name(tmp_path / f"{SCAN}_hrT2.nii.gz") == SCAN
    np.testing.assert_array_equal(read_volume(tmp_path / f"{SCAN}_hrT2.nii.gz").array, voxels(1)[:, :, ::-1])
    assert fetch_command(archive.address, tmp_path, search) == 0
    assert "0 fetched, 1 there already, 0 no volume" in capsys.readouterr().out
    with pytest.raises(CrossmodaError, match="no address of a DICOMweb server"):
        fetch_command("the archive", tmp_path, search)
    monkeypatch.delenv(PASSWORD)
    with pytest.raises(CrossmodaError, match="answers 401"):
        fetch_command(archive.address, tmp_path, search)


def test_serve_refuses_what_is_no_archive_and_a_folder_of_other_scans(tmp_path: Path) -> None:
    write_json(tmp_path / "current.json", CURRENT)
    with pytest.raises(CrossmodaError, match="--dicomweb archive: no address"):
        serve_command(tmp_path, port=0, dicomweb="archive")
    write_volume(tmp_path / "review" / "case_hrT2.nii.gz", voxels(1), AXIAL)
    ReviewStore(tmp_path / "review").recover()
    with pytest.raises(CrossmodaError, match="review: holds other scans"):
        serve_command(tmp_path, port=0, dicomweb="http://127.0.0.1:9/dicom-web")
