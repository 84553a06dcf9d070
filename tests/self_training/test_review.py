"""Pseudo-labels out to the clinicians' folder and reviewed labels back, without a server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.errors import CrossmodaError
from crossmoda.files import PARTIAL_MARK, read_json, write_json
from crossmoda.self_training import review
from crossmoda.self_training.review import collect, publish, review_command, store_upload
from crossmoda.self_training.review_labels import names_in_order, stored_values
from crossmoda.self_training.review_scores import model_scores, pseudo_label_scores
from crossmoda.self_training.review_store import ReviewStore, check_image_id, check_tag

STRUCTURES = ["vs", "cochlea"]
SHAPE = (7, 6, 5)
OBLIQUE = np.array(  # x to the left, y and z turned by 30 degrees, spacing 0.5 x 0.8 x 2 mm
    [
        [-0.5, 0, 0, 40],
        [0, 0.8 * np.cos(np.pi / 6), -2 * np.sin(np.pi / 6), -12],
        [0, 0.8 * np.sin(np.pi / 6), 2 * np.cos(np.pi / 6), 5],
        [0, 0, 0, 1],
    ]
)
CASES = {"crossmoda2021_ldn_106": 0.2, "crossmoda2022_etz_3": 0.9, "crossmoda2022_etz_4": 0.5}
FIRST = "crossmoda2021_ldn_106_hrT2"


def save(path: Path, array: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.nifti1.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def blocks(**corners: int) -> np.ndarray:
    """Return a label map with a 2 x 2 x 2 block of each value, placed by the value's name so that no two overlap."""
    label = np.zeros(SHAPE, np.uint8)
    for name, value in corners.items():
        x = {"vs": 0, "cochlea": 2, "intra": 0, "extra": 4}[name]
        label[x : x + 2, 1:3, 2:4] = value
    return label


def write_round(run: Path, number: int, label: np.ndarray) -> None:
    folder = run / f"round_{number}"
    for case, score in CASES.items():
        save(folder / "predictions" / f"{case}_Label.nii.gz", label)
        scores = folder / "uncertainty" / "uncertainty.json"
        write_json(scores, {**(read_json(scores) if scores.is_file() else {}), case: score})
    items = [{"case": case, "site": "ldn", "image": f"../scans/{case}_hrT2.nii.gz"} for case in CASES]
    edition = {"edition": "2022", "labels": {"vs": 1, "cochlea": 2}, "source": [], "validation": []}
    write_json(folder / "datalist.json", {**edition, "target": items})
    names = {key: f"round_{number}/{key}" for key in ("predictions", "uncertainty")}
    places = {"segmenter": f"round_{number}/segmenter/model.pt", "datalist": f"round_{number}/datalist.json"}
    write_json(run / "current.json", {"round": number, "structures": STRUCTURES, **names, **places})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rng = np.random.default_rng(5)
    for case in CASES:
        save(tmp_path / "run" / "scans" / f"{case}_hrT2.nii.gz", rng.normal(100, 9, SHAPE).astype(np.float32))
    write_round(tmp_path / "run", 0, blocks(vs=1, cochlea=2))
    return tmp_path / "run"


Upload = Callable[..., str]


@pytest.fixture
def upload(studies: Path, tmp_path: Path) -> Upload:
    def send(
        label: np.ndarray, names: list[str] | None, tag: str = "final", affine: np.ndarray = OBLIQUE, **info: Any
    ) -> str:
        listed = None if names is None else [{"name": name, "idx": index + 5} for index, name in enumerate(names)]
        file = save(tmp_path / "upload.nii.gz", label, affine)
        about = {"client_id": "anna", **info} | ({"label_info": listed} if listed is not None else {})
        return store_upload(ReviewStore(studies), FIRST, tag, file, about, STRUCTURES)

    return send


def labels_of(studies: Path, image_id: str = FIRST) -> dict[str, Any]:
    return read_json(studies / "datastore_v2.json")["objects"][image_id]["labels"]


