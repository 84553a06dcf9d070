"""Folders as people have them, the challenge's three editions or plain folders of scans, read into one ``Dataset``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crossmoda.data.naming import case_name, is_label, modality_of, require_edition, site_of, stem_of, volume_files
from crossmoda.data.parts import number_parts
from crossmoda.errors import CrossmodaError
from crossmoda.labels import EDITION_LABELS, EXTRA

PLAIN = "plain"
TRUTH_FOLDER = "truth"  # labels of target scans, for evaluation alone


@dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
        case: id, unique within a section.
        site: ``ldn``, ``etz``, ``ukm`` or ``unknown``.
        image: the scan's file.
        label: its label's file where training may use it.
    """

    case: str
    site: str
    image: Path
    label: Path | None = None


@dataclass(frozen=True)
class Dataset:
    """What a folder holds.

    Attributes:
        root: the folder.
        edition: ``2021``, ``2022``, ``2023`` or ``plain``.
        labels: ``name -> number`` in the label files.
        source: ceT1 scans with their labels.
        target: hrT2 scans for training, without labels.
        validation: hrT2 scans kept apart; labels only where a plain folder gives them.
        truth: ``case -> label file`` of target and validation scans; evaluation may read it, training never.
        orphans: label files without a scan.
    """

    root: Path
    edition: str
    labels: dict[str, int]
    source: list[Case]
    target: list[Case]
    validation: list[Case]
    truth: dict[str, Path]
    orphans: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class _Layout:
    """How an edition's archives call the folders of its sections (crossmoda.md 1.2).

    Attributes:
        edition: the challenge's year.
        training: holds source and target, where the archive was unpacked with its top folder.
        source: the ceT1 scans and labels.
        target: the hrT2 scans for training.
        validation: names of the validation scans' folder that belong to this edition alone.
    """

    edition: str
    training: str
    source: str
    target: str
    validation: tuple[str, ...]

    @property
    def names(self) -> set[str]:
        """All names by which the edition is known."""
        return {self.training, self.source, self.target, *self.validation}


_LAYOUTS = (
    _Layout(
        "2021",
        "crossmoda_training",
        "source_training",
        "target_training",
        ("target_validation", "crossmoda_validation", "crossmoda2021_validation"),
    ),
    _Layout("2022", "crossmoda2022_training", "training_source", "training_target", ("crossmoda2022_validation",)),
    _Layout(
        "2023",
        "crossmoda23_training",
        "TrainingSource",
        "TrainingTarget",
        ("crossmoda23_validation", "crossmoda2023_validation"),
    ),
)
_VALIDATION = ("validation", "validation_target", "ValidationTarget")  # of any edition, as people call it themselves
_DEPTH = 3  # DATA/<made for the archive>/<the archive's own top folder>/<section>


def read_dataset(path: str | Path) -> Dataset:
    """Find out which layout a folder has and list its scans; voxels are read only to number 2023's tumour parts.

    Accepted are the challenge's archives of 2021, 2022 and 2023, unpacked side by side into the folder, each with its
    top folder, in a folder made for it or without any, the training archive's own folder, and a plain folder: scans
    directly inside, told apart by names (ceT1, T1 / hrT2, T2; ``_Label``, ``_seg``), or in sub-folders ``source``,
    ``target``, ``validation``. Scans whose names tell no modality are targets. A target's label always goes to
    ``truth``, so that nobody trains on it by mistake.

    Raises:
        CrossmodaError: no such folder, no scans in it, several editions in it, or 2023 labels that cannot be explained.
    """
    path = Path(path)
    if not path.is_dir():
        raise CrossmodaError(f"{path}: no such dataset folder; give the folder that holds the scans")
    path = path.resolve()
    for layout in _LAYOUTS:
        if path.name == layout.training:
            beside = [folder for folder in _folders(path.parent, depth=2) if folder.name in layout.validation]
            return _read_edition(path.parent, layout, list(dict.fromkeys([*_folders(path), *beside])))
    folders = _folders(path)
    found = {layout: folder for layout in _LAYOUTS for folder in reversed(folders) if folder.name in layout.names}
    if len(found) > 1:
        told = ", ".join(f"{layout.edition} in {folder.relative_to(path)}" for layout, folder in found.items())
        raise CrossmodaError(f"{path}: holds several editions ({told}); put each into a folder of its own")
    return _read_edition(path, next(iter(found)), folders) if found else _read_plain(path)


def _folders(root: Path, depth: int = _DEPTH) -> list[Path]:
    """Return the folders below a folder, down to a depth, each before those in it; hidden ones are left out."""
    inside = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")) if depth else []
    return [folder for child in inside for folder in (child, *_folders(child, depth - 1))]


