"""The datalists of a run: which image, with which label, from whom, at what weight, a round learns from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmoda.data.datalist import AUGMENTED
from crossmoda.files import hash_of, read_json, sha256_of
from crossmoda.labels import model_labels

Item = dict[str, Any]


def content_hash(items: Sequence[Mapping[str, Any]], keys: Sequence[str] = ("image", "label")) -> str:
    """Return a hash of what the items say and of the named files' bytes, wherever these files lie."""
    described = []
    for item in items:
        entry = {key: item.get(key) for key in ("case", "site", "view", "weight", "labels")}
        if "label" in keys:  # how far a label is trusted, by voxel and by structure, decides what is learnt of it
            entry |= {"confidence": sha256_of(item["confidence"])} if item.get("confidence") else {}
            entry |= {"structure_weights": item["structure_weights"]} if item.get("structure_weights") else {}
        described.append(entry | {key: sha256_of(item[key]) for key in keys if item.get(key)})
    return hash_of(described)


def view_items(source: Sequence[Item], views: Mapping[str, Callable[[Item], str]], weight: float = 1.0) -> list[Item]:
    """Return each labelled source case once per view, its image replaced by the view's.

    Args:
        source: the dataset's source items.
        views: view name -> what returns an item's image in it.
        weight: of each in the loss, times the case's own; at 0 they are listed, but not learnt from.
    """
    return [
        {**item, "image": image(item), "view": view, "weight": weight * item.get("weight", 1.0)}
        for view, image in views.items()
        for item in source
        if item.get("label")
    ]


def blended_items(
    source: Sequence[Item], folders: Mapping[str, Path], plan: str, suffix: str, weight: float = 1.0
) -> list[Item]:
    """Return the augmented volumes of every view, each with its case's label and what was done to it.

    Such an item's ``view`` is the translator's name, a plus sign and the alteration, e.g.
    ``cyclegan+vs_x0.7_scale13``, so that it is an item of its own; its ``case`` is the patient's, by which folds are to
    be grouped. ``augmentation`` holds ``view``, ``rule``, ``structure``, ``lambda`` and ``scale`` (None: not blended).

    Args:
        source: the dataset's source items.
        folders: view name -> folder of its augmented volumes.
        plan: name of the JSON in there that lists them.
        suffix: what follows case and alteration in the file names, e.g. ``_hrT2.nii.gz``.
        weight: of each in the loss, times the case's own.
    """
    cases = {item["case"]: item for item in source}
    items = []
    for view, folder in folders.items():
        for entry in read_json(folder / plan)["volumes"]:
            item = cases[entry["case"]]
            alteration = entry["file"].removeprefix(f"{entry['case']}_").removesuffix(suffix)
            done = {"view": view, **{key: entry[key] for key in ("rule", "structure", "lambda", "scale")}}
            place = {"image": str(folder / entry["file"]), "view": f"{view}{AUGMENTED}{alteration}"}
            items.append({**item, **place, "weight": weight * item.get("weight", 1.0), "augmentation": done})
    return items


def with_truth(items: Sequence[Item], truth: Mapping[str, Path], labels: Mapping[str, int]) -> list[Item]:
    """Return the items that have a true label, with that label; used by the anchors and for validation."""
    return [
        {**item, "label": str(truth[item["case"]]), "labels": dict(labels)} for item in items if item["case"] in truth
    ]


def pseudo_label_item(
    item: Item, label: Path, structures: Sequence[str], weight: float, provenance: Mapping[str, Any]
) -> Item:
    """Return a target item with its pseudo-label or a clinician's label, and where that came from."""
    return {
        **item,
        "label": str(label),
        "labels": model_labels(structures),
        "weight": round(float(weight), 6),
        "provenance": {**provenance, "sha256": sha256_of(label)},
    }
