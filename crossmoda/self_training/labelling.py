"""How a round's target cases get the labels that it learns from: reviewed ones, or predictions that rules accept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data.naming import LABEL_SUFFIX
from crossmoda.data.volumes import Volume, read_volume, same_grid, voxel_volume_mm3, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, write_json
from crossmoda.labels import mask_of
from crossmoda.self_training.candidates import LEFT_OUT, WRITTEN_BY, Candidate, Cohort, Rule, apply_rules, not_written
from crossmoda.self_training.datalists import Item, content_hash, pseudo_label_item
from crossmoda.self_training.frozen_reviews import FrozenReview, read_frozen_reviews
from crossmoda.self_training.reviewed_only import LearnFromReviewed

CONFIDENCE_SUFFIX = "_confidence.nii.gz"
FATES = "fates.json"
ACCEPTED = "accepted"
PSEUDO = "pseudo"  # status of a label that no clinician has reviewed
ALSO_NAMED = {"crf_agreement": ("DenseCRF",)}  # what else must be in a prediction's configuration for a measurement
READS_TRUST = "reads_trust=True"  # in a training's configuration that reads confidence maps and structure weights


@dataclass(frozen=True)
class Labelling:
    """What a round's labels are made of.

    Args:
        targets: datalist items of the target scans.
        source: datalist items of the source scans, for rules that look at their labels.
        structures: names of the predictions' numbers 1, 2, ...
        rules: in order.
        predictions: folder of ``<case>_Label.nii.gz``.
        uncertainty: folder of ``uncertainty.json``, other measurements and voxelwise maps.
        reviewed: folder that ``freeze_reviews`` wrote.
    """

    targets: Sequence[Item]
    source: Sequence[Item]
    structures: Sequence[str]
    rules: Sequence[Rule]
    predictions: Path
    uncertainty: Path
    reviewed: Path

    @property
    def measures(self) -> list[str]:
        """Names of the measurements that are read, the uncertainty in any case."""
        return sorted({"uncertainty"}.union(*(rule.needs().measures for rule in self.rules)))

    @property
    def maps(self) -> list[str]:
        """Names of the voxelwise maps that rules read."""
        return sorted(set().union(*(rule.needs().maps for rule in self.rules)))

    def config(self, rules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return what the labels depend on beside files of the run, given the rules' descriptions."""
        config = {"rules": rules, "structures": list(self.structures)}
        config["data"] = content_hash(self.targets, keys=("image",))
        if any(rule.needs().source_labels for rule in self.rules):
            config["source_labels"] = content_hash(self._labelled_source(), keys=("label",))
        return config

    def inputs(self) -> dict[str, Path]:
        """Return the files and folders that the labels depend on."""
        inputs = {"predictions": self.predictions, "reviewed": self.reviewed}
        inputs |= {name: self._measure_file(name) for name in self.measures}
        return inputs | ({"maps": self.uncertainty} if self.maps else {})

    def _measure_file(self, name: str) -> Path:
        """Return where a measurement is written: beside the maps, or beside the labels."""
        files = [folder / f"{name}.json" for folder in (self.uncertainty, self.predictions)]
        found = next((file for file in files if file.is_file()), None)
        if found is None and name != "uncertainty":
            raise CrossmodaError(f"{files[0]}: no such file, for {not_written(name)}")
        return found or files[0]

    def write(self, output: Path) -> None:
        """Write ``<case>_Label.nii.gz`` for every target case that has a label, and ``fates.json`` for all.

        Where a rule trusts voxels differently, ``<case>_confidence.nii.gz`` lies beside the label.

        Raises:
            CrossmodaError: a scan is not on its label's grid, or what a rule asks for was not measured.
        """
        output.mkdir(parents=True, exist_ok=True)
        reviews = read_frozen_reviews(self.reviewed)
        rules = [rule.prepare(self._cohort) for rule in self.rules]
        fates = {
            item["case"]: self._take_over(reviews[item["case"]], output)
            if item["case"] in reviews
            else self._label(item, rules, output)
            for item in self.targets
        }
        write_json(output / FATES, fates)

    def _take_over(self, review: FrozenReview, output: Path) -> dict[str, Any]:
        """Write a clinician's label, which no rule judges but ``LearnFromReviewed``, and return the case's fate."""
        if review.label is not None:
            volume = read_volume(review.label)
            write_volume(output / f"{review.case}{LABEL_SUFFIX}", volume.array, volume.affine, dtype=np.uint8)
        limits = [rule for rule in self.rules if isinstance(rule, LearnFromReviewed)]
        fate = review.fate(admitted=review.label is None or all(rule.admits(review.status) for rule in limits))
        return {"fate": _fate(fate["weight"]), **fate}

    def _label(self, item: Item, rules: Sequence[Rule], output: Path) -> dict[str, Any]:
        """Write a pseudo-label and return the case's fate."""
        case = item["case"]
        volume = read_volume(self.predictions / f"{case}{LABEL_SUFFIX}")
        candidate = apply_rules(self._candidate(item, volume), rules)
        write_volume(output / f"{case}{LABEL_SUFFIX}", candidate.label, volume.affine, dtype=np.uint8)
        if candidate.weight > 0 and candidate.confidence is not None:
            write_volume(output / f"{case}{CONFIDENCE_SUFFIX}", candidate.confidence, volume.affine, dtype=np.float32)
        fate = {
            "fate": _fate(candidate.weight),
            "status": PSEUDO,
            "weight": candidate.weight,
            "uncertainty": candidate.uncertainty,
            "reasons": list(candidate.reasons),
            "rules": [asdict(finding) for finding in candidate.findings],
        }
        return fate | ({"structure_weights": dict(candidate.structure_weights)} if candidate.structure_weights else {})

    def _candidate(self, item: Item, volume: Volume) -> Candidate:
        case, x_y_z = item["case"], [float(size) for size in volume.spacing_mm]
        scan = read_volume(item["image"])
        if not same_grid(scan, volume):  # the rules compare label and scan voxel by voxel
            raise CrossmodaError(f"{item['image']}: not on the grid of its predicted label; restore the scan")
        return Candidate(
            case=case,
            label=volume.array.astype(np.uint8),
            structures=tuple(self.structures),
            uncertainty=float(self._cohort.measures["uncertainty"][case]),
            spacing_mm=(x_y_z[0], x_y_z[1], x_y_z[2]),
            image=scan.array,
            affine=volume.affine,
            measures={name: values[case] for name, values in self._cohort.measures.items()},
            maps={name: self._map(case, name, volume) for name in self.maps},
        )

    def _map(self, case: str, name: str, label: Volume) -> np.ndarray:
        path = self.uncertainty / f"{case}_{name}.nii.gz"
        if not path.is_file():
            raise CrossmodaError(f"{path}: no such file, for {not_written(name)}")
        volume = read_volume(path)
        if not same_grid(volume, label):
            raise CrossmodaError(f"{path}: not on the grid of its predicted label; predict the case again")
        return volume.array

    @cached_property
    def _cohort(self) -> Cohort:
        """What is known of all target cases."""
        cases = [item["case"] for item in self.targets]
        found = {name: read_json(self._measure_file(name)) for name in self.measures}
        for name, values in found.items():
            if missing := [case for case in cases if case not in values]:
                raise CrossmodaError(
                    f"{self._measure_file(name)}: lacks case {missing[0]}; predict the target scans again"
                )
        return Cohort({name: {case: values[case] for case in cases} for name, values in found.items()}, self.source_mm3)

    def _labelled_source(self) -> list[Item]:
        return [item for item in self.source if item.get("label")]

    def source_mm3(self, structure: str) -> list[float]:
        """Return the structure's volume in every source label that shows it, each case once."""
        volumes = []
        for item in self._labelled_source():
            label = read_volume(item["label"])
            voxels = int(mask_of(structure, label.array, item["labels"]).sum())
            volumes += [voxels * voxel_volume_mm3(label.affine)] if voxels else []
        return volumes

    def items(self, labels: Path, maker: Mapping[str, Any]) -> list[Item]:
        """Return the target items with the labels of a folder that ``write`` wrote, and what became of each.

        Args:
            labels: the folder.
            maker: of the predictions, for the provenance: round and model.
        """
        fates = read_json(labels / FATES)
        return [self._item(item, labels, maker, dict(fates[item["case"]])) for item in self.targets]

    def _item(self, item: Item, labels: Path, maker: Mapping[str, Any], fate: dict[str, Any]) -> Item:
        weight, structure_weights = fate.pop("weight"), fate.pop("structure_weights", None)
        label, confidence = (labels / f"{item['case']}{suffix}" for suffix in (LABEL_SUFFIX, CONFIDENCE_SUFFIX))
        if not label.is_file():
            return {**item, "weight": 0.0, "provenance": {**maker, **fate}}
        trust: dict[str, Any] = {"structure_weights": structure_weights} if structure_weights else {}
        trust |= {"confidence": str(confidence)} if confidence.is_file() else {}
        return {**pseudo_label_item(item, label, self.structures, weight, {**maker, **fate}), **trust}


