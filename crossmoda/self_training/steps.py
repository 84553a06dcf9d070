"""Steps of a run that are done once, recorded, and not done again while nothing that they depend on has changed.

A step has a configuration, inputs (files or folders) and outputs. Its *key* is the hash of the configuration and of the
inputs' bytes. The manifest of its folder keeps the key, the outputs' hashes and the time it took. A step whose record
matches is skipped. An unfinished step works in a hidden folder named after its key, so that a killed training finds
its own checkpoints again; outputs take their final names by renaming, and the record is written last.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from crossmoda.errors import CrossmodaError
from crossmoda.files import (
    PARTIAL_MARK,
    hash_of,
    read_json,
    remove_leavings,
    replace_directory,
    sha256_of_tree,
    write_json,
)
from crossmoda.launching import Course, Piece, follow
from crossmoda.launching.alone import alone_in, forget_tries, tries_in

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Step:
    """A piece of work whose outcome depends on its configuration and its inputs alone.

    Args:
        name: unique in its folder; shown to people.
        outputs: names of files or folders that ``work`` makes.
        work: called with the folder in which it must make ``outputs``; what an interrupted call left there is still
            there.
        config: all settings that change the outcome.
        inputs: name -> file or folder whose content matters.
        here: ``work`` launches trainings itself, so that it is called in this process (``crossmoda.launching``).
    """

    name: str
    outputs: tuple[str, ...]
    work: Callable[[Path], None]
    config: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Path] = field(default_factory=dict)
    here: bool = False

    def key(self) -> str:
        """Return the hash of everything that the outcome depends on.

        Raises:
            CrossmodaError: an input is missing.
        """
        for name, path in self.inputs.items():
            if not path.exists():
                raise CrossmodaError(
                    f"{path}: missing, but step '{self.name}' needs it as {name}; restore it or delete the run"
                )
        inputs = {name: sha256_of_tree(path) for name, path in self.inputs.items()}
        return hash_of({"name": self.name, "config": self.config, "inputs": inputs})


class StepWatch(Protocol):
    """What wants to hear of the steps of some folders."""

    def begun(self, folder: Path, name: str) -> None:
        """Hear that a step has to be done and is beginning."""

    def ended(self, folder: Path, name: str, done: bool) -> None:
        """Hear that a step is in the manifest of a folder; ``done`` tells whether it had to be done."""


class StepFolder:
    """A folder whose content is made by steps, and the manifest that records them.

    Args:
        path: of the folder; made when the first step runs.
        watch: hears of every step.
    """

    def __init__(self, path: Path, watch: StepWatch | None = None) -> None:
        self.path = path
        self.watch = watch
        self.redone: list[str] = []  # names of the steps that this process did, in order

    def records(self) -> dict[str, Any]:
        """Return the manifest: step name -> record."""
        manifest = self.path / MANIFEST
        return read_json(manifest)["steps"] if manifest.is_file() else {}

    def is_done(self, step: Step, key: str) -> bool:
        """Tell whether the record matches the key and the outputs are the ones that were recorded."""
        record = self.records().get(step.name)
        if record is None or record["key"] != key:
            return False
        return all(self._is_unchanged(name, record["outputs"].get(name)) for name in step.outputs)

    def do(self, step: Step) -> bool:
        """Do a step here unless it is done already, and return whether it had to be done."""
        return follow(self.doing(step))

    def doing(self, step: Step) -> Course[bool]:
        """Follow a step: its work is done by whoever launches the course, the record is kept in this process."""
        key = step.key()
        needed = not self.is_done(step, key)
        if needed:
            yield from self._doing(step, key)
        if self.watch is not None:
            self.watch.ended(self.path, step.name, needed)
        return needed

    def _doing(self, step: Step, key: str) -> Course[None]:
        logger.info("%s/%s", self.path.name, step.name)
        if self.watch is not None:
            self.watch.begun(self.path, step.name)
        workplace = self._workplace(step.name, key)
        name = "/".join([*self.path.parts[-2:], step.name])
        seconds = yield Piece(name, workplace, partial(_alone, step.work, workplace), step.here)
        resumed = tries_in(workplace) > 1
        self._finish(step, workplace)
        self._record(step, key, seconds, resumed)
        self.redone.append(step.name)

    def _place_of(self, name: str, key: str) -> Path:
        return self.path / f"{_prefix(name)}{key[:12]}"

    def _workplace(self, name: str, key: str) -> Path:
        """Return the step's hidden folder, kept from an interrupted try; those of other keys are deleted."""
        workplace = self._place_of(name, key)
        for other in self.path.glob(f"{_prefix(name)}*"):
            if other != workplace:
                shutil.rmtree(other, ignore_errors=True)
        try:
            workplace.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CrossmodaError(
                f"{self.path}: cannot be written ({error.strerror}); choose another output folder"
            ) from error
        return workplace

    def _finish(self, step: Step, workplace: Path) -> None:
        for name in step.outputs:
            made, final = workplace / name, self.path / name
            if not made.exists():
                raise CrossmodaError(
                    f"step '{step.name}' ended without making {name}; run again with CROSSMODA_DEBUG=1"
                )
            remove_leavings(made)  # of an earlier try that was killed
            forget_tries(made)
            final.parent.mkdir(parents=True, exist_ok=True)
            if made.is_dir():
                replace_directory(made, final)
            else:
                made.replace(final)
        shutil.rmtree(workplace, ignore_errors=True)

    def _record(self, step: Step, key: str, seconds: float, resumed: bool) -> None:
        records = self.records()
        records[step.name] = {
            "key": key,
            "config": step.config,
            "inputs": {
                name: {"path": _relative(path, self.path), "sha256": sha256_of_tree(path)}
                for name, path in step.inputs.items()
            },
            "outputs": {name: fingerprint(self.path / name) for name in step.outputs},
            "seconds": round(seconds, 2),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **({"resumed": True} if resumed else {}),  # the seconds are then those of the last try alone
        }
        write_json(self.path / MANIFEST, {"steps": records})

    def _is_unchanged(self, name: str, recorded: Mapping[str, Any] | None) -> bool:
        path = self.path / name
        if recorded is None or not path.exists():
            return False
        return recorded["state"] == _state(path) or recorded["sha256"] == sha256_of_tree(path)


def _alone(work: Callable[[Path], None], workplace: Path) -> None:
    """Do a step's work when no other try of it, by a worker that was lost, is still at it."""
    with alone_in(workplace):
        work(workplace)


def _prefix(name: str) -> str:
    """Return how the names of a step's hidden folders begin."""
    return f".{name.replace('/', '_')}{PARTIAL_MARK}"


def fingerprint(path: Path) -> dict[str, str]:
    """Return what identifies a file's or folder's content: its hash, and a quick state that spares hashing it again."""
    return {"sha256": sha256_of_tree(path), "state": _state(path)}


def _state(path: Path) -> str:
    """Return a hash of the names, sizes and modification times below ``path``."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return hash_of([[p.relative_to(path).as_posix(), p.stat().st_size, p.stat().st_mtime_ns] for p in files])


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder)
