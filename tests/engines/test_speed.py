from __future__ import annotations

from pathlib import Path

import pytest

from crossmoda.engines.memory import forget_peak, peak_mib
from crossmoda.engines.speed import pace_of, training_pace
from crossmoda.errors import CrossmodaError


def test_a_step_is_the_median_of_the_second_half_and_an_epoch_what_comes_between() -> None:
    """Warm steps of 2 s after slow ones, one held up; 5 s pass between the epochs, of which a step is 2."""
    times = [10.0, 18.0, 20.0, 22.0, 24.0, 26.0]
    times += [time + 21.0 for time in (10.0, 14.0, 16.0, 18.0, 28.0, 30.0)]
    pace = pace_of(times, steps=6)
    assert pace.step == 2.0
    assert pace.epoch == 3.0
    assert pace.steps_in_all == 43.0  # from 10 to 51 s, and the first step


def test_steps_that_come_in_bursts_are_timed_together() -> None:
    """Four processes make four batches every 4 s: three steps in four seem to take nothing."""
    times = [4.0 * (index // 4) + 0.01 * (index % 4) for index in range(32)]
    assert pace_of(times, steps=16).step == pytest.approx(0.01)
    assert pace_of(times, steps=16, at_once=4).step == pytest.approx(1.0)


def test_scales_of_different_size_count_alike() -> None:
    times = [1.0, 2.0, 3.0, 4.0, 14.0, 17.0, 20.0, 23.0]  # steps of 1 s, then of 3 s
    assert pace_of(times, steps=4).step == 2.0


def test_a_training_without_events_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="no step is recorded there"):
        training_pace(tmp_path, steps=2)


def test_a_peak_is_forgotten() -> None:
    block = b"\1" * (200 * 2**20)
    before = peak_mib()
    del block
    forget_peak("cpu")
    assert peak_mib() < before - 150
