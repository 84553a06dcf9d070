from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from crossmoda.engines import AutocastInferer, SaveWeights, load_weights, require_own_weights, save_weights
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, sha256_of, write_json


def test_weights_are_a_plain_state_dict_with_a_sidecar(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    save_weights(network, tmp_path / "model.pt", {"round": 2})

    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(state["weight"], network.weight)
    sidecar = read_json(tmp_path / "model.json")
    assert sidecar["round"] == 2
    assert sidecar["sha256"] == sha256_of(tmp_path / "model.pt")
    assert sidecar["versions"]["torch"] == torch.__version__.split("+")[0]
    assert torch.equal(load_weights(torch.nn.Linear(2, 3), tmp_path / "model.pt").weight, network.weight)


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 3)
    for folder in ("a", "b"):
        save_weights(network, tmp_path / folder / "model.pt")
    assert (tmp_path / "a" / "model.pt").read_bytes() == (tmp_path / "b" / "model.pt").read_bytes()


def test_missing_spoilt_and_foreign_weights_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"model\.pt: no weights there"):
        load_weights(torch.nn.Linear(2, 3), tmp_path / "model.pt")
    with pytest.raises(CrossmodaError, match="name another file with --initial_weights"):
        load_weights(torch.nn.Linear(2, 3), tmp_path / "model.pt", setting="initial_weights")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(CrossmodaError, match=r"model\.pt: not a file of weights"):
        load_weights(torch.nn.Linear(2, 3), tmp_path / "model.pt")
    save_weights(torch.nn.Linear(3, 3), tmp_path / "other.pt")
    with pytest.raises(CrossmodaError, match=r"other\.pt: weights of another network than network_def \(Linear\)"):
        load_weights(torch.nn.Linear(2, 3), tmp_path / "other.pt")


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_computes_in_bfloat16_and_returns_float32(enabled: bool) -> None:
    seen: list[torch.dtype] = []

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            y = self.layer(x)
            seen.append(y.dtype)
            return [y, y]

    outputs = AutocastInferer(enabled=enabled)(torch.ones(1, 4), Network())
    assert seen == [torch.bfloat16 if enabled else torch.float32]
    assert [output.dtype for output in outputs] == [torch.float32, torch.float32]


def test_weights_that_came_from_elsewhere_are_not_overwritten(tmp_path: Path) -> None:
    network, engine = torch.nn.Linear(2, 3), Engine(lambda _engine, _batch: None)
    SaveWeights(network, tmp_path / "model.pt").attach(engine)
    engine.run([0], max_epochs=1)
    before = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(CrossmodaError, match=r"model\.pt: these weights were not trained .* give --output_dir"):
        engine.run([0], max_epochs=1)
    assert (tmp_path / "model.pt").read_bytes() == before
    for trace in ("checkpoints", "nnunet", "members"):
        (tmp_path / trace).mkdir()
        engine.run([0], max_epochs=1)
        (tmp_path / trace).rmdir()
    sidecar = read_json(tmp_path / "model.json")
    write_json(tmp_path / "model.json", {**sidecar, "given": {}})
    require_own_weights(tmp_path / "model.pt")
