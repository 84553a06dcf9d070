"""What a run folder holds, read once and leniently: a report is also wanted of a run that is not finished."""

from __future__ import annotations

import glob
import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from crossmoda.data.datalist import load_datalist
from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.data.volumes import Volume, read_volume
from crossmoda.engines.weights import GIVEN
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import label_files
from crossmoda.evaluation.calibration import Calibration, calibration_of
from crossmoda.evaluation.comparison import rounds_of
from crossmoda.evaluation.report.slices import to_ras
from crossmoda.files import read_json
from crossmoda.labels import COCHLEA, EDITION_LABELS, VS, mask_of, model_labels

logger = logging.getLogger(__name__)

Masks = dict[str, Any]  # structure -> boolean array (X, Y, Z), RAS+ order
ROUND_FOLDER = re.compile(r"round_(\d+)")


class RunFolder:
    """A run folder as the loop writes it; whatever is missing reads as empty.

    Args:
        path: of the run.

    Raises:
        CrossmodaError: there is no such folder, or no round in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.round_folders = sorted(
            (p for p in self.path.glob("round_*") if ROUND_FOLDER.fullmatch(p.name)), key=lambda p: int(p.name[6:])
        )
        if not self.round_folders:
            raise CrossmodaError(f"{self.path}: holds no round_0; give the output folder of a run")

    @cached_property
    def current(self) -> dict[str, Any]:
        """The pointers of ``current.json``; while it is not there yet, those of the last round."""
        if (self.path / "current.json").is_file():
            return dict(read_json(self.path / "current.json"))
        last = self.round_folders[-1].name
        names = {"predictions": "predictions", "uncertainty": "uncertainty", "datalist": "datalist.json"}
        return {"round": int(last[6:]), **{key: f"{last}/{name}" for key, name in names.items()}}

    @cached_property
    def structures(self) -> list[str]:
        """The structures that the segmenter tells apart."""
        return list(self.current.get("structures") or ["vs", "cochlea"])

    @cached_property
    def rounds(self) -> list[tuple[int, dict[str, Any]]]:
        """The rounds that have been scored: number and ``metrics.json``."""
        return [(number, read_json(folder / "metrics.json")) for number, folder in rounds_of(self.path)]

    @cached_property
    def metrics(self) -> dict[str, Any] | None:
        """The last scored round's ``metrics.json``, or None."""
        return self.rounds[-1][1] if self.rounds else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What ``run.yaml`` holds."""
        path = self.path / "run.yaml"
        if not path.is_file():
            return {}
        try:
            return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise CrossmodaError(f"{path}: not YAML; restore it or start the run again") from error

    @cached_property
    def datalist(self) -> dict[str, Any]:
        """The current round's datalist, with paths resolved."""
        return _datalist_or_empty(self.path / self.current["datalist"])

    @cached_property
    def targets(self) -> dict[str, dict[str, Any]]:
        """The items of the target-training scans by case, with the label that the current round learns from, if any."""
        return {item["case"]: item for lists in (self.dataset, self.datalist) for item in lists.get("target", [])}

    @cached_property
    def dataset(self) -> dict[str, Any]:
        """The dataset's own datalist (ceT1, hrT2, labels on disk), or empty where the dataset is gone."""
        return _datalist_or_empty(self.path / "dataset.json")

    @cached_property
    def truth_files(self) -> dict[str, Path]:
        """The true labels of hrT2 cases, by case: those of the run's truth folder, else those in its lists."""
        items = [item for lists in (self.dataset, self.datalist) for item in lists.get("validation", [])]
        files = {item["case"]: Path(item["label"]) for item in items if item.get("label")}
        folder = (self.settings.get("trainer") or {}).get("truth_dir")
        return files | (label_files(folder) if folder and Path(folder).is_dir() else {})

    @cached_property
    def uncertainties(self) -> dict[str, float]:
        """Each case's uncertainty, 0 (sure) to 1."""
        path = self.path / self.current["uncertainty"] / "uncertainty.json"
        return dict(read_json(path)) if path.is_file() else {}

    @cached_property
    def calibration(self) -> Calibration | None:
        """How well the current model's uncertainty foretells its errors, if that was ever measured.

        On this run's validation scans where their truth is known; else, of given weights that nothing was added to, on
        the scans that their sidecar tells of.
        """
        scored = dict(self.rounds).get(self.current["round"])
        own = "the validation scans of this run, whose truth is known"
        if scored and (found := calibration_of(self.uncertainties, scored["cases"], (VS, COCHLEA), own)):
            return found
        sidecar = self.path / Path(self.current.get("segmenter", "none")).with_suffix(".json")
        told = read_json(sidecar) if sidecar.is_file() else {}
        measured = told.get(GIVEN, {}).get("training", {}).get("calibration")
        return Calibration.from_json(measured) if measured else None

    @cached_property
    def image_items(self) -> dict[str, dict[str, Any]]:
        """The datalist item of every hrT2 case, by case; the current round's where both know it."""
        validation = [item for lists in (self.dataset, self.datalist) for item in lists.get("validation", [])]
        return self.targets | {item["case"]: item for item in validation}

    @cached_property
    def views(self) -> list[str]:
        """The translators' views, by name."""
        folder = self.path / "round_0" / "pseudo_hrt2"
        return (
            sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
            if folder.is_dir()
            else []
        )

    def pseudo_hrt2(self, view: str, case: str) -> Path:
        """Return where a view's rendering of a source case lies: as hrT2, or as ceT1 of another style."""
        folder = self.path / "round_0" / "pseudo_hrt2" / view
        return next(folder.glob(f"{glob.escape(case)}_ceT1.nii.gz"), folder / f"{case}_hrT2.nii.gz")

    def image(self, case: str) -> Volume | None:
        """Return a hrT2 case's image in RAS+ order, or None where it is not to be had."""
        item = self.image_items.get(case)
        return read_ras(Path(item["image"])) if item else None

    def prediction(self, case: str) -> Masks:
        """Return the current model's masks of a case by structure; empty where there are none."""
        path = self.path / self.current["predictions"] / f"{case}{LABEL_SUFFIX}"
        return read_masks(path, model_labels(self.structures), self.structures)

    def uncertainty(self, case: str) -> Volume | None:
        """Return the uncertainty map of a case in RAS+ order, or None."""
        return read_ras(self.path / self.current["uncertainty"] / f"{case}_uncertainty.nii.gz")

    def pseudo_label(self, case: str) -> Masks:
        """Return what the current round learnt from on a target-training case, by structure; empty where nothing."""
        item = self.targets.get(case, {})
        return read_masks(Path(item["label"]), self._labels_of(item), self.structures) if item.get("label") else {}

    def truth(self, case: str) -> Masks:
        """Return the true masks of a hrT2 case by structure; empty where the truth is not known."""
        path = self.truth_files.get(case)
        return read_masks(path, self._labels_of({}), self.structures) if path else {}

    def source_label(self, item: dict[str, Any]) -> Masks:
        """Return the masks of a source item of the dataset by structure."""
        return read_masks(Path(item["label"]), self._labels_of(item), self.structures) if item.get("label") else {}

    def _labels_of(self, item: dict[str, Any]) -> dict[str, int]:
        return dict(
            item.get("labels") or self.dataset.get("labels") or self.datalist.get("labels") or EDITION_LABELS["2022"]
        )


def _datalist_or_empty(path: Path) -> dict[str, Any]:
    """Return a datalist, or nothing where it or a scan in it has gone: the rest of the report is still wanted."""
    try:
        return load_datalist(path)
    except CrossmodaError as error:
        logger.warning("left out of the report: %s", error)
        return {}


def read_ras(path: Path) -> Volume | None:
    """Read a volume in RAS+ order, or return None where the file is not there."""
    return to_ras(read_volume(path)) if path.is_file() else None


def read_masks(path: Path, labels: dict[str, int], structures: list[str]) -> Masks:
    """Read a label map's masks by structure, in RAS+ order; empty where the file is not there."""
    volume = read_ras(path)
    return {name: mask_of(name, volume.array, labels) for name in structures} if volume else {}
