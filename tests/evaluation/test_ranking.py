from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from crossmoda.__main__ import main
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.compare import wilcoxon_p
from crossmoda.evaluation.ranking import CRITERIA, places_of, rank_systems, ranks_of
from crossmoda.files import read_json, write_json

# VS Dice, VS ASSD, cochlea Dice, cochlea ASSD of three systems in three cases, some of them equal
VALUES = {
    "crossmoda2021_ldn_211": {"A": (0.9, 0.5, 0.8, 0.2), "B": (0.9, 0.4, 0.7, 0.2), "C": (0.8, 0.6, 0.8, 0.2)},
    "crossmoda2021_ldn_212": {"A": (0.0, 350, 0.8, 0.3), "B": (0.6, 1.0, 0.9, 0.1), "C": (0.7, 0.9, 0.85, 0.2)},
    "crossmoda2022_etz_210": {"A": (0.5, 1.0, 0.6, 0.5), "B": (0.5, 2.0, 0.7, 0.4), "C": (0.5, 3.0, 0.7, 0.4)},
}
# By hand, the ranks of the four criteria and their mean:
#          A                B                C
# ldn_211  1 2 1 1 = 1.25   1 1 3 1 = 1.5    3 3 1 1 = 2
# ldn_212  3 3 3 3 = 3      2 2 1 1 = 1.5    1 1 2 2 = 1.5
# etz_210  1 1 3 3 = 2      1 2 1 1 = 1.25   1 3 1 1 = 1.5
CASE_RANKS = {"A": [1.25, 3, 2], "B": [1.5, 1.5, 1.25], "C": [2, 1.5, 1.5]}


def metrics(system: str, truth_volume_mm3: float = 100.0) -> dict[str, Any]:
    cases = []
    for case, values in VALUES.items():
        vs_dice, vs_assd, cochlea_dice, cochlea_assd = values[system]
        vs = {"dice": vs_dice, "assd": vs_assd, "truth_volume_mm3": truth_volume_mm3}
        cochlea = {"dice": cochlea_dice, "assd": cochlea_assd}
        cases.append({"case": case, "site": case.split("_")[1], "vs": vs, "cochlea": cochlea})
    return {"cases": cases, "missing": ["crossmoda2021_ldn_212"] if system == "A" else []}


SYSTEMS = {name: metrics(name) for name in "ABC"}


def test_ranks_per_case_and_cumulative_ranks_are_those_derived_by_hand() -> None:
    ranking = rank_systems(SYSTEMS)
    assert [system["name"] for system in ranking["systems"]] == ["B", "C", "A"]
    assert {s["name"]: list(s["case_ranks"].values()) for s in ranking["systems"]} == CASE_RANKS
    cumulative = [system["cumulative_rank"] for system in ranking["systems"]]
    assert cumulative == pytest.approx([4.25 / 3, 5 / 3, 6.25 / 3])
    assert [system["place"] for system in ranking["systems"]] == [1, 2, 3]


def test_sites_are_ranked_by_their_own_cases() -> None:
    by_name = {system["name"]: system["sites"] for system in rank_systems(SYSTEMS)["systems"]}
    assert by_name["A"] == {
        "etz": {"place": 3, "cumulative_rank": 2.0},
        "ldn": {"place": 3, "cumulative_rank": 2.125},
    }
    assert by_name["C"]["ldn"] == {"place": 2, "cumulative_rank": 1.75}


def test_each_criterion_has_its_mean_and_mean_rank() -> None:
    system = next(s for s in rank_systems(SYSTEMS)["systems"] if s["name"] == "A")
    assert system["criteria"]["vs"]["assd"] == {"rank": pytest.approx(6 / 3), "mean": pytest.approx(351.5 / 3)}
    assert system["criteria"]["cochlea"]["dice"] == {"rank": pytest.approx(7 / 3), "mean": pytest.approx(2.2 / 3)}
    assert system["missing"] == ["crossmoda2021_ldn_212"]


