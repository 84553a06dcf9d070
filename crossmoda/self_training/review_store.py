"""The folder that MONAI Label serves: scans, labels by tag, and ``datastore_v2.json``, changed only in whole steps.

The layout is that of MONAI Label's local datastore, so its server, 3D Slicer and the Reviewer read it as it is::

    STUDIES/datastore_v2.json  STUDIES/<image_id>.nii.gz  STUDIES/labels/{original,final,version_1}/<image_id>.nii.gz

Every change holds a lock between processes and replaces files by renaming. A label that a person saved is never
overwritten: the former one becomes the next ``version_N``. Deleted labels are moved to ``.deleted``.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from crossmoda.data.naming import EXTENSIONS, extension_of, stem_of
from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path, json_text, read_json, remove_leavings, sha256_of, write_json, write_text
from crossmoda.self_training.review_audit import OUTBOX, rebuild, record, unsent
from crossmoda.self_training.review_events import has_unrecorded, is_begun, note_events
from crossmoda.self_training.review_tags import FINAL, ORIGINAL, TAG, check_tag, version_number

logger = logging.getLogger(__name__)

STORE_FILE = "datastore_v2.json"
BACKUP_FILE = ".datastore_v2.backup.json"  # the state before the last change
LOCK_FILE = ".lock"
LABEL_EXTENSION = ".nii.gz"
LOCK_SECONDS = 60.0
DICOMWEB = "dicomweb"  # key of the content: address of the server that the scans come from, see review_dicomweb
SERIES_FAULT = "series_fault"  # key of a scan's info: why a series of that server has no file here

UID = re.compile(r"[0-9]+(\.[0-9]+)+")  # of DICOM; the image ids of series

_IMAGE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_EMPTY: dict[str, Any] = {
    "name": "crossMoDA review",
    "description": "",
    "images_dir": ".",
    "labels_dir": "labels",
    "objects": {},
}

Entry = dict[str, Any]


def now_text() -> str:
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def check_image_id(image_id: str) -> str:
    """Return the image id.

    Raises:
        CrossmodaError: it could lead out of the store, or is hidden, empty or longer than 200 characters.
    """
    if not _IMAGE_ID.fullmatch(image_id):
        raise CrossmodaError(f"image id {image_id[:60]!r}: use letters, digits, '_', '-', '+' and '.' only")
    return image_id


def split_name(file_name: str) -> tuple[str, str]:
    """Return a file name's image id and extension; the extension is empty where the format is not known."""
    stem = stem_of(file_name)
    return stem, file_name[len(stem) :] if extension_of(file_name) else ""


