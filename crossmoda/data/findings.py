"""What a check of a dataset can find: problems, and what the scans are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from crossmoda.data.parts import Volumes
from crossmoda.data.volumes import Grid

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file or section.

    Attributes:
        path: the file (or folder) at fault.
        message: what is wrong and the remedy, in one line, without the path.
        severity: ``error`` (training would fail or learn nonsense) or ``warning``.
        section: ``source``, ``target``, ``validation``, ``truth``, or empty where it concerns the whole.
    """

    path: Path
    message: str
    severity: str = ERROR
    section: str = ""

    def __str__(self) -> str:
        """Return the line that people read."""
        return f"{self.path}: {self.message}"


@dataclass(frozen=True)
class Scan:
    """What a check found in one case's files.

    Attributes:
        section: where the case belongs.
        site: site of the scan.
        grid: its image's grid; None where the image cannot be read.
        volumes_mm3: ``value -> mm3`` of its label; None without a readable label.
    """

    section: str
    site: str
    grid: Grid | None
    volumes_mm3: Volumes | None


@dataclass(frozen=True)
class Report:
    """The outcome of a check.

    Attributes:
        path: what was checked.
        edition: of the dataset.
        labels: ``name -> number`` on disk.
        scans: what was found, per case.
        problems: errors first.
    """

    path: Path
    edition: str
    labels: dict[str, int]
    scans: list[Scan] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop training."""
        return [problem for problem in self.problems if problem.severity == ERROR]
