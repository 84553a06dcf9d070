"""A folder of tissue maps of varied patients, each on the grid of a scan of its own."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crossmoda.data.phantom.anatomy import Patient, draw_patient, draw_varied_patient
from crossmoda.data.phantom.dataset import case_rng
from crossmoda.data.phantom.rasterise import rasterise
from crossmoda.data.phantom.scanner import FOSSA_CENTRE_MM, Grid
from crossmoda.data.teacher.patches import HEALTHY_CANAL
from crossmoda.data.teacher.tissue_maps import LABEL, LABELS, TISSUE_NAMES, TissueMap
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, write_json

DESCRIPTION = "teacher.json"
VERSION = 3  # raise it whenever the same seed gives other maps
MOST_VOXELS = 4_000_000  # of a map; a scan of more is coarsened in plane
CISTERN_MM, PLACES_OF_CANAL = 6.0, 12
CENTRES_KEPT = 200  # voxels a structure, from which the middles of patches are chosen
IN_PLANE_MM, SLICE_MM = (0.3, 1.0), (0.5, 3.0)
LEAST_VIEW_MM, MOST_VIEW_MM = (90.0, 56.0, 28.0), (150.0, 124.0, 80.0)


def draw_view(patient: Patient, rng: np.random.Generator) -> Grid:
    """Return a scan's grid: spacing 0.3-1 mm in plane and 0.5-3 mm between slices, part or all of the posterior fossa.

    Axial, RAS; the head is turned in it as the patient's pose says.
    """
    in_plane = float(np.exp(rng.uniform(*np.log(IN_PLANE_MM))))
    slices = float(max(np.exp(rng.uniform(*np.log(SLICE_MM))), 0.8 * in_plane))
    view = np.array([rng.uniform(low, high) for low, high in zip(LEAST_VIEW_MM, MOST_VIEW_MM, strict=True)])
    in_plane = max(in_plane, float(np.sqrt(np.prod(view) / slices / MOST_VOXELS)))
    spacing = np.array([in_plane, in_plane, slices])
    shape = np.maximum(np.rint(view / spacing).astype(int), 8)
    middle = patient.frame.to_scanner(np.array(FOSSA_CENTRE_MM)[:, None])[:, 0] + rng.normal(0, [5.0, 6.0, 5.0])
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.round(middle - spacing * (shape - 1) / 2, 4)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def write_tissue_maps(folder: Path, cases: int, seed: int = 0, workers: int | None = None, varied: bool = True) -> Path:
    """Write tissue maps of varied patients, and what the folder holds as ``teacher.json``; go on where it was left.

    Args:
        folder: for the maps; ``<case>.npy`` each, 4 to 16 MB.
        cases: number of patients; asking for more later keeps those that are there.
        seed: the patients follow from it and their number alone.
        workers: processes; None for one a core.
        varied: False draws patients as plain as those of ``write_phantom_dataset``, for comparison.

    Raises:
        CrossmodaError: fewer than one case, or the folder holds maps of another seed or version.
    """
    if cases < 1:
        raise CrossmodaError(f"cases {cases}: give at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / DESCRIPTION
    made: dict[str, Any] = {"version": VERSION, "seed": seed, "varied": varied, "tissues": list(TISSUE_NAMES)}
    described = {**made, "cases": {}}
    if path.exists():
        found = read_json(path)
        if any(found.get(key) != value for key, value in made.items()):
            raise CrossmodaError(f"{path}: maps of another seed, kind or version; choose another folder")
        described = found
    names = [f"teacher_{number:05d}" for number in range(cases)]
    missing = [name for name in names if name not in described["cases"]]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=context) as pool:
        jobs = {pool.submit(_write_map, folder, name, seed, varied): name for name in missing}
        for count, job in enumerate(tqdm(as_completed(jobs), total=len(jobs), desc="tissue maps", unit="case"), 1):
            described["cases"][jobs[job]] = job.result()
            if count % 10 == 0 or count == len(jobs):
                write_json(path, described | {"cases": dict(sorted(described["cases"].items()))})
    return folder


def _write_map(folder: Path, name: str, seed: int, varied: bool = True) -> dict[str, Any]:
    """Draw, paint and write one patient; return what ``teacher.json`` says of it."""
    rng = case_rng(seed, name)
    patient = draw_varied_patient(rng) if varied else draw_patient(rng)
    grid = draw_view(patient, rng)
    drawn = TissueMap.of(rasterise(patient, grid.shape, grid.affine))
    drawn.save(folder / f"{name}.npy")
    centres = {structure: _some(drawn.voxels[LABEL], numbers, rng) for structure, numbers in _structures().items()}
    centres[HEALTHY_CANAL] = healthy_canals(patient, grid)
    return {
        "shape": list(grid.shape),
        "affine": grid.affine.tolist(),
        "counts": drawn.counts(),
        "centres": centres,
        "patient": patient.as_json(),
    }


def healthy_canals(patient: Patient, grid: Grid) -> list[list[int]]:
    """Return voxels (x, y, z) along the internal auditory canals without a tumour and in the cisterns before them.

    Those that lie in the scan, from the canal's end to ``CISTERN_MM`` before its mouth.
    """
    places = []
    for ear in patient.ears:
        if patient.tumour is not None and patient.tumour.side == ear.side:
            continue
        start = ear.porus - CISTERN_MM * ear.axis
        line = start + np.linspace(0, 1, PLACES_OF_CANAL)[:, None] * (ear.fundus - start)
        world = patient.frame.to_scanner((line * [ear.side, 1, 1]).T)
        voxels = np.linalg.solve(grid.affine[:3, :3], world - grid.affine[:3, 3:]).T
        places += [place for place in np.rint(voxels).astype(int).tolist() if _lies_in(place, grid.shape)]
    return places


def _lies_in(place: list[int], shape: tuple[int, int, int]) -> bool:
    return all(0 <= index < size for index, size in zip(place, shape, strict=True))


def _structures() -> dict[str, list[int]]:
    return {"vs": [LABELS["intra"], LABELS["extra"]], "cochlea": [LABELS["cochlea"]]}


def _some(label: np.ndarray, numbers: list[int], rng: np.random.Generator) -> list[list[int]]:
    """Return some of the voxels (x, y, z) with one of the numbers."""
    places = np.argwhere(np.isin(label, numbers))
    if len(places) > CENTRES_KEPT:
        places = places[np.sort(rng.choice(len(places), CENTRES_KEPT, replace=False))]
    return places.tolist()


def teacher_cases(folder: str | Path) -> list[dict[str, Any]]:
    """Return a folder's cases as a training's items: ``tissue_map`` (file), ``affine``, ``counts``, ``centres``.

    Raises:
        CrossmodaError: there are no maps, one is missing, or one's axes do not point to the right, front and top.
    """
    path = Path(folder) / DESCRIPTION
    if not path.exists():
        raise CrossmodaError(f"{path} is missing; make tissue maps with python -m crossmoda teacher {folder}")
    described = read_json(path)
    if described.get("tissues") != list(TISSUE_NAMES) or described.get("version") != VERSION:
        raise CrossmodaError(f"{path}: maps of another version; make them again in another folder")
    cases = []
    for name, case in described["cases"].items():
        file = Path(folder) / f"{name}.npy"
        if not file.exists():
            raise CrossmodaError(f"{file} is missing; make the maps again")
        linear = np.array(case["affine"])[:3, :3]
        if not np.array_equal(linear, np.diag(np.diag(linear))) or np.diag(linear).min() <= 0:
            raise CrossmodaError(f"{file}: its axes are not R, A, S, as patches take them to be; make the maps again")
        cases.append({"tissue_map": str(file), "case": name, "site": "teacher", "view": "", "weight": 1.0}
                     | {key: case[key] for key in ("shape", "affine", "counts", "centres")})  # fmt: skip
    return cases
