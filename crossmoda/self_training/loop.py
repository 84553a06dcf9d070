"""The loop: translate, segment, label the targets, and train again, round after round.

The loop is an ignite engine whose epochs are rounds, so everything that ignite and MONAI hang onto a trainer (handlers,
experiment tracking) hangs onto it as well. All work is done by steps (``crossmoda.self_training.steps``): a run that
was killed, or is started a second time, goes through the same rounds and does only what is not done yet.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.engines.devices import device_here
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, remove_leavings, write_json, write_text
from crossmoda.launching import launcher_for
from crossmoda.self_training.blending import TumourBlending
from crossmoda.self_training.bundles import require_known_settings
from crossmoda.self_training.candidates import Rule
from crossmoda.self_training.labelling import FATES, accepted, not_shown, why_left_out
from crossmoda.self_training.plan import PREDICTED, PlannedStep, PlansSteps, round_steps
from crossmoda.self_training.progress import Progress
from crossmoda.self_training.round_options import options_of, with_options
from crossmoda.self_training.rounds import FromRound, RoundMethod, RoundMethods
from crossmoda.self_training.steps import StepFolder
from crossmoda.self_training.views import WEIGHTS, View, files_read, trained, translated
from crossmoda.self_training.work import BundleUse, Work, describe
from crossmoda.versions import versions

logger = logging.getLogger(__name__)


class SelfTrainingLoop(Engine):
    """Run rounds of self-training in a run folder.

    Round 0 trains the translators, renders the labelled source scans as pseudo-hrT2, augments these where ``blending``
    is given, and trains a segmenter on them.
    Each further round labels the real hrT2 scans with the last segmenter, replaces what clinicians have reviewed, and
    trains a segmenter on pseudo-hrT2 and real hrT2 together (cards C, D and E of the recipes), or in later rounds on
    the real ones alone (card B's last round).

    Args:
        output_dir: the run folder.
        datalist: the dataset (``crossmoda.data.datalist``).
        views: view name -> translator bundle; one that is None is left out.
        segmenter: segmentation bundle.
        rules: what becomes of predicted labels between rounds, in order.
        structures: names of the segmenter's output channels 1, 2, ...
        max_epochs: number of rounds, round 0 included.
        seed: of everything that is random outside the bundles; give the bundles theirs in ``views`` and ``segmenter``.
        device: for all workflows; None is the first GPU, or else the CPU, of whatever process runs one.
        truth_dir: folder of ``<case>_Label.nii.gz`` for target and validation cases; read for evaluation and anchors
            only.
        pseudo_hrt2_weights: of each translated scan in the loss, beside pseudo-labelled real ones: in round 1, 2, ...;
            the last one also in all further rounds. At 0 a round learns from the real scans alone, unless fewer than
            half of them have a label or none shows a structure: then the translated ones count fully (not with a
            ``target_view``, where they are of another modality than the scans). Where none has a label, a round of
            weight 0 stops, and others learn from the translated scans alone, with a warning.
        studies: folder of a MONAI Label datastore whose reviewed labels each new round takes over; by default
            ``output_dir/review``, if there.
        train_handlers: attached in order; ignite or MONAI handlers.
        blending: augments the translated scans with darker and brighter tumours and cochleae (card B), in round 0, for
            all rounds; None leaves them as they are.
        target_view: a translator that renders hrT2 scans for the segmenter of round 0, which then learns and predicts
            in the domain of the views (ceT1 in card A). Further rounds see the scans as they are.
        later_rounds: what rounds do otherwise than round 0, from some round on.
        first_segmenter: of round 0 alone, such as one that takes given weights instead of training; the rounds after it
            are those of ``segmenter``. None trains ``segmenter`` in round 0 too.
        scheduler: of a Dask cluster whose workers do the steps, independent ones at the same time: its address, or its
            ``--scheduler-file``; None does one after another here.
    """

    def __init__(
        self,
        output_dir: str | Path,
        datalist: Mapping[str, Any],
        views: Mapping[str, View | None],
        segmenter: BundleUse,
        rules: Sequence[Rule],
        structures: Sequence[str],
        max_epochs: int,
        seed: int,
        device: torch.device | str | None,
        truth_dir: str | Path | None = None,
        pseudo_hrt2_weights: float | Sequence[float] = (1.0,),
        studies: str | Path | None = None,
        train_handlers: Sequence[Any] = (),
        blending: TumourBlending | None = None,
        target_view: BundleUse | None = None,
        later_rounds: Sequence[FromRound] = (),
        first_segmenter: BundleUse | None = None,
        scheduler: str | None = None,
    ) -> None:
        super().__init__(lambda engine, batch: self._round(engine.state.epoch - 1))
        if max_epochs < 1:
            raise CrossmodaError(f"max_epochs is {max_epochs}, but a run has at least round 0; give 1 or more")
        self.max_epochs = max_epochs
        self.pseudo_hrt2_weights = round_weights(pseudo_hrt2_weights)
        self.studies = Path(studies) if studies else Path(output_dir) / "review"
        self.truth_dir = Path(truth_dir) if truth_dir else None
        self.work = Work(
            run=Path(output_dir),
            datalist=datalist,
            truth=find_truth(self.truth_dir),
            views={name: view for name, view in views.items() if view is not None},
            segmenter=segmenter,
            rules=tuple(rules),
            structures=tuple(structures),
            seed=seed,
            device=None if device is None else torch.device(device),
            blending=blending,
            target_view=target_view,
            launcher=launcher_for(scheduler, Path(output_dir)),
        )
        start = None if first_segmenter is None else RoundMethod(first_segmenter, ())
        self.methods = RoundMethods(RoundMethod(segmenter, tuple(rules)), tuple(later_rounds), start)
        self.logger.setLevel(logging.WARNING)  # ignite's own lines about epochs say less than ours about steps
        self.progress: Progress | None = None  # while it runs
        self.handlers = tuple(train_handlers)
        for handler in self.handlers:
            handler.attach(self)

    def run(self) -> Any:  # type: ignore[override]
        """Do what is not done yet of all rounds."""
        self.require_known_settings()
        with exclusive(self.work.run), self.work.launcher:
            self._tidy()
            self.write_description()
            self.require_fit()
            self.progress = Progress(self.work.run, self.plan(), self.work.launcher.scheduler is not None)
            self.progress.start()
            return super().run([None], max_epochs=self.max_epochs, epoch_length=1)

    def require_known_settings(self) -> None:
        """Make sure that what any round hands to other bundles names keys that these have."""
        for method in self.methods.distinct().values():
            require_known_settings(self.work.views, method.segmenter, self.work.blending, self.work.target_view)

    def require_fit(self) -> None:
        """Write down the dataset, and find what would stop any round before anything is trained."""
        save_datalist(self.work.dataset_file, dict(self.work.datalist))
        # Round 0 judges nothing; the rules are those of round 1.
        rounds = [(self.work_of(number), self.work_of(max(number, 1) - 1)) for number in self.methods.distinct()]
        self.work.launcher.call("checks", self.work.run, partial(_require_fit, self.work, rounds))

    def work_of(self, number: int) -> Work:
        """Return the work with the method of a round."""
        return self.work.in_round(self.methods.of(number))

    def plan(self) -> list[PlannedStep]:
        """Return all steps of a run in order, those of its handlers last; what is done already is among them."""
        rounds = [step for number in range(self.max_epochs) for step in self.plan_of_round(number)]
        further = [handler.plan(self) for handler in self.handlers if isinstance(handler, PlansSteps)]
        return rounds + [step for steps in further for step in steps]

    def plan_of_round(self, number: int) -> list[PlannedStep]:
        """Return the steps of a round."""
        steps = round_steps(self.work_of(number), number, self.planned_weight(number))
        return [step.within(f"round_{number}") for step in steps]

    def _tidy(self) -> None:
        """Delete half-written files of a killed run, but nothing of the review, where a server may be writing."""
        remove_leavings(self.work.run, below=False)
        for folder in (*self.work.run.glob("round_*"), self.work.run / "anchors"):
            remove_leavings(folder)

    def folder(self, number: int) -> StepFolder:
        """Return the folder of a round."""
        return self.step_folder(f"round_{number}")

    def step_folder(self, name: str) -> StepFolder:
        """Return a folder of the run, whose steps count in its progress."""
        return StepFolder(self.work.run / name, self.progress)

    def _round(self, number: int) -> list[dict[str, Any]]:
        work, folder, first = self.work_of(number), self.folder(number), self.folder(0)
        logger.info("round %d of %d", number, self.max_epochs - 1)
        target: list[dict[str, Any]] = []
        if number == 0:
            work.train_translators(folder)
            work.translate(folder)
            work.render_targets(folder)
            work.augment(folder)
        else:
            work.freeze_reviews(folder, self.studies)
            target = work.pseudo_labels(folder, self.folder(number - 1), number)
        metrics = work.teach(
            folder,
            work.pseudo_hrt2(first, self.pseudo_hrt2_weight(number, target)),
            target,
            sections=PREDICTED,
            number=number,
            previous=self.folder(number - 1) if number else None,
            rendered=number == 0 and work.target_view is not None,
        )
        if metrics is not None:
            self.state.metrics.update(mean_dice(metrics))
        if folder.redone or not self._is_past(number):
            self._publish(folder, number, metrics)
        # ``loss`` is the segmenter's at the end of its training; experiment tracking looks for a value of that name.
        history = read_json(folder.path / "segmenter" / "history.json")
        return [{"round": number, "metrics": metrics, "loss": history["series"]["loss"][-1]}]

    def pseudo_hrt2_weight(self, number: int, target: Sequence[Mapping[str, Any]]) -> float:
        """Return the weight of translated scans in a round's loss: 1 where there is too little else to learn from.

        Raises:
            CrossmodaError: no real scan has a label, and the round's weight is 0: there is nothing that the recipe
                would learn from, and translated scans alone would repeat round 0.
        """
        weight = self.planned_weight(number)
        if number == 0:
            return weight
        kept = accepted(target)
        if kept == 0:
            self._tell_that_none_is_accepted(number, target, weight)
        elif weight == 0:
            return self._weight_beside_few(number, target, kept)
        return weight

    def _weight_beside_few(self, number: int, target: Sequence[Mapping[str, Any]], kept: int) -> float:
        """Return 1 where a round that would learn from real scans alone has too few labels, or none of a structure."""
        unseen = not_shown(target, self.work.structures)
        few = f"{kept} of {len(target)} real scans have a label" if 2 * kept < len(target) else ""
        reason = f"no label of a real scan shows {', '.join(unseen)}" if unseen else few
        if not reason:
            return 0.0
        alone = self.work.target_view is not None
        told = "it learns from these alone" if alone else "the translated scans count fully"
        logger.warning("round %d: %s; %s", number, reason, told)
        return 0.0 if alone else 1.0

    def planned_weight(self, number: int) -> float:
        """Return the weight that the settings give to translated scans in a round."""
        return self.pseudo_hrt2_weights[min(number, len(self.pseudo_hrt2_weights)) - 1] if number else 1.0

    def _tell_that_none_is_accepted(self, number: int, target: Sequence[Mapping[str, Any]], weight: float) -> None:
        """Say which rules left all cases out and what to do; go on only where translated scans are learnt from."""
        told = (
            f"round {number}: none of {len(target)} pseudo-labels is accepted; left out by {why_left_out(target)}; "
            f"each case's reason is in {self.folder(number).path / 'pseudo_labels' / FATES}"
        )
        remedy = "loosen these rules, train the segmenter longer, or review labels"
        if weight == 0:
            raise CrossmodaError(
                f"{told}. This round would learn from real scans alone: {remedy}, or give the round a weight above 0 "
                "in pseudo_hrt2_weights"
            )
        logger.warning("%s. It learns from translated scans alone, as round 0 did: %s", told, remedy)

    def _publish(self, folder: StepFolder, number: int, metrics: Mapping[str, Any] | None) -> None:
        """Make this round the run's current one: what is served, and what is reported.

        A round 0 that sees hrT2 scans rendered as ceT1 is reported alone: served, it would be shown hrT2.
        """
        name, segmenter = folder.path.name, self.methods.of(number).segmenter
        current = {
            "round": number,
            "segmenter": f"{name}/segmenter/model.pt",
            "datalist": f"{name}/datalist.json",
            "predictions": f"{name}/predictions",
            "uncertainty": f"{name}/uncertainty",
            "structures": list(self.work.structures),
            "segmentation_bundle": _placed(segmenter),
            "translators": self._translators(),
        }
        if number > 0 or self.work.target_view is None:
            write_if_changed(self.work.run / "current.json", current)
        if metrics is not None:
            write_if_changed(self.work.run / "metrics.json", metrics)

    def _translators(self) -> dict[str, Any]:
        """Return view -> the bundle and the weights that render a ceT1 scan; without round trips, which take two."""
        return {
            name: {"bundle": _placed(view), "weights": f"round_0/{files_read(name, view)[WEIGHTS]}"}
            for name, view in translated(self.work.views).items()
            if not view.reads
        }

    def _is_past(self, number: int) -> bool:
        """Tell whether a later round of these settings is the run's current one already."""
        file = self.work.run / "current.json"
        return file.is_file() and number < read_json(file)["round"] < self.max_epochs

    def described(self) -> dict[str, Any]:
        """Return the settings, from which ``load_run`` builds the loop again, versions and machine."""
        work, start = self.work, self.methods.start
        settings = {
            "_target_": "crossmoda.self_training.SelfTrainingLoop",
            "views": {name: describe(view) for name, view in work.views.items()},
            "segmenter": describe(work.segmenter),
            "rules": [describe(rule) for rule in work.rules],
            "structures": list(work.structures),
            "max_epochs": self.max_epochs,
            "seed": work.seed,
            "pseudo_hrt2_weights": list(self.pseudo_hrt2_weights),
            "truth_dir": str(self.truth_dir.resolve()) if self.truth_dir else None,
            # Places inside the run are left to their defaults, so that a run folder can be moved.
            "studies": None if self.studies == work.run / "review" else str(self.studies.resolve()),
            "train_handlers": [describe(handler) for handler in self.handlers if is_dataclass(handler)],
            "blending": describe(work.blending) if work.blending is not None else None,
            "target_view": describe(work.target_view) if work.target_view is not None else None,
            "later_rounds": [describe(change) for change in self.methods.changes],
            **({} if start is None else {"first_segmenter": describe(start.segmenter)}),
        }
        resolved = {name: view.config("train") for name, view in trained(work.views).items()}
        description = {
            "trainer": settings,
            "seed": work.seed,
            "device": str(work.device or ("of each worker" if work.launcher.scheduler else device_here())),
            "versions": versions(),
            "machine": {"platform": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count()},
            "resolved": {"translators": resolved, "segmenter": work.segmenter.config("train")},
        }
        return dict(plain(description))

    def write_description(self) -> None:
        """Write ``run.yaml``, which ``described`` fills."""
        text = yaml.safe_dump(self.described(), sort_keys=False, allow_unicode=True)
        path = self.work.run / "run.yaml"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)


