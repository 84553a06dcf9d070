"""The translation bundle from files to files, on a data set of a few thousand voxels."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from support import assert_same_course, interrupt, train_in_processes, workflow_of

from crossmoda.data.datalist import load_datalist
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.translation.generators import ResNetGenerator

BUNDLE = "cet1_to_hrt2_translation"
SHAPE = (40, 36, 8)
SPACING = (1.0, 1.2, 1.5)
AXES = {1: ("L", "P", "S"), 2: ("R", "A", "S"), 106: ("R", "P", "I"), 107: ("A", "R", "S"), 211: ("R", "A", "S")}
TINY: dict[str, Any] = {
    "spacing": [1.0, 1.0, 2.0],
    "crop_size": [32, 28],
    "ngf": 4,
    "n_blocks": 1,
    "device": "cpu",
    "num_workers": 0,
}
TINY_TRAINING: dict[str, Any] = {
    **TINY,
    "patch_size": [28, 28],
    "ndf": 4,
    "batch_size": 2,
    "iterations_per_epoch": 3,
    "max_epochs": 4,
    "pool_size": 4,
    "ema_momentum": 0.1,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def head(number: int, structure: float) -> np.ndarray:
    """Return an off-centre ellipsoid with one bright or dark structure in noise, (X, Y, Z)."""
    grid = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    inside = (grid[0] / 0.7 - 0.1) ** 2 + (grid[1] / 0.8) ** 2 < 1
    spot = (grid[0] - 0.3) ** 2 + (grid[1] + 0.1) ** 2 < 0.04
    noise = np.random.default_rng(number).rayleigh(2, SHAPE)
    return np.asarray(100 * inside + structure * spot + noise, dtype=np.float32)


def affine_of(number: int) -> np.ndarray:
    """Return an affine whose axes run as AXES says, off the origin."""
    orientation = nib.orientations.axcodes2ornt(AXES[number])
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(orientation):
        affine[int(world), axis] = sign * SPACING[axis]
    affine[:, 3] = [7, -11, 13, 1]
    return affine


def save(path: Path, array: np.ndarray, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine_of(number)), path)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the layout of 2022: two source, two target, one validation case, each on axes of its own."""
    root = tmp_path_factory.mktemp("dataset")
    training = root / "crossmoda2022_training"
    rows = ["crossmoda_name,center,group,koos"]
    for number in (1, 2):
        case = f"crossmoda2021_ldn_{number}"
        image = head(number, 150)
        save(training / "training_source" / f"{case}_ceT1.nii.gz", image, number)
        save(training / "training_source" / f"{case}_Label.nii.gz", (image > 200).astype(np.uint8), number)
        rows.append(f"{case},London,training_source,2")
    for number in (106, 107):
        save(training / "training_target" / f"crossmoda2021_ldn_{number}_hrT2.nii.gz", head(number, -60), number)
    save(root / "crossmoda2022_validation" / "crossmoda2021_ldn_211_hrT2.nii.gz", head(211, -60), 211)
    (training / "infos_source_training.csv").write_text("\n".join(rows) + "\n")
    return root


