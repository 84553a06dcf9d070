from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.commands import compare_command
from crossmoda.evaluation.compare import compare_metrics, holm, paired_statistics
from crossmoda.files import write_json

FIRST = np.array([0.70, 0.72, 0.65, 0.80, 0.60, 0.75, 0.71, 0.68])
SECOND = FIRST + np.array([0.05, 0.04, 0.06, 0.01, 0.09, 0.02, 0.03, 0.07])


def metrics(values: np.ndarray, first_case: int = 0) -> dict:
    scores = [{"dice": float(v), "assd": 1 - float(v), "hd95": 3.0} for v in values]
    return {"cases": [{"case": f"case_{first_case + i}", "site": "ldn", "vs": score} for i, score in enumerate(scores)]}


def test_the_tests_are_those_of_scipy_on_the_differences() -> None:
    found = paired_statistics(FIRST, SECOND, np.random.default_rng(0))
    assert found["difference"] == pytest.approx(0.04625)
    assert found["p_t"] == pytest.approx(stats.ttest_rel(SECOND, FIRST).pvalue)
    assert found["p_wilcoxon"] == pytest.approx(
        2 / 2**8
    )  # all eight differences positive: the smallest p that is possible
    assert found["low"] < 0.04625 < found["high"]


def test_the_bootstrap_interval_has_about_the_width_of_the_normal_one() -> None:
    difference = np.random.default_rng(3).normal(0.1, 0.2, size=200)
    found = paired_statistics(np.zeros(200), difference, np.random.default_rng(0))
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * difference.std(ddof=1) / np.sqrt(200), rel=0.05)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    results = [compare_metrics(metrics(FIRST), metrics(SECOND), seed=seed)["rows"][0] for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0]["low"] != results[2]["low"]


def test_equal_evaluations_are_not_different() -> None:
    row = compare_metrics(metrics(FIRST), metrics(FIRST))["rows"][0]
    assert (row["difference"], row["p_t"], row["p_wilcoxon"], row["p_holm"]) == (0.0, 1.0, 1.0, 1.0)


def test_ranks_may_speak_against_a_higher_mean() -> None:
    difference = np.array([-0.01, -0.02, -0.03, -0.04, -0.05, -0.06, 0.0, 0.5])  # one gains much, six lose a little
    found = paired_statistics(np.full(8, 0.5), 0.5 + difference, np.random.default_rng(0))
    assert found["difference"] > 0
    assert found["signed_ranks"] == 7 - (1 + 2 + 3 + 4 + 5 + 6)  # ranks of sizes; the zero has none


def test_holm_multiplies_the_smallest_most_and_never_decreases() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_only_common_cases_are_compared_and_the_others_are_named() -> None:
    comparison = compare_metrics(metrics(FIRST), metrics(SECOND[:-1], first_case=1))
    assert len(comparison["cases"]) == 7
    assert (comparison["only_a"], comparison["only_b"]) == (["case_0"], [])


def test_fewer_than_two_common_cases_are_refused() -> None:
    with pytest.raises(CrossmodaError, match=r"only 0 case\(s\) in common"):
        compare_metrics(metrics(FIRST), metrics(SECOND, first_case=50))


def test_the_command_prints_a_table_that_names_the_better_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "a.json", metrics(FIRST))
    write_json(tmp_path / "b.json", metrics(SECOND))
    assert compare_command(tmp_path / "a.json", tmp_path / "b.json") == 0
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines() if line.startswith("vs ")] == ["B", "B", "-"]


def test_a_file_without_cases_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"structures": {}})
    with pytest.raises(CrossmodaError, match=r"a.json: holds no list of cases"):
        compare_command(tmp_path / "a.json", tmp_path / "a.json")
