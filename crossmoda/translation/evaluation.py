"""What an evaluation of a translator leaves behind: a table, ``metrics.json`` and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from crossmoda.evaluation.aggregate import summarise
from crossmoda.files import write_json
from crossmoda.translation.evaluation_pictures import PICTURES, Picture, draw_pictures
from crossmoda.translation.evaluation_table import REAL, measures_table
from crossmoda.translation.measures.features import FEATURES
from crossmoda.translation.measures.real_scans import RealScans
from crossmoda.translation.measures.segmenter import FixedSegmenter
from crossmoda.translation.measures.transforms import INPUT, MEASURES, TRANSLATION, TRUTH
from crossmoda.translation.metrics import DISTANCES, distance_name

_ENOUGH_SCANS = 10  # for a kernel distance: so many patients show what varies between them
_ENOUGH_SLICES = 10 * FEATURES  # for a Frechet distance

Item = Mapping[str, Any]
Found = dict[str, dict[str, float]]  # {measure: {kind: value}}


class TranslationReport:
    """Gather the cases' measures, sum them up, and write ``metrics.json`` and ``evaluation.png``.

    The means of the translations also join the engine's metrics.

    Args:
        output_dir: where the results go; ``pseudo_hrt2`` or ``pseudo_cet1`` in it holds the translations.
        items: of the cases, as ``evaluation_items`` lists them.
        structures: that were measured.
        real: description of the real scans, or None.
        distances: the engine's distance metrics by name, or None; the kernel distances among them know their errors.
        segmenter: to segment what was translated, or None.
        picture_cases: cases in the picture, spread over the items.
        modality: of the translations, in file names and texts: "hrT2" or "ceT1".
    """

    def __init__(
        self,
        output_dir: str | Path,
        items: Sequence[Item],
        structures: Sequence[str],
        real: RealScans | None,
        distances: Mapping[str, Any] | None = None,
        segmenter: FixedSegmenter | None = None,
        picture_cases: int = 4,
        modality: str = "hrT2",
    ) -> None:
        self.modality = modality
        self.output_dir = Path(output_dir)
        self.items = list(items)
        self.structures = list(structures)
        self.real = real
        self.distances = dict(distances or {})
        self.segmenter = segmenter
        shown = np.linspace(0, len(self.items) - 1, min(picture_cases, len(self.items)))
        self._shown = {self.items[int(index)]["case"] for index in shown}
        self._cases: dict[str, Found] = {}
        self._pictures: list[Picture] = []
        self._slices = 0

    def attach(self, engine: Engine) -> None:
        """Listen to every case of ``engine`` and to its end."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._gather)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _begin(self, engine: Engine) -> None:
        self._cases, self._pictures, self._slices = {}, [], 0

    def _gather(self, engine: Engine) -> None:
        batch: Any = engine.state.batch
        outputs: Any = engine.state.output
        for item, output in zip(batch, outputs, strict=True):
            self._cases[item["case"]] = output[MEASURES]
            self._slices += len(output[f"{TRANSLATION}_features"])
            if item["case"] in self._shown:
                self._pictures += output[PICTURES]

    def _finish(self, engine: Engine) -> None:
        if self.segmenter is not None:
            self._segment(self.segmenter)
        measures = {**summarise_measures(self._cases.values()), **self._distances(engine.state.metrics)}
        if self.real and self.real.flicker and "flicker" in measures:
            measures["flicker"][REAL] = summarise(list(self.real.flicker.values()))
        engine.state.metrics |= {
            name: found[TRANSLATION]["mean"] for name, found in measures.items() if "mean" in found.get(TRANSLATION, {})
        }
        notes = self._notes(measures)
        cases = [{"case": case, **found} for case, found in self._cases.items()]
        write_json(self.output_dir / "metrics.json", {"measures": measures, "cases": cases, "notes": notes})
        print(measures_table(measures, notes, self.modality))
        print(f"written: {self.output_dir / 'metrics.json'}")
        if self._pictures:
            draw_pictures(self.output_dir / "evaluation.png", self._pictures, self.modality)
            print(f"written: {self.output_dir / 'evaluation.png'}")

    def _segment(self, segmenter: FixedSegmenter) -> None:
        """Add the Dice of what the segmenter makes of translations, of their input and of the truth."""
        labelled = [item for item in self.items if item.get("structures")]
        renderings = self.output_dir / f"pseudo_{self.modality.lower()}"
        images = {
            TRANSLATION: {item["case"]: renderings / f"{item['case']}_{self.modality}.nii.gz" for item in labelled},
            INPUT: {item["case"]: item["image"] for item in labelled},
            TRUTH: {item["case"]: item["label"] for item in labelled if item.get("label")},
        }
        for kind, files in images.items():
            if files:
                found = segmenter.dice(labelled, files, self.output_dir / "segmenter" / kind)
                for case, values in found.items():
                    for name, value in values.items():
                        self._cases[case].setdefault(name, {})[kind] = value

    def _distances(self, metrics: Mapping[str, float]) -> dict[str, dict[str, dict[str, float]]]:
        """Return ``{distance: {kind: {"value", "standard_error"}}}`` of the engine's distances that are numbers."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for measure in DISTANCES:
            for kind in (TRANSLATION, INPUT, TRUTH):
                name = distance_name(measure, kind)
                if math.isfinite(metrics.get(name, math.nan)):
                    error = getattr(self.distances[name].metric_fn, "standard_error", math.nan)
                    errors = {"standard_error": error} if math.isfinite(error) else {}
                    found.setdefault(measure, {})[kind] = {"value": metrics[name], **errors}
        return found

    def _notes(self, measures: Mapping[str, Any]) -> list[str]:
        """Return what was left out or needs care, one line each."""
        notes = []
        if not any(item.get("label") for item in self.items):
            notes.append(f"left out: PSNR, SSIM and all of the true {self.modality}; give the folder with --truth")
        labelled = sum(bool(item.get("structures")) for item in self.items)
        if labelled < len(self.items):
            notes.append(f"left out: contrast, edges and Dice of {len(self.items) - labelled} case(s) without a label")
        unseen = [name for name in self.structures if labelled and f"edges_{name}" not in measures]
        notes += [f"left out: {name}, which no label shows in the window" for name in unseen]
        notes += self._distance_notes()
        if self.segmenter is None:
            notes.append("left out: Dice of a fixed segmenter; give one with --segmenter_weights")
        return notes

    def _distance_notes(self) -> list[str]:
        if self.real is None:
            return [f"left out: distances to real {self.modality}; name its section with --reference_section"]
        notes = []
        scans, slices = (len(self._cases), len(self.real.quantiles)), (self._slices, len(self.real.features))
        if min(scans) < _ENOUGH_SCANS:
            notes.append(
                f"kernel distance of {scans[0]} and {scans[1]} scans: trust it from {_ENOUGH_SCANS} on either side"
            )
        if min(slices) < _ENOUGH_SLICES:
            notes.append(
                f"Frechet distance of {slices[0]} and {slices[1]} slices: biased below {_ENOUGH_SLICES} on either side"
                "; compare it between equal numbers"
            )
        return notes


def summarise_measures(cases: Any) -> dict[str, dict[str, dict[str, float]]]:
    """Return ``{measure: {kind: summary}}`` over cases ``{measure: {kind: value}}``, in order of first appearance."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        for measure, found in case.items():
            for kind, value in found.items():
                gathered.setdefault(measure, {}).setdefault(kind, []).append(value)
    return {measure: {kind: summarise(values) for kind, values in found.items()} for measure, found in gathered.items()}
