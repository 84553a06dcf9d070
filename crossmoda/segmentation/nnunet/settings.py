"""What may be chosen for a training of nnU-Net, and where it keeps its files."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from crossmoda.data.folds import require_fold
from crossmoda.errors import CrossmodaError, require_flag
from crossmoda.files import hash_of

ALL = "all"  # nnU-Net's name of the fold that learns from every case
CHECKPOINTS = {"final": "checkpoint_final.pth", "best": "checkpoint_best.pth"}
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
DATASET_ID = 1  # every run folder is a world of its own, in which there is one data set
DATASET = f"Dataset{DATASET_ID:03d}_crossmoda"
PLANS = "nnUNetPlans"
POSITIVE = (
    "max_epochs",
    "iterations_per_epoch",
    "validation_iterations",
    "checkpoint_interval",
    "memory_gb",
    "base_features",
    "learning_rate",
    "plan_for_cases",
)


def require_nnunet() -> None:
    """Make sure that nnU-Net is installed.

    Raises:
        CrossmodaError: it is not.
    """
    if importlib.util.find_spec("nnunetv2") is None:
        raise CrossmodaError("nnU-Net is not installed; run pip install 'crossmoda[nnunet]'")


@dataclass(frozen=True)
class NnUNetSettings:
    """How nnU-Net plans and trains; what is None is left to nnU-Net.

    Args:
        structures: names of the output channels 1, 2, ...
        configurations: of ``2d``, ``3d_fullres``, ``3d_lowres``; with several, cross-validation chooses one or a pair.
        folds: number of folds.
        train_folds: which folds to train, or ``all`` for one network that learns from every case.
        seed: of the folds; nnU-Net's own draws are not seeded.
        planner: nnU-Net's planner, e.g. ``ExperimentPlanner`` or ``nnUNetPlannerResEncM``.
        memory_gb: GPU memory that patch and batch are made to fit; the planner's own target by default.
        base_features: of a network's first stage, those of later stages in proportion; the planner's own 32 by default.
            Patch and batch stay as planned for these.
        plan_for_cases: as if there were so many: nnU-Net makes its batches smaller for few; by default those there are.
        target_spacing: mm along x, y and z in RAS, to which ``3d_fullres`` resamples; nnU-Net's own choice by default.
        trainer: nnU-Net's trainer class, e.g. ``nnUNetTrainer`` or ``nnUNetTrainerNoMirroring``.
        learning_rate: at the beginning of a training; the trainer's own by default.
        max_epochs: of each fold.
        iterations_per_epoch: batches learnt from in an epoch.
        validation_iterations: batches validated on after an epoch.
        checkpoint_interval: epochs between two checkpoints from which a training goes on.
        checkpoint: which of a fold's weights make the model, ``final`` or ``best``.
        device: torch device; nnU-Net knows "cpu", "cuda" (also "cuda:1") and "mps".
        amp: predict the cases that a fold holds out in bfloat16 on a CPU; trainings are nnU-Net's own.
        num_workers: processes for preprocessing, augmentation and export; 0 augments in the training's own process and
            preprocesses, when nothing else is at work, with as many as there are cores, 8 at most.

    Raises:
        CrossmodaError: a setting that cannot be, naming it.
    """

    structures: Sequence[str]
    configurations: Sequence[str] = ("3d_fullres",)
    folds: int = 5
    train_folds: str | int | Sequence[int] = (0, 1, 2, 3, 4)
    seed: int = 0
    planner: str = "ExperimentPlanner"
    memory_gb: float | None = None
    base_features: int | None = None
    plan_for_cases: int | None = None
    target_spacing: Sequence[float] | None = None
    trainer: str = "nnUNetTrainer"
    learning_rate: float | None = None
    max_epochs: int | None = None
    iterations_per_epoch: int | None = None
    validation_iterations: int | None = None
    checkpoint_interval: int | None = None
    checkpoint: str = "final"
    device: str = "cpu"
    amp: bool = False
    num_workers: int = 4

    def __post_init__(self) -> None:
        """Refuse what nnU-Net would stumble over only after hours of preprocessing."""
        require_flag("amp", self.amp)
        unknown = [name for name in self.configurations if name not in CONFIGURATIONS]
        if unknown or not self.configurations:
            raise CrossmodaError(
                f"configurations {list(self.configurations)}: give some of {', '.join(CONFIGURATIONS)} "
                "(a cascade is not supported)"
            )
        if self.checkpoint not in CHECKPOINTS:
            raise CrossmodaError(f"checkpoint '{self.checkpoint}' is unknown; choose {' or '.join(CHECKPOINTS)}")
        if not self.fold_names:
            raise CrossmodaError("train_folds is empty; name folds, or all")
        if self.cross_validated:
            for fold in self.fold_names:
                require_fold(int(fold), self.folds)
        elif len(self.configurations) > 1:
            raise CrossmodaError(
                "train_folds all leaves no case to compare configurations on; name one configuration, or train folds"
            )
        self._require_sizes()

    @property
    def preprocessing_processes(self) -> int:
        """How many processes read and resample the scans before anything is trained."""
        return self.num_workers or min(8, os.cpu_count() or 1)

    def _require_sizes(self) -> None:
        """Refuse numbers that cannot be."""
        if self.num_workers < 0:
            raise CrossmodaError(f"num_workers is {self.num_workers}; give 0 or more")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise CrossmodaError(f"{name} is {value}; give a positive number, or null for nnU-Net's own")

        if self.base_features is not None and not isinstance(self.base_features, int):
            raise CrossmodaError(f"base_features is {self.base_features}; give a whole number")
        spacing = self.target_spacing
        if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
            raise CrossmodaError(
                f"target_spacing is {list(spacing)}; give three positive numbers of mm, for x, y and z"
            )

    @property
    def fold_names(self) -> list[int | str]:
        """The folds to train, as nnU-Net names them: numbers, or ``["all"]``."""
        if isinstance(self.train_folds, str):
            if self.train_folds != ALL:
                raise CrossmodaError(f"train_folds is '{self.train_folds}'; give a list of folds, or all")
            return [ALL]
        given = [self.train_folds] if isinstance(self.train_folds, int) else self.train_folds
        return sorted({int(fold) for fold in given})

    @property
    def cross_validated(self) -> bool:
        """Whether folds are held out, so that configurations and post-processing can be chosen."""
        return self.fold_names != [ALL]

    @property
    def planning_key(self) -> str:
        """A hash of what decides the plans."""
        spacing = [] if self.target_spacing is None else [[float(size) for size in self.target_spacing]]
        cases = [] if self.plan_for_cases is None else [f"for {self.plan_for_cases} cases"]
        features = [] if self.base_features is None else [f"{self.base_features} features"]
        return hash_of([self.planner, self.memory_gb, *spacing, *cases, *features])

    @property
    def training_key(self) -> str:
        """A hash of what decides a fold's weights, beside the data and the plans."""
        lengths = [self.max_epochs, self.iterations_per_epoch, self.validation_iterations]
        rate = [] if self.learning_rate is None else [f"rate {self.learning_rate:g}"]
        return hash_of([self.trainer, *lengths, self.folds, self.seed, *rate])

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class NnUNetFolders:
    """nnU-Net's three folders inside a run, and the environment that tells a process of them.

    Args:
        root: the folder that holds them.
    """

    root: Path

    @property
    def raw(self) -> Path:
        """The data set in nnU-Net's format."""
        return self.root / "nnUNet_raw" / DATASET

    @property
    def preprocessed(self) -> Path:
        """Fingerprint, plans, splits and preprocessed volumes."""
        return self.root / "nnUNet_preprocessed" / DATASET

    @property
    def results(self) -> Path:
        """Trained folds, cross-validation and what was chosen by it."""
        return self.root / "nnUNet_results" / DATASET

    def model(self, trainer: str, configuration: str) -> Path:
        """Return the folder of a configuration's folds."""
        return self.results / f"{trainer}__{PLANS}__{configuration}"

    def environment(self, device: str, num_workers: int) -> dict[str, str]:
        """Return the environment for a process of nnU-Net; this process's own is left alone."""
        variables = {
            "nnUNet_raw": str(self.raw.parent),
            "nnUNet_preprocessed": str(self.preprocessed.parent),
            "nnUNet_results": str(self.results.parent),
            "nnUNet_def_n_proc": str(max(1, num_workers)),
            "nnUNet_n_proc_DA": str(num_workers),
        }
        return {**os.environ, **variables, **_visible(torch.device(device))}


def _visible(device: torch.device) -> dict[str, str]:
    """Show nnU-Net one GPU only where one is named: it always takes the first."""
    if device.type != "cuda" or not device.index:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else []
    return {"CUDA_VISIBLE_DEVICES": names[device.index] if device.index < len(names) else str(device.index)}
