"""What would stop a cross-validation, or make it worthless, found before the first training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose

from crossmoda.data.checks import MOST_THREADS
from crossmoda.data.datalist import load_datalist
from crossmoda.data.findings import ERROR, Scan
from crossmoda.data.folds import folds_of_cases
from crossmoda.data.inspection import inspect
from crossmoda.data.volumes import Grid, spacing_mm
from crossmoda.errors import CrossmodaError
from crossmoda.labels import numbers_of
from crossmoda.segmentation.cases import cases_to_learn, cases_to_validate
from crossmoda.self_training.bundles import BundleUse, in_one_line
from crossmoda.self_training.cross_validation.settings import (
    POSTPROCESSING_KEY,
    UNTOUCHED,
    CrossValidationSettings,
)

# Between training and inference.
AGREED = ("network_def", "structures", "prepare", "spacing", "crop_size", "patch_size")
KEPT = ("inferer", "to_own_grid", "save_maps", "postprocessing::transforms")  # without which folds are not averaged
# What overlays add once labels are decided, which the file's own candidates of post-processing are for.
AFTERWARDS = (POSTPROCESSING_KEY, *(f"postprocessing::{step}" for step in ("remove_small", "refine", "check_anatomy")))
# What is built to see whether it can be, beside the network: whatever a configuration is likely to replace.
BUILT = {
    "train": ("network_def", "to_working_space", "train::patches", "train::augmentation", "loss_def"),
    "inference": ("network_def", "preprocessing", "sliding_window", "decide"),
}

Item = dict[str, Any]


@dataclass(frozen=True)
class Patients:
    """Who is judged where.

    Attributes:
        folds: case -> fold, 0 to ``folds - 1``.
        judged: for each fold the items whose labels judge it.
        grids: of all scans that are learnt from.
        warnings: one line each, for people.
    """

    folds: dict[str, int]
    judged: list[list[Item]]
    grids: list[Grid]
    warnings: list[str]


def require_patients(datalist_file: Path, settings: CrossValidationSettings) -> Patients:
    """Make sure that every fold can be learnt and judged; every labelled scan is read once.

    Raises:
        CrossmodaError: no datalist, too few patients for the folds, a file that cannot be used, or a fold in which
            nobody shows a structure.
    """
    labels = load_datalist(datalist_file)["labels"]
    number, seed, sections = settings.folds, settings.seed, settings.sections
    items = cases_to_learn(datalist_file, sections)
    folds = folds_of_cases(items, number, seed, datalist_file)
    judged = [
        cases_to_validate(datalist_file, fold=fold, folds=number, seed=seed, train_sections=sections)
        for fold in range(number)
    ]
    scans = _inspected(items, labels)
    shown = {
        (item["case"], item["view"]): _shown(scan, item.get("labels") or labels, settings.structures)
        for item, scan in zip(items, scans, strict=True)
    }
    _require_judges(judged, shown, settings.structures)
    warnings = []
    for item in items:
        absent = [name for name, found in shown[item["case"], item["view"]].items() if not found]
        if absent:
            warnings.append(f"{item['label']}: shows no {' and no '.join(absent)}; right if the scan shows none either")
    return Patients(folds, judged, [scan.grid for scan in scans if scan.grid is not None], warnings)


def _inspected(items: Sequence[Item], labels: dict[str, int]) -> list[Scan]:
    """Read every scan and label; raise at the first error, with the number of others."""
    with ThreadPoolExecutor(MOST_THREADS) as pool:
        found = list(pool.map(lambda item: inspect("source", item, item.get("labels") or labels), items))
    errors = [str(problem) for _, problems in found for problem in problems if problem.severity == ERROR]
    if errors:
        raise CrossmodaError(errors[0] + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""))
    return [scan for scan, _ in found]


def _shown(scan: Scan, labels: dict[str, int], structures: Sequence[str]) -> dict[str, bool]:
    """Return whether a label shows each structure that it could show."""
    shown = {}
    for structure in structures:
        try:
            numbers = numbers_of(structure, labels)
        except CrossmodaError:
            continue  # a partial label, which says nothing of it
        shown[structure] = any(number in (scan.volumes_mm3 or {}) for number in numbers)
    return shown


def _require_judges(
    judged: Sequence[Sequence[Item]],
    shown: Mapping[tuple[str, str], Mapping[str, bool]],
    structures: Sequence[str],
) -> None:
    remedy = "use fewer folds, another seed or more patients"
    for fold, items in enumerate(judged):
        if not items:
            raise CrossmodaError(f"fold {fold}: no case whose label a person made, so nothing judges it; {remedy}")
        for structure in structures:
            if not any(shown[item["case"], item["view"]].get(structure) for item in items):
                cases = ", ".join(sorted({item["case"] for item in items}))
                raise CrossmodaError(
                    f"fold {fold} ({cases}): no label shows {structure}, so nothing judges it there; "
                    f"{remedy}, or leave it out of 'structures'"
                )


def require_configurations(settings: CrossValidationSettings, datalist_file: Path, device: torch.device | None) -> None:
    """Make sure that every configuration and every post-processing can be built and, on the device, run.

    Raises:
        CrossmodaError: a structure that labels cannot tell apart, a file or key that is not there, a network that does
            not exist or does not fit its patch or classes, training and inference that differ, an overlay that keeps
            folds from being averaged, a transform that does not exist or is no post-processing.
    """
    labels = load_datalist(datalist_file)["labels"]
    for structure in settings.structures:
        numbers_of(structure, labels)
    for name, use in settings.configurations.items():
        try:
            _require_configuration(use, datalist_file, device)
        except CrossmodaError as error:
            raise CrossmodaError(f"configuration '{name}': {error}") from error
    for name, transforms in settings.postprocessing.items():
        _require_postprocessing(name, transforms, settings.structures)


def _require_configuration(use: BundleUse, datalist_file: Path, device: torch.device | None) -> None:
    train, inference = use.config("train"), use.config("inference")
    for key in AGREED:
        if train[key] != inference[key]:
            raise CrossmodaError(f"{key} differs between training and inference; name its overlay under 'overlays'")
    plain = BundleUse(use.root, inference_overlays=use.inference_overlays[:1]).config("inference")
    for key in (*KEPT, *AFTERWARDS):
        if ConfigParser(inference).get(key) != ConfigParser(plain).get(key):
            remedy = "use 'postprocessing'" if key in AFTERWARDS else "leave its overlay out"
            raise CrossmodaError(f"'{key}' is changed, but must be ensemble.yaml's for folds to be averaged; {remedy}")
    places = {"dataset_dir": str(datalist_file), "output_dir": str(datalist_file.parent)}
    for kind, components in BUILT.items():
        use.check(kind, device, components, **places)


def build_postprocessing(transforms: Sequence[Mapping[str, Any]], structures: Sequence[str]) -> Compose:
    """Return transforms of the key ``pred``, built as in the bundle; ``@structures`` may be named in them."""
    parser = ConfigParser({"structures": list(structures), POSTPROCESSING_KEY: as_component(transforms)})
    return Compose([parser.get_parsed_content(POSTPROCESSING_KEY)])


def as_component(transforms: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what takes the place of ``keep_one_tumour`` in ``inference.yaml``."""
    if not transforms:
        return dict(UNTOUCHED)
    return {"_target_": "Compose", "transforms": [dict(transform) for transform in transforms]}


