"""The history of a folder under review for people: a table, a CSV file, a page, and what is wrong with it."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, sha256_of, write_text
from crossmoda.labels import FULL_NAMES, STRUCTURES
from crossmoda.self_training.review_audit import (
    COLUMNS,
    DATABASE_FILE,
    JOURNAL_FILE,
    JSON_COLUMNS,
    OUTBOX,
    damaged_lines,
    journal,
    read_events,
)
from crossmoda.self_training.review_events import FOUND, JUDGED, PUBLISHED, REFRESHED, SAVED, Event
from crossmoda.self_training.review_store import STORE_FILE, ReviewStore
from crossmoda.self_training.review_tags import TAG

SHOWN_ON_PAGE = 500  # newest events
PER_STRUCTURE = ("dice", "added_ml", "removed_ml")
_BY_HAND = ("who", "comment", "approved_by", "level", "status", "conflict", "strategy")


def history(studies: str | Path) -> list[Event]:
    """Return all events of a folder under review, oldest first, after entering what a killed process has left out.

    Raises:
        CrossmodaError: the folder is not one under review, or its database is damaged.
    """
    store = _open(studies)
    store.complete_history()
    try:
        return read_events(store.folder)
    except sqlite3.Error as error:
        raise CrossmodaError(f"{store.folder / DATABASE_FILE}: damaged ({error}); run audit with --rebuild") from error


def problems(studies: str | Path) -> list[str]:
    """Return what does not agree between the labels, ``datastore_v2.json``, the history and its database, a line each.

    Nothing is changed. An empty list means that every label has the bytes and the event that it should have, that
    every event's label is there, and that database and history tell the same.

    Raises:
        CrossmodaError: the folder is not one under review.
    """
    store = _open(studies)
    try:
        content = read_json(store.file)
        objects = content["objects"]
    except (CrossmodaError, KeyError, TypeError):
        return [f"{STORE_FILE}: damaged; start the server or run audit with --rebuild, which mend it"]
    told = {event["id"]: event for event in [*journal(store.folder), *content.get(OUTBOX, [])]}
    lines = [f"{JOURNAL_FILE}: line {number} is not an event" for number in damaged_lines(store.folder)]
    return [
        *lines,
        *_database_problems(store.folder, told),
        *_label_problems(store, objects, told),
        *_missing_files(store.folder, told.values()),
    ]


def _open(studies: str | Path) -> ReviewStore:
    if not (Path(studies) / STORE_FILE).is_file():
        raise CrossmodaError(f"{studies}: no {STORE_FILE} there; give the folder under review, e.g. RUN/review")
    return ReviewStore(studies)


def _database_problems(folder: Path, told: Mapping[str, Event]) -> Iterator[str]:
    try:
        rows = {event["id"]: event for event in read_events(folder)}
    except sqlite3.Error as error:
        yield f"{DATABASE_FILE}: damaged ({error})"
        return
    for key in {**told, **rows}:
        event = told.get(key) or rows[key]
        what = f"{event['event']} {event['image_id']} at {event['at']}"
        if key not in rows:
            yield f"{DATABASE_FILE}: lacks the event '{what}'"
        elif key not in told:
            yield f"{JOURNAL_FILE}: lacks the event '{what}', which {DATABASE_FILE} has"
        elif rows[key] != {name: value for name, value in told[key].items() if name in COLUMNS}:
            yield f"{DATABASE_FILE}: the event '{what}' differs from that in {JOURNAL_FILE}"


def _label_problems(store: ReviewStore, objects: Mapping[str, Any], told: Mapping[str, Event]) -> Iterator[str]:
    entered = set()
    for image_id, entry in objects.items():
        for tag, label in entry["labels"].items():
            info, path = label["info"], store.label_path(image_id, tag, label["ext"])
            name = f"labels/{tag}/{path.name}"
            entered.add(path)
            event = told.get((info.get("audit") or {}).get("event", ""))
            if not path.is_file():
                yield f"{name}: no such file, though {STORE_FILE} knows of it"
                continue
            digest = sha256_of(path)
            if info.get("sha256") not in (None, digest):
                yield f"{name}: its bytes are not those that {STORE_FILE} records; somebody has changed the file"
            if event is None:
                yield f"{name}: a label without an event"
            elif event.get("sha256") != digest:
                yield f"{name}: its bytes are not those of its event '{event['event']}' at {event['at']}"
    for path in sorted((store.folder / "labels").glob("*/*")):
        if TAG.fullmatch(path.parent.name) and path not in entered and not path.name.startswith("."):
            yield f"labels/{path.parent.name}/{path.name}: a file that {STORE_FILE} does not know"


def _missing_files(folder: Path, events: Iterable[Event]) -> Iterator[str]:
    """Yield the events whose label is neither among the labels nor among the deleted ones."""
    present = {sha256_of(path) for place in ("labels/*", ".deleted") for path in folder.glob(f"{place}/*.*")}
    newest_of_model: dict[str, Event] = {}
    kept = []
    for event in events:
        if event["event"] in (PUBLISHED, REFRESHED):  # a refreshed pseudo-label takes the place of the one before
            newest_of_model[event["image_id"]] = event
        elif event["event"] in (SAVED, FOUND):
            kept.append(event)
    for event in [*newest_of_model.values(), *kept]:
        if event.get("sha256") not in present:
            yield f"{event['image_id']}: the label '{event['event']}' at {event['at']} is nowhere in the folder"


def csv_text(events: Sequence[Event]) -> str:
    """Return events as CSV, one a line below a line of names; figures of structures have a column each."""
    structures = structures_in(events)
    plain = [name for name in COLUMNS if name not in PER_STRUCTURE]
    figures = [f"{figure}_{name}" for figure in PER_STRUCTURE for name in structures]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*plain, *figures], lineterminator="\n")
    writer.writeheader()
    for event in events:
        row = {name: _cell(name, event[name]) for name in plain if name in event}
        row |= {
            f"{figure}_{name}": event.get(figure, {}).get(name, "") for figure in PER_STRUCTURE for name in structures
        }
        writer.writerow(row)
    return stream.getvalue()


def _cell(name: str, value: Any) -> Any:
    """Return what a table cell shows; a spreadsheet would compute a text that begins like a formula."""
    if name in JSON_COLUMNS:
        value = "; ".join(map(str, value))
    if name in _BY_HAND and str(value).startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def structures_in(events: Iterable[Event]) -> list[str]:
    """Return the structures that events give figures of, in the project's order."""
    named = {name for event in events for name in event.get("dice", {})}
    return [name for name in STRUCTURES if name in named]


