"""Tumour blending from files to files: a SinGAN trained on a slice of the data set, then the augmented volumes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events
from monai.bundle import ConfigParser
from support import interrupt, workflow_of

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import read_volume, same_grid, write_volume
from crossmoda.errors import find_user_error
from crossmoda.files import read_json
from crossmoda.labels import mask_of
from crossmoda.translation.singan import SinGAN

BUNDLE = "cet1_to_hrt2_translation"
PYRAMID: dict[str, Any] = {
    "spacing": [1.6, 1.6, 3.0],
    "crop_size": [48, 32],
    "filters": 4,
    "kernel_size": 3,
    "layers": 3,
    "min_size": 8,
    "scale_factor": 0.7,
}
TINY: dict[str, Any] = {**PYRAMID, "device": "cpu", "iterations_per_scale": 4, "epochs_per_scale": 2}
SCALES = 6  # ceil(ln (8 / 32) / ln 0.7) + 1 = 5 steps
RULES = [
    {"name": "vs", "structure": "vs", "lambdas": [0.5, 1.5], "scales": [3]},
    {"name": "cochlea", "structure": "cochlea", "site": "etz", "lambdas": [3.0], "scales": [4]},
]

pytestmark = pytest.mark.usefixtures("one_thread")


def train(configs: Path, dataset: Path, output: Path, stop_in_epoch: int | None = None, **changes: Any) -> None:
    settings = {**TINY, "dataset_dir": str(dataset), "output_dir": str(output), **changes}
    workflow = workflow_of(configs, "singan_train", "train", **settings)
    if stop_in_epoch is not None:
        event = Events.ITERATION_COMPLETED(once=2 * stop_in_epoch - 1)  # two iterations an epoch
        workflow.trainer.add_event_handler(event, interrupt)
    workflow.run()
    workflow.finalize()


@pytest.fixture(scope="module")
def trained(configs: Path, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of an unbroken training."""
    output = tmp_path_factory.mktemp("singan")
    train(configs, tiny_dataset, output)
    return output


