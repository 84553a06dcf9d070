"""The benchmark of systems, as a command, on scans of a few thousand voxels."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import told_by_script, with_misspelt_key

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
        "dynunet": {**PATCH, "iterations_per_epoch": 1, "max_epochs": 1, "batch_size": 1},
        "nnunet": {},
    },
    "segmenter_inference_sizes": {"dynunet": PATCH, "nnunet": {}},
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
    without = {"of": "Ours", "effect": "brightness over none", "sizes": {"tiny": {"pseudo_hrt2_weights": [0.5]}}}
    without["settings"] = {"segmenter_settings": {"structure_probability": 0.0}}
    systems = {
        "sizes": {"tiny": size},
        "unseen_site": "ukm",
        "systems": {"Ours": recipe},
        "variants": {"Less": without},
    }
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
    assert "brightness over none" in page
    assert [path.name for path in sorted((output / "less").glob("round_*"))] == ["round_0"]
    theirs, ours = (read_json(output / run / "round_0" / "manifest.json")["steps"] for run in ("less", "ours"))
    assert theirs["translator_cyclegan"] == ours["translator_cyclegan"]  # taken over
    assert theirs["segmenter"]["key"] != ours["segmenter"]["key"]


@pytest.mark.slow
def test_a_system_whose_rules_accept_nothing_does_not_stop_the_others(
    repository: Path, config: Path, tmp_path: Path
) -> None:
    settings = yaml.safe_load(config.read_text())
    tiny = {"_target_": "crossmoda.self_training.RequireVolume", "structure": "vs", "least_mm3": 1e9, "most_mm3": 2e9}
    strict = {"rules": [tiny], "pseudo_hrt2_weights": [0.0]}
    del settings["settings"]["pseudo_hrt2_weights"]
    settings["systems"] = {"Strict": write(tmp_path / "strict.yaml", strict), **settings["systems"]}
    settings["variants"] = {}
    write(tmp_path / "benchmark.yaml", settings)
    output = tmp_path / "benchmark"
    status, printed, errors = run(repository, tmp_path / "benchmark.yaml", output)
    assert status == 1, errors[-2000:]
    assert "error: Strict stopped: round 1: none of 2 pseudo-labels is accepted" in errors
    assert "- Strict: round 1: none of 2 pseudo-labels is accepted" in printed
    table = (output / "benchmark.md").read_text()
    assert any(line.startswith("| Ours |") for line in table.splitlines())
    assert not any(line.startswith("| Strict |") for line in table.splitlines())


MISSPELT = [
    (("sizes", "tiny", "phantoms"), "size 'tiny': no such key 'phantoms'; did you mean 'phantom'?"),
    (("variants", "Less", "effects"), "variant 'Less': no such key 'effects'; did you mean 'effect'?"),
    (("variants", "Less", "of"), "variant 'Less' is of '1', which is no system"),
    (("system",), "no such key 'system'; did you mean 'systems'?"),
]


@pytest.mark.parametrize(("place", "message"), MISSPELT)
def test_what_the_configuration_names_wrong_is_told_before_anything_is_run(
    place: tuple[str, ...],
    message: str,
    repository: Path,
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wrong = with_misspelt_key(config, place, "1", tmp_path)
    places = {"output_dir": str(tmp_path / "out"), "config": str(wrong)}
    assert message in told_by_script("benchmark_systems", repository, monkeypatch, size="tiny", **places)
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_with_a_system_is_found_before_any_is_trained(
    repository: Path, config: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(config.read_text())
    bad = write(tmp_path / "bad.yaml", {"segmenter_settings": {"max_epoch": 3}})
    content["systems"] = {**content["systems"], "Theirs": [*content["systems"].values(), bad]}  # several files
    wrong = Path(write(tmp_path / "benchmark.yaml", content))
    status, _, errors = run(repository, wrong, tmp_path / "out")
    assert status != 0
    assert errors.strip().splitlines()[-1].startswith("error: Theirs: ")
    assert "max_epoch" in errors.strip().splitlines()[-1]
    assert not list((tmp_path / "out").glob("*/round_0"))


def test_a_system_that_is_not_there_is_named_in_one_line(repository: Path, config: Path, tmp_path: Path) -> None:
    status, _, errors = run(repository, config, tmp_path / "out", "--only", "Transformer")
    assert status != 0
    assert "Transformer: no such system" in errors.strip().splitlines()[-1]


@pytest.mark.parametrize("size", ["small", "medium", "large"])
def test_every_system_and_variant_of_the_project_can_be_built(
    size: str, repository: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    script = importlib.import_module("benchmark_systems")
    runs = script.planned(script.read_settings("configs/benchmark.yaml", size), size, tmp_path, "")
    for name, run in runs.items():
        if "Salle" not in name and "Kang" not in name:  # their folds ask for more patients than the tiny set has
            script.require_sound(name, run, tiny_dataset)
    loops = {
        name: script.workflow_of(run.files, tiny_dataset, run.folder, run.settings).parser.get_parsed_content(
            "train::trainer"
        )
        for name, run in runs.items()
    }
    assert list(loops["Kang 2022"].work.views) == ["cyclegan", "qs_attn"]
    assert list(loops["Kang 2022 with CycleGAN alone"].work.views) == ["cyclegan"]
    assert list(loops["Kang 2022 with QS-Attn alone"].work.views) == ["qs_attn"]
    assert loops["Salle 2022"].work.blending is not None
    assert loops["Salle 2022 without tumour blending"].work.blending is None
    unet = loops["Yang 2022 with a U-Net generator"].work.views["cyclegan"].config("train")
    assert unet["network_def"]["_target_"].endswith("UNetGenerator")
    assert {name: loop.max_epochs for name, loop in loops.items() if " with" in name} == dict.fromkeys(
        (name for name in runs if " with" in name), 1
    )
