"""The history as people see it: table, CSV, page, and what the check finds."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from crossmoda.__main__ import main
from crossmoda.self_training.review_audit import DATABASE_FILE, JOURNAL_FILE
from crossmoda.self_training.review_history import csv_text, history, page, problems, table, totals
from crossmoda.self_training.review_store import STORE_FILE

from .conftest import IMAGE, Upload, a_full_history, hand_out, judge, label_map


def saved(who: str, image_id: str, seconds: float | None, dice: float, **facts: Any) -> dict[str, Any]:
    timed = {} if seconds is None else {"seconds": seconds, "handed_out": facts.pop("handed_out", "2026-01-01T08:00")}
    facts = {"event": "saved", "who": who, "image_id": image_id, "case": image_id, "tag": "final", **timed, **facts}
    return {
        "id": f"{who}{image_id}{seconds}{dice}",
        "at": "2026-01-01T09:00:00.000+00:00",
        "dice": {"vs": dice},
        **facts,
    }


def test_totals_count_cases_minutes_and_mean_dice_by_person() -> None:
    events = [
        saved("anna", "a", 60.0, 0.9),
        saved("anna", "a", 180.0, 1.0),  # the same hand-out goes on: 180 s in all
        saved("anna", "b", 120.0, 0.8, conflict=["bert saved final"]),
        {"event": "judged", "who": "Dr. Berg", "image_id": "a", "status": "approved"},
        {"event": "published", "image_id": "c"},
    ]
    berg, anna = totals(events)
    assert (anna["who"], anna["cases"], anna["saves"], anna["verdicts"], anna["conflicts"]) == ("anna", 2, 3, 0, 1)
    assert anna["minutes"] == pytest.approx(5.0)
    assert anna["dice"] == {"vs": pytest.approx(0.9)}
    assert (berg["who"], berg["cases"], berg["verdicts"], berg["minutes"], berg["dice"]) == ("Dr. Berg", 1, 1, None, {})


def test_the_command_prints_events_newest_last_and_conflicts_below_theirs(
    studies: Path, upload: Upload, capsys: pytest.CaptureFixture[str]
) -> None:
    hand_out(studies, "anna")
    hand_out(studies, "bert", "first")
    upload(label_map(vs=6), "anna")
    upload(label_map(vs=5), "bert")
    assert main(["audit", str(studies)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert re.match(r"at \(UTC\) +who +event +case +tag +round +minutes +Dice vs +Dice cochlea$", lines[0])
    assert re.match(r"[0-9-]+ [0-9:]+ +published +case_a +original +0$", lines[1])
    assert re.match(r"[0-9-]+ [0-9:]+ +bert +saved +case_a +final +0 +0.0 +0.769 +1.000 +former: version_1$", lines[-2])
    assert re.match(r" +conflict: anna saved final \(now version_1\) at ", lines[-1])


def test_people_s_text_cannot_move_the_terminal_s_cursor() -> None:
    events = [{"id": "1", "at": "2026-01-01T00:00:00", "event": "judged", "image_id": "a", "comment": "ok\n\x1b[2Jx"}]
    assert "\x1b" not in table(events)
    assert len(table(events).splitlines()) == 2


def test_the_csv_file_holds_every_event_with_a_column_for_each_structure_s_figures(
    studies: Path, upload: Upload, tmp_path: Path
) -> None:
    a_full_history(studies, upload)
    assert main(["audit", str(studies), "--csv", str(tmp_path / "history.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "history.csv").open(encoding="utf-8", newline="")))
    assert [row["event"] for row in rows] == ["published"] * 2 + ["handed out"] * 2 + ["saved"] * 2 + [
        "judged",
        "saved",
    ]
    assert (rows[4]["dice_vs"], rows[4]["added_ml_vs"], rows[4]["removed_ml_vs"]) == ("0.8571", "0.0", "0.002")
    assert rows[5]["conflict"].startswith("anna saved final (now version_1)")
    assert rows[6]["comment"] == '"; DROP TABLE events; -- \u00e9'


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+1", "-1"])
def test_a_spreadsheet_computes_nothing_from_a_comment(text: str) -> None:
    event = {"id": "1", "at": "2026", "event": "judged", "image_id": "a", "comment": text, "who": text}
    (row,) = csv.DictReader(io.StringIO(csv_text([event])))
    assert (row["comment"], row["who"]) == (f"'{text}", f"'{text}")


def test_the_page_shows_people_and_events_and_escapes_what_people_wrote(studies: Path, upload: Upload) -> None:
    upload(label_map(vs=6), "<img src=x onerror=alert(1)>")
    judge(studies, "final", "flagged", "Dr. <b>Berg</b>", comment="<script>alert(1)</script>")
    text = page(history(studies), "history.csv")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "Dr. &lt;b&gt;Berg&lt;/b&gt;" in text
    assert "<script>alert(1)" not in text
    assert "<img src=x" not in text
    assert "0.857" in text
    assert "\u22120.143" in text or "-0.143" in text  # the change of the mean Dice
    assert "+0.000 \u22120.002" in text  # mL of the tumour
    assert "4 events" in text
    assert not re.search(r"(src|href)=[\"'](?!history.csv|#)", text)  # no outside references


def test_a_page_without_events_says_so() -> None:
    assert "Nobody has saved or judged a label yet." in page([])


def check(studies: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    status = main(["audit", str(studies), "--check"])
    return status, capsys.readouterr().out.strip().splitlines()


def test_the_check_of_an_untouched_folder_finds_nothing(
    studies: Path, upload: Upload, capsys: pytest.CaptureFixture[str]
) -> None:
    a_full_history(studies, upload)
    assert check(studies, capsys) == (0, [f"{studies}: all agrees"])


def test_the_check_names_changed_and_missing_and_unknown_labels(
    studies: Path, upload: Upload, capsys: pytest.CaptureFixture[str]
) -> None:
    a_full_history(studies, upload)
    labels = studies / "labels"
    with (labels / "final" / f"{IMAGE}.nii.gz").open("ab") as stream:
        stream.write(b"x")
    (labels / "version_1" / f"{IMAGE}.nii.gz").unlink()
    (labels / "version_7").mkdir()
    (labels / "version_7" / f"{IMAGE}.nii.gz").write_bytes(b"by hand")
    status, lines = check(studies, capsys)
    assert status == 1
    named = {line.split(":")[0] for line in lines}
    assert {f"labels/{tag}/{IMAGE}.nii.gz" for tag in ("final", "version_1", "version_7")} <= named
    assert any("somebody has changed the file" in line for line in lines)
    assert any(line.startswith(f"{IMAGE}: the label 'saved'") and "is nowhere" in line for line in lines)


def test_the_check_compares_the_database_with_the_history_and_a_rebuild_mends_it(
    studies: Path, upload: Upload, capsys: pytest.CaptureFixture[str]
) -> None:
    a_full_history(studies, upload)
    with sqlite3.connect(studies / DATABASE_FILE) as database:
        database.execute("UPDATE events SET who = 'nobody' WHERE event = 'judged'")
        database.execute("DELETE FROM events WHERE who = 'carla'")
    status, lines = check(studies, capsys)
    assert (status, len(lines)) == (1, 3)
    assert "lacks the event 'saved" in "".join(lines)
    assert "differs from that in history.jsonl" in "".join(lines)
    assert main(["audit", str(studies), "--rebuild", "--check"]) == 0
    assert "8 events" in capsys.readouterr().out


def test_the_check_of_a_lost_history_names_every_event(
    studies: Path, upload: Upload, capsys: pytest.CaptureFixture[str]
) -> None:
    a_full_history(studies, upload)
    (studies / JOURNAL_FILE).unlink()
    status, lines = check(studies, capsys)
    assert status == 1
    assert sum(line.startswith(f"{JOURNAL_FILE}: lacks") for line in lines) == 7  # the last one is in the outbox


def test_the_check_names_a_damaged_store_and_changes_nothing(studies: Path) -> None:
    (studies / STORE_FILE).write_text("{")
    (line,) = problems(studies)
    assert line.startswith(f"{STORE_FILE}: damaged")
    assert (studies / STORE_FILE).read_text() == "{"


def test_another_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(tmp_path)]) == 1
    assert f"{tmp_path}: no {STORE_FILE} there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
