"""Predictions in the challenge's own format, checked before anything is written.

2021 and 2022: ``<case>_Label.nii.gz`` with 1 VS, 2 cochlea (the names that the challenge's scoring script reads), also
as one archive, since Grand Challenge takes one file. 2023: what the challenge's container was to leave in ``/output``,
``<case>.nii.gz`` with the parts of the tumour and the cochlea numbered as in the dataset's own labels.
"""

from __future__ import annotations

import logging
import os
import platform
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.contrib.concurrent import thread_map

from crossmoda import __version__
from crossmoda.data.layouts import PLAIN, Case, Dataset, read_dataset
from crossmoda.data.naming import common_editions
from crossmoda.data.volumes import read_grid, same_grid, voxel_volume_mm3, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import label_files, read_label_map
from crossmoda.evaluation.label_sets import POINTERS, labels_of_predictions, require_edition, run_around
from crossmoda.evaluation.metrics import PENALTY_MM
from crossmoda.files import atomic_directory, read_json, sha256_of, write_json
from crossmoda.labels import EDITION_LABELS, mask_of, numbers_of

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
ARCHIVE = "submission.zip"
ARCHIVE_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip holds: the same predictions give the same bytes


@dataclass(frozen=True)
class Format:
    """How an edition takes predictions.

    Attributes:
        folder: where they lie in the submission.
        suffix: what follows the case id in a file's name, before ``.nii.gz``.
        archived: whether they are also wanted as one zip.
    """

    folder: str
    suffix: str
    archived: bool


FORMATS = {
    "2021": Format("predictions", "_Label", archived=True),
    "2022": Format("predictions", "_Label", archived=True),
    "2023": Format("output", "", archived=False),
}


@dataclass(frozen=True)
class _Plan:
    """What is to be written: every scan with its prediction, and what the numbers mean before and after."""

    edition: str
    scans: dict[str, Case]
    files: dict[str, Path]
    before: dict[str, int]
    after: dict[str, int]


def write_submission(
    predictions: str | Path,
    dataset: str | Path,
    output: str | Path,
    edition: str = "",
    structures: str | Sequence[str] = "",
) -> dict[str, Any]:
    """Write the predictions of a dataset's validation scans as the challenge takes them, whole or not at all.

    Args:
        predictions: folder of ``<case>_Label.nii.gz`` or ``<case>.nii.gz``, or a run folder, whose served round counts.
            Predictions of the dataset's training scans are left out.
        dataset: the challenge's folder; or a plain folder of scans, such as the test scans, which all count then.
        output: the folder to make; one that holds an earlier submission is replaced.
        edition: 2021, 2022 or 2023; by default that of the dataset.
        structures: what the predictions' values 1, 2, ... mean, e.g. ``vs,cochlea``; by default what the run folder
            around them says, else the edition's own numbers.

    Returns:
        What ``manifest.json`` holds: ``edition``, ``labels``, ``folder``, ``cases`` (file, SHA-256 of scan, prediction
        and file, volumes in mm3), ``empty`` (``{case: structures without a voxel}``), ``archive``, ``made_by`` (run,
        model, versions), ``left_out`` (number of predictions of training scans).

    Raises:
        CrossmodaError: a scan without a prediction or a prediction without a scan, cases of another edition, another
            grid, values or structures that the edition does not have, or an output folder that holds something else.
    """
    source, output = _predictions_of(Path(predictions)), Path(output)
    _require_replaceable(output)
    data = read_dataset(dataset)
    scans = {case.case: case for case in (data.validation or (data.target if data.edition == PLAIN else []))}
    if not scans:
        raise CrossmodaError(
            f"{data.root}: holds no validation scans; unpack the challenge's validation archive into it"
        )
    edition = _edition_of(data, scans, edition)
    files, left_out = _matched(source, data, scans, edition)
    after = data.labels if set(data.labels) == set(EDITION_LABELS[edition]) else EDITION_LABELS[edition]
    plan = _Plan(edition, scans, files, labels_of_predictions(source, structures, after), after)
    _require_structures(source, plan)
    with atomic_directory(output) as place:
        manifest = {**_write(plan, place), "left_out": left_out, "made_by": _made_by(source)}
        write_json(place / MANIFEST, manifest)
    _warn_of_empty(manifest["empty"], len(scans))
    return manifest


def _predictions_of(folder: Path) -> Path:
    if (folder / POINTERS).is_file():
        return folder / read_json(folder / POINTERS)["predictions"]
    return folder


