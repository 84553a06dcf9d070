"""Which scans a translator is applied to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossmoda.data.datalist import load_datalist
from crossmoda.data.naming import EXTENSIONS
from crossmoda.errors import CrossmodaError

Item = dict[str, Any]


def section_items(dataset_dir: str | Path, section: str = "source") -> list[Item]:
    """Return ``{"case", "image"}`` for every scan of one section of a data set.

    Args:
        dataset_dir: a folder in any layout that ``crossmoda.data.layouts`` reads, or a datalist JSON.
        section: source, target or validation.

    Raises:
        CrossmodaError: there is no such section, or it is empty.
    """
    datalist = load_datalist(dataset_dir)
    items = datalist.get(section)
    if not isinstance(items, list):
        raise CrossmodaError(f"section '{section}' is unknown; choose source, target or validation")
    if not items:
        raise CrossmodaError(f"{dataset_dir}: section '{section}' has no images; name another with --section")
    return [{"case": item["case"], "image": str(item["image"])} for item in items]


def evaluation_items(
    dataset_dir: str | Path, section: str, truth_dir: str | Path | None, modality: str = "hrT2"
) -> list[Item]:
    """Return the section's items with all that a translation can be held against.

    ``label`` is the case's true image, where ``truth_dir`` is given: the file in it whose name begins with
    ``<case>_<modality>``; for hrT2 ``<case>_T2`` will do. ``structures`` is the case's label map, where it has one, and
    ``labels`` says what the map's values mean.

    Raises:
        CrossmodaError: there is no such section, it is empty, or a case has no true image.
    """
    items = section_items(dataset_dir, section)
    datalist = load_datalist(dataset_dir)
    for item, listed in zip(items, datalist[section], strict=True):
        if truth_dir is not None:
            item["label"] = str(_true_image(Path(truth_dir), item["case"], modality))
        if listed.get("label"):
            item |= {"structures": str(listed["label"]), "labels": dict(listed.get("labels") or datalist["labels"])}
    return items


def _true_image(folder: Path, case: str, modality: str) -> Path:
    names = ("hrT2", "T2") if modality == "hrT2" else (modality,)
    candidates = [folder / f"{case}_{name}{suffix}" for name in names for suffix in EXTENSIONS]
    for path in candidates:
        if path.is_file():
            return path
    raise CrossmodaError(f"{folder}: no {case}_{modality} image; add it or leave truth_dir out")