@pytest.fixture(scope="module")
def pseudo(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stand-ins for pseudo-hrT2: the ceT1 scans on their own grids, scaled to [0, 1]."""
    folder = tmp_path_factory.mktemp("pseudo")
    for item in load_datalist(tiny_dataset)["source"]:
        volume = read_volume(item["image"])
        low, high = volume.array.min(), volume.array.max()
        write_volume(folder / f"{item['case']}_hrT2.nii.gz", (volume.array - low) / (high - low), volume.affine)
    return folder


def blend(configs: Path, dataset: Path, pseudo: Path, output: Path, weights: Path | str, **changes: Any) -> None:
    places = {"dataset_dir": str(dataset), "pseudo_hrt2_dir": str(pseudo), "output_dir": str(output)}
    settings = {**PYRAMID, "rules": RULES, "device": "cpu", "weights": str(weights), **places, **changes}
    workflow_of(configs, "tumour_blending", "inference", **settings).run()


def message_of(error: BaseException) -> str:
    return str(find_user_error(error))


def test_training_leaves_weights_with_their_sidecar_curves_and_pictures(trained: Path, tiny_dataset: Path) -> None:
    weights = torch.load(trained / "model.pt", weights_only=True)
    network = SinGAN((48, 32), **{key: value for key, value in PYRAMID.items() if key not in ("spacing", "crop_size")})
    network.load_state_dict(weights)
    assert network.scales == SCALES
    assert (weights["noise_amplitudes"][1:] < 0.2).all()  # a tenth of an error of at most 2
    assert weights["reconstruction_noise"].abs().sum() > 0
    sidecar = read_json(trained / "model.json")
    targets = [item["case"] for item in load_datalist(tiny_dataset)["target"]]
    assert sidecar["case"] == targets[0]
    assert sidecar["epochs"] == 2 * SCALES
    assert sidecar["spacing_mm"] == [1.6, 1.6, 3.0]
    assert read_json(trained / "history.json")["epoch"] == list(range(1, 2 * SCALES + 1))
    assert len(list((trained / "previews").glob("scale_*.png"))) == SCALES


@pytest.mark.parametrize("stop_in_epoch", [2, 5])
def test_a_training_that_was_cut_off_ends_with_the_same_weights(
    stop_in_epoch: int, configs: Path, tiny_dataset: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(BaseException, match="cut off"):
        train(configs, tiny_dataset, tmp_path, stop_in_epoch=stop_in_epoch)
    assert not (tmp_path / "model.pt").exists()
    train(configs, tiny_dataset, tmp_path)
    unbroken, resumed = (torch.load(folder / "model.pt", weights_only=True) for folder in (trained, tmp_path))
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


def test_a_changed_setting_changes_the_fingerprint(configs: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        parser = ConfigParser()
        parser.read_config(str(configs / "singan_train.yaml"))
        parser.update(changes)
        return str(parser.get_parsed_content("fingerprint"))

    assert fingerprint() == fingerprint(resume=False, device="cpu", output_dir="elsewhere")
    changes: list[dict[str, Any]] = [{"seed": 1}, {"case": "x"}, {"slice_index": 3}, {"filters": 8}, {"kernel_size": 3}]
    changes += [{"iterations_per_scale": 8}, {"penalty_weight": 1.0}, {"dataset_dir": "other"}]
    assert len({fingerprint(), *(fingerprint(**change) for change in changes)}) == 1 + len(changes)


def test_volumes_lie_on_their_case_s_grid_and_differ_about_the_structure_alone(
    configs: Path, tiny_dataset: Path, pseudo: Path, trained: Path, tmp_path: Path
) -> None:
    blend(configs, tiny_dataset, pseudo, tmp_path, trained / "model.pt", dilation_pixels=1, sigma_pixels=1.0)
    plan = read_json(tmp_path / "tumour_blending.json")
    datalist = load_datalist(tiny_dataset)
    items = {item["case"]: item for item in datalist["source"]}
    assert plan["counts"]["vs"] == {"structure": "vs", "selected": 2, "of": 2, "volumes": 4}
    assert plan["counts"]["cochlea"]["selected"] == sum(item["site"] == "etz" for item in items.values())
    for entry in plan["volumes"]:
        item = items[entry["case"]]
        assert same_grid(tmp_path / entry["file"], item["label"])
        made, before = (
            read_volume(path) for path in (tmp_path / entry["file"], pseudo / f"{item['case']}_hrT2.nii.gz")
        )
        mask = mask_of(entry["structure"], read_volume(item["label"]).array, datalist["labels"])
        axis = int(np.abs(made.affine[2, :3]).argmax())  # of the file, nearest to the body's length
        elsewhere = ~mask.any(axis=tuple(other for other in range(3) if other != axis))
        assert elsewhere.any()
        assert np.array_equal(np.compress(elsewhere, made.array, axis), np.compress(elsewhere, before.array, axis))
        assert not np.array_equal(made.array[mask], before.array[mask])
    assert (tmp_path / "tumour_blending.png").is_file()


def test_the_naive_augmentation_needs_no_weights(
    configs: Path, tiny_dataset: Path, pseudo: Path, tmp_path: Path
) -> None:
    blend(configs, tiny_dataset, pseudo, tmp_path, tmp_path / "none.pt", harmonise=False)
    names = sorted(path.name for path in tmp_path.glob("*_vs_*.nii.gz"))
    cases = sorted(item["case"] for item in load_datalist(tiny_dataset)["source"])
    assert names == sorted(f"{case}_vs_x{factor}_hrT2.nii.gz" for case in cases for factor in ("0.5", "1.5"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": [{**RULES[0], "scales": [6]}]}, "scale 6 is not one to harmonise from: this pyramid has 1 to 5"),
        ({"rules": [{**RULES[0], "lambda": 2}]}, "rules[0]: no such key 'lambda'; did you mean 'lambdas'?"),
        ({"rules": [{**RULES[0], "volume_above_mm3": 1e9}]}, "no rule selects a case of 2"),
        ({"weights": "nowhere/model.pt"}, "nowhere/model.pt: no weights there"),
        ({"filters": 8}, "weights of another network than network_def (SinGAN)"),
        ({"pseudo_hrt2_dir": "nowhere"}, "no pseudo-hrT2 there; translate the data set first"),
        ({"section": "target"}, "section 'target' has no labelled case"),
        ({"min_size": 40}, "slices of 48 x 32 pixels are too small for a pyramid whose coarsest scale has 40"),
    ],
)
def test_bad_input_stops_blending_before_the_first_volume(
    changes: dict[str, Any],
    message: str,
    configs: Path,
    tiny_dataset: Path,
    pseudo: Path,
    trained: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        blend(configs, tiny_dataset, pseudo, tmp_path / "out", changes.pop("weights", trained / "model.pt"), **changes)
    assert message in message_of(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"case": "nobody"}, "no target scan with case 'nobody'"),
        (
            {"site": "eti"},
            "no target (hrT2) scan of site 'eti'; there are scans of etz (1), ldn (1); did you mean 'etz'?",
        ),
        ({"slice_index": 99}, "has no slice_index 99; its slices are 0 to"),
        ({"crop_size": [8, 48]}, "slices of 8 x 48 pixels are too small"),
        ({"iterations_per_scale": 5}, "iterations_per_scale 5: must be a multiple of epochs_per_scale 2"),
        ({"kernel_size": 4}, "kernel_size 4"),
    ],
)
def test_bad_input_stops_training_before_the_first_step(
    changes: dict[str, Any], message: str, configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        train(configs, tiny_dataset, tmp_path / "out", **changes)
    assert message in message_of(caught.value)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_training_and_blending_agree(configs: Path) -> None:
    training, blending = (
        yaml.safe_load((configs / name).read_text()) for name in ("singan_train.yaml", "tumour_blending.yaml")
    )
    shared = ("network_def", "network", "bundle_root", "spacing", "crop_size", "scale_factor", "min_size", "filters")
    for key in (*shared, "maximum_filters", "kernel_size", "layers"):
        assert training[key] == blending[key], key


def test_the_card_s_rules_are_the_defaults_and_fit_the_default_pyramid(configs: Path) -> None:
    from crossmoda.translation.tumour_blending import read_rules, require_scales

    blending = yaml.safe_load((configs / "tumour_blending.yaml").read_text())
    rules = {rule.name: rule for rule in read_rules(blending["rules"])}
    require_scales(list(rules.values()), SinGAN(blending["crop_size"]))
    # 29 large and 19 small tumours, three factors and two scales each; 210 cochleae, three factors and one scale
    made = {name: len(rule.lambdas) * len(rule.scales) for name, rule in rules.items()}
    assert (29 * made["vs_large"], 19 * made["vs_small"], 210 * made["cochlea"]) == (174, 114, 630)


@pytest.mark.parametrize("name", ["singan_train.yaml", "tumour_blending.yaml"])
def test_mistakes_are_reported_in_one_line_before_anything_else_is_done(name: str, configs: Path) -> None:
    steps = yaml.safe_load((configs / name).read_text())["initialize"]
    checks = ["$require_known_keys_of_command()", "$require_writable(@output_dir)"]
    assert steps[:3] == ["$report_in_one_line()", *checks]


def test_a_blending_that_was_cut_off_is_finished(
    configs: Path, tiny_dataset: Path, pseudo: Path, trained: Path, tmp_path: Path
) -> None:
    blend(configs, tiny_dataset, pseudo, tmp_path / "whole", trained / "model.pt")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    files = sorted((tmp_path / "cut").glob("*.nii.gz"))
    files[0].unlink()
    (tmp_path / "cut" / "tumour_blending.png").unlink()
    blend(configs, tiny_dataset, pseudo, tmp_path / "cut", trained / "model.pt")
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "cut" / path.name).read_bytes() == path.read_bytes(), path.name