def test_ranks_are_scipys_minimum_ranks_on_values_with_many_ties() -> None:
    values = np.random.default_rng(0).integers(0, 4, size=(6, 25, 3)) / 4
    higher = [True, False, True]
    signed = np.where(higher, -values, values)
    assert np.array_equal(ranks_of(values, higher), stats.rankdata(signed, method="min", axis=0))
    assert np.array_equal(places_of(values[:, :, 0]), stats.rankdata(values[:, :, 0], method="min", axis=0))


def test_the_shares_of_places_are_those_of_all_possible_resamples() -> None:
    exact = {name: np.zeros(3) for name in "ABC"}
    for draw in product(range(3), repeat=3):  # the 27 ways to draw three cases of three
        means = [np.mean([CASE_RANKS[name][case] for case in draw]) for name in "ABC"]
        for name, place in zip("ABC", stats.rankdata(np.round(means, 9), method="min"), strict=True):
            exact[name][int(place) - 1] += 1 / 27
    assert exact["B"].tolist() == pytest.approx([26 / 27, 1 / 27, 0])  # only three times ldn_211 puts A before B
    for system in rank_systems(SYSTEMS, resamples=20_000)["systems"]:
        assert list(system["places"].values()) == pytest.approx(exact[system["name"]].tolist(), abs=0.01)


def test_the_same_seed_gives_the_same_ranking_and_another_seed_other_resamples() -> None:
    first, same, other = (rank_systems(SYSTEMS, seed=seed)["systems"] for seed in (1, 1, 2))
    assert first == same
    assert first[0]["places"] != other[0]["places"]


def test_neighbours_are_tested_on_their_ranks_per_case_with_holms_correction() -> None:
    generator = np.random.default_rng(3)
    dice = {"A": generator.uniform(0.8, 0.9, 20), "B": generator.uniform(0.7, 0.9, 20), "C": np.full(20, 0.1)}
    systems = {
        name: {"cases": [{"case": f"case_{i}", "vs": score(v), "cochlea": score(v)} for i, v in enumerate(values)]}
        for name, values in dice.items()
    }
    ranking = rank_systems(systems)
    ranks = {s["name"]: np.array(list(s["case_ranks"].values())) for s in ranking["systems"]}
    first, second = ranking["neighbours"]
    expected = [stats.wilcoxon(ranks["B"] - ranks["A"]).pvalue, stats.wilcoxon(ranks["C"] - ranks["B"]).pvalue]
    assert [first["p_wilcoxon"], second["p_wilcoxon"]] == pytest.approx(expected)
    smaller, larger = sorted(expected)
    assert sorted(pair["p_holm"] for pair in (first, second)) == pytest.approx(
        [min(1, 2 * smaller), max(2 * smaller, larger)]
    )


def score(dice: float) -> dict[str, float]:
    return {"dice": float(dice), "assd": 1 - float(dice)}


def test_equal_systems_share_the_first_place() -> None:
    ranking = rank_systems({"one": SYSTEMS["A"], "two": SYSTEMS["A"], "three": SYSTEMS["B"]})
    places = {system["name"]: system["place"] for system in ranking["systems"]}
    assert places["one"] == places["two"] == 2
    assert ranking["neighbours"][1]["p_wilcoxon"] == 1.0


def in_parts(boundary_assd: float) -> dict[str, Any]:
    structures = {name: score(0.5) for name in ("vs", "extra", "intra", "cochlea")}
    return {"cases": [{"case": "crossmoda2023_ukm_129", **structures, "boundary": {"assd": boundary_assd}}]}


def test_2023_ranks_the_parts_the_cochlea_and_the_boundary_but_not_the_whole_tumour() -> None:
    ranking = rank_systems({"A": in_parts(1.0), "B": in_parts(2.0)})
    assert ranking["edition"] == "2023"
    assert len(CRITERIA["2023"]) == 7
    assert "vs" not in ranking["systems"][0]["criteria"]
    # equal in six criteria, B second in the seventh: (6 * 1 + 2) / 7
    assert [system["cumulative_rank"] for system in ranking["systems"]] == pytest.approx([1, 8 / 7])
    assert rank_systems({"A": in_parts(1.0), "B": in_parts(2.0)}, "2022")["systems"][1]["place"] == 1


