"""The loop's own steps on few scans and with few training steps, each timed.

A step is rehearsed once for all that are like it. Everything is done by ``Work``, in a folder of its own, so that a
step finds what the steps before it made. Segmenters of later rounds learn from the first round's scans, since labels
of a network that has learnt for a few steps are of no use; what they cost is the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from crossmoda.data.datalist import save_datalist
from crossmoda.engines.devices import device_here
from crossmoda.engines.memory import forget_peak, peak_on_mib
from crossmoda.errors import CrossmodaError
from crossmoda.launching import Launcher
from crossmoda.self_training import plan
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.datalists import Item
from crossmoda.self_training.estimate.extrapolation import Timed
from crossmoda.self_training.estimate.rehearsed import RehearsedTraining, timed_scans
from crossmoda.self_training.estimate.trainings import alternatives, shortened
from crossmoda.self_training.loop import SelfTrainingLoop
from crossmoda.self_training.plan import PlannedStep, Scans
from crossmoda.self_training.steps import StepFolder
from crossmoda.self_training.views import View
from crossmoda.self_training.work import Work

logger = logging.getLogger(__name__)

LEAST_CASES = 2  # of a section: one to learn from and one to be judged on
FEW = ("source", "target")  # sections; a validation scan would cost a prediction that tells nothing new
WHOLE = "whole.json"  # the datalist of all scans, beside that of the few


class Rehearsal:
    """Do each kind of step of a loop once, in small, and say what it takes.

    Args:
        loop: whose steps.
        run: an empty folder.
        cases: of source and target; at least one of every site is taken.

    Raises:
        CrossmodaError: fewer cases than two are asked for, or there.
    """

    def __init__(self, loop: SelfTrainingLoop, run: Path, cases: int = 2) -> None:
        work, self.loop = loop.work, loop
        self.device = device_here(work.device)
        self.meter = Meter(self.device)
        views = {name: _short_view(view) for name, view in work.views.items()}
        blending = None if work.blending is None else shortened(work.blending)
        few, here = few_scans(work, cases), Launcher()  # in this process, whose memory is measured
        self.work = replace(work, run=run, datalist=few, views=views, blending=blending, launcher=here)
        self.cases = sum(bool(item.get("label")) for item in self.work.items("source"))
        self.plan = loop.plan()
        self.timed: dict[str, list[Timed]] = {}
        self._predicted: dict[str, StepFolder] = {}  # by what is alike in predictions
        save_datalist(self.work.dataset_file, dict(self.work.datalist))
        save_datalist(run / WHOLE, dict(work.datalist))

    def run(self) -> dict[str, list[Timed]]:
        """Return what each kind of step takes, by ``PlannedStep.like``.

        Raises:
            CrossmodaError: whatever would stop the run itself, or a step does not fit into the GPU's memory.
        """
        kinds = len({step.like for step in self.plan if not step.brief})
        scans = ", ".join(f"{len(self.work.items(section))} {section}" for section in FEW)
        logger.info("each of %d kinds of steps is done once, with few training steps, on scans: %s", kinds, scans)
        try:
            for number in range(self.loop.max_epochs):
                self._round(number)
        except torch.OutOfMemoryError as error:
            raise CrossmodaError(
                f"{self.meter.step}: does not fit into the memory of {self.device}; choose a smaller profile"
            ) from error
        return self.timed

    def _round(self, number: int) -> None:
        wanted = self._planned(number)
        new = {name for name, step in wanted.items() if step.like not in self.timed}
        folder = self._folder(number)
        if number == 0:
            self._translate(wanted, folder)
        elif plan.PSEUDO_LABELS in new:
            self._label(wanted[plan.PSEUDO_LABELS], folder, number)
        if new & {plan.SEGMENTER, plan.PREDICTIONS}:
            for name, segmenter in alternatives(self.loop.work_of(number).segmenter).items():
                self._teach(wanted, folder, number, name, segmenter)
        self._predicted.setdefault(wanted[plan.PREDICTIONS].like, folder)

    def _planned(self, number: int) -> dict[str, PlannedStep]:
        """Return the steps of a round of the whole run, by name."""
        return {step.name: step for step in self.plan if step.folder == f"round_{number}"}

    def _folder(self, number: int) -> StepFolder:
        return StepFolder(self.work.run / f"round_{number}", self.meter)

    def _work(self, number: int, segmenter: BundleUse | None = None) -> Work:
        """Return the small work with a round's method, perhaps with another segmenter."""
        method = self.loop.methods.of(number)
        return self.work.in_round(replace(method, segmenter=segmenter or method.segmenter, warm_start=False))

    def _translate(self, wanted: Mapping[str, PlannedStep], folder: StepFolder) -> None:
        """Do what comes before the first segmenter."""
        work = self._work(0)
        work.train_translators(folder)
        work.translate(folder)
        work.render_targets(folder)
        work.augment(folder)
        for small in plan.before_the_first(work):
            whole = wanted[small.name]
            if whole.like in self.timed:
                continue
            if small.trains:
                uses = (whole.uses[plan.TRAIN], small.uses[plan.TRAIN])
                self.timed[whole.like] = [*self._training(uses, small, folder, work.dataset_file)]
            else:
                self.timed[whole.like] = [self._scans(small, folder)]

    def _label(self, whole: PlannedStep, folder: StepFolder, number: int) -> None:
        """Let the round's rules judge the predictions of the round before, whichever folder has such."""
        before, work = self._planned(number - 1), self._work(number)
        work.freeze_reviews(folder, None)
        work.pseudo_labels(folder, self._predicted[before[plan.PREDICTIONS].like], number)
        small = {step.name: step for step in plan.labellings(work)}
        self.timed[whole.like] = [self._scans(small[plan.PSEUDO_LABELS], folder)]

    def _teach(
        self, wanted: Mapping[str, PlannedStep], folder: StepFolder, number: int, name: str, segmenter: BundleUse
    ) -> None:
        """Train and predict by a segmenter, or by one of its alternatives."""
        source = self._work(number).pseudo_hrt2(self._folder(0))
        short = shortened(segmenter, self._most_learnt(wanted[plan.SEGMENTER], len(source) / self.cases))
        work, rendered = self._work(number, short), number == 0 and self.work.target_view is not None
        work.teach(folder, source, [], sections=plan.PREDICTED, number=number, rendered=rendered)
        small = {step.name: step for step in plan.teaching(work, Scans())}
        trained = self._training((segmenter, short), small[plan.SEGMENTER], folder, folder.path / "datalist.json")
        self._add(wanted[plan.SEGMENTER], trained)
        self._add(wanted[plan.PREDICTIONS], [self._scans(small[plan.PREDICTIONS], folder, name)])

    def _most_learnt(self, segmenter: PlannedStep, of_case: float) -> int:
        """Return from how many scans any segmenter like this one learns."""
        alike = [step.scans for step in self.plan if step.like == segmenter.like]
        return max(math.ceil(s.plain + s.pseudo_labelled + s.rendered * of_case) for s in alike)

    def _add(self, step: PlannedStep, timed: Sequence[Timed]) -> None:
        """Take what was measured, unless the same parts of such a step were before."""
        known = self.timed.setdefault(step.like, [])
        known.extend(part for part in timed if part.name not in [other.name for other in known])

    def _scans(self, small: PlannedStep, folder: StepFolder, name: str = "") -> Timed:
        mib = self.meter.mib[small.name]
        return timed_scans(folder.path / small.name, small.scans.plain, _seconds(small, folder), mib, name)

    def _training(
        self, uses: tuple[BundleUse, BundleUse], small: PlannedStep, folder: StepFolder, datalist: Path
    ) -> list[Timed]:
        """Return what each part of a training took, given the whole training and the one that was cut short."""
        places = (folder.path / small.name, datalist, self.work.run / WHOLE)
        alone = uses[0].torchrun_processes == 1  # several hold the memory in their own
        mib = self.meter.mib[small.name] if alone else math.nan
        took = (_seconds(small, folder), mib)
        return [*RehearsedTraining(*uses, *places, self.cases, *took, self.device).timed()]


