"""MONAI Label's local datastore with safe writing: whole saves, checked labels, kept versions."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore, LocalDatastoreModel
from monailabel.endpoints.user.auth import DEFAULT_USER

from crossmoda.data.naming import EXTENSIONS
from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review import has_verdict, store_prediction, store_upload
from crossmoda.self_training.review_events import OWN_FACTS
from crossmoda.self_training.review_info import (
    attributed,
    complete_meta,
    meta_of,
    require_image_info,
    require_label_info,
)
from crossmoda.self_training.review_scans import QUARANTINED, enter_fault, fault_in_store, scan_fault
from crossmoda.self_training.review_store import ReviewStore, check_image_id, check_tag
from crossmoda.self_training.review_verdicts import SEEN, require_as_seen, state_of
from lib.access import requesting_user, who_asks
from lib.answers import answering_client_errors

logger = logging.getLogger(__name__)


class ReviewDatastore(LocalDatastore):
    """Serve a ``ReviewStore`` through MONAI Label's interface.

    What is read is MONAI Label's own code on the content of ``datastore_v2.json``, loaded again whenever that file was
    replaced, be it by another process. What writes goes through the store.

    Args:
        store: the folder.
        current: gives the run's ``current.json``, whose structures name the labels.
    """

    def __init__(self, store: ReviewStore, current: Callable[[], Mapping[str, Any]]) -> None:
        # LocalDatastore's own set-up is left out: it watches the folder and rewrites it in place.
        self._datastore_path = str(store.folder)
        self._extensions = [f"*{extension}" for extension in EXTENSIONS]
        self._store = store
        self._current = current
        self._loaded: tuple[tuple[int, int], LocalDatastoreModel] | None = None
        store.recover()

    @property
    def _datastore(self) -> LocalDatastoreModel:
        state = self._store.file.stat() if self._store.file.is_file() else None
        key = (state.st_ino, state.st_mtime_ns) if state else (0, 0)
        if self._loaded is None or self._loaded[0] != key:
            model = LocalDatastoreModel.model_validate(self._store.read())
            model.base_path = self._datastore_path
            self._loaded = (key, model)
        return self._loaded[1]

    def open_images(self) -> dict[str, dict[str, Any]]:
        """Return image id -> image info of the scans that nobody has labelled or judged yet, sorted by id."""
        objects = self._store.read()["objects"]
        return {
            image_id: entry["image"]["info"]
            for image_id, entry in sorted(objects.items())
            if not has_verdict(entry)
            and not entry["image"]["info"].get(QUARANTINED)
            and self._store.image_path(image_id, entry).is_file()
        }

    def quarantine(self, image_id: str) -> str | None:
        """Return why a scan cannot be used, or None; the scan's info says it too from then on."""
        entry = self._store.read()["objects"].get(image_id)
        if entry is None:
            return None
        fault = fault_in_store(self._store, image_id, entry)
        if fault != entry["image"]["info"].get(QUARANTINED):
            with self._changing() as model:
                if image_id in model["objects"]:
                    enter_fault(model["objects"][image_id], fault)
        return fault

    def has_image(self, image_id: str) -> bool:
        """Tell whether there is such a scan."""
        return image_id in self._datastore.objects

    def enter_scores(self, key: str, scores: Mapping[str, Any]) -> None:
        """Enter the scores of many scans, image id -> scores, into their info under a key, all in one change."""
        with self._changing() as model:
            for image_id in scores.keys() & model["objects"].keys():
                model["objects"][image_id]["image"]["info"][key] = scores[image_id]

    def review_store(self) -> ReviewStore:
        """Return the folder beneath."""
        return self._store

    def set_name(self, name: str) -> None:
        """Name the store."""
        with self._changing() as model:
            model["name"] = name

    def set_description(self, description: str) -> None:
        """Describe the store."""
        with self._changing() as model:
            model["description"] = description

    def refresh(self) -> None:
        """Enter files that were put into the folder by hand."""
        self._store.recover()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Enter a scan that a client uploaded, if it can be read and has a name of its own."""
        with answering_client_errors():
            require_image_info({key: value for key, value in image_info.items() if key != "user"})
        fault = scan_fault(Path(image_filename))
        if fault:
            raise HTTPException(400, f"image '{image_id[:60]}': {fault}")
        with answering_client_errors():
            read_volume(image_filename)
        with self._changing() as model:
            if image_id in model["objects"]:
                raise CrossmodaError(f"image '{check_image_id(image_id)}': already in the store; choose another name")
            self._store.add_image(model, Path(image_filename), check_image_id(image_id), image_info)
        return image_id

    def remove_image(self, image_id: str) -> None:
        """Take a scan and its labels out of the store; the files are kept aside."""
        self._require_image(image_id)
        with self._changing(who_asks()) as model:
            self._store.remove_image(model, image_id)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Check a label that a person saved, store it by the names of its segments, and keep the one before."""
        self._require_image(image_id)
        with answering_client_errors():
            require_label_info(label_info or {})
            label_info = _said_by_user(label_info or {}, {})
            structures = self._current()["structures"]
            store_upload(self._store, image_id, str(label_tag), Path(label_filename), label_info or {}, structures)
        return image_id

    def save_prediction(self, image_id: str, label_filename: str, info: dict[str, Any]) -> str:
        """Make a label that the model predicted the case's pseudo-label, unless a person has touched the case."""
        with answering_client_errors():
            store_prediction(self._store, image_id, Path(label_filename), self._current(), info)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Take a label out of the store; the file is kept aside."""
        self._require_label(label_id, label_tag)
        with self._changing(who_asks()) as model:
            self._store.remove_label(model, label_id, label_tag)

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known of a scan."""
        self._require_image(image_id)
        with self._changing() as model:
            known = model["objects"][image_id]["image"]["info"]
            if "strategy" in info and _user_name():
                info = {**info, "strategy": _given_to(_user_name(), info["strategy"], known.get("strategy") or {})}
            known.update(info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> dict[str, str]:
        """Add to what is known of a label, e.g. a reviewer's verdict; what describes its voxels stays as it is.

        Returns:
            ``state`` of the case, which may be sent back with the next verdict as ``seen``: that one then counts only
            if nobody else has changed the case in between (otherwise 409).
        """
        self._require_label(label_id, label_tag)
        seen, info = info.get(SEEN), {key: value for key, value in info.items() if key != SEEN}
        with answering_client_errors():
            require_label_info(info)
        protected = ("values", "label_info", "sha256", "name", "structures", "user", "judged_by", *OWN_FACTS)
        with self._changing() as model:
            require_as_seen(label_id, model["objects"][label_id], seen)
            known = model["objects"][label_id]["labels"][label_tag]["info"]
            info = _said_by_user(info, meta_of(known))
            known.update({key: value for key, value in info.items() if key not in protected})
            if "segmentationMeta" in info:
                known.pop("judged_by", None)  # of the verdict that this one takes the place of
            if info.get("user") and info["user"] != DEFAULT_USER.username:  # MONAI Label's name for everybody
                known["judged_by"] = info["user"]  # ``user`` remains who saved the label
            return {"state": state_of(model["objects"][label_id])}

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Write the scans with final labels into one ZIP file, which takes the place of the one before."""
        if not self.datalist():
            raise HTTPException(404, "no final label yet; there is nothing to put into the archive")
        archive = Path(super().get_dataset_archive(limit_cases))
        return str(shutil.move(archive, archive.with_name("dataset.zip")))

    @contextmanager
    def _changing(self, who: str = "") -> Iterator[dict[str, Any]]:
        with answering_client_errors(), self._store.edit(who) as model:
            yield model

    def _require_image(self, image_id: str) -> None:
        if image_id not in self._datastore.objects:
            raise HTTPException(404, f"image '{image_id[:60]}': not in the store; ask for the next sample again")

    def _require_label(self, label_id: str, label_tag: str) -> None:
        self._require_image(label_id)
        with answering_client_errors():
            check_tag(label_tag)
        if label_tag not in self._datastore.objects[label_id].labels:
            raise HTTPException(404, f"label '{label_id}' with tag '{label_tag}': not in the store")


def _user_name() -> str:
    user = requesting_user()
    return user.name if user is not None else ""


def _given_to(user: str, strategies: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return who was handed the case last by each strategy, with the user; MONAI Label notes the client alone."""
    return {name: last if last == known.get(name) else {**last, "user": user} for name, last in strategies.items()}


def _said_by_user(info: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a client says of a label with the name of who has signed in, given the verdict on it so far."""
    user, meta = requesting_user(), info.get("segmentationMeta")
    if meta:
        meta = complete_meta(meta)
        info = {**info, "segmentationMeta": attributed(meta, known, user.name) if user else meta}
    return {**info, "user": user.name} if user else info
