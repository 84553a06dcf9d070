"""What MONAI Label's own tests ask of a radiology app, asked of ours on a live server; and a training from the panel.

MONAI Label's package carries no tests. Its repository (Project-MONAI/MONAILabel) has, for local radiology apps,
``tests/integration/radiology`` (test_infer, test_batch_infer, test_session, test_trainer),
``tests/integration/test_info`` and, endpoint by endpoint, ``tests/unit/endpoints``. The headings here name those whose
questions are asked, more strictly: not for an answer alone, but for the right one. Others of this folder ask the rest:

- ``test_label_server``: test_scoring, test_activelearning's ``random``, test_infer's formats, by 3D Slicer's clients.
- ``test_guard``: test_logs (for engineers alone here, and never all lines), test_infer_wsi (refused), test_proxy.
- what MONAI Label tests on a DICOMweb server (test_ohif, test_dicomwebcache, ``radiology_serverless``): the tests of
  DICOMweb.

Not asked: deepgrow, deepedit, scribbles, detection, endoscopy and pathology (models of other apps; this one segments
without clicks), MONAI Label's epistemic and test-time scores (replaced by ``strategies``), its model zoo (bundles come
from this project), training in the server's process (``run_sync``, refused), XNAT, DSA and CVAT.

The tests are one session: each goes on from where the one before left the store.
"""

from __future__ import annotations

import importlib
import io
import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import requests
import yaml
from support import run_loop, tiny_loop

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume, same_grid
from crossmoda.files import read_json, sha256_of
from crossmoda.self_training.review_history import history

from .conftest import Served, serve, slicer_module

pytestmark = pytest.mark.usefixtures("in_the_repository")

MODEL = "vs_cochlea_hrt2_segmentation"
SECONDS = 120


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, repository: Path) -> Iterator[Served]:
    """A live server on a run of round 0 alone, made by the real loop, which can go on."""
    folder = tmp_path_factory.mktemp("checks")
    # An untrained network finds nothing: a rule that asks for a tumour would leave no pseudo-label to learn from.
    rules = [{"_target_": "crossmoda.self_training.WeightByCertainty", "power": 1.0}]
    run_loop(tiny_dataset, folder / "run", **tiny_loop(rounds=0, anchors=False, rules=rules))
    with serve(folder / "run", folder, repository) as server:
        yield server


@pytest.fixture(scope="module")
def scans(served: Served) -> dict[str, Path]:
    """Image id -> file of the run's target scans."""
    items = load_datalist(served.run / "dataset.json")["target"]
    return {Path(item["image"]).name.removesuffix(".nii.gz"): Path(item["image"]) for item in items}


@pytest.fixture(scope="module")
def first(scans: dict[str, Path]) -> str:
    """The id of the first scan."""
    return min(scans)


def ask(served: Served, method: str, path: str, **arguments: Any) -> requests.Response:
    return requests.request(method, served.url + path, timeout=SECONDS, **arguments)


def mask_in(content: bytes, folder: Path) -> Any:
    file = folder / "mask.nii.gz"
    file.write_bytes(content)
    return read_volume(file)


def an_empty_label(scan: Path) -> bytes:
    image = nib.load(scan)
    return nib.nifti1.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine).to_bytes()


# --- What is there: tests/integration/test_info.py, tests/unit/endpoints/test_info.py and test_model.py ---


def test_info_tells_version_name_and_labels(served: Served) -> None:
    info = ask(served, "GET", "/info/").json()
    assert info["name"] == "crossMoDA review"
    assert info["version"]
    assert info["labels"] == ["vs", "cochlea"]


def test_info_shows_no_option_without_effect(served: Served) -> None:
    info = ask(served, "GET", "/info/").json()
    assert set(info["models"][MODEL]["config"]) == {"device", "window_overlap", "mirrored"}
    assert set(info["models"]["pseudo_hrt2_cyclegan"]["config"]) == {"device"}
    assert set(info["trainers"]["next_round"]["config"]) == {
        *("max_epochs", "warm_start", "highest_uncertainty", "learn_from", "device"),
    }
    assert not any(task.get("config") for section in ("strategies", "scoring") for task in info[section].values())


