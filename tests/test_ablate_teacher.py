"""The ablation of the synthetic teacher and the judging of weights, as commands, on a few thousand voxels."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from crossmoda.data.volumes import Volume

REPOSITORY = Path(__file__).parents[1]
KEPT = ("whole", "plain patients")


def run(script: str, *options: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "CROSSMODA_REAL_DATA": "nowhere"}
    command = [sys.executable, f"scripts/{script}", *options]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """Return the output folder and the printed text of two methods at the tiny size, and its configuration."""
    folder = tmp_path_factory.mktemp("ablation")
    config = yaml.safe_load((REPOSITORY / "configs" / "teacher_ablation.yaml").read_text())
    config["methods"] = {name: config["methods"][name] for name in KEPT}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(folder / "config.yaml"), "--size", "tiny", "--output_dir", str(folder / "out")]
    done = run("ablate_teacher.py", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "out", done.stdout, options


def test_every_method_is_trained_with_its_own_patients_and_judged(ablation):
    output, printed, _ = ablation
    rows = json.loads((output / "ablation.json").read_text())
    assert sorted(rows) == sorted(KEPT)
    assert all(0 <= row["VS Dice"] <= 1 and row["VS Dice, vs_gk_98"] is None for row in rows.values())
    assert printed.count("| whole |") == printed.count("| plain patients |") == 1
    kinds = sorted(json.loads(path.read_text())["varied"] for path in output.glob("maps*/teacher.json"))
    assert kinds == [False, True]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"settings": {"teacher_flw": False}}, "no such key 'teacher_flw'; did you mean 'teacher_flow'?"),
        ({"maps": {"vared": False}}, "vared"),
    ],
)
def test_a_method_s_settings_are_looked_at_before_any_other_is_trained(tmp_path, method, message):
    config = yaml.safe_load((REPOSITORY / "configs" / "teacher_ablation.yaml").read_text())
    config["methods"]["last"] = method
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    options = ["--config", str(tmp_path / "config.yaml"), "--size", "tiny", "--output_dir", str(tmp_path / "out")]
    done = run("ablate_teacher.py", *options)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "'last'" in line
    assert message in line
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_not_done_again(ablation):
    output, _, options = ablation
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.pt")}
    assert run("ablate_teacher.py", *options).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.pt")} == before


def test_weights_are_judged_on_synthetic_scans_alone_where_no_real_ones_are(ablation):
    output, _, _ = ablation
    weights = ["--weights", str(output / "whole" / "model.pt"), "--output_dir", str(output / "judging")]
    refused = run("judge_weights.py", *weights)
    assert refused.returncode == 1
    assert "error: ../shared/real: the real volumes are not there" in refused.stderr
    tiny = ["--patch_size", "[32,24,12]", "--crop_size", "[80,64]", "--network_def::filters", "[4,4,4,4]"]
    done = run("judge_weights.py", *weights, "--synthetic", str(output / "judged"), *tiny)
    assert done.returncode == 0, done.stderr[-2000:]
    table = (output / "judging" / "judged.md").read_text()
    assert "| ukm |" in table
    assert "Spearman" in table


@pytest.mark.parametrize("flip", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1)])
def test_sides_are_the_patients_however_the_file_stores_its_axes(flip, monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "scripts"))
    judge = importlib.import_module("judge_weights")
    upright = np.zeros((20, 16, 8), np.uint8)  # RAS: the first half is the patient's left
    upright[2:6, 4:8, 2:4] = 2  # 32 voxels of 1.5 mm3
    upright[14:16, 4:8, 2:4] = 2  # 16
    upright[14:18, 10:12, 2:4] = 1
    stored = upright[:: flip[0], :: flip[1], :: flip[2]]
    affine = np.diag([*np.multiply(flip, (1.0, 1.0, 1.5)), 1.0])
    found = judge.volumes(Volume(stored, affine))
    assert found == {"vs_ml": 0.024, "cochlea_left_mm3": 48.0, "cochlea_right_mm3": 24.0}
