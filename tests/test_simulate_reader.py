"""The simulated reader: what is saved, in which order, and how curves are read."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from crossmoda.data.volumes import read_volume
from crossmoda.errors import CrossmodaError
from crossmoda.self_training.review import collect
from crossmoda.self_training.review_store import ReviewStore

SCANS = {
    "seed": 5,
    "edition": "2023",
    "field_of_view_mm": [96, 64, 24],
    "coarsen": 3.0,
    "taught": {"ldn": 1},
    "reader": {"ldn": 2, "ukm": 1},
    "judged": {"etz": 1},
}
SHARED = {
    "structures": ["vs", "cochlea"],
    "spacing": [1.6, 1.6, 3.0],
    "crop_size": [48, 32],
    "patch_size": [48, 32, 8],
    "network_def::filters": [4, 4, 8, 8],
}
SIZE: dict[str, Any] = {
    "scans": SCANS,
    "seeds": [3],
    "orders": ["uncertainty", "random"],
    "rounds": 1,
    "corrections": 2,
    "shared": SHARED,
    "train": {"iterations_per_epoch": 2, "max_epochs": 1, "batch_size": 1},
    "next_train": {"learning_rate": 1.0e-4},
    "inference": {},
}


@pytest.fixture(scope="module", autouse=True)
def scripts(repository: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "scripts"))
        patch.syspath_prepend(str(repository / "apps" / "crossmoda_label"))
        patch.chdir(repository)
        yield


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory, scripts: None) -> Path:
    """The output of one seed and two orders of a tiny experiment."""
    output = tmp_path_factory.mktemp("reader") / "out"
    config = output.parent / "config.yaml"
    config.write_text(yaml.safe_dump({"sizes": {"tiny": SIZE}}))
    importlib.import_module("simulate_reader").main(str(output), "tiny", str(config))
    return output


def test_the_reader_saves_the_truth_of_the_most_uncertain_cases(read: Path) -> None:
    run = read / "seed_3" / "uncertainty"
    uncertainty = json.loads((run / "round_0" / "uncertainty" / "uncertainty.json").read_text())
    targets = [item["case"] for item in json.loads((run / "dataset.json").read_text())["target"]]
    first = sorted(targets, key=lambda case: -uncertainty[case])[:2]
    found = collect(run / "review", ["vs", "cochlea"])
    assert sorted(found) == sorted(first)
    for case in first:
        truth = read_volume(read / "scans" / "truth" / f"{case}_Label.nii.gz").array
        meant = np.select([(truth == 1) | (truth == 2), truth == 3], [1, 2])  # extra- and intra-meatal parts are the VS
        assert np.array_equal(found[case].voxels(["vs", "cochlea"]), meant)
        assert found[case].who == "simulated-reader"


def test_the_next_round_learns_from_what_the_reader_saved(read: Path) -> None:
    run = read / "seed_3" / "random"
    items = json.loads((run / "round_1" / "datalist.json").read_text())["target"]
    corrected = json.loads((run / "round_1" / "reader.json").read_text())["corrected"]
    assert len(corrected) == 2
    for item in items:
        saved = item["case"] in corrected
        assert item["provenance"]["status"] == ("corrected" if saved else "pseudo")
        assert (item["weight"] == 1.0) == saved


def test_both_orders_go_on_from_the_same_first_model(read: Path) -> None:
    records = [read / "seed_3" / order / "round_0" / "reader.json" for order in ("uncertainty", "random")]
    assert records[0].read_text() == records[1].read_text()
    record = json.loads(records[0].read_text())
    assert [case["site"] for case in record["judged"].values()] == ["etz"]
    assert sorted(case["site"] for case in record["pool"].values()) == ["ldn", "ldn", "ukm"]
    assert {"uncertainty", "expected_change_ml", "disagreement"} <= record["measures"].keys()


def test_what_has_been_done_is_not_done_again(read: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = read / "seed_3" / "random" / "round_1" / "segmenter" / "model.pt"
    before, table = weights.stat().st_mtime_ns, (read / "reader.md").read_text()
    importlib.import_module("simulate_reader").main(str(read), "tiny", str(read.parent / "config.yaml"))
    assert weights.stat().st_mtime_ns == before
    assert table in capsys.readouterr().out
    assert len(ReviewStore(read / "seed_3" / "random" / "review").read()["objects"]) == 3


def test_other_scans_in_the_folder_are_refused(read: Path) -> None:
    with pytest.raises(CrossmodaError, match="holds other scans; choose another --output_dir"):
        importlib.import_module("simulate_reader").make_scans(read / "scans", {**SCANS, "seed": 6})


def test_corrections_needed_are_the_fewest_that_reach_what_random_order_had_reached() -> None:
    needed = importlib.import_module("reader_curves").corrections_needed
    assert needed([0.5, 0.7, 0.8], [0.5, 0.6, 0.75], 3) == [3, 6]
    assert needed([0.5, 0.9, 0.8], [0.5, 0.7, 0.6], 3) == [3, 3]  # random order fell again: its best counts
    assert needed([0.5, 0.6, 0.7], [0.5, 0.6, 0.9], 3) == [3, None]


def test_corrections_between_rounds_lie_on_straight_lines() -> None:
    needed = importlib.import_module("reader_curves").corrections_between_rounds
    assert needed([0.5, 0.7, 0.8], [0.5, 0.6, 0.775], 4) == pytest.approx([2.0, 7.0])
    assert needed([0.5, 0.6, 0.7], [0.5, 0.4, 0.9], 4) == [0.0, None]


def test_the_ranking_is_the_dice_of_the_labels_of_which_the_first_are_corrected() -> None:
    pool = {"a": {"site": "x", "vs": 0.1, "cochlea": 0.3}, "b": {"site": "x", "vs": 0.7, "cochlea": 0.9}}
    measures = {"uncertainty": {"a": 0.2, "b": 0.4}, "expected_change_ml": {"a": 2.0, "b": 1.0}}
    runs = {"random": [[{"pool": pool, "measures": measures}]]}
    found = importlib.import_module("reader_curves").ranking(runs, ["vs", "cochlea", "mean"])
    assert found["uncertainty"] == pytest.approx([0.5, 0.6, 1.0])
    assert found["expected_change"] == pytest.approx([0.5, 0.9, 1.0])
    assert found["worst first"] == pytest.approx([0.5, 0.9, 1.0])
    assert found["random"] == pytest.approx([0.5, 0.75, 1.0])