def test_the_model_s_file_can_be_fetched_and_is_the_one_described(served: Served, tmp_path: Path) -> None:
    about = ask(served, "GET", f"/model/info/{MODEL}").json()
    (tmp_path / "model.pt").write_bytes(ask(served, "GET", f"/model/{MODEL}").content)
    assert f"SHA256:{sha256_of(tmp_path / 'model.pt')}" == about["checksum"]
    assert (tmp_path / "model.pt").read_bytes() == (served.run / "round_0" / "segmenter" / "model.pt").read_bytes()


def test_the_first_page_and_its_files_are_served(served: Served) -> None:
    assert "text/html" in ask(served, "GET", "/").headers["content-type"]
    assert ask(served, "GET", "/favicon.ico").headers["content-type"] == "image/x-icon"
    assert "text/html" in ask(served, "GET", "/ohif/").headers["content-type"]


# --- Inference: tests/integration/radiology/test_infer.py, tests/unit/endpoints/test_infer.py ---


def test_inference_answers_in_each_form_with_the_same_mask(
    served: Served, scans: dict[str, Path], first: str, tmp_path: Path
) -> None:
    def infer(query: str, **arguments: Any) -> requests.Response:
        answer = ask(served, "POST", f"/infer/{MODEL}{query}", **arguments)
        assert answer.status_code == 200, answer.text
        return answer

    both = infer(f"?image={first}")  # without a body, as MONAI Label's tests ask
    assert both.headers["content-type"].startswith("multipart/form-data")
    alone = infer(f"?image={first}&output=image")
    expected = mask_in(alone.content, tmp_path)
    assert same_grid(expected, read_volume(scans[first]), 1e-3)
    assert both.content.count(alone.content) == 1
    assert infer(f"?image={first}&output=json").json()["label_names"] == {"vs": 1, "cochlea": 2}
    by_body = infer(f"?image={first}&output=image", data={"params": json.dumps({"device": "cuda"})})  # the CPU, if none
    np.testing.assert_array_equal(mask_in(by_body.content, tmp_path).array, expected.array)
    strange = {"pred": "x", "result": 5, "image_meta_dict": "x", "labels": 3, "timeout": "x", "_id": "x", "roi_size": 0}
    along = infer(f"?image={first}&output=image", data={"params": json.dumps(strange)})
    np.testing.assert_array_equal(mask_in(along.content, tmp_path).array, expected.array)
    sent = infer("?output=image", files={"file": ("of.a.patient.nii.gz", scans[first].read_bytes())})
    np.testing.assert_array_equal(mask_in(sent.content, tmp_path).array, expected.array)


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        (f"/infer/{MODEL}?image=%s", {"device": "abacus"}, 400),
        (f"/infer/{MODEL}?image=%s", {"device": ["cpu"]}, 400),
        (f"/infer/{MODEL}?image=%s", {"image": "/etc/hostname"}, 404),
        ("/infer/next_round?image=%s", {}, 404),
    ],
)
def test_an_inference_that_cannot_be_is_refused(
    served: Served, first: str, path: str, params: dict[str, Any], status: int
) -> None:
    answer = ask(served, "POST", path % first, data={"params": json.dumps(params)})
    assert (answer.status_code, len(answer.json()["detail"]) > 10) == (status, True)


# --- Sessions: tests/integration/radiology/test_session.py, tests/unit/endpoints/test_session.py ---


def test_a_session_lives_from_its_scan_to_its_deletion(
    served: Served, scans: dict[str, Path], first: str, tmp_path: Path
) -> None:
    content = scans[first].read_bytes()
    made = ask(served, "PUT", "/session/?expiry=600", files={"files": (f"{first}.nii.gz", content)}).json()
    address, before = f"/session/{made['session_id']}", made["session_info"]["last_access_ts"]
    assert ask(served, "GET", "/session/xyz").status_code == 404
    assert ask(served, "GET", address).json()["expiry"] == 600
    time.sleep(1.1)  # seconds are counted
    assert ask(served, "GET", f"{address}?update_ts=true").json()["last_access_ts"] > before
    assert ask(served, "GET", f"{address}?image=true").content == content
    mask = ask(served, "POST", f"/infer/{MODEL}?session_id={made['session_id']}&output=image")
    assert same_grid(mask_in(mask.content, tmp_path), read_volume(scans[first]), 1e-3)
    saved = {"params": json.dumps({"save_label": True})}
    refused = ask(served, "POST", f"/infer/{MODEL}?session_id={made['session_id']}", data=saved)
    assert (refused.status_code, refused.json()["detail"][:37]) == (422, "save_label: this scan is not in the s")
    assert ask(served, "DELETE", address).status_code == 200
    assert ask(served, "GET", address).status_code == 404