def _require_fit(work: Work, rounds: Sequence[tuple[Work, Work]]) -> None:
    """Find what would stop views or blending, or a round with the one before it."""
    work.require_fit()
    for now, before in rounds:
        now.require_round(before)


def round_weights(weights: float | Sequence[float]) -> tuple[float, ...]:
    """Return the weights of translated scans in rounds 1, 2, ..., from a list or one number for all.

    Raises:
        CrossmodaError: there is none, or one is not a finite number from 0 up.
    """
    listed = [weights] if isinstance(weights, (int, float)) else list(weights)
    if not listed or not all(isinstance(weight, (int, float)) and 0 <= weight < float("inf") for weight in listed):
        raise CrossmodaError(f"pseudo_hrt2_weights is {weights}, but must hold a number from 0 up for each round")
    return tuple(float(weight) for weight in listed)


def current_segmenter(run: str | Path, **places: Any) -> ConfigWorkflow:
    """Return the segmentation bundle's inference workflow with a run's current weights and settings, initialised.

    Args:
        run: the run folder.
        places: settings of ``inference.yaml`` that say where from and where to: ``dataset_dir``, ``output_dir``,
            ``device`` ...

    Raises:
        CrossmodaError: the run has no segmenter yet.
    """
    run = Path(run)
    current = read_json(run / "current.json")
    bundle = BundleUse(**current["segmentation_bundle"])
    workflow = bundle.workflow("inference", weights=str(run / current["segmenter"]), **places)
    workflow.initialize()
    return workflow


