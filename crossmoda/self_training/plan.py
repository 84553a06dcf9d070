"""What a run will do: the steps of its rounds, known before anything is done.

``Work`` does what is listed here, and the loop puts the lists in the order of its rounds, so that whoever asks what is
to come (progress, the estimate of a run's cost) hears of the steps that will be in the manifests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from crossmoda.files import hash_of
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.views import TRANSLATOR, trained, translated

if TYPE_CHECKING:
    from crossmoda.self_training.loop import SelfTrainingLoop
    from crossmoda.self_training.work import Work

TRAIN, INFERENCE = "train", "inference"
PREDICTED = ("target", "validation")  # sections that the segmenter of a round labels
TAUGHT = ("validation",)  # sections that a segmenter labels which was taught apart from the rounds
SEGMENTER = "segmenter"
PREDICTIONS = "predictions"
METRICS = "metrics"
SCANS = "scans"  # hrT2 scans laid down by case, beside their renderings
SEEN = "target_view"  # the target scans as the first segmenter sees them
SCAN_DIR = "scan_dir"  # setting of the segmenter's inference: where the hrT2 scans are that it sees rendered
SINGAN = "singan"
REVIEWED = "reviewed"
PSEUDO_LABELS = "pseudo_labels"


@dataclass(frozen=True)
class Scans:
    """What a step goes through, counted.

    Args:
        plain: scans as they are, such as those that a network is applied to.
        rendered: labelled source cases of which all renderings are learnt from, augmented ones included.
        pseudo_labelled: real scans with a network's label; all that a round could accept.
    """

    plain: int = 0
    rendered: int = 0
    pseudo_labelled: int = 0


@dataclass(frozen=True)
class PlannedStep:
    """A step that will be done.

    Args:
        name: in the manifest of its folder.
        uses: what runs, by the kind of workflow: ``train`` first where a step depends on what was trained.
        trains: whether it is a training; others take their time scan by scan.
        scans: that it goes through.
        view: whose translator or rendering it is.
        settings: what decides how long it takes for a scan, where no workflow runs.
        brief: a matter of seconds, beside trainings and predictions.
        folder: of the manifest, relative to the run.
    """

    name: str
    uses: Mapping[str, BundleUse] = field(default_factory=dict)
    trains: bool = False
    scans: Scans = Scans()
    view: str = ""
    settings: Any = None
    brief: bool = False
    folder: str = ""

    @property
    def key(self) -> str:
        """Its name in the run."""
        return f"{self.folder}/{self.name}"

    @cached_property
    def like(self) -> str:
        """The same for steps that take equally long, apart from the number of scans."""
        runs = {kind: [[str(file) for file in use.files(kind)], use.overrides(kind)] for kind, use in self.uses.items()}
        return hash_of(runs or [self.name, self.settings])

    @property
    def size(self) -> int:
        """How long it takes, compared with steps like it: trainings are equally long, others as their scans."""
        return 1 if self.trains else max(1, self.scans.plain)

    def within(self, folder: str) -> PlannedStep:
        """Return the step in a folder of the run."""
        return replace(self, folder=folder)


@runtime_checkable
class PlansSteps(Protocol):
    """A handler of the loop that does steps of its own."""

    def plan(self, loop: SelfTrainingLoop) -> list[PlannedStep]:
        """Return the steps that it will do, each with its folder."""


def translators(work: Work) -> list[PlannedStep]:
    """Return the trainings of the views that have a translator of their own."""
    return [
        PlannedStep(f"{TRANSLATOR}{view}", {TRAIN: use}, trains=True, scans=Scans(_learnt_by(use, work)), view=view)
        for view, use in trained(work.views).items()
    ]


def renderings(work: Work) -> list[PlannedStep]:
    """Return the translations of the source scans, one of each view that renders."""
    scans = Scans(len(work.items("source")))
    return [
        PlannedStep(f"pseudo_hrt2/{view}", {INFERENCE: use}, scans=scans, view=view)
        for view, use in translated(work.views).items()
    ]


def target_renderings(work: Work) -> list[PlannedStep]:
    """Return how hrT2 scans are prepared for a round 0 that does not see them as they are."""
    if work.target_view is None:
        return []
    scans = Scans(len(work.items("target")) + len(work.items("validation")))
    copied = [PlannedStep(SCANS, scans=scans)] if work.segmenter.has(INFERENCE, SCAN_DIR) else []
    return [PlannedStep(SEEN, {INFERENCE: work.target_view}, scans=scans, view=SEEN), *copied]


def augmentations(work: Work) -> tuple[list[PlannedStep], list[PlannedStep]]:
    """Return the training of a SinGAN, if one takes part, and apart from it the blending of each view."""
    if work.blending is None:
        return [], []
    trains = [PlannedStep(SINGAN, {TRAIN: work.blending}, trains=True)] if work.blending.harmonises else []
    scans = Scans(_labelled(work))
    blended = [
        PlannedStep(f"blended/{view}", {INFERENCE: work.blending}, scans=scans, view=view)
        for view in translated(work.views)
    ]
    return trains, blended


def labellings(work: Work) -> list[PlannedStep]:
    """Return what turns a former round's predictions into labels."""
    scans, rules = Scans(len(work.items("target"))), [str(rule) for rule in work.rules]
    return [PlannedStep(REVIEWED, brief=True), PlannedStep(PSEUDO_LABELS, scans=scans, settings=rules)]


def teaching(work: Work, learnt: Scans, sections: Sequence[str] = PREDICTED) -> list[PlannedStep]:
    """Return the training of a segmenter, its predictions, and their evaluation where truth is known.

    Args:
        work: whose segmenter.
        learnt: what the segmenter learns from.
        sections: of the dataset, that are labelled.
    """
    use, judged = work.segmenter, work.judged()
    scans = Scans(sum(len(work.items(section)) for section in sections))
    return [
        PlannedStep(SEGMENTER, {TRAIN: use}, trains=True, scans=learnt),
        PlannedStep(PREDICTIONS, {TRAIN: use, INFERENCE: use}, scans=scans),
        *([PlannedStep(METRICS, scans=Scans(len(judged)), brief=True)] if judged else []),
    ]


def before_the_first(work: Work) -> list[PlannedStep]:
    """Return all that comes before the first segmenter, in order."""
    trains, blended = augmentations(work)
    return translators(work) + renderings(work) + target_renderings(work) + trains + blended


def round_steps(work: Work, number: int, weight: float) -> list[PlannedStep]:
    """Return the steps of a round, in order.

    Args:
        work: with the round's method.
        number: of the round.
        weight: of translated scans beside real ones; at 0 they are not learnt from.
    """
    if number == 0:
        return before_the_first(work) + teaching(work, Scans(rendered=_labelled(work)))
    learnt = Scans(rendered=_labelled(work) if weight > 0 else 0, pseudo_labelled=len(work.items("target")))
    return labellings(work) + teaching(work, learnt)


def _labelled(work: Work) -> int:
    return sum(bool(item.get("label")) for item in work.items("source"))


def _learnt_by(use: BundleUse, work: Work) -> int:
    """Return how many scans a translator learns from, of both kinds."""
    sites = use.config(TRAIN).get("learn_sites")
    scans = [*work.items("source"), *work.items("target")]
    return sum(item.get("site") in sites for item in scans) if sites else len(scans)
