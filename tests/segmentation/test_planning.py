"""A DynUNet planned by nnU-Net's rules."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from support import BUNDLES

from crossmoda.__main__ import main
from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.planning import Fingerprint, fingerprint, plan, plan_fingerprint

pytest.importorskip("nnunetv2")
pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN = BUNDLES / "vs_cochlea_hrt2_segmentation" / "configs" / "train.yaml"
SMALL = Fingerprint([(1.0, 3.0, 1.2), (1.1, 3.2, 1.2), (1.0, 2.8, 1.3)], [(60, 24, 50), (64, 20, 56), (48, 24, 44)])


def save_scan(
    path: Path, axcodes: str, shape: tuple[int, ...] = (48, 40, 16), spacing: tuple[float, ...] = (1.2, 1.4, 3.0)
) -> None:
    """Save an empty scan of this RAS shape and spacing, its axes stored as ``axcodes`` says and tilted by 5 degrees."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tilt = np.deg2rad(5)
    rotation = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    image = nib.Nifti1Image(np.zeros(shape, np.float32), affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axcodes))
    nib.save(image.as_reoriented(turn), path)


def scans(folder: Path, axcodes: list[str]) -> Path:
    for number, axes in enumerate(axcodes):
        save_scan(folder / "source" / f"case_{number}_ceT1.nii.gz", axes)
        save_scan(folder / "target" / f"case_{number + 10}_hrT2.nii.gz", axes, shape=(52, 44, 18))
    return folder


# --- nnU-Net's figures ---


@pytest.mark.parametrize(
    ("spacing", "shape", "patch"),
    [((0.41, 0.41, 1.5), (256, 256, 80), (192, 192, 56)), ((0.6, 0.6, 1.0), (256, 256, 120), (160, 192, 80))],
)
def test_the_plan_of_card_0_4_s_scans_is_the_card_s(spacing: Any, shape: Any, patch: Any) -> None:
    """Card 0.4 gives patches (z, y, x) 56x192x192 and 80x192x160, six stages, batch 2."""
    planned = plan_fingerprint(Fingerprint([spacing] * 200, [shape] * 200))
    assert tuple(planned.patch_size) == patch
    assert len(planned.strides) == len(planned.filters) == 6
    assert planned.batch_size == 2
    coarse = spacing[2] / spacing[0] >= 2  # then the first stage neither halves nor convolves across slices
    assert planned.strides[:2] == [[1, 1, 1], [2, 2, 1] if coarse else [2, 2, 2]]
    assert planned.kernel_sizes[0] == ([3, 3, 1] if coarse else [3, 3, 3])
    assert planned.filters == [32, 64, 128, 256, 320, 320]