def _short_view(view: View) -> View:
    return shortened(view) if isinstance(view, BundleUse) and view.weights_of is None else view


def _seconds(step: PlannedStep, folder: StepFolder) -> float:
    return float(folder.records()[step.name]["seconds"])


class Meter:
    """Note the most memory that each step takes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.step = ""  # the one that is being done
        self.mib: dict[str, float] = {}

    def begun(self, folder: Path, name: str) -> None:
        """Let the peak begin anew."""
        self.step = name
        forget_peak(self.device)

    def ended(self, folder: Path, name: str, done: bool) -> None:
        """Note the peak."""
        self.mib[name] = peak_on_mib(self.device)


def few_scans(work: Work, cases: int) -> dict[str, Any]:
    """Return a datalist of a few cases: of every site in turn, those first whose label is known.

    Raises:
        CrossmodaError: fewer cases than two are asked for, or are labelled.
    """
    if cases < LEAST_CASES:
        raise CrossmodaError(f"cases is {cases}; give {LEAST_CASES} or more, so that folds can be made of them")
    named = work.blending.config("train")["case"] if work.blending is not None and work.blending.harmonises else None
    few = {section: _chosen(work, section, cases, named) for section in FEW}
    labelled = sum(bool(item.get("label")) for item in few["source"])
    if labelled < LEAST_CASES:
        raise CrossmodaError(f"{labelled} source scans have a label; {LEAST_CASES} are needed to time a training")
    return {**work.datalist, **few, "validation": []}


def _chosen(work: Work, section: str, cases: int, named: str | None) -> list[Item]:
    """Return some items of a section, that of a named case first."""
    sites: dict[str, list[Item]] = {}
    items = work.datalist.get(section, [])
    for item in sorted(items, key=lambda item: (item["case"] != named, not item.get("label"))):
        sites.setdefault(str(item.get("site", "")), []).append(item)
    in_turn = [item for turn in zip_longest(*sites.values()) for item in turn if item is not None]
    return in_turn[: max(cases, len(sites))]
