"""nnU-Net's own process: plans, preprocessing, trainings, and the choice of configuration and post-processing.

Started by ``NnUNetTraining`` with nnU-Net's environment, which calls ``main``.
MONAI's ``nnUNetV2Runner`` plans, preprocesses and compares. It does not train here, because it can neither use a CPU
nor set a number of epochs and looks for nnU-Net's command on the PATH; nor does MONAI's ``get_nnunet_trainer``, which
prepares a training before its length could be set. nnU-Net's Python functions do both.

Imports sit inside the functions, so that mistakes in a job are told before nnU-Net is loaded.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossmoda.durations import duration_text
from crossmoda.engines.memory import peak_on_mib
from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path, hash_of, read_json, remove_leavings, write_json
from crossmoda.processes import end_with_parent
from crossmoda.segmentation.nnunet.settings import ALL, CHECKPOINTS, DATASET_ID, PLANS, NnUNetFolders, NnUNetSettings
from crossmoda.segmentation.nnunet.spent import Spent

if TYPE_CHECKING:
    import torch
    from monai.apps.nnunet import nnUNetV2Runner

INFORMATION = "inference_information.json"  # what nnU-Net writes down of its choice
AUGMENTERS = "nnUNet_n_proc_DA"  # the environment's name for the number of augmenting processes
TRAINED = "crossmoda.json"  # in a fold: what it was trained with


def main(job_file: str, parent: str) -> int:
    """Do a job and return the exit status; what the user can mend goes to ``error.json`` beside it.

    Args:
        job_file: what to do: plans, the ``folds`` that it names (by default all), and unless ``choose`` is false the
            choice among configurations.
        parent: number of the process that waits for it, after which nothing would use what is done.
    """
    end_with_parent(int(parent))
    job = read_json(job_file)
    folders, settings = NnUNetFolders(Path(job["root"])), NnUNetSettings(**job["settings"])
    spent = Spent()
    try:
        require_classes(settings)
        with spent.watch.time("planning"):
            plan(folders, settings)
        everything = [(name, fold) for name in settings.configurations for fold in settings.fold_names]
        folds = job.get("folds", everything)
        require_whole_checkpoints(folders, settings)
        trained = [train_fold(folders, settings, configuration, fold, spent) for configuration, fold in folds]
        if settings.cross_validated and job.get("choose", True):
            with spent.watch.time("choosing"):  # anew, too, where others have trained the folds
                choose(folders, settings, anew=any(trained) or not folds)
        if folds == everything:
            spent.write(folders, peak_on_mib(settings.device.split(":")[0]))  # which GPU is in the environment
    except CrossmodaError as error:
        write_json(Path(job_file).with_name("error.json"), {"message": str(error)})
        return 1
    return 0


def require_classes(settings: NnUNetSettings) -> None:
    """Make sure, before hours of preprocessing, that nnU-Net has the planner and the trainer.

    Raises:
        CrossmodaError: it has no class of such a name.
    """
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    for setting, name, place in (
        ("planner", settings.planner, "experiment_planning"),
        ("trainer", settings.trainer, "training.nnUNetTrainer"),
    ):
        folder = Path(nnunetv2.__path__[0], *place.split("."))
        if recursive_find_python_class(str(folder), name, current_module=f"nnunetv2.{place}") is None:
            raise CrossmodaError(f"{setting} '{name}': nnU-Net has no class of that name; correct it")


def require_whole_checkpoints(folders: NnUNetFolders, settings: NnUNetSettings) -> None:
    """Make sure, before further folds are trained, that the weights of finished ones are no fragments.

    Raises:
        CrossmodaError: a file was cut off, as by a full disk.
    """
    for configuration in settings.configurations:
        for fold in settings.fold_names:
            place = folders.model(settings.trainer, configuration) / f"fold_{fold}"
            final = place / CHECKPOINTS["final"]
            if final.is_file() and not zipfile.is_zipfile(final):
                raise CrossmodaError(f"{final}: damaged; delete its folder to train the fold anew")


def plan(folders: NnUNetFolders, settings: NnUNetSettings) -> None:
    """Extract the fingerprint, plan and preprocess, unless it has been done for these configurations."""
    record = folders.preprocessed / "preprocessed.json"
    done = read_json(record)["configurations"] if record.is_file() else []
    left = tuple(name for name in settings.configurations if name not in done)
    if not left:
        return
    runner = _runner(folders, settings)
    processes = settings.preprocessing_processes
    plans = folders.preprocessed / f"{PLANS}.json"
    if not plans.is_file():
        runner.extract_fingerprints(npfp=processes, clean=True)
        _plan_experiment(runner, settings)
    if settings.base_features is not None:  # changes nothing in plans that it has changed already
        write_json(plans, with_base_features(read_json(plans), settings.base_features))
    known = read_json(plans)["configurations"]
    for name in left:
        if name not in known:
            raise CrossmodaError(
                f"configuration {name}: nnU-Net has not planned it for these scans; choose of {', '.join(known)}"
            )
    runner.preprocess(left, (processes,) * len(left), PLANS)
    write_json(record, {"configurations": [*done, *left]})


def _plan_experiment(runner: nnUNetV2Runner, settings: NnUNetSettings) -> None:
    before = os.environ[AUGMENTERS]
    os.environ[AUGMENTERS] = str(max(1, settings.num_workers))  # the planner takes it for PyTorch's threads
    z_y_x = None if settings.target_spacing is None else tuple(float(size) for size in settings.target_spacing)[::-1]
    runner.plan_experiments(
        settings.planner,
        settings.memory_gb,  # type: ignore[arg-type]
        overwrite_target_spacing=z_y_x,
        overwrite_plans_name=PLANS,
    )
    os.environ[AUGMENTERS] = before


def with_base_features(plans: dict[str, Any], features: int) -> dict[str, Any]:
    """Return nnU-Net's plans with networks whose first stage has so many features, and the others in proportion.

    Editing the plans is nnU-Net's own way of changing a network ("How to edit plans files" of its documentation).

    Args:
        plans: as the planner wrote them; a configuration that inherits another's network is left alone.
        features: of the first stage.
    """
    changed = copy.deepcopy(plans)
    for configuration in changed["configurations"].values():
        network = configuration.get("architecture", {}).get("arch_kwargs", {})
        if "features_per_stage" in network:
            first, *_ = stages = network["features_per_stage"]
            network["features_per_stage"] = [count * features // first for count in stages]
    return changed


def _runner(folders: NnUNetFolders, settings: NnUNetSettings) -> nnUNetV2Runner:
    from monai.apps.nnunet import nnUNetV2Runner

    places = {
        "nnunet_raw": str(folders.raw.parent),
        "nnunet_preprocessed": str(folders.preprocessed.parent),
        "nnunet_results": str(folders.results.parent),
        "dataset_name_or_id": str(DATASET_ID),
    }
    return nnUNetV2Runner(places, trainer_class_name=settings.trainer, work_dir=str(folders.root))


def train_fold(
    folders: NnUNetFolders, settings: NnUNetSettings, configuration: str, fold: int | str, spent: Spent
) -> bool:
    """Train and validate a fold, or what is left of it; return whether there was anything to do."""
    place = folders.model(settings.trainer, configuration) / f"fold_{fold}"
    with_probabilities = len(settings.configurations) > 1  # which a pair's average needs
    if not _same_training(place, settings, configuration):
        shutil.rmtree(place, ignore_errors=True)
    trained = (place / CHECKPOINTS["final"]).is_file()
    if trained and _is_validated(place, with_probabilities):
        return False
    place.mkdir(parents=True, exist_ok=True)
    remove_leavings(place)
    write_json(place / TRAINED, {"key": _fold_key(settings, configuration)})
    trainer = _trainer(settings, configuration, fold)
    _time_epochs(trainer, spent.epochs.setdefault(configuration, []))
    _load_checkpoint(trainer, trained, place)
    if not trained:
        with spent.watch.time("training"):
            trainer.run_training()
    if fold != ALL:  # a fold of all cases has none to be validated on
        scans = spent.scans.setdefault(configuration, [])
        with spent.watch.time("validation"), _precision(settings), _timed_scans(scans):
            trainer.perform_actual_validation(with_probabilities)
    return True


def _precision(settings: NnUNetSettings) -> torch.autocast:
    """Return the context of predictions: nnU-Net has one of its own on a GPU alone."""
    import torch

    wanted = settings.amp and torch.device(settings.device).type == "cpu"
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=wanted)


@contextmanager
def _timed_scans(scans: list[float]) -> Iterator[None]:
    """Note what nnU-Net's prediction of each scan takes within the block: its validation tells of them all together."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    name = "predict_sliding_window_return_logits"
    predict = getattr(nnUNetPredictor, name)

    def timed(*args: Any) -> Any:
        started = time.monotonic()
        logits = predict(*args)
        scans.append(time.monotonic() - started)
        return logits

    setattr(nnUNetPredictor, name, timed)
    try:
        yield
    finally:
        setattr(nnUNetPredictor, name, predict)


