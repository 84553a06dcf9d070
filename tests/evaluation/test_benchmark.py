"""What a benchmark of systems says of their evaluations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossmoda.evaluation.aggregate import summarise_cases
from crossmoda.evaluation.benchmark import Benchmark, Variant, joined, read_results, write_page
from crossmoda.evaluation.benchmark.page import markdown, rows
from crossmoda.evaluation.benchmark.results import _shows
from crossmoda.files import write_json

SITES = ("ldn", "etz", "ukm")


def evaluation(vs: float, cochlea: float, sites: tuple[str, ...] = SITES) -> dict[str, Any]:
    """Return two cases of each site with about these Dice; the distances fall as Dice rises."""
    cases = [
        {
            "case": f"{site}_{number}",
            "site": site,
            **{
                structure: {"dice": dice + 0.01 * number, "assd": 2 - dice, "hd95": 4 - dice, "truth_volume_mm3": 100.0}
                for structure, dice in (("vs", vs), ("cochlea", cochlea))
            },
        }
        for site in sites
        for number in (0, 1)
    ]
    found = {site: summarise_cases(case for case in cases if case["site"] == site) for site in sites}
    return {"structures": summarise_cases(cases), "sites": found, "cases": cases, "missing": []}


@pytest.fixture
def benchmark() -> Benchmark:
    seen = ("ldn", "etz")
    return Benchmark(
        systems={"First": evaluation(0.6, 0.5), "Second": evaluation(0.8, 0.7)},
        anchors={"source_only": evaluation(0.1, 0.6), "oracle": evaluation(0.9, 0.9)},
        rounds={
            "First": [(0, evaluation(0.5, 0.5, seen)), (1, evaluation(0.6, 0.4, seen))],
            "Second": [(0, evaluation(0.7, 0.7, seen))],
        },
        costs={"First": {"minutes": 12.4, "mib": 900}},
        published={"First": [0.734, None, 0.714, None], "Second": [0.8, 0.5, 0.8, 0.2]},
        published_test={"First": [0.669, 4.394, 0.665, 1.266]},
        unseen_site="ukm",
        variants=[
            Variant("Second with one view", "Second", "two views over one", evaluation(0.65, 0.75, seen)),
            Variant("First with blending", "First", "blending over none", evaluation(0.8, 0.2, seen), adds=True),
        ],
        real={"Second": evaluation(0.325, 0.0, ("real",))},
        remarks={"two views over one": "The second view draws the cochlea too dark."},
    )


def test_systems_are_in_the_order_of_their_place_between_the_anchors(benchmark: Benchmark) -> None:
    assert [row["name"] for row in rows(benchmark)] == [
        "hrT2 truth (supervised)",
        "Second",
        "First",
        "ceT1 alone (no adaptation)",
    ]
    assert [row["place"] for row in rows(benchmark)] == [None, 1, 2, None]  # anchors are not ranked
    assert benchmark.sites == ["etz", "ldn", "ukm"]  # the unseen one last


def test_effects_compare_the_same_validation_scans_with_and_without(benchmark: Benchmark) -> None:
    effects = {(effect["effect"], effect["system"]): effect for effect in benchmark.effects()}
    assert list(effects) == [
        ("blending over none", "First"),
        ("rounds over none", "First"),
        ("translation over none", "First"),
        ("translation over none", "Second"),
        ("two views over one", "Second"),
    ]
    translation = effects["translation over none", "Second"]  # the anchor's figures are without the unseen site's
    assert translation["without"] == pytest.approx({"vs": 0.105, "cochlea": 0.605})
    assert translation["with"] == pytest.approx({"vs": 0.705, "cochlea": 0.705})
    # Four scans, all of them better: two of 2^4 sign patterns are as extreme.
    assert translation["p"] == pytest.approx({"vs": 0.125, "cochlea": 0.125})
    rounds = effects["rounds over none", "First"]
    assert rounds["with"]["vs"] - rounds["without"]["vs"] == pytest.approx(0.1)
    assert rounds["with"]["cochlea"] - rounds["without"]["cochlea"] == pytest.approx(-0.1)
    blending = effects["blending over none", "First"]  # without it: the system's own round 0
    assert blending["with"] == pytest.approx({"vs": 0.805, "cochlea": 0.205})
    assert blending["without"] == rounds["without"]
    views = effects["two views over one", "Second"]  # with both: the system's own round 0
    assert views["without"] == pytest.approx({"vs": 0.655, "cochlea": 0.755})
    assert views["with"] == pytest.approx({"vs": 0.705, "cochlea": 0.705})


def test_the_table_holds_means_places_and_costs(benchmark: Benchmark) -> None:
    lines = markdown(benchmark).splitlines()
    assert lines[0] == ("| system | place | VS Dice | VS ASSD, mm | cochlea Dice | cochlea ASSD, mm | minutes | MiB |")
    assert "| First | 2 | 0.605 | 1.40 | 0.505 | 1.50 | 12 | 900 |" in lines
    assert "| Second | 1 | 0.805 | 1.20 | 0.705 | 1.30 |  |  |" in lines
    assert "| system | etz | ldn | ukm (unseen) |" in lines
    assert all(line.startswith("|") == line.endswith("|") for line in lines)
    interrupted = replace(benchmark, costs={"First": {"minutes": 12.0, "mib": 900, "interrupted": True}})
    assert "| First | 2 | 0.605 | 1.40 | 0.505 | 1.50 | at least 12 | 900 |" in markdown(interrupted).splitlines()


def test_evaluations_of_other_cases_are_joined() -> None:
    whole = joined(evaluation(0.6, 0.5, ("ldn",)), evaluation(0.2, 0.1, ("ukm",)))
    assert [case["case"] for case in whole["cases"]] == ["ldn_0", "ldn_1", "ukm_0", "ukm_1"]
    assert whole["structures"]["vs"]["dice"]["mean"] == pytest.approx((0.60 + 0.61 + 0.20 + 0.21) / 4)
    assert whole["sites"]["ukm"]["cochlea"]["dice"]["mean"] == pytest.approx(0.105)


def test_a_system_that_is_not_done_is_left_out(tmp_path: Path) -> None:
    for name in ("done", "begun"):
        (tmp_path / name / "round_0").mkdir(parents=True)
        write_json(tmp_path / name / "round_0" / "metrics.json", evaluation(0.5, 0.5, ("ldn",)))
        write_json(tmp_path / name / "metrics.json", evaluation(0.5, 0.5, ("ldn",)))
    write_json(tmp_path / "done" / "metrics_unseen.json", evaluation(0.3, 0.3, ("ukm",)))
    write_json(tmp_path / "done" / "cost.json", {"minutes": 1.0, "mib": 900})
    write_json(tmp_path / "done" / "metrics_real.json", {"structures": {}, "cases": []})
    variants = {
        name: {"folder": tmp_path / folder, "of": "A", "effect": "two views over one"}
        for name, folder in (("C", "done"), ("D", "absent"), ("E", "begun"))  # with what it took over of its system's
    }
    found = read_results({"A": tmp_path / "done", "B": tmp_path / "begun"}, tmp_path / "anchors", {}, "ukm", variants)
    assert list(found.real) == ["A"]
    assert [variant.name for variant in found.variants] == ["C"]
    assert list(found.systems) == list(found.rounds) == ["A"]
    assert found.anchors == {}
    assert found.ranking is None  # of one
    assert found.sites == ["ldn", "ukm"]


def test_a_system_that_could_not_go_on_is_told_with_its_reason_and_counts_nowhere(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    for name in ("A", "B"):
        write_json(tmp_path / name / "metrics.json", evaluation(0.5, 0.5, ("ldn",)))
        write_json(tmp_path / name / "metrics_unseen.json", evaluation(0.3, 0.3, ("ukm",)))
        write_json(tmp_path / name / "cost.json", {"minutes": 1.0, "mib": 900})
        write_json(tmp_path / name / "round_0" / "metrics.json", evaluation(0.5, 0.5, ("ldn",)))
    write_json(tmp_path / "B" / "stopped.json", {"reason": "round 1: none of 2 <pseudo-labels> is accepted"})
    folders, variants = (
        {"A": tmp_path / "A", "B": tmp_path / "B"},
        {"C": {"folder": tmp_path / "B", "of": "A", "effect": "x"}},
    )
    found = read_results(folders, tmp_path / "anchors", {}, "ukm", variants)
    assert list(found.systems) == list(found.costs) == ["A"]
    assert found.variants == []
    assert found.stopped == dict.fromkeys("BC", "round 1: none of 2 <pseudo-labels> is accepted")
    write_page(replace(benchmark, stopped=found.stopped), tmp_path, {})
    assert "<b>B</b> stopped before the end" in (tmp_path / "benchmark.html").read_text(encoding="utf-8")
    assert "none of 2 &lt;pseudo-labels&gt; is accepted" in (tmp_path / "benchmark.html").read_text(encoding="utf-8")
    assert "- B: round 1: none of 2 <pseudo-labels> is accepted" in (tmp_path / "benchmark.md").read_text().splitlines()


def test_the_page_keeps_published_figures_apart_and_stands_alone(benchmark: Benchmark, tmp_path: Path) -> None:
    write_page(benchmark, tmp_path, {"Command": "python scripts/benchmark_systems.py <>"})
    page = (tmp_path / "benchmark.html").read_text(encoding="utf-8")
    figures, published = page.split('<section id="published">')
    assert "0.734" in published
    assert "0.734" not in figures
    text = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    assert "| First, validation scans | 0.734 |  | 0.714 |  |" in text.splitlines()
    assert "| First, test scans | 0.669 | 4.394 | 0.665 | 1.266 |" in text.splitlines()
    assert "<td>First, test scans</td><td>0.669</td>" in published
    assert "| two views over one | Second and the same with one view |" in text
    assert "By site, ASSD, mm of VS / cochlea:" in text
    assert "must not be compared" in figures
    assert "ukm (unseen)" in figures
    assert "VS in kind, cochlea no" in figures  # of rounds over none: four scans cannot say more
    assert "| rounds over none | First |" in (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    assert (tmp_path / "rounds.svg").read_text(encoding="utf-8").lstrip().startswith("<svg")
    real = figures.split('<section id="real">')[1]
    assert "<tr><td>Second</td><td>0.330</td><td>1.68</td></tr>" in real  # of two cases, 0.325 and 0.335
    assert "First" not in real
    assert "<b>Two views over one</b>: The second view draws the cochlea too dark." in figures
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "&lt;&gt;" in published
    assert (tmp_path / "benchmark.md").read_text(encoding="utf-8") == markdown(benchmark)


@pytest.mark.parametrize(
    ("difference", "p_value", "ranks", "told"),
    [(0.1, 0.01, 20, "yes"), (0.1, 0.2, 9, "in kind"), (-0.1, 0.01, -20, "no"), (0.01, 0.03, -15, "no")],
)
def test_an_effect_shows_where_mean_and_ranks_agree(difference, p_value, ranks, told):
    assert _shows({"difference": difference, "p_wilcoxon": p_value, "signed_ranks": ranks}) == told
