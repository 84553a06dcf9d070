"""What a training learns about itself: distances to real slices, the best weights, when to stop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from crossmoda.errors import CrossmodaError
from crossmoda.translation.measures.distances import kernel_distance
from crossmoda.translation.measures.features import SliceFeatures
from crossmoda.translation.slices import SliceSource
from crossmoda.translation.validation import KeepBest, SliceKernelDistance, SpreadSlices

CASES = ("a", "b", "c")


def slice_source(tmp_path: Any, slices: int = 6) -> SliceSource:
    """Three volumes of noise; volume and slice are told by the lower left pixel: 0.1 * volume + 0.01 * slice."""

    def prepare(item: dict[str, Any]) -> dict[str, Any]:
        number = CASES.index(item["case"])
        noise = np.random.default_rng(number).uniform(-1, 1, (1, 24, 32, slices)).astype(np.float32)
        noise[0, 0, 0] = 0.1 * number + 0.01 * np.arange(slices)
        return {**item, "image": torch.as_tensor(noise)}

    items = [{"case": case, "image": "-"} for case in CASES]
    return SliceSource(items, prepare, "source", 0.0, 1.0, None)


def mark(item: dict[str, Any]) -> float:
    return round(item["image"][item["image"].shape[0] // 2, 0, 0].item(), 2)


def test_slices_are_spread_over_volumes_and_heights(tmp_path: Any) -> None:
    chosen = SpreadSlices(slice_source(tmp_path), 4)
    assert [mark(chosen[index]) for index in range(4)] == [0.0, 0.1, 0.15, 0.25]  # entries 0, 6, 11, 17 of 18
    assert chosen.cases == ["a", "b", "b", "c"] == [chosen[index]["case"] for index in range(4)]


def test_no_more_slices_than_there_are_and_of_the_wanted_volumes_alone(tmp_path: Any) -> None:
    source = slice_source(tmp_path)
    assert len(SpreadSlices(source, 99)) == 18
    assert set(SpreadSlices(source, 99, volumes=[0, 2]).cases) == {"a", "c"}
    assert SpreadSlices(source, 2, context=1)[0]["image"].shape == (3, 24, 32)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_metric_is_the_kernel_distance_of_the_middle_slices(tmp_path: Any, channels: int) -> None:
    real = SpreadSlices(slice_source(tmp_path), 9)
    translated = torch.rand(4, channels, 24, 32) * 2 - 1
    metric = SliceKernelDistance(["p", "p", "q", "q"], real)
    for batch in translated.split(3):
        metric(y_pred=list(batch))
    describe = SliceFeatures()
    found = describe(translated[:, channels // 2][:, None])
    wanted = describe(torch.stack([real[index]["image"] for index in range(9)]))
    expected = kernel_distance(found, wanted, ["p", "p", "q", "q"], real.cases)
    assert metric.aggregate().item() == pytest.approx(expected)


def test_with_one_case_on_a_side_its_slices_are_compared_with_one_another(tmp_path: Any) -> None:
    real = SpreadSlices(slice_source(tmp_path), 9)
    metric = SliceKernelDistance(["p"] * 4, real)
    metric(y_pred=list(torch.rand(4, 1, 24, 32)))
    assert np.isfinite(metric.aggregate().item())


def test_one_slice_cannot_be_compared(tmp_path: Any) -> None:
    with pytest.raises(CrossmodaError, match="compares 1 translated with 9 real slices; raise validation_slices"):
        SliceKernelDistance(["p"], SpreadSlices(slice_source(tmp_path), 9))


def looks(values: list[float], **options: Any) -> SimpleNamespace:
    """Run a training of an epoch per value, whose single weight is the epoch's number, with a look after each."""
    network = torch.nn.Linear(1, 1)
    evaluator = Engine(lambda *_: None)
    best = KeepBest({"network": network}, evaluator, metric="distance", **options)
    trainer = Engine(lambda *_: None)

    def learn(engine: Engine) -> None:
        network.weight.data.fill_(engine.state.epoch)
        evaluator.state.metrics["distance"] = values[engine.state.epoch - 1]
        evaluator.fire_event(Events.COMPLETED)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, learn)
    best.attach(trainer)
    trainer.run([0], max_epochs=len(values))
    return SimpleNamespace(weight=network.weight.item(), epochs=trainer.state.epoch, best=best, trainer=trainer)


def test_the_best_weights_are_deployed_if_wanted() -> None:
    values = [3.0, 1.0, 2.0, 1.5]
    assert looks(values, deploy=True).weight == 2
    assert looks(values).weight == 4


def test_training_stops_after_the_looks_of_patience_without_gain() -> None:
    values = [3.0, 1.0, 2.0, 1.5, 0.5, 0.1]
    assert looks(values, patience=2).epochs == 4
    assert looks(values, patience=3).epochs == 6
    assert looks(values).epochs == 6
    assert looks(values, patience=2, deploy=True).weight == 2


def test_a_training_that_had_stopped_does_not_go_on_when_it_is_resumed() -> None:
    state = looks([1.0, 2.0, 3.0], patience=2).best.state_dict()
    trainer, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
    best = KeepBest({"network": torch.nn.Linear(1, 1)}, evaluator, patience=2)
    best.load_state_dict(state)
    best.attach(trainer)
    done = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: done.append(1))
    trainer.run([0], max_epochs=3)
    assert done == []


def test_two_networks_are_deployed_as_they_were_at_the_same_look() -> None:
    networks = {name: torch.nn.Linear(1, 1) for name in ("network", "return_network")}
    evaluator, trainer = Engine(lambda *_: None), Engine(lambda *_: None)
    KeepBest(networks, evaluator, metric="distance", deploy=True).attach(trainer)

    def learn(engine: Engine) -> None:
        for factor, network in enumerate(networks.values(), start=1):
            network.weight.data.fill_(factor * engine.state.epoch)
        evaluator.state.metrics["distance"] = [3.0, 1.0, 2.0][engine.state.epoch - 1]
        evaluator.fire_event(Events.COMPLETED)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, learn)
    trainer.run([0], max_epochs=3)
    assert [network.weight.item() for network in networks.values()] == [2, 4]


@pytest.mark.parametrize("wish", [{"deploy": True}, {"patience": 3}])
def test_what_needs_a_look_is_refused_where_there_will_be_none(wish: dict[str, Any]) -> None:
    with pytest.raises(CrossmodaError, match="patience and keep_best need a look"):
        KeepBest({}, Engine(lambda *_: None), looks=0, **wish)
    KeepBest({}, Engine(lambda *_: None), looks=0)
