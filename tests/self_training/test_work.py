"""What the pieces of work depend on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume, write_volume
from crossmoda.self_training import BundleUse
from crossmoda.self_training.steps import Step
from crossmoda.self_training.work import Work


class StepKeys:
    """Stand in for a run's folder: keep the key of each step instead of doing it."""

    def __init__(self) -> None:
        self.path = Path()
        self.keys: dict[str, str] = {}

    def do(self, step: Step) -> None:
        self.keys[step.name] = step.key()


def translator_key(dataset: Path, repository: Path, settings: dict[str, Any]) -> str:
    views = {"cyclegan": BundleUse(root=str(repository / "bundles/cet1_to_hrt2_translation"), train=settings)}
    datalist, folder = load_datalist(dataset), StepKeys()
    work = Work(dataset, datalist, {}, views, views["cyclegan"], [], ["vs", "cochlea"], 0, torch.device("cpu"))
    work.train_translator(folder, "cyclegan")  # type: ignore[arg-type]
    return folder.keys["translator_cyclegan"]


@pytest.mark.parametrize(("settings", "depends"), [({}, False), ({"focus": {"cochlea": 0.5}}, True)])
def test_a_translator_depends_on_labels_only_where_they_choose_its_slices(
    tiny_dataset: Path, repository: Path, tmp_path: Path, settings: dict[str, Any], depends: bool
) -> None:
    dataset = tmp_path / "data"
    shutil.copytree(tiny_dataset, dataset)
    before = translator_key(dataset, repository, settings)
    assert translator_key(dataset, repository, settings) == before
    label = load_datalist(dataset)["source"][0]["label"]
    volume = read_volume(label)
    write_volume(label, np.zeros(volume.array.shape, np.uint8), volume.affine)
    assert (translator_key(dataset, repository, settings) != before) is depends