class ReviewStore:
    """Read and change a folder in MONAI Label's local layout.

    Args:
        studies: the folder; made if need be.

    Raises:
        CrossmodaError: the folder cannot be made.
    """

    def __init__(self, studies: str | Path) -> None:
        self.folder = Path(studies)
        try:
            (self.folder / "labels").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CrossmodaError(f"{self.folder}: cannot be made ({error.strerror}); choose another folder") from error
        self.file = self.folder / STORE_FILE
        self._lock = FileLock(str(self.folder / LOCK_FILE), timeout=LOCK_SECONDS)

    def image_path(self, image_id: str, entry: Mapping[str, Any]) -> Path:
        """Return where an image lies, given its entry among the objects."""
        return self.folder / f"{image_id}{entry['image']['ext']}"

    def label_path(self, image_id: str, tag: str, extension: str = LABEL_EXTENSION) -> Path:
        """Return where a label lies or would lie."""
        return self.folder / "labels" / check_tag(tag) / f"{image_id}{extension}"

    def read(self) -> dict[str, Any]:
        """Return the content of ``datastore_v2.json``, first rebuilt from the files where it is missing or damaged."""
        model = _load(self.file)
        return model if model is not None else self.recover()

    @contextmanager
    def edit(self, who: str = "") -> Iterator[dict[str, Any]]:
        """Give the store's content for changing; it is written when the block ends well and something has changed.

        Args:
            who: asks for the change, where that is known; the history names them for what they delete.

        Raises:
            CrossmodaError: another process has held the lock for a minute, or the file cannot be written.
        """
        with self._locked():
            model = self.read()
            before = _copy_of(model)
            yield model
            if model != before:
                self._write(model, before, who)

    def recover(self) -> dict[str, Any]:
        """Bring ``datastore_v2.json`` into agreement with the files, and return its content.

        New scans and labels are entered; entries without a file go; a label whose bytes are not those that its entry
        describes (the process was killed between the two) keeps no claim about who made it. A damaged file is kept
        under another name and replaced by the state before the last change, or by what the folder shows.
        """
        with self._locked():
            remove_leavings(self.folder / "labels")  # nobody else writes there now
            model = _load(self.file)
            if model is None:
                self._set_aside_damaged()
                model = _load(self.folder / BACKUP_FILE) or _copy_of(_EMPTY)
            before = _copy_of(model)
            self._reconcile_images(model["objects"])
            files = self._label_files()
            for image_id, entry in model["objects"].items():
                self._reconcile_labels(image_id, entry, files.get(image_id, {}))
            if model != before or not self.file.is_file() or has_unrecorded(model):
                self._write(model, before)
            else:  # the process may have been killed between a change and its entry in the history
                record(self.folder, unsent(self.folder, model.get(OUTBOX, [])))
            return model

    def complete_history(self) -> None:
        """Enter into the history what a killed process or a full disk has left out."""
        if unsent(self.folder, self.read().get(OUTBOX, [])):
            with self._locked():
                record(self.folder, unsent(self.folder, self.read().get(OUTBOX, [])))
        else:
            record(self.folder, [])  # the database may still be behind, which needs no lock

    def rebuild_history(self) -> None:
        """Make ``audit.sqlite`` anew from the files.

        Events that ``history.jsonl`` has lost are first taken from the labels' own infos, as far as these tell.

        Raises:
            CrossmodaError: the folder cannot be written to.
        """
        with self._locked():
            rebuild(self.folder, self.read())
            self.recover()

    def add_image(self, model: dict[str, Any], source: Path, image_id: str, info: Mapping[str, Any]) -> bool:
        """Enter a scan (hard link, or a copy on another disk) and return whether it is new; labels stay as they are.

        Raises:
            CrossmodaError: another scan already has this id.
        """
        _, extension = split_name(source.name)
        if not extension:
            raise CrossmodaError(f"{source}: not {', '.join(EXTENSIONS)}; convert the scan first")
        entry = model["objects"].get(check_image_id(image_id))
        target = self.folder / f"{image_id}{extension}"
        new = not target.exists()
        if new:
            _link_or_copy(source, target)
        elif not target.samefile(source) and sha256_of(target) != sha256_of(source):
            raise CrossmodaError(f"{target}: another scan than {source}; give this run its own --studies folder")
        described = {"ts": int(time.time()), **(entry["image"]["info"] if entry else {}), "name": target.name, **info}
        labels = entry["labels"] if entry else {}
        image = {"ext": extension, "info": described}
        model["objects"][image_id] = {**(entry or {}), "image": image, "labels": labels}
        return new

    def put_label(
        self, model: dict[str, Any], image_id: str, tag: str, file: Path, info: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Copy a finished ``.nii.gz`` label into the store and return its info; a person's former label is kept."""
        entry = model["objects"][image_id]
        if tag != ORIGINAL and tag in entry["labels"]:
            self._keep_as_version(image_id, entry, tag)
        former = entry["labels"].get(tag)
        if tag == ORIGINAL and former and is_begun(entry, former["info"]):
            self._set_aside(image_id, tag, former)
        target = self.label_path(image_id, tag)
        with atomic_path(target) as partial:
            shutil.copyfile(file, partial)
        if former and former["ext"] != LABEL_EXTENSION:
            self.label_path(image_id, tag, former["ext"]).unlink(missing_ok=True)
        stamp = {"ts": int(time.time()), "saved": now_text(), "sha256": sha256_of(target)}
        complete = {**info, "name": target.name, **stamp}
        entry["labels"][tag] = {"ext": LABEL_EXTENSION, "info": complete}
        return complete

    def remove_label(self, model: dict[str, Any], image_id: str, tag: str) -> None:
        """Take a label out of the store; its file and info are moved to ``.deleted``.

        Raises:
            CrossmodaError: there is no such label.
        """
        label = model["objects"].get(image_id, {}).get("labels", {}).pop(check_tag(tag), None)
        if label is None:
            raise CrossmodaError(f"label '{image_id}' with tag '{tag}': not in the store")
        self._set_aside(image_id, tag, label)
        self.label_path(image_id, tag, label["ext"]).unlink()

    def label_set_aside(self, image_id: str, digest: str) -> tuple[Path, dict[str, Any]] | None:
        """Return file and info of a label in ``.deleted``, found by the sha256 of its bytes; None where none is."""
        for file in (self.folder / ".deleted").glob(f"{_glob_quoted(image_id)}.*.json"):
            info = read_json(file)
            path = file.with_name(file.name.removesuffix(".json") + split_name(str(info.get("name", "")))[1])
            if info.get("sha256") == digest and path.is_file():
                return path, info
        return None

    def remove_image(self, model: dict[str, Any], image_id: str) -> None:
        """Take a scan and its labels out of the store; all are moved to ``.deleted``.

        Raises:
            CrossmodaError: there is no such scan.
        """
        if image_id not in model["objects"]:
            raise CrossmodaError(f"image '{image_id[:60]}': not in the store")
        for tag in list(model["objects"][image_id]["labels"]):
            self.remove_label(model, image_id, tag)
        entry = model["objects"].pop(image_id)
        path, deleted = self.image_path(image_id, entry), self.folder / ".deleted"
        deleted.mkdir(exist_ok=True)
        if path.is_file():
            path.replace(deleted / f"{image_id}.{time.time_ns()}{entry['image']['ext']}")

    def _set_aside(self, image_id: str, tag: str, label: Entry) -> None:
        stem = self.folder / ".deleted" / f"{image_id}.{tag}.{time.time_ns()}"
        write_json(stem.with_name(f"{stem.name}.json"), label["info"])
        with atomic_path(stem.with_name(stem.name + label["ext"])) as partial:
            shutil.copyfile(self.label_path(image_id, tag, label["ext"]), partial)

    def _keep_as_version(self, image_id: str, entry: Entry, tag: str) -> None:
        former = entry["labels"][tag]
        version = f"version_{self._last_version(image_id, entry) + 1}"
        target = self.label_path(image_id, version, former["ext"])
        with atomic_path(target) as partial:
            shutil.copyfile(self.label_path(image_id, tag, former["ext"]), partial)
        info = {**former["info"], "name": target.name, "archived_from": tag, "archived": now_text()}
        entry["labels"][version] = {"ext": former["ext"], "info": info}

    def _last_version(self, image_id: str, entry: Entry) -> int:
        on_disk = [path.parent.name for path in (self.folder / "labels").glob("version_*/*") if _is_of(path, image_id)]
        return max((version_number(tag) for tag in [*entry["labels"], *on_disk] if TAG.fullmatch(tag)), default=0)

    def _reconcile_images(self, objects: dict[str, Entry]) -> None:
        for image_id, extension in self._found(self.folder):
            if image_id not in objects:
                info = {"ts": int(time.time()), "name": image_id + extension}
                objects[image_id] = {"image": {"ext": extension, "info": info}, "labels": {}}
        for image_id in [key for key, entry in objects.items() if not self.image_path(key, entry).is_file()]:
            entry = objects[image_id]  # what a person said about a lost scan is kept
            if set(entry["labels"]) <= {ORIGINAL} and SERIES_FAULT not in entry["image"]["info"]:
                del objects[image_id]

    def _label_files(self) -> dict[str, dict[str, Path]]:
        """Return image id -> tag -> the newest file of that tag; each folder is read once, however many the cases."""
        found: dict[str, dict[str, Path]] = {}
        folders = [path for path in (self.folder / "labels").iterdir() if path.is_dir() and TAG.fullmatch(path.name)]
        for folder in folders:
            for path in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime):
                image_id, extension = split_name(path.name)
                if extension:
                    found.setdefault(image_id, {})[folder.name] = path
        return found

    def _reconcile_labels(self, image_id: str, entry: Entry, found: Mapping[str, Path]) -> None:
        described = {label["info"].get("sha256"): label["info"] for label in entry["labels"].values()}
        for tag in [tag for tag, label in entry["labels"].items() if not self._is_described(image_id, tag, label)]:
            del entry["labels"][tag]
        for tag, path in found.items():
            if tag not in entry["labels"]:
                digest = sha256_of(path)
                info = dict(described.get(digest, {}))
                if info and tag != ORIGINAL and version_number(tag):
                    info["archived_from"] = info.get("archived_from", FINAL)
                info |= {"name": path.name, "ts": int(path.stat().st_mtime), "sha256": digest, "recovered": now_text()}
                entry["labels"][tag] = {"ext": split_name(path.name)[1], "info": info}

    def _is_described(self, image_id: str, tag: str, label: Entry) -> bool:
        path = self.label_path(image_id, tag, label["ext"]) if TAG.fullmatch(tag) else None
        return path is not None and path.is_file() and label["info"].get("sha256") in (None, sha256_of(path))

    def _found(self, folder: Path) -> list[tuple[str, str]]:
        names = [split_name(path.name) for path in sorted(folder.iterdir()) if path.is_file()]
        return [(image_id, extension) for image_id, extension in names if extension and _IMAGE_ID.fullmatch(image_id)]

    def _set_aside_damaged(self) -> None:
        if self.file.is_file():
            aside = self.file.with_name(f"{STORE_FILE}.damaged-{time.time_ns()}")
            self.file.replace(aside)
            logger.warning("%s was damaged; it is kept as %s and rebuilt from the files", self.file, aside.name)

    def _write(self, model: dict[str, Any], before: Mapping[str, Any], who: str = "") -> None:
        """Write the store's content with the events of its change, then enter these into the history.

        The one rename of ``datastore_v2.json`` makes both the change and its events count: a process killed before it
        has changed nothing, one killed after it leaves the events in the outbox, from where the next change or
        ``recover`` takes them. Writing the history comes second and never raises, so that it cannot make a save fail
        that has already happened.
        """
        outbox = unsent(self.folder, model.pop(OUTBOX, [])) + note_events(before, model, who)
        if outbox:
            model[OUTBOX] = outbox
        if self.file.is_file():
            with atomic_path(self.folder / BACKUP_FILE) as partial:
                _link_or_copy(self.file, partial)
        write_text(self.file, _text_of(model))
        record(self.folder, outbox)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self._lock.acquire()
        except Timeout as error:
            raise CrossmodaError(f"{self.folder}: busy for {LOCK_SECONDS:.0f} s; stop the other process") from error
        except OSError as error:
            raise CrossmodaError(f"{self.folder}: not writable ({error.strerror}); choose another folder") from error
        try:
            yield
        finally:
            self._lock.release()


