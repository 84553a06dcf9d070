"""The comparison of segmenters, as a command, on a data set of a few thousand voxels."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import told_by_script, with_misspelt_key

SIZE: dict[str, Any] = {
    "phantom": None,
    "shared": {
        "structures": ["vs", "cochlea"],
        "spacing": [1.6, 1.6, 3.0],
        "crop_size": [48, 32],
        "patch_size": [48, 32, 8],  # of 32 voxels, four halvings leave 2, which bfloat16 does not learn from
    },
    "train": {"iterations_per_epoch": 2, "max_epochs": 1, "batch_size": 1, "seed": 3},
    "inference": {},
}
NARROW = {"network_def::filters": [4, 4, 8, 8]}
METHODS: dict[str, Any] = {
    "DynUNet": {"shared": NARROW},
    "2.5D ResUNet": {"overlays": ["variant_resunet2d5.yaml"], "shared": {"network_def::channels": 2}},
}


def compare(repository: Path, config: Path, dataset: Path, output: Path, *options: str) -> tuple[int, str, str]:
    command = [sys.executable, "scripts/compare_segmenters.py", "--config", str(config), "--size", "tiny"]
    places = ["--dataset", str(dataset), "--output_dir", str(output), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *places], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "segmenters.yaml"
    path.write_text(yaml.safe_dump({"sizes": {"tiny": SIZE}, "methods": METHODS}, sort_keys=False))
    return path


def test_every_network_is_trained_measured_and_shown_once(
    repository: Path, config: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "segmenters"
    status, printed, errors = compare(repository, config, tiny_dataset, output)
    assert status == 0, errors[-2000:]
    rows = json.loads((output / "comparison.json").read_text())
    assert list(rows) == list(METHODS)
    for name, row in rows.items():
        assert 0 <= row["dice_vs"] <= 1
        assert row["training_mib"] > 1
        metrics = json.loads((output / folder(name) / "metrics.json").read_text())
        assert row["dice_cochlea"] == metrics["structures"]["cochlea"]["dice"]["mean"]
        assert 0 < row["step_seconds"] < 10
    assert rows["DynUNet"]["million"] != rows["2.5D ResUNet"]["million"]
    assert (output / "comparison.md").read_text() in printed
    assert (output / "comparison.png").stat().st_size > 5_000
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.pt")}
    status, again, _ = compare(repository, config, tiny_dataset, output, "--only", "DynUNet")
    assert status == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.pt")} == before
    assert (output / "comparison.md").read_text() in again
    assert json.loads((output / "comparison.json").read_text()) == rows


def folder(name: str) -> str:
    return {"DynUNet": "dynunet", "2.5D ResUNet": "2_5d_resunet"}[name]


def test_a_method_that_is_not_there_is_named_in_one_line(
    repository: Path, config: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    status, _, errors = compare(repository, config, tiny_dataset, tmp_path / "out", "--only", "Transformer")
    assert status != 0
    assert "Transformer: no such method" in errors.strip().splitlines()[-1]


MISSPELT: dict[str, tuple[tuple[str, ...], str]] = {  # where in the file what stands, and what is told
    "section": (("method",), "no such key 'method'; did you mean 'methods'?"),
    "size": (("sizes", "tiny", "trian"), "size 'tiny': no such key 'trian'; did you mean 'train'?"),
    "phantom": (("sizes", "tiny", "phantom", "case"), "phantom of size 'tiny': no such argument 'case'"),
    "method": (("methods", "DynUNet", "overlay"), "method 'DynUNet': no such key 'overlay'; did you mean 'overlays'?"),
    "setting": (
        ("methods", "2.5D ResUNet", "inference", "window_overlp"),
        "method '2.5D ResUNet': no such key 'window_overlp' in bundles/vs_cochlea_hrt2_segmentation/configs/inference",
    ),
}


@pytest.mark.parametrize("where", MISSPELT)
def test_a_misspelt_key_is_named_before_the_first_training(
    where: str, repository: Path, config: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, message = MISSPELT[where]
    wrong = with_misspelt_key(config, place, 1, tmp_path)
    places = {"output_dir": str(tmp_path / "out"), "config": str(wrong), "dataset": str(tiny_dataset)}
    told = told_by_script("compare_segmenters", repository, monkeypatch, size="tiny", **places)
    assert told.startswith(f"{wrong}: {message}")
    assert not (tmp_path / "out" / "dynunet").exists()


def test_a_method_that_cannot_be_trained_is_found_before_the_first_is(
    repository: Path, config: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load(config.read_text())
    settings["methods"]["2.5D ResUNet"]["shared"]["patch_size"] = [40, 32, 8]
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(settings, sort_keys=False))
    status, _, errors = compare(repository, wrong, tiny_dataset, tmp_path / "out")
    assert status != 0
    assert "patch_size [40, 32, 8] does not fit network_def (ResUNet2D5)" in errors.strip().splitlines()[-1]
    assert not (tmp_path / "out" / "dynunet").exists()


def test_the_file_that_comes_with_the_project_has_no_key_that_nobody_reads(
    repository: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    module = importlib.import_module("compare_segmenters")
    scale, methods = module.read_settings("configs/segmenters.yaml", "synthetic", module.OF_A_SIZE, module.OF_A_METHOD)
    for method in methods.values():
        for kind in ("train", "inference"):
            module.work_of(method, scale, tmp_path, tiny_dataset).segmenter.require_known_keys(kind)
    assert len(methods) > 4
