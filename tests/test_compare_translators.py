"""The comparison of translators, as a command, on a data set of a few thousand voxels."""

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

from crossmoda.data.datalist import load_datalist

SIZE: dict[str, Any] = {
    "phantom": None,
    "shared": {"spacing": [1.6, 1.6, 3.0], "crop_size": [48, 32], "ngf": 4, "n_blocks": 1, "num_workers": 0},
    "train": {"ndf": 4, "patch_size": [48, 32], "iterations_per_epoch": 1, "max_epochs": 1, "minimum_foreground": 0.0},
    "evaluate": {"structures": ["vs", "cochlea"]},
    "teach": {
        "shared": {
            "spacing": [1.6, 1.6, 3.0],
            "crop_size": [48, 32],
            "patch_size": [32, 32, 8],
            "structures": ["vs", "cochlea"],
        },
        "train": {"iterations_per_epoch": 1, "max_epochs": 1, "batch_size": 1, "seed": 3},
        "inference": {},
    },
}
NCE = {"nce_layers": [0, 4, 8], "patches": 8, "projection_width": 4}
METHODS: dict[str, Any] = {
    "CycleGAN of sites, ldn": {"shared": {"sites": ["ldn", "etz"], "site": "ldn"}},
    "CycleGAN of sites, etz": {
        "weights_of": "CycleGAN of sites, ldn",
        "shared": {"sites": ["ldn", "etz"], "site": "etz"},
    },
    "CUT": {"train_overlays": ["variant_cut.yaml"], "train": NCE, "shared": {"antialias": True}},
    "of a site that is not there": {"shared": {"sites": ["ukm"], "site": "ukm"}},
}


def compare(repository: Path, config: Path, dataset: Path, output: Path, *options: str) -> str:
    command = [sys.executable, "scripts/compare_translators.py", "--config", str(config), "--size", "tiny"]
    places = ["--dataset", str(dataset), "--output_dir", str(output), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, *places], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "translators.yaml"
    path.write_text(yaml.safe_dump({"sizes": {"tiny": SIZE}, "methods": METHODS}, sort_keys=False))
    return path


def test_every_method_is_trained_measured_and_shown_once(
    repository: Path, config: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    output = tmp_path / "translators"
    printed = compare(repository, config, tiny_dataset, output, "--teach", "true")
    rows = json.loads((output / "comparison.json").read_text())
    assert list(rows) == [*list(METHODS)[:3], "no translation", "real hrT2 of others"]  # no true hrT2 is known here
    measures = ("contrast_vs", "edges_cochlea", "flicker", "frechet_distance")
    assert all(isinstance(rows[name][key], float) for name in list(METHODS)[:3] for key in measures)
    assert rows["CycleGAN of sites, ldn"] != rows["CycleGAN of sites, etz"]
    taught = [name for name in rows if "taught_cochlea" in rows[name]]
    assert taught == [*list(METHODS)[:3], "no translation"]
    assert all(0 <= rows[name]["taught_vs"] <= 1 for name in taught)
    learnt = load_datalist(output / "cut" / "taught" / "datalist.json")["source"]
    assert all("cut/evaluation/pseudo_hrt2" in item["image"] and item["view"] == "CUT" for item in learnt)
    assert (output / "comparison.png").stat().st_size > 5_000
    assert (output / "comparison.md").read_text() in printed
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.pt")}
    compare(repository, config, tiny_dataset, output, "--teach", "true")
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.pt")} == before


MISSPELT: dict[str, tuple[tuple[str, ...], str]] = {  # where in the file what stands, and what is told
    "size": (("sizes", "tiny", "segmenter_setings"), "size 'tiny': no such key 'segmenter_setings'; did you mean"),
    "method": (("methods", "CUT", "inference"), "method 'CUT': no such key 'inference'; did you mean"),  # none reads it
    "training": (("methods", "CUT", "train", "nce_layer"), "method 'CUT': no such key 'nce_layer' in bundles/"),
    "evaluation": (("sizes", "tiny", "evaluate", "ring"), "method 'CycleGAN of sites, ldn': no such key 'ring' in "),
    "segmenter": (("sizes", "tiny", "segmenter_settings", "spacng"), "segmenter_settings: no such key 'spacng' in "),
    "teaching": (("sizes", "tiny", "teach", "train", "max_epoch"), "teach: no such key 'max_epoch' in bundles/vs_"),
    "weights": (("methods", "CUT", "weights_of"), "method 'CUT': no method 'Cut'; did you mean 'CUT'?"),
}


@pytest.mark.parametrize("where", MISSPELT)
def test_a_misspelt_key_is_named_before_the_first_training(
    where: str, repository: Path, config: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, message = MISSPELT[where]
    wrong = with_misspelt_key(config, place, "Cut" if MISSPELT[where][0][-1] == "weights_of" else {}, tmp_path)
    places = {"output_dir": str(tmp_path / "out"), "config": str(wrong), "dataset": str(tiny_dataset)}
    told = told_by_script("compare_translators", repository, monkeypatch, size="tiny", **places)
    assert told.startswith(f"{wrong}: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["synthetic", "real"])
def test_the_file_that_comes_with_the_project_has_no_key_that_nobody_reads(
    size: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    module, config = importlib.import_module("compare_translators"), "configs/translators.yaml"
    scale, methods = module.read_settings(config, size, module.OF_A_SIZE, module.OF_A_METHOD)
    module.require_usable_methods(config, methods, scale)
    assert len(methods) > 10
