"""Ensembles, votes, conditional random field, merging and anatomy by YAML, on volumes of a few thousand voxels.

The network is one convolution of a single voxel whose weights are written by hand: it calls grey voxels VS and bright
ones cochlea. What each overlay must give is therefore known.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from support import workflow_of

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.engines import save_weights
from crossmoda.errors import find_user_error
from crossmoda.files import read_json
from crossmoda.preprocessing import VanCittertDeconvolution

BUNDLE = "vs_cochlea_hrt2_segmentation"
SHAPE = (44, 36, 12)
AFFINE = np.array([[-0.8, 0, 0, 7], [0, 0.9, 0, -11], [0, 0, 1.5, 13], [0, 0, 0, 1]])  # the first axis runs to the left
CASES = ("ldn_1", "own.name")
OVERLAYS = (
    "uncertainty",
    "ensemble",
    "mutual_information",
    "confidence",
    "crf",
    "crf_agreement",
    "votes",
    "merge",
    "refine",
    "anatomy",
    "evaluate",
    "prepare_deconvolved",
    "prepare_clipped",
    "prepare_windowed",
)
VS_LEVEL, COCHLEA_LEVEL = 1.75, 3.0  # raw signal at which one structure begins; head 1, VS 2.5, cochlea 3.5
SETTINGS: dict[str, Any] = {
    "spacing": [0.8, 0.9, 1.5],
    "crop_size": [44, 36],
    "patch_size": [44, 36, 12],
    "device": "cpu",
    "amp": False,
}

pytestmark = pytest.mark.usefixtures("one_thread")


def patient(seed: int) -> np.ndarray:
    """Return a head with a VS, a cochlea on either side of it, and a speck as grey as the VS."""
    x, y, z = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    image = 1.0 * ((((x - 22) / 19) ** 2 + ((y - 18) / 15) ** 2) < 1)
    for level, centre, radius in ((2.5, (15, 18, 6), 4.0), (3.5, (6, 16, 6), 2.5), (3.5, (39, 16, 6), 2.5)):
        image[((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (2 * (z - centre[2])) ** 2) < radius**2] = level
    image[28, 20, 6] = 2.5
    return (image + np.random.default_rng(seed).normal(0, 0.02, SHAPE)).astype(np.float32)


def require_alike(found: np.ndarray, wanted: np.ndarray, least: float) -> None:
    """Assert the least Dice of every structure: as a share of all voxels, a whole structure is next to nothing."""
    for number in set(np.unique(wanted)) - {0}:
        one, other = found == number, wanted == number
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) >= least


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for seed, case in enumerate(CASES):
        nib.save(nib.Nifti1Image(patient(seed), AFFINE), folder / f"{case}_hrT2.nii.gz")
    return folder


def scale(configs: Path, images: Path, first: np.ndarray) -> tuple[float, float]:
    """Return factor and offset from the raw signal of the first of the images to the network's input."""
    network = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 3, "kernel_size": 1}
    workflow = workflow_of(configs, "inference", "inference", dataset_dir=images, network_def=network, **SETTINGS)
    found = np.sort(np.asarray(workflow.dataset[0]["image"]).ravel())[::-1]
    raw = np.sort(first.ravel())[::-1]
    factor, offset = np.polyfit(raw[:200].astype(float), found[:200].astype(float), 1)
    return float(factor), float(offset)


@pytest.fixture(scope="module")
def network(configs: Path, images: Path) -> Any:
    """A function that writes a network's weights for the images, as ``write_network`` does."""
    return partial(write_network, scale(configs, images, patient(0)))


def write_network(scale: tuple[float, float], path: Path, *levels: float, **info: Any) -> Path:
    """Write the weights of a network whose classes begin at rising levels of the raw signal."""
    factor, offset = scale
    module = torch.nn.Conv3d(1, len(levels) + 1, 1)
    with torch.no_grad():
        module.weight.zero_()
        module.bias.zero_()
        for index, level in enumerate(levels, start=1):  # class i beats class i - 1 from its level on
            module.weight[index] = module.weight[index - 1] + 20
            module.bias[index] = module.bias[index - 1] - 20 * (factor * level + offset)
    save_weights(module, path, info)
    return path


