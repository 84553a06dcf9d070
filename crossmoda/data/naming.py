"""What a scan's file name says: its case, modality, site, and whether it is a label."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from crossmoda.errors import CrossmodaError

EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")  # formats that the project reads
LABEL_SUFFIX = "_Label.nii.gz"  # after the case id: how the challenge names label maps, and how the project writes them

SOURCE_WORDS = frozenset({"cet1", "t1", "t1c", "t1ce", "t1gd", "t1w", "cet1w"})
TARGET_WORDS = frozenset({"hrt2", "t2", "t2w", "hrt2w"})
LABEL_WORDS = frozenset({"label", "labels", "seg", "mask"})
OTHER_WORDS = frozenset({"uncertainty"})

SITES = ("ldn", "etz", "ukm")  # London, Tilburg, UK multi-centre
UNKNOWN_SITE = "unknown"

# The first word of a case id, and the editions that use it: 2022 took London's scans of 2021 over with their names.
EDITIONS_OF_PREFIX = {
    "crossmoda2021": ("2021", "2022"),
    "crossmoda2022": ("2022",),
    "crossmoda2023": ("2023",),
}

_SEPARATORS = re.compile(r"[_\-. ]")


def extension_of(path: str | Path) -> str | None:
    """Return a readable volume's extension (``.nii.gz``, ``.nii``, ``.nrrd``, ``.mha``), or None for any other file."""
    name = Path(path).name.lower()
    return next((extension for extension in EXTENSIONS if name.endswith(extension)), None)


def stem_of(path: str | Path) -> str:
    """Return the file name without its volume extension; ``case.3.v1.nii.gz`` gives ``case.3.v1``."""
    name = Path(path).name
    return name[: len(name) - len(extension_of(name) or "")]


def case_name(path: str | Path) -> str:
    """Return the case id: the file name without extension and without modality and label suffixes.

    ``crossmoda2021_ldn_106_hrT2.nii.gz`` gives ``crossmoda2021_ldn_106``, as ``crossmoda2021_ldn_106_Label.nii`` does.
    """
    name = stem_of(path)
    while (split := _last_separator(name)) > 0 and _is_suffix(name[split + 1 :]):
        name = name[:split]
    return name


def is_label(path: str | Path) -> bool:
    """Tell whether the name ends in a label's suffix (``_Label``, ``_seg``), whatever the case of its letters."""
    return _words(path)[-1] in LABEL_WORDS


def modality_of(path: str | Path) -> str | None:
    """Return ``source`` (ceT1), ``target`` (hrT2) or None by the last modality word in the name."""
    for word in reversed(_words(path)):
        if word in SOURCE_WORDS:
            return "source"
        if word in TARGET_WORDS:
            return "target"
    return None


def site_of(path: str | Path) -> str:
    """Return the site (``ldn``, ``etz``, ``ukm``) that a challenge file name carries, else ``unknown``."""
    return next((word for word in _words(path) if word in SITES), UNKNOWN_SITE)


def editions_of(path: str | Path) -> tuple[str, ...]:
    """Return the editions of the challenge that a case id or file name belongs to; none for other people's names.

    ``crossmoda2021_ldn_211`` is in 2021 and in 2022, ``crossmoda2022_etz_210`` in 2022 alone.
    """
    return EDITIONS_OF_PREFIX.get(_words(path)[0], ())


def common_editions(cases: Iterable[str], where: str | Path) -> tuple[str, ...]:
    """Return the editions to which all of some cases belong; names that the challenge did not give do not count.

    Args:
        cases: their ids or file names.
        where: their folder, for the error.

    Raises:
        CrossmodaError: cases of several editions.
    """
    common: tuple[str, ...] = ()
    first = ""
    for case in cases:
        found = editions_of(case)
        if not found:
            continue
        shared = tuple(edition for edition in common if edition in found) if common else found
        if not shared:
            of = f"{first} ({' or '.join(common)}) and {case} ({' or '.join(found)})"
            raise CrossmodaError(
                f"{where}: holds cases of several editions, {of}, whose label values may mean other structures; give "
                "each edition a folder"
            )
        first = case if shared != common else first
        common = shared
    return common


def require_edition(cases: Iterable[str], where: str | Path, edition: str | None = None) -> tuple[str, ...]:
    """Make sure that some cases are of one edition, that of their folders, and return ``common_editions``.

    Args:
        cases: their ids or file names.
        where: their folder, for the error.
        edition: that the names of the folders tell; None where they tell none.

    Raises:
        CrossmodaError: cases of several editions, or of another one than their folders.
    """
    cases = sorted(cases)
    found = common_editions(cases, where)
    if edition is not None and found and edition not in found:
        strange = next(case for case in cases if editions_of(case) and edition not in editions_of(case))
        raise CrossmodaError(
            f"{where}: laid out as {edition}, but {strange} is a case of {' or '.join(editions_of(strange))}, whose "
            "label values may mean other structures; give each edition a folder"
        )
    return found


def volume_files(folder: str | Path) -> list[Path]:
    """Return the readable volumes directly inside a folder, sorted by name; hidden (unfinished) files are left out."""
    files = (p for p in Path(folder).iterdir() if p.is_file() and not p.name.startswith("."))
    return sorted(p for p in files if extension_of(p))


def _words(path: str | Path) -> list[str]:
    return _SEPARATORS.split(stem_of(path).lower())


def _last_separator(name: str) -> int:
    return max(name.rfind(mark) for mark in "_-. ")


def _is_suffix(word: str) -> bool:
    return word.lower() in SOURCE_WORDS | TARGET_WORDS | LABEL_WORDS | OTHER_WORDS