def _fate(weight: float) -> str:
    return ACCEPTED if weight > 0 else LEFT_OUT


def accepted(items: Sequence[Mapping[str, Any]]) -> int:
    """Return how many target items have a label that is learnt from."""
    return sum(bool(item.get("label")) and item.get("weight", 1) > 0 for item in items)


def not_shown(items: Sequence[Mapping[str, Any]], structures: Sequence[str]) -> list[str]:
    """Return the structures that no label of these target items shows; labels are read until all have been found."""
    left = list(structures)
    for item in items:
        if not left:
            break
        if accepted([item]):
            label = read_volume(item["label"]).array
            left = [name for name in left if not _shows(label, name, item["labels"])]
    return left


def _shows(label: np.ndarray, structure: str, labels: Mapping[str, int]) -> bool:
    try:
        return bool(mask_of(structure, label, dict(labels)).any())
    except CrossmodaError:  # of parts that a clinician's label does not tell apart nothing is known
        return False


def why_left_out(items: Sequence[Mapping[str, Any]]) -> str:
    """Return which rules, or clinicians, left target items out, the commonest first, each with an example."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for provenance in (item.get("provenance") or {} for item in items if not accepted([item])):
        last = (provenance.get("rules") or [{}])[-1]
        by = last.get("rule", "nobody" if provenance.get("status", PSEUDO) == PSEUDO else "clinicians")
        counts[by] += 1
        examples.setdefault(by, last.get("text", ""))
    return ", ".join(
        f"{by} {count}" + (f" (e.g. {examples[by]})" if examples[by] else "") for by, count in counts.most_common()
    )


def require_measured(rules: Sequence[Rule], prediction: Mapping[str, Any]) -> None:
    """Find, before anything is trained, what rules read and the segmenter's prediction does not write.

    Args:
        rules: of the run.
        prediction: merged configuration of the segmenter's inference.

    Raises:
        CrossmodaError: a measurement or a map is written by none of its overlays.
    """
    text = str(prediction)
    for rule in rules:
        for name in (*rule.needs().measures, *rule.needs().maps):
            if not all(mark in text for mark in (f"{name}.json", *ALSO_NAMED.get(name, ()))):
                raise CrossmodaError(
                    f"{type(rule).__name__} reads '{name}', which the segmenter's prediction does not write; add "
                    f"{WRITTEN_BY.get(name, 'an overlay that does')} to segmenter_inference_overlays, or take the rule "
                    "out"
                )


def require_trust_read(rules: Sequence[Rule], training: Mapping[str, Any]) -> None:
    """Find, before anything is trained, that rules write confidence maps or structure weights that nothing reads.

    Args:
        rules: of the run.
        training: merged configuration of the segmenter's training.

    Raises:
        CrossmodaError: they do, and the training does not read them.
    """
    writers = [type(rule).__name__ for rule in rules if rule.needs().trust]
    if writers and READS_TRUST not in str(training):
        raise CrossmodaError(
            f"{writers[0]} trusts voxels or structures by themselves, which this segmenter's training does not read; "
            "add variant_partial_labels.yaml to segmenter_overlays, or take the rule, or its by_structure, out"
        )
