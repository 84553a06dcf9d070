"""From what few steps and scans took to what a run will take: steps x seconds + scans x seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossmoda.engines.speed import Pace
from crossmoda.self_training.estimate.trainings import Length
from crossmoda.self_training.plan import PlannedStep, Scans

ROUND = "round_"  # begins the names of the rounds' folders
STEP, BESIDE, SCAN = "training step", "besides", "scan"


@dataclass(frozen=True)
class Row:
    """One line of the table: what is done how often, and how long it takes each time.

    Args:
        what: the step's name, and its part's.
        unit: what is counted.
        times: how often in the whole run.
        seconds: each time.
        mib: the most memory that it took; not a number where that is not known.
    """

    what: str
    unit: str
    times: float
    seconds: float
    mib: float

    @property
    def hours(self) -> float:
        """How long it takes in the whole run."""
        return self.times * self.seconds / 3600


@dataclass(frozen=True)
class TimedTraining:
    """What a part of a training takes, and how long the whole of it is.

    Args:
        name: of the part.
        length: of the whole training.
        pace: that was measured.
        scan_seconds: until a scan is ready to be learnt from.
        scans_of_case: renderings of a source case that it learns from.
        judged_seconds: until a scan of a fold is labelled in the end.
        judged_of_case: renderings of a source case on which folds are judged.
        run_seconds: start and end of each of its runs.
        fixed_seconds: what comes once.
        mib: the most memory that it took.
    """

    name: str
    length: Length
    pace: Pace
    scan_seconds: float = 0.0
    scans_of_case: float = 1.0
    judged_seconds: float = 0.0
    judged_of_case: float = 1.0
    run_seconds: float = 0.0
    fixed_seconds: float = 0.0
    mib: float = float("nan")

    @property
    def steps(self) -> int:
        """Of all runs and epochs."""
        return self.length.runs * self.length.epochs * self.length.steps

    def beside(self, scans: Scans) -> float:
        """Return the seconds that a training on scans takes beside its steps."""
        runs = self.length.runs * (self.run_seconds + self.length.epochs * self.pace.epoch)
        learnt = scans.plain + scans.pseudo_labelled + scans.rendered * self.scans_of_case
        true = scans.plain + scans.rendered * self.judged_of_case
        judged = self.length.judged_share * (true or scans.pseudo_labelled)
        return self.fixed_seconds + runs + learnt * self.scan_seconds + judged * self.judged_seconds

    def rows(self, steps: Sequence[PlannedStep], title: str) -> list[Row]:
        """Return the lines of all trainings like it."""
        what = f"{title} {self.name}".strip()
        beside = sum(self.beside(step.scans) for step in steps) / len(steps)
        besides = Row(what, BESIDE, len(steps), beside, self.mib)
        if not self.steps:
            return [besides]
        return [Row(what, STEP, len(steps) * self.steps, self.pace.step, self.mib), besides]

    def seconds(self, step: PlannedStep) -> float:
        """Return the seconds of a training on the scans of a step."""
        return self.steps * self.pace.step + self.beside(step.scans)


@dataclass(frozen=True)
class TimedScans:
    """What a step takes that goes through scans.

    Args:
        name: of the part.
        scan_seconds: for each scan.
        fixed_seconds: what comes once.
        mib: the most memory that it took.
    """

    name: str
    scan_seconds: float
    fixed_seconds: float = 0.0
    mib: float = float("nan")

    def rows(self, steps: Sequence[PlannedStep], title: str) -> list[Row]:
        """Return the line of all steps like it."""
        scans = sum(step.scans.plain for step in steps)
        seconds = sum(self.seconds(step) for step in steps)
        return [Row(f"{title} {self.name}".strip(), SCAN, scans, seconds / max(1, scans), self.mib)]

    def seconds(self, step: PlannedStep) -> float:
        """Return the seconds that a step takes."""
        return self.fixed_seconds + step.scans.plain * self.scan_seconds


Timed = TimedTraining | TimedScans


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    Args:
        rows: of the table.
        steps: seconds by the step's key.
        kinds: ``PlannedStep.like`` by the step's key, by which a run tells whether this is an estimate of it.
        left_out: keys of steps that were not measured.
        facts: what it was measured on.
    """

    rows: Sequence[Row]
    steps: Mapping[str, float]
    kinds: Mapping[str, str] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """Of all that was measured."""
        return sum(row.hours for row in self.rows)


def extrapolate(
    plan: Sequence[PlannedStep], timed: Mapping[str, Sequence[Timed]], facts: Mapping[str, Any] | None = None
) -> Estimate:
    """Return what a run will take.

    Args:
        plan: all its steps.
        timed: the measured parts of each kind of step, by ``PlannedStep.like``.
        facts: what it was measured on.
    """
    kinds: dict[str, list[PlannedStep]] = {}
    for step in plan:
        kinds.setdefault(step.like, []).append(step)
    titles = titles_of(kinds)
    rows = [
        row for like, steps in kinds.items() for part in timed.get(like, ()) for row in part.rows(steps, titles[like])
    ]
    known = [step for step in plan if step.like in timed]
    seconds = {step.key: round(sum(part.seconds(step) for part in timed[step.like]), 2) for step in known}
    left_out = [step.key for step in plan if step.like not in timed]
    kinds_of_steps = {step.key: step.like for step in known}
    return Estimate([row for row in rows if row.times], seconds, kinds_of_steps, left_out, facts or {})


def titles_of(kinds: Mapping[str, Sequence[PlannedStep]]) -> dict[str, str]:
    """Return what each kind of step is called: its first step's name, and where it is done if others have that name."""
    names = [steps[0].name for steps in kinds.values()]
    return {
        like: f"{steps[0].name} ({places(steps)})" if names.count(steps[0].name) > 1 else steps[0].name
        for like, steps in kinds.items()
    }


def places(steps: Sequence[PlannedStep]) -> str:
    """Return the folders of steps as people name them, e.g. ``rounds 0-2, 4, anchors``."""
    numbers = sorted({int(step.folder[len(ROUND) :]) for step in steps if step.folder.startswith(ROUND)})
    begins = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    ranges = [f"{a}" if a == b else f"{a}-{b}" for a, b in zip(begins, ends, strict=True)]
    rounds = [f"round{'s' if len(numbers) > 1 else ''} {', '.join(ranges)}"] if ranges else []
    others = {step.folder.split("/")[0]: None for step in steps if not step.folder.startswith(ROUND)}
    return ", ".join([*rounds, *others])
