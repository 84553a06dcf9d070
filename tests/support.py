"""What tests of several folders use: bundles' workflows, and the loop at its smallest."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml
from monai.bundle import ConfigWorkflow

from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.self_training import load_run
from crossmoda.self_training.bundles import make_workflow, run_workflow

BUNDLES = Path(__file__).resolve().parent.parent / "bundles"
LOOP = BUNDLES / "vs_cochlea_self_training" / "configs"
TINY_GRID: dict[str, Any] = {"spacing": [1.6, 1.6, 3.0], "crop_size": [48, 32]}
TINY_SEGMENTER: dict[str, Any] = {
    **TINY_GRID,
    "patch_size": [32, 32, 8],
    "iterations_per_epoch": 2,
    "max_epochs": 1,
    "batch_size": 1,
}
NETWORKS = ("dynunet", "unet2d5", "resunet2d5")  # kinds of segmenters that learn from patches
TINY_PATCH: dict[str, Any] = {"patch_size": [48, 32, 8]}
TINY_TRANSLATOR: dict[str, Any] = {"ngf": 4, "ndf": 4, "batch_size": 2, "patch_size": [48, 32], "num_workers": 0}
TINY_SIZES: dict[str, Any] = {  # what a profile sets for a recipe
    **TINY_GRID,
    "translator_sizes": {
        **TINY_TRANSLATOR,
        "n_blocks": 5,
        "iterations_per_epoch": 1,
        "max_epochs": 1,
        "validation_interval": 0,
    },
    "translator_inference_sizes": {"ngf": 4, "n_blocks": 5},
    "segmenter_sizes": {
        **{key: {**TINY_PATCH, "iterations_per_epoch": 1, "max_epochs": 1, "batch_size": 1} for key in NETWORKS},
        "nnunet": {},
    },
    "segmenter_inference_sizes": {**dict.fromkeys(NETWORKS, TINY_PATCH), "nnunet": {}},
}
TINY_LOOP: dict[str, Any] = {
    **TINY_GRID,
    "translator_settings": {**TINY_TRANSLATOR, "n_blocks": 1, "iterations_per_epoch": 2, "max_epochs": 2},
    "translator_inference_settings": {"ngf": 4, "n_blocks": 1},
    "segmenter_settings": {"patch_size": [32, 32, 8], "iterations_per_epoch": 2, "max_epochs": 2, "batch_size": 1},
    "segmenter_inference_settings": {"patch_size": [32, 32, 8]},
}


def workflow_of(configs: Path, names: str | list[str], kind: str, **settings: Any) -> ConfigWorkflow:
    """Return an initialised workflow of configuration files of a folder, merged from left to right.

    Args:
        configs: the folder.
        names: of its files, without their ending.
        kind: "train" or "inference".
        settings: overrides; paths may be ``Path``.
    """
    files = [configs / f"{name}.yaml" for name in ([names] if isinstance(names, str) else names)]
    texts = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    workflow = make_workflow(files, kind, **texts)
    workflow.initialize()
    return workflow


def train_in_processes(configs: Path, names: list[str], repository: Path, processes: int = 2, **settings: Any) -> None:
    """Train with ``torchrun``, one process a share of the CPU's cores.

    Args:
        configs: the bundle's folder of configurations.
        names: of the files before ``multi_gpu_train.yaml``, without their ending.
        repository: from which the bundles name each other.
        processes: how many.
        settings: overrides, but for the device.
    """
    files = str([str(configs / f"{name}.yaml") for name in (*names, "multi_gpu_train")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    arguments = [part for key, value in settings.items() for part in (f"--{key}", str(value)) if key != "device"]
    command = [*launcher, "-m", "monai.bundle", "run", "--config_file", files, *arguments]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=repository, env=environment, check=True, timeout=300)


def assert_same_course(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    """Compare the losses and metrics of two trainings, epoch by epoch, with a relative tolerance.

    Args:
        one: output folder of a training.
        other: of the one to compare with.
        tolerance: relative; what rounding in another order makes of float32.
    """
    first, second = (json.loads((folder / "history.json").read_text()) for folder in (one, other))
    assert first["epoch"] == second["epoch"]
    assert first["series"].keys() == second["series"].keys()
    for name, values in first["series"].items():
        np.testing.assert_allclose(
            np.array(second["series"][name], float), np.array(values, float), rtol=tolerance, err_msg=name
        )


def interrupt(engine: Any) -> None:
    """End a training as Ctrl-C does; attach it to an event of the engine."""
    raise KeyboardInterrupt("cut off")


def tiny_loop(**changes: Any) -> dict[str, Any]:
    """Return ``TINY_LOOP`` with changes, those of ``..._settings`` merged into what stands there."""
    merged = dict(TINY_LOOP)
    for key, value in changes.items():
        merged[key] = {**merged[key], **value} if isinstance(merged.get(key), dict) else value
    return merged


def run_loop(dataset: Path, run: Path, *overlays: str, **settings: Any) -> None:
    """Run the self-training loop with the real bundles.

    Args:
        dataset: the data set's folder.
        run: the run's folder.
        overlays: files of the bundle's ``configs`` after ``train.yaml``.
        settings: all overrides, e.g. those of ``tiny_loop``.
    """
    files = [LOOP / name for name in ("train.yaml", *overlays)]
    run_workflow(make_workflow(files, "train", dataset_dir=str(dataset), output_dir=str(run), **settings))


@contextmanager
def two_workers(n_workers: int = 2) -> Iterator[str]:
    """Start a Dask scheduler and workers in processes of their own on this machine, and give its address.

    Dask sets its workers' numbers of threads in this process's environment too; that is put back.
    """
    from distributed import LocalCluster

    with (
        mock.patch.dict(os.environ),
        LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster.scheduler_address


def planned(run: Path) -> dict[str, list[str]]:
    """Return the names of the steps that a run's loop plans, by folder, in order."""
    steps: dict[str, list[str]] = {}
    for step in load_run(run).plan():
        steps.setdefault(step.folder, []).append(step.name)
    return steps


def recorded(run: Path) -> dict[str, list[str]]:
    """Return the names of the steps in a run's manifests, by folder, in the order in which they were first done."""
    manifests = sorted(path for path in run.rglob("manifest.json"))
    return {path.parent.relative_to(run).as_posix(): list(read_json(path)["steps"]) for path in manifests}


def with_misspelt_key(config: Path, place: tuple[str, ...], value: object, folder: Path) -> Path:
    """Write a configuration again into a folder, with a value where the keys of ``place`` lead; return the file."""
    settings = yaml.safe_load(config.read_text())
    mapping, (*path, key) = settings, place
    for name in path:
        mapping[name] = mapping.get(name) or {}
        mapping = mapping[name]
    mapping[key] = value
    wrong = folder / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(settings, sort_keys=False))
    return wrong


def told_by_script(name: str, repository: Path, monkeypatch: Any, **arguments: str) -> str:
    """Return what a script's ``main`` says is the user's to mend, called in this process from the repository."""
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    try:
        importlib.import_module(name).main(**arguments)
    except CrossmodaError as error:
        return str(error)
    raise AssertionError(f"{name} found nothing wrong")


def is_running(pid: int) -> bool:
    """Tell whether a process is there and has not ended; Linux alone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, but nobody has asked for its status


def wait_until_gone(*pids: int, seconds: float = 10) -> bool:
    """Wait until processes have ended; tell whether they all have."""
    until = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(is_running(pid) for pid in pids)
