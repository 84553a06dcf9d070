"""A benchmark as one page and one table: figures by structure and site, ranking, rounds, costs; published apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from crossmoda.evaluation.benchmark.results import ANCHORS, METRICS, SCORED, Benchmark
from crossmoda.evaluation.report.charts import STYLE, to_svg
from crossmoda.files import write_text
from crossmoda.labels import COLOURS, FULL_NAMES

TITLES = {"dice": "Dice", "assd": "ASSD, mm"}
DIGITS = {"dice": 3, "assd": 2}
LINES = ("solid", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))


def write_page(benchmark: Benchmark, output: Path, facts: Mapping[str, str]) -> str:
    """Write ``benchmark.html``, its tables as ``benchmark.md`` and its chart as ``rounds.svg``; return the tables.

    Args:
        benchmark: what was measured.
        output: folder of the files.
        facts: what made them, for the page's end.
    """
    chart = rounds_chart(benchmark)
    content = {**_content(benchmark), "chart": chart, "facts": facts}
    page = _environment(autoescape=True).get_template("template.html").render(**content)
    write_text(output / "benchmark.html", page.lstrip())
    if chart:
        write_text(output / "rounds.svg", chart)
    text = markdown(benchmark)
    write_text(output / "benchmark.md", text)
    return text


def markdown(benchmark: Benchmark) -> str:
    """Return all tables of the page as Markdown."""
    return _environment(autoescape=False).get_template("template.md").render(**_content(benchmark))


def _environment(autoescape: bool) -> Environment:
    return Environment(
        loader=ChoiceLoader(
            [PackageLoader("crossmoda.evaluation.benchmark", "."), PackageLoader("crossmoda.evaluation.report", ".")]
        ),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=not autoescape,
        lstrip_blocks=True,
    )


def _content(benchmark: Benchmark) -> dict[str, Any]:
    return {
        "title": "Published systems on the same synthetic scans",
        "benchmark": benchmark,
        "rows": rows(benchmark),
        "titles": TITLES,
        "digits": DIGITS,
        "metrics": METRICS,
        "scored": SCORED,
        "names": FULL_NAMES,
        "anchors": ANCHORS,
        "effects": benchmark.effects(),
        "longest": _longest(benchmark),
    }


def rows(benchmark: Benchmark) -> list[dict[str, Any]]:
    """Return a row for each anchor and system: place, means over all scans and by site, cost, published figures."""
    return [
        {
            "name": ANCHORS.get(name, name),
            "place": benchmark.place(name),
            "means": _means(metrics["structures"]),
            "sites": {site: _means(metrics["sites"][site]) for site in benchmark.sites},
            "cost": benchmark.costs.get(name),
            "minutes": _minutes(benchmark.costs.get(name)),
            "published": benchmark.published.get(name),
            "real": benchmark.real.get(name),
        }
        for name, metrics in benchmark.ordered()
    ]


def _means(structures: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {s: {metric: float(structures[s][metric]["mean"]) for metric in METRICS} for s in SCORED}


def _minutes(cost: Mapping[str, Any] | None) -> str:
    """Return what a system took; of one that was interrupted, what is known of it."""
    if not cost:
        return ""
    return f"{'at least ' if cost.get('interrupted') else ''}{cost['minutes']:.0f}"


def _longest(benchmark: Benchmark) -> int:
    return max((len(rounds) for rounds in benchmark.rounds.values()), default=0)


def rounds_chart(benchmark: Benchmark) -> str:
    """Return the mean Dice of each system by round, a plot for each structure, as SVG; empty where none has two."""
    longest = _longest(benchmark)
    if longest < 2:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.4), layout="constrained")
        for axis, structure in zip(figure.subplots(1, len(SCORED), sharey=True), SCORED, strict=True):
            for line, (name, rounds) in zip(LINES * 3, benchmark.rounds.items(), strict=False):
                dice = [metrics["structures"][structure]["dice"]["mean"] for _, metrics in rounds]
                numbers = [number for number, _ in rounds]
                axis.plot(numbers, dice, label=name, color=COLOURS[structure], linestyle=line, marker="o", markersize=4)
            axis.set_title(FULL_NAMES[structure])
            axis.set_xticks(range(longest), [f"round {number}" for number in range(longest)])
            axis.set_ylim(-0.02, 1.02)
            axis.legend(fontsize=8)
        figure.axes[0].set_ylabel("Dice")
        return to_svg(figure, "Dice by round of every system")
