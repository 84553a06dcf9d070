"""The benchmark of systems, as a command, on scans of a few thousand voxels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossmoda.files import read_json

SCANS: dict[str, Any] = {"field_of_view_mm": [90, 64, 40], "coarsen": 3, "processes": 1}
PATCH = {"patch_size": [32, 32, 8]}
PROFILE: dict[str, Any] = {
    "spacing": [1.6, 1.6, 3.0],
    "crop_size": [48, 32],
    "translator_sizes": {
        **{"ngf": 4, "n_blocks": 1, "ndf": 4, "batch_size": 2, "patch_size": [48, 32], "num_workers": 0},
        **{"iterations_per_epoch": 1, "max_epochs": 1},
    },
    "translator_inference_sizes": {"ngf": 4, "n_blocks": 1},
    "segmenter_sizes": {
        "patches": {**PATCH, "iterations_per_epoch": 1, "max_epochs": 1, "batch_size": 1},
        "nnunet": {},
    },
    "segmenter_inference_sizes": {"patches": PATCH, "nnunet": {}},
}


def write(path: Path, content: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    profile, recipe = write(folder / "profile.yaml", PROFILE), write(folder / "recipe.yaml", {"rules": []})
    size = {
        "profile": profile,
        "phantom": {**SCANS, "cases": 2, "validation": 2, "seed": 11, "edition": "2022"},
        "unseen": {**SCANS, "cases": 1, "validation": 3, "seed": 12, "edition": "2023"},
    }
    path = folder / "benchmark.yaml"
    settings = {"structures": ["vs", "cochlea"], "anchors": False, "rounds": 1, "pseudo_hrt2_weights": [1.0]}
    published = {"Ours": [0.5, 1.0, 0.5, None]}
    systems = {"sizes": {"tiny": size}, "unseen_site": "ukm", "systems": {"Ours": recipe}}
    write(path, {**systems, "settings": settings, "published": published})
    return path


def run(repository: Path, config: Path, output: Path, *options: str) -> tuple[int, str, str]:
    command = [sys.executable, "scripts/benchmark_systems.py", "--config", str(config), "--size", "tiny"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "--output_dir", str(output), *options],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_systems_and_anchors_are_run_once_and_shown(repository: Path, config: Path, tmp_path: Path) -> None:
    output = tmp_path / "benchmark"
    status, printed, errors = run(repository, config, output, "--only", "Ours")
    assert status == 0, errors[-2000:]
    table = (output / "benchmark.md").read_text()
    assert table in printed
    assert table.splitlines()[2].startswith("| Ours |")  # alone, and so without a place
    unseen = read_json(output / "ours" / "metrics_unseen.json")
    assert {case["site"] for case in unseen["cases"]} == {"ukm"}
    assert set(unseen["structures"]) == {"vs", "cochlea"}  # the whole tumour of labels that tell its parts
    assert read_json(output / "ours" / "cost.json")["mib"] > 100

    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.pt")}
    status, printed, errors = run(repository, config, output)
    assert status == 0, errors[-2000:]
    after = {path: path.stat().st_mtime_ns for path in output.rglob("*.pt")}
    assert {path: after[path] for path in before} == before  # nothing is trained twice
    names = [line.split(" | ")[0].strip("| ") for line in (output / "benchmark.md").read_text().splitlines()[2:]]
    assert names == ["hrT2 truth (supervised)", "Ours", "ceT1 alone (no adaptation)"]
    page = (output / "benchmark.html").read_text()
    assert "ukm (unseen)" in page
    assert "rounds over none" in page


def test_a_system_that_is_not_there_is_named_in_one_line(repository: Path, config: Path, tmp_path: Path) -> None:
    status, _, errors = run(repository, config, tmp_path / "out", "--only", "Transformer")
    assert status != 0
    assert "Transformer: no such system" in errors.strip().splitlines()[-1]
