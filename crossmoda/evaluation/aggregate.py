"""Score a folder of predictions against a folder of truth and sum the cases up: what ``metrics.json`` holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.contrib.concurrent import thread_map

from crossmoda.data.naming import case_name, is_label, site_of, volume_files
from crossmoda.data.volumes import Volume, read_volume, same_grid, spacing_mm
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.metrics import BOUNDARY, METRICS, boundary_scores, structure_scores
from crossmoda.labels import EXTRA, INTRA, STRUCTURES, mask_of, numbers_of

logger = logging.getLogger(__name__)

SUMMED = (*METRICS, "assd_2022")  # what is summed up over cases; volumes stay with their case

Files = str | Path | Mapping[str, str | Path]


def label_files(source: Files) -> dict[str, Path]:
    """Return the label maps of a folder (or of a ready ``case -> file`` mapping), by case id, in order of the ids.

    Where files named ``<case>_Label`` are present, only those count: a folder of images and labels may be given.

    Raises:
        CrossmodaError: no such folder, no image in it, or two files for one case.
    """
    if isinstance(source, Mapping):
        return {case: Path(path) for case, path in sorted(source.items())}
    folder = Path(source)
    if not folder.is_dir():
        raise CrossmodaError(f"{folder}: no such folder; give the folder that holds the <case>_Label.nii.gz files")
    paths = volume_files(folder)
    paths = [path for path in paths if is_label(path)] or paths
    if not paths:
        raise CrossmodaError(f"{folder}: holds no label map; give the folder that holds the <case>_Label.nii.gz files")
    files: dict[str, Path] = {}
    for path in paths:
        case = case_name(path)
        if case in files:
            raise CrossmodaError(f"{path}: case {case} is already there as {files[case].name}; keep one of the two")
        files[case] = path
    return files


def shared_structures(prediction_labels: dict[str, int], truth_labels: dict[str, int]) -> list[str]:
    """Return the structures that both label sets can tell apart, the whole VS first.

    Raises:
        CrossmodaError: there is none.
    """
    shared = [name for name in STRUCTURES if _knows(name, prediction_labels) and _knows(name, truth_labels)]
    if not shared:
        raise CrossmodaError(f"labels {prediction_labels} and {truth_labels} share no structure; mend one of them")
    return shared


def _knows(structure: str, labels: dict[str, int]) -> bool:
    try:
        return bool(numbers_of(structure, labels))
    except CrossmodaError:
        return False


def read_label_map(path: Path, labels: dict[str, int]) -> Volume:
    """Read a label map and check that its values are among ``labels`` and 0.

    Raises:
        CrossmodaError: a value has no name.
    """
    volume = read_volume(path)
    unknown = volume.array != 0
    for number in labels.values():
        unknown &= volume.array != number
    if unknown.any():
        values = np.unique(volume.array[unknown])[:3]
        shown = ", ".join(f"{value:g}" for value in values)
        raise CrossmodaError(f"{path}: holds the value {shown}, unknown to the labels {labels}; give the right edition")
    return volume


def score_case(
    prediction: Path | None,
    truth: Path,
    prediction_labels: dict[str, int],
    truth_labels: dict[str, int],
    structures: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Return the metrics of each structure in one case; no prediction counts as an empty one.

    Raises:
        CrossmodaError: prediction and truth lie on different grids, or a file holds a value without a name.
    """
    true = read_label_map(truth, truth_labels)
    predicted = read_label_map(prediction, prediction_labels) if prediction else _empty_like(true)
    if not same_grid(predicted, true):
        raise CrossmodaError(f"{prediction}: lies on another grid than {truth}; write it on its image's grid")
    return score_label_maps(predicted, true, prediction_labels, truth_labels, structures)


