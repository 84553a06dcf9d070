"""A ranking as Markdown: the places, how stable they are, and the tests between neighbours."""

from __future__ import annotations

from typing import Any

from crossmoda.evaluation.metrics import BOUNDARY
from crossmoda.labels import VS

NAMES = {VS: "VS", BOUNDARY: "boundary"}
METRIC_NAMES = {"dice": "Dice", "assd": "ASSD, mm"}
DECIMALS = {"dice": 3, "assd": 2}


def ranking_table(ranking: dict[str, Any]) -> str:
    """Return what ``rank_systems`` found as Markdown: three tables with a line each that says how to read them."""
    systems, count = ranking["systems"], len(ranking["cases"])
    intro = (
        f"Cumulative rank over {count} cases (95 % interval over {ranking['resamples']} resamples of the cases); lower "
        "is better. After it the place at each site with the cumulative rank, and of each criterion the mean with the "
        "mean rank."
    )
    stability = "Share of the resamples in which a system holds a place:"
    tests = (
        "Each system against the next one: difference of the cumulative ranks, Wilcoxon's signed-rank test of the "
        "ranks per case, corrected by Holm over the pairs:"
    )
    parts = [intro, _places(ranking), stability, _stability(systems), tests, _neighbours(ranking["neighbours"])]
    empty = {system["name"]: ", ".join(system["missing"]) for system in systems if system["missing"]}
    return "\n\n".join(
        [*parts, *(f"{name}: no prediction, counted as empty: {found}" for name, found in empty.items())]
    )


def _places(ranking: dict[str, Any]) -> str:
    systems = ranking["systems"]
    sites = sorted(systems[0]["sites"]) if len(systems[0]["sites"]) > 1 else []
    titles = [f"{NAMES.get(structure, structure)} {METRIC_NAMES[metric]}" for structure, metric in ranking["criteria"]]
    rows = [["place", "system", "cumulative rank", *sites, *titles]]
    for system in systems:
        low, high = system["interval"]
        cumulative = f"{system['cumulative_rank']:.2f} ({low:.2f} to {high:.2f})"
        at_sites = [system["sites"][site] for site in sites]
        by_site = [f"{found['place']} ({found['cumulative_rank']:.2f})" for found in at_sites]
        found = [(metric, system["criteria"][structure][metric]) for structure, metric in ranking["criteria"]]
        scores = [f"{score['mean']:.{DECIMALS[metric]}f} ({score['rank']:.2f})" for metric, score in found]
        rows.append([str(system["place"]), system["name"], cumulative, *by_site, *scores])
    return _markdown(rows)


def _stability(systems: list[dict[str, Any]]) -> str:
    places = list(systems[0]["places"])
    rows = [["system", *(f"place {place}" for place in places)]]
    rows += [[s["name"], *(f"{s['places'][place]:.1%}" for place in places)] for s in systems]
    return _markdown(rows)


def _neighbours(pairs: list[dict[str, Any]]) -> str:
    rows = [["better", "next", "difference", "p (Wilcoxon)", "p (Holm)"]]
    for pair in pairs:
        tests = [f"{pair[key]:.4f}" for key in ("p_wilcoxon", "p_holm")]
        rows.append([pair["first"], pair["second"], f"{pair['difference']:+.2f}", *tests])
    return _markdown(rows)


def _markdown(rows: list[list[str]]) -> str:
    """Return rows, titles first, as a Markdown table, padded so that it also reads well as it stands."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
