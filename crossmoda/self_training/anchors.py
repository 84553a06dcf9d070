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
from crossmoda.self_training.steps import StepFolder
from crossmoda.self_training.work import Work

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

    def __call__(self, loop: SelfTrainingLoop) -> None:
        """Do both anchors and write ``comparison.json``."""
        work = loop.work
        oracle = with_truth(work.items("target"), work.truth, work.datalist["labels"])
        validation = with_truth(work.items("validation"), work.truth, work.datalist["labels"])
        if not self.enabled or not oracle or not validation:
            return
        source = [item for item in work.items("source") if item.get("label")]
        work.launcher.run([_course(work, "source_only", source, []), _course(work, "oracle", [], oracle)])
        write_comparison(work.run)


def _course(work: Work, name: str, source: Sequence[Item], target: Sequence[Item]) -> Course[Any]:
    logger.info("anchor %s", name)
    return (yield from work.teaching(StepFolder(work.run / "anchors" / name), source, target))
