"""Datalists: JSON files in MONAI's manner that say which scan, with which label, is used for what.

``{"edition", "labels": {"vs": 1, "cochlea": 2}, "source": [item], "target": [item], "validation": [item]}`` with
``item = {"case", "site", "image", "label"?, "labels"?, "confidence"?, "structure_weights"?, "weight"?, "view"?,
"augmentation"?, "provenance"?}``. ``labels`` in an item replaces the list's for it: a pseudo-label is numbered as the
network that made it does. ``confidence`` is a file on the label's grid that says how far each voxel is trusted, 0 to 1,
``structure_weights`` (``{"cochlea": 0.3}``) how far each structure is, for ``crossmoda.data.annotations``. ``weight``
(1.0) scales the item's share in the loss, ``view`` names the translator that rendered it, followed by ``+`` and the
alteration for an augmented copy, which ``augmentation`` describes; ``provenance`` says who made the label.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmoda.data.layouts import Case, Dataset, read_dataset
from crossmoda.data.sites import require_sites
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, write_json

SECTIONS = ("source", "target", "validation")
STATUSES = ("pseudo", "approved", "corrected", "flagged")
FILE_KEYS = ("image", "label", "confidence")
ANNOTATION_KEYS = ("labels", "confidence", "structure_weights")

Item = dict[str, Any]
Datalist = dict[str, Any]


def build_datalist(dataset: Dataset) -> Datalist:
    """Return the datalist of a dataset, with absolute paths; ``truth`` is left out, since training reads datalists."""
    sections = {name: [_item_of(case) for case in getattr(dataset, name)] for name in SECTIONS}
    return {"edition": dataset.edition, "labels": dict(dataset.labels), **sections}


def _item_of(case: Case) -> Item:
    item = {"case": case.case, "site": case.site, "image": str(case.image)}
    return item | ({"label": str(case.label)} if case.label else {})


def load_datalist(path: str | Path) -> Datalist:
    """Read a datalist, or make one of a dataset folder; paths come out absolute.

    Args:
        path: a datalist's JSON file (relative paths in it count from its folder), or a dataset folder.

    Raises:
        CrossmodaError: nothing is there, the JSON is not a datalist, or a file that it names is missing.
    """
    path = Path(path)
    if path.is_dir():
        return build_datalist(read_dataset(path))
    datalist = read_json(path)
    validate_datalist(datalist, path)
    resolved = {**datalist, **{name: [_resolved(item, path) for item in datalist.get(name, [])] for name in SECTIONS}}
    for name in SECTIONS:
        for item in resolved[name]:
            _require_files(item, name, path)
    return resolved


def _resolved(item: Item, path: Path) -> Item:
    folder = path.resolve().parent
    return {**item, **{key: os.path.normpath(folder / item[key]) for key in FILE_KEYS if item.get(key)}}


def _require_files(item: Item, section: str, path: Path) -> None:
    for key in FILE_KEYS:
        if item.get(key) and not Path(item[key]).is_file():
            raise CrossmodaError(
                f"{path}: {section} case {item['case']}: {key} {item[key]} is missing; restore it or correct the list"
            )


def save_datalist(path: str | Path, datalist: Datalist) -> None:
    """Validate a datalist and write it whole or not at all.

    Files below the JSON's folder or its parent are stored relative to it, so that a run folder can be moved; others are
    stored absolute.

    Raises:
        CrossmodaError: the datalist is not valid, or the folder cannot be written to.
    """
    path = Path(path)
    validate_datalist(datalist, path)
    write_json(
        path, {**datalist, **{name: [_portable(item, path) for item in datalist.get(name, [])] for name in SECTIONS}}
    )


def _portable(item: Item, path: Path) -> Item:
    folder = path.resolve().parent
    stored = {}
    for key in FILE_KEYS:
        if item.get(key):
            file = Path(os.path.normpath(Path(item[key]).absolute()))
            near = file.is_relative_to(folder.parent) and folder.parent != Path(folder.anchor)
            stored[key] = Path(os.path.relpath(file, folder)).as_posix() if near else str(file)
    return {**item, **stored}


def validate_datalist(datalist: Any, path: str | Path = "datalist") -> None:
    """Make sure that a value is a datalist; files are not looked at.

    Args:
        datalist: what the JSON holds.
        path: named in messages.

    Raises:
        CrossmodaError: at the first key that is missing or wrong.
    """
    if not isinstance(datalist, dict) or not any(name in datalist for name in SECTIONS):
        raise CrossmodaError(f"{path}: not a datalist; it needs 'labels' and the sections {', '.join(SECTIONS)}")
    _validate_labels(datalist.get("labels"), f"{path}: 'labels'")
    for name in SECTIONS:
        items = datalist.get(name, [])
        if not isinstance(items, list):
            raise CrossmodaError(f"{path}: '{name}' must be a list of items")
        for index, item in enumerate(items):
            _validate_item(item, f"{path}: {name}[{index}]")
        _require_distinct(items, f"{path}: '{name}'")


def _validate_labels(labels: Any, where: str) -> None:
    numbers = list(labels.values()) if isinstance(labels, dict) else []
    whole = all(isinstance(number, int) and number > 0 for number in numbers)
    if not numbers or not whole or len(set(numbers)) != len(numbers):
        raise CrossmodaError(f'{where} must map names to distinct positive integers, like {{"vs": 1, "cochlea": 2}}')


def _validate_item(item: Any, where: str) -> None:
    for key in ("case", "image"):
        if not isinstance(item, dict) or not isinstance(item.get(key), str) or not item[key]:
            raise CrossmodaError(f"{where}: '{key}' is missing; every item needs a case and an image")
    if Path(str(item["case"])).name != item["case"]:
        raise CrossmodaError(f"{where}: case {item['case']!r} must be a plain name, since files are named after it")
    weight = item.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight < 0:
        raise CrossmodaError(f"{where}: weight {weight!r} must be a number from 0 up")
    if "labels" in item:
        _validate_labels(item["labels"], f"{where}: 'labels'")
    provenance = item.get("provenance") or {}
    status = provenance.get("status", STATUSES[0]) if isinstance(provenance, dict) else provenance
    if status not in STATUSES:
        raise CrossmodaError(f"{where}: provenance status {status!r} is unknown; use one of {', '.join(STATUSES)}")


def _require_distinct(items: list[Item], where: str) -> None:
    seen: set[tuple[str, str]] = set()
    for item in items:
        key = (item["case"], item.get("view", ""))
        if key in seen:
            raise CrossmodaError(
                f"{where} holds case {item['case']} twice{_view(item)}; give every scan an id of its own"
            )
        seen.add(key)


def _view(item: Item) -> str:
    return f" in view {item['view']}" if item.get("view") else ""


AUGMENTED = "+"  # in the view of an item: what stands before it is the translator's, what follows was done to it


def segmentation_items(
    path: str | Path, sections: Sequence[str] = ("source", "target"), pseudo_labelled: bool = True
) -> list[Item]:
    """Return the items that a segmenter can learn from: with a label, and a weight above 0.

    Args:
        path: a datalist or dataset folder, as ``load_datalist`` takes.
        sections: which sections, in which order.
        pseudo_labelled: False leaves out the items whose label is a network's.

    Returns:
        Items with ``case, site, view, image, label, weight`` and, where they have them, ``labels`` (other than the
        list's), ``confidence`` and ``structure_weights``, which transforms use and remove; nothing else, so that items
        of different sections can be batched.
    """
    datalist = load_datalist(path)
    items = [item for name in sections for item in _section(datalist, name, path)]
    if not pseudo_labelled:
        items = [item for item in items if item.get("provenance", {}).get("status") != "pseudo"]
    return [_trainable(item) for item in items if item.get("label") and item.get("weight", 1.0) > 0]


def _trainable(item: Item) -> Item:
    kept = _plain_item(item) | {"label": item["label"], "weight": float(item.get("weight", 1.0))}
    return kept | {key: item[key] for key in ANNOTATION_KEYS if item.get(key)}


def unpaired_items(
    path: str | Path,
    source_labels: bool = False,
    reverse: bool = False,
    styles: Sequence[str] = (),
    learn_sites: Sequence[str] = (),
) -> tuple[list[Item], list[Item]]:
    """Return the source and the target items that a translator learns from, with ``case, site, view, image`` each.

    Args:
        path: a dataset folder or a datalist JSON.
        source_labels: source items keep their ``label`` (and ``labels``), where they have one; target items never do.
        reverse: return the target's items first, for a translator from hrT2 to ceT1.
        styles: sites whose hrT2 styles are to be told apart; ceT1 has one style.
        learn_sites: leave out the scans of other sites, of both kinds; by default none (card B learns from London's).

    Raises:
        CrossmodaError: one of the two sections is empty, no scan is of one of ``learn_sites``, or labels or styles are
            asked for where hrT2 is translated.
    """
    datalist = load_datalist(path)
    source, target = ([_plain_item(item) for item in datalist[name]] for name in ("source", "target"))
    if source_labels:
        for plain, item in zip(source, datalist["source"], strict=True):
            plain.update({key: item[key] for key in ("label", "labels") if item.get(key)})
    if learn_sites:
        require_sites("learn_sites", learn_sites, [*source, *target], "source or target", path)
        source, target = ([item for item in items if item["site"] in learn_sites] for items in (source, target))
    of_sites = f" of {', '.join(learn_sites)}" if learn_sites else ""
    for name, items in (("source (ceT1)", source), ("target (hrT2)", target)):
        if not items:
            raise CrossmodaError(f"{path}: no {name} scans{of_sites}; translation is learnt from scans of both kinds")
    if reverse and source_labels:
        raise CrossmodaError("focus and structures need labels, which hrT2 scans have not; leave them out with reverse")
    if reverse and styles:
        raise CrossmodaError("sites are styles of hrT2, but with reverse ceT1 is what is made; leave them out")
    return (target, source) if reverse else (source, target)


def image_items(path: str | Path, sections: Sequence[str] = ("target", "validation")) -> list[Item]:
    """Return the items to predict on, with ``case, site, view, image`` each, labelled or not.

    Raises:
        CrossmodaError: none of the sections holds a scan.
    """
    datalist = load_datalist(path)
    items = [_plain_item(item) for name in sections for item in _section(datalist, name, path)]
    if not items:
        raise CrossmodaError(
            f"{path}: no scans in section {' or '.join(sections)}; names must tell the modality (..._ceT1, ..._hrT2), "
            "or use sub-folders source, target, validation"
        )
    return items


def _plain_item(item: Item) -> Item:
    return {
        "case": item["case"],
        "site": item.get("site", "unknown"),
        "view": item.get("view", ""),
        "image": item["image"],
    }


def _section(datalist: Datalist, name: str, path: str | Path) -> list[Item]:
    if name not in SECTIONS:
        raise CrossmodaError(f"{path}: section '{name}' is unknown; use {', '.join(SECTIONS)}")
    items: list[Item] = datalist[name]
    return items
