"""Folders as people have them, the challenge's three editions or plain folders of scans, read into one ``Dataset``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from crossmoda.data.naming import case_name, is_label, modality_of, site_of, stem_of, volume_files
from crossmoda.data.parts import number_parts
from crossmoda.errors import CrossmodaError
from crossmoda.labels import EDITION_LABELS

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
    """Where an edition keeps its sections, relative to the dataset's folder (crossmoda.md 1.2)."""

    edition: str
    training: str
    source: str
    target: str
    validation: tuple[str, ...]  # unpacked differently by different people; the first that exists counts


_LAYOUTS = (
    _Layout(
        "2021",
        "crossmoda_training",
        "source_training",
        "target_training",
        (
            "crossmoda_training/target_validation",
            "target_validation",
            "crossmoda_validation/target_validation",
            "crossmoda_validation",
        ),
    ),
    _Layout(
        "2022",
        "crossmoda2022_training",
        "training_source",
        "training_target",
        ("crossmoda2022_validation",),
    ),
    _Layout(
        "2023",
        "crossmoda23_training",
        "TrainingSource",
        "TrainingTarget",
        ("crossmoda23_validation",),
    ),
)


def read_dataset(path: str | Path) -> Dataset:
    """Find out which layout a folder has and list its scans; voxels are read only to number 2023's tumour parts.

    Accepted are the challenge's folders of 2021, 2022 and 2023 (the folder that holds them, or the training folder
    itself) and a plain folder: scans directly inside, told apart by names (ceT1, T1 / hrT2, T2; ``_Label``, ``_seg``),
    or in sub-folders ``source``, ``target``, ``validation``. Scans whose names tell no modality are targets. A target's
    label always goes to ``truth``, so that nobody trains on it by mistake.

    Raises:
        CrossmodaError: no such folder, no scans in it, several editions in it, or 2023 labels that cannot be explained.
    """
    path = Path(path)
    if not path.is_dir():
        raise CrossmodaError(f"{path}: no such dataset folder; give the folder that holds the scans")
    path = path.resolve()
    layouts = [layout for layout in _LAYOUTS if _holds(path, layout)]
    if len(layouts) > 1:
        found = ", ".join(layout.edition for layout in layouts)
        raise CrossmodaError(f"{path}: holds several editions ({found}); put each into a folder of its own")
    if layouts:
        return _read_edition(path, layouts[0])
    for layout in _LAYOUTS:
        if path.name == layout.training:
            return _read_edition(path.parent, layout)
    return _read_plain(path)


def _holds(root: Path, layout: _Layout) -> bool:
    return any((root / folder).is_dir() for folder in (layout.training, *layout.validation))


def _read_edition(root: Path, layout: _Layout) -> Dataset:
    source, orphans = _cases(_files(root / layout.training / layout.source))
    target, target_orphans = _cases(_files(root / layout.training / layout.target))
    folders = [root / folder for folder in layout.validation]
    validation, validation_orphans = _cases(next((files for files in map(_files, folders) if files), []))
    if not source and not target and not validation:
        raise CrossmodaError(
            f"{root}: no scans in its {layout.edition} folders; unpack the challenge's archives into it"
        )
    truth = _truth(root) | _labels_of([*target, *validation])
    labels = EDITION_LABELS[layout.edition]
    if "extra" in labels:
        labels = number_parts([case.label for case in source if case.label], labels)
    return Dataset(
        root,
        layout.edition,
        dict(labels),
        source,
        _without_labels(target),
        _without_labels(validation),
        truth,
        [*orphans, *target_orphans, *validation_orphans],
    )


def _read_plain(root: Path) -> Dataset:
    folders = [root / name for name in ("source", "target", "validation")]
    if any(folder.is_dir() for folder in folders):
        (source, orphans), (target, more), (validation, most) = (_cases(_files(folder)) for folder in folders)
        orphans = [*orphans, *more, *most]
    else:
        source, target, orphans = _by_modality(volume_files(root))
        validation = []
    if not source and not target and not validation:
        raise CrossmodaError(
            f"{root}: no scans found; give a crossMoDA folder, or one with .nii, .nii.gz, .nrrd or .mha files or with "
            "sub-folders source, target and validation"
        )
    edition = "2023" if any(c.case.startswith("crossmoda2023_") for c in [*source, *target, *validation]) else "2022"
    labels = EDITION_LABELS[edition]
    if "extra" in labels:
        labels = number_parts([case.label for case in source if case.label], labels)
    truth = _truth(root) | _labels_of([*target, *validation])
    return Dataset(root, PLAIN, dict(labels), source, _without_labels(target), validation, truth, orphans)


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
