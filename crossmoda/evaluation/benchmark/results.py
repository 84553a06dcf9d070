"""What a benchmark has measured: every system's last model and rounds, the anchors, what each took, and the ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from crossmoda.evaluation.aggregate import summarise_cases
from crossmoda.evaluation.compare import compare_metrics
from crossmoda.evaluation.comparison import rounds_of
from crossmoda.evaluation.ranking import rank_systems
from crossmoda.files import read_json
from crossmoda.labels import COCHLEA, VS

SCORED = (VS, COCHLEA)
METRICS = ("dice", "assd")
METRICS_FILE, UNSEEN_FILE, REAL_FILE, COST_FILE = (
    "metrics.json",
    "metrics_unseen.json",
    "metrics_real.json",
    "cost.json",
)
STOPPED_FILE = "stopped.json"  # why a system could not go on
SIGNIFICANT = 0.05
ANCHORS = {"source_only": "ceT1 alone (no adaptation)", "oracle": "hrT2 truth (supervised)"}

Metrics = dict[str, Any]  # as metrics.json holds


@dataclass(frozen=True)
class Variant:
    """A system's round 0 without something that it has, or with something more, to see what that does.

    Args:
        name: of the variant.
        system: which it is a variant of.
        effect: what the system has and the variant has not, or the other way round, e.g. "two views over one".
        metrics: of its round 0 over the validation scans.
        adds: whether the variant is the one that has it.
    """

    name: str
    system: str
    effect: str
    metrics: Metrics
    adds: bool = False


@dataclass(frozen=True)
class Benchmark:
    """Measured systems.

    Args:
        systems: name -> metrics of its last round over all scans, those of the unseen site among them.
        anchors: the same of no adaptation and of full supervision.
        rounds: name -> metrics of each of its rounds over the validation scans, ``(number, metrics)``.
        costs: name -> ``minutes`` and ``mib``, and ``interrupted`` where only the last try of some step was timed.
        published: name -> Dice and ASSD of VS and of the cochlea that its paper reports of the validation scans, None
            where it does not.
        unseen_site: of which no scan was trained on.
        variants: systems without some of what they have, or with something more.
        remarks: effect -> why it shows, or does not.
        real: name of a system or an anchor -> metrics on real scans, of the structures whose truth is known.
        published_effects: ``effect``, ``system``, and Dice without and with for each structure, as its paper has them.
        published_test: as ``published``, of the challenge's own test scans.
        stopped: name of a system or a variant that could not go on -> why; it is in nothing else.
    """

    systems: Mapping[str, Metrics]
    anchors: Mapping[str, Metrics]
    rounds: Mapping[str, Sequence[tuple[int, Metrics]]]
    costs: Mapping[str, Mapping[str, float]]
    published: Mapping[str, Sequence[float | None]]
    unseen_site: str
    variants: Sequence[Variant] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)
    real: Mapping[str, Metrics] = field(default_factory=dict)
    published_effects: Sequence[Mapping[str, Any]] = ()
    stopped: Mapping[str, str] = field(default_factory=dict)
    published_test: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

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
        """Return what the papers report in kind: translation, rounds, and whatever the variants differ in.

        Returns:
            Entries of ``effect``, ``system``, ``variant`` (its name where one was compared), ``without`` and ``with``
            (mean Dice by structure over the validation scans), ``p`` (Wilcoxon's signed-rank test by structure, not
            corrected) and ``shows``: yes, no, or in kind where the mean is higher but p is not below 0.05. Where few
            scans gain much and most lose, so that the test speaks against the effect though the mean is higher, it is
            no.
        """
        found = []
        for name, rounds in self.rounds.items():
            if rounds and "source_only" in self.anchors:
                none = of_cases(c for c in self.anchors["source_only"]["cases"] if c["site"] != self.unseen_site)
                found.append(_effect("translation over none", name, none, rounds[0][1]))
            if len(rounds) > 1:
                found.append(_effect("rounds over none", name, rounds[0][1], rounds[-1][1]))
        for variant in self.variants:
            if self.rounds.get(variant.system):
                sides = (variant.metrics, self.rounds[variant.system][0][1])
                compared = _effect(variant.effect, variant.system, *(sides[::-1] if variant.adds else sides))
                found.append({**compared, "variant": variant.name})
        return sorted(found, key=lambda entry: str(entry["effect"]))


def _effect(effect: str, name: str, without: Metrics, having: Metrics) -> dict[str, Any]:
    rows = compare_metrics(without, having)["rows"]
    dice = {row["structure"]: row for row in rows if row["metric"] == "dice"}
    means = {side: {s: dice[s][f"mean_{column}"] for s in SCORED} for side, column in (("without", "a"), ("with", "b"))}
    p_values = {s: float(dice[s]["p_wilcoxon"]) for s in SCORED}
    shows = {s: _shows(dice[s]) for s in SCORED}
    return {"effect": effect, "system": name, "variant": "", **means, "p": p_values, "shows": shows}


def _shows(row: Mapping[str, Any]) -> str:
    significant = row["p_wilcoxon"] < SIGNIFICANT
    if row["difference"] <= 0 or (significant and row["signed_ranks"] <= 0):
        return "no"
    return "yes" if significant else "in kind"


def joined(*parts: Metrics) -> Metrics:
    """Return one evaluation of the cases of several, which have no case in common."""
    missing = sorted(chain.from_iterable(part.get("missing", []) for part in parts))
    return {**of_cases(chain.from_iterable(part["cases"] for part in parts)), "missing": missing}


def of_cases(scored: Iterable[dict[str, Any]]) -> Metrics:
    """Return the evaluation of scored cases, summarised in all and by site."""
    cases = sorted(scored, key=lambda case: str(case["case"]))
    sites = sorted({case["site"] for case in cases})
    by_site = {site: summarise_cases(case for case in cases if case["site"] == site) for site in sites}
    return {"structures": summarise_cases(cases), "sites": by_site, "cases": cases}


def read_results(
    folders: Mapping[str, Path],
    anchors: Path,
    published: Mapping[str, Sequence[float | None]],
    unseen_site: str,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    remarks: Mapping[str, str] | None = None,
    published_effects: Sequence[Mapping[str, Any]] = (),
    published_test: Mapping[str, Sequence[float | None]] | None = None,
) -> Benchmark:
    """Read what has been measured so far.

    Args:
        folders: system -> its run folder, with ``metrics_unseen.json``, ``cost.json`` and, where a real scan was
            segmented, ``metrics_real.json`` beside the loop's own files, or ``stopped.json``.
        anchors: run folder whose ``anchors`` count.
        published: as ``Benchmark`` has it.
        unseen_site: as ``Benchmark`` has it.
        variants: name -> ``folder`` of its run, ``of`` (the system), ``effect`` and perhaps ``adds``.
        remarks: as ``Benchmark`` has it.
        published_effects: as ``Benchmark`` has it.
        published_test: as ``Benchmark`` has it.
    """
    every = {**folders, **{name: made["folder"] for name, made in (variants or {}).items()}}
    stopped = {name: folder / STOPPED_FILE for name, folder in every.items() if (folder / STOPPED_FILE).is_file()}
    done = {name: f for name, f in folders.items() if (f / UNSEEN_FILE).is_file() and name not in stopped}
    ends = {key: anchors / "anchors" / key for key in ANCHORS}
    return Benchmark(
        systems={name: _whole(folder) for name, folder in done.items()},
        anchors={key: _whole(folder) for key, folder in ends.items() if (folder / UNSEEN_FILE).is_file()},
        rounds={name: [(n, read_json(place / METRICS_FILE)) for n, place in rounds_of(f)] for name, f in done.items()},
        costs={name: read_json(folder / COST_FILE) for name, folder in done.items() if (folder / COST_FILE).is_file()},
        published=published,
        unseen_site=unseen_site,
        variants=[_variant(name, made) for name, made in (variants or {}).items() if _is_done(made["folder"])],
        remarks=remarks or {},
        published_effects=published_effects,
        real={name: read_json(f / REAL_FILE) for name, f in {**ends, **done}.items() if (f / REAL_FILE).is_file()},
        published_test=published_test or {},
        stopped={name: read_json(file)["reason"] for name, file in stopped.items()},
    )


def _variant(name: str, made: Mapping[str, Any]) -> Variant:
    return Variant(name, made["of"], made["effect"], read_json(_round_0(made["folder"])), made.get("adds", False))


def _is_done(folder: Path) -> bool:
    """Tell whether a variant's own round 0 is there: one that was interrupted has what it took over of its system's."""
    stopped = (folder / STOPPED_FILE).is_file()
    return _round_0(folder).is_file() and (folder / COST_FILE).is_file() and not stopped


def _round_0(folder: Path) -> Path:
    return folder / "round_0" / METRICS_FILE


def _whole(folder: Path) -> Metrics:
    return joined(read_json(folder / METRICS_FILE), read_json(folder / UNSEEN_FILE))
