"""The mean of two trainings' weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from crossmoda.engines import save_weights
from crossmoda.files import read_json

SCRIPT = Path(__file__).parents[1] / "scripts" / "average_weights.py"


def average(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def trained(path: Path, value: float, **info: object) -> Path:
    network = nn.Linear(2, 1)
    nn.init.constant_(network.weight, value)
    nn.init.constant_(network.bias, -value)
    save_weights(network, path, {"structures": ["vs"], "spacing": [1, 1, 1], "iterations": 5, **info})
    return path


def test_the_mean_is_that_of_every_weight_and_tells_of_what(tmp_path: Path) -> None:
    files = [trained(tmp_path / f"{value}.pt", value) for value in (1.0, 4.0)]
    made = average("--weights", ",".join(map(str, files)), "--output", str(tmp_path / "mean.pt"))
    assert made.returncode == 0, made.stderr
    state = torch.load(tmp_path / "mean.pt", weights_only=True)
    assert state["weight"].tolist() == [[2.5, 2.5]]
    assert state["bias"].tolist() == [-2.5]
    told = read_json(tmp_path / "mean.json")
    assert [part["sha256"] for part in told["mean_of"]] == [read_json(f.with_suffix(".json"))["sha256"] for f in files]
    assert told["structures"] == ["vs"]


@pytest.mark.parametrize(
    ("second", "told"), [({}, "give two files or more"), ({"spacing": [2, 1, 1]}, "spacing other")]
)
def test_what_does_not_go_together_is_told(tmp_path: Path, second: dict[str, object], told: str) -> None:
    files = [trained(tmp_path / "one.pt", 1.0)]
    if second:
        files.append(trained(tmp_path / "two.pt", 2.0, **second))
    made = average("--weights", ",".join(map(str, files)), "--output", str(tmp_path / "mean.pt"))
    assert made.returncode == 1
    assert told in made.stderr
    assert not (tmp_path / "mean.pt").exists()