def score_label_maps(
    predicted: Volume,
    true: Volume,
    prediction_labels: dict[str, int],
    truth_labels: dict[str, int],
    structures: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Return the metrics of each structure, as ``score_case`` does, of label maps on one grid."""
    spacing = spacing_mm(true.affine)

    def masks(structure: str) -> tuple[np.ndarray, np.ndarray]:
        return mask_of(structure, predicted.array, prediction_labels), mask_of(structure, true.array, truth_labels)

    scores = {name: structure_scores(*masks(name), spacing) for name in structures}
    if INTRA in structures and EXTRA in structures:
        predicted_parts, true_parts = zip(masks(INTRA), masks(EXTRA), strict=True)
        scores[BOUNDARY] = boundary_scores(predicted_parts, true_parts, spacing)
    return scores


def _empty_like(volume: Volume) -> Volume:
    return Volume(np.zeros_like(volume.array), volume.affine)


def summarise(values: Sequence[float]) -> dict[str, float]:
    """Return mean, standard deviation (of the sample; 0 for one value), median, extremes, interquartile range and n."""
    array = np.asarray(values, dtype=float)
    low, high = np.percentile(array, [25, 75])
    return {
        "mean": float(array.mean()),
        "std": float(array.std(ddof=1)) if len(array) > 1 else 0.0,
        "median": float(np.median(array)),
        "min": float(array.min()),
        "max": float(array.max()),
        "iqr": float(high - low),
        "n": len(array),
    }


def summarise_cases(cases: Iterable[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return ``{structure: {metric: summary}}`` over cases as ``evaluate_folder`` lists them."""
    gathered: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        for structure in (*STRUCTURES, BOUNDARY):
            for metric, value in case.get(structure, {}).items():
                if metric in SUMMED:
                    gathered.setdefault(structure, {}).setdefault(metric, []).append(value)
    return {s: {metric: summarise(values) for metric, values in found.items()} for s, found in gathered.items()}


def evaluate_folder(
    predictions: Files,
    truth: Files,
    prediction_labels: dict[str, int],
    truth_labels: dict[str, int],
    cases: Iterable[str] | None = None,
    sites: Mapping[str, str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Score predictions against truth, case by case and in all.

    Args:
        predictions: folder of label maps named by case, or ``{case: file}``. Predictions without truth are left out.
        truth: the same for the truth, on the same grids.
        prediction_labels: what the predictions' voxel values mean, ``{name: number}``.
        truth_labels: what the truth's voxel values mean.
        cases: which cases to score; all that have truth by default.
        sites: ``{case: site}``; read from the case ids by default.
        workers: threads; one per processor by default.
        progress: show a bar with the time left.

    Returns:
        What ``metrics.json`` holds: ``structures`` ``{vs: {dice: {mean, std, median, min, max, iqr, n}, assd, hd95}}``,
        ``sites`` (the same per site), ``cases`` (a list, one entry a case with its site and each structure's metrics
        and volumes), ``missing`` (cases without a prediction, which count as empty ones). Distances are in mm.

    Raises:
        CrossmodaError: a folder or a case's truth is missing, grids differ, or labels do not fit.
    """
    predicted, true = label_files(predictions), label_files(truth)
    wanted = sorted(true if cases is None else set(cases))
    without = [case for case in wanted if case not in true]
    if without or not wanted:
        name = without[0] if without else truth
        raise CrossmodaError(f"{name}: no truth to score against; leave it out or add its label")
    structures = shared_structures(prediction_labels, truth_labels)
    missing = [case for case in wanted if case not in predicted]
    if missing:
        logger.warning("no prediction for %d case(s), counted as empty: %s", len(missing), ", ".join(missing))

    def score(case: str) -> dict[str, Any]:
        site = (sites or {}).get(case) or site_of(case)
        scores = score_case(predicted.get(case), true[case], prediction_labels, truth_labels, structures)
        return {"case": case, "site": site, **({"missing": True} if case in missing else {}), **scores}

    scored = _map_cases(score, wanted, workers, progress)
    found_sites = sorted({case["site"] for case in scored})
    return {
        "structures": summarise_cases(scored),
        "sites": {site: summarise_cases(c for c in scored if c["site"] == site) for site in found_sites},
        "cases": scored,
        "missing": missing,
    }


def _map_cases(
    score: Callable[[str], dict[str, Any]], cases: list[str], workers: int | None, progress: bool
) -> list[dict[str, Any]]:
    # threads, not processes: decompression, distance queries and erosion release the interpreter lock or are short
    options = {"desc": "scoring", "unit": "case", "leave": False, "disable": not progress}
    return list(thread_map(score, cases, max_workers=workers or os.cpu_count() or 1, **options))
