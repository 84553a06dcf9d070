"""The moving average of weights."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from crossmoda.translation.averaging import MovingAverage


def network_at(value: float) -> torch.nn.Linear:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, value)
    return network


def run_steps(average: MovingAverage, network: torch.nn.Linear, values: list[float]) -> None:
    def step(engine: Engine, value: float) -> None:
        torch.nn.init.constant_(network.weight, value)

    engine = Engine(step)
    average.attach(engine)
    engine.run(values, max_epochs=1)


def test_average_follows_by_the_momentum() -> None:
    network = network_at(0.0)
    average = MovingAverage(network, momentum=0.25)
    run_steps(average, network, [1.0, 1.0])
    assert average.network.weight.item() == pytest.approx(0.25 + 0.75 * 0.25)  # type: ignore[union-attr, operator]


def test_without_momentum_the_network_itself_is_deployed() -> None:
    network = network_at(0.0)
    average = MovingAverage(network)
    run_steps(average, network, [3.0])
    assert average.network is network
    assert average.state_dict() == {}


def test_a_restored_average_goes_on() -> None:
    network = network_at(0.0)
    average = MovingAverage(network, momentum=0.5)
    run_steps(average, network, [1.0])
    twin = MovingAverage(network_at(9.0), momentum=0.5)
    twin.load_state_dict(average.state_dict())
    assert twin.network.weight.item() == 0.5  # type: ignore[union-attr, operator]
