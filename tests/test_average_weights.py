"""The mean of two trainings' weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from crossmoda.engines import save_weights
from crossmoda.files import read_json

SCRIPT = Path(__file__).parents[1] / "scripts" / "average_weights.py"

pytestmark = pytest.mark.usefixtures("in_the_repository")


def average(*files: Path, output: Path) -> subprocess.CompletedProcess[str]:
    given = ["--weights", ",".join(map(str, files)), "--output", str(output)]
    return subprocess.run([sys.executable, str(SCRIPT), *given], capture_output=True, text=True, check=False)


def trained(path: Path, value: float, **info: object) -> Path:
    """Write the bundle's own network with one value in all its weights."""
    parser = ConfigParser()
    parser.read_config("bundles/vs_cochlea_hrt2_segmentation/configs/inference.yaml")
    network = parser.get_parsed_content("network_def")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
    save_weights(network, path, {"structures": ["vs", "cochlea"], "spacing": [1, 1, 1], "iterations": 5, **info})
    return path


def test_the_mean_is_that_of_every_weight_as_small_and_tells_of_what(tmp_path: Path) -> None:
    files = [trained(tmp_path / f"{value}.pt", value) for value in (1.0, 4.0, -2.0)]
    made = average(*files, output=tmp_path / "mean.pt")
    assert made.returncode == 0, made.stderr
    state = torch.load(tmp_path / "mean.pt", weights_only=True)
    assert all((value == 1.0).all() for value in state.values())
    assert (tmp_path / "mean.pt").stat().st_size == files[0].stat().st_size  # layers known by two names are kept once
    told = read_json(tmp_path / "mean.json")
    assert [part["sha256"] for part in told["mean_of"]] == [read_json(f.with_suffix(".json"))["sha256"] for f in files]
    assert (told["structures"], told["spacing"]) == (["vs", "cochlea"], [1, 1, 1])


def test_what_does_not_go_together_is_told(tmp_path: Path) -> None:
    one = trained(tmp_path / "one.pt", 1.0)
    two = trained(tmp_path / "two.pt", 2.0, spacing=[2, 1, 1])
    for files, told in (([one], "give two files or more"), ([one, two], "two.pt: trained with spacing [2, 1, 1]")):
        made = average(*files, output=tmp_path / "mean.pt")
        assert made.returncode == 1
        assert told in made.stderr
    assert not (tmp_path / "mean.pt").exists()
