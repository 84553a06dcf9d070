"""A check's report as text for people."""

from __future__ import annotations

import numpy as np

from crossmoda.data.datalist import SECTIONS
from crossmoda.data.findings import Report, Scan
from crossmoda.data.layouts import PLAIN
from crossmoda.data.volumes import spacing_mm


def describe(report: Report) -> str:
    """Return a short table of what was found, and the problems, errors first, one line each."""
    lines = [f"{report.path}: {'plain folder' if report.edition == PLAIN else 'crossMoDA ' + report.edition}", ""]
    rows: list[tuple[str, ...]] = [("section", "site", "cases", "voxels", "spacing (mm)")]
    for section in SECTIONS:
        for site in sorted({scan.site for scan in report.scans if scan.section == section}):
            rows.append(_row(section, site, [s for s in report.scans if (s.section, s.site) == (section, site)]))
    lines += _table(rows)
    lines += ["", *_table([("label", "number", "in", "cases", "volume (mL)"), *_label_rows(report)])]
    warnings = len(report.problems) - len(report.errors)
    lines += ["", f"{_count(len(report.errors), 'error')}, {_count(warnings, 'warning')}"]
    return "\n".join([*lines, *(f"{problem.severity}: {problem}" for problem in report.problems)])


def _row(section: str, site: str, scans: list[Scan]) -> tuple[str, ...]:
    grids = [scan.grid for scan in scans if scan.grid is not None]
    return (
        section,
        site,
        str(len(scans)),
        _spread(np.array([grid.shape for grid in grids]), "{:g}"),
        _spread(np.array([spacing_mm(grid.affine) for grid in grids]), "{:.2f}"),
    )


def _spread(values: np.ndarray, style: str) -> str:
    """Return ``0.41-0.80 x 0.41-0.80 x 1.00-1.50`` for (N, 3) values."""
    if not len(values):
        return "-"
    ends = [(style.format(low), style.format(high)) for low, high in zip(values.min(0), values.max(0), strict=True)]
    return " x ".join(low if low == high else f"{low}-{high}" for low, high in ends)


def _label_rows(report: Report) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for section in (*SECTIONS, "truth"):
        volumes = [
            scan.volumes_mm3 for scan in report.scans if scan.section == section and scan.volumes_mm3 is not None
        ]
        for name, number in report.labels.items():
            sizes = [found[number] / 1000 for found in volumes if number in found]
            if sizes:
                text = f"{min(sizes):.2f}-{max(sizes):.2f}, median {np.median(sizes):.2f}"
                rows.append((name, str(number), section, str(len(sizes)), text))
    return rows


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