def test_a_session_of_several_files_which_would_be_slices_is_refused(served: Served, scans: dict[str, Path]) -> None:
    files = [("files", (f"{image_id}.nii.gz", file.read_bytes())) for image_id, file in scans.items()]
    answer = ask(served, "PUT", "/session/", files=files)
    assert (answer.status_code, answer.json()["detail"][:20]) == (400, "files: more than one")


# --- The next case: tests/unit/endpoints/test_activelearning.py ---


def test_the_next_case_has_an_id_and_a_file_name(served: Served, scans: dict[str, Path]) -> None:
    sample = ask(served, "POST", "/activelearning/random").json()
    assert sample["id"] in scans
    assert sample["name"] == f"{sample['id']}.nii.gz"


# --- The store: tests/unit/endpoints/test_datastore.py ---


def test_a_scan_goes_in_gets_a_label_and_goes_out_again(served: Served, scans: dict[str, Path], first: str) -> None:
    def stats() -> Any:
        return ask(served, "GET", "/datastore/").json()

    total = stats()["total"]
    assert total == len(scans)
    for number in (1, 2):  # two names that differ behind their first dot
        file = {"file": (f"new.{number}.nii.gz", scans[first].read_bytes())}
        assert ask(served, "PUT", "/datastore/", files=file).json() == {"image": f"new.{number}"}
    assert stats()["total"] == total + 2
    assert {"new.1", "new.2"} <= ask(served, "GET", "/datastore/?output=all").json()["objects"].keys()
    label = {"label": ("a.nii", an_empty_label(scans[first]))}
    assert ask(served, "PUT", "/datastore/label?image=new.1&tag=version_1", files=label).status_code == 200
    assert stats()["label_tags"]["version_1"] == 1
    assert ask(served, "DELETE", "/datastore/label?id=new.1&tag=version_1").status_code == 200
    assert "version_1" not in stats()["label_tags"]
    for number in (1, 2):
        assert ask(served, "DELETE", f"/datastore/?id=new.{number}").status_code == 200
    assert stats()["total"] == total


def test_scans_labels_and_what_is_known_of_them_can_be_fetched(
    served: Served, scans: dict[str, Path], first: str
) -> None:
    label = {"label": ("a.nii", an_empty_label(scans[first]))}
    assert ask(served, "PUT", f"/datastore/label?image={first}", files=label).json()["label"] == first
    assert ask(served, "GET", f"/datastore/image?image={first}").content == scans[first].read_bytes()
    stored = ask(served, "GET", f"/datastore/label?label={first}&tag=final")
    assert stored.content == (served.studies / "labels" / "final" / f"{first}.nii.gz").read_bytes()
    assert ask(served, "HEAD", f"/datastore/image?image={first}").status_code == 200
    assert ask(served, "HEAD", f"/datastore/label?image={first}&tag=final").status_code == 200
    assert ask(served, "GET", f"/datastore/label?label={first}&tag=version_7").status_code == 404
    for what, query in (("image", f"image={first}"), ("label", f"label={first}&tag=final")):
        assert ask(served, "PUT", f"/datastore/{what}/info?{query}").status_code == 200  # which says nothing
        assert ask(served, "GET", f"/datastore/{what}/info?{query}").json()["name"] == f"{first}.nii.gz"
    (pair,) = ask(served, "GET", "/datastore/?output=train").json()
    assert [Path(pair[key]).name for key in ("image", "label")] == [f"{first}.nii.gz"] * 2


def test_the_data_set_is_one_archive(served: Served, first: str) -> None:
    archive = zipfile.ZipFile(io.BytesIO(ask(served, "GET", "/datastore/dataset").content))
    assert [Path(name).name for name in archive.namelist()].count(f"{first}.nii.gz") == 2  # the scan and its label
    assert archive.testzip() is None


# --- The Reviewer's own logic, beyond its requests (in MONAI Label: plugins/slicer/MONAILabelReviewer/UnitTests) ---


@pytest.fixture(scope="module")
def reviewer_logic() -> Iterator[Any]:
    """The package beneath 3D Slicer's Reviewer module, which needs no Slicer."""
    found = Path(str(slicer_module("MONAILabelReviewer/MONAILabelReviewerLib/MonaiServerREST.py").__file__))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(found.parents[1]))
        yield importlib.import_module("MONAILabelReviewerLib")