def table(events: Sequence[Event]) -> str:
    """Return events as a table for a terminal, newest last; what others did in the meantime stands below its event."""
    structures = structures_in(events)
    head = ["at (UTC)", "who", "event", "case", "tag", "round", "minutes", *(f"Dice {name}" for name in structures), ""]
    rows = [[*_shown(event), *_dice_texts(event, structures), _remark(event)] for event in events]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row, event in zip([head, *rows], [{}, *events], strict=True):
        lines.append("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"{'':21}conflict: {_one_line(said)}" for said in event.get("conflict", [])]
    return "\n".join(lines)


def _shown(event: Event) -> list[str]:
    minutes = f"{event['seconds'] / 60:.1f}" if "seconds" in event else ""
    values = (event.get(key, "") for key in ("who", "event", "case", "tag", "round"))
    return [event["at"][:19].replace("T", " "), *(_one_line(value) for value in values), minutes]


def _dice_texts(event: Event, structures: Sequence[str]) -> list[str]:
    return [f"{event['dice'][name]:.3f}" if name in event.get("dice", {}) else "" for name in structures]


def _remark(event: Event) -> str:
    said = [event.get(key, "") for key in ("status", "level", "comment")]
    replaced = f"former: {event['replaced']}" if "replaced" in event else ""
    return _one_line(", ".join(text for text in [*said, replaced] if text))


def _one_line(text: Any) -> str:
    """Return people's text without what would move a terminal's cursor, at most 80 characters of it."""
    plain = "".join(character if character.isprintable() else " " for character in str(text))
    return plain if len(plain) <= 80 else f"{plain[:79]}\u2026"


def totals(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return what each person did, sorted by name.

    Returns:
        For each: ``who``, ``cases`` (saved or judged), ``saves``, ``verdicts``, ``conflicts``, ``minutes`` (from each
        hand-out to the last save that followed; None where nothing was handed out) and ``dice``: structure -> mean
        over saves of the Dice between a label and the one that it began as.
    """
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event["event"] in (SAVED, JUDGED):
            found[event.get("who", "")].append(event)
    return [_total(who, found[who]) for who in sorted(found)]


def _total(who: str, events: Sequence[Event]) -> dict[str, Any]:
    spans: dict[tuple[str, str], float] = {}
    for event in events:
        if "seconds" in event:
            span = (event["image_id"], event["handed_out"])
            spans[span] = max(event["seconds"], spans.get(span, 0.0))
    dice: dict[str, list[float]] = defaultdict(list)
    for event in events:
        for name, value in event.get("dice", {}).items():
            dice[name].append(value)
    return {
        "who": who,
        "cases": len({event["image_id"] for event in events}),
        "saves": sum(event["event"] == SAVED for event in events),
        "verdicts": sum(event["event"] == JUDGED for event in events),
        "conflicts": sum("conflict" in event for event in events),
        "minutes": sum(spans.values()) / 60 if spans else None,
        "dice": {name: sum(values) / len(values) for name, values in dice.items()},
    }


def page(events: Sequence[Event], csv_address: str = "") -> str:
    """Return the history as one HTML page without outside references: totals by person, then the newest events.

    Args:
        events: all of them, oldest first.
        csv_address: where the page's reader finds all events as CSV, if anywhere.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("crossmoda.self_training", "."), PackageLoader("crossmoda.evaluation.report", ".")]
        ),
        autoescape=True,  # names and comments come from people
        undefined=StrictUndefined,
        lstrip_blocks=True,
        trim_blocks=True,
    )
    structures = structures_in(events)
    shown = [
        {
            "cells": _shown(event),
            "dice": _dice_texts(event, structures),
            "mL": _millilitres(event, structures),
            "remarks": _remarks(event),
        }
        for event in reversed(events[-SHOWN_ON_PAGE:])
    ]
    return environment.get_template("review_history.html").render(
        title="History of the review",
        shown=shown,
        number=len(events),
        totals=totals(events),
        structures=structures,
        names=FULL_NAMES,
        csv_address=csv_address,
    )