def voxels(studies: Path, tag: str, image_id: str = FIRST) -> np.ndarray:
    return np.asarray(nib.load(studies / "labels" / tag / f"{image_id}.nii.gz").dataobj)


def judge(studies: Path, tag: str, status: str, by: str = "Dr. Berg") -> None:
    with ReviewStore(studies).edit() as model:
        meta = {"status": status, "approvedBy": by, "editTime": 1767225600}  # 2026-01-01
        model["objects"][FIRST]["labels"][tag]["info"]["segmentationMeta"] = meta


def test_published_scans_are_the_run_s_own_files_and_carry_their_pseudo_labels(run: Path, studies: Path) -> None:
    assert publish(run, studies) == 3
    assert (studies / f"{FIRST}.nii.gz").samefile(run / "scans" / f"{FIRST}.nii.gz")
    info = labels_of(studies)["original"]["info"]
    assert (info["model"], info["round"], info["uncertainty"]) == ("round_0/segmenter/model.pt", 0, 0.2)
    assert info["params"]["label_names"] == {"vs": 1, "cochlea": 2}
    assert info["label_info"] == [{"name": "vs", "idx": 1}, {"name": "cochlea", "idx": 2}]
    np.testing.assert_array_equal(voxels(studies, "original"), blocks(vs=1, cochlea=2))
    assert collect(studies, STRUCTURES) == {}


def test_after_a_round_0_which_learns_from_no_target_the_dataset_s_cases_are_published(run: Path) -> None:
    file = run / read_json(run / "current.json")["datalist"]
    datalist = load_datalist(file)
    save_datalist(run / "dataset.json", datalist)
    save_datalist(file, {**datalist, "target": []})
    assert publish(run, run / "review") == 3
    assert labels_of(run / "review")["original"]["info"]["round"] == 0


def test_publishing_again_changes_nothing(run: Path, studies: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in studies.rglob("*") if path.is_file() and path.name != ".lock"}
    publish(run, studies)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_scan_is_copied_where_hard_links_are_impossible(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError("other disk")

    monkeypatch.setattr(os, "link", refuse)
    publish(run, run / "review")
    assert publish(run, run / "review") == 3
    copied = run / "review" / f"{FIRST}.nii.gz"
    assert copied.read_bytes() == (run / "scans" / f"{FIRST}.nii.gz").read_bytes()
    assert not copied.samefile(run / "scans" / f"{FIRST}.nii.gz")


def test_another_run_s_scans_of_the_same_name_are_refused(run: Path, studies: Path) -> None:
    (run / "scans" / f"{FIRST}.nii.gz").unlink()
    save(run / "scans" / f"{FIRST}.nii.gz", np.ones(SHAPE, np.float32))
    with pytest.raises(CrossmodaError, match="another scan than"):
        publish(run, studies)


def test_among_an_archive_s_series_cases_are_found_by_name_and_grid(run: Path, tmp_path: Path) -> None:
    here, elsewhere, _ = CASES
    store = ReviewStore(tmp_path / "mirror")
    with store.edit() as model:
        model["dicomweb"] = "http://127.0.0.1:9/dicom-web"
        for case, affine in ((here, OBLIQUE), (elsewhere, np.eye(4))):
            scan = save(tmp_path / "series" / f"{case}.nii.gz", np.ones(SHAPE, np.float32), affine)
            store.add_image(model, scan, case, {})
    assert publish(run, store.folder) == 1
    objects = store.read()["objects"]
    assert {case: list(entry["labels"]) for case, entry in objects.items()} == {here: ["original"], elsewhere: []}
    assert objects[here]["image"]["info"]["uncertainty"] == CASES[here]


def test_a_run_without_a_finished_round_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"current.json: no finished round"):
        publish(tmp_path, tmp_path / "review")


