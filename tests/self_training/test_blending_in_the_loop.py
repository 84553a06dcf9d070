"""Tumour blending as a part of the loop, with the real bundles at the smallest size."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support import planned, recorded, run_loop, tiny_loop

from crossmoda.data.datalist import load_datalist, segmentation_items
from crossmoda.data.volumes import same_grid
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.files import read_json, sha256_of, sha256_of_tree, write_json
from crossmoda.self_training import TumourBlending, load_run
from crossmoda.self_training.datalists import blended_items

RULES = [
    {"name": "vs", "structure": "vs", "lambdas": [0.5], "scales": [3]},
    {"name": "cochlea", "structure": "cochlea", "site": "ldn", "lambdas": [3.0], "scales": [4]},
]
SETTINGS = {
    **tiny_loop(
        rounds=0,
        anchors=False,
        translator_settings={"iterations_per_epoch": 1, "max_epochs": 1},
        segmenter_settings={"iterations_per_epoch": 1, "max_epochs": 1},
    ),
    "blend": True,
    "singan_settings": {"filters": 4, "kernel_size": 3, "layers": 3, "min_size": 8, "scale_factor": 0.7},
    "singan_training_settings": {"iterations_per_scale": 2, "epochs_per_scale": 1},
    "blending_settings": {"rules": RULES},
    "blending_weight": 0.5,
}

pytestmark = pytest.mark.usefixtures("one_thread", "in_the_repository")


def run_tiny(dataset: Path, run: Path, **changes: Any) -> None:
    run_loop(dataset, run, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def finished(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of round 0 with blending."""
    run = tmp_path_factory.mktemp("runs") / "blended"
    run_tiny(tiny_dataset, run)
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "run")  # keeps modification times
    return tmp_path / "run"


def keys(run: Path) -> dict[str, str]:
    """Return the key and end of every step of round 0."""
    steps = read_json(run / "round_0" / "manifest.json")["steps"]
    return {name: record["key"] + record["finished"] for name, record in steps.items()}


def test_augmented_volumes_join_the_datalist_with_their_case_s_label(finished: Path, tiny_dataset: Path) -> None:
    cases = {item["case"]: item for item in load_datalist(tiny_dataset)["source"]}
    assert {item["site"] for item in cases.values()} == {"ldn", "etz"}
    items = load_datalist(finished / "round_0" / "datalist.json")["source"]
    ldn = next(case for case, item in cases.items() if item["site"] == "ldn")
    assert [(item["case"], item["view"], item["weight"]) for item in items] == [
        *[(case, "cyclegan", 1.0) for case in cases],
        *[(case, "cyclegan+vs_x0.5_scale3", 0.5) for case in cases],
        (ldn, "cyclegan+cochlea_x3_scale4", 0.5),
    ]
    assert items[-1]["augmentation"] == {
        "view": "cyclegan",
        "rule": "cochlea",
        "structure": "cochlea",
        "lambda": 3.0,
        "scale": 4,
    }
    for item in items:
        assert item["label"] == cases[item["case"]]["label"]
        assert same_grid(item["image"], item["label"])
    assert len(segmentation_items(finished / "round_0" / "datalist.json", ("source",))) == 5


def test_the_steps_are_recorded_and_the_singan_says_what_made_it(finished: Path, tiny_dataset: Path) -> None:
    steps = read_json(finished / "round_0" / "manifest.json")["steps"]
    assert recorded(finished) == planned(finished)
    assert list(steps)[:4] == ["translator_cyclegan", "pseudo_hrt2/cyclegan", "singan", "blended/cyclegan"]
    assert set(steps["blended/cyclegan"]["inputs"]) == {"pseudo_hrt2", "weights"}
    sidecar = read_json(finished / "round_0" / "singan" / "model.json")
    assert sidecar["case"] == load_datalist(tiny_dataset)["target"][0]["case"]
    assert len(sidecar["config_hash"]) == len(sidecar["data_hash"]) == 64
    assert torch.load(finished / "round_0" / "singan" / "model.pt", weights_only=True)["noise_amplitudes"].shape == (6,)


