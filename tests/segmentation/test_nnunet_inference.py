"""nnU-Net served by the bundle's inference: against nnU-Net's own prediction, on scans stored in any order of axes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from support import BUNDLES, workflow_of

from crossmoda.data.transforms import LoadVolume
from crossmoda.engines import load_weights, save_weights
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.preprocessing import describe_transforms
from crossmoda.segmentation.apart.inference import without_removed
from crossmoda.segmentation.nnunet import (
    NnUNetEnsemble,
    NnUNetInferer,
    NnUNetPostprocessing,
    NnUNetPostprocessingd,
    nnunet_network,
    predict_with_bundle,
)

pytest.importorskip("nnunetv2")
pytestmark = pytest.mark.usefixtures("one_thread")

BUNDLE = BUNDLES / "vs_cochlea_hrt2_segmentation"
CONFIGS = BUNDLE / "configs"
RESAMPLING = {"order_z": 0, "force_separate_z": None}
DATASET = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "vs": 1, "cochlea": 2},
    "file_ending": ".nii.gz",
}


def configuration(spacing: Sequence[float], patch: Sequence[int]) -> dict[str, Any]:
    """Return a configuration of three stages, in 3D or (two figures) in 2D, as nnU-Net's planner writes it."""
    dim = len(spacing)
    architecture = {
        "n_stages": 3,
        "features_per_stage": [4, 6, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": [[3] * dim] * 3,
        "strides": [[1] * dim, [2] * dim, [2] * dim],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "data_identifier": f"nnUNetPlans_{dim}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **RESAMPLING},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **RESAMPLING},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **RESAMPLING},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": architecture,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


def description(**changes: Any) -> dict[str, Any]:
    """Return a model's description: axes ordered (y, z, x), so that no mistaken order can pass; two folds, mirrored."""
    plans = {
        "dataset_name": "Dataset001_crossmoda",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 0.0, "std": 1.0}},
        "configurations": {
            "3d_fullres": configuration((2.5, 1.5, 1.0), (8, 16, 16)),
            "2d": configuration((1.5, 1.0), (16, 16)),
        },
    }
    member = {"configuration": "3d_fullres", "trainer": "nnUNetTrainer", "folds": ["0", "1"], "mirror_axes": [0, 2]}
    return {"plans": plans, "dataset": DATASET, "members": [member], "postprocessing": [], **changes}


def save_model(path: Path, info: Mapping[str, Any] | None = None, **changes: Any) -> NnUNetEnsemble:
    torch.manual_seed(3)
    described = description(**changes)
    ensemble = NnUNetEnsemble(described)
    save_weights(ensemble, path, {"structures": ["vs", "cochlea"], "nnunet": described, **(info or {})})
    return ensemble


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two folds with weights at random."""
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_model(path)
    return path


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scan of RAS spacing 1.2 x 2.2 x 1.6 mm, stored along three orders of axes."""
    folder = tmp_path_factory.mktemp("scans")
    voxels = np.random.default_rng(5).normal(10, 3, (22, 14, 18)).astype(np.float32)
    for axis in range(3):  # smooth, so that resampling is not all noise
        voxels = (np.roll(voxels, 1, axis) + voxels + np.roll(voxels, -1, axis)) / 3
    affine = np.diag([1.2, 2.2, 1.6, 1.0])
    affine[:3, 3] = (-7, 11, 4)
    image = nib.Nifti1Image(voxels, affine)
    for number, axes in enumerate(("RAS", "LPS", "SRP")):
        turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
        nib.save(image.as_reoriented(turn), folder / f"case_{number}_hrT2.nii.gz")
    return folder