def test_a_new_round_refreshes_only_cases_that_nobody_has_touched(run: Path, studies: Path, upload: Upload) -> None:
    upload(blocks(vs=1), ["vs"])
    write_round(run, 1, blocks(vs=1))
    publish(run, studies)
    assert labels_of(studies)["original"]["info"]["round"] == 0
    np.testing.assert_array_equal(voxels(studies, "final"), blocks(vs=1))
    assert labels_of(studies, "crossmoda2022_etz_3_hrT2")["original"]["info"]["round"] == 1
    np.testing.assert_array_equal(voxels(studies, "original", "crossmoda2022_etz_3_hrT2"), blocks(vs=1))


def test_a_judged_pseudo_label_outlives_the_next_round(run: Path, studies: Path) -> None:
    judge(studies, "original", "approved")
    write_round(run, 1, np.zeros(SHAPE, np.uint8))
    publish(run, studies)
    reviewed = collect(studies, STRUCTURES)["crossmoda2021_ldn_106"]
    assert (reviewed.status, reviewed.who, reviewed.tag) == ("approved", "Dr. Berg", "original")
    assert reviewed.when == "2026-01-01T00:00:00+00:00"
    np.testing.assert_array_equal(reviewed.voxels(STRUCTURES), blocks(vs=1, cochlea=2))


@pytest.mark.parametrize(
    ("names", "sent"),
    [
        (["vs", "cochlea"], blocks(vs=1, cochlea=2)),
        (["cochlea", "vs"], blocks(vs=2, cochlea=1)),
        (["Cochlea", "Vestibular Schwannoma"], blocks(vs=2, cochlea=1)),
        (["background", "cochlea", "vs"], blocks(vs=2, cochlea=1)),
    ],
)
def test_voxels_keep_their_meaning_whatever_the_order_of_segments(
    studies: Path, upload: Upload, names: list[str], sent: np.ndarray
) -> None:
    assert upload(sent, names) == "final"
    np.testing.assert_array_equal(voxels(studies, "final"), blocks(vs=1, cochlea=2))
    assert labels_of(studies)["final"]["info"]["label_info"] == [
        {"name": "vs", "idx": 1},
        {"name": "cochlea", "idx": 2},
    ]


def test_a_segment_that_was_not_exported_does_not_shift_the_others(studies: Path, upload: Upload) -> None:
    upload(blocks(cochlea=1), ["cochlea"])  # idx says 5, as when other segments are hidden
    np.testing.assert_array_equal(
        collect(studies, STRUCTURES)["crossmoda2021_ldn_106"].voxels(STRUCTURES), blocks(cochlea=2)
    )


def test_parts_of_the_tumour_count_together_where_the_run_has_the_whole(studies: Path, upload: Upload) -> None:
    upload(blocks(intra=1, extra=2, cochlea=3), ["intra", "extra", "cochlea"])
    np.testing.assert_array_equal(voxels(studies, "final"), blocks(intra=3, extra=4, cochlea=2))
    reviewed = collect(studies, STRUCTURES)["crossmoda2021_ldn_106"]
    np.testing.assert_array_equal(np.asarray(nib.load(reviewed.label).dataobj), blocks(intra=1, extra=1, cochlea=2))
    parts = collect(studies, ["intra", "extra", "cochlea"])["crossmoda2021_ldn_106"]
    np.testing.assert_array_equal(np.asarray(nib.load(parts.label).dataobj), blocks(intra=1, extra=2, cochlea=3))


def test_a_whole_tumour_cannot_be_used_where_parts_are_asked_for(studies: Path, upload: Upload) -> None:
    upload(blocks(vs=1), ["vs"])
    with pytest.raises(CrossmodaError, match="'vs' is none of intra, extra"):
        collect(studies, ["intra", "extra", "cochlea"])