def test_the_report_shows_counts_and_picture(finished: Path) -> None:
    page = (finished / "report.html").read_text(encoding="utf-8")
    section = page[page.index("Tumour blending, cyclegan") :]
    assert "<td>2 of 2</td><td>2</td>" in section
    assert '<td>1 of 2</td><td>1</td><td class="left wrap">1 x site etz, not ldn</td>' in section
    assert section.index("data:image/png;base64,") < section.index('id="cases"')
    assert "SinGAN, round 0" in page


def test_a_second_run_does_nothing_again(run: Path, tiny_dataset: Path) -> None:
    content = sha256_of_tree(run)
    run_tiny(tiny_dataset, run)
    assert sha256_of_tree(run) == content


def test_other_factors_redo_the_blending_and_what_learns_from_it(run: Path, tiny_dataset: Path) -> None:
    def made() -> tuple[str, str]:
        return sha256_of(run / "round_0" / "segmenter" / "model.pt"), sha256_of_tree(run / "round_0" / "predictions")

    before, (weights, labels) = keys(run), made()
    run_tiny(tiny_dataset, run, blending_settings={"rules": [{**RULES[0], "lambdas": [0.6]}]})
    after, (other_weights, other_labels) = keys(run), made()
    redone = {name for name in after if after[name] != before.get(name)}
    assert redone - {"predictions", "metrics"} == {"blended/cyclegan", "segmenter"}
    assert ("predictions" in redone) == (other_weights != weights)  # so little training need not change them
    assert ("metrics" in redone) == (other_labels != labels)
    assert not list((run / "round_0" / "blended").rglob("*_x0.5_*"))


def test_without_a_singan_none_is_trained(run: Path, tiny_dataset: Path) -> None:
    (run / "round_0" / "singan" / "model.pt").unlink()
    run_tiny(tiny_dataset, run, blending_settings={"rules": RULES, "harmonise": False})
    assert not (run / "round_0" / "singan" / "model.pt").exists()
    items = load_datalist(run / "round_0" / "datalist.json")["source"]
    assert [item["view"] for item in items if item.get("augmentation")] == [
        "cyclegan+vs_x0.5",
        "cyclegan+vs_x0.5",
        "cyclegan+cochlea_x3",
    ]
    assert all(item["augmentation"]["scale"] is None for item in items if item.get("augmentation"))


