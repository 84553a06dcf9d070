"""What a rehearsed step took, taken apart into what grows with steps, epochs, folds and scans."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossmoda.data.datalist import AUGMENTED, segmentation_items, unpaired_items
from crossmoda.engines.speed import Pace
from crossmoda.engines.weights import is_given
from crossmoda.segmentation.nnunet.settings import NnUNetFolders
from crossmoda.segmentation.nnunet.spent import ROOT as NNUNET
from crossmoda.segmentation.nnunet.spent import preprocessing_seconds, read_spent
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.estimate.extrapolation import TimedScans, TimedTraining
from crossmoda.self_training.estimate.trainings import Length, Part, length_of, paces_of, parts_of, settings_of

VOLUMES = "*.nii.gz"
SECTIONS = "train_sections"  # setting of every segmenter's training, and of no translator's


def timed_scans(folder: Path, scans: int, seconds: float, mib: float = math.nan, name: str = "") -> TimedScans:
    """Return what a step took that went through scans.

    What comes before the first scan is told from the scans by the times at which their files were finished.

    Args:
        folder: of these files, of which a scan may have several; where there are fewer than two, all is the scans'.
        scans: how many.
        seconds: that the step took.
        mib: the most memory that it took.
        name: of the part.
    """
    scans = max(1, scans)
    each, apart = seconds / scans, seconds_between(folder)
    if apart is not None:
        files, between = apart
        each = min(each, between * files / scans)
    return TimedScans(name, each, seconds - each * scans, mib)


def seconds_between(folder: Path) -> tuple[int, float] | None:
    """Return how many volumes a folder holds, and the mean time between two of them; None of fewer than two."""
    times = sorted(path.stat().st_mtime for path in folder.glob(VOLUMES))
    return (len(times), (times[-1] - times[0]) / (len(times) - 1)) if len(times) > 1 else None


@dataclass(frozen=True)
class RehearsedTraining:
    """A training that was cut short and is done.

    Args:
        whole: the training as the run will do it.
        short: as it was done.
        output: its folder.
        datalist: that it learnt from.
        dataset: the datalist of all scans.
        cases: labelled source cases of which the datalist has renderings.
        seconds: that it took.
        mib: the most memory that its process took.
        device: that it ran on.
    """

    whole: BundleUse
    short: BundleUse
    output: Path
    datalist: Path
    dataset: Path
    cases: int
    seconds: float
    mib: float
    device: torch.device

    def timed(self) -> list[TimedTraining]:
        """Return what each part took; what belongs to none is shared among them. Given weights take no step."""
        if is_given(self.output / "model.pt"):
            return [TimedTraining("", Length(0, 0, 0), Pace(0, 0), fixed_seconds=self.seconds, mib=self.mib)]
        paces, parts = paces_of(self.short, self.output), parts_of(self.whole)
        found = [
            self._of_nnunet(part, paces[part.name]) if part.is_nnunet else self._of_bundle(part, paces[part.name])
            for part in parts
        ]
        rest = max(0.0, self.seconds - sum(seconds for _, seconds in found)) / len(found)
        return [replace(part, fixed_seconds=rest) for part, _ in found]

    def _of_bundle(self, part: Part, pace: Pace) -> tuple[TimedTraining, float]:
        """Return a part that a bundle trains itself, and the seconds that it accounts for."""
        length, datalist = length_of(part), self._datalist(part)
        if "iterations_per_scale" in part.use.config("train"):  # a SinGAN, whose one slice is ready at once
            return TimedTraining(part.name, length, pace, mib=self.mib), pace.steps_in_all
        started = time.monotonic()
        places = {"dataset_dir": str(datalist), "output_dir": str(self.output / "prepared")}
        parser = part.use.parser("train", device=self.device, **places)
        dataset = parser.get_parsed_content("train::dataset")
        ready = time.monotonic() - started
        if not length.steps:
            length = replace(length, steps=steps_of_all_slices(part, dataset, datalist, self.dataset))
        learnt = _learnt(part, datalist)
        timed = TimedTraining(
            *(part.name, length, pace), scan_seconds=ready / learnt, scans_of_case=learnt / self.cases, mib=self.mib
        )
        return timed, pace.steps_in_all + ready

    def _of_nnunet(self, part: Part, pace: Pace) -> tuple[TimedTraining, float]:
        """Return one of nnU-Net's configurations, and the seconds that it accounts for."""
        place, spent = self.output / part.place, read_spent(self.output / part.place)
        share = 1 / len(spent.epochs)  # of what the configurations of a member took together
        seconds = {name: value * share for name, value in spent.watch.seconds.items()}
        learnt = segmentation_items(self._datalist(part), tuple(settings_of(part.use, SECTIONS)[SECTIONS]))
        judged = [item for item in learnt if AUGMENTED not in item["view"]] or learnt
        validated = _validated(part, place, seconds.get("validation", 0.0), spent.scans.get(part.configuration, []))
        timed = TimedTraining(
            *(part.name, length_of(part), pace),
            scan_seconds=_ready_seconds(part, place, share),
            scans_of_case=len(learnt) / self.cases,
            judged_seconds=validated.scan_seconds,
            judged_of_case=len(judged) / self.cases,
            run_seconds=max(0.0, seconds["training"] - pace.steps_in_all) + validated.fixed_seconds,
            mib=spent.mib,
        )
        of_the_run = seconds["training"] + seconds.get("validation", 0.0)
        return timed, of_the_run + len(learnt) * timed.scan_seconds

    def _datalist(self, part: Part) -> Path:
        """Return what a part learnt from: a member has a datalist of its own."""
        own = self.output / part.place / "datalist.json"
        return own if own.is_file() else self.datalist


