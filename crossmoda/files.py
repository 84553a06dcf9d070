"""Files that appear whole or not at all, and the hashes that tell them apart."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossmoda.errors import CrossmodaError

PARTIAL_MARK = ".partial-"  # in the name of everything unfinished; a later run may delete what carries it

_hashes: dict[tuple[str, int, int], str] = {}


def sha256_of(path: str | Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes; remembered while size and modification time stay the same."""
    path = Path(path)
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key not in _hashes:
        with path.open("rb") as stream:
            _hashes[key] = (
                hashlib.file_digest(stream, "sha256").hexdigest()
                if hasattr(hashlib, "file_digest")
                else _digest(stream)
            )
    return _hashes[key]


def _digest(stream: Any) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def hash_of(value: Any) -> str:
    """Return the SHA-256 of a JSON-like value, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def sha256_of_tree(path: str | Path) -> str:
    """Return one hash for a file, or for a folder's files with their relative names (unfinished ones left out)."""
    path = Path(path)
    if path.is_file():
        return sha256_of(path)
    files = sorted(p for p in path.rglob("*") if p.is_file() and PARTIAL_MARK not in str(p.relative_to(path)))
    return hash_of([[p.relative_to(path).as_posix(), sha256_of(p)] for p in files])


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well it is flushed to disk and renamed to ``path``.

    The temporary name keeps the extension, since image writers choose their format by it. Whatever goes wrong, ``path``
    is either as it was or complete.

    Raises:
        CrossmodaError: the folder cannot be made or written to.
    """
    path = Path(path)
    _make_folder(path.parent)
    partial = path.with_name(f".{uuid.uuid4().hex[:8]}{PARTIAL_MARK}{path.name}")
    try:
        yield partial
        flush_to_disk(partial)
        partial.replace(path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise CrossmodaError(
            f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Give an empty temporary folder beside ``path``; when the block ends well it takes the place of ``path``.

    Raises:
        CrossmodaError: the parent folder cannot be made or written to.
    """
    path = Path(path)
    for left in path.parent.glob(f".{path.name}{PARTIAL_MARK}[0-9]*-*"):
        if not _is_alive(int(left.name.split(PARTIAL_MARK)[1].split("-")[0])):
            shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    partial = path.with_name(f".{path.name}{PARTIAL_MARK}{os.getpid()}-{uuid.uuid4().hex[:8]}")
    _make_folder(partial)
    try:
        yield partial
        replace_directory(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_directory(new: Path, path: Path) -> None:
    """Rename the folder ``new`` to ``path``; a folder that is already there is moved aside first and then deleted."""
    for file in new.rglob("*"):
        if file.is_file():
            flush_to_disk(file)
    aside = path.with_name(f".{path.name}{PARTIAL_MARK}old-{uuid.uuid4().hex[:8]}")
    if path.exists():
        path.replace(aside)
    new.replace(path)
    flush_to_disk(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def remove_leavings(folder: Path, below: bool = True) -> None:
    """Delete the files that a killed process left unfinished in ``folder`` (and below); folders of work stay."""
    pattern = f"*{PARTIAL_MARK}*"
    for path in list(folder.rglob(pattern) if below else folder.glob(pattern)):
        if path.is_file():
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, but alive
    return True


def flush_to_disk(path: Path) -> None:
    """Ask the operating system to put a file's or folder's content on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossmodaError(
            f"{folder}: cannot be made ({error.strerror or error}); choose a folder that you may write to"
        ) from error


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; numbers of numpy become plain ones."""
    write_text(path, json_text(value) + "\n")


def json_text(value: Any, indent: int | None = 2) -> str:
    """Return a value as JSON; numbers of numpy become plain ones. Without an indent it is one line, and quick."""
    return json.dumps(value, indent=indent, default=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        CrossmodaError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CrossmodaError(f"{path}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CrossmodaError(
            f"{path}: not a JSON file ({error}); delete it and run the command that wrote it again"
        ) from error
