"""What corrections bring, from the records of ``simulate_reader.py``: curves, corrections needed, tables, picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from crossmoda.files import atomic_path, read_json, write_json, write_text

RANDOM = "random"
MEAN = "mean"
MEASURE_OF_ORDER = {
    "uncertainty": "uncertainty",
    "disagreement": "disagreement",
    "expected_change": "expected_change_ml",
}
COLOURS = {
    RANDOM: "#808080",
    "uncertainty": "#2e86c1",
    "disagreement": "#d9822b",
    "expected_change": "#2ca25f",
    "worst first": "#000000",
}

Record = Mapping[str, Any]


def write_results(output: Path, settings: Mapping[str, Any]) -> None:
    """Write ``reader.json``, ``reader.md`` and ``reader.svg`` of all that has been recorded; nothing without records.

    Args:
        output: holds ``seed_S/ORDER/round_N/reader.json``.
        settings: of the size.
    """
    records = read_records(output, settings)
    if not records:
        return
    structures = [*settings["shared"]["structures"], MEAN]
    results = {
        "corrections": [number * settings["corrections"] for number in range(settings["rounds"] + 1)],
        "scans": settings["scans"],
        "judged": {order: curves_of(runs, structures) for order, runs in records.items()},
        "ranking": ranking(records, structures),
    }
    if RANDOM in results["judged"]:
        for key, count in (("needed", corrections_needed), ("needed_between_rounds", corrections_between_rounds)):
            results[key] = {
                name: {
                    order: count(found[name]["mean"], results["judged"][RANDOM][name]["mean"], settings["corrections"])
                    for order, found in results["judged"].items()
                    if order != RANDOM
                }
                for name in structures
            }
    write_json(output / "reader.json", results)
    write_text(output / "reader.md", text_of(results, structures))
    draw(output / "reader.svg", results, structures)


def read_records(output: Path, settings: Mapping[str, Any]) -> dict[str, list[list[Record]]]:
    """Return order -> the records of each seed's rounds, of those seeds and orders that went through all rounds."""
    found: dict[str, list[list[Record]]] = {}
    for order in settings["orders"]:
        for seed in settings["seeds"]:
            run = output / f"seed_{seed}" / order
            files = [run / f"round_{number}" / "reader.json" for number in range(settings["rounds"] + 1)]
            if all(file.is_file() for file in files):
                found.setdefault(order, []).append([read_json(file) for file in files])
    return found


def dice_of(cases: Mapping[str, Mapping[str, Any]], name: str, structures: Sequence[str]) -> np.ndarray:
    """Return the Dice of a structure in each case, or the mean of all structures under the name ``mean``."""
    names = [structure for structure in structures if structure != MEAN] if name == MEAN else [name]
    return np.array([np.mean([case[structure] for structure in names]) for case in cases.values()])


