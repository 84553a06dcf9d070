"""The steps that rounds and anchors are made of; those that are independent are launched together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.data.volumes import read_volume, write_volume
from crossmoda.engines import seed_everything
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import evaluate_folder
from crossmoda.files import hash_of, read_json, sha256_of, write_json
from crossmoda.labels import model_labels
from crossmoda.launching import Course, Launcher
from crossmoda.segmentation.apart.members import ONLY_AUGMENTED
from crossmoda.self_training import plan
from crossmoda.self_training.blending import TumourBlending
from crossmoda.self_training.bundles import INITIAL_WEIGHTS, BundleUse
from crossmoda.self_training.candidates import Rule
from crossmoda.self_training.datalists import (
    Item,
    blended_items,
    content_hash,
    view_items,
    with_truth,
)
from crossmoda.self_training.frozen_reviews import freeze_reviews
from crossmoda.self_training.labelling import Labelling, require_measured, require_trust_read
from crossmoda.self_training.plan import SCAN_DIR, SCANS, SEEN, SINGAN, PlannedStep
from crossmoda.self_training.rounds import RoundMethod
from crossmoda.self_training.steps import Step, StepFolder
from crossmoda.self_training.views import (
    View,
    files_read,
    rendered_file,
    require_views,
    source_images,
    trained,
    translated,
)
from crossmoda.translation.tumour_blending import PLAN

PSEUDO_HRT2_SUFFIX = "_hrT2.nii.gz"
AGREED = ("structures", "spacing", "prepare")  # between a segmenter's training and its inference
SEEN_DATALIST = "target_view.json"

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A run folder, its dataset and its methods; every method is one recorded step.

    Args:
        run: the run folder.
        datalist: the dataset's datalist (``source``, ``target``, ``validation``).
        truth: case -> true label file of target and validation cases, for evaluation and anchors only.
        views: view name -> its translator bundle, or the scans as they are.
        segmenter: the segmentation bundle.
        rules: what becomes of predicted labels, in order.
        structures: names of the segmenter's output channels 1, 2, ...
        seed: of the random numbers outside the bundles.
        device: torch device for all workflows; None is the first GPU, or else the CPU, of whatever process runs one.
        blending: how the translated scans are augmented, or None.
        warm_start: a training begins from the weights of the round before.
        target_view: how round 0 sees hrT2 scans: rendered by this translator, as ceT1 in card A; None as they are.
        launcher: does the steps, one after another in this process by default.
    """

    run: Path
    datalist: Mapping[str, Any]
    truth: Mapping[str, Path]
    views: Mapping[str, View]
    segmenter: BundleUse
    rules: Sequence[Rule]
    structures: Sequence[str]
    seed: int
    device: torch.device | None
    blending: TumourBlending | None = None
    warm_start: bool = False
    target_view: BundleUse | None = None
    launcher: Launcher = field(default_factory=Launcher)

    def in_round(self, method: RoundMethod) -> Work:
        """Return the work with the segmenter and the rules of a round."""
        return replace(self, segmenter=method.segmenter, rules=method.rules, warm_start=method.warm_start)

    @property
    def dataset_file(self) -> Path:
        """The dataset's datalist as a file in the run folder."""
        return self.run / "dataset.json"

    def items(self, section: str) -> list[Item]:
        """Return the dataset's items of a section, each with its label numbers."""
        return [{"labels": self.datalist["labels"], **item} for item in self.datalist.get(section, [])]

    def _do(self, folder: StepFolder, *steps: Step) -> None:
        """Do steps that do not depend on one another."""
        self.launcher.run([folder.doing(step) for step in steps])

    def train_translators(self, folder: StepFolder) -> None:
        """Train the translators of all views that have one of their own."""
        self._do(folder, *[self._translator(planned) for planned in plan.translators(self)])

    def _translator(self, planned: PlannedStep) -> Step:
        """Train on all source and target images, and where the settings ask for them on the source's labels."""
        output, view, use = planned.name, planned.view, planned.uses[plan.TRAIN]
        images = [*self.items("source"), *self.items("target")]
        training = use.config("train")
        config = {"train": training, "data": content_hash(images, keys=("image",))}
        if training.get("focus") or training.get("structures"):
            config["labels"] = content_hash(self.items("source"), keys=("label",))

        def work(place: Path) -> None:
            self._train(use, place, output, self.dataset_file, config, {"view": view, "round": 0})

        return Step(output, (output,), work, config)

    def translate(self, folder: StepFolder) -> None:
        """Render every source case as pseudo-hrT2 in every view, on the grid of its ceT1."""
        self._do(folder, *[self._rendering(folder, planned, ("source",)) for planned in plan.renderings(self)])

    def render_targets(self, folder: StepFolder) -> None:
        """Render the hrT2 scans as round 0 sees them, each on its own grid, if it does not see them as they are."""
        planned = {step.name: step for step in plan.target_renderings(self)}
        if SEEN not in planned:
            return
        self._do(folder, self._rendering(folder, planned[SEEN], ("target", "validation")))
        seen = {**self.datalist, **{section: self.seen_items(folder, section) for section in ("target", "validation")}}
        write_datalist_once(folder.path / SEEN_DATALIST, seen)
        if SCANS in planned:
            self._copy_scans(folder)

    def seen_items(self, folder: StepFolder, section: str) -> list[Item]:
        """Return the hrT2 scans of a section with their renderings in place of the images."""
        assert self.target_view is not None
        place, use = folder.path / SEEN, self.target_view
        return [{**item, "image": str(rendered_file(place, use, item["case"]))} for item in self.items(section)]

    def _copy_scans(self, folder: StepFolder) -> None:
        """Lay the hrT2 scans down by case, for what follows their edges though the network sees their renderings."""
        items = [*self.items("target"), *self.items("validation")]

        def work(place: Path) -> None:
            (place / SCANS).mkdir(parents=True, exist_ok=True)
            for item in items:
                scan = read_volume(item["image"])
                write_volume(place / SCANS / f"{item['case']}{PSEUDO_HRT2_SUFFIX}", scan.array, scan.affine)

        self._do(folder, Step(SCANS, (SCANS,), work, {"data": content_hash(items, keys=("image",))}))

    def _rendering(self, folder: StepFolder, planned: PlannedStep, sections: Sequence[str]) -> Step:
        """Translate the scans of some sections of the dataset into a folder of the round."""
        output, view, use = planned.name, planned.view, planned.uses[plan.INFERENCE]
        weights = {setting: folder.path / file for setting, file in files_read(view, use).items()}
        images = [item for section in sections for item in self.items(section)]
        config = {"inference": use.config("inference"), "data": content_hash(images, keys=("image",))}

        def work(place: Path) -> None:
            for section in sections:
                if self.items(section):
                    places = {setting: str(path) for setting, path in weights.items()}
                    places |= {"dataset_dir": str(self.dataset_file), "output_dir": str(place / output)}
                    use.run("inference", self.device, section=section, **places)

        return Step(output, (output,), work, config, weights)

    def require_fit(self) -> None:
        """Find what would stop views or blending before anything is trained."""
        require_views(self.views, self.target_view)
        for name, view in trained(self.views).items():
            view.require_network("train", f"view '{name}'", dataset_dir=str(self.dataset_file))
        if self.blending is not None:
            learnt = (self.run / "round_0" / SINGAN / "model.json").is_file()
            self.blending.require_fit(self.dataset_file, self.datalist["labels"], learnt)

    def require_round(self, before: Work | None) -> None:
        """Find what would stop a round's segmenter or rules before anything is trained.

        Args:
            before: the work of the round before, whose predictions the rules judge; None for the first.
        """
        train, inference = self.segmenter.config("train"), self.segmenter.config("inference")
        if self.blending is None:
            require_without_augmented(train.get("members", {}))
        self.segmenter.check("train", self.device, dataset_dir=str(self.dataset_file), output_dir=str(self.run))
        for key in AGREED:
            if train.get(key) != inference.get(key):
                raise CrossmodaError(f"the segmenter's {key} differs between its training and its inference; give one")
        if self.warm_start and not self.segmenter.begins_with_weights:
            raise CrossmodaError("warm_start: this segmenter's training cannot begin with weights; leave it out")
        needs = [rule.needs() for rule in self.rules]
        if any(need.measures or need.maps for need in needs) and before is not None:
            require_measured(self.rules, before.segmenter.config("inference"))
        if any(need.trust for need in needs):
            require_trust_read(self.rules, train)

    def augment(self, folder: StepFolder) -> None:
        """Train a SinGAN on a slice of a target scan and blend altered structures into every view's pseudo-hrT2."""
        blending = self.blending
        if blending is None:
            return
        trained, blended = plan.augmentations(self)
        self._do(folder, *[self._singan(blending) for _ in trained])
        self._do(folder, *[self._blended(folder, blending, planned) for planned in blended])

    def _singan(self, blending: TumourBlending) -> Step:
        config = blending.singan_config(self.items("source"), self.items("target"))

        def work(place: Path) -> None:
            self._train(blending, place, SINGAN, self.dataset_file, config, {"round": 0})

        return Step(SINGAN, (SINGAN,), work, config)

    def _blended(self, folder: StepFolder, blending: TumourBlending, planned: PlannedStep) -> Step:
        """Blend altered structures into a view's pseudo-hrT2."""
        output, view = planned.name, planned.view
        labelled = [item for item in self.items("source") if item.get("label")]
        config = {"inference": blending.config("inference"), "data": content_hash(labelled, keys=("label",))}
        inputs = {"pseudo_hrt2": folder.path / "pseudo_hrt2" / view}
        if blending.harmonises:
            inputs["weights"] = folder.path / SINGAN / "model.pt"

        def work(place: Path) -> None:
            blending.run(
                "inference",
                self.device,
                dataset_dir=str(self.dataset_file),
                output_dir=str(place / output),
                pseudo_hrt2_dir=str(inputs["pseudo_hrt2"]),
                weights=str(inputs.get("weights", "")),
            )

        return Step(output, (output,), work, config, inputs)

    def pseudo_hrt2(self, folder: StepFolder, weight: float = 1.0) -> list[Item]:
        """Return the labelled source items of all views, then the augmented ones, at this weight in the loss."""
        source = self.items("source")
        items = view_items(source, source_images(self.views, folder.path / "pseudo_hrt2"), weight)
        if self.blending is None:
            return items
        blended = {view: folder.path / "blended" / view for view in translated(self.views)}
        return items + blended_items(source, blended, PLAN, PSEUDO_HRT2_SUFFIX, weight * self.blending.weight)

    def freeze_reviews(self, folder: StepFolder, studies: Path | None) -> None:
        """Copy the clinicians' labels as they are now into the round, once: later changes belong to later rounds."""
        if plan.REVIEWED not in folder.records():
            step = Step(
                plan.REVIEWED, ("reviewed",), lambda place: freeze_reviews(studies, place / "reviewed", self.structures)
            )
            folder.do(step)

    def pseudo_labels(self, folder: StepFolder, previous: StepFolder, number: int) -> list[Item]:
        """Turn the former round's predictions into labels, reviewed ones first, and return the target items."""
        labelling = Labelling(
            targets=self.items("target"),
            source=self.items("source"),
            structures=self.structures,
            rules=self.rules,
            predictions=previous.path / "predictions",
            uncertainty=previous.path / "uncertainty",
            reviewed=folder.path / "reviewed",
        )
        config = labelling.config([describe(rule) for rule in self.rules])
        model = previous.path / "segmenter" / "model.pt"

        def work(place: Path) -> None:
            labelling.write(place / "pseudo_labels")

        self._do(folder, Step(plan.PSEUDO_LABELS, ("pseudo_labels",), work, config, labelling.inputs()))
        return labelling.items(folder.path / "pseudo_labels", {"round": number - 1, "model": sha256_of(model)})

    def write_datalist(self, folder: StepFolder, source: Sequence[Item], target: Sequence[Item]) -> None:
        """Write what a segmenter of this folder learns from and is validated on, unless it is there already."""
        datalist = {
            "edition": self.datalist["edition"],
            "labels": dict(self.datalist["labels"]),
            "source": list(source),
            "target": list(target),
            "validation": self.items("validation"),
        }

        write_datalist_once(folder.path / "datalist.json", datalist)

    def _segmenter(self, folder: StepFolder, number: int | None, previous: StepFolder | None) -> Step:
        """Train a segmenter on the folder's datalist; in a warm start from the weights in a previous folder."""
        datalist = load_datalist(folder.path / "datalist.json")
        learnt = [
            item
            for item in [*datalist["source"], *datalist["target"]]
            if item.get("label") and item.get("weight", 1) > 0
        ]
        config = {"train": self.segmenter.config("train"), "data": content_hash(learnt)}
        launches, scheduler = self.segmenter.launches, self.launcher.scheduler
        begins = self._begins_with(previous)

        def work(place: Path) -> None:
            datalist, places = folder.path / "datalist.json", {key: str(path) for key, path in begins.items()}
            if launches and scheduler:
                places["scheduler"] = scheduler
            self._train(self.segmenter, place, "segmenter", datalist, config, {"round": number}, **places)

        return Step(plan.SEGMENTER, ("segmenter",), work, config, begins, here=launches)

    def _begins_with(self, previous: StepFolder | None) -> dict[str, Path]:
        """Return what a training begins with: the last round's weights in a warm start, else the settings'."""
        if self.warm_start and previous is not None:
            return {INITIAL_WEIGHTS: previous.path / "segmenter" / "model.pt"}
        given = self.segmenter.overrides("train").get(INITIAL_WEIGHTS)
        return {INITIAL_WEIGHTS: Path(given)} if given else {}

    def _prediction(self, folder: StepFolder, sections: Sequence[str], rendered: bool) -> Step:
        """Label the dataset's hrT2 scans with the folder's segmenter, with an uncertainty map each."""
        weights = folder.path / "segmenter" / "model.pt"
        inputs, places = {"weights": weights}, {"dataset_dir": str(self.dataset_file)}
        if rendered:
            inputs[SEEN] = folder.path / SEEN
            places["dataset_dir"] = str(folder.path / SEEN_DATALIST)
            if self.segmenter.has("inference", SCAN_DIR):
                places[SCAN_DIR] = str(folder.path / SCANS)
        images = [item for section in sections for item in self.items(section)]
        config = {"inference": self.segmenter.config("inference"), "data": content_hash(images, keys=("image",))}

        def work(place: Path) -> None:
            self.segmenter.run(
                "inference",
                self.device,
                sections=list(sections),
                output_dir=str(place / "predictions"),
                uncertainty_dir=str(place / "uncertainty"),
                weights=str(weights),
                **places,
            )

        return Step(plan.PREDICTIONS, ("predictions", "uncertainty"), work, config, inputs)

    def judged(self) -> list[Item]:
        """Return the validation cases whose truth is known, with that label."""
        return with_truth(self.items("validation"), self.truth, self.datalist["labels"])

    def _evaluation(self, folder: StepFolder) -> Step | None:
        """Measure the predictions on validation cases whose truth is known; None where there is none."""
        items = self.judged()
        if not items:
            return None
        config = {"truth": content_hash(items, keys=("label",)), "structures": list(self.structures)}

        predictions = {item["case"]: folder.path / "predictions" / f"{item['case']}{LABEL_SUFFIX}" for item in items}

        def work(place: Path) -> None:
            metrics = evaluate_folder(
                {case: path for case, path in predictions.items() if path.is_file()},
                {item["case"]: item["label"] for item in items},
                prediction_labels=model_labels(self.structures),
                truth_labels=dict(self.datalist["labels"]),
                sites={item["case"]: item["site"] for item in items},
            )
            write_json(place / "metrics.json", metrics)

        return Step(plan.METRICS, ("metrics.json",), work, config, {"predictions": folder.path / "predictions"})

    def teach(self, folder: StepFolder, source: Sequence[Item], target: Sequence[Item], **how: Any) -> Metrics | None:
        """Follow ``teaching`` by itself."""
        (metrics,) = self.launcher.run([self.teaching(folder, source, target, **how)])
        return metrics

    def teaching(
        self,
        folder: StepFolder,
        source: Sequence[Item],
        target: Sequence[Item],
        sections: Sequence[str] = plan.TAUGHT,
        number: int | None = None,
        previous: StepFolder | None = None,
        rendered: bool = False,
    ) -> Course[Metrics | None]:
        """Train a segmenter, label hrT2 scans with it, and measure its labels where the truth is known.

        Args:
            folder: of the round or the anchor.
            source: items that are learnt from.
            target: the same, or those without a label.
            sections: of the dataset, whose scans are labelled.
            number: of the round.
            previous: folder of the round before; in a warm start its weights are begun with.
            rendered: label the folder's renderings of the scans (``render_targets``) instead of the scans.

        Returns:
            The metrics of the validation cases, None where no truth is known.
        """
        self.write_datalist(folder, source, target)
        yield from folder.doing(self._segmenter(folder, number, previous))
        yield from folder.doing(self._prediction(folder, sections, rendered))
        evaluation = self._evaluation(folder)
        if evaluation is None:
            return None
        yield from folder.doing(evaluation)
        metrics: Metrics = read_json(folder.path / "metrics.json")
        return metrics

    def _train(
        self,
        bundle: BundleUse,
        place: Path,
        output: str,
        datalist: Path,
        config: Mapping[str, Any],
        info: Mapping[str, Any],
        **places: str,
    ) -> None:
        seed_everything(self.seed)
        places |= {"dataset_dir": str(datalist), "output_dir": str(place / output), "fingerprint": place.name}
        bundle.run("train", self.device, **places)
        sidecar = place / output / "model.json"
        made = {"config_hash": hash_of(config["train"]), "data_hash": config["data"], **info}
        write_json(sidecar, {**read_json(sidecar), **made})


