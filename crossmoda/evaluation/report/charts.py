"""The report's charts: drawn by matplotlib, put into the page as SVG that follows the page's colours and font.

matplotlib knows nothing of light and dark pages. Ink, lines and paper are therefore drawn in colours that stand for the
page's own and are exchanged for its CSS variables afterwards.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crossmoda.evaluation.calibration import Calibration
from crossmoda.evaluation.comparison import STAGE_NAMES, STAGES
from crossmoda.labels import COLOURS, FULL_NAMES

INK, LINE, PAPER, MUTED = "#010203", "#010204", "#010205", "#010206"
VARIABLES = {INK: "var(--ink)", LINE: "var(--line)", PAPER: "var(--panel)", MUTED: "var(--muted)"}
FEW_SERIES = 4  # that leave room for a legend inside a plot
PIXELS_PER_INCH = 100
WIDTH_INCHES = 11.0  # of a chart over the page's whole width
SERIES = ("#2e86c1", "#d9822b", "#2ca25f", "#b5489b", "#8a6d3b", "#5b6ee1", "#c0392b", "#1f9e9e")
STYLE: Any = {  # Any: matplotlib's stubs list every key as a literal
    "svg.fonttype": "none",
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as an ``<svg>`` element without outside references; the same figure gives the same text."""
    buffer = io.StringIO()
    # one scale for all charts, so that their letters have one size
    style = f'style="max-width:{figure.get_figwidth() * PIXELS_PER_INCH:.0f}px"'
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)  # implied inside HTML
    text = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg role="img" aria-label="{name}" {style} \1>', text, count=1
    )
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def stage_chart(
    comparison: Mapping[str, Any],
    cases: Mapping[str, Sequence[Mapping[str, Any]]],
    structures: Sequence[str],
    names: Mapping[str, str] = STAGE_NAMES,
) -> str:
    """Return Dice per stage (source only, translated, self-trained, oracle): every case a point, the mean a bar.

    Args:
        comparison: what ``comparison.json`` holds.
        cases: stage -> ``cases`` of its ``metrics.json``.
        structures: one plot each.
        names: of the stages.
    """
    stages = [stage for stage in STAGES if stage in comparison]
    with matplotlib.rc_context(STYLE):
        figure, axes = _one_plot_each(structures)
        for axis, structure in zip(axes, structures, strict=True):
            for place, stage in enumerate(stages):
                values = [case[structure]["dice"] for case in cases.get(stage, ()) if structure in case]
                mean = comparison[stage].get(structure, {}).get("dice", {}).get("mean")
                _column(axis, place, values, mean, COLOURS[structure])
            _label_axis(axis, FULL_NAMES[structure], [names[stage] for stage in stages])
        axes[0].set_ylabel("Dice")
        return to_svg(figure, "Dice by stage of training")


