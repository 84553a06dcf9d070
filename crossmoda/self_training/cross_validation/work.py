"""The steps of a cross-validation: train a fold, predict who was left out, score."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose

from crossmoda.data.checks import MOST_THREADS
from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.data.transforms import LoadVolumed
from crossmoda.data.volumes import Volume, same_grid
from crossmoda.durations import duration_text
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import read_label_map, score_label_maps, shared_structures
from crossmoda.files import read_json, write_json
from crossmoda.labels import model_labels
from crossmoda.launching import Course, Launcher
from crossmoda.segmentation.cases import cases_to_learn
from crossmoda.self_training.cross_validation.checks import Item, Patients, build_postprocessing
from crossmoda.self_training.cross_validation.settings import (
    BEST,
    POSTPROCESSING_KEY,
    UNTOUCHED,
    CrossValidationSettings,
)
from crossmoda.self_training.datalists import content_hash
from crossmoda.self_training.steps import Step, StepFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossValidation:
    """A folder of cross-validation: ``<configuration>/fold_<n>/`` with ``segmenter/``, ``predictions/``, ``scores/``.

    Args:
        output: the folder.
        datalist: file of the data set's datalist.
        settings: what is compared.
        patients: who is judged where.
        device: torch device for training and prediction; None is the first GPU, or else the CPU, of whatever process
            runs one.
        launcher: does the steps, one after another in this process by default.
    """

    output: Path
    datalist: Path
    settings: CrossValidationSettings
    patients: Patients
    device: torch.device | None
    launcher: Launcher = field(default_factory=Launcher)

    @cached_property
    def labels(self) -> dict[str, int]:
        """Names and numbers of the label files whose item does not say."""
        return dict(load_datalist(self.datalist)["labels"])

    def run(self) -> None:
        """Do what is not done yet, and tell what is left."""
        left = list(self._folders)
        owners = [name for name, owner in self._owners.items() if name == owner]
        self.launcher.run([self._course(owner, fold, left) for owner in owners for fold in range(self.settings.folds)])

    def _course(self, owner: str, fold: int, left: list[tuple[str, int]]) -> Course[None]:
        """Train a fold, then predict and score it in every configuration that shares the training."""
        for name in (name for name in self._owners if self._owners[name] == owner):
            folder, number = self.folder(name, fold), len(self._folders)
            logger.info("%s, fold %d of %d (%d left of %d)", name, fold + 1, self.settings.folds, len(left), number)
            if (yield from self.folder(owner, fold).doing(self.training(name, fold))):
                (self.output / BEST).unlink(missing_ok=True)  # of the weights that were there before
            yield from folder.doing(self.prediction(name, fold))
            for candidate in self.settings.postprocessing:
                yield from folder.doing(self.scoring(name, fold, candidate))
            left.remove((name, fold))
            if left and folder.redone:
                seconds = self._seconds_for(left) / self.launcher.at_once
                logger.info("%d of %d left, about %s", len(left), number, duration_text(seconds))

    def folder(self, name: str, fold: int) -> _Fold:
        """Return the folder of a configuration's fold."""
        return self._folders[name, fold]

    @cached_property
    def _folders(self) -> dict[tuple[str, int], _Fold]:
        pairs = [(name, fold) for name in self.settings.configurations for fold in range(self.settings.folds)]
        return {(name, fold): _Fold(self.output / name / f"fold_{fold}") for name, fold in pairs}

    def weights(self, name: str, fold: int) -> Path:
        """Return the file of a fold's weights.

        Configurations that differ in prediction alone share one training, that of the first of them.
        """
        return self.folder(self._owners[name], fold).path / "segmenter" / "model.pt"

    @cached_property
    def _owners(self) -> dict[str, str]:
        owners: dict[str, str] = {}
        trainings = {name: use.config("train") for name, use in self.settings.configurations.items()}
        for name, config in trainings.items():
            owners[name] = next(other for other in trainings if trainings[other] == config)
        return owners

    def training(self, name: str, fold: int) -> Step:
        """Train a configuration on all patients but a fold's.

        Weights that are damaged or are not those of the record are made again.
        """
        use = self.settings.configurations[self._owners[name]]
        use = replace(use, train={**use.train, "fold": fold})
        sections, folds, seed = self.settings.sections, self.settings.folds, self.settings.seed
        learnt = cases_to_learn(self.datalist, sections, fold, folds, seed)
        data = content_hash(learnt, keys=("image", "label", "confidence"))
        config = {"train": use.config("train"), "data": data, "labels": self.labels}

        def work(place: Path) -> None:
            output = place / "segmenter"
            places = {"dataset_dir": str(self.datalist), "output_dir": str(output), "fingerprint": place.name}
            use.run("train", self.device, **places)
            sidecar = output / "model.json"
            told = {"fold": fold, "folds": folds, "seed": seed, "data_hash": data}
            write_json(sidecar, {**read_json(sidecar), **told})

        return Step("segmenter", ("segmenter",), work, config)

    def prediction(self, name: str, fold: int) -> Step:
        """Label a fold's scans with the weights that have not seen them, without post-processing, on their own grids.

        Predicted is as later in the ensemble, mirrored copies included.
        """
        use = self.settings.configurations[name]
        untouched = {POSTPROCESSING_KEY: UNTOUCHED, "save_maps": UNTOUCHED}
        use = replace(use, inference={**use.inference, **untouched})
        weights, items = self.weights(name, fold), self.patients.judged[fold]
        config = {"inference": use.config("inference"), "data": content_hash(items, keys=("image",))}

        def work(place: Path) -> None:
            use.run(
                "inference",
                self.device,
                dataset_dir=str(_write_scans(place / "scans.json", items, self.labels)),
                sections=["validation"],
                output_dir=str(place / "predictions"),
                uncertainty_dir=str(place / "uncertainty"),
                members=[str(weights)],
            )

        return Step("predictions", ("predictions",), work, config, {"weights": weights})

    def scores(self, name: str, fold: int, candidate: str) -> list[dict[str, Any]]:
        """Return the metrics of a fold's cases after a post-processing, one entry a case (and view)."""
        scored: list[dict[str, Any]] = read_json(self.folder(name, fold).path / _scores(candidate))
        return scored

    def scoring(self, name: str, fold: int, candidate: str) -> Step:
        """Measure a fold's predictions after a post-processing."""
        items, labels = self.patients.judged[fold], self.labels
        transforms, structures = self.settings.postprocessing[candidate], self.settings.structures
        output = _scores(candidate)
        config = {
            "postprocessing": list(transforms),
            "structures": list(structures),
            "truth": content_hash(items, keys=("label",)),
            "labels": labels,
        }
        predictions = self.folder(name, fold).path / "predictions"

        def work(place: Path) -> None:
            postprocess = build_postprocessing(transforms, structures)

            def score_item(item: Item) -> dict[str, Any]:
                path = predictions / f"{name_of(item)}{LABEL_SUFFIX}"
                known = {key: item[key] for key in ("case", "view", "site")}
                return known | score_after(postprocess, path, item, structures, labels)

            with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
                write_json(place / output, list(pool.map(score_item, items)))

        return Step(f"scores/{candidate}", (output,), work, config, {"predictions": predictions})

    def _seconds_for(self, left: Sequence[tuple[str, int]]) -> float:
        """Return how long folds will take: as long as others of their configuration, or else as those of all."""
        spent: dict[str, list[float]] = {}
        for name, fold in self._folders:
            if (name, fold) not in left and (seconds := self.folder(name, fold).seconds()):
                spent.setdefault(name, []).append(seconds)
        overall = float(np.mean([seconds for values in spent.values() for seconds in values]))
        return sum(float(np.mean(spent[name])) if name in spent else overall for name, _ in left)


