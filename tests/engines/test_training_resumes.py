"""A training that is interrupted after any epoch ends with the weights of the unbroken one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from monai.data import CacheDataset, DataLoader
from monai.transforms import RandGaussianNoised, RandLambda

from crossmoda.engines import EpochSeed, History, TrainingState, seed_everything
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.segmentation.dataset import RandomDraws


class Training:
    """A linear network on random data with dropout, momentum, a schedule and a random transform."""

    def __init__(self, folder: Path, workers: int = 0, fingerprint: str = "") -> None:
        seed_everything(3)
        data = [{"image": torch.arange(4.0) + i, "case": f"case_{i}"} for i in range(5)]
        self.dataset = CacheDataset(data, RandGaussianNoised("image", prob=1.0), progress=False)
        self.loader = DataLoader(self.dataset, batch_size=2, shuffle=True, num_workers=workers)
        self.network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-4, momentum=0.9)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.8)
        self.engine = Engine(self.step)
        self.history = History(folder / "history.json")
        self.state = TrainingState(
            folder / "state.pt",
            {
                "network": self.network,
                "optimizer": self.optimizer,
                "scheduler": self.scheduler,
                "history": self.history,
            },
            fingerprint=fingerprint,
        )
        for handler in (EpochSeed(3, self.dataset), self.history, self.state):
            handler.attach(self.engine)

    def step(self, engine: Engine, batch: dict) -> dict:
        loss = self.network(batch["image"].as_tensor()).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if engine.state.iteration % 3 == 0:
            self.scheduler.step()
        return {"loss": loss.detach()}

    def run(self, epochs: int) -> dict[str, torch.Tensor]:
        self.engine.run(self.loader, max_epochs=epochs)
        return self.network.state_dict()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_equals_unbroken(tmp_path: Path, stop: int, workers: int) -> None:
    unbroken = Training(tmp_path / "a", workers).run(4)
    Training(tmp_path / "b", workers).run(stop)
    torch.manual_seed(99)  # whatever another process drew
    resumed = Training(tmp_path / "b", workers).run(4)

    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert read_json(tmp_path / "a" / "history.json") == read_json(tmp_path / "b" / "history.json")
    assert read_json(tmp_path / "b" / "history.json")["epoch"] == [1, 2, 3, 4]


def test_a_finished_training_is_not_trained_further(tmp_path: Path) -> None:
    first = {name: value.clone() for name, value in Training(tmp_path).run(2).items()}
    again = Training(tmp_path).run(2)
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_state_of_another_configuration_is_not_used(tmp_path: Path) -> None:
    Training(tmp_path, fingerprint="one").run(1)
    training = Training(tmp_path, fingerprint="two")
    training.run(1)
    assert training.history.epochs == [1]


def test_a_process_that_does_not_write_goes_on_from_the_state_of_the_one_that_does(tmp_path: Path) -> None:
    first, second = Training(tmp_path), Training(tmp_path)
    second.state.writes, second.history.path = False, None
    second.run(1)
    assert not list(tmp_path.iterdir())
    first.run(2)
    second.run(3)
    assert second.history.epochs == [1, 2, 3]
    assert read_json(tmp_path / "history.json")["epoch"] == [1, 2]


def test_processes_draw_the_same_items_and_drop_out_neurons_of_their_own() -> None:
    drawn = []
    for rank in (0, 0, 1):
        draws = RandomDraws(CacheDataset([1, 2, 3], RandLambda(), progress=False), 20)
        engine = Engine(lambda engine, batch: None)
        EpochSeed(3, draws, rank).attach(engine)
        engine.run([0], max_epochs=2)
        drawn.append((draws.seeds.tolist(), torch.rand(3).tolist()))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == drawn[2][0]
    assert drawn[0][1] != drawn[2][1]


def test_a_spoilt_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"\x80\x02cut")
    with pytest.raises(CrossmodaError, match=r"state\.pt: not a state of this training"):
        Training(tmp_path).run(1)