def _one_plot_each(structures: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure with a plot per structure, two in a row."""
    columns, rows = min(2, len(structures)), -(-len(structures) // 2)
    figure = Figure(figsize=(WIDTH_INCHES / 2 * columns, 3.0 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for unused in axes[len(structures) :]:
        unused.remove()
    return figure, axes[: len(structures)]


def _column(axis: Axes, place: float, values: Sequence[float], mean: float | None, colour: str) -> None:
    offsets = np.linspace(-0.17, 0.17, len(values)) if len(values) > 1 else np.zeros(len(values))
    axis.scatter(place + offsets, values, s=13, color=colour, alpha=0.55, linewidths=0, zorder=3)
    if mean is not None:
        axis.hlines(mean, place - 0.3, place + 0.3, color=INK, linewidth=2.2, zorder=4)
        axis.annotate(f"{mean:.2f}", (place + 0.32, mean), va="center", ha="left", fontweight="bold", zorder=5)


def _label_axis(axis: Axes, title: str, names: Sequence[str]) -> None:
    axis.set_title(title)
    axis.set_xticks(range(len(names)), names)
    axis.set_xlim(-0.5, len(names) - 0.35)
    axis.set_ylim(-0.02, 1.02)
    axis.grid(axis="x", visible=False)


def round_chart(
    rounds: Sequence[tuple[int, Mapping[str, Any]]], comparison: Mapping[str, Any], structures: Sequence[str]
) -> str:
    """Return Dice per round: thin lines follow the cases, the thick one is the mean, dashed ones the two anchors."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _one_plot_each(structures)
        for axis, structure in zip(axes, structures, strict=True):
            _case_lines(axis, rounds, structure)
            _anchor_lines(axis, comparison, structure)
            _label_axis(axis, FULL_NAMES[structure], [f"round {number}" for number, _ in rounds])
        axes[0].set_ylabel("Dice")
        return to_svg(figure, "Dice by round")


def _anchor_lines(axis: Axes, comparison: Mapping[str, Any], structure: str) -> None:
    """Draw the two anchors' means; one is named at the left end, the other at the right, in case they coincide."""
    for stage, place, side in (("source_only", 0.01, "left"), ("oracle", 0.99, "right")):
        mean = comparison.get(stage, {}).get(structure, {}).get("dice", {}).get("mean")
        if mean is not None:
            axis.axhline(mean, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
            across = axis.get_yaxis_transform()  # x from 0 to 1 over the plot, y in Dice
            axis.text(place, mean, STAGE_NAMES[stage].lower(), transform=across, va="bottom", ha=side, color=MUTED)


def _case_lines(axis: Axes, rounds: Sequence[tuple[int, Mapping[str, Any]]], structure: str) -> None:
    names = sorted({case["case"] for _, metrics in rounds for case in metrics["cases"]})
    for name in names:
        values = [_dice_of(metrics, name, structure) for _, metrics in rounds]
        axis.plot(
            range(len(rounds)), values, color=COLOURS[structure], alpha=0.4, linewidth=1, marker="o", markersize=3
        )
    means = [metrics["structures"].get(structure, {}).get("dice", {}).get("mean", np.nan) for _, metrics in rounds]
    axis.plot(range(len(rounds)), means, color=INK, linewidth=2.4, marker="o", markersize=5)
    for place, mean in enumerate(means):
        if np.isfinite(mean):
            box = {"boxstyle": "round,pad=0.12", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.85}
            above: dict[str, Any] = {"xytext": (0, 8), "textcoords": "offset points", "va": "bottom", "ha": "center"}
            axis.annotate(f"{mean:.2f}", (place, mean), **above, fontweight="bold", bbox=box, zorder=5)


def calibration_chart(calibration: Calibration) -> str:
    """Return uncertainty against Dice: every scan a point, and what is expected at an uncertainty a line."""
    known = np.asarray(calibration.uncertainty)
    along = np.linspace(known.min(), known.max(), 100)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES / 2, 3.0), layout="constrained")
        axis = figure.subplots()
        axis.plot(along, np.array([calibration.expected_dice(u) for u in along], float), color=MUTED)
        axis.scatter(known, calibration.dice, s=22, color=SERIES[0])
        axis.set_ylim(-0.02, 1.02)
        axis.set_xlabel("uncertainty")
        axis.set_ylabel("Dice, mean over structures")
        return to_svg(figure, "Uncertainty and Dice")


def _dice_of(metrics: Mapping[str, Any], case: str, structure: str) -> float:
    return next((float(c[structure]["dice"]) for c in metrics["cases"] if c["case"] == case and structure in c), np.nan)


def learning_chart(name: str, history: Mapping[str, Any]) -> str:
    """Return a model's learning curves: losses on the left, what was measured on validation scans on the right.

    Args:
        name: of the model, for people.
        history: what ``history.json`` holds, ``{"epoch": [...], "series": {name: [...]}}``, None where not measured.
    """
    series = {key: _numbers(values) for key, values in history.get("series", {}).items()}
    groups = {
        "losses": {key: values for key, values in series.items() if not is_score(key)},
        "scores": {key: values for key, values in series.items() if is_score(key)},
    }
    shown = {title: group for title, group in groups.items() if any(np.isfinite(v).any() for v in group.values())}
    if not shown:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_INCHES / 2 - 0.5, 2.6), layout="constrained")
        for axis, (title, group) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
            _curves(axis, np.asarray(history["epoch"], dtype=float), group)
            axis.set_title(title)
            axis.set_xlabel("epoch")
        return to_svg(figure, f"Learning curves of {name}")


def is_score(series: str) -> bool:
    """Tell whether a series is measured on validation scans and better when higher, judging by its name."""
    return any(word in series.lower() for word in ("dice", "accuracy", "ssim", "psnr"))


def _readable(series: str) -> str:
    """Return a series' name for people, e.g. ``cycle source`` for ``loss_cycle_source``."""
    return series.removeprefix("loss_").replace("_", " ")


def _numbers(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _curves(axis: Axes, epochs: np.ndarray, group: Mapping[str, np.ndarray]) -> None:
    for index, (key, values) in enumerate(group.items()):
        measured = np.isfinite(values)
        sparse = measured.sum() < 12
        axis.plot(
            epochs[: len(values)][measured],
            values[measured],
            color=SERIES[index % len(SERIES)],
            linestyle="-" if index < len(SERIES) else "--",
            label=_readable(key),
            marker="o" if sparse else None,
            markersize=3,
        )
    finite = np.concatenate([values[np.isfinite(values)] for values in group.values()])
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > 30:
        axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(group) > FEW_SERIES:
        axis.legend(fontsize=8.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axis.legend(fontsize=8.5, loc="best")
