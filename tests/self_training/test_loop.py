"""The whole loop with the real bundles, at the smallest size."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from support import LOOP, planned, recorded, run_loop, tiny_loop

from crossmoda.__main__ import main
from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume, same_grid, write_volume
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.files import read_json, sha256_of_tree
from crossmoda.self_training import continue_run, load_run
from crossmoda.self_training.datalists import view_items
from crossmoda.self_training.progress import Progress

SETTINGS = tiny_loop(
    rounds=1,
    # An untrained network finds nothing: a rule that asks for a tumour would leave no pseudo-label to look at.
    rules=[{"_target_": "crossmoda.self_training.WeightByCertainty", "power": 1.0}],
)

pytestmark = pytest.mark.usefixtures("in_the_repository")


def run_tiny(dataset: Path, run: Path, **changes: Any) -> None:
    run_loop(dataset, run, **{**SETTINGS, **changes})


def steps(run: Path) -> dict[str, str]:
    """Return ``folder/step -> finished`` of all steps of a run."""
    manifests = sorted(run.rglob("manifest.json"))
    return {
        f"{path.parent.relative_to(run)}/{name}": record["finished"] + record["key"]
        for path in manifests
        for name, record in read_json(path)["steps"].items()
    }


@pytest.fixture(scope="module")
def finished(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds with anchors and report."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    run_tiny(tiny_dataset, run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(finished, tmp_path / "run")  # keeps modification times
    return tmp_path / "run"


def test_bundle_has_what_monai_looks_for(tiny_dataset: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(LOOP / "train.yaml"),
        workflow_type="train",
        logging_file=False,
        dataset_dir=str(tiny_dataset),
        output_dir=str(tmp_path / "run"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.max_epochs == 3


def test_a_run_holds_models_labels_metrics_comparison_and_report(finished: Path, tiny_dataset: Path) -> None:
    comparison = read_json(finished / "comparison.json")
    assert {"source_only", "translated", "self_trained", "oracle", "recovered"} == set(comparison)
    assert comparison["oracle"]["vs"]["dice"]["n"] == 2
    current = read_json(finished / "current.json")
    assert current["round"] == 1
    assert (finished / current["segmenter"]).is_file()
    assert all((finished / view["weights"]).is_file() for view in current["translators"].values())
    assert list(current["translators"]) == ["cyclegan"]
    assert (finished / "report.html").stat().st_size > 10_000
    sidecar = read_json(finished / "round_1" / "segmenter" / "model.json")
    assert sidecar["round"] == 1
    assert sidecar["structures"] == ["vs", "cochlea"]
    assert len(sidecar["data_hash"]) == len(sidecar["config_hash"]) == 64
    scores = read_json(finished / "round_1" / "uncertainty" / "uncertainty.json")
    for item in load_datalist(tiny_dataset)["target"] + load_datalist(tiny_dataset)["validation"]:
        case = item["case"]
        assert same_grid(finished / "round_1" / "predictions" / f"{case}_Label.nii.gz", item["image"])
        assert same_grid(finished / "round_1" / "uncertainty" / f"{case}_uncertainty.nii.gz", item["image"])
        assert 0 <= scores[case] <= 1


def test_a_run_does_the_steps_that_it_planned(finished: Path) -> None:
    assert recorded(finished) == planned(finished)
    assert list(planned(finished)) == ["round_0", "round_1", "anchors/source_only", "anchors/oracle", "."]


def test_an_estimate_is_near_what_the_run_took_and_tells_it_the_time_left(
    run: Path, tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "sizes.yaml", tmp_path / "rounds.yaml"]
    files[0].write_text(yaml.safe_dump({**SETTINGS, "rounds": 7}))
    files[1].write_text("rounds: 1")
    configs = [argument for file in files for argument in ("--config", str(file))]
    assert main(["estimate", str(tiny_dataset), *configs, "--price_per_hour", "2", "--output_dir", str(run)]) == 0
    printed = capsys.readouterr().out
    found = read_json(run / "estimate.json")
    assert {*found["steps"], *found["left_out"]} == {step.key for step in load_run(run).plan()}
    assert {key.rsplit("/", 1)[1] for key in found["left_out"]} == {"reviewed", "metrics", "report"}
    assert found["scans"] == {"source": 2, "target": 2}
    seconds = {
        f"{folder}/{name}": record["seconds"]
        for folder in recorded(run)
        for name, record in read_json(run / folder / "manifest.json")["steps"].items()
    }
    took, expected = sum(seconds[key] for key in found["steps"]), sum(found["steps"].values())
    assert took / 3 < expected < 3 * took
    assert found["hours"] == pytest.approx(expected / 3600, abs=1e-3)
    assert f"cost: {2 * found['hours']:.2f}, at 2 an hour" in printed
    assert "translator_cyclegan, training step          4 " in printed  # two epochs of two, in round 0 alone
    assert "segmenter, training step                   16 " in printed  # of two rounds and two anchors
    shutil.rmtree(run / "round_1")
    seconds_left, unknown = Progress(run, load_run(run).plan()).left()
    assert 0 < seconds_left < expected
    assert unknown == 0


def test_the_second_round_learns_from_translated_and_real_scans(finished: Path) -> None:
    datalist = load_datalist(finished / "round_1" / "datalist.json")
    assert [item["view"] for item in datalist["source"]] == ["cyclegan", "cyclegan"]
    assert all("pseudo_hrt2" in item["image"] for item in datalist["source"])
    assert [item["weight"] for item in datalist["source"]] == [0.3, 0.3]  # the bundle's first pseudo_hrt2_weights
    assert [item["provenance"]["status"] for item in datalist["target"]] == ["pseudo", "pseudo"]
    assert [item["provenance"]["round"] for item in datalist["target"]] == [0, 0]
    assert all("truth" not in str(item.get("label", "")) for item in datalist["source"] + datalist["target"])


def test_only_the_oracle_reads_the_truth_of_targets(finished: Path, tiny_dataset: Path) -> None:
    oracle = load_datalist(finished / "anchors" / "oracle" / "datalist.json")
    assert oracle["source"] == []
    assert all(Path(item["label"]).parent == tiny_dataset / "truth" for item in oracle["target"])
    source_only = load_datalist(finished / "anchors" / "source_only" / "datalist.json")
    assert all("_ceT1" in item["image"] for item in source_only["source"])
    assert source_only["target"] == []


def test_a_second_run_does_nothing_again(run: Path, tiny_dataset: Path) -> None:
    before, content = steps(run), sha256_of_tree(run)
    served = (run / "current.json").stat()
    run_tiny(tiny_dataset, run)
    assert steps(run) == before
    now = (run / "current.json").stat()
    assert (now.st_ino, now.st_mtime_ns) == (served.st_ino, served.st_mtime_ns)  # no server loads round 0 meanwhile
    assert sha256_of_tree(run) == content


def test_a_changed_rule_redoes_what_depends_on_it_and_nothing_else(run: Path, tiny_dataset: Path) -> None:
    before = steps(run)
    rules = [{"_target_": "crossmoda.self_training.WeightByCertainty", "power": 2.0}]
    run_tiny(tiny_dataset, run, rules=rules)
    after = steps(run)
    redone = {name for name in after if after[name] != before.get(name)}
    # What follows only if the training gave other weights and labels, which with so little of it need not be.
    assert redone - {"round_1/predictions", "round_1/metrics"} == {
        "round_1/pseudo_labels",
        "round_1/segmenter",
        "./report",
    }


def test_a_round_of_real_scans_alone_stops_where_no_pseudo_label_is_accepted(run: Path, tiny_dataset: Path) -> None:
    rules = [  # two structures, yet nearer than two voxels can be
        {"_target_": "crossmoda.self_training.RequireStructures"},
        {"_target_": "crossmoda.self_training.RequireNear", "distance_mm": 1e-3},
    ]
    before = steps(run)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps the error, its cause is checked
        run_tiny(tiny_dataset, run, rules=rules, pseudo_hrt2_weights=[0.0])
    message = str(find_user_error(caught.value))
    assert re.search(r"round 1: none of 2 pseudo-labels is accepted; left out by Require\w+ [12] \(e\.g\. ", message)
    assert "loosen these rules" in message
    assert "\n" not in message
    assert {name for name, value in steps(run).items() if value != before.get(name)} == {"round_1/pseudo_labels"}
    assert {fate["fate"] for fate in read_json(run / "round_1" / "pseudo_labels" / "fates.json").values()} == {
        "left out"
    }


@pytest.mark.parametrize("weights", [[], [0.5, -0.1], -1, [float("nan")], ["much"]])
def test_impossible_weights_of_translated_scans_are_refused_before_any_training(
    tiny_dataset: Path, tmp_path: Path, weights: Any
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps the error, its cause is checked
        run_tiny(tiny_dataset, tmp_path / "run", pseudo_hrt2_weights=weights)
    assert "pseudo_hrt2_weights" in str(find_user_error(caught.value))
    assert not (tmp_path / "run" / "round_0").exists()


@pytest.mark.parametrize("overlay", ["prepare_clipped.yaml", "prepare_deconvolved.yaml"])
def test_a_preparation_of_the_training_alone_is_refused_before_any_training(
    tiny_dataset: Path, tmp_path: Path, overlay: str
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps the error, its cause is checked
        run_tiny(tiny_dataset, tmp_path / "run", segmenter_overlays=[overlay])
    assert "the segmenter's prepare differs between its training and" in str(find_user_error(caught.value))
    assert not (tmp_path / "run" / "round_0").exists()


def test_a_case_that_the_user_weighted_keeps_its_weight_in_every_round() -> None:
    source = [{"case": "a", "label": "a.nii.gz", "weight": 0.5}, {"case": "b", "label": "b.nii.gz"}]
    items = view_items(source, {"cyclegan": lambda item: f"view/{item['case']}_hrT2.nii.gz"}, 0.3)
    assert [item["weight"] for item in items] == [0.15, 0.3]
    assert [item["image"] for item in items] == ["view/a_hrT2.nii.gz", "view/b_hrT2.nii.gz"]


def targets(kept: int, label: Path | str = "x") -> list[dict[str, Any]]:
    """Return four target items of which the first few have a label that is learnt from, and the others a reason."""
    finding = {"rule": "RequireNear", "effect": "left out", "text": "vs 23.0 mm from the nearest cochlea"}
    provenance = {"status": "pseudo", "rules": [finding]}
    weights = [0.7 if number < kept else 0.0 for number in range(4)]
    return [
        {"case": str(n), "label": str(label), "labels": NUMBERS, "weight": weight, "provenance": provenance}
        for n, weight in enumerate(weights)
    ]


NUMBERS = {"vs": 1, "cochlea": 2}


def label_of(folder: Path, *numbers: int) -> Path:
    """Return a label map in which these numbers lie."""
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, : len(numbers)] = numbers
    write_volume(folder / f"label_{len(numbers)}.nii.gz", array, np.eye(4))
    return folder / f"label_{len(numbers)}.nii.gz"


@pytest.mark.parametrize(("kept", "weight"), [(1, 1.0), (2, 0.0), (4, 0.0)])
def test_translated_scans_step_in_where_fewer_than_half_of_the_real_ones_have_a_label(
    finished: Path, tmp_path: Path, kept: int, weight: float
) -> None:
    loop, label = load_run(finished, pseudo_hrt2_weights=0), label_of(tmp_path, 1, 2)
    assert loop.pseudo_hrt2_weight(1, targets(kept, label)) == weight
    assert loop.pseudo_hrt2_weight(0, targets(kept, label)) == 1.0


def test_translated_scans_step_in_where_no_real_one_shows_a_structure(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = load_run(finished, pseudo_hrt2_weights=0)
    assert loop.pseudo_hrt2_weight(1, targets(4, label_of(tmp_path, 1))) == 1.0
    assert "round 1: no label of a real scan shows cochlea; the translated scans count fully" in caplog.text


def test_translated_scans_of_another_modality_than_the_scans_do_not_step_in(finished: Path, tmp_path: Path) -> None:
    loop, label = load_run(finished, pseudo_hrt2_weights=0), label_of(tmp_path, 1, 2)
    loop.work = replace(loop.work, target_view=next(iter(loop.work.views.values())))
    assert [loop.pseudo_hrt2_weight(1, targets(kept, label)) for kept in (1, 4)] == [0.0, 0.0]


def test_without_any_accepted_pseudo_label_only_a_round_that_weighs_translated_scans_goes_on(
    finished: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = r"none of 4 pseudo-labels is accepted; left out by RequireNear 4 \(e\.g\. vs 23\.0 mm"
    assert load_run(finished, pseudo_hrt2_weights=0.3).pseudo_hrt2_weight(1, targets(0)) == 0.3
    assert re.search(rf"round 1: {told}.*fates\.json.*translated scans alone, as round 0 did", caplog.text)
    with pytest.raises(CrossmodaError, match=rf"round 2: {told}.*a weight above 0 in pseudo_hrt2_weights"):
        load_run(finished, pseudo_hrt2_weights=[0.3, 0]).pseudo_hrt2_weight(2, targets(0))


def test_what_a_rule_reads_but_nothing_writes_is_named_before_any_training(tiny_dataset: Path, tmp_path: Path) -> None:
    for rule, named in (
        ({"_target_": "crossmoda.self_training.RequireProbability"}, "add confidence.yaml"),
        ({"_target_": "crossmoda.self_training.RequireAgreement"}, "add crf.yaml and crf_agreement.yaml"),
        (
            {"_target_": "crossmoda.self_training.TrustVoxels", "source": "uncertainty"},
            "add variant_partial_labels.yaml",
        ),
        ({"_target_": "crossmoda.self_training.RequireNear", "by_structure": True}, "add variant_partial_labels.yaml"),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps the error, its cause is checked
            run_tiny(tiny_dataset, tmp_path / "run", rules=[rule])
        assert named in str(find_user_error(caught.value))
        assert not (tmp_path / "run" / "round_0").exists()


def test_a_changed_device_or_number_of_workers_redoes_nothing(run: Path, tiny_dataset: Path) -> None:
    before = steps(run)
    settings = {**SETTINGS["translator_settings"], "num_workers": 1}
    run_tiny(tiny_dataset, run, translator_settings=settings)
    after = steps(run)
    del before["./report"], after["./report"]  # the page shows the settings
    assert after == before


def test_a_misspelt_setting_is_named_before_any_training(tiny_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps the error, its cause is checked
        run_tiny(tiny_dataset, tmp_path / "run", segmenter_settings={"max_epoch": 3})
    message = str(find_user_error(caught.value))
    assert message.startswith("settings of the segmenter: no such key 'max_epoch' in ")
    assert message.endswith("train.yaml; did you mean 'max_epochs'?")
    assert not (tmp_path / "run" / "round_0").exists()


def test_a_translator_that_cannot_be_built_is_found_before_any_training(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = {
        **{key: {**SETTINGS[key], "sites": ["ldn", "etz"]} for key in SETTINGS if key.startswith("translator_")},
        "views::cyclegan::train_overlays": ["variant_unet_generator.yaml"],
    }
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps the error, its cause is checked
        run_tiny(tiny_dataset, tmp_path / "run", **settings)
    assert str(find_user_error(caught.value)).startswith("the U-Net generator knows one style; leave sites out")
    assert not (tmp_path / "run" / "round_0").exists()


def test_a_corrected_label_takes_the_place_of_the_pseudo_label(run: Path, tiny_dataset: Path) -> None:
    from crossmoda.self_training.review import publish

    studies = run / "review"
    publish(run, studies)
    target = load_datalist(tiny_dataset)["target"]
    image = read_volume(target[0]["image"])
    corrected = np.zeros(image.array.shape, np.uint8)
    corrected[3:6, 4:6, 2:4] = 1
    corrected[8:9, 4:6, 2:4] = 2
    final = studies / "labels" / "final"
    final.mkdir(parents=True, exist_ok=True)
    write_volume(final / f"{target[0]['case']}_hrT2.nii.gz", corrected, image.affine)

    before = steps(run)
    current = continue_run(run, studies)

    assert current["round"] == 2
    assert {name: value for name, value in steps(run).items() if name in before and name != "./report"} == {
        name: value for name, value in before.items() if name != "./report"
    }
    datalist = load_datalist(run / "round_2" / "datalist.json")
    assert [item["weight"] for item in datalist["source"]] == [0.0, 0.0]  # the second: real scans alone
    items = {item["case"]: item for item in datalist["target"]}
    reviewed = items[target[0]["case"]]
    assert reviewed["weight"] == 1.0
    assert reviewed["provenance"]["status"] == "corrected"
    assert np.array_equal(read_volume(reviewed["label"]).array, corrected)
    assert items[target[1]["case"]]["provenance"]["status"] == "pseudo"


def test_a_run_is_built_again_from_its_own_description(finished: Path) -> None:
    loop = load_run(finished)
    assert loop.max_epochs == 2
    assert list(loop.work.views) == ["cyclegan"]
    assert loop.work.segmenter.train["patch_size"] == [32, 32, 8]
    assert loop.work.rules[0].power == 1.0


def test_two_processes_do_not_share_a_run(run: Path) -> None:
    from crossmoda.self_training.loop import exclusive

    with exclusive(run), pytest.raises(CrossmodaError, match="another process works in this run"):
        load_run(run).run()


@pytest.mark.timeout(300)
def test_a_run_that_is_killed_goes_on_to_the_same_result(finished: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    run, overlay = tmp_path / "run", tmp_path / "sizes.yaml"
    overlay.write_text(yaml.safe_dump({**SETTINGS, "anchors": False}))
    files = f"['{LOOP / 'train.yaml'}','{overlay}']"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", files, "--logging_file", "False"]
    command += ["--dataset_dir", str(tiny_dataset), "--output_dir", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums of as many parts as ours
    for waited_for in (
        "round_0/.translator_cyclegan.partial-*/translator_cyclegan/checkpoints/training.pt",
        "round_1/pseudo_labels",
    ):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(run.glob(waited_for)):
            time.sleep(0.05)
        assert process.poll() is None, f"ended before {waited_for} was there"
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True)

    for number in (0, 1):
        ours, theirs = (read_json(path / f"round_{number}" / "metrics.json") for path in (run, finished))
        assert ours == theirs
    assert not list(run.rglob("*.partial-*"))


def test_inference_repeats_the_last_round_s_predictions(finished: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=[str(LOOP / "inference.yaml"), str(LOOP / "evaluate.yaml")],
        workflow_type="inference",
        logging_file=False,
        run_dir=str(finished),
        dataset_dir=str(tiny_dataset),
        truth_dir=str(tiny_dataset / "truth"),
        output_dir=str(tmp_path),
        sections=["validation"],
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()

    for item in load_datalist(tiny_dataset)["validation"]:
        name = f"{item['case']}_Label.nii.gz"
        ours, theirs = (read_volume(folder / name) for folder in (tmp_path, finished / "round_1" / "predictions"))
        assert np.array_equal(ours.array, theirs.array)
        assert (tmp_path / f"{item['case']}_uncertainty.nii.gz").is_file()
    assert read_json(tmp_path / "metrics.json")["structures"]["vs"]["dice"]["n"] >= 2


def test_mlflow_tracks_the_rounds(tiny_dataset: Path, run: Path) -> None:
    workflow = ConfigWorkflow(
        config_file=str(LOOP / "train.yaml"),
        workflow_type="train",
        logging_file=False,
        tracking="mlflow",
        dataset_dir=str(tiny_dataset),
        output_dir=str(run),
        **SETTINGS,
    )
    workflow.initialize()
    workflow.run()
    with closing(sqlite3.connect(run / "mlruns.db")) as store:
        recorded = {(name, step) for name, step in store.execute("select key, step from metrics")}
    assert {("vs_dice", 1), ("vs_dice", 2), ("cochlea_dice", 2)} <= recorded
