"""What people and programs see of a training while it runs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from tqdm import tqdm

from crossmoda.engines.distribution import mean_over_processes
from crossmoda.errors import CrossmodaError
from crossmoda.files import write_json

LossReader = Callable[[Any], Mapping[str, float]]


def losses_of(output: Any) -> dict[str, float]:
    """Return the scalar losses in an engine's output: every entry whose name is ``loss`` or holds ``loss``."""
    items = output[0] if isinstance(output, list) else output
    # MONAI's keys are enums, which a state file may not hold.
    return {str(name): float(value) for name, value in items.items() if "loss" in name and _is_scalar(value)}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1)


class NonFiniteLossStop:
    """Stop a training at the first loss that is not a number, and name the cases of that batch.

    Args:
        losses: reads the losses from the engine's output.
    """

    def __init__(self, losses: LossReader = losses_of) -> None:
        self.losses = losses

    def attach(self, engine: Engine) -> None:
        """Listen to every iteration of ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Raise ``CrossmodaError`` when a loss of this iteration is NaN or infinite."""
        bad = [name for name, value in self.losses(engine.state.output).items() if not math.isfinite(value)]
        if bad:
            raise CrossmodaError(
                f"{', '.join(bad)} is not finite at iteration {engine.state.iteration}, "
                f"cases {', '.join(case_names(engine.state.batch))}; check these images or lower the learning rate"
            )


def case_names(batch: Any) -> list[str]:
    """Return the names of a batch's cases, in whatever depth of lists and dictionaries they sit."""
    if isinstance(batch, Mapping):
        if "case" in batch:
            case = batch["case"]
            return [str(name) for name in case] if isinstance(case, (list, tuple)) else [str(case)]
        return [name for value in batch.values() for name in case_names(value)]
    if isinstance(batch, (list, tuple)):
        return [name for item in batch for name in case_names(item)]
    return []


class History:
    """Write each epoch's mean losses and the latest validation metrics to a JSON file, and keep them over a resume.

    The file is ``{"epoch": [1, 2, ...], "series": {name: [value or null, ...]}}``. Put the object among those of
    ``TrainingState`` so that a resumed training continues its curves. Of several processes each has one, and the losses
    are the means over all of them.

    Args:
        path: of the JSON file; None keeps the curves and writes none, in all processes but the first.
        losses: reads the losses from the engine's output.
        evaluator: whose metrics are recorded as ``val_NAME`` in the epochs in which it ran.
    """

    def __init__(
        self, path: str | Path | None, losses: LossReader = losses_of, evaluator: Engine | None = None
    ) -> None:
        self.path = None if path is None else Path(path)
        self.losses = losses
        self.evaluator = evaluator
        self.epochs: list[int] = []
        self.series: dict[str, list[float | None]] = {}
        self._sums: dict[str, float] = {}
        self._count = 0
        self._validated: dict[str, float] = {}

    def attach(self, engine: Engine) -> None:
        """Listen to ``engine``, and to the evaluator if there is one."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.STARTED, self._listen_last)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self._take_metrics)

    def _listen_last(self, engine: Engine) -> None:
        # After the validation handlers of the epoch's end, before TrainingState if that is attached later in the list.
        if not engine.has_event_handler(self._end, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self._sums, self._count, self._validated = {}, 0, {}

    def _add(self, engine: Engine) -> None:
        self._count += 1
        for name, value in self.losses(engine.state.output).items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _take_metrics(self, evaluator: Engine) -> None:
        for name, value in evaluator.state.metrics.items():
            if _is_scalar(value) and math.isfinite(float(value)):  # else nothing was there to be judged: null
                self._validated[f"val_{name}"] = float(value)

    def _end(self, engine: Engine) -> None:
        values = self._mean_losses() | self._validated
        for name in values:
            self.series.setdefault(name, [None] * len(self.epochs))
        self.epochs.append(engine.state.epoch)
        for name, column in self.series.items():
            column.append(values.get(name))
        if self.path is not None:
            write_json(self.path, self.state_dict())

    def _mean_losses(self) -> dict[str, float]:
        means = [total / max(self._count, 1) for total in self._sums.values()]
        return dict(zip(self._sums, mean_over_processes(means), strict=True))

    def mean_loss(self) -> float:
        """Return the mean of ``loss`` over this epoch's iterations so far; for schedules that watch it.

        All processes must call it together; they get the same number, so that their schedules do not part.
        """
        return self._mean_losses()["loss"]

    def state_dict(self) -> dict[str, Any]:
        """Return the curves so far."""
        return {"epoch": list(self.epochs), "series": {name: list(column) for name, column in self.series.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue earlier curves."""
        self.epochs = list(state["epoch"])
        self.series = {name: list(column) for name, column in state["series"].items()}


class TimeLeftBar:
    """Show one bar for the whole training, with the losses and the time left.

    Args:
        description: what is being trained.
        losses: reads the losses from the engine's output.
    """

    def __init__(self, description: str, losses: LossReader = losses_of) -> None:
        self.description = description
        self.losses = losses
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Listen to ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Engine) -> None:
        if self._bar is None and engine.state.epoch_length:
            # On a terminal the line is redrawn twice a second, in a log file it appears every half minute.
            interval = 0.5 if sys.stderr.isatty() else 30.0
            self._bar = tqdm(
                total=(engine.state.max_epochs or 1) * engine.state.epoch_length,
                initial=engine.state.iteration,
                desc=self.description,
                unit="step",
                mininterval=interval,
                dynamic_ncols=True,
            )

    def _advance(self, engine: Engine) -> None:
        if self._bar is not None:
            values = self.losses(engine.state.output)
            self._bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()}, refresh=False)
            self._bar.update()

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._close(engine)
        raise error
