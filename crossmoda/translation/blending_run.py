"""Tumour blending over a data set: which cases are altered how, the volumes, and a picture of them.

The plan (``tumour_blending.json``) is made and written before the first volume: every case's fate with its reason, the
counts per rule and the list of volumes. A run that was cut off goes on with the volumes that are missing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import Volume, read_volume, same_grid, voxel_volume_mm3, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import hash_of, read_json, sha256_of, write_json
from crossmoda.labels import mask_of, numbers_of
from crossmoda.translation.blending_picture import PictureRow, draw_rows
from crossmoda.translation.tumour_blending import (
    PLAN,
    Blending,
    BlendingRule,
    alter,
    noise_for,
    require_rule_sites,
    require_scales,
)

logger = logging.getLogger(__name__)

PICTURE = "tumour_blending.png"
_SUFFIX = "_hrT2.nii.gz"
_TOLERANCE = 1e-3  # of the range [0, 1], for files that another program has written again

Item = dict[str, Any]


def blending_items(dataset_dir: str | Path, pseudo_hrt2_dir: str | Path, section: str = "source") -> list[Item]:
    """Return ``{"case", "site", "image", "label", "labels"}`` of every labelled case, with its pseudo-hrT2 as image.

    Args:
        dataset_dir: a dataset folder or a datalist JSON, for the labels.
        pseudo_hrt2_dir: holds ``<case>_hrT2.nii.gz``.
        section: of the data set.

    Raises:
        CrossmodaError: no labelled case, or one without pseudo-hrT2 or with one on another grid than its label.
    """
    datalist = load_datalist(dataset_dir)
    labelled = [item for item in datalist.get(section, []) if item.get("label")]
    if not labelled:
        raise CrossmodaError(f"{dataset_dir}: section '{section}' has no labelled case; add <case>_Label beside a scan")
    items = []
    for item in labelled:
        image = Path(pseudo_hrt2_dir) / f"{item['case']}{_SUFFIX}"
        if not image.is_file():
            raise CrossmodaError(f"{image}: no pseudo-hrT2 there; translate the data set first (inference.yaml)")
        if not same_grid(image, item["label"]):
            raise CrossmodaError(f"{image}: not on the grid of {item['label']}; translate the case again")
        kept = {"case": item["case"], "site": item.get("site", "unknown"), "label": str(item["label"])}
        items.append({**kept, "image": str(image), "labels": dict(item.get("labels") or datalist["labels"])})
    return items


class BlendingRun:
    """Alter, blend and write what the rules select.

    Args:
        items: from ``blending_items``.
        rules: which cases are altered how; where two ask for the same volume, the first one gives it its name.
        output_dir: gets ``<case>_<structure>_x<lambda>[_scale<n>]_hrT2.nii.gz``, ``tumour_blending.json`` and ``.png``.
        blending: blends in; None leaves the altered volumes as they are (the papers' naive augmentation).
        seed: of all noise.
        weights: file of the network's weights, so that a run with others does not take over volumes of these.
        picture_rows: cases in the picture, at most; the first of each rule come first.

    Raises:
        CrossmodaError: a rule asks for a scale that the pyramid lacks, for a structure that a case's labels lack, or
            for a site that no case is of.
    """

    def __init__(
        self,
        items: Sequence[Item],
        rules: Sequence[BlendingRule],
        output_dir: str | Path,
        blending: Blending | None,
        seed: int = 0,
        weights: str | Path | None = None,
        picture_rows: int = 8,
    ) -> None:
        if blending is not None:
            require_scales(rules, blending.network)
        require_rule_sites(rules, items)
        for item in items:
            for rule in rules:
                numbers_of(rule.structure, item["labels"])
        self.items = {item["case"]: item for item in items}
        self.rules = list(rules)
        self.output = Path(output_dir)
        self.blending = blending
        self.seed = seed
        self.weights = weights
        self.picture_rows = picture_rows

    def run(self) -> dict[str, Any]:
        """Do what is not done yet and return the plan.

        Raises:
            CrossmodaError: a pseudo-hrT2 that is none, or no case that any rule selects.
        """
        plan = self.plan()
        path = self.output / PLAN
        if not path.is_file() or read_json(path)["fingerprint"] != plan["fingerprint"]:
            self._clear(path)
        write_json(path, plan)
        logger.info("%s", describe_counts(plan))
        missing = [entry for entry in plan["volumes"] if not (self.output / entry["file"]).is_file()]
        for entry in tqdm(missing, desc="blending", unit="volume", mininterval=5.0, disable=not missing):
            image, _, mask = self._case(entry)
            array = self._array(entry, image, mask)
            write_volume(self.output / entry["file"], array, image.affine, dtype=np.float32)
        self._draw(plan)
        return plan

    def _clear(self, path: Path) -> None:
        """Delete the volumes of a run with other settings."""
        for entry in read_json(path)["volumes"] if path.is_file() else []:
            (self.output / entry["file"]).unlink(missing_ok=True)

    def plan(self) -> dict[str, Any]:
        """Measure every case and return what becomes of it."""
        cases = [self._measure(item) for item in self.items.values()]
        volumes = self._volumes(cases)
        counts = {rule.name: self._count(rule, cases, volumes) for rule in self.rules}
        plan = {"harmonised": self.blending is not None, "seed": self.seed, "counts": counts}
        if not volumes:
            reasons = {case["case"]: case["rules"][self.rules[0].name] for case in cases[:3]}
            raise CrossmodaError(f"no rule selects a case of {len(cases)} (e.g. {reasons}); mend the rules")
        return {"fingerprint": self._fingerprint(), **plan, "cases": cases, "volumes": volumes}

    def _fingerprint(self) -> str:
        files = [[item["case"], sha256_of(item["image"]), sha256_of(item["label"])] for item in self.items.values()]
        how = None
        if self.blending is not None:
            weights = sha256_of(self.weights) if self.weights else None
            settings = [list(self.blending.pixel_mm), self.blending.dilation_pixels, self.blending.sigma_pixels]
            how = [*settings, weights]
        return hash_of([files, [vars(rule) for rule in self.rules], self.seed, how])

    def _measure(self, item: Item) -> dict[str, Any]:
        image, label = _pseudo_hrt2(item["image"]), read_volume(item["label"])
        measured = {}
        for structure in dict.fromkeys(rule.structure for rule in self.rules):
            mask = mask_of(structure, label.array, item["labels"])
            measured[structure] = {
                "volume_mm3": round(float(mask.sum() * voxel_volume_mm3(label.affine)), 2),
                "intensity_std": round(float(image.array[mask].std()), 4) if mask.any() else 0.0,
            }
        fates = {
            rule.name: rule.refusal(item["site"], *measured[rule.structure].values()) or SELECTED for rule in self.rules
        }
        return {"case": item["case"], "site": item["site"], "structures": measured, "rules": fates}

    def _volumes(self, cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return one entry per volume, in the order of rules, cases, factors and scales."""
        entries: dict[str, dict[str, Any]] = {}
        for rule in self.rules:
            scales = rule.scales if self.blending is not None else (None,)
            for case in (case["case"] for case in cases if case["rules"][rule.name] == SELECTED):
                for factor, scale in ((factor, scale) for factor in rule.lambdas for scale in scales):
                    name = f"{case}_{rule.structure}_x{factor:g}" + ("" if scale is None else f"_scale{scale}")
                    entry = {"case": case, "rule": rule.name, "structure": rule.structure}
                    entry |= {"lambda": float(factor), "scale": scale, "file": f"{name}{_SUFFIX}"}
                    entries.setdefault(name, entry)
        return list(entries.values())

    @staticmethod
    def _count(
        rule: BlendingRule, cases: Sequence[Mapping[str, Any]], volumes: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        selected = sum(case["rules"][rule.name] == SELECTED for case in cases)
        made = sum(entry["rule"] == rule.name for entry in volumes)
        return {"structure": rule.structure, "selected": selected, "of": len(cases), "volumes": made}

    def _case(self, entry: Mapping[str, Any]) -> tuple[Volume, Volume, Any]:
        """Return the pseudo-hrT2, the altered one, and the structure's mask."""
        item = self.items[entry["case"]]
        image = _pseudo_hrt2(item["image"])
        mask = mask_of(entry["structure"], read_volume(item["label"]).array, item["labels"])
        return image, Volume(alter(image.array, mask, entry["lambda"]), image.affine), mask

    def _array(self, entry: Mapping[str, Any], image: Volume, mask: Any) -> Any:
        altered = Volume(alter(image.array, mask, entry["lambda"]), image.affine)
        if self.blending is None:
            return altered.array
        keys = [entry[key] for key in ("case", "structure", "lambda", "scale")]
        return self.blending.volume(altered, mask, entry["scale"], noise_for(self.seed, *keys))

    def _draw(self, plan: Mapping[str, Any]) -> None:
        rows = []
        for entry in pictured(plan, self.picture_rows):
            image, altered, mask = self._case(entry)
            columns = {"pseudo-hrT2": image.array, f"x {entry['lambda']:g}": altered.array}
            if entry["scale"] is not None:
                blended = read_volume(self.output / entry["file"]).array
                columns[f"x {entry['lambda']:g}, blended from scale {entry['scale']}"] = blended
            rows.append(PictureRow(entry["case"], entry["structure"], image.affine, mask, columns))
        draw_rows(rows, self.output / PICTURE)


SELECTED = "selected"


def _pseudo_hrt2(path: str | Path) -> Volume:
    volume = read_volume(path)
    low, high = float(volume.array.min()), float(volume.array.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # also where one is NaN
        raise CrossmodaError(
            f"{path}: values from {low:g} to {high:g}, but a pseudo-hrT2 has 0 to 1; translate it again"
        )
    return volume


def pictured(plan: Mapping[str, Any], rows: int) -> list[dict[str, Any]]:
    """Return the volumes to show: of each rule and case the one whose factor changes most, rules taking turns."""
    strongest: dict[str, dict[str, dict[str, Any]]] = {}
    for entry in plan["volumes"]:
        cases = strongest.setdefault(entry["rule"], {})
        shown = cases.get(entry["case"])
        if shown is None or abs(np.log(entry["lambda"])) > abs(np.log(shown["lambda"])):
            cases[entry["case"]] = entry
    queues = [list(cases.values()) for cases in strongest.values()]
    turns = [queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue)]
    return turns[:rows]


def describe_counts(plan: Mapping[str, Any]) -> str:
    """Return the counts per rule as one line."""
    counts = [
        f"{name}: {count['selected']} of {count['of']} cases, {count['volumes']} volumes"
        for name, count in plan["counts"].items()
    ]
    return "; ".join(counts)