def train(
    configs: Path, dataset: Path, output: Path, stop_in_epoch: int | None = None, **overrides: Any
) -> ConfigWorkflow:
    settings = {**TINY_TRAINING, **overrides}
    workflow = workflow_of(configs, "train", "train", dataset_dir=str(dataset), output_dir=str(output), **settings)
    if stop_in_epoch is not None:
        event = Events.ITERATION_COMPLETED(once=3 * (stop_in_epoch - 1) + 2)  # three iterations an epoch
        workflow.trainer.add_event_handler(event, interrupt)
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.fixture(scope="module")
def trained(configs: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an unbroken training of four epochs."""
    output = tmp_path_factory.mktemp("translator")
    train(configs, dataset, output)
    return output


@pytest.fixture(scope="module")
def translated(configs: Path, dataset: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the pseudo-hrT2 of both source cases."""
    output = tmp_path_factory.mktemp("pseudo_hrt2")
    places = {"dataset_dir": str(dataset), "output_dir": str(output), "weights": str(trained / "model.pt")}
    workflow_of(configs, "inference", "inference", **places, **TINY).run()
    return output


def source_path(dataset: Path, number: int) -> Path:
    return dataset / "crossmoda2022_training" / "training_source" / f"crossmoda2021_ldn_{number}_ceT1.nii.gz"


@pytest.mark.parametrize(("name", "kind"), [("train", "train"), ("inference", "inference")])
def test_all_canonical_properties_are_there(
    name: str, kind: str, configs: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    weights = {"weights": str(trained / "model.pt")} if kind == "inference" else {}
    settings = TINY_TRAINING if kind == "train" else TINY
    places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path)}
    workflow = workflow_of(configs, name, kind, **places, **weights, **settings)
    assert workflow.check_properties() == []


def test_training_leaves_weights_with_their_sidecars_curves_and_pictures(trained: Path) -> None:
    weights = torch.load(trained / "model.pt", weights_only=True)
    ResNetGenerator(ngf=4, n_blocks=1).load_state_dict(weights)
    ResNetGenerator(ngf=4, n_blocks=1).load_state_dict(torch.load(trained / "return_generator.pt", weights_only=True))
    assert json.loads((trained / "model.json").read_text())["epochs"] == 4
    history = json.loads((trained / "history.json").read_text())
    assert history["epoch"] == [1, 2, 3, 4]
    assert {"loss", "loss_cycle_source", "loss_discriminator_target"} <= set(history["series"])
    assert (trained / "previews" / "epoch_004.png").is_file()
    assert list((trained / "logs").glob("events.*"))


def test_second_checkpoint_holds_the_networks_that_are_not_deployed(trained: Path) -> None:
    state = torch.load(trained / "checkpoints" / "training.pt", weights_only=True)["objects"]
    assert {"return_network", "target_discriminator", "source_discriminator", "target_pool"} <= set(state)


def test_the_moving_average_is_what_is_deployed(trained: Path) -> None:
    state = torch.load(trained / "checkpoints" / "training.pt", weights_only=True)["objects"]
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert all(torch.equal(value, state["average"][name]) for name, value in weights.items())
    assert any(not torch.equal(value, state["network"][name]) for name, value in weights.items())


@pytest.mark.parametrize("stop_in_epoch", [2, 3])
def test_a_training_that_was_cut_off_ends_with_the_same_weights(
    stop_in_epoch: int, configs: Path, dataset: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BaseException, match="cut off"):
        train(configs, dataset, tmp_path, stop_in_epoch=stop_in_epoch)
    assert not (tmp_path / "model.pt").exists()
    with caplog.at_level("INFO", logger="crossmoda.engines.state"):
        train(configs, dataset, tmp_path)
    assert f"after epoch {stop_in_epoch - 1}" in caplog.text
    for name in ("model.pt", "return_generator.pt"):
        unbroken, resumed = (torch.load(folder / name, weights_only=True) for folder in (trained, tmp_path))
        assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)
    assert json.loads((tmp_path / "history.json").read_text()) == json.loads((trained / "history.json").read_text())


def test_a_changed_setting_changes_the_fingerprint(configs: Path, dataset: Path, tmp_path: Path) -> None:
    def fingerprint(**overrides: Any) -> str:
        parser = ConfigParser()
        parser.read_config(str(configs / "train.yaml"))
        parser.update({"dataset_dir": str(dataset), "output_dir": str(tmp_path), **TINY_TRAINING, **overrides})
        return str(parser.get_parsed_content("fingerprint"))

    assert fingerprint() == fingerprint(resume=False, num_workers=3)
    changes: list[dict[str, Any]] = [{"seed": 1}, {"ngf": 8}, {"cycle_weight": 9.0}, {"max_epochs": 5}, {"amp": False}]
    assert len({fingerprint(), *(fingerprint(**change) for change in changes)}) == 1 + len(changes)


