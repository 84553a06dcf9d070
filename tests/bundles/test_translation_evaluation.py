"""The translation bundle's evaluation, from files to a table, on volumes whose measures are known."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.orientations import axcodes2ornt
from support import BUNDLES, workflow_of

from crossmoda.errors import find_user_error

BUNDLE = "cet1_to_hrt2_translation"
SEGMENTATION = str(BUNDLES / "vs_cochlea_hrt2_segmentation")
SHAPE = (40, 36, 10)
AFFINE = np.array([[1.0, 0, 0, -7], [0, 1.2, 0, 11], [0, 0, 1.5, 3], [0, 0, 0, 1]])
RAS, OTHERS = ("R", "A", "S"), [("L", "P", "S"), ("A", "R", "I"), ("R", "P", "S"), ("P", "L", "S"), ("S", "R", "A")]
SETTINGS: dict[str, Any] = {
    "spacing": [1.0, 1.2, 1.5],
    "crop_size": [40, 36],
    "ngf": 4,
    "n_blocks": 1,
    "device": "cpu",
    "network": "$torch.nn.Identity()",
    "initialize": [],
}
BOX = {"vs": (slice(8, 18), slice(10, 20), slice(3, 7)), "cochlea": (slice(26, 31), slice(20, 24), slice(4, 6))}
VALUES = {"vs": 160.0, "cochlea": 40.0}

pytestmark = pytest.mark.usefixtures("one_thread")


def scan(number: int, brightness: float = 1.0) -> np.ndarray:
    """Return a head of about 100 in air of 0, a brighter VS and a darker cochlea, (X, Y, Z) in RAS."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = (x / 0.9) ** 2 + (y / 0.9) ** 2 < 1
    rng = np.random.default_rng(number)
    image = inside * (100 + 3 * rng.standard_normal(SHAPE) + 5 * z)
    for name, box in BOX.items():
        image[box] = VALUES[name] * brightness
    image[0, 0, 0], image[20, 5, 5] = 0, 200
    return image.astype(np.float32)


def label() -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    for number, name in enumerate(BOX):
        found[BOX[name]] = number + 1
    return found


def save(path: Path, array: np.ndarray, axes: Sequence[str]) -> str:
    """Write an array that is in RAS order with its axes running otherwise on disk, at the same places."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE).as_reoriented(_turn(axes)), path)
    return str(path)


def _turn(axes: Sequence[str]) -> np.ndarray:
    return nib.orientations.ornt_transform(axcodes2ornt(RAS), axcodes2ornt(axes))


def dataset(root: Path, axes: Sequence[Sequence[str]], labels: dict[str, int] | None, labelled: int = 2) -> Path:
    """Write two source cases, two target cases and a datalist; the label maps hold what ``labels`` knows."""
    source = []
    for number in range(2):
        item = {"case": f"s{number}", "image": save(root / f"s{number}_ceT1.nii.gz", scan(number), axes[number])}
        if labels is not None and number < labelled:
            known = np.where(np.isin(label(), list(labels.values())), label(), 0)
            item["label"] = save(root / f"s{number}_Label.nii.gz", known, axes[number])
        source.append(item)
    target = [
        {"case": f"t{n}", "image": save(root / f"t{n}_hrT2.nii.gz", scan(10 + n, 1.2), axes[n])} for n in range(2)
    ]
    content = {"edition": "2022", "labels": labels or {"vs": 1}, "source": source, "target": target, "validation": []}
    (root / "datalist.json").write_text(json.dumps(content))
    return root / "datalist.json"


def evaluate(configs: Path, data: Path, output: Path, **overrides: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Return what ``metrics.json`` holds, and the engine's metrics."""
    settings = {"dataset_dir": data, "output_dir": output, **SETTINGS, **overrides}
    workflow = workflow_of(configs, ["inference", "evaluate"], "inference", **settings)
    workflow.run()
    return json.loads((output / "metrics.json").read_text()), dict(workflow.evaluator.state.metrics)