def test_a_run_cut_off_while_blending_goes_on_to_the_same_volumes(
    finished: Path, run: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossmoda.translation import blending_run

    written: list[Path] = []
    write = blending_run.write_volume

    def cut_off(path: Path, *args: Any, **options: Any) -> None:
        if len(written) == 1:
            raise KeyboardInterrupt("cut off")
        written.append(path)
        write(path, *args, **options)

    manifest = read_json(run / "round_0" / "manifest.json")
    del manifest["steps"]["blended/cyclegan"]
    write_json(run / "round_0" / "manifest.json", manifest)
    shutil.rmtree(run / "round_0" / "blended")
    monkeypatch.setattr(blending_run, "write_volume", cut_off)
    with pytest.raises(BaseException, match="cut off"):
        run_tiny(tiny_dataset, run)
    (kept,) = (run / "round_0").glob(".blended_cyclegan.partial-*/blended/cyclegan/*.nii.gz")
    assert kept.name == written[0].name
    written.clear()
    monkeypatch.setattr(
        blending_run, "write_volume", lambda path, *a, **o: (written.append(path), write(path, *a, **o))
    )
    run_tiny(tiny_dataset, run)
    assert len(written) == 2  # of three
    assert sha256_of_tree(run / "round_0" / "blended") == sha256_of_tree(finished / "round_0" / "blended")


def test_a_run_with_blending_is_built_again_from_its_own_description(finished: Path) -> None:
    blending = load_run(finished).work.blending
    assert isinstance(blending, TumourBlending)
    assert blending.weight == 0.5
    assert blending.inference["rules"] == RULES
    assert blending.shared["crop_size"] == [48, 32]


def test_a_run_without_blending_says_so_and_has_none(finished: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((finished / "run.yaml").read_text())
    assert settings["trainer"]["blending"]["_target_"].endswith("TumourBlending")
    shutil.copytree(finished, tmp_path / "run")
    assert load_run(tmp_path / "run", blending=None).work.blending is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blending_settings": {"rules": [{**RULES[0], "scales": [9]}]}}, "scale 9 is not one to harmonise from"),
        ({"blending_settings": {"rules": [{**RULES[0], "structure": "intra"}]}}, "'intra' is not in the labels"),
        ({"blending_settings": {"rules": RULES, "lambda": 2}}, "settings of the blending: no such key 'lambda' in"),
        ({"blending_settings": {"rules": RULES, "filters": 8}}, "filters is 4 for the SinGAN's training and 8 for"),
        (
            {"singan_training_settings": {"site": "ukm"}},
            "no target (hrT2) scan of site 'ukm'; there are scans of etz (1), ldn (1)",
        ),
        ({"blending_settings": {"rules": [{**RULES[0], "site": "ukm"}]}}, "rules: site of "),
        ({"singan_settings": {"min_size": 40}}, "slices of 48 x 32 pixels are too small"),
        ({"singan_training_settings": {"slice_index": 99}}, "has no slice_index 99; its slices are 0 to"),
        ({"singan_training_settings": {"structure": "intra"}}, "structure 'intra' is not in the labels"),
        ({"blending_weight": -1}, "blending_weight is -1"),
        ({"singan_training_settings": {"iterations_per_scale": 30}}, "must be a multiple of epochs_per_scale 8"),
    ],
)
def test_what_would_stop_the_blending_is_found_before_any_training(
    changes: dict[str, Any], message: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps the error, its cause is checked
        run_tiny(tiny_dataset, tmp_path / "run", **changes)
    assert message in str(find_user_error(caught.value))
    assert not (tmp_path / "run" / "round_0").exists()


def test_several_processes_are_refused() -> None:
    with pytest.raises(CrossmodaError, match="leave processes of the blending at 1"):
        TumourBlending("bundles/cet1_to_hrt2_translation", processes=2)


def test_the_singan_depends_on_labels_only_where_they_choose_its_slice(
    tiny_dataset: Path, tmp_path: Path, repository: Path
) -> None:
    datalist = load_datalist(tiny_dataset)
    root = str(repository / "bundles" / "cet1_to_hrt2_translation")
    named = TumourBlending(root, train={"slice_index": 3}).singan_config(datalist["source"], datalist["target"])
    found = TumourBlending(root).singan_config(datalist["source"], datalist["target"])
    assert "labels" in found
    assert "labels" not in named
    assert named["data"] == found["data"]
    other = TumourBlending(root, train={"case": datalist["target"][1]["case"]})
    assert other.singan_config(datalist["source"], datalist["target"])["data"] != found["data"]


def test_a_case_that_the_user_weighted_keeps_its_weight_when_augmented(tmp_path: Path) -> None:
    entry = {"case": "a", "rule": "r", "structure": "vs", "lambda": 2.0, "scale": None, "file": "a_vs_x2_hrT2.nii.gz"}
    write_json(tmp_path / "plan.json", {"volumes": [entry]})
    source = [{"case": "a", "label": "a.nii.gz", "weight": 0.5}, {"case": "b", "label": "b.nii.gz"}]
    (item,) = blended_items(source, {"cut": tmp_path}, "plan.json", "_hrT2.nii.gz", 0.3)
    assert item["weight"] == 0.15
    assert item["view"] == "cut+vs_x2"
    assert item["label"] == "a.nii.gz"
