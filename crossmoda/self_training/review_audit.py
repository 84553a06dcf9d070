"""The history of a folder under review: ``history.jsonl``, one event a line, and ``audit.sqlite``, made from it.

The lines are the record; the database is a copy that can be asked questions, and can be made anew at any time. The
store writes both while it holds its lock, see ``ReviewStore``; reading needs no lock.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review_events import Event, events_in_labels

logger = logging.getLogger(__name__)

JOURNAL_FILE = "history.jsonl"
DATABASE_FILE = "audit.sqlite"
OUTBOX = "outbox"  # in datastore_v2.json: events of the last change, which the history may still lack
LOCK_SECONDS = 60.0
COLUMNS = {
    "id": "TEXT PRIMARY KEY",
    "at": "TEXT NOT NULL",  # ISO 8601, UTC
    "who": "TEXT",  # user, else the client's name for itself
    "event": "TEXT NOT NULL",
    "case": "TEXT",
    "image_id": "TEXT NOT NULL",
    "tag": "TEXT",
    "replaced": "TEXT",  # the version that the former label of this tag became
    "model": "TEXT",
    "round": "INTEGER",
    "sha256": "TEXT",  # of the label file
    "start_tag": "TEXT",  # the label that the annotator began with
    "start_sha256": "TEXT",
    "handed_out": "TEXT",  # when the annotator was given the case
    "seconds": "REAL",  # from then to the save
    "dice": "TEXT",  # JSON, structure -> Dice between the label and the one that it began as
    "added_ml": "TEXT",  # JSON, structure -> mL
    "removed_ml": "TEXT",  # JSON, structure -> mL
    "strategy": "TEXT",
    "status": "TEXT",
    "level": "TEXT",
    "comment": "TEXT",
    "approved_by": "TEXT",
    "conflict": "TEXT",  # JSON, what others said of the case in the meantime, a line each
}
JSON_COLUMNS = ("dice", "added_ml", "removed_ml", "conflict")
_TAIL_BYTES = 1 << 16


def record(folder: Path, missing: Sequence[Event]) -> None:
    """Enter events into the history; what cannot be written now is warned of, stays in the outbox and is not lost.

    Args:
        folder: of the store, whose lock is held if there are events.
        missing: those that the history lacks, see ``unsent``.
    """
    try:
        if missing:
            append(folder, missing)
        follow(folder)
    except (OSError, sqlite3.Error) as error:
        logger.warning("%s: the history is behind (%s); it is completed at the next change", folder, error)


def unsent(folder: Path, events: Sequence[Event]) -> list[Event]:
    """Return those events that ``history.jsonl`` does not hold; they are entered in order, so the last tells of all."""
    try:
        if not events or _last_id(folder / JOURNAL_FILE) == events[-1]["id"]:
            return []
        known = {event["id"] for event in journal(folder)}
    except OSError:  # not readable now: they stay in the outbox
        return list(events)
    return [event for event in events if event["id"] not in known]


def append(folder: Path, events: Iterable[Event]) -> None:
    """Add events to ``history.jsonl`` and put them onto the disk; a line left unfinished by a power cut is cut off."""
    lines = "".join(json.dumps(event, ensure_ascii=False, sort_keys=True) + "\n" for event in events)
    file = folder / JOURNAL_FILE
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(handle, "r+b") as stream:
        stream.truncate(_end_of_lines(stream))
        stream.seek(0, os.SEEK_END)
        stream.write(lines.encode())
        stream.flush()
        os.fsync(stream.fileno())


def journal(folder: Path) -> list[Event]:
    """Return all events of ``history.jsonl``, oldest first; lines that are not events are left out."""
    file = folder / JOURNAL_FILE
    return list(_parsed(file.read_bytes())) if file.is_file() else []


def damaged_lines(folder: Path) -> list[int]:
    """Return the numbers, from 1, of the lines of ``history.jsonl`` that are not events."""
    file = folder / JOURNAL_FILE
    lines = file.read_bytes().splitlines() if file.is_file() else []
    return [number for number, line in enumerate(lines, start=1) if _event_in(line) is None]


def follow(folder: Path) -> None:
    """Enter into the database what ``history.jsonl`` holds beyond what it has read; a damaged database is made anew.

    Raises:
        OSError: the file cannot be read.
        sqlite3.Error: the database cannot be written.
    """
    file = folder / JOURNAL_FILE
    if not file.is_file():
        return
    try:
        _follow(folder, file)
    except sqlite3.DatabaseError as error:
        if isinstance(
            error, sqlite3.OperationalError
        ):  # busy, or the disk is full: nothing that is wrong with the file
            raise
        _set_aside(folder)
        _follow(folder, file)


def rebuild(folder: Path, model: Mapping[str, Any]) -> None:
    """Make the database anew from ``history.jsonl``, completed by what the labels tell.

    Until it is done, readers see the old one.

    Args:
        folder: of the store, whose lock is held.
        model: the store's content.

    Raises:
        CrossmodaError: the history or the database cannot be written.
    """
    try:
        known = {event["id"] for event in journal(folder)}
        told = [*model.get(OUTBOX, []), *events_in_labels(model)]
        missing = {event["id"]: event for event in told if event["id"] not in known}
        if missing:
            append(folder, sorted(missing.values(), key=lambda event: event["at"]))
        file = folder / JOURNAL_FILE
        content = file.read_bytes() if file.is_file() else b""
        _mending(folder, lambda: _make_anew(folder, content))
    except (OSError, sqlite3.Error) as error:
        raise CrossmodaError(
            f"{folder / DATABASE_FILE}: cannot be written ({error}); free space or close it"
        ) from error


def read_events(folder: Path, newest: int | None = None) -> list[Event]:
    """Return the database's rows, oldest first, as they were entered: empty columns are left out.

    Args:
        folder: of the store.
        newest: only so many, the newest ones; all by default.

    Raises:
        sqlite3.Error: the database is damaged.
    """
    if not (folder / DATABASE_FILE).is_file():
        return []
    limit = -1 if newest is None else newest
    with _connected(folder) as database:
        rows = database.execute(f"SELECT {_names()} FROM events ORDER BY rowid DESC LIMIT ?", (limit,)).fetchall()
    return [_event_of(row) for row in reversed(rows)]


def _mending(folder: Path, work: Callable[[], None]) -> None:
    """Do ``work`` on the database, once more with a new one if the file turns out damaged."""
    try:
        work()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # busy, or the disk is full: nothing wrong with the file
            raise
        _set_aside(folder)
        work()


def _follow(folder: Path, file: Path) -> None:
    with _connected(folder) as database:
        read = _read_so_far(database)
        if file.stat().st_size <= read:
            return
        with file.open("rb") as stream:
            stream.seek(read)
            content = stream.read()
        with database:  # one transaction
            _insert(database, content, read)


def _make_anew(folder: Path, content: bytes) -> None:
    with _connected(folder) as database:
        database.execute("BEGIN IMMEDIATE")
        with database:
            database.execute("DELETE FROM events")
            _insert(database, content, 0)


def _insert(database: sqlite3.Connection, content: bytes, read: int) -> None:
    complete = content[: content.rfind(b"\n") + 1]
    marks = ", ".join("?" * len(COLUMNS))
    rows = [_row_of(event) for event in _parsed(complete)]
    database.executemany(f"INSERT OR IGNORE INTO events ({_names()}) VALUES ({marks})", rows)
    database.execute("UPDATE progress SET bytes = ?", (read + len(complete),))


@contextmanager
def _connected(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / DATABASE_FILE, timeout=LOCK_SECONDS)) as database:
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            _create(database)
        yield database


def _create(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
    described = ", ".join(f'"{name}" {kind}' for name, kind in COLUMNS.items())
    with database:
        database.execute(f"CREATE TABLE IF NOT EXISTS events ({described})")
        database.execute("CREATE INDEX IF NOT EXISTS events_of_image ON events (image_id)")
        database.execute(
            "CREATE TABLE IF NOT EXISTS progress (bytes INTEGER NOT NULL)"
        )  # of history.jsonl, read so far
        database.execute("INSERT INTO progress SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM progress)")
        database.execute("PRAGMA user_version = 1")


def _read_so_far(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT bytes FROM progress").fetchone()[0])


def _names() -> str:
    return ", ".join(f'"{name}"' for name in COLUMNS)


def _row_of(event: Mapping[str, Any]) -> list[Any]:
    values = {name: event.get(name) for name in COLUMNS}
    for name in JSON_COLUMNS:
        if values[name] is not None:
            values[name] = json.dumps(values[name], ensure_ascii=False, sort_keys=True)
    return list(values.values())


def _event_of(row: Sequence[Any]) -> Event:
    event = {name: value for name, value in zip(COLUMNS, row, strict=True) if value is not None}
    return {name: json.loads(value) if name in JSON_COLUMNS else value for name, value in event.items()}


def _set_aside(folder: Path) -> None:
    aside = folder / f"{DATABASE_FILE}.damaged-{time.time_ns()}"
    (folder / DATABASE_FILE).replace(aside)
    for suffix in ("-wal", "-shm"):  # of the damaged one; a new database must not read them
        (folder / f"{DATABASE_FILE}{suffix}").unlink(missing_ok=True)
    logger.warning("%s was damaged; it is kept as %s and made anew from %s", DATABASE_FILE, aside.name, JOURNAL_FILE)


def _parsed(content: bytes) -> Iterator[Event]:
    for line in content.splitlines():
        event = _event_in(line)
        if event is not None:
            yield event


def _event_in(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"id", "at", "event", "image_id"} <= set(event) else None


def _last_id(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL_BYTES))
        tail = stream.read()
    if not tail.endswith(b"\n"):
        return None
    event = _event_in(tail[:-1].rpartition(b"\n")[2])
    return event["id"] if event else None


def _end_of_lines(stream: Any) -> int:
    """Return the position behind the last line that is complete."""
    end = stream.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        stream.seek(start)
        found = stream.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
