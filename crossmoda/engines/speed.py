"""How fast a training went, told by what it left behind for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crossmoda.errors import CrossmodaError

LOSS = "loss"  # the scalar that every training writes at each step
LOGS = "logs"  # folder in a training's output


@dataclass(frozen=True)
class Pace:
    """What a training takes, in seconds.

    Args:
        step: of it, the making of its data included.
        epoch: beside its steps: what is saved and looked at, and the data loader's new start.
        steps_in_all: of all steps and epochs that were timed.
    """

    step: float
    epoch: float
    steps_in_all: float = 0.0


def training_pace(training: Path, steps: int, at_once: int = 1) -> Pace:
    """Return the pace of a training that has left its events in ``logs``.

    Args:
        training: its output folder.
        steps: of an epoch.
        at_once: batches that may be made at the same time, in as many processes: they come in bursts.

    Raises:
        CrossmodaError: it wrote no event.
    """
    events = EventAccumulator(str(training / LOGS))
    if (training / LOGS).is_dir():
        events.Reload()
    if LOSS not in events.Tags()["scalars"]:
        raise CrossmodaError(f"{training / LOGS}: no step is recorded there; train again")
    return pace_of([event.wall_time for event in events.Scalars(LOSS)], steps, at_once)


def pace_of(times: Sequence[float], steps: int, at_once: int = 1) -> Pace:
    """Return the pace of steps that ended at these times, in seconds.

    A step's time is the median over the second half of each epoch, the first being its warm-up, averaged over the
    epochs, which may differ (a SinGAN's scales).

    Args:
        times: of all steps, in order; at least two epochs with two steps each.
        steps: of an epoch.
        at_once: so many steps in a row are timed together.
    """
    epochs = [np.asarray(times[start : start + steps]) for start in range(0, len(times), steps)]
    step = float(np.mean([_median_step(epoch, at_once) for epoch in epochs]))
    gaps = [after[0] - before[-1] for before, after in pairwise(epochs)]
    between = float(np.median(gaps)) - step if gaps else 0.0
    return Pace(step, max(0.0, between), times[-1] - times[0] + step)


def _median_step(epoch: np.ndarray, at_once: int) -> float:
    """Return the time of a step, from the runs of steps that end in the second half of an epoch."""
    width = max(1, min(at_once, len(epoch) // 2))
    together = (epoch[width:] - epoch[:-width]) / width
    return float(np.median(together[len(together) // 2 :]))
