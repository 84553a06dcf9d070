"""The app in front of a hospital's archive: scans from DICOMweb, labels back as DICOM SEG, the OHIF viewer between."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from dicom_support import points_of, save_slices, segments_of, slices_of
from orthanc_support import NAME, PASSWORD, Orthanc, orthanc
from PIL import Image
from pydicom import dcmread

from crossmoda.data.volumes import read_volume
from crossmoda.files import read_json, write_json
from crossmoda.self_training.review import collect
from crossmoda.self_training.review_series import read_series

from .browser import Browser, chromium
from .conftest import AFFINES, SHAPE, Served, blocks, save_nifti, serve, slicer_client, slicer_module, write_run

MODEL = "vs_cochlea_hrt2_segmentation"
STUDY, OTHER_STUDY = "1.2.826.9", "1.2.826.10"
SERIES = {"case.1": "1.2.826.9.1", "case.2": "1.2.826.9.2"}  # the second is oblique, its slices in the other direction
DAMAGED, LATE = "1.2.826.9.3", "1.2.826.10.1"


def scan_of(case: str) -> np.ndarray:
    return np.random.default_rng(len(case) + int(case[-1])).gamma(2, 50, SHAPE).astype(np.int16)


def write_run_of_series(run: Path, repository: Path) -> Path:
    """Write a run whose target cases are series of the archive, by their UIDs."""
    write_run(run, repository)
    folder = run / "round_0"
    measured = {}
    datalist = read_json(folder / "datalist.json")
    datalist["target"] = []
    for case, uid in SERIES.items():
        volume = read_series(save_slices(slices_of(scan_of(case), AFFINES[case], uid, STUDY), run / "dicom" / uid))
        save_nifti(run / "scans" / f"{uid}_hrT2.nii.gz", volume.array, volume.affine)
        save_nifti(folder / "predictions" / f"{uid}_Label.nii.gz", blocks(1, 2), volume.affine)
        datalist["target"].append({"case": uid, "site": "unknown", "image": f"../scans/{uid}_hrT2.nii.gz"})
        measured[uid] = {"case.1": 0.3, "case.2": 0.8}[case]
    write_json(folder / "datalist.json", datalist)
    write_json(folder / "uncertainty" / "uncertainty.json", measured)
    return run


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """An archive with two scans, one that lacks a slice, and a CT of another patient."""
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        for case, uid in SERIES.items():
            server.upload(slices_of(scan_of(case), AFFINES[case], uid, STUDY, SeriesNumber=int(case[-1])))
        whole = slices_of(scan_of("case.3"), AFFINES["case.3"], DAMAGED, STUDY)
        server.upload(sorted(whole, key=lambda header: header.ImagePositionPatient[2])[:-4] + whole[-1:])
        ct = slices_of(
            scan_of("case.4"), AFFINES["case.3"], "1.2.826.11.1", "1.2.826.11", Modality="CT", PatientID="P8"
        )
        server.upload(ct)
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, repository: Path, archive: Orthanc) -> Iterator[Served]:
    """A live server in front of the archive, signed in there."""
    folder = tmp_path_factory.mktemp("served")
    run = write_run_of_series(folder / "run", repository)
    environment = {"MONAI_LABEL_DICOMWEB_USERNAME": NAME, "MONAI_LABEL_DICOMWEB_PASSWORD": PASSWORD}
    with serve(run, folder, repository, studies=archive.address, environment=environment) as server:
        wait_until(lambda: len(objects(server)) == 3)
        wait_until(lambda: all("original" in objects(server)[uid]["labels"] for uid in SERIES.values()))
        yield server


def objects(served: Served) -> dict[str, Any]:
    """What the server has, by image id."""
    answer = requests.get(f"{served.url}/datastore/?output=all", timeout=60)
    found: dict[str, Any] = answer.json()["objects"]
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def stored(served: Served, archive: Orthanc, uid: str, number: int = 1) -> Any:
    """The segmentation of a scan in the archive, once it is there."""
    wait_until(lambda: (objects(served)[uid]["image"]["info"].get("segmentation") or {}).get("number") == number)
    note = objects(served)[uid]["image"]["info"]["segmentation"]
    return next(item for item in archive.segmentations(STUDY) if item.SOPInstanceUID == note["SOPInstanceUID"])


@pytest.fixture(scope="module")
def slicer(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return slicer_client(served, tmp_path_factory.mktemp("slicer"))


def test_scans_come_with_their_voxels_and_geometry(served: Served, tmp_path: Path) -> None:
    for case, uid in SERIES.items():
        answer = requests.get(f"{served.url}/datastore/image?image={uid}", timeout=60)
        (tmp_path / f"{uid}.nii.gz").write_bytes(answer.content)
        scan = read_volume(tmp_path / f"{uid}.nii.gz")
        to_former = np.linalg.inv(AFFINES[case]) @ scan.affine  # from the voxels served to those uploaded
        x, y, z = np.rint(to_former @ [3, 5, 2, 1]).astype(int)[:3]
        assert scan.array[3, 5, 2] == scan_of(case)[x, y, z]
        np.testing.assert_allclose(to_former, np.rint(to_former), atol=1e-3)


def test_a_damaged_series_is_named_with_the_reason_and_not_handed_out(served: Served, slicer: Any) -> None:
    info = requests.get(f"{served.url}/datastore/image/info?image={DAMAGED}", timeout=60).json()
    assert "one is missing" in info["series_fault"]
    refused = requests.post(f"{served.url}/infer/{MODEL}?image={DAMAGED}", timeout=60)
    assert (refused.status_code, "one is missing" in refused.json()["detail"]) == (422, True)
    assert slicer.next_sample("first", {})["id"] == SERIES["case.1"]
    assert requests.get(f"{served.url}/datastore/image?image={DAMAGED}", timeout=60).status_code == 404
    assert requests.get(f"{served.url}/crossmoda/cases", timeout=60).status_code == 200


def save(served: Served, slicer: Any, folder: Path) -> np.ndarray:
    """Save the label of the oblique scan as 3D Slicer does, cochlea first, and return it as it was sent."""
    scan = read_volume(served.studies / f"{SERIES['case.2']}.nii.gz")
    label = blocks(2, 1)
    save_nifti(folder / "label.nii.gz", label, scan.affine)
    named = {"label_info": [{"name": "cochlea", "idx": 1}, {"name": "vs", "idx": 2}]}
    slicer.save_label(SERIES["case.2"], str(folder / "label.nii.gz"), "", named)
    return label


def test_next_sample_infer_save_and_the_way_back_to_the_archive(
    served: Served, archive: Orthanc, slicer: Any, tmp_path: Path
) -> None:
    uid = SERIES["case.2"]
    assert slicer.next_sample("uncertainty", {})["id"] == uid
    predicted, _ = slicer.infer(MODEL, uid, {"result_extension": ".nrrd", "result_dtype": "uint8"})
    scan = read_volume(served.studies / f"{uid}.nii.gz")
    np.testing.assert_allclose(read_volume(predicted).affine, scan.affine, atol=1e-4)
    label = save(served, slicer, tmp_path)
    found = segments_of(stored(served, archive, uid))
    assert list(found) == ["vestibular schwannoma", "cochlea"]
    for points, value in zip(found.values(), (2, 1), strict=True):
        np.testing.assert_allclose(points, points_of(label, scan.affine, value), atol=0.011)
    reviewed = collect(served.studies, ["vs", "cochlea"])[uid]  # as the next round takes it
    np.testing.assert_array_equal(reviewed.voxels(["vs", "cochlea"]), blocks(1, 2))
    history = requests.get(f"{served.url}/crossmoda/history.csv", timeout=60).text
    assert f",saved,{uid}," in history or f"saved,{uid}" in history


def test_an_approved_pseudo_label_goes_to_the_archive_as_automatic(served: Served, archive: Orthanc) -> None:
    reviewer = slicer_module("MONAILabelReviewer/MONAILabelReviewerLib/MonaiServerREST.py").MonaiServerREST(served.url)
    meta = {"segmentationMeta": {"status": "approved", "approvedBy": "berg", "level": "easy", "editTime": 1}}
    assert reviewer.updateLabelInfo(SERIES["case.1"], "original", meta)
    segmentation = stored(served, archive, SERIES["case.1"])
    assert {segment.SegmentAlgorithmType for segment in segmentation.SegmentSequence} == {"AUTOMATIC"}
    assert {segment.SegmentAlgorithmName for segment in segmentation.SegmentSequence} == {"crossmoda, round 0"}
    assert str(segmentation.ContentCreatorName) == "berg"


def test_the_triage_page_draws_series(served: Served) -> None:
    cases = requests.get(f"{served.url}/crossmoda/cases", timeout=60).json()["cases"]
    assert [row["image"] for row in cases][:2] == [SERIES["case.2"], SERIES["case.1"]]  # the most uncertain first
    picture = requests.get(f"{served.url}/crossmoda/pictures/{SERIES['case.1']}?tag=original", timeout=60)
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")


def test_a_series_that_has_just_come_can_be_segmented_at_once(served: Served, archive: Orthanc) -> None:
    archive.upload(slices_of(scan_of("case.5"), AFFINES["case.1"], LATE, OTHER_STUDY))
    answer = requests.post(f"{served.url}/infer/{MODEL}?image={LATE}&output=image", timeout=120)
    assert answer.status_code == 200, answer.text
    assert LATE in objects(served)
    assert requests.post(f"{served.url}/infer/{MODEL}?image=1.2.3.4", timeout=60).status_code == 404


def test_a_prediction_is_answered_as_dicom_seg(served: Served) -> None:
    uid = SERIES["case.2"]
    asked = f"{served.url}/infer/{MODEL}?image={uid}&output="
    mask = requests.post(asked + "image", timeout=120)
    (served.run / "predicted.nii.gz").write_bytes(mask.content)
    volume = read_volume(served.run / "predicted.nii.gz")
    answer = requests.post(asked + "dicom_seg", timeout=120)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom")
    found = segments_of(dcmread(io.BytesIO(answer.content)))
    for value, points in enumerate(found.values(), start=1):
        np.testing.assert_allclose(points, points_of(volume.array.astype(np.uint8), volume.affine, value), atol=0.011)
    assert [len(points) > 0 for points in found.values()] == [(volume.array == value).any() for value in (1, 2)]
    refused = requests.post(f"{served.url}/infer/{MODEL}?session_id=x&output=dicom_seg", timeout=60)
    assert refused.status_code in (400, 404)


def test_scans_are_neither_uploaded_nor_deleted_here(served: Served) -> None:
    files = {"file": ("scan.nii.gz", (served.studies / f"{SERIES['case.1']}.nii.gz").read_bytes())}
    answers = [
        requests.put(f"{served.url}/datastore/image?image=another", files=files, timeout=60),
        requests.delete(f"{served.url}/datastore/image?id={SERIES['case.1']}", timeout=60),
    ]
    assert [answer.status_code for answer in answers] == [403, 403]
    assert SERIES["case.1"] in objects(served)


def test_the_viewer_s_filters_reach_the_archive(served: Served) -> None:
    def patients(query: str) -> set[str]:
        found = requests.get(f"{served.url}/proxy/dicom/qido/studies{query}", timeout=60).json()
        return {study["00100020"]["Value"][0] for study in found}

    assert patients("") == {"P7", "P8"}
    assert patients("?PatientID=P8") == {"P8"}
    assert patients("?PatientName=M%C3%BCller*&StudyDescription=&ModalitiesInStudy=CT") == {"P8"}
    assert requests.get(f"{served.url}/proxy/dicom/wado/../system", timeout=60).status_code == 404


def test_the_viewer_shows_study_and_segmentation(served: Served, archive: Orthanc, slicer: Any, tmp_path: Path) -> None:
    save(served, slicer, tmp_path)
    stored(served, archive, SERIES["case.2"])
    with chromium(tmp_path, webgl=True) as page:
        page.open(f"{served.url}/ohif/viewer?StudyInstanceUIDs={STUDY}")
        press(page, "button", "Confirm and Hide")
        press(page, "[data-cy=study-browser-thumbnail-no-image]", "Series 2, version 1", "dblclick")
        assert share_of_red(page, tmp_path / "before.png") < 0.001
        press(page, "button", "Yes")
        page.wait_for("document.querySelector('[data-cy=panelSegmentation-btn]')")
        page.click("[data-cy=panelSegmentation-btn]")
        press(page, "span", "vestibular schwannoma")  # goes to its middle
        page.wait_for("[...document.querySelectorAll('span')].some(shown => shown.innerText === 'cochlea')")
        wait_until(lambda: share_of_red(page, tmp_path / "after.png") > 0.03)
        # The tumour is 6 x 5 of a slice's 26 x 22 voxels; its border is drawn a little beyond.
        assert share_of_red(page, tmp_path / "after.png") == pytest.approx(30 / (26 * 22), rel=0.3)
        # The page's own font would come from elsewhere; the policy keeps the page from asking, not the missing network.
        assert not [problem for problem in page.problems if "ERR_NAME_NOT_RESOLVED" in problem]


def press(page: Browser, selector: str, words: str, kind: str = "click") -> None:
    """Click the first element that holds these words, once it is there."""
    found = f"[...document.querySelectorAll({selector!r})].find(shown => shown.innerText.includes({words!r}))"
    page.wait_for(found, seconds=90)
    page.evaluate(f"{found}.dispatchEvent(new MouseEvent({kind!r}, {{bubbles: true}}))")


def share_of_red(page: Browser, file: Path) -> float:
    """Return how much of the scan's slice on the screen is drawn over in the tumour's red."""
    page.screenshot(file)
    box = page.evaluate("document.querySelector('[data-cy=viewport-pane]').getBoundingClientRect().toJSON()")
    left, top, right, bottom = (int(box[side]) for side in ("left", "top", "right", "bottom"))
    shown = np.asarray(Image.open(file).convert("RGB"), dtype=float)[top + 60 : bottom - 40, left + 10 : right - 10]
    red, green, blue = np.moveaxis(shown, -1, 0)
    drawn = (red > 1.4 * green) & (red > 1.4 * blue) & (red > 40)
    return float(drawn.sum() / max(1, (shown.max(axis=-1) > 10).sum()))
