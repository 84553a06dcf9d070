"""Find out what is wrong with a dataset before anything is trained on it, one line per file.

Every file's voxels are read once, by several threads: decompression runs outside Python's lock.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from crossmoda.data.datalist import SECTIONS, Datalist, Item, build_datalist, load_datalist
from crossmoda.data.description import describe as describe
from crossmoda.data.findings import ERROR, WARNING, Problem, Report, Scan
from crossmoda.data.inspection import inspect
from crossmoda.data.layouts import PLAIN, read_dataset
from crossmoda.data.naming import require_edition
from crossmoda.data.parts import decide_parts
from crossmoda.errors import CrossmodaError
from crossmoda.labels import COCHLEA, EXTRA, INTRA

BAR_FROM_FILES = 20  # below this a check is over before a bar would be read
MOST_THREADS = 4  # each may hold a volume of 512 x 512 x 120 voxels in double precision

Entry = tuple[str, Item]  # section and item

_NEEDED = {"source": "source (ceT1)", "target": "target (hrT2)"}


@dataclass(frozen=True)
class _Contents:
    """What is to be checked: items with their section, and what listing them already showed."""

    edition: str
    labels: dict[str, int]
    items: list[Entry]
    problems: list[Problem]


def check_dataset(path: str | Path, sections: Sequence[str] = (*SECTIONS, "truth"), progress: bool = True) -> Report:
    """Check every file of a dataset folder or of a datalist.

    Found are truncated, empty or missing files, 2D and 4D data, NaN voxels, constant images, unusable affines, labels
    on another grid or with unknown values, missing and left-over labels, repeated case ids, empty sections. Cases of
    several editions, whose label values mean different structures, are refused before any file is read.

    Args:
        path: a dataset folder or a datalist's JSON.
        sections: those of source, target, validation and truth whose files are looked at.
        progress: show a bar with the time left where there are more than ``BAR_FROM_FILES`` files.

    Raises:
        CrossmodaError: ``path`` is neither, cannot be listed at all, or mixes editions.
    """
    path = Path(path)
    contents = _contents(path)
    items = [(section, item) for section, item in contents.items if section in sections]
    problems = [problem for problem in contents.problems if problem.section in ("", *sections)]
    problems += _empty_sections(path, contents, sections)
    problems += _bare_sources(contents, sections)
    problems += _repeated_cases(items)
    scans = []
    for scan, found in _in_threads(items, contents.labels, progress):
        scans.append(scan)
        problems += found
    problems += _unexplained_parts(items, scans, contents.labels)
    problems.sort(key=lambda problem: problem.severity != ERROR)
    return Report(path, contents.edition, contents.labels, scans, problems)


def _contents(path: Path) -> _Contents:
    if not path.is_dir():
        datalist = load_datalist(path)
        require_edition([item["case"] for _, item in _entries(datalist) if _is_numbered_as_the_list(item)], path)
        return _Contents(str(datalist.get("edition", PLAIN)), datalist["labels"], _entries(datalist), [])
    dataset = read_dataset(path)
    orphan = "a label without a scan of its own; add the scan or remove the label"
    problems = [Problem(file, orphan, WARNING) for file in dataset.orphans]
    images = {case.case: str(case.image) for case in (*dataset.target, *dataset.validation)}
    spare = [label for case, label in dataset.truth.items() if case not in images]
    problems += [Problem(file, "truth of a case that is not here; remove it", WARNING, "truth") for file in spare]
    truth: list[Entry] = [
        ("truth", {"case": case, "image": images[case], "label": str(label)})
        for case, label in dataset.truth.items()
        if case in images
    ]
    return _Contents(dataset.edition, dataset.labels, [*_entries(build_datalist(dataset)), *truth], problems)


def _is_numbered_as_the_list(item: Item) -> bool:
    return bool(item.get("label")) and "labels" not in item


def _entries(datalist: Datalist) -> list[Entry]:
    return [(section, item) for section in SECTIONS for item in datalist[section]]


def _empty_sections(path: Path, contents: _Contents, sections: Sequence[str]) -> list[Problem]:
    """Return the sections that hold nothing; a plain folder need not hold every one."""
    present = {section for section, _ in contents.items}
    severity = WARNING if contents.edition == PLAIN else ERROR
    empty = [name for name in _NEEDED if name in sections and name not in present]
    return [Problem(path, _no_scans(name), severity, name) for name in empty]


def _no_scans(section: str) -> str:
    return f"no {_NEEDED.get(section, section)} scans; add them, or correct the path"


def _bare_sources(contents: _Contents, sections: Sequence[str]) -> list[Problem]:
    """Return the source scans without a label: in the challenge's folders an error, a plain folder may hold some."""
    severity = WARNING if contents.edition == PLAIN else ERROR
    message = "its label is missing; add <case>_Label beside it or remove the scan"
    bare = [item for section, item in contents.items if section == "source" and not item.get("label")]
    return [Problem(Path(item["image"]), message, severity, "source") for item in bare if "source" in sections]


