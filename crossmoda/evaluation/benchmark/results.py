"""What a benchmark has measured: every system's last model and rounds, the anchors, what each took, and the ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from crossmoda.evaluation.aggregate import summarise_cases
from crossmoda.evaluation.comparison import rounds_of
from crossmoda.evaluation.ranking import rank_systems
from crossmoda.files import read_json
from crossmoda.labels import COCHLEA, VS

SCORED = (VS, COCHLEA)
METRICS = ("dice", "assd")
METRICS_FILE, UNSEEN_FILE, COST_FILE = "metrics.json", "metrics_unseen.json", "cost.json"
ANCHORS = {"source_only": "ceT1 alone (no adaptation)", "oracle": "hrT2 truth (supervised)"}

Metrics = dict[str, Any]  # as metrics.json holds


@dataclass(frozen=True)
class Benchmark:
    """Measured systems.

    Args:
        systems: name -> metrics of its last round over all scans, those of the unseen site among them.
        anchors: the same of no adaptation and of full supervision.
        rounds: name -> metrics of each of its rounds over the validation scans, ``(number, metrics)``.
        costs: name -> ``minutes`` and ``mib``.
        published: name -> Dice and ASSD of VS and of the cochlea that its paper reports, None where it does not.
        unseen_site: of which no scan was trained on.
    """

    systems: Mapping[str, Metrics]
    anchors: Mapping[str, Metrics]
    rounds: Mapping[str, Sequence[tuple[int, Metrics]]]
    costs: Mapping[str, Mapping[str, float]]
    published: Mapping[str, Sequence[float | None]]
    unseen_site: str

    @cached_property
    def ranking(self) -> dict[str, Any] | None:
        """The challenge's ranking of the systems, anchors apart; None of fewer than two."""
        return rank_systems(self.systems, "2022") if len(self.systems) > 1 else None

    @property
    def sites(self) -> list[str]:
        """The sites of all scans, the unseen one last."""
        found = {case["site"] for metrics in self.systems.values() for case in metrics["cases"]}
        return sorted(found, key=lambda site: (site == self.unseen_site, site))

    def place(self, name: str) -> int | None:
        """Return a system's place in the ranking; None of an anchor."""
        systems = self.ranking["systems"] if self.ranking else []
        return next((int(system["place"]) for system in systems if system["name"] == name), None)

    def ordered(self) -> list[tuple[str, Metrics]]:
        """Return the systems by their place, between the anchors."""
        ranked = sorted(self.systems, key=lambda name: (self.place(name) or 0, name))
        ends = [[(key, self.anchors[key])] if key in self.anchors else [] for key in ("oracle", "source_only")]
        return [*ends[0], *((name, self.systems[name]) for name in ranked), *ends[1]]

    def effects(self) -> list[dict[str, Any]]:
        """Return what the papers report in kind, as far as these systems show it: translation, and rounds.

        Returns:
            Entries of ``effect``, ``system``, ``before`` and ``after`` (mean Dice by structure, validation scans).
        """
        found = []
        for name, rounds in self.rounds.items():
            if rounds and "source_only" in self.anchors:
                none = summarise_cases(c for c in self.anchors["source_only"]["cases"] if c["site"] != self.unseen_site)
                found.append(_effect("translation over none", name, none, rounds[0][1]["structures"]))
            if len(rounds) > 1:
                first, last = rounds[0][1]["structures"], rounds[-1][1]["structures"]
                found.append(_effect("rounds over none", name, first, last))
        return found


def _effect(effect: str, name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    dice = [{s: float(side[s]["dice"]["mean"]) for s in SCORED} for side in (before, after)]
    return {"effect": effect, "system": name, "before": dice[0], "after": dice[1]}


def joined(*parts: Metrics) -> Metrics:
    """Return one evaluation of the cases of several, which have no case in common."""
    cases = sorted(chain.from_iterable(part["cases"] for part in parts), key=lambda case: str(case["case"]))
    sites = sorted({case["site"] for case in cases})
    return {
        "structures": summarise_cases(cases),
        "sites": {site: summarise_cases(case for case in cases if case["site"] == site) for site in sites},
        "cases": cases,
        "missing": sorted(chain.from_iterable(part.get("missing", []) for part in parts)),
    }


def read_results(
    folders: Mapping[str, Path],
    anchors: Path,
    published: Mapping[str, Sequence[float | None]],
    unseen_site: str,
) -> Benchmark:
    """Read what has been measured so far.

    Args:
        folders: system -> its run folder, with ``metrics_unseen.json`` and ``cost.json`` beside the loop's own files.
        anchors: run folder whose ``anchors`` count.
        published: as ``Benchmark`` has it.
        unseen_site: as ``Benchmark`` has it.
    """
    done = {name: folder for name, folder in folders.items() if (folder / UNSEEN_FILE).is_file()}
    ends = {key: anchors / "anchors" / key for key in ANCHORS}
    return Benchmark(
        systems={name: _whole(folder) for name, folder in done.items()},
        anchors={key: _whole(folder) for key, folder in ends.items() if (folder / UNSEEN_FILE).is_file()},
        rounds={name: [(n, read_json(place / METRICS_FILE)) for n, place in rounds_of(f)] for name, f in done.items()},
        costs={name: read_json(folder / COST_FILE) for name, folder in done.items() if (folder / COST_FILE).is_file()},
        published=published,
        unseen_site=unseen_site,
    )


def _whole(folder: Path) -> Metrics:
    return joined(read_json(folder / METRICS_FILE), read_json(folder / UNSEEN_FILE))
