"""How far a run is, told when it starts and after every step, with the time that is left."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmoda.durations import duration_text
from crossmoda.files import read_json
from crossmoda.self_training.plan import PlannedStep
from crossmoda.self_training.steps import StepFolder

ESTIMATE = "estimate.json"  # of a run folder, as ``python -m crossmoda estimate`` writes it

logger = logging.getLogger(__name__)


class Progress:
    """Count the steps of a run, and tell what is left.

    How long a step will take is told by those like it that are done, else by the run's ``estimate.json``. What neither
    knows is said to be left out. Where the estimate was given a price, the cost is told, too. Steps whose record was
    there already count as done, until one of them has to be done again: then those after it are expected to be, too.

    Args:
        run: the run folder.
        plan: its steps, in order.
        together: several steps may be worked at at once; what is told is then the work that is left, not the time.
    """

    def __init__(self, run: Path, plan: Sequence[PlannedStep], together: bool = False) -> None:
        self.run = run
        self.left_of = "of work left" if together else "left"
        self.plan = {step.key: step for step in plan}
        found = read_json(run / ESTIMATE) if (run / ESTIMATE).is_file() else {}
        self.estimated = self._estimated(found)
        self.price_per_hour: float | None = found.get("price_per_hour")
        recorded = {key: self._record(step) for key, step in self.plan.items()}
        self.done = {key for key, record in recorded.items() if record is not None}
        self.spent = {key: seconds for key, record in recorded.items() if (seconds := _seconds(record)) is not None}

    def _estimated(self, found: Mapping[str, Any]) -> dict[str, float]:
        """Return the seconds of steps that the run's estimate tells, if it was made of the same settings."""
        steps, kinds = found.get("steps", {}), found.get("kinds", {})
        same = [key for key in steps if key in self.plan and kinds.get(key) == self.plan[key].like]
        return {key: float(steps[key]) for key in same}

    def _record(self, step: PlannedStep) -> Mapping[str, Any] | None:
        record: Mapping[str, Any] | None = StepFolder(self.run / step.folder).records().get(step.name)
        return record

    def start(self) -> None:
        """Tell how many steps there are, and how many are done already."""
        logger.info("%d steps, %d done already%s", len(self.plan), len(self.done), self._time_left())

    def begun(self, folder: Path, name: str) -> None:
        """Take a step that begins, and those after it, for not done."""
        keys = list(self.plan)
        key = self._key(folder, name)
        if key in self.done:
            self.done -= set(keys[keys.index(key) :])

    def ended(self, folder: Path, name: str, done: bool) -> None:
        """Count a step, and tell what is left if it had to be done."""
        key = self._key(folder, name)
        step = self.plan.get(key)
        if step is None:
            return
        self.done.add(key)
        seconds = _seconds(self._record(step))
        if seconds is not None:
            self.spent[key] = seconds
        if done:
            took = f" in {duration_text(seconds)}" if seconds is not None else ""
            logger.info("%s done%s; %d of %d steps%s", key, took, len(self.done), len(self.plan), self._time_left())

    def _key(self, folder: Path, name: str) -> str:
        return f"{folder.relative_to(self.run).as_posix()}/{name}"

    def left(self) -> tuple[float, int]:
        """Return the seconds of the steps that are left, and how many of these nothing is known of."""
        expected = [self.expected(step) for key, step in self.plan.items() if key not in self.done]
        known = [seconds for seconds in expected if seconds is not None]
        return sum(known), len(expected) - len(known)

    def expected(self, step: PlannedStep) -> float | None:
        """Return the seconds that a step will take, or None if nothing tells."""
        alike = [other for key, other in self.plan.items() if key in self.spent and other.like == step.like]
        if alike:
            return step.size * sum(self.spent[other.key] for other in alike) / sum(other.size for other in alike)
        return self.estimated.get(step.key, 0.0 if step.brief else None)

    def _time_left(self) -> str:
        if len(self.done) == len(self.plan):
            return ""
        seconds, unknown = self.left()
        if not unknown:
            return f", about {duration_text(seconds)} {self.left_of}{self._cost(seconds)}"
        known = f", at least {duration_text(seconds)} {self.left_of}{self._cost(seconds)}" if seconds >= 1 else ""
        return f"{known} ({unknown} of {len(self.plan) - len(self.done)} to do are the first of their kind)"

    def _cost(self, seconds: float) -> str:
        """Return what so much time costs, where the estimate was given a price."""
        if self.price_per_hour is None:
            return ""
        return f", which costs {seconds / 3600 * self.price_per_hour:.2f}"


def _seconds(record: Mapping[str, Any] | None) -> float | None:
    """Return the time of a recorded step; that of one that went on after an interruption is not known."""
    return None if record is None or record.get("resumed") else float(record["seconds"])