def test_the_reviewer_reads_the_store_and_one_verdict_leaves_the_others_to_their_authors(
    served: Served, first: str, reviewer_logic: Any
) -> None:
    def judge(tag: str, reviewer: str, status: str, level: str) -> None:
        """Do what the module does at *Next*."""
        controller = reviewer_logic.ImageDataController()
        assert controller.connectToMonaiServer(served.url)
        assert controller.initMetaDataProcessing()
        images = controller.getAllImageData(segmented=False, isNotSegmented=False, isApproved=False, isFlagged=False)
        image = next(image for image in images if image.getName() == first)  # no filter: all cases
        assert image.isSegemented()
        image.updateSegmentationMetaByVerionTag(
            tag=tag, status=status, level=level, approvedBy=reviewer, comment=image.getComment(tag)
        )
        controller.updateLabelInfoOfAllVersionTags(image, tag, level, image.getMetaByVersionTag(tag))

    said = {"segmentationMeta": {"status": "flagged", "approvedBy": "Dr. Berg"}}  # a client that leaves out the rest
    address = f"/datastore/updatelabelinfo?label={first}&tag=original"
    assert ask(served, "PUT", address, data={"params": json.dumps(said)}).status_code == 200
    judge("final", "Dr. Tal", "approved", "easy")
    judge("final", "Dr. Tal", "approved", "hard")
    labels = read_json(served.studies / "datastore_v2.json")["objects"][first]["labels"]
    metas = {tag: label["info"]["segmentationMeta"] for tag, label in labels.items()}
    verdicts = {tag: (meta["status"], meta["approvedBy"], meta["level"]) for tag, meta in metas.items()}
    assert verdicts == {"original": ("flagged", "Dr. Berg", "hard"), "final": ("approved", "Dr. Tal", "hard")}
    judged = [event for event in history(served.studies) if event["event"] == "judged"]
    assert not any("conflict" in event for event in judged)
    assert {(event["tag"], event["approved_by"]) for event in judged} == {
        ("original", "Dr. Berg"),
        ("final", "Dr. Tal"),
    }


# --- Many at once: tests/integration/radiology/test_batch_infer.py, tests/unit/endpoints/test_batch_infer.py ---


def test_a_batch_labels_what_nobody_has_touched_also_without_a_gpu(
    served: Served, scans: dict[str, Path], first: str
) -> None:
    def infos() -> dict[str, Any]:
        objects = ask(served, "GET", "/datastore/?output=all").json()["objects"]
        return {image_id: entry["labels"]["original"]["info"] for image_id, entry in objects.items()}

    before = infos()
    params = {"device": "cuda", "multi_gpu": True, "gpus": "all", "save_label": True, "max_workers": 0}
    answer = ask(served, "POST", f"/batch/infer/{MODEL}?images=all&run_sync=true", json={**params, "max_batch_size": 9})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == set(scans)
    assert not any("error" in one for one in answer.json().values())
    after = infos()
    assert after[first] == before[first]
    assert all("label_names" in after[image_id]["params"] for image_id in scans)
    assert {image_id for image_id in scans if after[image_id]["ts"] != before[image_id]["ts"]} <= set(scans) - {first}


@pytest.mark.parametrize(
    ("path", "params", "status"),
    [
        ("/batch/infer/next_round", {}, 404),
        ("/batch/infer/pseudo_hrt2_cyclegan", {}, 422),
        (f"/batch/infer/{MODEL}", {"model": "other"}, 400),
        (f"/batch/infer/{MODEL}", {"device": "abacus"}, 400),
        (f"/train/{MODEL}", {}, 404),
        ("/train/next_round", {"model": "other"}, 400),
        ("/train/next_round", {"device": "abacus"}, 400),
        ("/train/next_round", {"max_epochs": 0}, 400),
        ("/train/next_round", {"highest_uncertainty": 7}, 400),
        ("/train/next_round", {"learn_from": "nobody"}, 400),
        ("/train/next_round", {"val_split": 0.5}, 400),
        ("/train/", {"next_round": {"max_epochs": "many"}}, 400),
        ("/train/", {"next_round": 5}, 400),
    ],
)
def test_what_cannot_be_begun_is_refused_at_once(
    served: Served, path: str, params: dict[str, Any], status: int
) -> None:
    answer = ask(served, "POST", path, json=params)
    assert answer.status_code == status, answer.text
    assert "\n" not in answer.json()["detail"]


