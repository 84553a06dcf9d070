"""What ``python -m crossmoda`` runs to evaluate, compare, rank, submit and report: files in, a table out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import evaluate_folder
from crossmoda.evaluation.compare import compare_metrics
from crossmoda.evaluation.label_sets import labels_of_predictions, labels_of_truth
from crossmoda.evaluation.metrics import HIGHER_IS_BETTER
from crossmoda.evaluation.ranking import rank_systems
from crossmoda.evaluation.ranking_table import ranking_table
from crossmoda.evaluation.report import write_report
from crossmoda.evaluation.submission import write_submission
from crossmoda.files import read_json, sha256_of, write_json

UNITS = {"dice": "", "assd": " mm", "hd95": " mm"}
DECIMALS = {"dice": 3, "assd": 2, "hd95": 2}
METRIC_NAMES = {"dice": "Dice", "assd": "ASSD", "hd95": "HD95"}


def evaluate_command(
    predictions: str | Path,
    truth: str | Path,
    output: str | Path = "metrics.json",
    structures: str | tuple[str, ...] = "",
    edition: str = "",
) -> int:
    """Score a folder of predictions against a folder of truth, print tables and write ``metrics.json``.

    Args:
        predictions: folder of ``<case>_Label.nii.gz`` (or ``<case>.nii.gz``).
        truth: folder of the truth, e.g. ``DATASET/truth``; only its cases count.
        output: the JSON file to write.
        structures: what the predictions' values 1, 2, ... mean, e.g. ``vs,cochlea``; by default what the run folder
            around the predictions says, else the same as the truth's.
        edition: of the truth's labels (2021, 2022, 2023); by default told from the case ids.

    Returns:
        0; failures raise.

    Raises:
        CrossmodaError: unusable folders, grids that differ, labels that do not fit.
    """
    truth_labels = labels_of_truth(truth, str(edition))
    prediction_labels = labels_of_predictions(predictions, structures, truth_labels)
    metrics = evaluate_folder(predictions, truth, prediction_labels, truth_labels)
    write_json(output, metrics)
    print(f"{cases_table(metrics)}\n\n{metrics_table(metrics)}")
    print(f"written: {output}")
    return 0


def compare_command(a: str | Path, b: str | Path, seed: int = 0) -> int:
    """Compare two ``metrics.json`` on their common cases with paired tests and print the table.

    Args:
        a: evaluation A.
        b: evaluation B; differences are B minus A.
        seed: of the bootstrap.

    Returns:
        0; failures raise.

    Raises:
        CrossmodaError: a file cannot be read, or the two have fewer than two cases in common.
    """
    first, second = read_json(a), read_json(b)
    for path, content in ((a, first), (b, second)):
        if not isinstance(content, dict) or "cases" not in content:
            raise CrossmodaError(f"{path}: holds no list of cases; give a metrics.json")
    print(f"A = {a}\nB = {b}")
    print(comparison_table(compare_metrics(first, second, seed=seed)))
    return 0


def rank_command(systems: Sequence[str], output: str | Path = "ranking.json", edition: str = "", seed: int = 0) -> int:
    """Rank several systems as the challenge does, print the tables as Markdown and write ``ranking.json``.

    Args:
        systems: ``NAME=metrics.json`` each, or the folder that holds it; without ``NAME=`` the folder's name counts.
        output: the JSON file to write.
        edition: whose criteria count (2021, 2022, 2023); by default 2023 where all systems tell the tumour's parts.
        seed: of the bootstrap.

    Returns:
        0; failures raise.

    Raises:
        CrossmodaError: a file cannot be read, a name is given twice, or the systems were scored on different cases.
    """
    files: dict[str, Path] = {}
    for system in map(str, systems):
        name, path = _named_metrics(system)
        if name in files:
            raise CrossmodaError(f"{system}: a system named '{name}' is already there; give each a NAME= of its own")
        files[name] = path
    ranking = rank_systems({name: read_json(path) for name, path in files.items()}, edition, seed)
    for system in ranking["systems"]:
        path = files[system["name"]]
        system |= {"file": str(path), "sha256": sha256_of(path)}
    write_json(output, ranking)
    print(ranking_table(ranking))
    print(f"\nwritten: {output}")
    return 0


def _named_metrics(system: str) -> tuple[str, Path]:
    name, separator, rest = system.partition("=")
    if not separator or Path(system).exists():
        name, rest = "", system
    path = Path(rest) / "metrics.json" if Path(rest).is_dir() else Path(rest)
    named = path.parent if path.name == "metrics.json" else path.with_suffix("")
    return name or named.resolve().name, path


def submit_command(
    predictions: str | Path,
    dataset: str | Path,
    output: str | Path = "submission",
    edition: str = "",
    structures: str | Sequence[str] = "",
) -> int:
    """Write a submission as ``write_submission`` does, and print what is in it.

    Returns:
        0; failures raise.

    Raises:
        CrossmodaError: anything that ``write_submission`` refuses.
    """
    manifest = write_submission(predictions, dataset, output, edition, structures)
    numbers = ", ".join(f"{number} {structure}" for structure, number in manifest["labels"].items())
    print(f"crossMoDA {manifest['edition']}: {len(manifest['cases'])} label maps ({numbers})")
    if manifest["left_out"]:
        print(f"left out: {manifest['left_out']} predictions of training scans")
    print(f"written: {Path(output) / manifest['folder']}")
    if manifest["archive"]:
        print(f"written: {Path(output) / manifest['archive']['file']}")
    return 0


def cases_table(metrics: dict[str, Any]) -> str:
    """Return every case of a ``metrics.json`` as text: a row each, distances in mm, the sites together."""
    structures = list(metrics["structures"])
    measured = {s: [metric for metric in METRIC_NAMES if metric in metrics["structures"][s]] for s in structures}
    columns = [(structure, metric) for structure, metrics_of in measured.items() for metric in metrics_of]
    titles = [f"{s} {METRIC_NAMES[m]}" if m == measured[s][0] else METRIC_NAMES[m] for s, m in columns]
    rows = [["case", "site", *titles, ""]]
    for case in sorted(metrics["cases"], key=lambda case: (case["site"], case["case"])):
        values = [f"{case[structure][metric]:.{DECIMALS[metric]}f}" for structure, metric in columns]
        rows.append([case["case"], case["site"], *values, "no prediction" if case.get("missing") else ""])
    return _aligned(rows)


def metrics_table(metrics: dict[str, Any]) -> str:
    """Return the summary of a ``metrics.json`` as text: a row per structure, metric and site, all cases first."""
    rows = [["structure", "metric", "cases", "n", "mean ± sd", "median", "worst"]]
    groups = {"all": metrics["structures"], **(metrics["sites"] if len(metrics["sites"]) > 1 else {})}
    for structure in metrics["structures"]:
        for metric, name in METRIC_NAMES.items():
            for group, summary in groups.items():
                found = summary.get(structure, {}).get(metric)
                if found:
                    rows.append([structure, name, group, *_summary_cells(found, metric)])
    table = _aligned(rows)
    missing = metrics.get("missing", [])
    return table + (f"\nno prediction (counted as empty): {', '.join(missing)}" if missing else "")


def _summary_cells(found: dict[str, float], metric: str) -> list[str]:
    unit = UNITS[metric]
    worst = found["min"] if HIGHER_IS_BETTER[metric] else found["max"]
    mean = f"{found['mean']:.3f} ± {found['std']:.3f}{unit}"
    return [str(found["n"]), mean, f"{found['median']:.3f}", f"{worst:.3f}"]


def comparison_table(comparison: dict[str, Any]) -> str:
    """Return the result of ``compare_metrics`` as text, with a note on the tests."""
    rows = [["structure", "metric", "A", "B", "B - A", "95 % interval", "p (t)", "p (Wilcoxon)", "p (Holm)", "better"]]
    for row in comparison["rows"]:
        numbers = [f"{row['mean_a']:.3f}", f"{row['mean_b']:.3f}", f"{row['difference']:+.3f}"]
        interval = f"{row['low']:+.3f} .. {row['high']:+.3f}"
        tests = [f"{row[key]:.4f}" for key in ("p_t", "p_wilcoxon", "p_holm")]
        rows.append([row["structure"], METRIC_NAMES[row["metric"]], *numbers, interval, *tests, _better(row)])
    notes = [
        f"{len(comparison['cases'])} cases in common; distances in mm; 'better' names a side where p (Holm) < 0.05"
    ]
    for side in ("a", "b"):
        if comparison[f"only_{side}"]:
            notes.append(f"only in {side.upper()}, left out: {', '.join(comparison[f'only_{side}'])}")
    return "\n".join([_aligned(rows), *notes])


def _better(row: dict[str, Any]) -> str:
    if row["p_holm"] >= 0.05:
        return "-"
    return "B" if (row["difference"] > 0) == HIGHER_IS_BETTER[row["metric"]] else "A"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def report_command(run: str | Path) -> int:
    """Write ``RUN/report.html`` and print where it lies.

    Args:
        run: the run folder.

    Returns:
        0; failures raise.

    Raises:
        CrossmodaError: the folder holds no run, or a file in it cannot be read.
    """
    print(f"written: {write_report(run)}")
    return 0