def nnunet_s_own_plan(
    found: Fingerprint, memory_gb: float, place: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Return the plans that nnU-Net writes for a data set of this fingerprint, in its own words and axes (z, y, x)."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    raw, preprocessed = (place / name / "Dataset007_own" for name in ("raw", "preprocessed"))
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True)
    count = len(found.shapes)
    files = {f"c{number}": {"images": [f"c{number}.nii.gz"], "label": f"l{number}.nii.gz"} for number in range(count)}
    dataset = {"channel_names": {"0": "T2"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": count}
    dataset |= {"file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIO", "dataset": files}
    own = {"spacings": [s[::-1] for s in found.spacings_mm], "shapes_after_crop": [s[::-1] for s in found.shapes]}
    own |= {"median_relative_size_after_cropping": 1.0, "foreground_intensity_properties_per_channel": {}}
    (raw / "dataset.json").write_text(json.dumps(dataset))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps(own))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    plans: dict[str, Any] = ExperimentPlanner(7, memory_gb).plan_experiment()
    return plans


def test_the_plan_is_the_one_that_nnunet_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The coarsest axis is y, so nnU-Net works in the order (y, z, x): its figures are sorted back by axis here."""
    planned = plan_fingerprint(SMALL, memory_gb=0.3)
    plans = nnunet_s_own_plan(SMALL, 0.3, tmp_path, monkeypatch)
    own = plans["configurations"]["3d_fullres"]
    assert plans["transpose_forward"] == [1, 0, 2]
    stages = own["architecture"]["arch_kwargs"]

    def in_xyz(values: Any) -> list[Any]:
        y, z, x = values
        return [x, y, z]

    assert planned.patch_size == in_xyz(own["patch_size"])
    assert planned.spacing_mm == pytest.approx(in_xyz(own["spacing"]), abs=1e-4)
    assert planned.batch_size == own["batch_size"]
    assert planned.strides == [in_xyz(stride) for stride in stages["strides"]]
    assert planned.kernel_sizes == [in_xyz(kernel) for kernel in stages["kernel_sizes"]]
    assert planned.filters == list(stages["features_per_stage"])
    assert planned.strides[1][1] == 1  # y is coarse and not halved at once


def test_more_memory_gives_larger_patches() -> None:
    large = Fingerprint([(1.0, 1.0, 1.0)] * 3, [(64, 64, 64)] * 3)
    small, big = (np.prod(plan_fingerprint(large, memory_gb=memory).patch_size) for memory in (0.1, 0.3))
    assert small < big


# --- Fingerprints ---


def test_scans_stored_along_other_axes_give_the_same_fingerprint(tmp_path: Path) -> None:
    upright = fingerprint(scans(tmp_path / "upright", ["RAS", "RAS"]))
    turned = fingerprint(scans(tmp_path / "turned", ["PIR", "LPS"]))
    assert upright.shapes == turned.shapes == [(48, 40, 16)] * 2 + [(52, 44, 18)] * 2
    np.testing.assert_allclose(upright.spacings_mm, turned.spacings_mm, rtol=1e-6)
    np.testing.assert_allclose(upright.spacings_mm, [(1.2, 1.4, 3.0)] * 4, rtol=1e-6)


def test_a_field_of_view_cuts_in_plane_alone(tmp_path: Path) -> None:
    """24 mm are 20 voxels of 1.2 mm; 70 mm would be 50 of 1.4 mm, more than the 40 and 44 that are there."""
    found = fingerprint(scans(tmp_path, ["RPS"]), field_of_view_mm=(24, 70))
    assert found.shapes == [(20, 40, 16), (20, 44, 18)]


# --- The overlay ---


def test_the_overlay_gives_a_network_that_trains_on_its_patch(tmp_path: Path) -> None:
    output = tmp_path / "plan.yaml"
    planned = plan(scans(tmp_path / "data", ["LPS", "SRP"]), output, memory_gb=0.1)
    parser = ConfigParser()
    parser.read_config([str(TRAIN), str(output)])
    assert parser["spacing"] == planned.spacing_mm == pytest.approx([1.2, 1.4, 3.0], abs=1e-4)
    assert parser["crop_size"] == [52, 44]  # the largest field of view, so nothing is cut
    assert parser["batch_size"] == planned.batch_size
    network = parser.get_parsed_content("network_def")
    patch = parser["patch_size"]
    with torch.no_grad():
        output_levels = network.train()(torch.rand(1, 1, *patch))
    assert output_levels.shape == (1, 1 + planned.network_def["deep_supr_num"], 3, *patch)
    assert [len(planned.network_def[key]) for key in ("kernel_size", "strides", "filters")] == [
        len(planned.filters)
    ] * 3


def test_the_overlay_says_what_made_it(tmp_path: Path) -> None:
    data, output = scans(tmp_path / "data", ["RAS"]), tmp_path / "plan.yaml"
    status = main(["plan", str(data), "--output", str(output), "--memory_gb", "0.1", "--field_of_view_mm", "50,60"])
    text = output.read_text()
    assert status == 0
    assert text.startswith("# Use after train.yaml")
    assert "&id" not in text  # no anchors: people read it
    assert "2 scans, cut down to 50 x 60 mm in plane, to fit 0.1 GB with nnunetv2" in text
    assert "1.2 x 1.4 x 3; 1.2 x 1.4 x 3" in text


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "mine")
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    plan_fingerprint(SMALL, memory_gb=0.3)
    assert os.environ["nnUNet_raw"] == "mine"  # noqa: SIM112
    assert "nnUNet_preprocessed" not in os.environ


# --- Wrong input ---


def test_wrong_input_is_named(tmp_path: Path) -> None:
    data = scans(tmp_path / "data", ["RAS"])
    with pytest.raises(CrossmodaError, match="no scans in validation to plan for"):
        plan(data, tmp_path / "plan.yaml", sections=["validation"])
    with pytest.raises(CrossmodaError, match="memory_gb is 0"):
        plan(data, tmp_path / "plan.yaml", memory_gb=0)
    with pytest.raises(CrossmodaError, match="field_of_view_mm is"):
        plan(data, tmp_path / "plan.yaml", field_of_view_mm=(100,))
    with pytest.raises(CrossmodaError, match="scans of 9 x 9 x 9 voxels leave room for 2 stages"):
        plan_fingerprint(Fingerprint([(1.0, 1.0, 1.0)] * 2, [(9, 9, 9)] * 2))
    assert not (tmp_path / "plan.yaml").exists()
