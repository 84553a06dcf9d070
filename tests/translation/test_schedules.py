"""The learning rate over 200 epochs, by hand."""

from __future__ import annotations

import pytest
import torch

from crossmoda.translation.schedules import constant_then_linear


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