def test_tasks_that_never_ran_have_no_state(served: Served) -> None:
    for task in ("train", "batch/infer", "scoring"):
        assert ask(served, "GET", f"/{task}{'' if 'batch' in task else '/'}").status_code == 404


# --- Training: tests/integration/radiology/test_trainer.py, tests/unit/endpoints/test_train.py ---


def begin_training(served: Served, options: dict[str, Any]) -> None:
    answer = ask(served, "POST", "/train/next_round", json={"client_id": "user-anna", **options})
    assert answer.status_code == 200, answer.text


def wait_for_training(slicer: Any) -> dict[str, Any]:
    until = time.monotonic() + 2 * SECONDS
    while time.monotonic() < until:
        task: dict[str, Any] = slicer.train_status()
        if task["status"] not in ("SUBMITTED", "RUNNING"):
            return task
        time.sleep(0.5)
    pytest.fail("the training did not end")


def test_a_training_can_be_stopped_and_only_one_runs_at_a_time(served: Served, slicer: Any) -> None:
    begin_training(served, {})
    until = time.monotonic() + SECONDS
    while not slicer.train_status(check_if_running=True) and time.monotonic() < until:
        time.sleep(0.1)
    assert ask(served, "POST", "/train/next_round", json={}).status_code == 429
    slicer.train_stop()
    assert wait_for_training(slicer)["status"] == "STOPPED"
    assert not slicer.train_status(check_if_running=True)


def test_a_training_follows_the_options_of_the_panel_and_its_model_is_served(
    served: Served, slicer: Any, first: str
) -> None:
    shown = slicer.info()["trainers"]["next_round"]["config"]
    assert shown["max_epochs"] == 2  # as tiny_loop has it
    assert shown["learn_from"][0] == "all"
    options = {name: value[0] if isinstance(value, list) else value for name, value in shown.items()}  # as Slicer sends
    slicer.train_start("next_round", {**options, "max_epochs": 1, "warm_start": True, "learn_from": "reviewed"})
    task = wait_for_training(slicer)
    assert task["status"] == "DONE", list(task["details"])
    folder = served.run / "round_1"
    assert read_json(folder / "segmenter" / "history.json")["epoch"] == [1]
    assert read_json(folder / "manifest.json")["steps"]["segmenter"]["inputs"].keys() == {"initial_weights"}
    items = load_datalist(folder / "datalist.json")["target"]
    learnt = [Path(item["image"]).name for item in items if item.get("weight", 1) > 0]
    assert learnt == [f"{first}.nii.gz"]  # the one that has been saved
    settings = yaml.safe_load((served.run / "run.yaml").read_text())["trainer"]
    assert [change["number"] for change in settings["later_rounds"]] == [1]
    info = slicer.info()
    assert "round 1" in info["models"][MODEL]["description"]
    stats = info["train_stats"]["next_round"]
    assert (stats["epoch"], stats["total_epochs"]) == (1, 1)
    now = info["trainers"]["next_round"]["config"]
    assert (now["max_epochs"], now["warm_start"], now["learn_from"][0]) == (1, True, "reviewed")
    assert slicer.train_status()["request"]["client_id"] == "user-anna"


def test_a_score_is_taken_beside_the_server_whose_log_names_no_scan(served: Served, first: str) -> None:
    assert ask(served, "POST", "/scoring/pseudo_labels").status_code == 200
    until = time.monotonic() + SECONDS
    while (task := ask(served, "GET", "/scoring/").json())["status"] in ("SUBMITTED", "RUNNING"):
        assert time.monotonic() < until
        time.sleep(0.5)
    assert task["status"] == "DONE", task
    info = ask(served, "GET", f"/datastore/image/info?image={first}").json()
    assert set(info["pseudo_label_scores"]) == {"vs", "cochlea"}
    assert ask(served, "DELETE", "/scoring/").status_code == 200  # nothing is left to stop
    assert first not in served.log.read_text()


def test_a_score_that_cannot_be_taken_says_why(served: Served, first: str) -> None:
    label = served.studies / "labels" / "original" / f"{first}.nii.gz"
    content = label.read_bytes()
    label.unlink()
    label.write_bytes(b"no label")
    answer = ask(served, "POST", "/scoring/pseudo_labels?run_sync=true")
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"].startswith(f"{first}.nii.gz: ")
    label.write_bytes(content)
    assert ask(served, "POST", "/scoring/pseudo_labels?run_sync=true").status_code == 200