def find_truth(folder: Path | None) -> dict[str, Path]:
    """Return case -> label file of a folder of truth, empty where there is none."""
    if folder is None or not folder.is_dir():
        return {}
    return {path.name[: -len(LABEL_SUFFIX)]: path for path in sorted(folder.glob(f"*{LABEL_SUFFIX}"))}


def mean_dice(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return ``{structure}_dice`` for every structure of a metrics.json."""
    return {
        f"{name}_dice": values["dice"]["mean"] for name, values in metrics["structures"].items() if "dice" in values
    }


def load_run(run: str | Path, **changes: Any) -> SelfTrainingLoop:
    """Build a run's loop again from its ``run.yaml`` and ``dataset.json``.

    Args:
        run: the run folder.
        changes: settings of the loop to replace, e.g. ``max_epochs``.

    Raises:
        CrossmodaError: there is no run in the folder.
    """
    run = Path(run)
    if not (run / "run.yaml").is_file():
        raise CrossmodaError(f"{run}: no run.yaml there; name a folder that the self-training bundle made")
    settings = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["trainer"]
    settings = {**settings, "output_dir": str(run), "device": None, "datalist": None, **changes}
    parser = ConfigParser({"trainer": settings})
    parser["trainer"]["datalist"] = load_datalist(run / "dataset.json")
    return parser.get_parsed_content("trainer")


def continue_run(
    run: str | Path,
    studies: str | Path | None = None,
    scheduler: str | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Run the next round, which learns from the labels that clinicians have reviewed.

    A further round that was begun and interrupted is finished instead.

    Args:
        run: the run folder.
        studies: folder of the reviewed labels, by default the run's own.
        scheduler: of a Dask cluster, whose workers then do the steps.
        options: those of ``RoundOptions`` that change; they hold from this round on.
        device: for all workflows; the first GPU, or else the CPU, by default.

    Returns:
        The new ``current.json``.

    Raises:
        CrossmodaError: there is no run in the folder, or an option is not what it can be.
    """
    run = Path(run)
    number = read_json(run / "current.json")["round"] + 1
    changes = {"studies": str(studies)} if studies else {}
    loop = load_run(run, max_epochs=number + 1, scheduler=scheduler, device=device, **changes)
    if options:
        wanted = options_of(loop.methods.of(number)).changed(options)
        loop.methods = with_options(loop.methods, number, wanted)
    loop.run()
    return read_json(run / "current.json")


@contextmanager
def exclusive(run: Path) -> Iterator[None]:
    """Hold a run folder for this process.

    Raises:
        CrossmodaError: another process works in it, or it cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        stream = (run / ".lock").open("w")
    except OSError as error:
        raise CrossmodaError(f"{run}: cannot be written ({error.strerror}); choose another output_dir") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CrossmodaError(
                f"{run}: another process works in this run; wait for it or choose another output_dir"
            ) from error
        yield


def _placed(use: BundleUse) -> dict[str, Any]:
    """Return the use of a bundle as JSON, from which another process, in another folder, can build it again."""
    return dict(plain(asdict(replace(use, root=str(Path(use.root).resolve())))))


def write_if_changed(path: Path, value: Any) -> None:
    """Write a JSON file unless it holds the value already, so that servers do not reload for nothing."""
    if not path.is_file() or read_json(path) != value:
        write_json(path, value)


def plain(value: Any) -> Any:
    """Return a value made of dictionaries, lists, numbers and texts alone."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