def _require_postprocessing(name: str, transforms: Sequence[Mapping[str, Any]], structures: Sequence[str]) -> None:
    label = MetaTensor(torch.zeros(1, 6, 5, 4), affine=torch.eye(4))
    try:
        after = build_postprocessing(transforms, structures)({"pred": label})["pred"]
    except Exception as error:  # whatever a transform raises
        raise CrossmodaError(
            f"post-processing '{name}': {in_one_line(error, 'its transforms cannot be used on a label map')}"
        ) from error
    if tuple(after.shape) != tuple(label.shape):
        raise CrossmodaError(
            f"post-processing '{name}': makes {tuple(after.shape)} of a label map {tuple(label.shape)}; "
            "leave out what changes its shape"
        )


def padded_patches(settings: CrossValidationSettings, grids: Sequence[Grid]) -> list[str]:
    """Return a line for each configuration whose patch is larger than scans along some axis.

    Such scans are padded with their background up to the patch, in training and inference alike, so that nothing
    fails; where it befalls most of them, memory and time go into nothing.
    """
    warnings = []
    for name, use in settings.configurations.items():
        config = ConfigParser(use.config("inference"))
        patch, spacing = (np.asarray(config.get_parsed_content(key)) for key in ("patch_size", "spacing"))
        sizes = np.asarray([shape_at(grid, spacing) for grid in grids])
        smaller = (sizes < patch).any(axis=1)
        if smaller.any():
            largest = " x ".join(str(n) for n in sizes.max(axis=0))
            warnings.append(
                f"configuration '{name}': patch_size {patch.tolist()} is larger than {smaller.sum()} of {len(sizes)} "
                f"scans at {spacing.tolist()} mm (largest axes {largest}); they are padded, a smaller patch is cheaper"
            )
    return warnings


def shape_at(grid: Grid, spacing: Sequence[float] | np.ndarray) -> list[int]:
    """Return a scan's voxels along x, y and z (RAS) once it is resampled to a spacing in mm."""
    axes = nib.io_orientation(grid.affine)[:, 0].astype(int)
    size_mm = np.empty(3)
    size_mm[axes] = spacing_mm(grid.affine) * np.asarray(grid.shape[:3])
    return [int(n) for n in np.rint(size_mm / np.asarray(spacing, dtype=float))]