def test_a_segmentation_file_is_read_by_its_own_header(studies: Path, tmp_path: Path) -> None:
    header = {"space": "right-anterior-superior", "space directions": OBLIQUE[:3, :3].T, "space origin": OBLIQUE[:3, 3]}
    header |= {"Segment0_Name": "cochlea", "Segment0_LabelValue": "7", "Segment0_Layer": "0"}
    header |= {"Segment1_Name": "vs", "Segment1_LabelValue": "3", "Segment1_Layer": "0"}
    nrrd.write(str(tmp_path / "upload.seg.nrrd"), blocks(vs=3, cochlea=7), header=header)
    store_upload(ReviewStore(studies), FIRST, "version_1", tmp_path / "upload.seg.nrrd", {}, STRUCTURES)
    np.testing.assert_array_equal(voxels(studies, "version_1"), blocks(vs=1, cochlea=2))
    nrrd.write(str(tmp_path / "layers.seg.nrrd"), blocks(vs=1), header=header | {"Segment1_Layer": "1"})
    with pytest.raises(CrossmodaError, match="segments overlap"):
        store_upload(ReviewStore(studies), FIRST, "final", tmp_path / "layers.seg.nrrd", {}, STRUCTURES)


@pytest.mark.parametrize(
    ("label", "names", "affine", "reason"),
    [
        (blocks(vs=1), ["vs", "Segment_1"], OBLIQUE, "unknown segment 'Segment_1'"),
        (blocks(vs=1, cochlea=2), ["vs"], OBLIQUE, "value 2 belong to no named segment"),
        (blocks(vs=9), None, OBLIQUE, "value 9 belong to no named segment"),
        (blocks(vs=1)[:, :, :4], ["vs"], OBLIQUE, "its grid of 7x6x4 voxels is not that of"),
        (blocks(vs=1), ["vs"], np.diag([-0.5, 0.8, 2, 1]), "use the scan as the segmentation's reference geometry"),
        (np.full(SHAPE, np.nan, np.float32), ["vs"], OBLIQUE, "values outside 0 to 255"),
        (np.full(SHAPE, 0.5, np.float32), ["vs"], OBLIQUE, "holds fractions"),
        (np.full(SHAPE, -1, np.int16), ["vs"], OBLIQUE, "values outside 0 to 255"),
        (np.stack([blocks(vs=1)] * 2, -1), ["vs"], OBLIQUE, "4D data"),
    ],
)
def test_a_label_that_cannot_be_meant_is_refused_and_nothing_stored(
    studies: Path, upload: Upload, label: np.ndarray, names: list[str] | None, affine: np.ndarray, reason: str
) -> None:
    before = (studies / "datastore_v2.json").read_bytes()
    with pytest.raises(CrossmodaError, match=reason):
        upload(label, names, affine=affine)
    assert (studies / "datastore_v2.json").read_bytes() == before
    assert not list(studies.glob("labels/final/*"))
    assert not list(studies.glob(".incoming/*"))


def test_other_files_and_places_are_refused(studies: Path, tmp_path: Path) -> None:
    text = tmp_path / "upload.txt"
    text.write_text("1 2 3")
    store = ReviewStore(studies)
    with pytest.raises(CrossmodaError, match="not a volume format"):
        store_upload(store, FIRST, "final", text, {}, STRUCTURES)
    with pytest.raises(CrossmodaError, match="not a tag of this store"):
        store_upload(store, FIRST, "../../outside", text, {}, STRUCTURES)
    with pytest.raises(CrossmodaError, match="image 'nobody': not in the store"):
        store_upload(store, "nobody", "final", text, {}, STRUCTURES)
    with pytest.raises(CrossmodaError, match="use letters, digits"):
        check_image_id("../evil")
    with pytest.raises(CrossmodaError, match="not a tag"):
        check_tag("version_0")
    with pytest.raises(CrossmodaError, match="label_info is not a list"):
        names_in_order({"name": "vs"}, stored_values(STRUCTURES), "label")


