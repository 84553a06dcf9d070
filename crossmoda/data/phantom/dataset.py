"""Write a synthetic dataset in the challenge's own folders and names, the truth of target scans in a folder apart."""

from __future__ import annotations

import csv
import hashlib
import io
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from crossmoda.data.phantom.anatomy import Patient, draw_patient
from crossmoda.data.phantom.protocols import SITES_OF_EDITION, Protocol, draw_protocol
from crossmoda.data.phantom.scanner import Grid, Scan, draw_grid, scan
from crossmoda.data.phantom.tumour import KOOS_SHARE
from crossmoda.data.volumes import voxel_volume_mm3, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_directory, read_json, write_json, write_text
from crossmoda.labels import EDITION_LABELS, STRUCTURES

VERSION = 1  # of the phantom: raise it whenever the same seed gives other bytes
TRUTH_FOLDER = "truth"
DESCRIPTION = "phantom.json"
GOLDEN_RATIO = 0.6180339887498949
SECTIONS = ("source", "target", "validation")
CENTRES = {"ldn": "London", "etz": "Tilburg"}


@dataclass(frozen=True)
class Edition:
    """Hold where an edition keeps its sections, how its files are called, and the first case number per site."""

    folders: dict[str, str]
    prefixes: dict[str, str]
    target_suffix: str
    first: dict[str, tuple[int, int, int, int]]  # site: source, target, validation, and the number after the last


# crossmoda.md 1.1 and 1.2. For 2023 the challenge's texts give the first target numbers; where validation begins in
# London and the UK centres they do not, and the numbers here are ours.
EDITIONS: dict[str, Edition] = {
    "2021": Edition(
        {
            "source": "crossmoda_training/source_training",
            "target": "crossmoda_training/target_training",
            "validation": "crossmoda_training/target_validation",
        },
        {"ldn": "crossmoda2021_ldn_"},
        "_hrT2",
        {"ldn": (1, 106, 211, 243)},
    ),
    "2022": Edition(
        {
            "source": "crossmoda2022_training/training_source",
            "target": "crossmoda2022_training/training_target",
            "validation": "crossmoda2022_validation",
        },
        {"ldn": "crossmoda2021_ldn_", "etz": "crossmoda2022_etz_"},
        "_hrT2",
        {"ldn": (1, 106, 211, 243), "etz": (0, 105, 210, 242)},
    ),
    "2023": Edition(
        {
            "source": "crossmoda23_training/TrainingSource",
            "target": "crossmoda23_training/TrainingTarget",
            "validation": "crossmoda23_validation",
        },
        {site: f"crossmoda2023_{site}_" for site in ("etz", "ldn", "ukm")},
        "_T2",
        {"etz": (1, 106, 211, 243), "ldn": (1, 80, 185, 217), "ukm": (1, 44, 129, 161)},
    ),
}