def require_without_augmented(members: Mapping[str, Mapping[str, Any]]) -> None:
    """Make sure that no member of a segmenter asks for augmented scans where nothing is blended.

    Raises:
        CrossmodaError: one does.
    """
    for name, member in members.items():
        if member.get("items") == ONLY_AUGMENTED:
            raise CrossmodaError(
                f"members::{name}: items is '{ONLY_AUGMENTED}', but blend is false; give one of them anew"
            )


def holds(path: Path, datalist: Mapping[str, Any]) -> bool:
    """Tell whether a file holds a datalist; one that names volumes which are there no longer holds another."""
    try:
        return path.is_file() and load_datalist(path) == datalist
    except CrossmodaError:
        return False


def write_datalist_once(path: Path, datalist: dict[str, Any]) -> None:
    """Write a datalist unless the file holds it already."""
    if not holds(path, datalist):
        save_datalist(path, datalist)


def describe(component: Any) -> dict[str, Any]:
    """Return a frozen dataclass, and those in it, as a configuration that MONAI builds them from again.

    Raises:
        CrossmodaError: it is no dataclass.
    """
    kind = type(component)
    if not is_dataclass(component):
        raise CrossmodaError(
            f"{kind.__name__}: components of a recipe must be dataclasses, so that a run can record them"
        )
    described = {field.name: _described(getattr(component, field.name)) for field in fields(component)}
    return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **described}


def _described(value: Any) -> Any:
    if is_dataclass(value):
        return describe(value)
    if isinstance(value, Mapping):
        return {key: _described(item) for key, item in value.items()}
    return [_described(item) for item in value] if isinstance(value, (list, tuple)) else value
