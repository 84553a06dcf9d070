"""The app's answers to MONAI Label's endpoints."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore

from crossmoda import __version__
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review import publish, read_current
from crossmoda.self_training.review_access import USERS_FILE
from crossmoda.self_training.review_cases import ReviewCases
from crossmoda.self_training.review_order import ANATOMY
from crossmoda.self_training.review_scans import quarantine, scan_fault
from crossmoda.self_training.review_store import ReviewStore
from lib.answers import answering_client_errors
from lib.configs.segmenter import SegmenterConfig
from lib.datastore import ReviewDatastore
from lib.dicomweb_store import DicomWebReviewDatastore, is_dicomweb, mirror_of
from lib.guard import stand_in_front, upload_limit_mb
from lib.infers.batch import Batch
from lib.pages import serve_history
from lib.sessions import MAX_SESSIONS_MB, ReviewSessions, open_sessions
from lib.triage import serve_triage
from lib.uploads import keep_uploads_private, limit_mb

logger = logging.getLogger(__name__)


class CrossmodaLabelApp(MONAILabelApp):
    """Serve the run's current segmenter, its pseudo-labels and its next case.

    ``conf`` holds ``run``: the run folder. When the run has a new current round, the new model is served and the
    pseudo-labels that nobody has touched are refreshed, without a restart. ``studies`` is the folder under review, or
    the address of a DICOMweb server; then ``conf`` may hold ``review``, the folder that mirrors it (``run/review``).

    Raises:
        CrossmodaError: ``run`` is not given, or has no finished round.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        if not (conf or {}).get("run"):
            raise CrossmodaError(
                "--conf run: not given; start the server with '--conf run RUN_FOLDER' (make serve does)"
            )
        self.run_folder = Path(conf["run"]).resolve()
        own_folder = Path(conf.get("review") or self.run_folder / "review")
        self.review_folder = own_folder.resolve() if is_dicomweb(studies) else Path(studies)
        users = Path(conf.get("users") or self.review_folder / USERS_FILE)
        max_upload_mb = upload_limit_mb(conf)
        self._max_sessions_mb = limit_mb(conf, "max_sessions_mb", MAX_SESSIONS_MB)
        self._following = threading.Lock()
        self._current = read_current(self.run_folder)
        self._config = SegmenterConfig(self.run_folder, self.review_folder)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="crossMoDA review",
            description="Vestibular schwannoma and cochlea on hrT2: review of pseudo-labels",
            version=__version__,
        )
        stand_in_front(users, max_upload_mb)
        keep_uploads_private(self.review_folder)
        serve_triage(ReviewCases(self.datastore().review_store(), lambda: self._current), self.follow_run)
        serve_history(self.review_folder)
        self._auto_update_scoring = False  # would start a process of its own at every next sample

    def init_datastore(self) -> Datastore:
        """Publish the current round into the studies folder and open it."""
        store = ReviewStore(self.review_folder)
        if not is_dicomweb(self.studies):
            self._publish()
            return ReviewDatastore(store, lambda: self._current)
        mirror = mirror_of(store, self.studies)
        self._publish()
        return DicomWebReviewDatastore(mirror, lambda: self._current, self._publish)

    def init_batch_infer(self) -> Batch:
        """Return what labels many scans."""
        return Batch()

    def init_infers(self) -> dict[str, Any]:
        """Return the models by name."""
        return self._config.infer()

    def init_trainers(self) -> dict[str, Any]:
        """Return what 3D Slicer's Train button can start, by name."""
        return self._config.trainer()

    def init_strategies(self) -> dict[str, Any]:
        """Return the orders in which cases are handed out, by name; the first is 3D Slicer's default."""
        return self._config.strategy()

    def init_scoring_methods(self) -> dict[str, Any]:
        """Return the scores by name."""
        return self._config.scoring_method()

    def follow_run(self) -> None:
        """Take over a new round of the run: its model and its pseudo-labels."""
        with self._following:
            current = read_current(self.run_folder)
            if current == self._current:
                return
            logger.info("round %s of %s is served from now on", current["round"], self.run_folder)
            self._publish()
            self._current, self._infers = current, self._config.infer()
            self._strategies = self._config.strategy()  # of what this round has measured

    def on_init_complete(self) -> None:
        """Look for scans that cannot be used, beside the first requests, since a thousand take a while."""
        super().on_init_complete()
        if isinstance(self.datastore(), DicomWebReviewDatastore):
            self.datastore().follow()
        threading.Thread(target=self._check_scans, name="scans", daemon=True).start()

    def _check_scans(self) -> None:
        faults = quarantine(self.datastore().review_store())
        if faults:  # not which: names of scans may name patients; each scan's info says what is wrong with it
            logger.warning("%d scans cannot be used and are not handed out; their info says why", len(faults))

    def info(self) -> dict[str, Any]:
        """Return what 3D Slicer shows about the app."""
        with answering_client_errors():
            self.follow_run()
        return super().info()

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the next case to review; a scan that cannot be used is passed over."""
        strategy = request.get("strategy") or next(iter(self._strategies))
        if strategy not in self._strategies:
            raise HTTPException(404, f"strategy '{strategy}': unknown; use one of {', '.join(self._strategies)}")
        with answering_client_errors():
            result = super().next_sample({**request, "strategy": strategy})
            while result and self.datastore().quarantine(result["id"]):
                result = super().next_sample({**request, "strategy": strategy})
        return result

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Segment a scan of the store, of a session that the client opened, or one that came with the request.

        Paths that a client names are refused: the server would read any file of the machine.
        """
        with answering_client_errors():
            self.follow_run()
        store = datastore or self.datastore()
        if request.get("model") not in self._infers:
            raise HTTPException(404, f"model '{request.get('model')}': unknown; use one of {', '.join(self._infers)}")
        if not store.has_image(str(request.get("image"))) and not self._is_received(request.get("image")):
            raise HTTPException(404, f"image '{str(request.get('image'))[:60]}': not in the store")
        self._require_readable(request["image"], store)
        request = {**request, "logging": "WARNING"}  # otherwise MONAI Label logs the whole request
        save = bool(request.get("save_label"))
        if save:
            self._require_labels(request["model"])
            if not store.has_image(str(request["image"])):
                raise HTTPException(422, "save_label: this scan is not in the store; add it first, or leave this out")
            request = {**request, "result_extension": ".nii.gz", "result_dtype": "uint8"}
        try:
            with answering_client_errors(422):
                result = super().infer({**request, "save_label": False}, store)
        except torch.cuda.OutOfMemoryError as error:
            self._infers[request["model"]].clear_cache()
            torch.cuda.empty_cache()
            raise HTTPException(
                503, "the GPU has no memory left for this scan; close other programs and try again"
            ) from error
        if save:
            told = {"params": result["params"], ANATOMY: result["params"].get(ANATOMY, [])}
            result["label"] = store.save_prediction(request["image"], result["file"], told)
        return result

    def train(self, request: dict[str, Any]) -> Any:
        """Train in this process, which MONAI Label has started for it; where that fails, the reason is its last word.

        What libraries print when a process ends in the usual way (nanobind lists what it calls leaks) would push the
        reason out of the twenty lines that MONAI Label keeps for 3D Slicer.
        """
        if "monailabel.app" in sys.modules:  # the server itself, which must not end
            return super().train(request)
        try:
            return super().train(request)
        except SystemExit as error:
            print(error, file=sys.stderr)
        except Exception:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)

    def bundle_path(self, model: str | None) -> None:
        """Refuse a training or a batch of a model that does not exist; MONAI Label asks this before it starts one."""
        if model and model not in {**self._trainers, **self._infers}:
            raise HTTPException(
                404, f"model '{model}': unknown; use one of {', '.join([*self._trainers, *self._infers])}"
            )

    def require_batch(self, model: str) -> None:
        """Refuse a batch of a model that does not exist or makes no labels.

        Raises:
            HTTPException: 404, 422.
        """
        if model not in self._infers:
            raise HTTPException(404, f"model '{model}': unknown; use one of {', '.join(self._infers)}")
        self._require_labels(model)

    def require_training(self, model: str, options: Mapping[str, Any]) -> None:
        """Refuse a training that does not exist or has no such options.

        Raises:
            HTTPException: 404 for the model.
            CrossmodaError: for an option.
        """
        if model not in self._trainers:
            raise HTTPException(404, f"model '{model}': no training; use one of {', '.join(self._trainers)}")
        self._trainers[model].require_options(options)

    def _require_labels(self, model: str) -> None:
        if not self._infers[model].labels:
            raise HTTPException(422, f"model '{model}': renders an image, which is no label to save")

    def _require_readable(self, image: str, store: Any) -> None:
        in_store = store.has_image(image)
        fault = store.quarantine(image) if in_store else scan_fault(Path(image))
        if fault:
            raise HTTPException(422, f"{image if in_store else Path(image).name}: {fault}")

    def _load_sessions(self, load: bool = False) -> ReviewSessions | None:
        return open_sessions(self.run_folder, self._max_sessions_mb) if load else None

    def _publish(self) -> None:
        publish(self.run_folder, self.review_folder)

    def _is_received(self, image: Any) -> bool:
        """Tell whether an image is one that a client sent, in a session or with this request; the endpoint names it."""
        if not isinstance(image, str):
            return False
        path, places = Path(image).resolve(), [tempfile.gettempdir()]
        places += [self.sessions().store_path] if self.sessions() is not None else []
        return path.is_file() and any(path.is_relative_to(Path(place).resolve()) for place in places)