def test_every_label_a_person_saved_before_is_kept_with_what_was_known_of_it(studies: Path, upload: Upload) -> None:
    upload(blocks(vs=1), ["vs"], client_id="anna")
    judge(studies, "final", "approved")
    upload(blocks(cochlea=1), ["cochlea"], client_id="ben")
    upload(blocks(vs=1, cochlea=2), ["vs", "cochlea"], client_id="cleo")
    labels = labels_of(studies)
    assert [labels[tag]["info"]["client_id"] for tag in ("version_1", "version_2", "final")] == ["anna", "ben", "cleo"]
    assert labels["version_1"]["info"]["segmentationMeta"]["status"] == "approved"
    np.testing.assert_array_equal(voxels(studies, "version_1"), blocks(vs=1))
    np.testing.assert_array_equal(voxels(studies, "version_2"), blocks(cochlea=2))
    reviewed = collect(studies, STRUCTURES)["crossmoda2021_ldn_106"]  # the approval was of a label since replaced
    assert (reviewed.status, reviewed.who, reviewed.tag) == ("corrected", "cleo", "final")


def test_a_person_s_label_sent_as_original_is_kept_as_final(studies: Path, upload: Upload) -> None:
    assert upload(blocks(vs=1), ["vs"], tag="original", model="copied from the pseudo-label's info") == "final"
    np.testing.assert_array_equal(voxels(studies, "original"), blocks(vs=1, cochlea=2))


def test_the_approved_version_counts_before_a_newer_one(studies: Path, upload: Upload) -> None:
    upload(blocks(vs=1), ["vs"])
    upload(blocks(cochlea=1), ["cochlea"], tag="version_1")
    judge(studies, "version_1", "approved")
    upload(blocks(vs=1, cochlea=2), ["vs", "cochlea"], tag="version_5")
    assert collect(studies, STRUCTURES)["crossmoda2021_ldn_106"].tag == "version_1"


def test_a_flagged_label_is_reported_as_such_even_if_it_is_broken(studies: Path, upload: Upload) -> None:
    upload(blocks(vs=1), ["vs"])
    judge(studies, "final", "flagged")
    with ReviewStore(studies).edit() as model:
        model["objects"][FIRST]["labels"]["final"]["info"].pop("sha256")
    (studies / "labels" / "final" / f"{FIRST}.nii.gz").write_bytes(b"broken")
    assert collect(studies, STRUCTURES)["crossmoda2021_ldn_106"].status == "flagged"


def test_a_broken_label_that_would_be_learnt_from_is_named(studies: Path, upload: Upload) -> None:
    upload(blocks(vs=1), ["vs"])
    (studies / "labels" / "final" / f"{FIRST}.nii.gz").write_bytes(b"broken")
    with pytest.raises(CrossmodaError, match=rf"final/{FIRST}.nii.gz: .*damaged"):
        collect(studies, STRUCTURES)


def test_labels_that_another_server_stored_are_read_by_the_order_of_their_names(studies: Path) -> None:
    save(studies / "labels" / "final" / f"{FIRST}.nii.gz", blocks(vs=2, cochlea=1))
    with ReviewStore(studies).edit() as model:
        listed = [{"name": "cochlea", "idx": 2}, {"name": "vs", "idx": 3}]
        model["objects"][FIRST]["labels"]["final"] = {"ext": ".nii.gz", "info": {"label_info": listed, "ts": 5}}
    reviewed = collect(studies, STRUCTURES)["crossmoda2021_ldn_106"]
    np.testing.assert_array_equal(np.asarray(nib.load(reviewed.label).dataobj), blocks(vs=1, cochlea=2))


@pytest.mark.parametrize("damage", ["", '{"name": "x", "objects": {"cro', "[]", None])
def test_a_damaged_or_missing_datastore_file_loses_nothing(studies: Path, upload: Upload, damage: str | None) -> None:
    upload(blocks(vs=1), ["vs"], client_id="anna")
    upload(blocks(vs=1, cochlea=2), ["vs", "cochlea"], client_id="ben")
    file = studies / "datastore_v2.json"
    file.unlink()
    if damage is not None:
        file.write_text(damage)
    labels = ReviewStore(studies).read()["objects"][FIRST]["labels"]
    assert sorted(labels) == ["final", "original", "version_1"]
    assert labels["version_1"]["info"]["client_id"] == "anna"  # known from the state before the last change
    np.testing.assert_array_equal(
        collect(studies, STRUCTURES)["crossmoda2021_ldn_106"].voxels(STRUCTURES), blocks(vs=1, cochlea=2)
    )
    assert json.loads(file.read_text())["objects"]