def _fold_key(settings: NnUNetSettings, configuration: str) -> str:
    return hash_of([settings.training_key, configuration])


def _same_training(place: Path, settings: NnUNetSettings, configuration: str) -> bool:
    record = place / TRAINED
    return record.is_file() and read_json(record).get("key") == _fold_key(settings, configuration)


def _is_validated(place: Path, with_probabilities: bool) -> bool:
    if place.name == f"fold_{ALL}":
        return True
    validation = place / "validation"
    return (validation / "summary.json").is_file() and (not with_probabilities or any(validation.glob("*.npz")))


def _trainer(settings: NnUNetSettings, configuration: str, fold: int | str) -> Any:
    """Return nnU-Net's trainer with our lengths: plain attributes, which it reads only when a training begins.

    A class of ours would do as well, but then no other nnU-Net could load what it trained, as it looks the class up.
    """
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    device = torch.device(torch.device(settings.device).type)  # which GPU is in the environment
    torch.set_num_threads(1 if device.type == "cuda" else torch.get_num_threads())
    trainer = get_trainer_from_args(
        str(DATASET_ID), configuration, fold, settings.trainer, PLANS, continue_training=True, device=device
    )
    for attribute, value in {
        "initial_lr": settings.learning_rate,
        "num_epochs": settings.max_epochs,
        "num_iterations_per_epoch": settings.iterations_per_epoch,
        "num_val_iterations_per_epoch": settings.validation_iterations,
        "save_every": settings.checkpoint_interval,
    }.items():
        if value is not None:
            setattr(trainer, attribute, value)
    _save_whole(trainer)
    return trainer


