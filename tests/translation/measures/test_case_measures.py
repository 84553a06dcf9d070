"""The measures of one case as transforms: what they read, what they add, and what they leave alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from skimage.metrics import peak_signal_noise_ratio

from crossmoda.translation.evaluation_pictures import CutPicturesd, Picture, draw_pictures
from crossmoda.translation.measures.contrast import structure_contrasts
from crossmoda.translation.measures.features import SliceFeatures, volume_features
from crossmoda.translation.measures.intensities import foreground_quantiles
from crossmoda.translation.measures.real_scans import describe_scans
from crossmoda.translation.measures.transforms import (
    DescribeVolumesd,
    MeasureContrastd,
    MeasureEdgesd,
    MeasureFlickerd,
    MeasureSimilarityd,
)

SHAPE = (26, 28, 12)
SPACING_MM = (1.0, 1.5, 2.0)


def volume(seed: int) -> MetaTensor:
    values = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9
    return MetaTensor(values, affine=torch.diag(torch.tensor([*SPACING_MM, 1.0])))


@pytest.fixture
def item() -> dict[str, Any]:
    """A case whose VS lies in slices 5 to 7 (largest in 6) and whose cochlea lies in slice 8."""
    masks = torch.zeros(2, *SHAPE, dtype=torch.int8)
    masks[0, 8:12, 8:12, 5:8] = 1
    masks[0, 8:14, 8:14, 6] = 1
    masks[1, 18:20, 18:20, 8] = 1
    return {"case": "p", "image": volume(0), "pred": volume(1), "label": volume(2), "structures": masks}


def test_similarity_is_that_of_scikit_image_against_the_true_hrt2(item: dict[str, Any]) -> None:
    found = MeasureSimilarityd()(item)["measures"]
    arrays = {key: item[key].numpy() for key in ("pred", "image", "label")}
    for kind, key in (("translation", "pred"), ("input", "image")):
        expected = peak_signal_noise_ratio(arrays["label"], arrays[key], data_range=2)
        assert found["psnr_db"][kind] == pytest.approx(expected, rel=1e-4)
    assert set(found["ssim"]) == {"translation", "input"}
    assert "measures" not in item
    assert MeasureSimilarityd()({**item, "label": None})["measures"] == {}


def test_similarity_of_equal_images_is_1_and_has_no_decibels(item: dict[str, Any]) -> None:
    found = MeasureSimilarityd()({**item, "pred": item["label"]})["measures"]
    assert found["ssim"]["translation"] == pytest.approx(1)
    assert set(found["psnr_db"]) == {"input"}


def test_contrast_is_given_for_all_images_and_as_a_difference_to_the_truth(item: dict[str, Any]) -> None:
    found = MeasureContrastd(["vs", "cochlea"], ring_mm=4.0)(item)["measures"]
    masks = {name: item["structures"][index].numpy() == 1 for index, name in enumerate(("vs", "cochlea"))}
    for kind, key in (("translation", "pred"), ("input", "image"), ("truth", "label")):
        expected = structure_contrasts(item[key][0].numpy(), masks, SPACING_MM, 4.0)
        assert found["contrast_vs"][kind] == pytest.approx(expected["vs"])
        assert found["contrast_cochlea"][kind] == pytest.approx(expected["cochlea"])
    vs = found["contrast_vs"]
    assert vs["difference"] == pytest.approx(vs["translation"] - vs["truth"])


def test_measures_add_up_and_the_item_is_not_changed(item: dict[str, Any]) -> None:
    first = MeasureFlickerd()(item)
    second = MeasureEdgesd(["vs", "cochlea"])(first)
    assert set(first["measures"]) == {"flicker"}
    assert set(second["measures"]) == {"flicker", "edges_vs", "edges_cochlea"}
    assert set(item) == {"case", "image", "pred", "label", "structures"}


def test_without_a_label_or_a_truth_there_is_less_to_measure(item: dict[str, Any]) -> None:
    bare = {key: item[key] for key in ("case", "image", "pred")}
    assert MeasureContrastd(["vs"])(bare)["measures"] == {}
    assert MeasureEdgesd(["vs"])(bare)["measures"] == {}
    assert set(MeasureFlickerd()(bare)["measures"]["flicker"]) == {"translation", "input"}


def test_flicker_is_taken_on_the_inputs_foreground(item: dict[str, Any]) -> None:
    item["image"][:, :13] = -1.0
    jump = torch.zeros(1, *SHAPE)
    jump[:, :13, :, 6] = 0.5  # where the ceT1 shows air
    assert MeasureFlickerd()({**item, "pred": jump})["measures"]["flicker"]["translation"] == 0


def test_slices_are_those_about_the_structures_as_high_as_a_real_scan(item: dict[str, Any]) -> None:
    """Structures in slices 5 to 8, middle at the border of 6 and 7; 12 mm are 6 slices of 2 mm: 4 to 9."""
    found = DescribeVolumesd(["vs", "cochlea"], height_mm=12.0)(item)
    part = item["pred"][..., 4:10]
    torch.testing.assert_close(found["translation_features"], volume_features(part, SliceFeatures()))
    torch.testing.assert_close(found["translation_quantiles"][0], foreground_quantiles(part))
    assert found["input_features"].shape == found["truth_features"].shape == (6, 80)


def test_all_slices_count_without_a_label_or_a_height_and_where_the_slab_is_higher(item: dict[str, Any]) -> None:
    bare = {key: item[key] for key in ("case", "image", "pred")}
    assert DescribeVolumesd(["vs"], height_mm=12.0)(bare)["translation_features"].shape == (12, 80)
    assert DescribeVolumesd(["vs", "cochlea"])(item)["translation_features"].shape == (12, 80)
    assert DescribeVolumesd(["vs", "cochlea"], height_mm=90.0)(item)["translation_features"].shape == (12, 80)


def test_real_scans_are_described_one_by_one() -> None:
    volumes = {"a": volume(3), "b": volume(4)[..., :8]}
    real = describe_scans([{"case": "a"}, {"case": "b"}], lambda item: {"image": volumes[item["case"]]})
    assert real.cases == ["a"] * 12 + ["b"] * 8
    torch.testing.assert_close(real.features[12:], volume_features(volumes["b"], SliceFeatures()))
    torch.testing.assert_close(real.quantiles[0], foreground_quantiles(volumes["a"]))
    assert real.heights_mm == [24.0, 16.0]
    assert set(real.flicker) == {"a", "b"}


def test_pictures_are_cut_where_each_structure_is_largest(item: dict[str, Any]) -> None:
    pictures = CutPicturesd(["vs", "cochlea"])(item)["pictures"]
    assert [picture.title for picture in pictures] == ["p\nvestibular schwannoma", "p\ncochlea"]
    np.testing.assert_array_equal(pictures[0].images["translation"], item["pred"][0, ..., 6].numpy())
    np.testing.assert_array_equal(pictures[1].images["truth"], item["label"][0, ..., 8].numpy())
    assert pictures[0].masks["vs"].sum() == 36
    assert pictures[0].aspect == 1.5
    bare = {key: item[key] for key in ("case", "image", "pred")}
    (middle,) = CutPicturesd(["vs"])(bare)["pictures"]
    np.testing.assert_array_equal(middle.images["input"], item["image"][0, ..., 6].numpy())


def test_pictures_show_anterior_above_and_the_patients_right_on_the_left(tmp_path: Path) -> None:
    image = np.full((20, 20), -1.0)
    image[12:, 12:] = 1.0  # right and anterior in RAS
    draw_pictures(tmp_path / "picture.png", [Picture("p", {"input": image}, {}, 1.0)])
    pixels = matplotlib.image.imread(tmp_path / "picture.png")[..., :3].mean(axis=-1)
    black = np.argwhere(pixels < 0.02)
    (top, left), (bottom, right) = black.min(axis=0), black.max(axis=0)
    frame = pixels[top + 3 : bottom - 2, left + 3 : right - 2]
    half = frame.shape[0] // 2, frame.shape[1] // 2
    quarters = [frame[: half[0], : half[1]], frame[: half[0], half[1] :], frame[half[0] :, : half[1]]]
    assert quarters[0].mean() > 0.4
    assert max(quarter.mean() for quarter in quarters[1:]) < 0.1
