"""Build ``RUN/report.html``: gather what the run holds, draw it, and fill the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from crossmoda.durations import duration_text
from crossmoda.engines.weights import is_given
from crossmoda.evaluation.comparison import (
    FIRST_WEIGHTS,
    STAGE_NAMES,
    STAGES,
    lost,
    recovered,
    stage_files,
    stage_texts,
)
from crossmoda.evaluation.metrics import BOUNDARY, METRICS
from crossmoda.evaluation.report.blending import blended_views
from crossmoda.evaluation.report.charts import calibration_chart, learning_chart, round_chart, stage_chart
from crossmoda.evaluation.report.panels import KINDS
from crossmoda.evaluation.report.pictures import (
    Card,
    Strip,
    case_strips,
    mean_dice,
    ranked_cases,
    source_strips,
    uncertainty_cards,
)
from crossmoda.evaluation.report.provenance import configuration, facts, step_times
from crossmoda.evaluation.report.run_folder import RunFolder
from crossmoda.evaluation.report.selection import EFFECTS, selections
from crossmoda.files import read_json, write_text
from crossmoda.labels import COLOURS, FULL_NAMES, STRUCTURES

SITE_NAMES = {"ldn": "London (ldn)", "etz": "Tilburg (etz)", "ukm": "UK multi-centre (ukm)"}
STATUS_NAMES = {"pseudo": "pseudo-label", "approved": "approved", "corrected": "corrected", "flagged": "flagged"}
SECTIONS = {
    "figures": "Figures",
    "translation": "Translation",
    "cases": "Cases",
    "learning": "Learning",
    "rounds": "Rounds",
    "tables": "Tables",
    "selection": "Selection",
    "uncertainty": "Uncertainty",
    "provenance": "Provenance",
}
METRIC_TITLES = {"dice": "Dice", "assd": "ASSD [mm]", "hd95": "HD95 [mm]"}


def write_report(run: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of a run and return where it lies.

    The page is one file without outside references. What the run does not hold (anchors, truth, further rounds) is left
    out, and its end says what and why. The same run gives the same bytes.

    Args:
        run: the run folder.
        output: the page to write; ``report.html`` in the run folder by default.

    Raises:
        CrossmodaError: the folder holds no run, or a file in it cannot be read.
    """
    folder = RunFolder(run)
    environment = Environment(
        loader=PackageLoader("crossmoda.evaluation.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
    )
    environment.filters |= {"millilitres": lambda mm3: f"{mm3 / 1000:.2f}", "duration": duration_text}
    content = _content(folder)
    page = environment.get_template("template.html").render(**content, sections=SECTIONS, absent=_absent(content))
    path = Path(output) if output else folder.path / "report.html"
    write_text(path, page.lstrip())
    return path


def _content(run: RunFolder) -> dict[str, Any]:
    """Return everything that the template shows."""
    stages = {stage: read_json(path) for stage, path in stage_files(run.path).items()}
    comparison = {stage: metrics["structures"] for stage, metrics in stages.items()}
    scored = [name for name in STRUCTURES if run.metrics and name in run.metrics["structures"]]
    stage_names, stage_meanings = stage_texts(run.path)
    steps = step_times(run)
    return {
        "title": run.path.resolve().name,
        "round": run.current.get("round", 0),
        "structures": run.structures,
        "scored": scored,
        "boundary": (run.metrics or {}).get("structures", {}).get(BOUNDARY),
        "names": FULL_NAMES,
        "colours": COLOURS,
        "kinds": KINDS,
        "kinds_in": _kinds_in,
        "metrics": run.metrics,
        "metric_titles": METRIC_TITLES,
        "stages": [stage for stage in STAGES if stage in comparison],
        "given_weights": is_given(run.path / FIRST_WEIGHTS),
        "stage_names": stage_names,
        "stage_meanings": stage_meanings,
        "comparison": comparison,
        "recovered": recovered(comparison),
        "lost": lost(comparison),
        "counts": {name: len(run.dataset.get(name, [])) for name in ("source", "target", "validation")},
        "views": run.views,
        "stage_chart": stage_chart(comparison, {s: m["cases"] for s, m in stages.items()}, scored, stage_names)
        if len(stages) > 1 and scored
        else "",
        "round_chart": round_chart(run.rounds, comparison, scored) if len(run.rounds) > 1 and scored else "",
        "learning": _learning_charts(run),
        "source_strips": source_strips(run),
        "blended": blended_views(run),
        "case_strips": case_strips(run),
        "sites": _site_rows(run, scored),
        "site_names": SITE_NAMES,
        "cases": _case_rows(run, scored),
        "selections": selections(run),
        "effects": EFFECTS,
        "cards": uncertainty_cards(run),
        "calibration": run.calibration,
        "calibration_chart": calibration_chart(run.calibration) if run.calibration else "",
        "status_names": STATUS_NAMES,
        "facts": facts(run),
        "configuration": configuration(run),
        "steps": steps,
        "total_seconds": sum(step.seconds for step in steps),
        "longest_seconds": max([step.seconds for step in steps], default=0.0),
    }


def _absent(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the sections that would hold nothing, each with the reason."""
    scored = bool(content["scored"])
    unscored = "no round has been scored: no truth of hrT2 scans is known, or the run is not finished"
    held = {
        "figures": (scored, unscored),
        "translation": (
            content["source_strips"] or content["blended"],
            "no translated source scan is at hand; the dataset has moved, or nothing has been translated",
        ),
        "cases": (content["case_strips"], "no hrT2 scan with a prediction is at hand"),
        "learning": (content["learning"], "no model has kept a history"),
        "rounds": (content["round_chart"], "only one round has been scored" if scored else unscored),
        "tables": (content["sites"], unscored),
        "selection": (content["selections"], "no round has learnt from real scans yet"),
        "uncertainty": (content["cards"], "no uncertainty has been estimated yet"),
    }
    return {section: why for section, (found, why) in held.items() if not found}


def _kinds_in(pictures: Sequence[Strip | Card]) -> list[str]:
    """Return the kinds of outline that appear in some pictures, for their legend."""
    drawn = {outline.kind for picture in pictures for panel in picture.panels for outline in panel.outlines}
    return [kind for kind in KINDS if kind in drawn]


def _learning_charts(run: RunFolder) -> list[dict[str, str]]:
    """Return the charts of every model that kept a history: translators, the segmenter of each round, the anchors."""
    folders = [*run.round_folders, *sorted((run.path / "anchors").glob("*"))]
    charts = []
    for history in (path for folder in folders for path in sorted(folder.glob("*/history.json"))):
        name = _model_name(history.parent.relative_to(run.path))
        svg = learning_chart(name, read_json(history))
        if svg:
            charts.append({"name": name, "svg": svg})
    return sorted(charts, key=lambda chart: not chart["name"].startswith("Translator"))


def _model_name(folder: Path) -> str:
    """Return a model's name for people from its folder, e.g. ``round_1/segmenter`` or ``anchors/oracle/segmenter``."""
    if folder.parts[0] == "anchors":
        return f"Segmenter, {STAGE_NAMES.get(folder.parts[1], folder.parts[1]).lower()}"
    number = folder.parts[0].removeprefix("round_")
    if folder.name == "singan":
        return f"SinGAN, round {number}"
    kind, _, view = folder.name.partition("_")
    return f"{kind.capitalize()}{f' ({view})' if view else ''}, round {number}"


def _site_rows(run: RunFolder, scored: list[str]) -> list[dict[str, Any]]:
    """Return a row per site and one for all cases: the number of cases and each structure's summaries."""
    metrics = run.metrics
    if metrics is None:
        return []
    counts = [case["site"] for case in metrics["cases"]]
    rows = [
        {"site": site, "n": counts.count(site), "summary": summary}
        for site, summary in metrics.get("sites", {}).items()
    ]
    return [*rows, {"site": "all", "n": len(counts), "summary": metrics["structures"]}] if scored else []


def _case_rows(run: RunFolder, scored: list[str]) -> list[dict[str, Any]]:
    """Return a row per scored case, the worst first."""
    return [
        {
            "case": case["case"],
            "site": case["site"],
            "missing": case.get("missing", False),
            "mean_dice": mean_dice(case, scored),
            "scores": {name: case[name] for name in scored if name in case},
            "metrics": METRICS,
        }
        for case in ranked_cases(run)
    ]