def _load(file: Path) -> dict[str, Any] | None:
    """Return a store's content, or None where the file is missing or is not one."""
    try:
        model = read_json(file)
    except CrossmodaError:
        return None
    if not isinstance(model, dict) or not isinstance(model.get("objects"), dict):
        return None
    for entry in model["objects"].values():
        entry.setdefault("labels", {})
    return {**_EMPTY, **model}


def _copy_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy, by pickle: with a thousand cases a tenth of the time that ``copy.deepcopy`` takes."""
    copied: dict[str, Any] = pickle.loads(pickle.dumps(dict(model)))
    return copied


def _text_of(model: Mapping[str, Any]) -> str:
    """Return a store's content as JSON with a line for each object, which every change writes anew."""
    head = [f"{json_text(key)}: {json_text(value, None)}" for key, value in model.items() if key != "objects"]
    objects = [f"  {json_text(key)}: {json_text(value, None)}" for key, value in model["objects"].items()]
    listed = "{\n" + ",\n".join(objects) + "\n}" if objects else "{}"
    return "{\n" + ",\n".join([*head, f'"objects": {listed}']) + "\n}\n"


def _is_of(path: Path, image_id: str) -> bool:
    identifier, extension = split_name(path.name)
    return identifier == image_id and bool(extension)


def _glob_quoted(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _link_or_copy(source: Path, target: Path) -> None:
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without hard links
        with atomic_path(target) as partial:
            shutil.copyfile(source, partial)