@dataclass(frozen=True)
class Request:
    """Hold what was asked for: it decides every byte that is written."""

    seed: int
    edition: str
    cases: int
    validation: int
    field_of_view_mm: tuple[float, float, float] | None
    coarsen: float
    source_truth: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the request as it stands in ``phantom.json``."""
        field = None if self.field_of_view_mm is None else list(self.field_of_view_mm)
        return {"version": VERSION, **asdict(self), "field_of_view_mm": field}


@dataclass(frozen=True)
class Job:
    """Hold one case to be made: its id, section, site, and running number within section and site."""

    case: str
    section: str
    site: str
    index: int


def write_phantom_dataset(
    out: str | Path,
    cases: int = 12,
    seed: int = 7,
    edition: str = "2022",
    validation: int | None = None,
    field_of_view_mm: tuple[float, float, float] | None = None,
    coarsen: float = 1.0,
    processes: int | None = None,
    source_truth: bool = False,
) -> Path:
    """Write a synthetic dataset: source, target and validation patients, all different people.

    Same arguments, same bytes, whatever the machine's number of processors; a case does not change when more cases are
    asked for. A folder that already holds exactly this dataset is left as it is.

    Args:
        out: folder to make.
        cases: number of source patients, and of target-training patients; spread evenly over the edition's sites.
        seed: of everything that is random, >= 0.
        edition: "2021" (London), "2022" (London, Tilburg) or "2023" (Tilburg, London, UK multi-centre).
        validation: number of validation patients; by default as many as ``cases``.
        field_of_view_mm: (x, y, z) extent about the posterior fossa; by default the sites' own (ceT1: the whole head).
        coarsen: factor on the sites' in-plane spacing, so that small machines can learn on the result.
        processes: how many cases are made at once; by default one per processor.
        source_truth: also write each source patient's true hrT2, on the grid of the ceT1, as ``truth/<case>_hrT2``:
            what a translation of that ceT1 should look like. No other file changes by it.

    Returns:
        The folder, as a path.

    Raises:
        CrossmodaError: an argument is out of range, or the folder holds something else.
    """
    out = Path(out)
    validation = cases if validation is None else validation
    request = _checked(seed, str(edition), cases, validation, field_of_view_mm, coarsen)
    request = replace(request, source_truth=bool(source_truth))
    jobs = list(plan(request))
    if _already_there(out, request):
        print(f"{out}: already holds this phantom dataset of {len(jobs)} cases; nothing to do")
        return out
    with atomic_directory(out) as folder:
        described = _make_all(folder, request, jobs, processes or os.cpu_count() or 1)
        if request.edition == "2022":
            _write_table(folder / "crossmoda2022_training" / "infos_source_training.csv", jobs, described)
        write_json(folder / DESCRIPTION, {**request.as_json(), "case_parameters": described})
    return out


def _checked(seed: int, edition: str, cases: int, validation: int, field: Any, coarsen: float) -> Request:
    """Return the request, or raise one line on the first argument that is out of range."""
    if edition not in EDITIONS:
        raise CrossmodaError(f"edition '{edition}' is unknown; use one of {', '.join(EDITIONS)}")
    if seed < 0:
        raise CrossmodaError(f"seed must be 0 or more, got {seed}")
    if coarsen < 1:
        raise CrossmodaError(f"coarsen must be 1 or more, got {coarsen}; 2 doubles the spacing in plane")
    if field is not None and (len(field) != 3 or min(field) < 10):
        raise CrossmodaError(f"field_of_view_mm must be three lengths of 10 mm or more, got {field}; e.g. 112,66,60")
    for name, number in (("cases", cases), ("validation", validation)):
        if number < 0 or (name == "cases" and number < 1):
            raise CrossmodaError(f"{name} must not be {number}; give a positive number")
    limits = None if field is None else (float(field[0]), float(field[1]), float(field[2]))
    return Request(int(seed), edition, int(cases), int(validation), limits, float(coarsen))


def plan(request: Request) -> Iterator[Job]:
    """Yield the cases of a dataset, numbered as the challenge numbers them.

    Raises:
        CrossmodaError: a section has more cases than the edition has numbers for.
    """
    edition, sites = EDITIONS[request.edition], SITES_OF_EDITION[request.edition]
    for position, section in enumerate(SECTIONS):
        total = request.validation if section == "validation" else request.cases
        for order, site in enumerate(sites):
            count = (total - order + len(sites) - 1) // len(sites)
            first, beyond = edition.first[site][position : position + 2]
            if count > beyond - first:
                raise CrossmodaError(
                    f"edition {request.edition} has numbers for {beyond - first} {section} cases of site {site}, "
                    f"not for {count}; ask for fewer cases"
                )
            for index in range(count):
                yield Job(f"{edition.prefixes[site]}{first + index}", section, site, index)


def _already_there(out: Path, request: Request) -> bool:
    """Tell whether a folder holds exactly this dataset.

    Raises:
        CrossmodaError: it holds something else, or this dataset with files missing.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    remedy = "choose another folder or delete this one"
    if not (out / DESCRIPTION).is_file():
        raise CrossmodaError(f"{out}: exists and is not a phantom dataset; {remedy}")
    found = read_json(out / DESCRIPTION)
    wanted = request.as_json()
    found.setdefault("source_truth", False)  # of phantoms older than this entry
    changed = [key for key in wanted if found.get(key) != wanted[key]]
    if changed:
        key = changed[0]
        raise CrossmodaError(f"{out}: holds a phantom with {key}={found.get(key)}, not {wanted[key]}; {remedy}")
    for parameters in found["case_parameters"].values():
        missing = [name for name in parameters["files"] if not (out / name).is_file()]
        if missing:
            raise CrossmodaError(f"{out / missing[0]}: missing from the phantom; delete the folder and make it again")
    return True


def _make_all(folder: Path, request: Request, jobs: list[Job], processes: int) -> dict[str, Any]:
    """Make every case; return their parameters by case, in the order of the plan."""
    described: dict[str, Any] = {}
    bar = tqdm(total=len(jobs), desc="phantom", unit="case")
    with bar:
        if processes == 1 or len(jobs) == 1:
            for job in jobs:
                described[job.case] = make_case(folder, request, job)
                bar.update()
        else:
            # Forked workers start at once; where there is no fork, spawned ones import this module first.
            method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
            with ProcessPoolExecutor(min(processes, len(jobs)), multiprocessing.get_context(method)) as pool:
                running = {pool.submit(make_case, folder, request, job): job for job in jobs}
                for done in as_completed(running):
                    described[running[done].case] = done.result()
                    bar.update()
    return {job.case: described[job.case] for job in jobs}


