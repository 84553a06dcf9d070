"""The learning rate over 200 epochs, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events

from crossmoda.engines import History
from crossmoda.translation.schedules import FallOnPlateau, constant_then_linear


def rates(constant: int, decay: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-4)
    schedule = constant_then_linear(optimizer, constant, decay)
    found = []
    for _ in range(constant + decay):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [(0, 2e-4), (99, 2e-4), (100, 2e-4 * 100 / 101), (150, 2e-4 * 50 / 101), (199, 2e-4 / 101)],
)
def test_rate_is_constant_for_100_epochs_and_falls_linearly_for_100(epoch: int, expected: float) -> None:
    assert rates(100, 100)[epoch] == pytest.approx(expected)


def test_rate_never_becomes_negative() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = constant_then_linear(optimizer, 1, 1)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr() == [0.0]


def test_on_a_plateau_the_rate_falls_after_the_epochs_of_patience(tmp_path: Path) -> None:
    """Losses 4, 3, 3, 3, 3: with a patience of one epoch, the second 3 that is no lower brings the fall."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    history = History(tmp_path / "history.json")
    schedule = FallOnPlateau(optimizer, history, factor=0.2, patience=1)
    engine, found = Engine(lambda _, loss: {"loss": loss}), []
    history.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: schedule.step())
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: found.append(schedule.get_last_lr()[0]))
    losses = {1: [5.0, 3.0], 2: [2.0, 4.0], 3: [3.0, 3.0], 4: [3.0, 3.0], 5: [3.0, 3.0]}
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: engine.set_data(losses[engine.state.epoch]))
    engine.run([0.0, 0.0], max_epochs=5)
    assert found == pytest.approx([1.0, 1.0, 1.0, 0.2, 0.2])


def test_the_state_of_a_plateau_can_be_saved_and_taken_up(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = FallOnPlateau(optimizer, History(tmp_path / "history.json"), patience=3)
    schedule.num_bad_epochs, schedule.best = 2, 0.5
    torch.save(schedule.state_dict(), tmp_path / "state.pt")
    other = FallOnPlateau(optimizer, History(tmp_path / "history.json"), patience=3)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (other.num_bad_epochs, other.best) == (2, 0.5)