def test_a_system_that_does_not_tell_the_parts_cannot_be_ranked_by_them() -> None:
    whole = {"cases": [{"case": "crossmoda2023_ukm_129", "vs": score(0.5), "cochlea": score(0.5)}]}
    assert rank_systems({"A": in_parts(1.0), "B": whole})["edition"] == "2022"
    with pytest.raises(CrossmodaError, match=r"^B: case crossmoda2023_ukm_129 has no dice of 'extra'"):
        rank_systems({"A": in_parts(1.0), "B": whole}, "2023")


@pytest.mark.parametrize("swap", [False, True], ids=["the second lacks it", "the first lacks it"])
def test_systems_scored_on_other_cases_are_refused(swap: bool) -> None:
    fewer = {"cases": SYSTEMS["B"]["cases"][1:]}
    systems = {"B": fewer, "A": SYSTEMS["A"]} if swap else {"A": SYSTEMS["A"], "B": fewer}
    with pytest.raises(CrossmodaError, match=r"^B: lacks 1 case\(s\) that A was scored on, crossmoda2021_ldn_211"):
        rank_systems(systems)


def test_systems_scored_against_another_truth_are_refused() -> None:
    with pytest.raises(CrossmodaError, match=r"A and B were scored against different truths \(vs of 100.0 and 130.0"):
        rank_systems({"A": SYSTEMS["A"], "B": metrics("B", truth_volume_mm3=130.0)})


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(CrossmodaError, match="needs two systems at least"):
        rank_systems({"A": SYSTEMS["A"]})
    with pytest.raises(CrossmodaError, match="edition '2020' is not known"):
        rank_systems(SYSTEMS, "2020")
    with pytest.raises(CrossmodaError, match="B: holds no list of cases"):
        rank_systems({"A": SYSTEMS["A"], "B": {"structures": {}}})


def test_the_command_takes_files_and_folders_and_prints_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "ABC":
        write_json(tmp_path / name / "metrics.json", SYSTEMS[name])
    output = tmp_path / "ranking.json"
    named = f"mine={tmp_path / 'B' / 'metrics.json'}"
    assert main(["rank", named, str(tmp_path / "A"), str(tmp_path / "C/metrics.json"), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if "|" in line]
    first = dict(zip(rows[0], rows[2], strict=True))
    assert (first["place"], first["system"], first["ldn"], first["etz"]) == ("1", "mine", "1 (1.50)", "1 (1.25)")
    assert first["cumulative rank"].startswith("1.42 (")
    assert first["cochlea ASSD, mm"] == "0.23 (1.00)"
    assert "A: no prediction, counted as empty: crossmoda2021_ldn_212" in printed
    written = read_json(output)
    assert [system["name"] for system in written["systems"]] == ["mine", "C", "A"]
    assert len(written["systems"][0]["sha256"]) == 64


def test_a_name_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "A" / "metrics.json", SYSTEMS["A"])
    assert main(["rank", f"A={tmp_path / 'A/metrics.json'}", str(tmp_path / "A")]) == 1
    assert "a system named 'A' is already there" in capsys.readouterr().err


def test_ties_of_seven_criteria_are_ties_for_the_test() -> None:
    # Ranks are k / 7: differences that are equal must not be told apart by their last bits.
    generator = np.random.default_rng(3)
    systems = {}
    for name in ("A", "B"):
        cases = []
        for number in range(20):
            case: dict[str, Any] = {"case": f"crossmoda2023_ukm_{number}"}
            for structure in ("extra", "intra", "cochlea"):
                case[structure] = {"dice": float(generator.random()), "assd": float(generator.random())}
                case[structure]["truth_volume_mm3"] = 100.0
            cases.append({**case, "boundary": {"assd": float(generator.random())}})
        systems[name] = {"cases": cases}
    ranking = rank_systems(systems, "2023")
    first, second = (system["case_ranks"] for system in ranking["systems"])
    sevenths = np.array([round(7 * (second[case] - first[case])) for case in first])  # whole numbers
    (pair,) = ranking["neighbours"]
    assert pair["p_wilcoxon"] == pytest.approx(wilcoxon_p(sevenths), abs=1e-12)