class _Fold(StepFolder):
    """A fold's folder, which knows how long its steps took."""

    def seconds(self) -> float:
        """Return the time that is recorded for all its steps."""
        return float(sum(record["seconds"] for record in self.records().values()))


def _scores(candidate: str) -> str:
    """Return the file of a post-processing's scores in a fold's folder."""
    return f"scores/{candidate}.json"


def name_of(item: Mapping[str, Any]) -> str:
    """Return the name under which an item is predicted: its case, and its view where it has one."""
    return f"{item['case']}_{item['view']}" if item["view"] else str(item["case"])


def _write_scans(path: Path, items: Sequence[Item], labels: Mapping[str, int]) -> Path:
    """Write a datalist whose validation section holds the items' scans, each under a name of its own."""
    scans = [{"case": name_of(item), "site": item["site"], "image": item["image"]} for item in items]
    save_datalist(path, {"edition": "plain", "labels": dict(labels), "validation": scans})
    return path


def score_after(
    postprocess: Compose, prediction: Path, item: Item, structures: Sequence[str], labels: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """Return a case's metrics once its predicted label map went through a post-processing.

    Args:
        postprocess: of the key ``pred``, a label map (1, X, Y, Z).
        prediction: file of the label map as the network decided it.
        item: with ``label`` and perhaps ``labels``.
        structures: of the network.
        labels: of label files whose item has none of its own.

    Raises:
        CrossmodaError: the prediction cannot be read or lies on another grid than the label.
    """
    truth_labels = dict(item.get("labels") or labels)
    decided = postprocess(LoadVolumed("pred")({"pred": str(prediction)}))["pred"]
    predicted = Volume(np.asarray(decided.cpu())[0], decided.affine.cpu().numpy())
    true = read_label_map(Path(item["label"]), truth_labels)
    if not same_grid(predicted, true):
        raise CrossmodaError(f"{prediction}: lies on another grid than {item['label']}; delete its folder")
    prediction_labels = model_labels(structures)
    shared = shared_structures(prediction_labels, truth_labels)
    return score_label_maps(predicted, true, prediction_labels, truth_labels, shared)