def case_rng(seed: int, *names: str) -> np.random.Generator:
    """Return the generator for one purpose of one case, independent of all others: seeded by the names' SHA-256."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.default_rng(np.random.SeedSequence([seed, *words]))


def koos_of(request: Request, job: Job) -> int:
    """Return a case's Koos grade: spread evenly within a site, so that small datasets hold all sizes too.

    The golden-ratio sequence visits the grades in their shares, whatever the number of cases.
    """
    start = case_rng(request.seed, "koos", job.section, job.site).random()
    position = (start + job.index * GOLDEN_RATIO) % 1.0
    edges = np.cumsum(list(KOOS_SHARE.values()))[:-1]
    return list(KOOS_SHARE)[int(np.searchsorted(edges, position))]


def patient_of(request: Request, job: Job) -> Patient:
    """Return the patient of a case."""
    return draw_patient(case_rng(request.seed, "patient", job.case), koos_of(request, job))


def make_case(folder: Path, request: Request, job: Job) -> dict[str, Any]:
    """Write one case's files below ``folder`` and return its parameters."""
    patient = patient_of(request, job)
    modality = "ceT1" if job.section == "source" else "hrT2"
    setup = case_rng(request.seed, "scan", job.case, modality)
    protocol = draw_protocol(job.site, modality, setup)
    grid = draw_grid(patient, protocol, setup, request.field_of_view_mm, request.coarsen)
    made = scan(patient, protocol, grid, case_rng(request.seed, "noise", job.case, modality))
    files = _write_files(folder, request, job, made)
    if request.source_truth and job.section == "source":
        files.append(_write_source_truth(folder, request, job, patient, grid))
    return _description(job, patient, protocol, made, files)


def _write_files(folder: Path, request: Request, job: Job, made: Scan) -> list[str]:
    """Write image and label; return their names relative to the dataset."""
    edition = EDITIONS[request.edition]
    section = edition.folders[job.section]
    source = job.section == "source"
    image = f"{section}/{job.case}{'_ceT1' if source else edition.target_suffix}.nii.gz"
    label = f"{section if source else TRUTH_FOLDER}/{job.case}_Label.nii.gz"
    _write_image(folder / image, made)
    write_volume(folder / label, label_map(made.labels, request.edition), made.grid.affine, np.uint8)
    return [image, label]


def _write_source_truth(folder: Path, request: Request, job: Job, patient: Patient, grid: Grid) -> str:
    """Write what the site's hrT2 would show of a source patient on the ceT1's grid; return its name.

    A hrT2 slab is lower than a ceT1's head, and its ends are dark; here there are none, since the grid is the ceT1's.
    """
    drawn = draw_protocol(job.site, "hrT2", case_rng(request.seed, "scan", job.case, "hrT2"))
    protocol = replace(drawn, slab_fade=False)
    made = scan(patient, protocol, grid, case_rng(request.seed, "noise", job.case, "hrT2"))
    name = f"{TRUTH_FOLDER}/{job.case}_hrT2.nii.gz"
    _write_image(folder / name, made)
    return name


def _write_image(path: Path, made: Scan) -> None:
    """Write a scan's image as 16-bit integers, as scanners store it."""
    stored = np.clip(np.rint(made.image), 0, 32767).astype(np.int16)
    write_volume(path, stored, made.grid.affine, np.int16)


def label_map(labels: dict[str, np.ndarray], edition: str) -> np.ndarray:
    """Return the masks as one uint8 map (X, Y, Z) with an edition's numbers."""
    numbers = EDITION_LABELS[edition]
    result = np.zeros(next(iter(labels.values())).shape, np.uint8)
    for name, number in numbers.items():
        result[labels[name]] = number
    return result


def _description(job: Job, patient: Patient, protocol: Protocol, made: Scan, files: list[str]) -> dict[str, Any]:
    volume = voxel_volume_mm3(made.grid.affine)
    assert patient.tumour is not None  # whom ``draw_patient`` draws has one
    return {
        "section": job.section,
        "site": job.site,
        "koos": patient.tumour.koos,
        "side": "right" if patient.tumour.side > 0 else "left",
        "volumes_mm3": {name: round(float(made.labels[name].sum()) * volume, 2) for name in STRUCTURES},
        "files": files,
        "protocol": {**asdict(protocol), "sequence_name": type(protocol.sequence).__name__},
        "patient": patient.as_json(),
    }


def _write_table(path: Path, jobs: list[Job], described: dict[str, Any]) -> None:
    """Write the challenge's table of its source cases."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["crossmoda_name", "center", "group", "koos"])
    for job in jobs:
        if job.section == "source":
            table.writerow([job.case, CENTRES[job.site], "training_source", described[job.case]["koos"]])
    write_text(path, text.getvalue())
