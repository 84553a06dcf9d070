"""The report as a handler of the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ignite.engine import Engine, Events

from crossmoda.evaluation.report import write_report
from crossmoda.self_training.loop import SelfTrainingLoop
from crossmoda.self_training.plan import PlannedStep
from crossmoda.self_training.steps import MANIFEST, Step

REPORT = "report"


@dataclass(frozen=True)
class Report:
    """Write ``report.html`` when the loop ends, unless the one there shows the run as it is.

    Args:
        enabled: False writes none.
    """

    enabled: bool = True

    def attach(self, engine: Engine) -> None:
        """Listen to the end of the loop."""
        engine.add_event_handler(Events.COMPLETED, self)

    def plan(self, loop: SelfTrainingLoop) -> list[PlannedStep]:
        """Return the page as a step of the run folder itself."""
        return [PlannedStep(REPORT, brief=True, folder=".")] if self.enabled else []

    def __call__(self, loop: SelfTrainingLoop) -> None:
        """Write the report if any manifest or setting of the run has changed since it was written."""
        if not self.enabled:
            return
        run = loop.work.run
        shown = [*sorted(run.glob(f"*/{MANIFEST}")), *sorted(run.glob(f"anchors/*/{MANIFEST}")), run / "run.yaml"]

        def work(place: Path) -> None:
            write_report(run, output=place / "report.html")

        inputs = {path.relative_to(run).as_posix(): path for path in shown}
        loop.step_folder(".").do(Step(REPORT, ("report.html",), work, inputs=inputs))