@pytest.mark.parametrize("number", [1, 2])
def test_translations_lie_on_the_scans_own_grid(number: int, dataset: Path, translated: Path) -> None:
    source = nib.load(source_path(dataset, number))
    pseudo = nib.load(translated / f"crossmoda2021_ldn_{number}_hrT2.nii.gz")
    assert pseudo.shape == source.shape
    np.testing.assert_allclose(pseudo.affine, source.affine, atol=1e-5)
    assert pseudo.get_data_dtype() == np.float32
    assert nib.aff2axcodes(pseudo.affine) == AXES[number]


@pytest.mark.parametrize("number", [1, 2])
def test_translations_are_0_outside_the_window_and_within_0_and_1(number: int, translated: Path) -> None:
    pseudo = nib.load(translated / f"crossmoda2021_ldn_{number}_hrT2.nii.gz").get_fdata()
    assert pseudo.min() == 0
    assert pseudo.max() <= 1
    # a window of 32 x 28 mm in a scan of 40 x 43 mm leaves a rim of at least (43 - 28 - 2) / 1.2 rows in all
    assert (pseudo.max(axis=(0, 2)) == 0).sum() >= 10
    assert pseudo[8:32, 12:24].mean() > 0.05


def test_an_identity_translator_gives_the_scan_back(
    configs: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    """Voxel by voxel, up to the scaling and the resampling: nothing is flipped, shifted or transposed on the way."""
    places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path), "weights": str(trained / "model.pt")}
    same_grid = {**TINY, "spacing": [1.0, 1.2, 1.5], "crop_size": [40, 36]}
    workflow_of(
        configs, "inference", "inference", network="$torch.nn.Identity()", initialize=[], **places, **same_grid
    ).run()
    for number in (1, 2):
        source = nib.load(source_path(dataset, number)).get_fdata()
        pseudo = nib.load(tmp_path / f"crossmoda2021_ldn_{number}_hrT2.nii.gz").get_fdata()
        top = np.percentile(source[source > source.min()], 99.9)
        expected = np.clip((source - source.min()) / (top - source.min()), 0, 1)
        np.testing.assert_allclose(pseudo, expected, atol=1e-4)


def test_missing_weights_stop_inference_with_one_line(configs: Path, dataset: Path, tmp_path: Path) -> None:
    places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path), "weights": str(tmp_path / "none.pt")}
    with pytest.raises(Exception, match=r".") as caught:
        workflow_of(configs, "inference", "inference", **places, **TINY)
    error = find_user_error(caught.value)
    assert error is not None
    assert "none.pt: no weights there" in str(error)


def test_an_empty_section_stops_inference_with_one_line(
    configs: Path, dataset: Path, trained: Path, tmp_path: Path
) -> None:
    from crossmoda.translation.items import section_items

    (tmp_path / "list.json").write_text(
        json.dumps({"edition": "2022", "labels": {"vs": 1, "cochlea": 2}, "source": []})
    )
    with pytest.raises(CrossmodaError, match="section 'source' has no images; name another with --section"):
        section_items(tmp_path / "list.json")
    with pytest.raises(CrossmodaError, match="section 'everything' is unknown"):
        section_items(dataset, "everything")


def test_other_sections_can_be_translated(configs: Path, dataset: Path, trained: Path, tmp_path: Path) -> None:
    places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path), "weights": str(trained / "model.pt")}
    workflow_of(configs, "inference", "inference", section="validation", **places, **TINY).run()
    assert [path.name for path in tmp_path.iterdir()] == ["crossmoda2021_ldn_211_hrT2.nii.gz"]


