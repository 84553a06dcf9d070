"""The pieces of work that rounds and anchors are made of, each a step of a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.engines import seed_everything
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import evaluate_folder
from crossmoda.files import hash_of, read_json, sha256_of, write_json
from crossmoda.labels import model_labels
from crossmoda.self_training.blending import TumourBlending
from crossmoda.self_training.bundles import BundleUse
from crossmoda.self_training.candidates import Rule
from crossmoda.self_training.datalists import (
    Item,
    blended_items,
    content_hash,
    pseudo_hrt2_items,
    with_truth,
)
from crossmoda.self_training.frozen_reviews import freeze_reviews
from crossmoda.self_training.labelling import LABEL_SUFFIX, Labelling, require_measured, require_trust_read
from crossmoda.self_training.steps import Step, StepFolder
from crossmoda.translation.tumour_blending import PLAN

PSEUDO_HRT2_SUFFIX = "_hrT2.nii.gz"


@dataclass(frozen=True)
class Work:
    """A run folder, its dataset and its methods; every method is one recorded step.

    Args:
        run: the run folder.
        datalist: the dataset's datalist (``source``, ``target``, ``validation``).
        truth: case -> true label file of target and validation cases, for evaluation and anchors only.
        views: view name -> its translator bundle.
        segmenter: the segmentation bundle.
        rules: what becomes of predicted labels, in order.
        structures: names of the segmenter's output channels 1, 2, ...
        seed: of the random numbers outside the bundles.
        device: torch device for all workflows.
        blending: how the translated scans are augmented, or None.
    """

    run: Path
    datalist: Mapping[str, Any]
    truth: Mapping[str, Path]
    views: Mapping[str, BundleUse]
    segmenter: BundleUse
    rules: Sequence[Rule]
    structures: Sequence[str]
    seed: int
    device: torch.device
    blending: TumourBlending | None = None

    @property
    def dataset_file(self) -> Path:
        """The dataset's datalist as a file in the run folder."""
        return self.run / "dataset.json"

    def items(self, section: str) -> list[Item]:
        """Return the dataset's items of a section, each with its label numbers."""
        return [{"labels": self.datalist["labels"], **item} for item in self.datalist.get(section, [])]

    def train_translator(self, folder: StepFolder, view: str) -> None:
        """Train a view's translator on all source and target images, and where it asks for them on the source's labels.

        A view that uses another one's translator has nothing to train.
        """
        if self.views[view].weights_of is not None:
            return
        output = f"translator_{view}"
        images = [*self.items("source"), *self.items("target")]
        training = self.views[view].config("train")
        config = {"train": training, "data": content_hash(images, keys=("image",))}
        if training.get("focus") or training.get("structures"):
            config["labels"] = content_hash(self.items("source"), keys=("label",))

        def work(place: Path) -> None:
            self._train(self.views[view], place, output, self.dataset_file, config, {"view": view, "round": 0})

        folder.do(Step(output, (output,), work, config))

    def translate(self, folder: StepFolder, view: str) -> None:
        """Render every source case as pseudo-hrT2, on the grid of its ceT1."""
        output = f"pseudo_hrt2/{view}"
        weights = folder.path / f"translator_{self.views[view].weights_of or view}" / "model.pt"
        config = {
            "inference": self.views[view].config("inference"),
            "data": content_hash(self.items("source"), keys=("image",)),
        }

        def work(place: Path) -> None:
            self.views[view].run(
                "inference",
                self.device,
                dataset_dir=str(self.dataset_file),
                output_dir=str(place / output),
                weights=str(weights),
            )

        folder.do(Step(output, (output,), work, config, {"weights": weights}))

    def require_fit(self) -> None:
        """Find what would stop views, segmenter, rules or blending before anything is trained."""
        for view, use in self.views.items():
            owner = use.weights_of
            if owner is not None and (owner not in self.views or self.views[owner].weights_of is not None):
                trained = ", ".join(name for name, other in self.views.items() if other.weights_of is None)
                raise CrossmodaError(
                    f"view '{view}' uses the translator of '{owner}', which trains none; name one of {trained}"
                )
        self.segmenter.check("train", self.device, dataset_dir=str(self.dataset_file), output_dir=str(self.run))
        needs = [rule.needs() for rule in self.rules]
        if any(need.measures or need.maps for need in needs):
            require_measured(self.rules, self.segmenter.config("inference"))
        if any(need.trust for need in needs):
            require_trust_read(self.rules, self.segmenter.config("train"))
        if self.blending is not None:
            learnt = (self.run / "round_0" / "singan" / "model.json").is_file()
            self.blending.require_fit(self.dataset_file, self.datalist["labels"], learnt)

    def augment(self, folder: StepFolder) -> None:
        """Train a SinGAN on a slice of a target scan and blend altered structures into every view's pseudo-hrT2."""
        blending = self.blending
        if blending is None:
            return
        if blending.harmonises:
            self._train_singan(folder, blending)
        for view in self.views:
            self._blend(folder, blending, view)

    def _train_singan(self, folder: StepFolder, blending: TumourBlending) -> None:
        config = blending.singan_config(self.items("source"), self.items("target"))

        def work(place: Path) -> None:
            self._train(blending, place, "singan", self.dataset_file, config, {"round": 0})

        folder.do(Step("singan", ("singan",), work, config))

    def _blend(self, folder: StepFolder, blending: TumourBlending, view: str) -> None:
        output = f"blended/{view}"
        labelled = [item for item in self.items("source") if item.get("label")]
        config = {"inference": blending.config("inference"), "data": content_hash(labelled, keys=("label",))}
        inputs = {"pseudo_hrt2": folder.path / "pseudo_hrt2" / view}
        if blending.harmonises:
            inputs["weights"] = folder.path / "singan" / "model.pt"

        def work(place: Path) -> None:
            blending.run(
                "inference",
                self.device,
                dataset_dir=str(self.dataset_file),
                output_dir=str(place / output),
                pseudo_hrt2_dir=str(inputs["pseudo_hrt2"]),
                weights=str(inputs.get("weights", "")),
            )

        folder.do(Step(output, (output,), work, config, inputs))

    def pseudo_hrt2(self, folder: StepFolder, weight: float = 1.0) -> list[Item]:
        """Return the labelled source items of all views, then the augmented ones, at this weight in the loss."""
        source = self.items("source")
        views = {view: folder.path / "pseudo_hrt2" / view for view in self.views}
        items = pseudo_hrt2_items(source, views, PSEUDO_HRT2_SUFFIX, weight)
        if self.blending is None:
            return items
        blended = {view: folder.path / "blended" / view for view in self.views}
        return items + blended_items(source, blended, PLAN, PSEUDO_HRT2_SUFFIX, weight * self.blending.weight)

    def freeze_reviews(self, folder: StepFolder, studies: Path | None) -> None:
        """Copy the clinicians' labels as they are now into the round, once: later changes belong to later rounds."""
        if "reviewed" not in folder.records():
            step = Step(
                "reviewed", ("reviewed",), lambda place: freeze_reviews(studies, place / "reviewed", self.structures)
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

        folder.do(Step("pseudo_labels", ("pseudo_labels",), work, config, labelling.inputs()))
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

        path = folder.path / "datalist.json"
        if not holds(path, datalist):
            save_datalist(path, datalist)

    def train_segmenter(self, folder: StepFolder, number: int | None = None) -> None:
        """Train a segmenter on the folder's datalist."""
        datalist = load_datalist(folder.path / "datalist.json")
        learnt = [
            item
            for item in [*datalist["source"], *datalist["target"]]
            if item.get("label") and item.get("weight", 1) > 0
        ]
        config = {"train": self.segmenter.config("train"), "data": content_hash(learnt)}

        def work(place: Path) -> None:
            self._train(self.segmenter, place, "segmenter", folder.path / "datalist.json", config, {"round": number})

        folder.do(Step("segmenter", ("segmenter",), work, config))

    def predict(self, folder: StepFolder, sections: Sequence[str] = ("target", "validation")) -> None:
        """Label the dataset's hrT2 scans with the folder's segmenter, with an uncertainty map each."""
        weights = folder.path / "segmenter" / "model.pt"
        images = [item for section in sections for item in self.items(section)]
        config = {"inference": self.segmenter.config("inference"), "data": content_hash(images, keys=("image",))}

        def work(place: Path) -> None:
            self.segmenter.run(
                "inference",
                self.device,
                dataset_dir=str(self.dataset_file),
                sections=list(sections),
                output_dir=str(place / "predictions"),
                uncertainty_dir=str(place / "uncertainty"),
                weights=str(weights),
            )

        folder.do(Step("predictions", ("predictions", "uncertainty"), work, config, {"weights": weights}))

    def evaluate(self, folder: StepFolder) -> dict[str, Any] | None:
        """Measure the predictions on validation cases whose truth is known; None where there is none."""
        items = with_truth(self.items("validation"), self.truth, self.datalist["labels"])
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

        folder.do(Step("metrics", ("metrics.json",), work, config, {"predictions": folder.path / "predictions"}))
        return read_json(folder.path / "metrics.json")

    def teach(self, folder: StepFolder, source: Sequence[Item], target: Sequence[Item]) -> dict[str, Any] | None:
        """Train a segmenter on items of the two sections, label the validation cases, and measure as ``evaluate``."""
        self.write_datalist(folder, source, target)
        self.train_segmenter(folder)
        self.predict(folder, sections=("validation",))
        return self.evaluate(folder)

    def _train(
        self,
        bundle: BundleUse,
        place: Path,
        output: str,
        datalist: Path,
        config: Mapping[str, Any],
        info: Mapping[str, Any],
    ) -> None:
        seed_everything(self.seed)
        bundle.run(
            "train", self.device, dataset_dir=str(datalist), output_dir=str(place / output), fingerprint=place.name
        )
        sidecar = place / output / "model.json"
        made = {"config_hash": hash_of(config["train"]), "data_hash": config["data"], **info}
        write_json(sidecar, {**read_json(sidecar), **made})


def holds(path: Path, datalist: Mapping[str, Any]) -> bool:
    """Tell whether a file holds a datalist; one that names volumes which are there no longer holds another."""
    try:
        return path.is_file() and load_datalist(path) == datalist
    except CrossmodaError:
        return False


def describe(component: Any) -> dict[str, Any]:
    """Return a frozen dataclass as a configuration that MONAI builds it from again."""
    kind = type(component)
    try:
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **asdict(component)}
    except TypeError as error:
        raise CrossmodaError(
            f"{kind.__name__}: components of a recipe must be dataclasses, so that a run can record them"
        ) from error
