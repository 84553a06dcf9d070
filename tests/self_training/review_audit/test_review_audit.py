"""The history of a folder under review: what is recorded, how it is rebuilt, and what a kill cannot lose."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from crossmoda.files import read_json, sha256_of, write_json
from crossmoda.self_training import review_audit, review_store
from crossmoda.self_training.review import publish, store_upload
from crossmoda.self_training.review_audit import DATABASE_FILE, JOURNAL_FILE, journal
from crossmoda.self_training.review_store import STORE_FILE, ReviewStore

from .conftest import (
    IMAGE,
    STRUCTURES,
    Upload,
    a_full_history,
    events,
    hand_out,
    info_of,
    judge,
    label_map,
    save,
    write_round,
)


def test_publishing_and_refreshing_pseudo_labels_is_recorded_with_model_and_round(run: Path, studies: Path) -> None:
    assert [(event["event"], event["case"], event["round"]) for event in events(studies)] == [
        ("published", "case_a", 0),
        ("published", "case_b", 0),
    ]
    write_round(run, 1, label_map(vs=3))
    publish(run, studies)
    first, second = events(studies, "refreshed")
    assert (first["image_id"], second["image_id"]) == ("case_a_hrT2", "case_b_hrT2")
    assert (first["tag"], first["round"], first["model"]) == ("original", 1, "round_1/segmenter/model.pt")
    assert first["sha256"] == sha256_of(studies / "labels" / "original" / f"{IMAGE}.nii.gz")


def test_a_save_tells_who_from_which_model_how_long_and_how_much_changed(studies: Path, upload: Upload) -> None:
    hand_out(studies, "anna")
    upload(label_map(vs=6, cochlea=5))  # of 8 tumour voxels 2 are removed, to 4 of the cochlea 1 is added
    original = studies / "labels" / "original" / f"{IMAGE}.nii.gz"
    handed_out, saved = events(studies)[-2:]
    assert (handed_out["event"], handed_out["who"], handed_out["strategy"]) == ("handed out", "anna", "uncertainty")
    assert (saved["event"], saved["who"], saved["case"], saved["tag"]) == ("saved", "anna", "case_a", "final")
    assert (saved["model"], saved["round"]) == ("round_0/segmenter/model.pt", 0)
    assert (saved["start_tag"], saved["start_sha256"]) == ("original", sha256_of(original))
    assert saved["sha256"] == sha256_of(studies / "labels" / "final" / f"{IMAGE}.nii.gz")
    assert saved["handed_out"] == handed_out["at"]
    assert 0 <= saved["seconds"] < 60
    assert saved["dice"] == {"vs": pytest.approx(12 / 14, abs=1e-4), "cochlea": pytest.approx(8 / 9, abs=1e-4)}
    assert saved["added_ml"] == {"vs": 0.0, "cochlea": 0.001}
    assert saved["removed_ml"] == {"vs": 0.002, "cochlea": 0.0}
    assert "conflict" not in saved
    assert "replaced" not in saved


def test_a_pseudo_label_refreshed_during_the_work_is_still_what_the_save_is_compared_with(
    run: Path, studies: Path, upload: Upload
) -> None:
    begun = info_of(studies, "original")["sha256"]
    hand_out(studies, "anna")
    write_round(run, 1, label_map(vs=1))
    publish(run, studies)
    upload(label_map(vs=6))
    (saved,) = events(studies, "saved")
    assert (saved["start_sha256"], saved["round"]) == (begun, 0)
    assert saved["dice"]["vs"] == pytest.approx(12 / 14, abs=1e-4)
    assert len(list((studies / ".deleted").glob("*.nii.gz"))) == 1  # nobody had begun the other case


def test_the_second_of_two_annotators_is_told_of_the_first(studies: Path, upload: Upload) -> None:
    hand_out(studies, "anna")
    hand_out(studies, "bert")
    upload(label_map(vs=6), "anna")
    upload(label_map(vs=2), "bert")
    last = events(studies, "saved")[-1]
    assert last["conflict"] == [f"anna saved final (now version_1) at {info_of(studies, 'version_1')['saved']}"]
    assert last["replaced"] == "version_1"
    assert last["start_tag"] == "original"  # what bert was handed, not what he replaced
    assert last["dice"]["vs"] == pytest.approx(4 / 10)
    assert info_of(studies, "final")["conflict"] == last["conflict"]
    assert "conflict" not in events(studies, "saved")[0]
    kept = [
        np.asarray(nib.load(studies / "labels" / tag / f"{IMAGE}.nii.gz").dataobj) for tag in ("version_1", "final")
    ]
    np.testing.assert_array_equal(kept[0], label_map(vs=6))
    np.testing.assert_array_equal(kept[1], label_map(vs=2))


def test_who_saves_again_or_after_seeing_the_other_s_label_has_no_conflict(studies: Path, upload: Upload) -> None:
    hand_out(studies, "anna")
    upload(label_map(vs=6), "anna")
    upload(label_map(vs=5), "anna")
    again = events(studies, "saved")[-1]
    assert (again["start_tag"], again["dice"]["vs"]) == ("final", pytest.approx(10 / 11, abs=1e-4))
    hand_out(studies, "bert")
    upload(label_map(vs=4), "bert")
    assert all("conflict" not in event for event in events(studies, "saved"))


def test_a_save_over_a_label_that_nobody_handed_out_is_a_conflict(studies: Path, upload: Upload) -> None:
    upload(label_map(vs=6), "anna")
    upload(label_map(vs=5), "bert")
    assert events(studies, "saved")[-1]["conflict"][0].startswith("anna saved final (now version_1)")


def test_people_who_sign_in_are_told_apart_though_their_slicers_give_the_same_name(
    studies: Path, upload: Upload
) -> None:
    def given_to(user: str, strategy: str) -> None:
        with ReviewStore(studies).edit() as model:
            info = model["objects"][IMAGE]["image"]["info"]
            info.setdefault("strategy", {})[strategy] = {"ts": 1767225600, "client_id": "user-xyz", "user": user}

    given_to("anna", "first")
    upload(label_map(vs=6), "user-xyz", user="anna")
    given_to("bert", "random")  # who begins with anna's label
    upload(label_map(vs=5), "user-xyz", user="anna")
    upload(label_map(vs=2), "user-xyz", user="bert")
    last = events(studies, "saved")[-1]
    assert (last["who"], last["start_sha256"]) == ("bert", info_of(studies, "version_1")["sha256"])
    assert last["handed_out"] == events(studies, "handed out")[-1]["at"]
    assert last["conflict"] == [f"anna saved final (now version_2) at {info_of(studies, 'version_2')['saved']}"]


def test_a_verdict_in_the_meantime_is_a_conflict(studies: Path, upload: Upload) -> None:
    hand_out(studies, "anna")
    judge(studies, "original", "approved", "Dr. Berg")
    upload(label_map(vs=6), "anna")
    assert events(studies, "saved")[-1]["conflict"] == ["Dr. Berg said 'approved' of original"]


def test_every_verdict_is_kept_also_those_that_were_replaced(studies: Path, upload: Upload) -> None:
    upload(label_map(vs=6))
    judge(studies, "final", "flagged", "Dr. Berg", level="hard", comment="tip of the cochlea?")
    judge(studies, "final", "approved", "Dr. Berg")
    judge(studies, "final", "flagged", "Dr. Tal")
    first, second, third = events(studies, "judged")
    assert (first["status"], first["level"], first["comment"]) == ("flagged", "hard", "tip of the cochlea?")
    assert (first["who"], first["approved_by"], first["tag"]) == ("Dr. Berg", "Dr. Berg", "final")
    assert first["sha256"] == info_of(studies, "final")["sha256"]
    assert second["status"] == "approved"
    assert "conflict" not in second
    assert third["conflict"] == [f"Dr. Berg said 'approved' of final at {second['at']}"]


def test_a_second_reviewer_of_the_same_mind_is_no_conflict_and_the_verdict_remains_its_author_s(
    studies: Path, upload: Upload
) -> None:
    upload(label_map(vs=6))
    judge(studies, "final", "flagged", "Dr. Berg", level="easy")
    with ReviewStore(studies).edit() as model:  # Dr. Tal changes the level, which the Reviewer sends for every version
        info = model["objects"][IMAGE]["labels"]["final"]["info"]
        info["segmentationMeta"] = {**info["segmentationMeta"], "level": "hard"}
        info["judged_by"] = "Dr. Tal"
    last = events(studies, "judged")[-1]
    assert (last["who"], last["approved_by"], last["status"], last["level"]) == (
        *("Dr. Tal", "Dr. Berg", "flagged", "hard"),
    )
    assert "conflict" not in last
    hand_out(studies, "bert")
    judge(studies, "final", "approved", "Dr. Berg")
    upload(label_map(vs=5), "bert")
    assert "Dr. Berg said 'approved' of version_1" in events(studies, "saved")[-1]["conflict"]


def test_deletions_are_recorded(studies: Path, upload: Upload) -> None:
    upload(label_map(vs=6))
    digest = info_of(studies, "final")["sha256"]
    store = ReviewStore(studies)
    with store.edit(who="Dr. Berg") as model:
        store.remove_label(model, IMAGE, "final")
    with store.edit() as model:
        store.remove_image(model, IMAGE)
    label, original, image = events(studies)[-3:]
    assert (label["event"], label["tag"], label["sha256"]) == ("label deleted", "final", digest)
    assert (label["who"], image.get("who")) == ("Dr. Berg", None)
    assert (original["event"], original["tag"]) == ("label deleted", "original")
    assert (image["event"], image["image_id"], image["case"]) == ("scan deleted", IMAGE, "case_a")


def test_a_client_cannot_write_the_history_s_facts(studies: Path, upload: Upload) -> None:
    upload(label_map(vs=6), audit={"event": "x"}, conflict=["none"], seconds=1, replaced="version_9", handed_out="x")
    saved = events(studies, "saved")[-1]
    assert {"conflict", "seconds", "replaced", "handed_out"}.isdisjoint(saved)
    assert len(saved["id"]) == 32


def rows_of(studies: Path) -> list[Any]:
    with sqlite3.connect(studies / DATABASE_FILE) as database:
        return database.execute("SELECT rowid, * FROM events ORDER BY rowid").fetchall()


def test_the_database_is_in_write_ahead_mode(studies: Path) -> None:
    with sqlite3.connect(studies / DATABASE_FILE) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_database_can_be_made_anew_from_the_files(studies: Path, upload: Upload) -> None:
    a_full_history(studies, upload)
    before = rows_of(studies)
    assert len(before) == 8  # two pseudo-labels published, two hand-outs, three saves, a verdict
    for name in (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm"):
        (studies / name).unlink(missing_ok=True)
    ReviewStore(studies).rebuild_history()
    assert rows_of(studies) == before
    ReviewStore(studies).rebuild_history()
    assert rows_of(studies) == before


def test_what_the_labels_themselves_tell_survives_the_loss_of_all_history(studies: Path, upload: Upload) -> None:
    a_full_history(studies, upload)
    before = {event["id"]: event for event in events(studies) if event["event"] != "handed out"}
    for name in (JOURNAL_FILE, DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm"):
        (studies / name).unlink(missing_ok=True)
    ReviewStore(studies).rebuild_history()
    assert {event["id"]: event for event in events(studies)} == before
    assert [event["at"] for event in events(studies)] == sorted(event["at"] for event in before.values())


def test_a_damaged_database_is_kept_aside_and_made_anew(studies: Path, upload: Upload) -> None:
    (studies / DATABASE_FILE).write_bytes(b"not a database" * 100)
    upload(label_map(vs=6))
    assert [event["event"] for event in events(studies)] == ["published", "published", "saved"]
    assert len(list(studies.glob(f"{DATABASE_FILE}.damaged-*"))) == 1


def test_a_line_cut_by_a_power_failure_is_completed(studies: Path, upload: Upload) -> None:
    upload(label_map(vs=6))
    whole = (studies / JOURNAL_FILE).read_bytes()
    (studies / JOURNAL_FILE).write_bytes(whole[:-40])
    ReviewStore(studies).recover()
    assert (studies / JOURNAL_FILE).read_bytes() == whole
    assert len(events(studies, "saved")) == 1


def test_a_history_that_cannot_be_written_makes_no_save_fail_and_is_completed_later(
    studies: Path, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(review_audit, "append", full)
        assert upload(label_map(vs=6), "anna") == "final"
        assert upload(label_map(vs=5), "bert") == "final"
    assert events(studies, "saved") == []
    upload(label_map(vs=4), "carla")
    assert [event["who"] for event in events(studies, "saved")] == ["anna", "bert", "carla"]
    assert journal(studies) == events(studies)


def test_a_process_killed_between_save_and_history_loses_neither(studies: Path, tmp_path: Path) -> None:
    file = save(tmp_path / "label.nii.gz", label_map(vs=6))

    def save_and_die() -> None:
        review_store.record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        store_upload(ReviewStore(studies), IMAGE, "final", file, {"client_id": "anna"}, STRUCTURES)

    process = multiprocessing.get_context("fork").Process(target=save_and_die)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert events(studies, "saved") == []
    ReviewStore(studies).recover()
    (saved,) = events(studies, "saved")
    assert (saved["who"], saved["sha256"]) == ("anna", info_of(studies, "final")["sha256"])


def test_labels_from_before_there_was_a_history_get_their_events(studies: Path, upload: Upload) -> None:
    upload(label_map(vs=6))
    for name in (JOURNAL_FILE, DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm"):
        (studies / name).unlink(missing_ok=True)
    content = read_json(studies / STORE_FILE)
    content.pop("outbox")
    for entry in content["objects"].values():
        entry.pop("work", None)
        for label in entry["labels"].values():
            label["info"] = {"saved": "2025-01-02T03:04:05+00:00"} | {
                key: value for key, value in label["info"].items() if key in ("sha256", "name", "values", "client_id")
            }
    write_json(studies / STORE_FILE, content)
    ReviewStore(studies).recover()
    (saved,) = events(studies, "saved")
    assert (saved["who"], saved["at"]) == ("anna", "2025-01-02T03:04:05+00:00")


def test_a_label_put_there_by_hand_is_recorded_as_found(studies: Path, tmp_path: Path) -> None:
    (studies / "labels" / "final").mkdir(parents=True)
    shutil.copyfile(save(tmp_path / "x.nii.gz", label_map(vs=1)), studies / "labels" / "final" / f"{IMAGE}.nii.gz")
    ReviewStore(studies).recover()
    (found,) = events(studies, "found")
    assert (found["tag"], found["sha256"]) == ("final", sha256_of(studies / "labels" / "final" / f"{IMAGE}.nii.gz"))
    assert "who" not in found


def test_a_comment_of_any_length_is_kept(studies: Path) -> None:
    judge(studies, "original", "flagged", "Dr. Berg", comment="x" * 200_000)
    judge(studies, "original", "approved", "Dr. Berg")
    assert [len(event.get("comment", "")) for event in events(studies, "judged")] == [200_000, 0]
    assert len(journal(studies)) == 4


def test_eight_savers_at_the_same_time_are_all_recorded(
    studies: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = save(tmp_path / "label.nii.gz", label_map(vs=6))

    def save_thrice(name: str) -> None:
        for _ in range(3):
            store_upload(ReviewStore(studies), IMAGE, "final", file, {"client_id": name}, STRUCTURES)

    names = [f"reader-{number}" for number in range(8)]
    savers = [multiprocessing.get_context("fork").Process(target=save_thrice, args=(name,)) for name in names]
    for saver in savers:
        saver.start()
    for saver in savers:
        saver.join(120)
    assert [saver.exitcode for saver in savers] == [0] * 8
    assert "history is behind" not in capfd.readouterr().err  # what sqlite3 would be blamed for
    assert sorted(event["who"] for event in events(studies, "saved")) == sorted(names * 3)
    assert len(list((studies / "labels").glob(f"version_*/{IMAGE}.nii.gz"))) == 23
    assert journal(studies) == events(studies)
