"""What the triage page is told of the cases under review, without a server."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmoda.data.volumes import write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, sha256_of, write_json
from crossmoda.self_training import review_cases
from crossmoda.self_training.review_cases import SCENES_IN_MEMORY, LabelVolumes, ReviewCases, UnknownCaseError
from crossmoda.self_training.review_store import ReviewStore

CURRENT = {"round": 2, "structures": ["vs", "cochlea"]}
VALUES = {"vs": 1, "cochlea": 2}
AFFINE = np.diag([0.5, 0.8, 2.5, 1.0])  # a voxel is 1 mm3
SHAPE = (24, 20, 8)


def label_map(vs: int = 40, cochlea: int = 6) -> np.ndarray:
    """A label map with so many voxels of tumour and cochlea."""
    label = np.zeros(SHAPE, np.uint8).ravel()
    label[1000 : 1000 + vs] = 1
    label[2000 : 2000 + cochlea] = 2
    return label.reshape(SHAPE)


def meta(status: str, **other: Any) -> dict[str, Any]:
    said = {"status": status, "level": "", "approvedBy": "Dr. Berg", "comment": "", "editTime": 1767225600, **other}
    return {"segmentationMeta": said}


def make_store(folder: Path, scores: dict[str, float | None]) -> ReviewStore:
    """A store with a scan and a pseudo-label for each case and its uncertainty."""
    store = ReviewStore(folder / "studies")
    for number, case in enumerate(scores):
        scan = np.full(SHAPE, number, np.float32)
        scan[4:20, 4:16] += 100
        write_volume(folder / "scans" / f"{case}_hrT2.nii.gz", scan, AFFINE)
    write_volume(folder / "label.nii.gz", label_map(), AFFINE)
    with store.edit() as model:
        for case, score in scores.items():
            about = {"case": case, "site": case.split("_")[0], "uncertainty": score}
            store.add_image(model, folder / "scans" / f"{case}_hrT2.nii.gz", f"{case}_hrT2", about)
            info = {"values": VALUES, "round": 2, "uncertainty": score}
            store.put_label(model, f"{case}_hrT2", "original", folder / "label.nii.gz", info)
    return store


def put_final(store: ReviewStore, folder: Path, image_id: str, info: dict[str, Any]) -> None:
    write_volume(folder / "final.nii.gz", label_map(vs=10), AFFINE)
    with store.edit() as model:
        store.put_label(model, image_id, "final", folder / "final.nii.gz", {"values": VALUES, **info})


def cases_of(store: ReviewStore) -> ReviewCases:
    return ReviewCases(store, lambda: CURRENT)


def rows_of(cases: ReviewCases) -> dict[str, dict[str, Any]]:
    return {row["case"]: row for row in cases.listing()["cases"]}


@pytest.fixture
def store(tmp_path: Path) -> ReviewStore:
    return make_store(tmp_path, {"ldn_1": 0.2, "etz_2": None, "etz_3": 0.9, "ldn_4": 0.2})


def test_the_most_uncertain_case_comes_first_and_those_without_a_measure_last(store: ReviewStore) -> None:
    with store.edit() as model:
        model["objects"]["ldn_4_hrT2"]["image"]["info"]["uncertainty"] = float("nan")
    answer = cases_of(store).listing()
    assert [row["case"] for row in answer["cases"]] == ["etz_3", "ldn_1", "etz_2", "ldn_4"]
    assert [row["uncertainty"] for row in answer["cases"]] == [0.9, 0.2, None, None]
    assert (answer["round"], answer["colours"]["vs"]) == (2, "#e4572e")
    json.dumps(answer, allow_nan=False)


def test_a_case_that_nobody_touched_is_open_and_shows_the_pseudo_label(store: ReviewStore) -> None:
    row = cases_of(store).case("etz_3_hrT2")
    assert {key: row[key] for key in ("image", "case", "site", "tag", "status", "round")} == {
        "image": "etz_3_hrT2",
        "case": "etz_3",
        "site": "etz",
        "tag": "original",
        "status": "open",
        "round": 2,
    }
    assert (row["who"], row["when"], row["comment"], row["segmentationMeta"]) == ("", "", "", None)


def test_rules_of_anatomy_that_are_broken_are_told_of_a_pseudo_label_and_not_of_its_correction(
    store: ReviewStore, tmp_path: Path
) -> None:
    broken = ["number of cochleae 1, 2 allowed"]
    with store.edit() as model:
        for case in ("etz_3", "ldn_1"):
            model["objects"][f"{case}_hrT2"]["labels"]["original"]["info"]["anatomy"] = broken
    put_final(store, tmp_path, "ldn_1_hrT2", {"client_id": "user-anna"})
    told = {case: row["anatomy"] for case, row in rows_of(cases_of(store)).items()}
    assert told == {"etz_3": broken, "ldn_1": [], "etz_2": [], "ldn_4": []}


def test_a_verdict_a_correction_and_an_approved_version_are_told_apart(store: ReviewStore, tmp_path: Path) -> None:
    with store.edit() as model:
        said = meta("flagged", level="hard", comment="motion")
        model["objects"]["etz_3_hrT2"]["labels"]["original"]["info"].update(said)
    put_final(store, tmp_path, "ldn_1_hrT2", {"client_id": "user-anna"})
    put_final(store, tmp_path, "ldn_4_hrT2", meta("approved"))
    put_final(store, tmp_path, "ldn_4_hrT2", {"client_id": "user-anna"})
    with store.edit() as model:  # the former version is the one that Dr. Berg approved
        del model["objects"]["ldn_4_hrT2"]["labels"]["version_1"]["info"]["archived_from"]
    rows = rows_of(cases_of(store))
    shown = {case: [row[key] for key in ("tag", "status", "who", "level", "comment")] for case, row in rows.items()}
    assert shown == {
        "etz_3": ["original", "flagged", "Dr. Berg", "hard", "motion"],
        "ldn_1": ["final", "corrected", "user-anna", "", ""],
        "ldn_4": ["version_1", "approved", "Dr. Berg", "", ""],
        "etz_2": ["original", "open", "", "", ""],
    }
    assert rows["etz_3"]["when"] == "2026-01-01T00:00:00+00:00"
    assert rows["ldn_1"]["round"] == 2  # of the pseudo-label that was corrected
    assert rows["etz_3"]["segmentationMeta"] == said["segmentationMeta"]


def test_a_level_alone_is_no_verdict(store: ReviewStore) -> None:
    with store.edit() as model:
        model["objects"]["etz_3_hrT2"]["labels"]["original"]["info"].update(meta("", level="easy"))
    row = cases_of(store).case("etz_3_hrT2")
    assert (row["status"], row["level"], row["who"]) == ("open", "easy", "Dr. Berg")


def test_a_scan_without_a_label_is_listed_and_shown(store: ReviewStore) -> None:
    with store.edit() as model:
        store.remove_label(model, "etz_2_hrT2", "original")
    cases = cases_of(store)
    row = cases.case("etz_2_hrT2")
    assert (row["tag"], row["status"], row["volumes_ml"], row["round"]) == (None, "open", None, None)
    assert cases.planes("etz_2_hrT2", None)["axial"]["slices"] == 8
    assert cases.wall_picture("etz_2_hrT2", None).read_bytes()[:4] == b"\x89PNG"


def test_volumes_are_measured_in_millilitres_meanwhile_and_kept(store: ReviewStore, tmp_path: Path) -> None:
    put_final(store, tmp_path, "ldn_1_hrT2", {"values": {"vs": 1, "cochlea": 2, "intra": 3, "extra": 4}})
    cases = cases_of(store)
    assert {row["volumes_ml"] is None for row in cases.listing()["cases"]} == {True}
    cases._volumes.wait(30)
    rows = rows_of(cases)
    assert rows["etz_3"]["volumes_ml"] == {"vs": 0.04, "cochlea": 0.006}  # 40 and 6 voxels of 1 mm3
    assert rows["ldn_1"]["volumes_ml"] == {"vs": 0.01, "cochlea": 0.006}
    assert len(read_json(store.folder / ".triage" / "volumes.json")) == 2  # by content: three labels are the same
    assert rows_of(cases_of(store))["ldn_1"]["volumes_ml"] == rows["ldn_1"]["volumes_ml"]


def test_a_damaged_file_of_volumes_is_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "volumes.json"
    for damaged in ("{", "[1]", "7"):
        file.write_text(damaged)
        assert LabelVolumes(file).known("0") is None
    unreadable = tmp_path / "label.nii.gz"
    unreadable.write_bytes(b"no label")
    volumes = LabelVolumes(file)
    volumes.measure_later({"a": unreadable, "b": tmp_path / "gone.nii.gz"})
    volumes.wait(30)
    assert read_json(file) == {"a": {}}


def test_a_picture_for_the_wall_is_drawn_once_and_again_for_another_label(store: ReviewStore, tmp_path: Path) -> None:
    cases = cases_of(store)
    first = cases.wall_picture("etz_3_hrT2", "original")
    drawn = first.stat().st_mtime_ns
    assert cases_of(store).wall_picture("etz_3_hrT2", "original") == first
    assert first.stat().st_mtime_ns == drawn
    put_final(store, tmp_path, "etz_3_hrT2", {})
    second = cases.wall_picture("etz_3_hrT2", "final")
    assert second != first
    assert [path.name for path in second.parent.iterdir()] == [second.name]


def test_a_label_that_another_server_stored_is_measured_too(store: ReviewStore) -> None:
    with store.edit() as model:
        del model["objects"]["ldn_1_hrT2"]["labels"]["original"]["info"]["sha256"]
    cases = cases_of(store)
    cases.listing()
    cases._volumes.wait(30)
    assert rows_of(cases)["ldn_1"]["volumes_ml"] == {"vs": 0.04, "cochlea": 0.006}


def test_several_who_open_a_case_at_once_share_one_reading(store: ReviewStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read, readings = review_cases.read_scene, []

    def slow(*given: Any) -> Any:
        readings.append(given)
        time.sleep(0.2)
        return read(*given)

    monkeypatch.setattr(review_cases, "read_scene", slow)
    cases = cases_of(store)
    with ThreadPoolExecutor(4) as threads:
        drawn = set(threads.map(lambda _: cases.slice_picture("etz_3_hrT2", "original", "axial", 2), range(4)))
    assert (len(drawn), len(readings)) == (1, 1)


def test_a_scan_that_could_not_be_read_is_tried_again(store: ReviewStore) -> None:
    image, cases = store.folder / "etz_3_hrT2.nii.gz", cases_of(store)
    whole = image.read_bytes()
    image.unlink()
    image.write_bytes(whole[:200])
    for _ in range(2):
        with pytest.raises(CrossmodaError, match="truncated or damaged"):
            cases.planes("etz_3_hrT2", "original")
    image.write_bytes(whole)
    assert cases.planes("etz_3_hrT2", "original")["axial"]["slices"] == 8


def test_only_the_last_scans_stay_in_memory(store: ReviewStore) -> None:
    cases = cases_of(store)
    for case in ("ldn_1", "etz_2", "etz_3", "ldn_4", "ldn_1"):
        assert cases.slice_picture(f"{case}_hrT2", "original", "coronal", 3)[:4] == b"\x89PNG"
    assert len(cases._scenes) == SCENES_IN_MEMORY


def test_ids_tags_and_slices_are_checked_against_the_store(store: ReviewStore) -> None:
    cases = cases_of(store)
    with pytest.raises(UnknownCaseError, match="image 'nobody': not in the store"):
        cases.case("nobody")
    with pytest.raises(UnknownCaseError, match="with tag 'final': not in the store"):
        cases.wall_picture("etz_3_hrT2", "final")
    for image_id, tag in (("../etz_3_hrT2", "original"), ("etz_3_hrT2", "../original"), ("", None), ("a/b", None)):
        with pytest.raises(CrossmodaError, match="use "):
            cases.wall_picture(image_id, tag)
        with pytest.raises(CrossmodaError, match="use "):
            cases.slice_picture(image_id, tag, "axial", 0)
    with pytest.raises(CrossmodaError, match="this scan has slices 0 to 7"):
        cases.slice_picture("etz_3_hrT2", "original", "axial", 8)


def test_a_scan_or_label_that_is_gone_is_named(store: ReviewStore) -> None:
    (store.folder / "etz_3_hrT2.nii.gz").unlink()
    (store.folder / "labels" / "original" / "etz_2_hrT2.nii.gz").unlink()
    with pytest.raises(CrossmodaError, match=r"^etz_3_hrT2\.nii\.gz: no such file under review"):
        cases_of(store).planes("etz_3_hrT2", "original")
    with pytest.raises(CrossmodaError, match=r"^labels/original/etz_2_hrT2\.nii\.gz: no such file"):
        cases_of(store).wall_picture("etz_2_hrT2", "original")


def test_a_thousand_cases_are_listed_in_at_most_a_fifth_of_a_second(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"ldn_1": 0.5})
    label = sha256_of(tmp_path / "label.nii.gz")
    with store.edit() as model:
        one = model["objects"]["ldn_1_hrT2"]
        judged = {**one, "labels": {"original": one["labels"]["original"], "final": one["labels"]["original"]}}
        model["objects"] = {f"case_{n}_hrT2": one if n % 2 else judged for n in range(1000)}
    write_json(store.folder / ".triage" / "volumes.json", {label: {"1": 0.04}})
    cases, seconds = cases_of(store), []
    for _ in range(5):
        start = time.perf_counter()
        text = json.dumps(cases.listing(), allow_nan=False)
        seconds.append(time.perf_counter() - start)
    assert len(json.loads(text)["cases"]) == 1000
    assert min(seconds) <= 0.2
