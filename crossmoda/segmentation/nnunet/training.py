"""From a datalist to a model: nnU-Net's whole course, in processes of its own, gone on with after any interruption."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.transforms import Transform

from crossmoda.engines import require_own_weights
from crossmoda.engines.devices import device_here
from crossmoda.errors import CrossmodaError
from crossmoda.files import hash_of, read_json, sha256_of, write_json
from crossmoda.launching import Course, Piece, launcher_for
from crossmoda.preprocessing import describe_transforms
from crossmoda.segmentation.cases import cases_to_learn, disk_labels, training_fingerprint
from crossmoda.segmentation.nnunet.model import export_model
from crossmoda.segmentation.nnunet.raw_dataset import name_items, patient_splits, write_raw_dataset
from crossmoda.segmentation.nnunet.settings import NnUNetFolders, NnUNetSettings, require_nnunet
from crossmoda.segmentation.nnunet.spent import ROOT

# Started as a command, not as a module: nnU-Net starts processes for each of its pieces, each of which imports the main
# module of this one. MONAI would come with it, which triples the time until they begin.
WORKER = "import sys; from crossmoda.segmentation.nnunet.worker import main; sys.exit(main(*sys.argv[1:]))"
JOB = "job.json"
ERROR = "error.json"

logger = logging.getLogger(__name__)


class NnUNetTraining:
    """Train nnU-Net on a datalist's labelled scans and export what its cross-validation chose.

    Everything lies in ``output_dir``: ``model.pt`` with ``model.json`` (what ``inference_nnunet.yaml`` serves), and in
    ``nnunet/`` nnU-Net's three folders, which its own commands understand. nnU-Net runs in a process of its own, since
    it reads its settings from the environment, once. Case weights other than 0, which leaves a case out, count as 1
    (with a warning): nnU-Net knows none.

    What exists is gone on with: finished folds are kept, an unfinished one goes on from its checkpoint. Another data
    set, preparation or planner starts anew, another trainer or length trains the folds anew.

    Args:
        dataset_dir: a dataset folder or a datalist JSON.
        output_dir: of the run.
        sections: of the datalist whose labelled cases are learnt from.
        resume: False starts anew whatever exists.
        keep_preprocessed: False deletes nnU-Net's copies of the data once the model is written.
        fingerprint: noted in ``model.json``; by default a hash of the data and the settings.
        prepare: array transforms of intensity that nnU-Net's copies of the scans have been through (see
            ``PrepareImage``); ``model.json`` names them, and predictions must agree.
        scheduler: of a Dask cluster whose workers plan and train the folds, independent ones at the same time and each
            on a device of its own: its address, or its ``--scheduler-file``; None does all here.
        settings: of ``NnUNetSettings``.

    Raises:
        CrossmodaError: a setting that cannot be, or nnU-Net is not installed.
    """

    def __init__(
        self,
        dataset_dir: str | Path,
        output_dir: str | Path,
        sections: Sequence[str] = ("source", "target"),
        resume: bool = True,
        keep_preprocessed: bool = True,
        fingerprint: str = "",
        prepare: Sequence[Transform] = (),
        scheduler: str | None = None,
        **settings: Any,
    ) -> None:
        require_nnunet()
        self.dataset_dir = Path(dataset_dir).resolve()
        self.output_dir = Path(output_dir).resolve()
        self.sections = tuple(sections)
        self.resume = resume
        self.keep_preprocessed = keep_preprocessed
        self.fingerprint = fingerprint
        self.prepare = list(prepare)
        self.agreed = {"prepare": describe_transforms(prepare)}
        self.scheduler = scheduler
        self.settings = NnUNetSettings(**settings)
        self.folders = NnUNetFolders(self.output_dir / ROOT)

    def run(self) -> None:
        """Do what is left to be done.

        Raises:
            CrossmodaError: no labelled case, a structure that no label has, a fold that cannot be, or nnU-Net failed.
        """
        items = cases_to_learn(self.dataset_dir, self.sections)
        data_key = self._data_key(items)
        fingerprint = hash_of([data_key, self.settings.planning_key, self.settings.training_key, self._choice()])
        if self.resume and self._is_done(fingerprint):
            logger.info("%s: trained already", self.output_dir / "model.pt")
            return
        require_own_weights(self.output_dir / "model.pt")
        _warn_of_weights(items)
        self._write_dataset(items, data_key)
        self._train()
        info = {
            "structures": list(self.settings.structures),
            "agreed": self.agreed,
            "config_hash": self.fingerprint or fingerprint,
            "nnunet_training": fingerprint,
        }
        export_model(self.folders, self.settings, self.output_dir / "model.pt", info)
        if not self.keep_preprocessed:
            shutil.rmtree(self.folders.raw.parent)
            shutil.rmtree(self.folders.preprocessed.parent)

    def _choice(self) -> list[Any]:
        settings = self.settings
        return [list(settings.structures), list(settings.configurations), settings.fold_names, settings.checkpoint]

    def _data_key(self, items: Sequence[dict[str, Any]]) -> str:
        images = [sha256_of(item["image"]) for item in items]
        numbers = [item.get("labels") for item in items]
        labels = disk_labels(self.dataset_dir)
        structures = list(self.settings.structures)
        return training_fingerprint(items, images, numbers, labels, structures, *self.agreed["prepare"])

    def _is_done(self, fingerprint: str) -> bool:
        sidecar = self.output_dir / "model.json"
        weights = self.output_dir / "model.pt"
        if not (sidecar.is_file() and weights.is_file()):
            return False
        made = read_json(sidecar)
        return made.get("nnunet_training") == fingerprint and made.get("sha256") == sha256_of(weights)

    def _write_dataset(self, items: Sequence[dict[str, Any]], data_key: str) -> None:
        """Write raw data and splits, unless those of the same data are there; what other data led to is deleted."""
        record = self.folders.root / "record.json"
        key = hash_of([data_key, self.settings.planning_key])
        same = record.is_file() and read_json(record).get("key") == key
        named = name_items(items)
        splits = self._splits(named)
        if self.folders.root.is_dir() and not (same and self.resume):
            logger.warning("%s: other data or plans than before; nnU-Net starts afresh", self.folders.root)
            shutil.rmtree(self.folders.root)
        if not (self.folders.raw / "dataset.json").is_file():
            labels, settings = disk_labels(self.dataset_dir), self.settings
            written = (settings.structures, self.prepare, settings.plan_for_cases)
            write_raw_dataset(self.folders.raw, named, labels, *written)
        self.folders.preprocessed.mkdir(parents=True, exist_ok=True)
        if splits:
            write_json(self.folders.preprocessed / "splits_final.json", splits)
        write_json(record, {"key": key})

    def _splits(self, named: dict[str, Any]) -> list[dict[str, list[str]]]:
        settings = self.settings
        if not settings.cross_validated:
            return []
        required = [int(fold) for fold in settings.fold_names]
        return patient_splits(named, self.dataset_dir, self.sections, settings.folds, required, settings.seed)

    def _train(self) -> None:
        """Plan, train the folds and choose among configurations: in one process here, or by a cluster's workers."""
        if not self.scheduler:
            self._run_worker(self.folders.root, {})
            return
        settings = self.settings
        with launcher_for(self.scheduler, self.output_dir) as launcher:
            launcher.run([self._course("plans", {"folds": [], "choose": False})])
            folds = [(configuration, fold) for configuration in settings.configurations for fold in settings.fold_names]
            named = [(f"{configuration}, fold {fold}", [configuration, fold]) for configuration, fold in folds]
            launcher.run([self._course(name, {"folds": [one], "choose": False}) for name, one in named])
            if settings.cross_validated:
                launcher.run([self._course("choice", {"folds": [], "choose": True})])

    def _course(self, name: str, part: dict[str, Any]) -> Course[None]:
        """Do a part of the work in a place of its own, where the job and the mistakes lie."""
        place = self.folders.root / "parts" / "".join(c if c.isalnum() else "_" for c in name)
        place.mkdir(parents=True, exist_ok=True)
        yield Piece(f"nnU-Net, {name}", place, partial(self._run_worker, place, part))

    def _run_worker(self, place: Path, part: dict[str, Any]) -> None:
        """Run plans, trainings and the choice among them, or a part of it, in a process with nnU-Net's environment."""
        device = str(device_here()) if self.scheduler else self.settings.device
        job, error = place / JOB, place / ERROR
        write_json(job, {"root": self.folders.root, "settings": {**self.settings.as_dict(), "device": device}, **part})
        error.unlink(missing_ok=True)
        environment = self.folders.environment(device, self.settings.num_workers)
        command = [sys.executable, "-c", WORKER, str(job), str(os.getpid())]
        status = subprocess.run(command, env=environment, check=False).returncode
        if error.is_file():
            raise CrossmodaError(read_json(error)["message"])
        if status:
            raise CrossmodaError(
                f"{self.folders.root}: nnU-Net stopped with exit status {status}, its messages are above; "
                "mend the cause and run the same command again, which goes on from here"
            )


def _warn_of_weights(items: Sequence[dict[str, Any]]) -> None:
    """Say which cases will count for more or less than their weight says."""
    weighted = [item for item in items if item["weight"] != 1]
    if weighted:
        first = weighted[0]
        logger.warning(
            "weights count as 1, since nnU-Net knows none: %d of %d items, the first %s of weight %g; give 0 to those "
            "that are not to be learnt from",
            *(len(weighted), len(items), first["case"], first["weight"]),
        )