def test_without_any_metadata_the_folder_speaks_for_itself(studies: Path, upload: Upload) -> None:
    upload(blocks(vs=2, cochlea=1), ["cochlea", "vs"])
    for file in (studies / "datastore_v2.json", studies / ".datastore_v2.backup.json"):
        file.unlink()
    reviewed = collect(studies, STRUCTURES)["crossmoda2021_ldn_106"]
    np.testing.assert_array_equal(reviewed.voxels(STRUCTURES), blocks(vs=1, cochlea=2))
    assert reviewed.who == ""


def test_a_label_replaced_by_a_killed_save_makes_no_claim_about_who_made_it(studies: Path, upload: Upload) -> None:
    upload(blocks(vs=1), ["vs"], client_id="anna")
    save(studies / "labels" / "final" / f"{FIRST}.nii.gz", blocks(cochlea=2))  # file replaced, metadata not yet
    save(studies / "labels" / "version_1" / f"{FIRST}.nii.gz", blocks(vs=1))
    (studies / "labels" / "final" / f".x{PARTIAL_MARK}{FIRST}.nii.gz").write_bytes(b"unfinished")
    labels = ReviewStore(studies).recover()["objects"][FIRST]["labels"]
    assert "client_id" not in labels["final"]["info"]
    np.testing.assert_array_equal(
        collect(studies, STRUCTURES)["crossmoda2021_ldn_106"].voxels(STRUCTURES), blocks(cochlea=2)
    )


def test_unfinished_and_hidden_files_are_neither_scans_nor_labels(studies: Path) -> None:
    (studies / f".x{PARTIAL_MARK}scan.nii.gz").write_bytes(b"unfinished")
    assert sorted(ReviewStore(studies).recover()["objects"]) == sorted(f"{case}_hrT2" for case in CASES)


def test_removed_labels_are_kept_aside(studies: Path, upload: Upload) -> None:
    upload(blocks(vs=1), ["vs"])
    store = ReviewStore(studies)
    with store.edit() as model:
        store.remove_label(model, FIRST, "final")
    assert collect(studies, STRUCTURES) == {}
    assert len(list((studies / ".deleted").glob(f"{FIRST}.final.*.nii.gz"))) == 1
    with pytest.raises(CrossmodaError, match="tag 'final': not in the store"), store.edit() as model:
        store.remove_label(model, FIRST, "final")


def test_an_edit_that_fails_changes_nothing(studies: Path) -> None:
    before = (studies / "datastore_v2.json").read_bytes()

    def fail_half_way() -> None:
        with ReviewStore(studies).edit() as model:
            model["objects"].clear()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert (studies / "datastore_v2.json").read_bytes() == before


def test_image_ids_may_hold_dots(studies: Path, tmp_path: Path) -> None:
    scan = save(tmp_path / "case.3.v1.nii.gz", np.ones(SHAPE, np.float32))
    store = ReviewStore(studies)
    with store.edit() as model:
        store.add_image(model, scan, "case.3.v1", {})
    file = save(tmp_path / "upload.nii.gz", blocks(vs=1))
    store_upload(store, "case.3.v1", "final", file, {"label_info": [{"name": "vs", "idx": 1}]}, STRUCTURES)
    assert "case.3.v1" in collect(studies, STRUCTURES)
    assert sorted(store.recover()["objects"]["case.3.v1"]["labels"]) == ["final"]


def test_a_missing_folder_is_an_error_for_collect(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="no such folder"):
        collect(tmp_path / "nowhere", STRUCTURES)


