"""Which slice a SinGAN learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossmoda.data.volumes import write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import write_json
from crossmoda.preprocessing import working_space
from crossmoda.translation.singan_slice import choose_target, training_slice, usual_height

SHAPE = (12, 10, 8)
UPRIGHT, DOWNWARDS = np.diag([1.0, 1.0, 2.0, 1.0]), np.diag([1.0, 1.0, -2.0, 1.0])


def label_at(level: int) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[4:8, 4:8, level] = 1
    label[5, 5, :] = np.maximum(label[5, 5, :], 1)  # a thin stalk on all slices
    return label


def scan() -> np.ndarray:
    """Return a scan whose slice z has z + 1 bright columns."""
    image = np.random.default_rng(0).uniform(0, 1, SHAPE).astype(np.float32)
    for z in range(SHAPE[2]):
        image[: z + 1, :, z] += 20
    return image


@pytest.fixture
def datalist(tmp_path: Path) -> Path:
    """Labels with most tumour on levels 2, 2 of a file stored downwards (5 from below) and 6, and two targets."""
    for number, (level, affine) in enumerate(((2, UPRIGHT), (2, DOWNWARDS), (6, UPRIGHT))):
        write_volume(tmp_path / f"{number}_Label.nii.gz", label_at(level), affine)
        write_volume(tmp_path / f"{number}_ceT1.nii.gz", scan(), affine)
    write_volume(tmp_path / "a_hrT2.nii.gz", scan(), UPRIGHT)
    flat = scan()
    flat[..., 2] = 0
    write_volume(tmp_path / "b_hrT2.nii.gz", flat[..., ::-1].copy(), DOWNWARDS)
    source = [
        {"case": str(n), "image": f"{n}_ceT1.nii.gz", "label": f"{n}_Label.nii.gz", "site": "ldn"} for n in range(3)
    ]
    target = [
        {"case": "a", "site": "ldn", "image": "a_hrT2.nii.gz"},
        {"case": "b", "site": "etz", "image": "b_hrT2.nii.gz"},
    ]
    write_json(tmp_path / "list.json", {"labels": {"vs": 1, "cochlea": 2}, "source": source, "target": target})
    return tmp_path / "list.json"


def chosen(datalist: Path, **options: Any) -> dict[str, Any]:
    space = working_space("image", spacing_mm=(1, 1, 2), size=(12, 10), intensity="minmax_percentile")
    return training_slice(datalist, space, **options)


def test_the_slice_lies_at_the_median_height_of_the_labelled_tumours(datalist: Path) -> None:
    """(2.5, 5.5, 6.5) / 8 of the three labels; the stalk does not count, the direction of the file does not matter."""
    item = chosen(datalist)
    assert item["case"] == "a"
    assert item["slice_index"] == 5
    assert item["image"].shape == (1, 12, 10)
    assert item["image"].min() >= -1
    assert item["image"].max() <= 1
    bright = (item["image"][0] > 0).all(dim=1)
    assert torch.equal(bright, torch.arange(12) < 6)  # slice 5 has 6 bright columns


def test_case_site_and_slice_can_be_named(datalist: Path) -> None:
    item = chosen(datalist, site="etz", slice_index=0)
    assert (item["case"], item["slice_index"]) == ("b", 0)
    assert torch.equal(
        (item["image"][0] > 0).all(dim=1), torch.arange(12) < 1
    )  # lowest slice of a file stored downwards
    assert chosen(datalist, case="b", slice_index=7)["case"] == "b"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"case": "c"}, r"list\.json: no target scan with case 'c'; name another with --case or --site"),
        ({"case": "a", "site": "etz"}, "no target scan with case 'a' and site 'etz'"),
        ({"slice_index": 8}, r"a_hrT2\.nii\.gz: has no slice_index 8; its slices are 0 to 7"),
        ({"slice_index": -1}, "has no slice_index -1"),
        ({"case": "b", "slice_index": 2}, r"b_hrT2\.nii\.gz: slice 2 shows nothing; give another slice_index"),
        ({"structure": "cochlea"}, "no source label shows cochlea to find a slice by; give --slice_index"),
    ],
)
def test_slices_that_are_not_there_are_named(datalist: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossmodaError, match=message):
        chosen(datalist, **options)


def test_without_labels_the_slice_must_be_named() -> None:
    with pytest.raises(CrossmodaError, match="no source label shows vs"):
        usual_height([{"case": "x", "image": "x.nii.gz"}], {"vs": 1}, "vs")
    with pytest.raises(CrossmodaError, match="the dataset: no target scan; name another"):
        choose_target([], None, None)