@pytest.fixture(scope="module")
def perfect(configs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], dict[str, float]]:
    """Output folder, results and engine's metrics of a translator that gives its input back, which is the truth."""
    root = tmp_path_factory.mktemp("perfect")
    data = dataset(root / "data", OTHERS, {"vs": 1, "cochlea": 2})
    for number in range(2):
        save(root / "truth" / f"s{number}_hrT2.nii.gz", 1.7 * scan(number), OTHERS[number + 2])  # another scale
    return root / "out", *evaluate(configs, data, root / "out", truth=str(root / "truth"))


def mean_of(results: dict[str, Any], measure: str, kind: str = "translation") -> float:
    return float(results["measures"][measure][kind]["mean"])


def test_a_perfect_translator_is_as_good_as_the_truth_in_every_measure(
    perfect: tuple[Path, dict[str, Any], dict[str, float]],
) -> None:
    _, results, metrics = perfect
    assert mean_of(results, "ssim") == pytest.approx(1.0)
    assert mean_of(results, "psnr_db") > 80
    for name in ("vs", "cochlea"):
        assert mean_of(results, f"contrast_{name}", "difference") == pytest.approx(0, abs=1e-5)
        assert mean_of(results, f"edges_{name}") == pytest.approx(mean_of(results, f"edges_{name}", "truth"), abs=1e-3)
        assert mean_of(results, f"edges_{name}") > 0.8
    assert mean_of(results, "flicker") == pytest.approx(mean_of(results, "flicker", "truth"), abs=1e-5)
    for name in ("kernel_distance", "frechet_distance", "intensity_distance"):
        found = results["measures"][name]
        assert found["translation"]["value"] == pytest.approx(found["truth"]["value"], rel=1e-3, abs=1e-4)
        assert metrics[name] == found["translation"]["value"]
    assert metrics["contrast_vs"] == mean_of(results, "contrast_vs")


def test_contrasts_are_those_of_the_structures_by_name(perfect: tuple[Path, dict[str, Any], dict[str, float]]) -> None:
    """Head 100, VS 160 and cochlea 40 of 0..200 (the 99.9th percentile): 0.3 of the range, up and down."""
    _, results, _ = perfect
    for case in results["cases"]:
        assert case["contrast_vs"]["translation"] == pytest.approx((160 - 100) / 160, abs=0.01)
        assert case["contrast_cochlea"]["translation"] == pytest.approx((40 - 100) / 160, abs=0.01)
    assert [case["case"] for case in results["cases"]] == ["s0", "s1"]
    summary = results["measures"]["contrast_vs"]["translation"]
    assert {"mean", "std", "median", "n"} <= set(summary)
    assert summary["n"] == 2


def test_the_picture_and_the_translations_lie_beside_the_figures(
    perfect: tuple[Path, dict[str, Any], dict[str, float]],
) -> None:
    output, _, _ = perfect
    picture = matplotlib.image.imread(output / "evaluation.png")
    coloured = np.ptp(picture[..., :3], axis=-1) > 0.3  # the outlines
    assert coloured.sum() > 500
    rendering = nib.load(output / "pseudo_hrt2" / "s0_hrT2.nii.gz")
    assert nib.aff2axcodes(rendering.affine) == OTHERS[0]
    np.testing.assert_allclose(rendering.affine, nib.load(output.parent / "data" / "s0_ceT1.nii.gz").affine, atol=1e-4)