def _remarks(event: Event) -> list[tuple[str, str]]:
    """Return what else is to be said of an event: kind (empty for the usual) and text."""
    verdict = ", ".join(event[key] for key in ("status", "level", "comment") if event.get(key))
    former = f"the former label is {event['replaced']}" if "replaced" in event else ""
    usual = [("", text) for text in (verdict, former) if text]
    return usual + [("conflict", said) for said in event.get("conflict", [])]


def _millilitres(event: Event, structures: Sequence[str]) -> list[str]:
    if "added_ml" not in event:
        return [""] * len(structures)
    return [
        f"+{event['added_ml'].get(name, 0):.3f} \u2212{event['removed_ml'].get(name, 0):.3f}" for name in structures
    ]


def audit_command(studies: str | Path, csv_file: str = "", check: bool = False, rebuild: bool = False) -> int:
    """Print the history of a folder under review; write, check or rebuild it where asked.

    Args:
        studies: the folder under review.
        csv_file: to write; none by default.
        check: print what does not agree instead of the table.
        rebuild: first make the database anew from the files.

    Returns:
        1 if the check found something, else 0.

    Raises:
        CrossmodaError: the folder is not one under review, or cannot be written to.
    """
    store = _open(studies)
    if rebuild:
        store.rebuild_history()
        print(f"{store.folder / DATABASE_FILE}: made anew, {len(history(studies))} events")
    found = problems(studies) if check else []
    if check:
        print("\n".join([*found, f"{studies}: {len(found)} problems" if found else f"{studies}: all agrees"]))
    if csv_file:
        write_text(csv_file, csv_text(history(studies)))
        print(f"written: {csv_file}")
    if not (check or rebuild or csv_file):
        print(table(history(studies)))
    return 1 if found else 0