def test_an_uploaded_scan_of_a_similar_name_does_not_speak_for_the_run_s_case(
    run: Path, studies: Path, upload: Upload, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(blocks(vs=1), ["vs"])
    store = ReviewStore(studies)
    other = save(tmp_path / "other.nii.gz", np.ones(SHAPE, np.float32), np.eye(4))
    with store.edit() as model:
        store.add_image(model, other, "crossmoda2021_ldn_106_T2", {})  # named like the case
        store.add_image(model, other, "somebody_else", {})
    for image_id in ("crossmoda2021_ldn_106_T2", "somebody_else"):
        label = save(tmp_path / "label.nii.gz", blocks(cochlea=2), np.eye(4))
        store_upload(store, image_id, "final", label, {}, STRUCTURES)
    found = collect(studies, STRUCTURES)
    assert {case: label.image.name for case, label in found.items()} == {
        "crossmoda2021_ldn_106": f"{FIRST}.nii.gz",
        "somebody_else": "somebody_else.nii.gz",
    }
    review_command(run)
    assert "3 cases; 0 approved, 2 corrected, 0 flagged, 2 not reviewed yet" in capsys.readouterr().out


def test_a_scan_deleted_while_its_label_was_checked_is_named(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReviewStore(studies)

    def meanwhile(*arguments: Any) -> dict[str, Any]:
        with ReviewStore(studies).edit() as model:
            store.remove_image(model, FIRST)
        return {}

    monkeypatch.setattr(review, "started_from", meanwhile)
    with pytest.raises(CrossmodaError, match=f"image '{FIRST}': deleted in the meantime"):
        store_upload(store, FIRST, "final", save(tmp_path / "a.nii.gz", blocks(vs=1)), {}, STRUCTURES)
    assert not list(studies.glob("labels/final/*"))


def test_folders_of_labels_are_read_once_however_many_cases_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reads = ReviewStore(tmp_path), []
    for number in range(40):
        for place in (tmp_path, tmp_path / "labels" / "original", tmp_path / "labels" / "final"):
            place.mkdir(exist_ok=True)
            (place / f"case_{number}.v1.nii.gz").write_bytes(b"x")
    for name in ("scandir", "listdir"):
        read = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, read=read: reads.append(path) or read(path))
    objects = store.recover()["objects"]
    assert 0 < len(reads) < 20
    assert len(objects) == 40
    assert all(set(entry["labels"]) == {"original", "final"} for entry in objects.values())


def test_the_review_command_counts_what_was_said(
    run: Path, studies: Path, upload: Upload, capsys: pytest.CaptureFixture[str]
) -> None:
    upload(blocks(vs=1), ["vs"])
    review_command(run)
    assert "3 cases; 0 approved, 1 corrected, 0 flagged, 2 not reviewed yet" in capsys.readouterr().out


def test_a_taken_port_is_named_before_anything_starts(run: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(CrossmodaError, match=r"127.0.0.1:\d+: not free"):
            review.serve_command(run, port=taken.getsockname()[1])


@pytest.mark.parametrize("meta", ["approved", ["approved"], {"status": "approved", "editTime": 1e300}])
def test_what_somebody_wrote_into_the_file_by_hand_does_not_stop_the_review(
    studies: Path, meta: Any, upload: Upload
) -> None:
    upload(blocks(vs=1, cochlea=2), ["vs", "cochlea"])
    with ReviewStore(studies).edit() as model:
        model["objects"][FIRST]["labels"]["final"]["info"]["segmentationMeta"] = meta
    (found,) = collect(studies, STRUCTURES).values()
    assert found.status == ("approved" if isinstance(meta, dict) else "corrected")
    assert found.when == read_json(studies / "datastore_v2.json")["objects"][FIRST]["labels"]["final"]["info"]["saved"]


# --- What cases are ordered by, and scores ---


def test_a_round_s_measures_are_entered_with_the_scans_and_go_where_a_later_round_has_none(run: Path) -> None:
    folder, case = run / "round_0", "crossmoda2021_ldn_106"
    write_json(folder / "uncertainty" / "mutual_information.json", {case: 0.7})
    write_json(folder / "predictions" / "disagreement.json", {case: 0.1})  # of votes, which the members' goes before
    write_json(folder / "uncertainty" / "expected_change_ml.json", {case: 1.25, "crossmoda2022_etz_3": 0})
    publish(run, run / "review")
    objects = read_json(run / "review" / "datastore_v2.json")["objects"]
    wanted = {"uncertainty": 0.2, "disagreement": 0.7, "expected_change_ml": 1.25}
    assert {key: objects[FIRST]["image"]["info"][key] for key in wanted} == wanted
    assert objects["crossmoda2022_etz_3_hrT2"]["image"]["info"]["disagreement"] is None
    assert objects["crossmoda2022_etz_3_hrT2"]["image"]["info"]["expected_change_ml"] == 0
    write_round(run, 1, blocks(vs=1))
    publish(run, run / "review")
    info = read_json(run / "review" / "datastore_v2.json")["objects"][FIRST]["image"]["info"]
    assert (info["uncertainty"], info["disagreement"], info["expected_change_ml"]) == (0.2, None, None)


def test_what_breaks_a_rule_of_anatomy_is_told_with_the_pseudo_label_and_goes_with_a_later_round(run: Path) -> None:
    report = (
        {"rule": "far_vs_mm3", "found": 4530.2, "allowed": [0, 0]},
        {"rule": "cochleae", "found": 1, "allowed": [2, 2]},
    )
    broken = {"crossmoda2021_ldn_106": {"found": {}, "failed": list(report)}}
    write_json(run / "round_0" / "predictions" / "anatomy.json", broken)
    publish(run, run / "review")
    objects = read_json(run / "review" / "datastore_v2.json")["objects"]
    assert objects[FIRST]["labels"]["original"]["info"]["anatomy"] == [
        "vs of 4530.2 mm3 dropped far from both cochleae, 0 allowed",
        "number of cochleae 1, 2 allowed",
    ]
    assert objects["crossmoda2022_etz_3_hrT2"]["labels"]["original"]["info"]["anatomy"] == []
    write_round(run, 1, blocks(vs=1))
    publish(run, run / "review")
    again = read_json(run / "review" / "datastore_v2.json")["objects"][FIRST]["labels"]["original"]["info"]
    assert again["anatomy"] == []


def test_pseudo_labels_and_the_served_model_are_scored_against_final_labels(run: Path, upload: Upload) -> None:
    final = blocks(vs=1, cochlea=2)
    final[0, 1:3, 2:4] = 0  # half of the tumour, one voxel layer of 0.5 mm, was none
    upload(final, ["vs", "cochlea"])
    write_round(run, 1, blocks(cochlea=2))
    store, current = ReviewStore(run / "review"), read_json(run / "current.json")
    same = {"dice": 1.0, "assd_mm": 0.0}
    # 8 surface voxels against 4: 4 lie on the other's, 4 are 0.5 mm off, and back all 4 lie on it.
    assert pseudo_label_scores(store, STRUCTURES) == {
        FIRST: {"vs": {"dice": round(2 * 4 / 12, 6), "assd_mm": round(4 * 0.5 / 12, 4)}, "cochlea": same}
    }
    missed = {"dice": 0.0, "assd_mm": 350.0}
    assert model_scores(store, run, current, STRUCTURES) == {FIRST: {"vs": missed, "cochlea": same}}
    save(run / "round_1" / "predictions" / "crossmoda2021_ldn_106_Label.nii.gz", blocks(vs=1), np.eye(4))
    with pytest.raises(CrossmodaError, match=r"crossmoda2021_ldn_106_Label.nii.gz: lies on another grid than"):
        model_scores(store, run, current, STRUCTURES)
