"""nnU-Net from files to files: planned, trained, compared, gone on with after an interruption, and predicted with."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from support import two_workers, workflow_of

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import same_grid
from crossmoda.errors import find_user_error
from crossmoda.files import read_json
from crossmoda.segmentation.nnunet import training as nnunet_training
from crossmoda.segmentation.nnunet.settings import NnUNetFolders
from crossmoda.segmentation.nnunet.spent import read_spent

pytest.importorskip("nnunetv2")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_the_repository", "one_thread")]

BUNDLE = "vs_cochlea_hrt2_segmentation"
TINY: dict[str, Any] = {
    "device": "cpu",
    "folds": 2,
    "train_folds": [0, 1],
    "train_sections": ["source"],
    "trainer": "nnUNetTrainerNoMirroring",  # mirrored copies would be most of the time
    "max_epochs": 1,
    "iterations_per_epoch": 2,
    "validation_iterations": 1,
    "memory_gb": 0.05,
    "num_workers": 0,
    "predict_sections": ["validation"],
}


def train(configs: Path, dataset: Path, output: Path, names: tuple[str, ...] = ("nnunet",), **changes: Any) -> None:
    settings = {**TINY, "dataset_dir": dataset, "output_dir": output, **changes}
    workflow_of(configs, list(names), "train", **settings).run()


@pytest.fixture(scope="module")
def trained(configs: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of two folds of one epoch."""
    output = tmp_path_factory.mktemp("nnunet")
    train(configs, tiny_dataset, output)
    return output


def no_process(*arguments: Any, **options: Any) -> Any:
    raise AssertionError("nnU-Net was started")


