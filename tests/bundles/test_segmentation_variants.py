"""Every network of the segmentation bundle: its overlay after train.yaml and after inference.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from support import workflow_of

from crossmoda.data.datalist import load_datalist
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.files import read_json
from crossmoda.segmentation.checks import check_network

BUNDLE = "vs_cochlea_hrt2_segmentation"
VARIANTS: dict[str, dict[str, Any]] = {
    "variant_unet2d5": {"network_def::channels": [2, 4, 4, 8, 8]},
    "variant_resunet2d5": {"network_def::channels": 2, "network_def::blocks": 1},
    "variant_mednext": {"network_def::variant": "S"},
}
TINY: dict[str, Any] = {
    "spacing": [1.6, 1.6, 3.0],
    "crop_size": [48, 32],
    "patch_size": [32, 32, 16],
    "device": "cpu",
    "amp": False,  # of two voxels at the coarsest level, PyTorch's bfloat16 gradients on the CPU are wrong at times
}
TRAINING: dict[str, Any] = {"max_epochs": 1, "iterations_per_epoch": 1, "val_interval": 1, "batch_size": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


def parser_of(configs: Path, base: str, overlay: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(configs / f"{base}.yaml"), str(configs / f"{overlay}.yaml")])
    return parser


@pytest.mark.parametrize("overlay", VARIANTS)
@pytest.mark.parametrize("base", ["train", "inference"])
def test_an_overlay_s_network_fits_the_patches_and_structures_of_its_base(
    configs: Path, base: str, overlay: str
) -> None:
    parser = parser_of(configs, base, overlay)
    network, patch, structures = (parser.get_parsed_content(key) for key in ("network_def", "patch_size", "structures"))
    check_network(network, patch, structures)


@pytest.mark.parametrize(
    ("overlay", "parameters"),
    [
        ("variant_unet2d5", 22_135_029),  # tests/segmentation/test_unet2d5.py
        ("variant_resunet2d5", 14_397_296 - 33 - 33 - 65 - 129),  # test_resunet2d5.py; one class less in four heads
        ("variant_mednext", 10_513_775),  # MedNeXt-B of kernel 3 has 10.5 million in the paper
    ],
)
def test_an_overlay_builds_the_published_network(configs: Path, overlay: str, parameters: int) -> None:
    network = parser_of(configs, "inference", overlay).get_parsed_content("network_def")
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("overlay", VARIANTS)
def test_an_overlay_changes_the_network_and_a_patch_that_it_cannot_take_alone(configs: Path, overlay: str) -> None:
    changed = ConfigParser.load_config_file(configs / f"{overlay}.yaml")
    patch_size = changed.pop("patch_size", None)
    assert set(changed) == {"network_def"}
    if patch_size is not None:  # only where the network cannot take the bundle's own
        parser = parser_of(configs, "train", overlay)
        own = ConfigParser.load_config_file(configs / "train.yaml")["patch_size"]
        with pytest.raises(CrossmodaError, match="patch_size"):
            check_network(parser.get_parsed_content("network_def"), own, parser.get_parsed_content("structures"))


@pytest.mark.parametrize("overlay", VARIANTS)
def test_a_variant_trains_and_its_weights_predict(
    overlay: str, configs: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = {**TINY, **VARIANTS[overlay], "dataset_dir": tiny_dataset}
    training = workflow_of(configs, ["train", overlay], "train", **settings, **TRAINING, output_dir=tmp_path)
    assert training.check_properties() == []
    training.run()
    assert np.isfinite(read_json(tmp_path / "history.json")["series"]["loss"]).all()
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(value.isfinite().all() for value in weights.values())

    places = {"output_dir": tmp_path / "out", "weights": tmp_path / "model.pt", "sections": ["validation"]}
    workflow_of(configs, ["inference", overlay], "inference", **settings, **places).run()
    for item in load_datalist(tiny_dataset)["validation"]:
        image, label = nib.load(item["image"]), nib.load(tmp_path / "out" / f"{item['case']}_Label.nii.gz")
        assert label.shape == image.shape
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)


@pytest.mark.parametrize(("base", "kind"), [("train", "train"), ("inference", "inference")])
def test_a_patch_that_the_network_cannot_take_stops_before_any_image_is_read(
    configs: Path, base: str, kind: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    settings = {**TINY, "patch_size": [32, 24, 16], "dataset_dir": tiny_dataset, "output_dir": tmp_path}
    with pytest.raises(Exception, match=r".") as caught:
        workflow_of(configs, [base, "variant_mednext"], kind, **settings)
    message = str(find_user_error(caught.value))
    assert "multiples of [16, 16, 16]; give --patch_size '[32, 32, 16]'" in message
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_does_not_exist_is_named(configs: Path, tiny_dataset: Path, tmp_path: Path) -> None:
    settings = {**TINY, "network_def": {"_target_": "UNetOfMine"}, "dataset_dir": tiny_dataset, "output_dir": tmp_path}
    with pytest.raises(Exception, match=r".") as caught:
        workflow_of(configs, "inference", "inference", **settings)
    told = "Cannot locate class or function path: 'UNetOfMine'; correct the name after _target_"
    assert str(find_user_error(caught.value)) == told