def _save_whole(trainer: Any) -> None:
    """Make a trainer write whole checkpoints or none: nnU-Net's own, killed while it writes, leaves a damaged one."""
    save = trainer.save_checkpoint

    def save_checkpoint(filename: str) -> None:
        with atomic_path(filename) as partial:
            save(str(partial))

    trainer.save_checkpoint = save_checkpoint


def _time_epochs(trainer: Any, epochs: list[tuple[float, float]]) -> None:
    """Make a trainer note what each epoch takes, and say how long the rest of the fold will, at the last one's pace.

    Args:
        trainer: nnU-Net's.
        epochs: gets the seconds of each epoch's steps, and those of what comes after them: checkpoint and picture.
    """
    end = trainer.on_epoch_end

    def on_epoch_end() -> None:
        end()  # which counts the epoch
        began, stepped = (trainer.logger.get_value(f"epoch_{name}_timestamps", step=-1) for name in ("start", "end"))
        epochs.append((stepped - began, time.time() - stepped))
        left = trainer.num_epochs - trainer.current_epoch
        told = f"{left} epochs left in this fold, about {duration_text(left * sum(epochs[-1]))}"
        trainer.print_to_log_file(told)

    trainer.on_epoch_end = on_epoch_end


def _load_checkpoint(trainer: Any, trained: bool, place: Path) -> None:
    """Let a training go on where it was, or a finished one be validated."""
    from nnunetv2.run.run_training import maybe_load_checkpoint

    try:
        maybe_load_checkpoint(trainer, continue_training=not trained, validation_only=trained)
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise CrossmodaError(f"{place}: its checkpoint is damaged; delete this folder to train it anew") from error


def choose(folders: NnUNetFolders, settings: NnUNetSettings, anew: bool) -> None:
    """Let nnU-Net choose configuration and post-processing by cross-validation over the trained folds."""
    record = folders.results / INFORMATION
    wanted = {(settings.trainer, name) for name in settings.configurations}
    if record.is_file() and not anew:
        chosen = read_json(record)
        considered = {(model["trainer"], model["configuration"]) for model in chosen["considered_models"]}
        if considered == wanted and list(chosen["folds"]) == settings.fold_names:
            return
    _runner(folders, settings).find_best_configuration(
        plans=PLANS,
        configs=tuple(settings.configurations),
        allow_ensembling=len(settings.configurations) > 1,
        num_processes=max(1, settings.num_workers),
        folds=tuple(int(fold) for fold in settings.fold_names),
    )