def _read_edition(root: Path, layout: _Layout, folders: Sequence[Path]) -> Dataset:
    sections = [folder for folder in folders if folder.name in (layout.source, layout.target)]
    source, orphans = _cases(_files_of(folders, [layout.source]))
    target, target_orphans = _cases(_files_of(folders, [layout.target]))
    files = _files_of(folders, [*layout.validation, *_VALIDATION])
    validation, validation_orphans = _cases(files or _loose([root, *(folder.parent for folder in sections)]))
    cases = [*source, *target, *validation]
    if not cases:
        raise CrossmodaError(
            f"{root}: no scans in its {layout.edition} folders; unpack the challenge's archives into it"
        )
    require_edition((case.image.name for case in cases), root, layout.edition)
    truth = _truth(root) | _labels_of([*target, *validation])
    return Dataset(
        root,
        layout.edition,
        _numbered(layout.edition, source),
        source,
        _without_labels(target),
        _without_labels(validation),
        truth,
        [*orphans, *target_orphans, *validation_orphans],
    )


def _files_of(folders: Iterable[Path], names: Sequence[str]) -> list[Path]:
    return [file for folder in folders if folder.name in names for file in volume_files(folder)]


def _loose(folders: Iterable[Path]) -> list[Path]:
    """Return the hrT2 scans beside the sections' folders: a validation archive unpacked without a folder of its own."""
    files = [file for folder in dict.fromkeys(folders) for file in volume_files(folder)]
    return [file for file in files if modality_of(file) == "target"]


def _numbered(edition: str, source: Iterable[Case]) -> dict[str, int]:
    """Return the edition's ``name -> number``, the tumour's parts as the labels on disk say."""
    labels = EDITION_LABELS[edition]
    return number_parts([case.label for case in source if case.label], labels) if EXTRA in labels else dict(labels)


def _read_plain(root: Path) -> Dataset:
    folders = [root / name for name in ("source", "target", "validation")]
    if any(folder.is_dir() for folder in folders):
        (source, orphans), (target, more), (validation, most) = (_cases(_files(folder)) for folder in folders)
        orphans = [*orphans, *more, *most]
    else:
        source, target, orphans = _by_modality(volume_files(root))
        validation = []
    cases = [*source, *target, *validation]
    if not cases:
        archive = next((file.name for file in sorted(root.glob("*.zip"))), None)
        raise CrossmodaError(
            f"{root}: holds {archive}, which is an archive; unpack it there"
            if archive
            else f"{root}: no scans found; give a crossMoDA folder, or one with .nii, .nii.gz, .nrrd or .mha files or "
            "with sub-folders source, target and validation"
        )
    editions = require_edition((case.image.name for case in cases), root)
    truth = _truth(root) | _labels_of([*target, *validation])
    labels = _numbered([*editions, "2022"][0], source)
    return Dataset(root, PLAIN, labels, source, _without_labels(target), validation, truth, orphans)


def _by_modality(files: list[Path]) -> tuple[list[Case], list[Case], list[Path]]:
    """Split a flat folder's files into source cases, target cases and labels without a scan."""
    images = [file for file in files if not is_label(file)]
    source_images = [file for file in images if modality_of(file) == "source"]
    target_images = [file for file in images if modality_of(file) != "source"]
    labels = [file for file in files if is_label(file)]
    target_labels = [file for file in labels if modality_of(file) == "target" or not _fits(file, source_images)]
    source, orphans = _cases([*source_images, *(file for file in labels if file not in target_labels)])
    target, more = _cases([*target_images, *target_labels])
    return source, target, [*orphans, *more]


def _fits(label: Path, images: list[Path]) -> bool:
    return any(case_name(image) == case_name(label) for image in images)


def _cases(files: Iterable[Path]) -> tuple[list[Case], list[Path]]:
    """Pair images with labels of the same case; return the cases and the labels that are left over."""
    files = list(files)
    labels: dict[str, Path] = {}
    spare: list[Path] = []
    for file in filter(is_label, files):
        if labels.setdefault(case_name(file), file) != file:
            spare.append(file)
    images = [file for file in files if not is_label(file)]
    cases = [Case(case_name(image), site_of(image), image, labels.get(case_name(image))) for image in images]
    known = {case.case for case in cases}
    return cases, [*(file for case, file in labels.items() if case not in known), *spare]


def _files(folder: Path) -> list[Path]:
    return volume_files(folder) if folder.is_dir() else []


def _truth(root: Path) -> dict[str, Path]:
    return {
        case_name(file): file
        for file in _files(root / TRUTH_FOLDER)
        if is_label(file) or case_name(file) == stem_of(file)
    }


def _labels_of(cases: Iterable[Case]) -> dict[str, Path]:
    return {case.case: case.label for case in cases if case.label}


def _without_labels(cases: Iterable[Case]) -> list[Case]:
    return [Case(case.case, case.site, case.image) for case in cases]