def curves_of(runs: Sequence[Sequence[Record]], structures: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return structure -> ``mean`` and ``std`` over seeds of the judged scans' Dice by round, and each seed's curve."""
    found = {}
    for name in structures:
        seeds = np.array([[dice_of(record["judged"], name, structures).mean() for record in run] for run in runs])
        spread = seeds.std(axis=0, ddof=1) if len(seeds) > 1 else np.zeros(seeds.shape[1])
        found[name] = {"mean": seeds.mean(axis=0).tolist(), "std": spread.tolist(), "seeds": seeds.tolist()}
    return found


def corrections_needed(curve: Sequence[float], random: Sequence[float], step: int) -> list[int | None]:
    """Return the fewest corrections with which a curve is at least what random order has reached by each round.

    What random order has reached is the highest point of its curve so far, since a reader may stop there.

    Args:
        curve: Dice after 0, ``step``, ``2 * step`` ... corrections.
        random: the same of random order.
        step: corrections a round.

    Returns:
        A number for each round after the first model's, None where the curve does not come as high.
    """
    found: list[int | None] = []
    for number in range(1, len(random)):
        goal = max(random[: number + 1])
        found.append(next((index * step for index, value in enumerate(curve) if value >= goal), None))
    return found


def corrections_between_rounds(curve: Sequence[float], random: Sequence[float], step: int) -> list[float | None]:
    """Return the same as ``corrections_needed`` on straight lines between the rounds, where the curve first crosses.

    Args:
        curve: as of ``corrections_needed``.
        random: the same of random order.
        step: corrections a round.
    """
    found: list[float | None] = []
    for number in range(1, len(random)):
        goal = max(random[: number + 1])
        after = next((index for index, value in enumerate(curve) if value >= goal), None)
        if after is None or after == 0:
            found.append(None if after is None else 0.0)
        else:
            before = curve[after - 1]
            found.append(step * (after - 1 + (goal - before) / (curve[after] - before)))
    return found


def ranking(records: Mapping[str, Sequence[Sequence[Record]]], structures: Sequence[str]) -> dict[str, list[float]]:
    """Return order -> mean Dice of the pool's labels after 0, 1, 2 ... corrections of the first model's pseudo-labels.

    Nothing is trained in between, so this tells the orders alone. Random order is its expectation; ``worst first`` is
    what nobody can beat. The mean is over structures, cases and seeds.
    """
    firsts = next(iter(records.values()))
    found: dict[str, list[np.ndarray]] = {}
    for record in (run[0] for run in firsts):
        cases, dice = list(record["pool"]), dice_of(record["pool"], MEAN, structures)
        gains = {"worst first": np.sort(1 - dice)[::-1], RANDOM: np.full(len(dice), (1 - dice).mean())}
        for order, measure in MEASURE_OF_ORDER.items():
            if measure in record["measures"]:
                values = np.array([record["measures"][measure][case] for case in cases])
                gains[order] = (1 - dice)[np.argsort(-values, kind="stable")]
        for order, gain in gains.items():
            found.setdefault(order, []).append(dice.mean() + np.concatenate([[0], np.cumsum(gain)]) / len(dice))
    return {order: np.mean(curves, axis=0).tolist() for order, curves in found.items()}


def text_of(results: Mapping[str, Any], structures: Sequence[str]) -> str:
    """Return the tables in Markdown."""
    corrections, judged = results["corrections"], results["judged"]
    lines = [row("Dice", "order", *corrections), row(*["---"] * (len(corrections) + 2))]
    for name in structures:
        for order, found in judged.items():
            cells = [
                f"{mean:.3f} ± {std:.3f}" for mean, std in zip(found[name]["mean"], found[name]["std"], strict=True)
            ]
            lines.append(row(name, order, *cells))
    blocks = ["\n".join(lines)]
    if RANDOM in judged:
        lines = [
            row("corrections for what random order reaches with", *corrections[1:]),
            row(*["---"] * len(corrections)),
        ]
        for name in structures:
            for order, numbers in results["needed"][name].items():
                between = results["needed_between_rounds"][name][order]
                pairs = zip(numbers, between, strict=True)
                cells = ["more" if number is None else f"{number} ({line:.1f})" for number, line in pairs]
                lines.append(row(f"{name}, {order}", *cells))
        blocks.append("\n".join(lines))
    at = [number for number in corrections if number < len(results["ranking"][RANDOM])]
    lines = [row("labels of the pool, nothing trained", *at), row(*["---"] * (len(at) + 1))]
    lines += [row(order, *[f"{curve[number]:.3f}" for number in at]) for order, curve in results["ranking"].items()]
    blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def row(*cells: Any) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def draw(path: Path, results: Mapping[str, Any], structures: Sequence[str]) -> None:
    """Draw the curves of each structure with their spread, and the ranking beside them, as SVG."""
    with matplotlib.rc_context({"svg.hashsalt": "reader", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(3.1 * (len(structures) + 1), 3.0), layout="constrained")
        FigureCanvasSVG(figure)
        panels = figure.subplots(1, len(structures) + 1)
        for axes, name in zip(panels, structures, strict=False):
            for order, found in results["judged"].items():
                draw_curve(axes, results["corrections"], found[name], order)
            axes.set_title(f"{name}, unseen scans")
            axes.set_ylabel("Dice")
        for order, curve in results["ranking"].items():
            panels[-1].plot(range(len(curve)), curve, color=COLOURS[order], label=order, linewidth=1.4)
        panels[-1].set_title("labels, nothing trained")
        for axes in panels:
            axes.set_xlabel("corrected cases")
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].legend(frameon=False, loc="lower right")
        panels[-1].legend(frameon=False, loc="lower right")
        with atomic_path(path) as partial:
            figure.savefig(partial, format="svg", metadata={"Date": None})


def draw_curve(axes: Axes, corrections: Sequence[int], found: Mapping[str, Any], order: str) -> None:
    """Draw the mean of a curve with a band of one standard deviation over seeds."""
    mean, std = np.array(found["mean"]), np.array(found["std"])
    axes.plot(corrections, mean, color=COLOURS[order], marker="o", markersize=3, label=order, linewidth=1.6)
    axes.fill_between(corrections, mean - std, mean + std, color=COLOURS[order], alpha=0.15, linewidth=0)