def test_measures_do_not_depend_on_how_the_axes_run_on_disk(configs: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = "$torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Tanh())"
    found = []
    for name, axes in (("upright", [RAS, RAS]), ("turned", OTHERS[1:])):
        data = dataset(tmp_path / name, axes, {"vs": 1, "cochlea": 2})
        torch.manual_seed(0)
        found.append(evaluate(configs, data, tmp_path / f"{name}_out", network=network)[0])
    upright, turned = found
    assert set(upright["measures"]) == set(turned["measures"])
    for measure, kinds in upright["measures"].items():
        for kind, summary in kinds.items():
            other = turned["measures"][measure][kind]
            key = "mean" if "mean" in summary else "value"
            assert other[key] == pytest.approx(summary[key], rel=0.02, abs=2e-3), (measure, kind)


def test_without_labels_and_truth_the_rest_is_measured_and_the_table_says_so(
    configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path / "data", OTHERS, None)
    results, metrics = evaluate(configs, data, tmp_path / "out")
    assert set(results["measures"]) == {"flicker", "kernel_distance", "frechet_distance", "intensity_distance"}
    assert {"translation", "input", "real"} == set(results["measures"]["flicker"])
    assert metrics["intensity_distance"] == pytest.approx(metrics["intensity_distance_input"], abs=1e-6)
    table = capsys.readouterr().out
    assert "left out: PSNR, SSIM and all of the true hrT2; give the folder with --truth" in table
    assert "left out: contrast, edges and Dice of 2 case(s) without a label" in table
    assert "left out: Dice of a fixed segmenter; give one with --segmenter_weights" in table
    assert "Frechet distance of 20 and 20 slices: biased below 800 on either side" in table
    assert "kernel distance of 2 and 2 scans: trust it from 10 on either side" in table
    assert "flicker" in table


def test_translations_to_cet1_are_held_against_cet1(
    configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = dataset(tmp_path / "data", OTHERS, {"vs": 1, "cochlea": 2})
    for number in range(2):
        save(tmp_path / "truth" / f"t{number}_ceT1.nii.gz", scan(10 + number, 1.2), OTHERS[number])
    reverse = {"modality": "ceT1", "section": "target", "reference_section": "source", "truth": tmp_path / "truth"}
    results, _ = evaluate(configs, data, tmp_path / "out", **reverse)
    assert (tmp_path / "out" / "pseudo_cet1" / "t1_ceT1.nii.gz").is_file()
    assert mean_of(results, "ssim", "translation") == pytest.approx(1.0, abs=1e-3)
    table = capsys.readouterr().out
    assert re.search(r"measure +best +n +translation +input +true ceT1 +real ceT1", table)
    assert "real ceT1's" in table
    assert "hrT2" not in table


def test_a_label_of_the_vs_alone_is_enough_and_one_case_may_lack_it(configs: Path, tmp_path: Path) -> None:
    data = dataset(tmp_path / "data", OTHERS, {"vs": 1}, labelled=1)
    results, _ = evaluate(configs, data, tmp_path / "out", reference_section=None)
    assert set(results["measures"]) == {"contrast_vs", "edges_vs", "flicker"}
    assert results["measures"]["contrast_vs"]["translation"]["n"] == 1
    assert "contrast_vs" not in results["cases"][1]
    assert "left out: contrast, edges and Dice of 1 case(s) without a label" in results["notes"]
    assert "left out: cochlea, which no label shows in the window" in results["notes"]
    assert "left out: distances to real hrT2; name its section with --reference_section" in results["notes"]


@pytest.mark.parametrize("moved", ["truth/s1_hrT2.nii.gz", "data/s1_Label.nii.gz"])
def test_a_truth_or_a_label_that_lies_elsewhere_is_refused(configs: Path, tmp_path: Path, moved: str) -> None:
    data = dataset(tmp_path / "data", OTHERS, {"vs": 1, "cochlea": 2})
    for number in range(2):
        save(tmp_path / "truth" / f"s{number}_hrT2.nii.gz", scan(number), OTHERS[number])
    image = nib.load(tmp_path / moved)
    array, affine = np.asarray(image.dataobj), image.affine.copy()
    affine[0, 3] += 2  # mm
    nib.save(nib.Nifti1Image(array, affine), tmp_path / moved)
    with pytest.raises(Exception, match=r".") as caught:
        evaluate(configs, data, tmp_path / "out", truth=str(tmp_path / "truth"), reference_section=None)
    name = Path(moved).name
    assert re.search(rf"{name}: lies on another grid than .*s1_ceT1\.nii\.gz", str(find_user_error(caught.value)))


THRESHOLD = 2.0  # in standard deviations of the foreground; the VS has 160, the rest about 100


@pytest.fixture
def segmenter(tmp_path: Path) -> dict[str, Any]:
    """Settings that make the segmentation bundle call the VS whatever is bright."""
    network = torch.nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([-50.0, 50.0]).view(2, 1, 1, 1, 1))
        network.bias.copy_(torch.tensor([50.0, -50.0]) * THRESHOLD)
    torch.save(network.state_dict(), tmp_path / "segmenter.pt")
    return {
        "segmenter_weights": str(tmp_path / "segmenter.pt"),
        "segmenter_settings": {
            "structures": ["vs"],
            "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 1},
            "spacing": [1.0, 1.2, 1.5],
            "crop_size": [40, 36],
            "patch_size": [16, 16, 8],
            "amp": False,
        },
    }


def test_a_fixed_segmenter_scores_translations_ceT1_and_truth_by_the_source_labels(  # noqa: N802
    configs: Path, tmp_path: Path, segmenter: dict[str, Any], repository: Path
) -> None:
    data = dataset(tmp_path / "data", OTHERS, {"vs": 1, "cochlea": 2})
    for number in range(2):
        flat = np.minimum(scan(number), 110)  # a truth in which the tumour is as bright as brain
        save(tmp_path / "truth" / f"s{number}_hrT2.nii.gz", flat, OTHERS[number])
    bundle = {"segmenter_bundle": str(repository / "bundles" / "vs_cochlea_hrt2_segmentation")}
    results, metrics = evaluate(configs, data, tmp_path / "out", truth=str(tmp_path / "truth"), **segmenter, **bundle)
    assert mean_of(results, "dice_vs") > 0.9
    assert mean_of(results, "dice_vs", "input") > 0.9
    assert mean_of(results, "dice_vs", "truth") < 0.1
    assert metrics["dice_vs"] == mean_of(results, "dice_vs")
    assert "dice_cochlea" not in results["measures"]
    for number in range(2):  # the same figure from the files that were left
        predicted = (
            nib.load(tmp_path / "out" / "segmenter" / "translation" / f"s{number}_Label.nii.gz").get_fdata() == 1
        )
        true = nib.load(tmp_path / "data" / f"s{number}_Label.nii.gz").get_fdata() == 1
        expected = 2 * (predicted & true).sum() / (predicted.sum() + true.sum())
        assert results["cases"][number]["dice_vs"]["translation"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"truth": "nowhere"}, "nowhere: no s0_hrT2 image"),
        ({"structures": ["tumour"]}, "structures: 'tumour' is unknown"),
        ({"reference_section": "validation"}, "reference_section: .*'validation' has no images"),
        ({"segmenter_weights": "nowhere.pt"}, r"segmenter_weights: nowhere\.pt: no weights there"),
        ({"segmenter_weights": "{data}", "segmenter_bundle": "nowhere"}, "segmenter_bundle: nowhere/configs/inference"),
        (
            {
                "segmenter_weights": "{data}",
                "segmenter_bundle": SEGMENTATION,
                "segmenter_settings": {"crop_sze": [8, 8]},
            },
            r"segmenter_settings: no such key 'crop_sze' in .*; did you mean 'crop_size'\?$",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(configs: Path, tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    data = dataset(tmp_path / "data", OTHERS, {"vs": 1, "cochlea": 2})
    overrides = {key: str(data) if value == "{data}" else value for key, value in overrides.items()}
    with pytest.raises(Exception, match=r".") as caught:
        evaluate(configs, data, tmp_path / "out", **overrides)
    error = find_user_error(caught.value)
    assert error is not None
    assert re.search(message, str(error)), error
    assert "\n" not in str(error)
