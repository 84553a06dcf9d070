"""The two ends against which self-training is measured: no adaptation, and training on hrT2 truth."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ignite.engine import Engine, Events

from crossmoda.evaluation.comparison import write_comparison
from crossmoda.launching import Course
from crossmoda.self_training.datalists import Item, with_truth
from crossmoda.self_training.loop import SelfTrainingLoop
from crossmoda.self_training.plan import TAUGHT, PlannedStep, Scans, teaching

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Anchors:
    """Train the same segmenter, for as long, on ceT1 alone (``source_only``) and on hrT2 truth (``oracle``); compare.

    Runs after the last round, and only where the truth of target and validation scans is known, as in synthetic data.

    Args:
        enabled: False leaves the anchors out.
    """

    enabled: bool = True

    def attach(self, engine: Engine) -> None:
        """Listen to the end of the loop."""
        engine.add_event_handler(Events.COMPLETED, self)

    def plan(self, loop: SelfTrainingLoop) -> list[PlannedStep]:
        """Return the steps of both anchors."""
        return [
            step.within(_folder(name))
            for name, (source, target) in self.taught(loop).items()
            for step in teaching(loop.work, Scans(plain=len(source) + len(target)), TAUGHT)
        ]

    def __call__(self, loop: SelfTrainingLoop) -> None:
        """Do both anchors and write ``comparison.json``."""
        taught = self.taught(loop)
        loop.work.launcher.run([_course(loop, name, *items) for name, items in taught.items()])
        if taught:
            write_comparison(loop.work.run)

    def taught(self, loop: SelfTrainingLoop) -> dict[str, tuple[list[Item], list[Item]]]:
        """Return the source and target items that each anchor learns from; none where the truth is not known."""
        work = loop.work
        oracle = with_truth(work.items("target"), work.truth, work.datalist["labels"])
        if not self.enabled or not oracle or not work.judged():
            return {}
        source = [item for item in work.items("source") if item.get("label")]
        return {"source_only": (source, []), "oracle": ([], oracle)}


def _folder(name: str) -> str:
    return f"anchors/{name}"


def _course(loop: SelfTrainingLoop, name: str, source: Sequence[Item], target: Sequence[Item]) -> Course[Any]:
    logger.info("anchor %s", name)
    return (yield from loop.work.teaching(loop.step_folder(_folder(name)), source, target))