def _ready_seconds(part: Part, place: Path, share: float) -> float:
    """Return how long it takes until nnU-Net can learn from a scan: written by us, preprocessed by its processes."""
    labels = seconds_between(NnUNetFolders(place / NNUNET).raw / "labelsTr")
    processes = max(1, settings_of(part.use, "num_workers")["num_workers"])
    written = labels[1] * share if labels else 0.0
    return written + preprocessing_seconds(place, part.configuration) / processes


def _validated(part: Part, place: Path, seconds: float, predicted: Sequence[float]) -> TimedScans:
    """Return what nnU-Net took to label the scans of the fold that was left out, if one was.

    Of a single scan, what its prediction took: the rest is the start of the process that writes it.
    """
    if len(predicted) == 1:
        return TimedScans("", predicted[0], max(0.0, seconds - predicted[0]))
    folders = sorted(NnUNetFolders(place / NNUNET).results.glob(f"*__{part.configuration}/fold_*/validation"))
    return timed_scans(folders[0], len([*folders[0].glob(VOLUMES)]), seconds) if folders else TimedScans("", 0.0)


def _learnt(part: Part, datalist: Path) -> int:
    """Return how many scans a part of the bundles' own learns from."""
    sections = settings_of(part.use, SECTIONS)
    if sections:
        return len(segmentation_items(datalist, tuple(sections[SECTIONS])))
    return sum(map(len, _unpaired(part, datalist)))


def _unpaired(part: Part, datalist: Path) -> tuple[list[Any], list[Any]]:
    found = settings_of(part.use, "reverse", "learn_sites")
    return unpaired_items(datalist, reverse=found["reverse"], learn_sites=found["learn_sites"])


def steps_of_all_slices(part: Part, dataset: Any, datalist: Path, whole: Path) -> int:
    """Return the steps of a translator's epoch in which each slice of the modality with more comes once.

    Args:
        part: the training.
        dataset: of the few scans, ``source`` and ``target`` being their slices.
        datalist: of the few.
        whole: of all.
    """
    few, all_scans = _unpaired(part, datalist), _unpaired(part, whole)
    slices = (len(dataset.source), len(dataset.target))
    most = max(count * len(every) / len(some) for count, every, some in zip(slices, all_scans, few, strict=True))
    return math.ceil(most / settings_of(part.use, "batch_size")["batch_size"])