def test_training_and_inference_agree(configs: Path) -> None:
    training, inference = (yaml.safe_load((configs / name).read_text()) for name in ("train.yaml", "inference.yaml"))
    del training["network_def"]["initialisation"]  # which matters before training only
    shared = ("spacing", "crop_size", "intensity", "ngf", "n_blocks", "antialias", "sites", "context", "agreed")
    for key in ("network_def", "channels", "default_site", "bundle_root", *shared):
        assert training[key] == inference[key], key
    in_training = {key: value for key, value in training["train"]["to_working_space"].items() if key != "label_keys"}
    assert in_training == inference["preprocessing"]


@pytest.mark.parametrize(
    ("overlay", "base", "new"),
    [
        ("multi_gpu_train.yaml", "train.yaml", {"backend", "rank", "processes"}),
        (
            "evaluate.yaml",
            "inference.yaml",
            {
                "truth",
                "structures",
                "ring_mm",
                "reference_section",
                "reference_site",
                "reference_preprocessing",
                "real",
                "one_grid",
                "masks",
                "measures",
                "distances",
                "segmenter",
                "segmenter_weights",
                "segmenter_bundle",
                "segmenter_settings",
                "picture_cases",
            },
        ),
    ],
)
def test_overlays_change_keys_that_exist(overlay: str, base: str, new: set[str], configs: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(configs / base))
    keys = {key.lstrip("+") for key in yaml.safe_load((configs / overlay).read_text())}
    known = {key for key in keys if key in parser or (key.rpartition("::")[0] in parser and "::" in key)}
    assert keys - known == new


def test_the_command_reports_a_missing_model_in_one_line(
    configs: Path, dataset: Path, tmp_path: Path, repository: Path
) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(configs / "inference.yaml")]
    settings = ["--dataset_dir", str(dataset), "--output_dir", str(tmp_path), "--weights", "nowhere/model.pt"]
    done = subprocess.run([*command, *settings], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].startswith("error: nowhere/model.pt: no weights there")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_learn_what_one_with_batches_twice_as_large_learns(
    configs: Path, dataset: Path, tmp_path: Path, repository: Path
) -> None:
    """From replay pools, too, which are full after two of twelve steps."""
    shared = {**TINY_TRAINING, "amp": False, "dataset_dir": dataset, "validation_interval": 2, "pool_size": 5}
    workflow = workflow_of(configs, ["train"], "train", **shared, output_dir=tmp_path / "one")
    workflow.run()
    workflow.finalize()
    two = {**shared, "batch_size": 1, "output_dir": tmp_path / "two"}
    train_in_processes(configs, ["train"], repository, **two)
    assert_same_course(tmp_path / "one", tmp_path / "two")
    before = (tmp_path / "two" / "history.json").read_text()
    train_in_processes(configs, ["train"], repository, **two)  # both go on from the first one's state, at the end
    assert (tmp_path / "two" / "history.json").read_text() == before
    assert [path.name for path in (tmp_path / "two" / "checkpoints").iterdir()] == ["training.pt"]


@pytest.mark.parametrize("structure", ["vs", "cochlea"])
def test_focus_finds_the_slices_on_which_the_label_shows_the_structure(
    structure: str, configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    """By the structure's name and in the order of the slices' heights, whatever way the scan's axes run."""
    places = {"dataset_dir": str(tiny_dataset), "output_dir": str(tmp_path)}
    settings = {
        **TINY_TRAINING,
        "spacing": [1.6, 1.6, 1.5],
        "crop_size": [64, 48],
        "minimum_foreground": 0.0,
        "focus": {structure: 0.5},
    }
    workflow = workflow_of(configs, "train", "train", **places, **settings)
    slices = workflow.parser.get_parsed_content("train::dataset").source
    number = {"vs": 1, "cochlea": 2}[structure]
    for index, item in enumerate(load_datalist(tiny_dataset)["source"]):
        label = np.asarray(nib.as_closest_canonical(nib.load(item["label"])).dataobj)
        assert np.isclose(nib.as_closest_canonical(nib.load(item["label"])).header.get_zooms()[2], 1.5)
        np.testing.assert_array_equal(slices.shows[0][slices.volumes == index], (label == number).any(axis=(0, 1)))