@pytest.fixture(scope="module")
def weights(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return network(tmp_path_factory.mktemp("weights") / "model.pt", VS_LEVEL, COCHLEA_LEVEL)


def predict(configs: Path, images: Path, output: Path, *overlays: str, channels: int = 3, **settings: Any) -> Path:
    definition = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": channels, "kernel_size": 1}
    merged = {**SETTINGS, "network_def": definition, "dataset_dir": images, "output_dir": output, **settings}
    workflow_of(configs, ["inference", *overlays], "inference", **merged).run()
    return output


def label(folder: Path, case: str = CASES[0]) -> np.ndarray:
    image = nib.load(folder / f"{case}_Label.nii.gz")
    assert image.shape == SHAPE
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    return np.asarray(image.dataobj)


def expected(level: float = VS_LEVEL, seed: int = 0, speck: bool = False) -> np.ndarray:
    image = patient(seed)
    found = np.where(image > COCHLEA_LEVEL, 2, np.where(image > level, 1, 0))
    found[28, 20, 6] = 1 if speck else 0
    return found


@pytest.fixture(scope="module")
def plain(configs: Path, images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return predict(configs, images, tmp_path_factory.mktemp("plain"), weights=weights)


def test_the_network_of_these_tests_segments_by_the_signal(plain: Path) -> None:
    for seed, case in enumerate(CASES):
        np.testing.assert_array_equal(label(plain, case), expected(seed=seed))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_s_keys_exist_in_inference_or_are_marked_new(configs: Path, overlay: str) -> None:
    lines = (configs / f"{overlay}.yaml").read_text().splitlines()
    marked = {line.split(":")[0] for line in lines if "# new" in line and not line.startswith((" ", "#"))}
    parser = ConfigParser(ConfigParser.load_config_file(configs / "inference.yaml"))
    for key in ConfigParser.load_config_file(configs / f"{overlay}.yaml"):
        assert (key in marked) != (key.lstrip("+").rsplit("::", 1)[0] in parser), key


# --- Ensemble ---


@pytest.fixture(scope="module")
def members(network: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three members that begin the VS at other levels; the third calls the head's brightest noise VS, too."""
    folder = tmp_path_factory.mktemp("members")
    info = {"structures": ["vs", "cochlea"], "spacing": SETTINGS["spacing"]}
    levels = (1.75, 2.0, 0.5)
    return [str(network(folder / f"fold_{i}.pt", level, 3.0, **info)) for i, level in enumerate(levels)]


def test_an_ensemble_decides_by_the_mean_and_tells_where_members_disagree(
    configs: Path, images: Path, members: list[str], tmp_path: Path
) -> None:
    predict(configs, images, tmp_path, "ensemble", members=members, hard_votes=True)
    np.testing.assert_array_equal(label(tmp_path), expected())  # two of three say that the head is no VS
    maps = {
        name: nib.load(tmp_path / "uncertainty" / f"ldn_1_{name}.nii.gz")
        for name in ("mutual_information", "uncertainty")
    }
    head = np.abs(patient(0) - 1) < 0.2
    share = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3)) / np.log(3)  # entropy of one vote against two
    for image in maps.values():
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
        np.testing.assert_allclose(image.get_fdata()[head], share, atol=1e-3)
        np.testing.assert_allclose(image.get_fdata()[expected() > 0], 0, atol=1e-3)
    for name in maps:
        scores = read_json(tmp_path / "uncertainty" / f"{name}.json")
        assert sorted(scores) == sorted(CASES)
        assert all(0 < score < share for score in scores.values())  # over the head and what all agree on


def test_one_member_without_flips_is_the_plain_prediction(
    configs: Path, images: Path, weights: Path, tmp_path: Path
) -> None:
    predict(configs, images, tmp_path, "ensemble", members=[str(weights)], flips=[])
    np.testing.assert_array_equal(label(tmp_path), expected())
    assert set(read_json(tmp_path / "uncertainty" / "mutual_information.json").values()) == {0.0}


def test_an_ensemble_goes_with_uncertainty_random_field_and_anatomy(
    configs: Path, images: Path, members: list[str], tmp_path: Path
) -> None:
    predict(configs, images, tmp_path, "uncertainty", "ensemble", "crf", "anatomy", members=members[:2])
    assert sorted(read_json(tmp_path / "uncertainty" / "uncertainty.json")) == sorted(CASES)
    assert sorted(read_json(tmp_path / "anatomy.json")) == sorted(CASES)


def test_a_damaged_or_foreign_member_is_named_before_the_first_image(
    configs: Path, images: Path, network: Any, members: list[str], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes(Path(members[1]).read_bytes()[:-300])
    foreign = network(tmp_path / "foreign.pt", 1.0, 2.0, structures=["cochlea", "vs"])
    for path, reason in (
        (damaged, "damaged.pt: not a file of weights"),
        (foreign, "foreign.pt: trained with structures"),
    ):
        with pytest.raises(Exception, match=r".") as caught:
            predict(configs, images, tmp_path / "out", "ensemble", members=[members[0], str(path)])
        assert reason in str(find_user_error(caught.value))
    assert not (tmp_path / "out").exists()


def test_folds_are_looked_for_where_the_header_says(configs: Path, images: Path, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        predict(configs, images, tmp_path, "ensemble", bundle_root=tmp_path)
    assert str(tmp_path / "models" / "fold_0" / "model.pt") in str(find_user_error(caught.value))


def test_mirrored_copies_that_say_the_same_share_no_information(
    configs: Path, images: Path, weights: Path, tmp_path: Path
) -> None:
    for names in (("uncertainty",), ("uncertainty", "mutual_information")):
        predict(configs, images, tmp_path / names[-1], *names, weights=weights)
    found = tmp_path / "mutual_information" / "uncertainty"
    assert set(read_json(found / "mutual_information.json").values()) == {0.0}
    image = nib.load(found / "ldn_1_mutual_information.nii.gz")
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    assert not image.get_fdata().any()
    plain = nib.load(tmp_path / "uncertainty" / "uncertainty" / "ldn_1_uncertainty.nii.gz")
    np.testing.assert_array_equal(nib.load(found / "ldn_1_uncertainty.nii.gz").get_fdata(), plain.get_fdata())


# --- Overlays together ---


@pytest.fixture(scope="module")
def labelled(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of the images with what is to be found in them."""
    folder = tmp_path_factory.mktemp("labelled")
    datalist = load_datalist(images)
    for seed, item in enumerate(sorted(datalist["target"], key=lambda item: CASES.index(item["case"]))):
        item["label"] = str(folder / f"{item['case']}_Label.nii.gz")
        nib.save(nib.Nifti1Image(expected(seed=seed).astype(np.uint8), AFFINE), item["label"])
    save_datalist(folder / "datalist.json", datalist)
    return folder / "datalist.json"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What another model, of the VS alone, has predicted."""
    folder = tmp_path_factory.mktemp("other")
    for seed, case in enumerate(CASES):
        nib.save(nib.Nifti1Image((expected(seed=seed) == 1).astype(np.uint8), AFFINE), folder / f"{case}_Label.nii.gz")
    return folder


@pytest.fixture(scope="module")
def cochlea_members(network: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two networks of the cochlea alone."""
    folder = tmp_path_factory.mktemp("cochlea")
    info = {"structures": ["cochlea"], "spacing": SETTINGS["spacing"]}
    return [str(network(folder / f"fold_{i}.pt", level, **info)) for i, level in enumerate((2.9, 3.0))]


MERGED = [
    "merge evaluate",
    "evaluate merge",
    "merge anatomy",
    "anatomy merge",
    "merge refine anatomy evaluate",
    "uncertainty merge",
    "ensemble merge anatomy evaluate",
    "votes merge evaluate",
    "merge votes",
    "crf merge anatomy",
    "merge crf evaluate",
    "confidence merge anatomy",
    "merge confidence",
    "merge prepare_clipped evaluate",
]
OF_ONE_MODEL = [
    "ensemble evaluate",
    "ensemble anatomy evaluate",
    "ensemble crf refine anatomy",
    "uncertainty crf anatomy",
    "uncertainty refine",
    "uncertainty evaluate",
    "evaluate uncertainty mutual_information",
    "evaluate ensemble",
    "uncertainty mutual_information evaluate",
    "uncertainty votes anatomy",
    "votes anatomy evaluate",
    "votes ensemble evaluate",
    "votes crf evaluate",
    "crf anatomy evaluate",
    "refine anatomy",
    "anatomy refine evaluate",
    "confidence ensemble crf_agreement crf anatomy",
    "uncertainty crf crf_agreement confidence",
    "uncertainty mutual_information crf anatomy",
    "votes crf crf_agreement confidence evaluate",
    "prepare_clipped uncertainty votes crf anatomy",
    "ensemble prepare_deconvolved prepare_clipped anatomy evaluate",
]
PREPARED = {  # by so little that the network still fits
    "prepare_clipped": {"clipping_percentile": 99.8},
    "prepare_deconvolved": {"deconvolution_sigma_mm": [0.1, 0.1, 0.1]},
}


@pytest.mark.parametrize("chain", [*MERGED, *OF_ONE_MODEL])
def test_overlays_combine(
    configs: Path,
    labelled: Path,
    other: Path,
    members: list[str],
    cochlea_members: list[str],
    tmp_path: Path,
    chain: str,
) -> None:
    names, merged = chain.split(), chain in MERGED
    found = cochlea_members if merged else members[:2]
    settings: dict[str, Any] = {"members": found} if "ensemble" in names else {"weights": found[0]}
    settings |= {"hard_votes": True} if {"votes", "ensemble"} <= set(names) else {}
    settings |= {"channels": 2, "other_dir": other} if merged else {}
    settings |= {key: value for name in names for key, value in PREPARED.get(name, {}).items()}
    predict(configs, labelled, tmp_path, *names, sections=["target"], **settings)
    if "evaluate" in names:
        rows = dict(line.split(",")[:2] for line in (tmp_path / "metrics.csv").read_text().splitlines())
        assert all(float(rows[f"{name}_dice"]) > 0.95 for name in ("vs", "cochlea"))
    else:
        require_alike(label(tmp_path), expected(), 0.7 if {"crf", "refine"} & set(names) else 1.0)
    reports = {
        "anatomy": "anatomy.json",
        "votes": "disagreement.json",
        "uncertainty": "uncertainty/uncertainty.json",
        "mutual_information": "uncertainty/mutual_information.json",
        "confidence": "uncertainty/confidence.json",
        "crf_agreement": "crf_agreement.json",
    }
    for path in (path for name, path in reports.items() if name in names):
        assert sorted(read_json(tmp_path / path)) == sorted(CASES)
    if "anatomy" in names:  # of all structures, also those of the other model
        anatomy = read_json(tmp_path / "anatomy.json")["ldn_1"]["found"]
        assert anatomy["cochleae"] == 2
        assert anatomy["vs_mm3"] == pytest.approx((expected() == 1).sum() * 0.8 * 0.9 * 1.5, rel=0.1)


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        ("votes uncertainty", "name votes.yaml after uncertainty.yaml"),  # whose inferer takes the place of the votes'
        ("votes ensemble", "set hard_votes (True"),
        ("ensemble uncertainty", "give the inferer keep_mutual_information"),
        ("mutual_information uncertainty", "give the inferer keep_mutual_information"),
        ("crf_agreement", "there is no random field to measure"),
        ("merge inference_nnunet", "name it right after inference.yaml"),
    ],
)
def test_a_chain_without_meaning_is_refused_before_the_first_image(
    configs: Path, images: Path, other: Path, members: list[str], tmp_path: Path, chain: str, reason: str
) -> None:
    settings: dict[str, Any] = {"members": members} if "ensemble" in chain.split() else {"weights": members[0]}
    settings |= {"other_dir": other} if "merge" in chain.split() else {}
    with pytest.raises(Exception, match=r".") as caught:
        predict(configs, images, tmp_path, *chain.split(), **settings)
    assert reason in str(find_user_error(caught.value))
    assert list(tmp_path.iterdir()) == []


# --- Preparation ---


def clipped(image: np.ndarray) -> np.ndarray:
    """Return a scan clipped so low that the cochleae are no brighter than the VS."""
    return np.minimum(image, np.percentile(image, 99.5))


def deconvolved(image: np.ndarray) -> np.ndarray:
    volume = MetaTensor(torch.from_numpy(image[None]), affine=torch.from_numpy(AFFINE))
    return VanCittertDeconvolution((0.5, 0.6, 1.5), 4)(volume).numpy()[0]


PREPARATIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "prepare_clipped": (clipped, {"clipping_percentile": 99.5}),
    "prepare_deconvolved": (
        deconvolved,
        {"deconvolution_sigma_mm": [0.5, 0.6, 1.5], "deconvolution_iterations": 4},
    ),
}


@pytest.mark.parametrize("overlay", PREPARATIONS)
def test_a_prepared_scan_is_predicted_as_a_file_that_was_prepared_by_hand(
    configs: Path, images: Path, weights: Path, plain: Path, tmp_path: Path, overlay: str
) -> None:
    by_hand, settings = PREPARATIONS[overlay]
    (tmp_path / "ready").mkdir()
    for seed, case in enumerate(CASES):
        prepared = by_hand(patient(seed))
        nib.save(nib.Nifti1Image(prepared.astype(np.float32), AFFINE), tmp_path / "ready" / f"{case}_hrT2.nii.gz")
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    found = predict(configs, images, tmp_path / "found", overlay, weights=weights, **settings)
    expected = predict(configs, tmp_path / "ready", tmp_path / "expected", weights=weights)
    for case in CASES:  # label also makes sure of the scan's own grid
        np.testing.assert_array_equal(label(found, case), label(expected, case))
        assert (label(found, case) != label(plain, case)).any()
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before


def test_a_preparation_is_replaced_by_none_and_what_is_named_first_is_done_first(configs: Path) -> None:
    names = ["prepare_deconvolved", "prepare_clipped"]
    for base in ("train", "inference", "nnunet"):
        for order in (names, names[::-1]):
            parser = ConfigParser()
            parser.read_config([str(configs / f"{name}.yaml") for name in (base, *order)])
            classes = [type(transform).__name__ for transform in parser.get_parsed_content("prepare")]
            known = {"prepare_deconvolved": "VanCittertDeconvolution", "prepare_clipped": "ClipIntensityPercentiles"}
            assert classes == [known[name] for name in order]
        parser.update({"prepare": []})
        assert parser.get_parsed_content("prepare") == []


def test_weights_of_another_preparation_are_refused_in_one_line(
    configs: Path, images: Path, network: Any, tmp_path: Path
) -> None:
    trained = agreed_upon(configs, "prepare_clipped", clipping_percentile=99.5)
    paths = [network(tmp_path / f"{n}.pt", VS_LEVEL, level, agreed=trained) for n, level in enumerate((2.9, 3.0))]
    other = network(tmp_path / "plain.pt", VS_LEVEL, COCHLEA_LEVEL, agreed={"prepare": []})
    out = tmp_path / "out"
    settings: dict[str, Any] = {"weights": paths[0], "clipping_percentile": 99.5}
    for names, changes, reason in (
        ((), {"weights": paths[0]}, r"0\.pt: trained with prepare \['ClipIntensityPercentiles\(.*but prepare is \[\]"),
        (("prepare_clipped",), {**settings, "clipping_percentile": 95}, r"upper=99\.5.*but prepare is .*upper=95, "),
        (("prepare_clipped",), {**settings, "weights": other}, r"plain\.pt: trained with prepare \[\], but"),
        (("ensemble",), {"members": [other, paths[1]]}, r"1\.pt: trained with prepare"),
    ):
        members = {"members": [str(path) for path in changes.pop("members")]} if "members" in changes else {}
        with pytest.raises(Exception, match=r".") as caught:
            predict(configs, images, out, *names, **changes, **members)
        assert re.search(reason, str(find_user_error(caught.value))), find_user_error(caught.value)
    assert not out.exists()
    predict(configs, images, out, "prepare_clipped", **settings)
    label(out)


def agreed_upon(configs: Path, overlay: str, **settings: Any) -> Any:
    """Return what a prediction with an overlay asks of the weights."""
    parser = ConfigParser()
    parser.read_config([str(configs / f"{name}.yaml") for name in ("inference", overlay)])
    parser.update(settings)
    return parser.get_parsed_content("agreed")


# --- Votes ---


def test_votes_that_agree_are_the_plain_prediction(configs: Path, images: Path, weights: Path, tmp_path: Path) -> None:
    predict(configs, images, tmp_path, "votes", weights=weights)
    np.testing.assert_array_equal(label(tmp_path), expected())
    assert read_json(tmp_path / "disagreement.json") == dict.fromkeys(CASES, 0.0)


def test_votes_of_members_that_disagree_are_taken_together(
    configs: Path, images: Path, members: list[str], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"members": members, "hard_votes": True, "flips": [[0]]}
    predict(configs, images, tmp_path, "votes", "ensemble", worst_disagreement=0.7, **settings)
    assert all(value > 0.7 for value in read_json(tmp_path / "disagreement.json").values())
    assert (label(tmp_path)[np.abs(patient(0) - 1) < 0.2] == 1).all()  # one vote of three, and so in the union


# --- Conditional random field ---


def test_the_conditional_random_field_s_kernels_smooth_and_follow_the_scan(
    configs: Path, images: Path, weights: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "weights": weights,
        "smoothness_std": [2, 2, 2],
        "bilateral_std": [2, 2, 2],
        "keep_one_tumour": {"_target_": "Identityd", "keys": "pred"},  # which would take the speck away
    }
    by_scan = predict(configs, images, tmp_path / "scan", "crf", smoothness_weight=0, bilateral_weight=9, **settings)
    np.testing.assert_array_equal(label(by_scan), expected(speck=True))  # nothing near the speck is as grey
    smooth = predict(configs, images, tmp_path / "smooth", "crf", smoothness_weight=9, bilateral_weight=0, **settings)
    assert label(smooth)[28, 20, 6] == 0
    tumours = [np.where(found == 1, found, 0) for found in (label(smooth), expected())]
    require_alike(*tumours, 0.6)  # corners of a small block are rounded off; the cochleae are smaller than the kernel


def test_the_conditional_random_field_leaves_the_network_s_uncertainty(
    configs: Path, images: Path, weights: Path, tmp_path: Path
) -> None:
    for names in (("uncertainty",), ("uncertainty", "crf")):
        predict(configs, images, tmp_path / names[-1], *names, weights=weights)
    found = [read_json(tmp_path / name / "uncertainty" / "uncertainty.json") for name in ("uncertainty", "crf")]
    assert found[0] == found[1]


def test_agreement_with_the_conditional_random_field_is_the_dice_of_what_it_changes(
    configs: Path, images: Path, weights: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "weights": weights,
        "smoothness_std": [2, 2, 2],
        "bilateral_weight": 0,
        "smoothness_weight": 9,
        "keep_one_tumour": {"_target_": "Identityd", "keys": "pred"},
    }
    plain = label(
        predict(configs, images, tmp_path / "plain", weights=weights, keep_one_tumour=settings["keep_one_tumour"])
    )
    smooth = label(predict(configs, images, tmp_path / "field", "crf", "crf_agreement", **settings))
    found = read_json(tmp_path / "field" / "crf_agreement.json")["ldn_1"]
    for name, number in (("vs", 1), ("cochlea", 2)):
        first, second = plain == number, smooth == number
        assert found[name] == pytest.approx(2 * (first & second).sum() / (first.sum() + second.sum()), abs=1e-5)
    assert found["vs"] < 1  # the speck is gone


# --- Confidence ---


def test_confidence_is_the_probability_of_what_was_decided(
    configs: Path, images: Path, members: list[str], tmp_path: Path
) -> None:
    predict(configs, images, tmp_path, "ensemble", "confidence", members=members, hard_votes=True)
    image = nib.load(tmp_path / "uncertainty" / "ldn_1_confidence.nii.gz")
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    values, scan = image.get_fdata(), patient(0)
    np.testing.assert_allclose(values[np.abs(scan - 1) < 0.2], 2 / 3, atol=1e-3)  # one member calls the head VS
    np.testing.assert_allclose(values[np.abs(scan) < 0.2], 1, atol=1e-3)
    figures = read_json(tmp_path / "uncertainty" / "confidence.json")["ldn_1"]
    assert figures["cochlea"] == pytest.approx({"mean": 1, "max": 1}, abs=1e-3)
    assert figures["vs"] == pytest.approx({"mean": 1, "max": 1}, abs=1e-3)


def test_confidence_of_a_merged_label_map_is_told_of_the_model_s_own_structures(
    configs: Path, images: Path, network: Any, other: Path, tmp_path: Path
) -> None:
    cochlea = network(tmp_path / "cochlea.pt", COCHLEA_LEVEL)
    settings: dict[str, Any] = {"channels": 2, "weights": cochlea, "other_dir": other}
    predict(configs, images, tmp_path / "out", "merge", "confidence", **settings)
    assert list(read_json(tmp_path / "out" / "uncertainty" / "confidence.json")["ldn_1"]) == ["cochlea"]


# --- Merging ---


def test_structures_of_two_models_are_merged_and_named(
    configs: Path, images: Path, network: Any, tmp_path: Path
) -> None:
    vs = network(tmp_path / "vs.pt", VS_LEVEL)  # calls cochleae VS, too, of which keep_one_tumour leaves one blob
    cochlea = network(tmp_path / "cochlea.pt", COCHLEA_LEVEL)
    first = predict(configs, images, tmp_path / "other", channels=2, structures=["vs"], weights=vs)
    settings: dict[str, Any] = {"channels": 2, "weights": cochlea, "other_dir": first}
    for order, numbers in ((["vs", "cochlea"], (1, 2)), (["cochlea", "vs"], (2, 1))):
        out = predict(configs, images, tmp_path / order[0], "merge", merged_structures=order, **settings)
        for seed, case in enumerate(CASES):
            tumour, bright = label(first, case) == 1, patient(seed) > COCHLEA_LEVEL
            merged = label(out, case)
            np.testing.assert_array_equal(merged == numbers[0], tumour if order[0] == "vs" else tumour & ~bright)
            np.testing.assert_array_equal(merged == numbers[1], bright & ~tumour if order[0] == "vs" else bright)


def test_a_case_that_the_other_model_has_not_seen_is_named_first(
    configs: Path, images: Path, network: Any, tmp_path: Path
) -> None:
    cochlea = network(tmp_path / "cochlea.pt", COCHLEA_LEVEL)
    with pytest.raises(Exception, match=r".") as caught:
        predict(configs, images, tmp_path / "out", "merge", channels=2, weights=cochlea, other_dir=tmp_path)
    assert "ldn_1_Label.nii.gz: no such file, nor those of 1 more" in str(find_user_error(caught.value))


# --- Anatomy ---


def test_anatomy_is_reported_by_case(configs: Path, images: Path, weights: Path, tmp_path: Path) -> None:
    predict(configs, images, tmp_path, "anatomy", weights=weights, volume_limits_mm3={"vs": [1, 50]})
    report = read_json(tmp_path / "anatomy.json")["own.name"]
    found = label(tmp_path, "own.name")
    assert report["found"]["vs_mm3"] == pytest.approx((found == 1).sum() * 0.8 * 0.9 * 1.5, abs=0.01)
    assert report["found"]["cochleae"] == 2
    assert {"rule": "vs_mm3", "found": report["found"]["vs_mm3"], "allowed": [1, 50]} in report["failed"]


# --- Refinement ---

CORE, RIM = 3.5, 2.4  # raw signal of a cochlea's core, and of a rim that the network does not take for cochlea
FLUID, BRIGHTER_FLUID = 3.0, 3.4  # it takes the one for VS, the other for cochlea


@pytest.fixture(scope="module")
def misdrawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A folder with one scan, and where in it fluid is taken for VS, bool (X, Y, Z)."""
    folder = tmp_path_factory.mktemp("misdrawn")
    x, y, z = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    image = np.full(SHAPE, 1.0)
    for centre in ((6, 16, 6), (39, 16, 6)):
        distance = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (2 * (z - centre[2])) ** 2
        image[distance < 16] = RIM
        image[distance < 9] = CORE
    tumour = ((x - 20) ** 2 + (y - 18) ** 2 + (2 * (z - 6)) ** 2) < 25
    image[tumour] = 2.0
    fluid = (x >= 22) & (x < 28) & (y > 8) & (y < 28) & (z > 1) & (z < 10)
    image[fluid] = np.where(x < 25, FLUID, BRIGHTER_FLUID)[fluid]
    image += np.random.default_rng(0).normal(0, 0.01, SHAPE)
    nib.save(nib.Nifti1Image(image.astype(np.float32), AFFINE), folder / f"{CASES[0]}_hrT2.nii.gz")
    return folder, fluid & (x < 25)


def test_refinement_takes_fluid_from_the_tumour_and_draws_cochleae_to_their_rim(
    configs: Path, misdrawn: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    folder, fluid = misdrawn
    raw = nib.load(folder / f"{CASES[0]}_hrT2.nii.gz").get_fdata()
    weights = write_network(scale(configs, folder, raw), tmp_path / "model.pt", VS_LEVEL, 3.25)
    settings: dict[str, Any] = {"weights": weights}
    plain = label(predict(configs, folder, tmp_path / "plain", **settings))
    settings |= {"cochlea_shift_mm": 0, "cochlea_distance_mm": 0.85, "refine::transforms::2::closing_mm": 0.01}
    refined = label(predict(configs, folder, tmp_path / "refined", "refine", **settings))
    assert (plain[fluid] == 1).all()
    assert not (refined[fluid] == 1).any()
    core = (raw > 3.45) & (plain == 2)
    beside = np.roll(core, 1, axis=0) | np.roll(core, -1, axis=0)  # 0.8 mm away; along y it would be 0.9, along z 1.5
    rim = (raw > 2.2) & (raw < 2.6)
    cochleae = np.s_[[*range(12), *range(34, SHAPE[0])]]  # and not the brighter fluid between them
    np.testing.assert_array_equal((refined == 2)[cochleae], (core | (beside & rim))[cochleae])
    assert (beside & rim).any()
    tumour = (raw > 1.8) & (raw < 2.2)
    assert (refined[tumour] == 1).mean() > 0.9  # an opening may round its edges
    assert not (refined[~tumour] == 1).any()


def test_refinement_leaves_alone_what_a_model_does_not_seek(
    configs: Path, images: Path, network: Any, tmp_path: Path
) -> None:
    for structure, level in (("vs", VS_LEVEL), ("cochlea", COCHLEA_LEVEL)):
        settings: dict[str, Any] = {"channels": 2, "structures": [structure]}
        settings["weights"] = network(tmp_path / f"{structure}.pt", level)
        names: list[tuple[str, ...]] = [(), ("refine",)]
        folders = [predict(configs, images, tmp_path / f"{structure}{len(n)}", *n, **settings) for n in names]
        labels = [label(folder) for folder in folders]
        assert set(np.unique(labels[1])) == {0, 1}
        require_alike(labels[1], labels[0], 0.7)