def _require_replaceable(output: Path) -> None:
    """Refuse an output that would take the place of anything but an earlier submission."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not (output / MANIFEST).is_file() or "made_by" not in read_json(output / MANIFEST):  # rounds have one as well
        raise CrossmodaError(f"{output}: holds something that is no submission; choose a folder that does not exist")


def _edition_of(data: Dataset, scans: Mapping[str, Case], wanted: str) -> str:
    """Return the edition, which the dataset (its layout, or else its case ids) and the user must agree on."""
    by_ids = common_editions(scans, data.root)
    by_layout = () if data.edition == PLAIN else (data.edition,)
    possible = by_layout or by_ids
    if wanted:
        require_edition(wanted)
    if wanted and possible and wanted not in possible:
        raise CrossmodaError(f"{data.root}: holds {' or '.join(possible)}, not {wanted}; give that edition's folder")
    if not wanted and not possible:
        raise CrossmodaError(f"{data.root}: its case ids tell no edition; give --edition {', '.join(FORMATS)}")
    return wanted or possible[0]


def _matched(source: Path, data: Dataset, scans: Mapping[str, Case], edition: str) -> tuple[dict[str, Path], int]:
    """Return one prediction for each scan, and how many of training scans are left out; refuse any other."""
    found = label_files(source)
    by_ids = common_editions(found, source)
    if by_ids and edition not in by_ids:
        raise CrossmodaError(
            f"{source}: predicts cases of {' or '.join(by_ids)} ({min(found)}), and {data.root} holds {edition}; give "
            "predictions of its scans"
        )
    missing = sorted(scans.keys() - found)
    if missing:
        raise CrossmodaError(
            f"{source}: {len(missing)} of {len(scans)} scans have no prediction, {_few(missing)}; predict them first"
        )
    training = {case.case for case in (*data.source, *data.target)} - scans.keys()
    strange = sorted(found.keys() - scans.keys() - training)
    if strange:
        raise CrossmodaError(
            f"{source}: {len(strange)} prediction(s) of no scan in {data.root}, {_few(strange)}; take them out"
        )
    return {case: found[case] for case in sorted(scans)}, len(found) - len(scans)


def _few(cases: Sequence[str]) -> str:
    return ", ".join(cases[:3]) + (", ..." if len(cases) > 3 else "")


def _require_structures(source: Path, plan: _Plan) -> None:
    for structure in plan.after:
        try:
            numbers_of(structure, plan.before)
        except CrossmodaError as error:
            told, wanted = ", ".join(plan.before), ", ".join(plan.after)
            raise CrossmodaError(
                f"{source}: its labels are of {told}, and {plan.edition} wants {wanted}; predict with a segmenter of "
                "these structures, or say with --structures what the values 1, 2, ... mean"
            ) from error


def _write(plan: _Plan, place: Path) -> dict[str, Any]:
    """Write the label maps and the archive, and return what the manifest says of them."""
    form = FORMATS[plan.edition]
    options = {"desc": "writing", "unit": "case", "leave": False, "max_workers": os.cpu_count() or 1}
    written = list(thread_map(partial(_write_case, plan, place / form.folder), plan.scans, **options))
    cases = dict(sorted(zip(plan.scans, written, strict=True)))
    empty = {case: [s for s, volume in told["volumes_mm3"].items() if not volume] for case, told in cases.items()}
    archive = _archive(place, form) if form.archived else None
    return {
        "edition": plan.edition,
        "labels": plan.after,
        "folder": form.folder,
        "archive": archive,
        "cases": cases,
        "empty": {case: structures for case, structures in empty.items() if structures},
    }


def _write_case(plan: _Plan, folder: Path, case: str) -> dict[str, Any]:
    """Write one case's label map on its scan's own grid, numbered as the edition does."""
    prediction, scan = plan.files[case], plan.scans[case].image
    volume, grid = read_label_map(prediction, plan.before), read_grid(scan)
    if not same_grid(volume, grid):
        raise CrossmodaError(f"{prediction}: lies on another grid than {scan}; write it on its image's grid")
    label = np.zeros(volume.shape, dtype=np.uint8)
    volumes = {}
    for structure, number in plan.after.items():
        mask = mask_of(structure, volume.array, plan.before)
        label[mask] = number
        volumes[structure] = float(np.count_nonzero(mask) * voxel_volume_mm3(grid.affine))
    path = folder / f"{case}{FORMATS[plan.edition].suffix}.nii.gz"
    write_volume(path, label, grid.affine)
    hashes = {"sha256": sha256_of(path), "prediction_sha256": sha256_of(prediction), "scan_sha256": sha256_of(scan)}
    return {"file": path.name, **hashes, "volumes_mm3": volumes}


def _archive(place: Path, form: Format) -> dict[str, str]:
    """Write the label maps, which are compressed already, side by side into one zip."""
    with zipfile.ZipFile(place / ARCHIVE, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted((place / form.folder).iterdir()):
            archive.writestr(zipfile.ZipInfo(path.name, ARCHIVE_DATE), path.read_bytes())
    return {"file": ARCHIVE, "sha256": sha256_of(place / ARCHIVE)}


def _made_by(source: Path) -> dict[str, Any]:
    """Return the predictions' folder, the model beside it where a run made them, and the versions at work now."""
    run = run_around(source)
    sidecar = source.parent / "segmenter" / "model.json"
    model = read_json(sidecar) if run and sidecar.is_file() else None
    packages = {name: metadata.version(name) for name in ("nibabel", "numpy")}
    versions = {"python": platform.python_version(), "crossmoda": __version__, **packages}
    return {"predictions": str(source), "run": str(run) if run else None, "model": model, "versions": versions}


def _warn_of_empty(empty: Mapping[str, Sequence[str]], count: int) -> None:
    if empty:
        named = "; ".join(f"{case}: {', '.join(structures)}" for case, structures in empty.items())
        logger.warning(
            "%d of %d predictions lack a structure, which costs Dice 0 and %g mm each where the truth has it: %s",
            len(empty),
            count,
            PENALTY_MM,
            named,
        )