def _repeated_cases(items: list[Entry]) -> list[Problem]:
    """Return case ids used twice in a section, or by two sections (outputs are named by case)."""
    problems = []
    seen: dict[tuple[str, str], Entry] = {}
    for section, item in items:
        if section == "truth":
            continue
        other, first = seen.setdefault((item["case"], item.get("view", "")), (section, item))
        if first["image"] != item["image"]:
            problems.append(_repeated(section, item, other, first["image"]))
    return problems


def _repeated(section: str, item: Item, other: str, file: str) -> Problem:
    clash = other == section or {other, section} == {"target", "validation"}
    remedy = "give every scan an id of its own" if clash else "harmless if one patient is in both on purpose"
    message = f"case id {item['case']} is also that of {file}; {remedy}"
    return Problem(Path(item["image"]), message, ERROR if clash else WARNING, section)


def _in_threads(items: list[Entry], labels: dict[str, int], progress: bool) -> Iterator[tuple[Scan, list[Problem]]]:
    def look(entry: Entry) -> tuple[Scan, list[Problem]]:
        section, item = entry
        return inspect(section, item, item.get("labels", labels))

    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        silent = not progress or len(items) <= BAR_FROM_FILES
        yield from tqdm(pool.map(look, items), total=len(items), desc="checking", unit="case", disable=silent)


def _unexplained_parts(items: list[Entry], scans: list[Scan], labels: dict[str, int]) -> list[Problem]:
    """Return what all labels together say against the numbering of the tumour's parts."""
    if not {EXTRA, INTRA, COCHLEA} <= set(labels):
        return []
    measured = [
        (Path(item["label"]), scan.volumes_mm3)
        for (section, item), scan in zip(items, scans, strict=True)
        if section == "source" and scan.volumes_mm3 is not None and "labels" not in item
    ]
    try:
        decided = decide_parts(measured, labels, exhaustive=True)
    except CrossmodaError as error:
        path, _, message = str(error).partition(": ")
        return [Problem(Path(path), message, ERROR, "source")]
    if decided == labels:
        return []
    message = f"the volumes say {decided}, the list says {labels}; correct its 'labels'"
    return [Problem(measured[0][0].parent, message, ERROR, "source")]


def require_usable(path: str | Path, need: Sequence[str] = ("source", "target"), also: Sequence[str] = ()) -> None:
    """Stop before training where a dataset has errors in the sections needed, with one line.

    Args:
        path: a dataset folder or a datalist's JSON.
        need: sections that must hold scans and be free of errors; with ``labels`` among them, one scan at least must
            have a label that is not empty.
        also: sections that may be empty, but must be free of errors.

    Raises:
        CrossmodaError: the first error, with the number of further ones.
    """
    sections = [name for name in need if name != "labels"]
    report = check_dataset(path, [*sections, *also])
    errors = [str(problem) for problem in report.errors]
    present = {scan.section for scan in report.scans}
    errors += [f"{path}: {_no_scans(name)}" for name in sections if name not in present]
    if "labels" in need and not any(scan.volumes_mm3 for scan in report.scans):
        errors.append(f"{path}: no labelled scan in {' or '.join(sections)}; add <case>_Label beside a scan")
    errors = list(dict.fromkeys(errors))
    if errors:
        more = f" (and {len(errors) - 1} more; 'python -m crossmoda check {path}' lists them)"
        raise CrossmodaError(errors[0] + (more if len(errors) > 1 else ""))


def check_command(dataset: str | Path) -> int:
    """Check a dataset folder or datalist, print what is in it and what is wrong with it.

    Returns:
        Exit status: 0 without errors, else 1.

    Raises:
        CrossmodaError: there is nothing to check.
    """
    report = check_dataset(dataset)
    print(describe(report))
    return 1 if report.errors else 0


def require_writable(folder: str | Path, need_bytes: int = 0) -> None:
    """Make sure, before any work, that files can be written into a folder and that the disk has room.

    The folder itself is not made: its nearest existing parent is tried with a temporary file that leaves no trace.

    Args:
        folder: where output will go; need not exist.
        need_bytes: free space wanted, in bytes.

    Raises:
        CrossmodaError: the folder is or lies in a file, cannot be written to, or the disk has too little space.
    """
    folder = Path(folder).absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir():
        raise CrossmodaError(f"{folder}: {nearest} is a file, not a folder; choose another output folder")
    try:
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=".writable-") as probe:
            probe.write(b"0" * 4096)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise CrossmodaError(
            f"{folder}: cannot be written to ({error.strerror or error}); choose another folder or free space"
        ) from error
    free = shutil.disk_usage(nearest).free
    if free < need_bytes:
        sizes = f"{need_bytes / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free"
        raise CrossmodaError(f"{folder}: the disk is too full, {sizes}; free space or choose another disk")