def test_folds_are_trained_by_the_workers_of_a_cluster(
    configs: Path, tiny_dataset: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with two_workers() as scheduler, caplog.at_level("INFO", logger="crossmoda.launching.cluster"):
        train(configs, tiny_dataset, tmp_path, scheduler=scheduler, max_epochs=2, predict_sections=[])
    began = re.findall(r"nnunet/parts/\S+|nnU-Net, ([a-z0-9_]+(?:, fold \d)?): begun by", caplog.text)
    assert sorted(began) == ["3d_fullres, fold 0", "3d_fullres, fold 1", "choice", "plans"]
    alone, together = (read_json(folder / "model.json")["nnunet"] for folder in (trained, tmp_path))
    assert together["members"][0]["folds"] == alone["members"][0]["folds"] == ["0", "1"]
    assert together["plans"] == alone["plans"]
    assert list(together["cross_validation"]) == list(alone["cross_validation"])
    assert read_json(tmp_path / "history.json")["epoch"] == [1, 2]


def test_predictions_lie_on_the_images_own_grids(trained: Path, tiny_dataset: Path) -> None:
    items = load_datalist(tiny_dataset)["validation"]
    for item in items:
        label = trained / "predictions" / f"{item['case']}_Label.nii.gz"
        assert same_grid(label, item["image"])
        assert set(np.unique(np.asarray(nib.load(label).dataobj))) <= {0, 1, 2}  # type: ignore[attr-defined]
    assert len(list((trained / "predictions").iterdir())) == len(items) == 2


def test_the_model_holds_the_folds_and_what_cross_validation_chose(trained: Path) -> None:
    sidecar = read_json(trained / "model.json")
    described = sidecar["nnunet"]
    assert sidecar["structures"] == ["vs", "cochlea"]
    assert described["dataset"]["labels"] == {"background": 0, "vs": 1, "cochlea": 2}
    assert described["members"][0]["folds"] == ["0", "1"]
    assert described["members"][0]["mirror_axes"] is None
    assert list(described["cross_validation"]) == ["nnUNetTrainerNoMirroring__nnUNetPlans__3d_fullres"]
    folders = NnUNetFolders(trained / "nnunet")
    chosen = next(folders.results.rglob("postprocessing.json"))
    steps = [step["labels_or_regions"] for step in read_json(chosen)["postprocessing_kwargs"]]
    assert described["postprocessing"] == steps
    weights = torch.load(trained / "model.pt", weights_only=True)
    fold = folders.model("nnUNetTrainerNoMirroring", "3d_fullres") / "fold_1" / "checkpoint_final.pth"
    own = torch.load(fold, weights_only=False)["network_weights"]
    assert all(torch.equal(value, weights[f"members.0.1.{name}"]) for name, value in own.items())


def test_the_history_has_the_mean_of_both_folds_losses(trained: Path) -> None:
    history = read_json(trained / "history.json")
    assert history["epoch"] == [1]
    assert set(history["series"]) == {"loss", "val_loss", "val_mean_dice"}
    logs = [path.read_text() for path in sorted((trained / "nnunet").rglob("training_log*.txt"))]
    printed = [float(re.findall(r"train_loss (\S+)", log)[-1]) for log in logs]
    assert len(printed) == 2
    assert history["series"]["loss"] == [pytest.approx(sum(printed) / 2, abs=1e-4)]


def test_what_it_took_is_recorded_and_the_time_left_is_told(trained: Path) -> None:
    spent = read_spent(trained)
    assert set(spent.watch.seconds) == {"planning", "training", "validation", "choosing"}
    assert len(spent.epochs["3d_fullres"]) == 2  # one of each fold
    pace = spent.pace("3d_fullres", steps=3)
    assert 0 < 3 * pace.step < spent.watch.seconds["training"]
    assert spent.mib > 100
    for log in (trained / "nnunet").rglob("training_log*.txt"):
        assert "0 epochs left in this fold, about 0.0 s" in log.read_text()


def test_everything_lies_in_the_run_and_this_process_s_environment_is_left_alone(trained: Path) -> None:
    assert not [name for name in os.environ if name.startswith("nnUNet_")]
    assert {path.name for path in (trained / "nnunet").iterdir() if path.is_dir()} == {
        "nnUNet_raw",
        "nnUNet_preprocessed",
        "nnUNet_results",
    }


def test_what_is_trained_is_not_trained_again(
    configs: Path, tiny_dataset: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (trained / "model.pt").stat().st_mtime_ns
    monkeypatch.setattr(nnunet_training.subprocess, "run", no_process)
    train(configs, tiny_dataset, trained, predict_sections=[])
    assert (trained / "model.pt").stat().st_mtime_ns == before


def test_a_target_spacing_is_planned_along_the_axes_it_is_given_for_and_features_are_as_few_as_asked_for(
    configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    changes = {"target_spacing": [1.4, 1.2, 2.5], "base_features": 4, "train_folds": "all", "predict_sections": []}
    train(configs, tiny_dataset, tmp_path, **changes)
    plans = read_json(next((tmp_path / "nnunet" / "nnUNet_preprocessed").glob("*/nnUNetPlans.json")))
    assert plans["configurations"]["3d_fullres"]["spacing"] == [2.5, 1.2, 1.4]  # nnU-Net counts from z
    member = torch.load(tmp_path / "model.pt", weights_only=True)
    assert next(weights.shape[0] for name, weights in member.items() if name.endswith("convs.0.conv.weight")) == 4


def test_the_other_checkpoint_makes_another_model_without_training(
    configs: Path, tiny_dataset: Path, trained: Path
) -> None:
    place = NnUNetFolders(trained / "nnunet").model("nnUNetTrainerNoMirroring", "3d_fullres")
    logs = sorted(place.rglob("training_log*"))
    train(configs, tiny_dataset, trained, checkpoint="best", predict_sections=[])
    assert read_json(trained / "model.json")["nnunet"]["checkpoint"] == "best"
    assert sorted(place.rglob("training_log*")) == logs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": "nnUNetTrainerOfMine"}, "trainer 'nnUNetTrainerOfMine': nnU-Net has no class of that name"),
        ({"planner": "MyPlanner"}, "planner 'MyPlanner': nnU-Net has no class of that name"),
        ({"predict_sections": ["tests"]}, "tests"),
        ({"configurations": ["3d_lowres"]}, "configuration 3d_lowres: nnU-Net has not planned it for these scans"),
    ],
)
def test_what_nnunet_alone_can_know_to_be_wrong_is_one_line(
    configs: Path, tiny_dataset: Path, trained: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, tiny_dataset, trained, **changes)
    assert message in str(find_user_error(caught.value))


def killed_when(exists: str, root: Path) -> Any:
    """Return a stand-in for ``subprocess.run`` that kills the process once a file of that name is in the results."""

    def run(command: list[str], env: dict[str, str], check: bool) -> Any:
        process = subprocess.Popen(command, env=env)
        while process.poll() is None and not list(root.rglob(exists)):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        return subprocess.CompletedProcess(command, process.wait())

    return run


def test_a_killed_training_goes_on_from_its_checkpoint(
    configs: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 epochs with a checkpoint each, the second process must not begin with epoch 0. One fold of all cases."""
    long = {"train_folds": "all", "max_epochs": 4, "checkpoint_interval": 1, "keep_preprocessed": False}
    with monkeypatch.context() as patched:
        patched.setattr(nnunet_training.subprocess, "run", killed_when("checkpoint_latest.pth", tmp_path))
        with pytest.raises(Exception, match=r".") as caught:
            train(configs, tiny_dataset, tmp_path, **long)
    assert "run the same command again, which goes on from here" in str(find_user_error(caught.value))
    train(configs, tiny_dataset, tmp_path, names=("train", "nnunet"), **long)
    first, second = sorted((tmp_path / "nnunet").rglob("training_log*"))
    assert "Epoch 0\n" in first.read_text().replace(" \n", "\n")
    epochs = [line.split()[-1] for line in second.read_text().splitlines() if " Epoch " in line and "time" not in line]
    assert "0" not in epochs
    assert epochs[-1] == "3"
    assert read_json(tmp_path / "model.json")["nnunet"]["members"][0]["folds"] == ["all"]
    assert not (tmp_path / "nnunet" / "nnUNet_preprocessed").exists()
    assert len(list((tmp_path / "predictions").glob("*_Label.nii.gz"))) == 2
