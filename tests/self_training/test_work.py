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
from crossmoda.errors import CrossmodaError
from crossmoda.files import write_json
from crossmoda.launching import Course
from crossmoda.self_training import BundleUse, RefineByContrast, TakeAwayFluid
from crossmoda.self_training.labelling import Labelling
from crossmoda.self_training.steps import Step
from crossmoda.self_training.work import Work


class StepKeys:
    """Stand in for a run's folder: keep the key of each step instead of doing it."""

    def __init__(self) -> None:
        self.path = Path()
        self.keys: dict[str, str] = {}

    def doing(self, step: Step) -> Course[None]:
        self.keys[step.name] = step.key()
        yield from ()


def translator_key(dataset: Path, repository: Path, settings: dict[str, Any]) -> str:
    views = {"cyclegan": BundleUse(root=str(repository / "bundles/cet1_to_hrt2_translation"), train=settings)}
    datalist, folder = load_datalist(dataset), StepKeys()
    work = Work(dataset, datalist, {}, views, views["cyclegan"], [], ["vs", "cochlea"], 0, torch.device("cpu"))
    work.train_translators(folder)  # type: ignore[arg-type]
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


SHAPE, SPACING_MM = (60, 40, 20), (0.5, 0.8, 1.5)


def ball(centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    axes = [np.arange(n) * size - at for n, size, at in zip(SHAPE, SPACING_MM, centre_mm, strict=True)]
    return axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2] ** 2 <= radius_mm**2


def scan_and_label() -> tuple[np.ndarray, np.ndarray]:
    """Return a dark tumour in fluid and a cochlea in bone, the one labelled too large, the other beside its place."""
    image = np.random.default_rng(0).normal(10, 1, SHAPE).astype(np.float32)
    image[:, :26] += 90
    image[ball((15, 10, 15), 5)] -= 60
    image[ball((20, 27, 13), 2.5)] += 60
    label = ball((15, 10, 15), 6.2).astype(np.uint8)
    label[ball((20.5, 27.8, 13), 2.5)] = 2
    return image, label


def label_target(folder: Path, axes: tuple[int, ...], flips: tuple[int, ...], shift_mm: float = 0.0) -> np.ndarray:
    """Store scan and label with axes permuted and flipped, apply the contrast rules, and return the label in RAS."""
    plain = np.diag([*SPACING_MM, 1.0])
    affine = plain[:, [*axes, 3]]
    starts = [SHAPE[axis] - 1 if axis in flips else 0 for axis in axes]
    for column, axis in enumerate(axes):
        if axis in flips:
            affine[:, 3] += affine[:, column] * starts[column]
            affine[:, column] *= -1
    image, label = (np.flip(array, flips).transpose(axes) for array in scan_and_label())
    for name in ("predictions", "uncertainty", "reviewed"):
        (folder / name).mkdir(parents=True)
    write_volume(folder / "predictions" / "c_Label.nii.gz", label, affine, dtype=np.uint8)
    affine[0, 3] += shift_mm
    write_volume(folder / "c_hrT2.nii.gz", image, affine)
    write_json(folder / "uncertainty" / "uncertainty.json", {"c": 0.1})
    write_json(folder / "reviewed" / "reviews.json", {})
    target = {"case": "c", "site": "x", "image": str(folder / "c_hrT2.nii.gz")}
    rules = [TakeAwayFluid(), RefineByContrast()]
    places = [folder / name for name in ("predictions", "uncertainty", "reviewed")]
    Labelling([target], [], ["vs", "cochlea"], rules, *places).write(folder / "out")
    stored = read_volume(folder / "out" / "c_Label.nii.gz").array
    return np.flip(stored.transpose(np.argsort(axes)), flips)


@pytest.mark.parametrize(
    ("axes", "flips"), [((0, 1, 2), (0, 1)), ((1, 0, 2), ()), ((2, 0, 1), (2,)), ((1, 2, 0), (0, 2))]
)
def test_pseudo_labels_do_not_depend_on_how_a_scan_s_axes_are_stored(
    tmp_path: Path, axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    before = scan_and_label()[1]
    plain = label_target(tmp_path / "plain", (0, 1, 2), ())
    assert not np.array_equal(plain == 1, before == 1)
    assert not np.array_equal(plain == 2, before == 2)
    np.testing.assert_array_equal(label_target(tmp_path / "stored", axes, flips), plain)


def test_a_scan_that_is_not_on_its_label_s_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"c_hrT2\.nii\.gz: not on the grid"):
        label_target(tmp_path, (0, 1, 2), (), shift_mm=1.0)