def nnunet_s_own_labels(network: NnUNetEnsemble, scan: Path, output: Path, folds: Sequence[str]) -> np.ndarray:
    """Return the label map that nnU-Net itself writes for a file, with its own reader and writer."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    member = network.description["members"][0]
    plans = PlansManager(network.description["plans"])
    networks: Any = network.members[0]
    states = [networks[fold].state_dict() for fold in folds]
    own = NnUNetEnsemble(network.description).members[0]["0"]  # type: ignore[index]
    predictor = nnUNetPredictor(0.5, True, True, False, torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        own, plans, plans.get_configuration("3d_fullres"), states, DATASET, "nnUNetTrainer", member["mirror_axes"]
    )
    output.mkdir(parents=True)
    predictor.predict_from_files_sequential([[str(scan)]], [str(output / "label")])
    written: Any = nib.load(output / "label.nii.gz")
    return np.asarray(written.dataobj)


# --- Against nnU-Net itself ---


@pytest.mark.parametrize("folds", [None, ["1"]])
def test_bundle_s_predictions_are_nnunet_s_own_whatever_the_order_of_axes(
    model: Path, scans: Path, tmp_path: Path, folds: list[str] | None
) -> None:
    network: Any = load_weights(nnunet_network(model), model)
    predict_with_bundle(
        BUNDLE, weights=str(model), dataset_dir=str(scans), output_dir=str(tmp_path), use_folds=folds, device="cpu"
    )
    for number in range(3):
        scan = scans / f"case_{number}_hrT2.nii.gz"
        own = nnunet_s_own_labels(network, scan, tmp_path / f"own_{number}", folds or ["0", "1"])
        label: Any = nib.load(tmp_path / f"case_{number}_Label.nii.gz")
        image: Any = nib.load(scan)
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(label.dataobj), own)
        assert len(np.unique(own)) > 1  # there is something to compare


def test_folds_and_mirroring_change_the_prediction(model: Path, scans: Path) -> None:
    network = load_weights(nnunet_network(model), model)
    image = ras_batch(scans)
    outputs = [
        NnUNetInferer(mirroring=mirroring, folds=folds)(image, network)
        for mirroring, folds in ((True, None), (False, None), (True, [0]), (True, ["1"]))
    ]
    for a, b in itertools.combinations(outputs, 2):
        assert not torch.allclose(a, b, atol=1e-3)


def ras_batch(scans: Path) -> MetaTensor:
    """Return the scan that is stored in RAS as a batch (1, 1, X, Y, Z)."""
    image: MetaTensor = LoadVolume()(scans / "case_0_hrT2.nii.gz")[None]
    return image


def test_outputs_are_logarithms_of_probabilities_with_the_scan_s_geometry(model: Path, scans: Path) -> None:
    image = ras_batch(scans)
    output = NnUNetInferer(mirroring=False)(image, load_weights(nnunet_network(model), model))
    assert output.shape == (1, 3, 22, 14, 18)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.exp().sum(1).as_tensor(), torch.ones(1, 22, 14, 18), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.as_tensor(output.affine), torch.as_tensor(image.affine))


def test_configurations_are_averaged_as_probabilities(tmp_path: Path, scans: Path) -> None:
    shared = {"trainer": "nnUNetTrainer", "folds": ["0"], "mirror_axes": None}
    members = [{"configuration": name, **shared} for name in ("3d_fullres", "2d")]
    both = save_model(tmp_path / "model.pt", members=members)
    image = ras_batch(scans)
    alone = []
    for index, member in enumerate(members):
        single = NnUNetEnsemble(description(members=[member]))
        single.members[0] = both.members[index]
        alone.append(NnUNetInferer()(image, single).exp())
    expected = (alone[0] + alone[1]) / 2
    torch.testing.assert_close(NnUNetInferer()(image, both).exp(), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


# --- Post-processing ---


def test_the_chosen_post_processing_is_applied_without_being_named(tmp_path: Path) -> None:
    """Of the tumour (1) the larger component stays; both cochleae (2) do, since nothing was chosen for them."""
    save_model(tmp_path / "model.pt", postprocessing=[1])
    label = torch.zeros(1, 12, 4, 4)
    label[0, 0:3, 0, 0] = 1
    label[0, 6:8, 0, 0] = 1
    label[0, 0, 3, 3] = label[0, 9, 3, 3] = 2
    before = label.clone()
    found = NnUNetPostprocessingd("pred", tmp_path / "model.pt")({"pred": MetaTensor(label)})["pred"]
    expected = before.clone()
    expected[0, 6:8, 0, 0] = 0
    torch.testing.assert_close(found.as_tensor(), expected)
    torch.testing.assert_close(label, before)


def test_what_a_member_s_post_processing_takes_away_is_background_for_certain() -> None:
    """Before the members are merged: the smaller tumour at x = 6, 7 goes, where its probability was the largest."""
    tumour = torch.full((12, 4, 4), 0.1)
    tumour[0:3, 0, 0] = 0.9
    tumour[6:8, 0, 0] = 0.8
    before = torch.stack([1 - tumour, tumour])
    given = before.clone()
    found = without_removed(given, NnUNetPostprocessing({"postprocessing": [1]}))
    expected = before.clone()
    expected[:, 6:8, 0, 0] = torch.tensor([1.0, 0.0])[:, None]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(given, before)


def test_without_a_choice_labels_stay(model: Path) -> None:
    label = torch.randint(0, 3, (1, 6, 5, 4)).float()
    found = NnUNetPostprocessingd("pred", model)({"pred": MetaTensor(label.clone())})["pred"]
    torch.testing.assert_close(found.as_tensor(), label)


# --- The bundle ---


def test_the_uncertainty_overlay_works_after_it(model: Path, scans: Path, tmp_path: Path) -> None:
    names = ["inference", "inference_nnunet", "uncertainty"]
    places = {"dataset_dir": scans, "output_dir": tmp_path, "weights": model, "device": "cpu"}
    workflow = workflow_of(CONFIGS, names, "inference", mirroring=False, **places)
    assert workflow.check_properties() == []
    assert workflow.parser.get_parsed_content("flips") == [[0]]
    assert (
        workflow_of(CONFIGS, names, "inference", **places).parser.get_parsed_content("flips") == []
    )  # mirrored already
    workflow.run()
    uncertainty: Any = nib.load(tmp_path / "uncertainty" / "case_2_uncertainty.nii.gz")
    image: Any = nib.load(scans / "case_2_hrT2.nii.gz")
    np.testing.assert_allclose(uncertainty.affine, image.affine, atol=1e-5)
    assert 0 < np.asarray(uncertainty.dataobj).max() <= 1


def test_scans_are_prepared_as_the_training_s_were(scans: Path, tmp_path: Path) -> None:
    """What nnunet.yaml hands on gives what files prepared by hand give; any other preparation is refused."""
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / f"{name}.yaml") for name in ("nnunet", "prepare_clipped")])
    parser.update({"clipping_percentile": 60, "dataset_dir": str(scans), "output_dir": str(tmp_path)})
    prepare = parser.get_parsed_content("nnunet").prepare
    save_model(tmp_path / "model.pt", {"agreed": {"prepare": describe_transforms(prepare)}})
    save_model(tmp_path / "any.pt")
    (tmp_path / "ready").mkdir()
    for scan in scans.iterdir():
        image: Any = nib.load(scan)
        array = np.minimum(image.get_fdata(), np.percentile(image.get_fdata(), 60)).astype(np.float32)
        nib.save(nib.Nifti1Image(array, image.affine), tmp_path / "ready" / scan.name)
    places = {"raw": scans, "prepared": scans, "ready": tmp_path / "ready"}
    settings = {
        "raw": {"weights": "any.pt"},
        "prepared": {"weights": "model.pt", "prepare": prepare},
        "ready": {"weights": "any.pt"},
    }
    for name, folder in places.items():
        changes = {**settings[name], "weights": str(tmp_path / str(settings[name]["weights"]))}
        out = str(tmp_path / name)
        predict_with_bundle(BUNDLE, dataset_dir=str(folder), output_dir=out, device="cpu", mirroring=False, **changes)
    for scan in scans.iterdir():
        file = scan.name.replace("hrT2", "Label")
        raw, prepared, ready = (np.asarray(nib.load(tmp_path / name / file).dataobj) for name in places)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(prepared, ready)
        assert (prepared != raw).any()
    with pytest.raises(Exception, match=r".") as caught:
        predict_with_bundle(BUNDLE, weights=str(tmp_path / "model.pt"), dataset_dir=str(scans), device="cpu")
    assert "model.pt: trained with prepare ['ClipIntensityPercentiles(" in str(find_user_error(caught.value))


def test_no_sections_means_no_prediction(tmp_path: Path) -> None:
    predict_with_bundle(tmp_path / "no bundle", sections=[])
    assert list(tmp_path.iterdir()) == []


# --- Wrong input ---


def test_a_fold_that_the_model_has_not_is_named(model: Path, scans: Path) -> None:
    with pytest.raises(CrossmodaError, match="fold 3: the model has folds 0, 1"):
        NnUNetInferer(folds=[3])(ras_batch(scans), nnunet_network(model))


def test_weights_of_another_model_are_refused(model: Path, scans: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "other.pt")
    with pytest.raises(CrossmodaError, match=r"other.json: missing; train with nnunet.yaml first"):
        nnunet_network(tmp_path / "other.pt")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(
        CrossmodaError, match=r"not trained by nnunet.yaml; use inference.yaml without inference_nnunet"
    ):
        nnunet_network(tmp_path / "other.pt")
    with pytest.raises(CrossmodaError, match="Identity is not nnU-Net's network"):
        NnUNetInferer()(ras_batch(scans), torch.nn.Identity())
    with pytest.raises(CrossmodaError, match="run by NnUNetInferer"):
        nnunet_network(model)(ras_batch(scans))


def test_other_structures_than_the_model_s_are_refused(model: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        predict_with_bundle(
            BUNDLE, weights=str(model), dataset_dir=str(scans), output_dir=str(tmp_path), structures=["vs"]
        )
    assert "segments ['vs', 'cochlea']; give these as structures" in str(find_user_error(caught.value))


def test_a_scan_without_geometry_or_an_impossible_overlap_is_refused(model: Path) -> None:
    with pytest.raises(CrossmodaError, match="one scan at a time, with its affine"):
        NnUNetInferer()(torch.zeros(1, 1, 8, 8, 8), nnunet_network(model))
    with pytest.raises(CrossmodaError, match="window_overlap is 1"):
        NnUNetInferer(overlap=1.0)
