"""A session of an annotator and a reviewer against the live server, with 3D Slicer's own clients.

The tests of this module are one session: they run in order, each going on from where the one before left the store.
"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import requests

from crossmoda.data.volumes import read_volume, same_grid
from crossmoda.files import read_json
from crossmoda.self_training.review import collect
from crossmoda.self_training.review_history import history, problems

from .conftest import AFFINES, STRUCTURES, Served, blocks, save_nifti, write_round

MODEL = "vs_cochlea_hrt2_segmentation"


def scan(served: Served, case: str) -> Path:
    return served.run / "scans" / f"{case}_hrT2.nii.gz"


def submit(slicer: Any, folder: Path, case: str, label: np.ndarray, names: list[str], shift: int = 1) -> Any:
    """Save a label as 3D Slicer does: NIfTI, names in the order of export, idx counting hidden segments too."""
    file = save_nifti(folder / "label.nii.gz", label, AFFINES[case])
    info = [{"name": name, "idx": index + shift} for index, name in enumerate(names)]
    return slicer.save_label(f"{case}_hrT2", str(file), params={"label_info": info})


def refusal(slicer: Any, folder: Path, label: np.ndarray, names: list[str]) -> str:
    """Return the message that 3D Slicer shows when the server refuses a label."""
    try:
        submit(slicer, folder, "case.2", label, names)
    except Exception as error:  # the client's own kind, which keeps its text in msg
        return str(error.msg)  # type: ignore[attr-defined]
    pytest.fail("the label was accepted")


def stored(served: Served, case: str, tag: str) -> np.ndarray:
    return np.asarray(nib.load(served.studies / "labels" / tag / f"{case}_hrT2.nii.gz").dataobj)


def test_the_app_presents_itself_with_the_run_s_structures(served: Served, slicer: Any) -> None:
    info = slicer.info()
    assert info["labels"] == STRUCTURES
    assert info["models"][MODEL]["labels"] == {"vs": 1, "cochlea": 2}
    assert list(info["strategies"]) == ["uncertainty", "first", "random"]
    assert "next_round" in info["trainers"]
    assert info["datastore"] == {"total": 3, "completed": 0, "label_tags": {"original": 3}}


def test_the_most_uncertain_case_comes_first_with_its_pseudo_label(served: Served, slicer: Any) -> None:
    sample = slicer.next_sample("uncertainty", {})
    assert (sample["id"], sample["weight"]) == ("case.2_hrT2", 0.8)
    assert slicer.next_sample("first", {})["id"] == "case.1_hrT2"
    assert slicer.next_sample("random", {})["id"] in {f"{case}_hrT2" for case in AFFINES}
    original = slicer.datastore()["objects"]["case.2_hrT2"]["labels"]["original"]["info"]
    assert list(original["params"]["label_names"]) == STRUCTURES
    label = slicer.download_label("case.2_hrT2", "original")
    np.testing.assert_array_equal(np.asarray(nib.load(label).dataobj), blocks(1, 2))


@pytest.mark.parametrize("case", list(AFFINES))
@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz"])
def test_a_mask_comes_back_on_the_scan_s_own_grid(served: Served, slicer: Any, case: str, extension: str) -> None:
    params = {"result_extension": extension, "result_dtype": "uint8"}
    file, answer = slicer.infer(MODEL, f"{case}_hrT2", params)
    assert file.endswith(extension)
    mask = read_volume(file)
    assert same_grid(mask, read_volume(scan(served, case)), 1e-3)
    assert set(np.unique(mask.array)) <= {0.0, 1.0, 2.0}
    assert answer["label_names"] == {"vs": 1, "cochlea": 2}


def test_the_mask_is_the_bundle_s_own_prediction(served: Served, slicer: Any, tmp_path: Path, repository: Path) -> None:
    from crossmoda.self_training.work import BundleUse

    use = BundleUse(**read_json(served.run / "current.json")["segmentation_bundle"])
    places = {"dataset_dir": str(served.run / "round_0" / "datalist.json"), "output_dir": str(tmp_path)}
    use.run("inference", "cpu", **places, weights=str(served.run / "round_0" / "segmenter" / "model.pt"))
    for case in AFFINES:
        expected = read_volume(tmp_path / f"{case}_Label.nii.gz").array
        file, _ = slicer.infer(MODEL, f"{case}_hrT2", {"result_extension": ".nrrd", "result_dtype": "uint8"})
        assert nrrd.read_header(file)["type"] in ("unsigned char", "uint8", "uint8_t")
        np.testing.assert_array_equal(read_volume(file).array, expected)
        assert expected.any()


def test_a_prediction_can_be_saved_as_the_pseudo_label(served: Served, slicer: Any) -> None:
    file, told = slicer.infer(MODEL, "case.1_hrT2", {"save_label": True, "result_extension": ".nrrd"})
    np.testing.assert_array_equal(read_volume(file).array, stored(served, "case.1", "original"))
    info = slicer.datastore()["objects"]["case.1_hrT2"]["labels"]["original"]["info"]
    assert info["round"] == 0
    assert info["anatomy"] == told["anatomy"]  # what an untrained network draws is nothing like a patient
    assert any("cochlea" in remark for remark in info["anatomy"])
    assert collect(served.studies, STRUCTURES) == {}


def test_paths_and_unknown_names_are_refused_with_a_reason(served: Served, slicer: Any) -> None:
    def post(path: str, **fields: str) -> requests.Response:
        return requests.post(served.url + path, data=fields, timeout=60)

    path = str(scan(served, "case.1"))
    answers = [
        post(f"/infer/{MODEL}?image={path}"),
        post(f"/infer/{MODEL}?image=case.1_hrT2", params=json.dumps({"image": path})),
        post(f"/infer/{MODEL}?image=nobody"),
        post("/infer/no_model?image=case.1_hrT2"),
        requests.post(f"{served.url}/activelearning/no_strategy", json={}, timeout=60),
        requests.post(f"{served.url}/train/no_model", json={}, timeout=60),
        requests.put(
            f"{served.url}/datastore/updatelabelinfo?label=case.1_hrT2&tag=final", data={"params": "{}"}, timeout=60
        ),
        requests.put(
            f"{served.url}/datastore/updatelabelinfo?label=case.1_hrT2&tag=../x", data={"params": "{}"}, timeout=60
        ),
        requests.delete(f"{served.url}/datastore/label?id=nobody&tag=final", timeout=60),
        requests.put(
            f"{served.url}/datastore/image?image=../evil",
            files={"file": ("a.nii.gz", scan(served, "case.1").read_bytes())},
            timeout=60,
        ),
        requests.put(
            f"{served.url}/datastore/image?image=case.1_hrT2",
            files={"file": ("a.nii.gz", scan(served, "case.1").read_bytes())},
            timeout=60,
        ),
        requests.put(f"{served.url}/datastore/image?image=new", files={"file": ("a.nii.gz", b"no scan")}, timeout=60),
    ]
    assert [answer.status_code for answer in answers] == [404, 404, 404, 404, 404, 404, 404, 400, 404, 400, 400, 400]
    assert all(len(answer.json()["detail"]) > 10 for answer in answers)
    assert slicer.info()["datastore"]["total"] == 3


def test_a_label_with_an_unknown_segment_or_another_grid_is_refused_and_nothing_stored(
    served: Served, slicer: Any, tmp_path: Path
) -> None:
    assert "Status: 400" in refusal(slicer, tmp_path, blocks(1, 2), ["vs", "Segment_1"])
    assert "unknown segment 'Segment_1'" in refusal(slicer, tmp_path, blocks(1, 2), ["vs", "Segment_1"])
    assert "its grid of 26x22x9 voxels" in refusal(slicer, tmp_path, blocks(1, 2)[:, :, :-1], STRUCTURES)
    assert not list(served.studies.glob("labels/final/*"))
    assert "final" not in slicer.datastore()["objects"]["case.2_hrT2"]["labels"]


def test_segments_sent_in_another_order_keep_their_meaning(served: Served, slicer: Any, tmp_path: Path) -> None:
    submit(slicer, tmp_path, "case.2", blocks(vs=2, cochlea=1), ["cochlea", "vs"], shift=2)
    np.testing.assert_array_equal(stored(served, "case.2", "final"), blocks(vs=1, cochlea=2))
    info = slicer.datastore()["objects"]["case.2_hrT2"]["labels"]["final"]["info"]
    assert info["label_info"] == [{"name": "vs", "idx": 1}, {"name": "cochlea", "idx": 2}]
    assert info["client_id"] == "user-anna"


def test_a_second_save_keeps_the_first_as_version_1(served: Served, slicer: Any, reviewer: Any, tmp_path: Path) -> None:
    corrected = blocks(vs=0, cochlea=1)
    corrected[0, 0, 0] = 1
    submit(slicer, tmp_path, "case.2", corrected, ["cochlea"], shift=3)  # the tumour's segment is hidden
    np.testing.assert_array_equal(stored(served, "case.2", "final"), corrected * 2)
    version = reviewer.requestSegmentation("case.2_hrT2", "version_1")
    (tmp_path / "version.nii.gz").write_bytes(version.content)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "version.nii.gz").dataobj), blocks(1, 2))
    assert set(reviewer.requestDataStoreInfo()["objects"]["case.2_hrT2"]["labels"]) == {
        "original",
        "final",
        "version_1",
    }


def test_what_was_saved_is_what_the_next_round_collects(served: Served) -> None:
    reviewed = collect(served.studies, STRUCTURES)
    assert list(reviewed) == ["case.2"]
    assert (reviewed["case.2"].status, reviewed["case.2"].who) == ("corrected", "user-anna")
    np.testing.assert_array_equal(reviewed["case.2"].voxels(STRUCTURES), stored(served, "case.2", "final"))


def test_the_next_sample_is_another_case(slicer: Any) -> None:
    assert slicer.next_sample("uncertainty", {})["id"] == "case.3_hrT2"


def test_a_reviewer_approves_and_flags(served: Served, slicer: Any, reviewer: Any) -> None:
    meta = {"level": "easy", "approvedBy": "Dr. Berg", "comment": "", "editTime": 1767225600}
    assert reviewer.updateLabelInfo("case.2_hrT2", "final", {"segmentationMeta": {"status": "approved", **meta}}) == 200
    assert (
        reviewer.updateLabelInfo("case.3_hrT2", "original", {"segmentationMeta": {"status": "flagged", **meta}}) == 200
    )
    reviewed = collect(served.studies, STRUCTURES)
    assert {case: label.status for case, label in reviewed.items()} == {"case.2": "approved", "case.3": "flagged"}
    assert reviewed["case.2"].who == "Dr. Berg"
    assert slicer.next_sample("uncertainty", {})["id"] == "case.1_hrT2"
    info = slicer.datastore()["objects"]["case.2_hrT2"]["labels"]["final"]["info"]
    assert info["client_id"] == "user-anna"  # the verdict is added to what was known


def test_a_reviewer_s_own_version_is_stored_by_name(served: Served, reviewer: Any, tmp_path: Path) -> None:
    affine = AFFINES["case.1"]
    header = {"space": "right-anterior-superior", "space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    header |= {
        "Segment0_Name": "cochlea",
        "Segment0_LabelValue": "1",
        "Segment1_Name": "vs",
        "Segment1_LabelValue": "2",
    }
    nrrd.write(str(tmp_path / "edited.nrrd"), blocks(vs=2, cochlea=1), header=header)
    params = {"segmentationMeta": {"status": "approved", "approvedBy": "Dr. Berg"}, "name": "case.1_hrT2.nii.gz"}
    assert reviewer.saveLabel("case.1_hrT2", str(tmp_path / "edited.nrrd"), "version_1", params) == 200
    np.testing.assert_array_equal(stored(served, "case.1", "version_1"), blocks(vs=1, cochlea=2))
    assert collect(served.studies, STRUCTURES)["case.1"].status == "approved"


def test_options_of_the_panel_change_the_prediction_and_wrong_ones_are_refused(served: Served, slicer: Any) -> None:
    config = slicer.info()["models"][MODEL]["config"]
    assert (config["window_overlap"], config["mirrored"]) == (0.25, True)  # uncertainty.yaml of the run averages

    def mask(**options: Any) -> np.ndarray:
        file, _ = slicer.infer(MODEL, "case.2_hrT2", {"result_extension": ".nrrd", **options})
        return read_volume(file).array

    plain = mask()
    np.testing.assert_array_equal(mask(window_overlap=0.25, mirrored=True), plain)
    assert not np.array_equal(mask(mirrored=False), plain)  # an untrained network knows no symmetry
    assert not np.array_equal(mask(window_overlap="0.75"), plain)  # text, as a panel sends it
    np.testing.assert_array_equal(mask(), plain)  # nothing is kept from one request to the next
    for wrong in ({"window_overlap": 1.0}, {"window_overlap": "much"}, {"mirrored": "perhaps"}):
        with pytest.raises(Exception, match=rf"Status: 422.*{next(iter(wrong))} .*: give "):
            mask(**wrong)


def test_a_ce_t1_scan_of_a_session_comes_back_as_pseudo_hrt2_which_cannot_be_saved_as_a_label(
    served: Served, slicer: Any, tmp_path: Path
) -> None:
    scan = np.random.default_rng(8).gamma(2, 50, (20, 18, 9)).astype(np.float32)
    nib.save(nib.nifti1.Nifti1Image(scan, AFFINES["case.2"]), tmp_path / "cet1.nii.gz")
    session = slicer.create_session(str(tmp_path / "cet1.nii.gz"))["session_id"]
    file, answer = slicer.infer("pseudo_hrt2_cyclegan", "", {"result_extension": ".nii.gz"}, session_id=session)
    rendered = read_volume(file)
    assert rendered.array.shape == scan.shape
    np.testing.assert_allclose(rendered.affine, AFFINES["case.2"], atol=1e-3)
    assert 0 <= rendered.array.min() < rendered.array.max() <= 1
    assert len(np.unique(rendered.array)) > 100  # an image, no mask
    assert answer["label_names"] == {}
    with pytest.raises(Exception, match=r"Status: 422.*renders an image, which is no label to save"):
        slicer.infer("pseudo_hrt2_cyclegan", "case.1_hrT2", {"save_label": True})
    assert slicer.remove_session(session)


def test_when_all_are_done_there_is_no_next_sample(slicer: Any) -> None:
    assert slicer.next_sample("uncertainty", {}) == {}


def test_a_new_round_is_served_without_a_restart(served: Served, slicer: Any, repository: Path) -> None:
    params = {"result_extension": ".nrrd", "result_dtype": "uint8"}
    before = read_volume(slicer.infer(MODEL, "case.1_hrT2", params)[0]).array
    write_round(served.run, 1, repository)
    after = read_volume(slicer.infer(MODEL, "case.1_hrT2", params)[0]).array
    assert not np.array_equal(before, after)
    assert "round 1" in slicer.info()["models"][MODEL]["description"]
    assert stored(served, "case.2", "original").any()  # reviewed, so its pseudo-label stays as it was seen


def test_scores_tell_how_good_the_pseudo_labels_were(served: Served) -> None:
    answer = requests.post(f"{served.url}/scoring/pseudo_labels?run_sync=true", json={}, timeout=60).json()
    assert answer["case.2_hrT2"]["vs"] == {"dice": 0.0, "assd_mm": 350.0}  # the annotator removed the tumour
    assert answer["case.2_hrT2"]["cochlea"]["dice"] == pytest.approx(2 * 27 / (27 + 28), abs=1e-6)
    assert 0 < answer["case.2_hrT2"]["cochlea"]["assd_mm"] < 1


def test_scores_tell_whether_the_served_model_follows_the_corrections(served: Served) -> None:
    answer = requests.post(f"{served.url}/scoring/model?run_sync=true", json={}, timeout=60).json()
    empty, missed = {"dice": 1.0, "assd_mm": 0.0}, {"dice": 0.0, "assd_mm": 350.0}
    assert answer == {
        "case.2_hrT2": {"vs": empty, "cochlea": missed}
    }  # round 1 predicts nothing, as the annotator did of vs


def test_a_deleted_version_is_kept_aside(served: Served, reviewer: Any) -> None:
    assert reviewer.deleteLabelByVersionTag("case.1_hrT2", "version_1") == 200
    assert "version_1" not in reviewer.requestDataStoreInfo()["objects"]["case.1_hrT2"]["labels"]
    assert len(list((served.studies / ".deleted").glob("case.1_hrT2.version_1.*.nii.gz"))) == 1


def test_a_training_that_cannot_run_says_why(slicer: Any) -> None:
    assert slicer.train_status(check_if_running=True) is False
    slicer.train_start("next_round", {})  # the small run of these tests has no run.yaml to continue from
    until = time.monotonic() + 120
    while (task := slicer.train_status())["status"] in ("SUBMITTED", "RUNNING") and time.monotonic() < until:
        time.sleep(0.5)
    assert task["status"] == "ERROR"
    assert "error: " in task["details"][-1]
    assert "no run.yaml there" in task["details"][-1]


def test_the_server_listens_on_this_machine_alone_and_refuses_other_origins(served: Served) -> None:
    answer = requests.get(f"{served.url}/info/", headers={"Origin": "http://elsewhere.example"}, timeout=60)
    assert "access-control-allow-origin" not in answer.headers
    assert served.url.startswith("http://127.0.0.1:")


def test_the_second_of_two_annotators_is_told_of_the_first(served: Served, slicer: Any, tmp_path: Path) -> None:
    bert = type(slicer)(served.url, tmpdir=str(tmp_path), client_id="user-bert")
    submit(bert, tmp_path, "case.2", blocks(vs=1, cochlea=2), STRUCTURES)
    labels = slicer.datastore()["objects"]["case.2_hrT2"]["labels"]
    assert "user-anna saved final (now version_2)" in labels["final"]["info"]["conflict"][0]
    assert np.array_equal(stored(served, "case.2", "final"), blocks(vs=1, cochlea=2))
    assert not np.array_equal(stored(served, "case.2", "version_2"), blocks(vs=1, cochlea=2))


def test_the_session_s_history_is_complete_and_agrees_with_the_files(served: Served) -> None:
    events = history(served.studies)
    told = [(event["event"], event["case"], event.get("who", "")) for event in events]
    assert told[:3] == [("published", case, "") for case in AFFINES]
    assert ("handed out", "case.2", "user-anna") in told
    assert ("judged", "case.2", "Dr. Berg") in told
    assert ("label deleted", "case.1", "somebody at 127.0.0.1, not signed in") in told
    assert ("refreshed", "case.1", "") in told  # by the prediction that was saved
    first = next(event for event in events if event["event"] == "saved")
    assert (first["who"], first["case"], first["start_tag"], first["round"]) == ("user-anna", "case.2", "original", 0)
    assert 0 <= first["seconds"] < 600
    assert problems(served.studies) == []
    assert "Dr. Berg" not in served.log.read_text()


def test_the_history_is_a_page_and_a_csv_file(served: Served) -> None:
    page = requests.get(f"{served.url}/crossmoda/history", timeout=60)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for text in ("user-anna", "user-bert", "Dr. Berg", "handed out", "conflict"):
        assert text in page.text
    table = requests.get(f"{served.url}/crossmoda/history.csv", timeout=60)
    rows = list(csv.DictReader(io.StringIO(table.content.decode())))
    assert len(rows) == len(history(served.studies))
    assert {row["who"] for row in rows if row["event"] == "saved"} >= {"user-anna", "user-bert"}
