"""Tumour blending: factors, masks, the choice of cases, and that nothing else of a volume changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import nn

from crossmoda.data.volumes import Volume, read_volume, write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json, write_json
from crossmoda.translation.blending_picture import PictureRow, _window, draw_rows
from crossmoda.translation.blending_run import BlendingRun, blending_items, describe_counts, pictured
from crossmoda.translation.singan import NoiseSource, SinGAN
from crossmoda.translation.tumour_blending import (
    Blending,
    BlendingRule,
    alter,
    blending_mask,
    noise_for,
    read_rules,
    require_scales,
)

TINY: dict[str, Any] = {"filters": 4, "kernel_size": 3, "layers": 3, "min_size": 8, "scale_factor": 0.7}
SHAPE = (40, 34, 6)
SPACING_MM = (0.5, 0.8, 1.5)
CARD_B = [
    {"name": "vs_large", "structure": "vs", "site": "etz", "volume_above_mm3": 2340, "std_above": 0.09}
    | {"lambdas": [0.7, 1.2, 1.5], "scales": [13, 15]},
    {"name": "vs_small", "structure": "vs", "volume_below_mm3": 288, "lambdas": [0.6, 0.8, 1.2], "scales": [13, 15]},
    {"name": "cochlea", "structure": "cochlea", "lambdas": [2, 3, 4], "scales": [13]},
]


def affine_of(axes: str = "RAS") -> np.ndarray:
    """Return an affine whose array axes run as the letters say, off the origin."""
    affine = np.zeros((4, 4))
    for axis, letter in enumerate(axes):
        world = next(index for index, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
        affine[world, axis] = SPACING_MM[world] * (1 if letter in "RAS" else -1)
    affine[:, 3] = [3, -5, 7, 1]
    return affine


def in_order(array: np.ndarray, axes: str) -> np.ndarray:
    """Return an RAS array (X, Y, Z) as a file with such axes would hold it."""
    order = [next(index for index, pair in enumerate(("RL", "AP", "SI")) if letter in pair) for letter in axes]
    turned = array.transpose(order)
    return np.ascontiguousarray(np.flip(turned, [axis for axis, letter in enumerate(axes) if letter in "LPI"]))


def scan(seed: int = 0) -> np.ndarray:
    """Return a pseudo-hrT2 (X, Y, Z), 0 outside a window of 32 x 26 voxels."""
    image = np.zeros(SHAPE, np.float32)
    image[4:36, 4:30] = np.random.default_rng(seed).uniform(0.1, 0.6, (32, 26, SHAPE[2]))
    return image


def tumour(levels: tuple[int, ...] = (2, 3)) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[14:18, 10:13, list(levels)] = True
    return mask


def pyramid(seed: int = 0) -> SinGAN:
    """Return an untrained pyramid that changes whatever it is given."""
    torch.manual_seed(seed)
    return SinGAN((32, 26), **TINY).eval()


def blending(**options: Any) -> Blending:
    return Blending(
        **{"network": pyramid(), "pixel_mm": SPACING_MM[:2], "dilation_pixels": 1, "sigma_pixels": 1, **options}
    )


def test_a_factor_multiplies_the_structure_alone_and_stays_within_0_and_1() -> None:
    image = np.array([[0.2, 0.5], [0.8, 0.4]], np.float32)
    mask = np.array([[True, False], [True, True]])
    np.testing.assert_allclose(alter(image, mask, 1.5), [[0.3, 0.5], [1.0, 0.6]])
    np.testing.assert_allclose(alter(image, mask, 0.5), [[0.1, 0.5], [0.4, 0.2]])
    assert image[1, 0] == np.float32(0.8)  # the input is left alone


def gaussian(sigma: float, reach: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def test_the_mask_of_one_pixel_by_hand() -> None:
    """A disk of radius 1 is a cross of five pixels; a Gaussian of sigma 0.5 is cut off after two."""
    mask = np.zeros((13, 11), bool)
    mask[6, 5] = True
    g = gaussian(0.5, 2)
    centre = g[2] ** 2 + 4 * g[2] * g[1]  # the pixel itself and its four neighbours
    neighbour = g[2] ** 2 + g[1] * g[2] + g[0] * g[2] + 2 * g[1] ** 2
    blended = blending_mask(mask, 1, 0.5)
    assert blended[6, 5] == 1
    assert blended[6, 6] == pytest.approx(neighbour / centre, rel=1e-5)
    assert blended[5, 5] == pytest.approx(neighbour / centre, rel=1e-5)
    assert blended[6, 8] == pytest.approx(g[2] * g[0] / centre, rel=1e-5)
    assert blended[6, 9] == 0
    assert blended.min() == 0


def test_the_card_s_mask_reaches_27_pixels_and_no_further() -> None:
    mask = np.zeros((101, 101), bool)
    mask[50, 50] = True
    blended = blending_mask(mask)
    assert blended[50, 50] == 1
    assert blended[50, 50 + 27] > 0  # radius 7 and four times sigma 5
    assert (blended[50, 50 + 28 :] == 0).all()
    assert (np.diff(blended[50, 50:78]) < 0).all()


def test_a_mask_wider_than_the_slice_takes_all_of_it() -> None:
    assert (blending_mask(np.ones((4, 5), bool)) == 1).all()


@pytest.mark.parametrize(
    ("site", "volume_mm3", "std", "expected"),
    [
        ("etz", 2341.0, 0.091, [None, "2341 mm3, not below 288"]),
        ("etz", 2340.0, 0.2, ["2340 mm3, not above 2340", "2340 mm3, not below 288"]),
        ("etz", 5000.0, 0.09, ["standard deviation 0.090, not above 0.09", "5000 mm3, not below 288"]),
        ("ldn", 5000.0, 0.2, ["site ldn, not etz", "5000 mm3, not below 288"]),
        ("ldn", 287.9, 0.0, ["site ldn, not etz", None]),
        ("etz", 287.9, 0.2, ["288 mm3, not above 2340", None]),
        ("ukm", 0.0, 0.0, ["no vs in the label", "no vs in the label"]),
    ],
)
def test_the_card_s_choice_of_tumours(site: str, volume_mm3: float, std: float, expected: list[str | None]) -> None:
    large, small, cochlea = read_rules(CARD_B)
    assert [rule.refusal(site, volume_mm3, std) for rule in (large, small)] == expected
    assert (cochlea.refusal(site, volume_mm3, std) is None) == (volume_mm3 > 0)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([], r"rules \[\]: give one or more"),
        ([CARD_B[0], CARD_B[0]], "each with a name of its own"),
        ([{**CARD_B[0], "volume_abve_mm3": 3}], r"rules\[0\]: no such key .*; did you mean 'volume_above_mm3'\?"),
        ([{"name": "x", "structure": "vs"}], r"rules\[0\]: lambdas missing"),
        ([{**CARD_B[0], "structure": "tumour"}], "structure 'tumour' is unknown"),
        ([{**CARD_B[0], "lambdas": []}], "must be one or more numbers above 0"),
        ([{**CARD_B[0], "lambdas": [1.0, 0]}], "must be one or more numbers above 0"),
        ([{**CARD_B[0], "lambdas": ["much"]}], "must be one or more numbers above 0"),
    ],
)
def test_impossible_rules_are_named(rules: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(CrossmodaError, match=message):
        read_rules(rules)


def test_scales_out_of_the_pyramid_s_range_are_named() -> None:
    require_scales(read_rules(CARD_B), SinGAN((256, 256)))
    with pytest.raises(CrossmodaError, match="scale 13 is not one to harmonise from: this pyramid has 1 to"):
        require_scales(read_rules(CARD_B), pyramid())
    with pytest.raises(CrossmodaError, match="rule a: name the scales to harmonise from"):
        require_scales([BlendingRule("a", "vs", [2])], pyramid())


def test_noise_depends_on_case_structure_factor_scale_and_seed_alone() -> None:
    def first(*key: Any) -> float:
        return float(noise_for(*key).draw((1, 1)))

    key = (7, "ldn_1", "vs", 0.7, 13)
    assert first(*key) == first(*key)
    others = [(8, *key[1:]), (7, "ldn_2", "vs", 0.7, 13), (7, "ldn_1", "cochlea", 0.7, 13)]
    others += [(7, "ldn_1", "vs", 1.2, 13), (7, "ldn_1", "vs", 0.7, 15)]
    assert len({first(*other) for other in (key, *others)}) == 6


def test_slices_and_voxels_out_of_the_mask_s_reach_keep_their_bits() -> None:
    altered = Volume(alter(scan(), tumour(), 1.5), affine_of())
    out = blending().volume(altered, tumour(), 2, NoiseSource())
    assert out.dtype == np.float32
    untouched = [0, 1, 4, 5]
    assert np.array_equal(out[..., untouched], scan()[..., untouched])
    changed = out != altered.array
    # columns 14 to 17 and rows 10 to 12, a disk of 1 and a Gaussian of 4 sigma: 5 voxels further
    assert not changed[:9].any()
    assert not changed[23:].any()
    assert not changed[:, :5].any()
    assert not changed[:, 18:].any()
    assert changed[14:18, 10:13, 2:4].mean() > 0.9
    assert out.min() >= 0
    assert out.max() <= 1


def test_a_value_just_beyond_the_range_is_left_alone_where_nothing_is_blended() -> None:
    image = scan()
    image[30, 25, 2], image[5, 5, 3] = 1.0005, -0.0005
    out = blending().volume(Volume(image, affine_of()), tumour(), 2, NoiseSource())
    assert out[30, 25, 2] == image[30, 25, 2]
    assert out[5, 5, 3] == image[5, 5, 3]


def test_inside_the_mask_stands_what_the_pyramid_makes_of_the_slice() -> None:
    """On the pyramid's own pixels the mask's 1 lets the harmonised slice through, drawn from the volume's noise."""
    affine = np.diag([*SPACING_MM, 1.0])
    mask = tumour((2,))
    altered = alter(scan(), mask, 0.5)
    out = blending(dilation_pixels=4, sigma_pixels=0.2).volume(Volume(altered, affine), mask, 1, NoiseSource(3))
    pixels = torch.from_numpy(altered[4:36, 4:30, 2])[None, None] * 2 - 1
    expected = (pyramid().harmonise(pixels, 1, NoiseSource(3))[0, 0].numpy() + 1) / 2
    np.testing.assert_allclose(out[14:18, 10:13, 2], expected[10:14, 6:9], atol=1e-6)


@pytest.mark.parametrize("axes", ["LPS", "RAI", "LIP", "SAR", "PLS", "ASR", "IRP"])
def test_axes_in_any_order_and_direction_give_the_same_volume(axes: str) -> None:
    altered = alter(scan(), tumour(), 1.5)
    straight = blending().volume(Volume(altered, affine_of()), tumour(), 2, NoiseSource(1))
    turned = Volume(in_order(altered, axes), affine_of(axes))
    out = blending().volume(turned, in_order(tumour(), axes), 2, NoiseSource(1))
    assert np.array_equal(out, in_order(straight, axes))


def test_a_slice_of_coarser_pixels_is_changed_about_the_tumour_alone() -> None:
    altered = Volume(scan(), affine_of())
    out = blending(pixel_mm=(0.9, 0.9)).volume(altered, tumour(), 2, NoiseSource())
    changed = (out != altered.array).any(axis=2)
    # in mm about the tumour: disk and Gaussian 5 pixels of 0.9 mm, and 2 pixels of the bicubic kernel at most
    x, y = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
    assert (14 - x[0]) * 0.5 <= 8 * 0.9
    assert (x[-1] - 17) * 0.5 <= 8 * 0.9
    assert (10 - y[0]) * 0.8 <= 8 * 0.9
    assert changed[14:18, 10:13].all()


def test_a_structure_of_one_voxel_does_not_vanish_between_coarser_pixels() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[15, 12, 3] = True
    out = blending(pixel_mm=(2.0, 2.0), dilation_pixels=0).volume(Volume(scan(), affine_of()), mask, 2, NoiseSource())
    assert out[15, 12, 3] != scan()[15, 12, 3]


def dataset(folder: Path, cases: dict[str, tuple[str, np.ndarray, np.ndarray]], **labels: int) -> Path:
    """Write a datalist of source cases ``name -> (site, pseudo-hrT2, label)`` and the pseudo-hrT2 apart."""
    source = []
    for case, (site, image, label) in cases.items():
        write_volume(folder / "pseudo" / f"{case}_hrT2.nii.gz", image, affine_of("LPS"), dtype=np.float32)
        write_volume(folder / f"{case}_Label.nii.gz", label, affine_of("LPS"))
        write_volume(folder / f"{case}_ceT1.nii.gz", image, affine_of("LPS"))
        files = {"image": f"{case}_ceT1.nii.gz", "label": f"{case}_Label.nii.gz"}
        source.append({"case": case, "site": site, **files})
    datalist = {"edition": "2022", "labels": labels or {"vs": 1, "cochlea": 2}, "source": source}
    write_json(folder / "list.json", datalist)
    return folder / "list.json"


def labelled(vs: int = 1, cochlea: int = 2) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[tumour()] = vs
    label[25:27, 20:22, 3:4] = cochlea
    return label


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three cases: a tumour of 24 voxels of 0.6 mm3 at either site, and a label without one."""
    bare = labelled()
    bare[tumour()] = 0
    return dataset(
        tmp_path,
        {"etz_1": ("etz", scan(1), labelled()), "ldn_2": ("ldn", scan(2), labelled()), "ldn_3": ("ldn", scan(3), bare)},
    )


RULES: list[dict[str, Any]] = [
    {"name": "large", "structure": "vs", "site": "etz", "volume_above_mm3": 14, "std_above": 0.05}
    | {"lambdas": [0.5, 1.5], "scales": [1, 2]},
    {"name": "small", "structure": "vs", "volume_below_mm3": 14, "lambdas": [2], "scales": [2]},
    {"name": "cochlea", "structure": "cochlea", "lambdas": [2], "scales": [2]},
]


def blending_run(three: Path, output: Path, **options: Any) -> BlendingRun:
    settings = {"rules": read_rules(options.pop("rules", RULES)), "output_dir": output, "blending": blending()}
    return BlendingRun(blending_items(three, three.parent / "pseudo"), **{**settings, **options})


def test_cases_are_chosen_and_counted_with_a_reason_for_each(three: Path, tmp_path: Path) -> None:
    plan = blending_run(three, tmp_path / "out").plan()
    assert plan["counts"] == {
        "large": {"structure": "vs", "selected": 1, "of": 3, "volumes": 4},
        "small": {"structure": "vs", "selected": 0, "of": 3, "volumes": 0},
        "cochlea": {"structure": "cochlea", "selected": 3, "of": 3, "volumes": 3},
    }
    cases = {case["case"]: case for case in plan["cases"]}
    assert cases["etz_1"]["structures"]["vs"]["volume_mm3"] == pytest.approx(24 * 0.6)
    inside = scan(1)[np.asarray(labelled() == 1)]
    assert cases["etz_1"]["structures"]["vs"]["intensity_std"] == pytest.approx(inside.std(), abs=1e-4)
    assert cases["ldn_2"]["rules"] == {
        "large": "site ldn, not etz",
        "small": "14 mm3, not below 14",
        "cochlea": "selected",
    }
    assert cases["ldn_3"]["rules"]["small"] == "no vs in the label"
    assert "large: 1 of 3 cases, 4 volumes" in describe_counts(plan)
    assert plan["volumes"][0] == {
        "case": "etz_1",
        "rule": "large",
        "structure": "vs",
        "lambda": 0.5,
        "scale": 1,
        "file": "etz_1_vs_x0.5_scale1_hrT2.nii.gz",
    }


def test_volumes_are_written_on_the_case_s_grid_with_plan_and_picture(three: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    plan = blending_run(three, output).run()
    assert read_json(output / "tumour_blending.json") == plan
    assert {path.name for path in output.iterdir()} == {
        "tumour_blending.json",
        "tumour_blending.png",
        *(entry["file"] for entry in plan["volumes"]),
    }
    pseudo = read_volume(three.parent / "pseudo" / "etz_1_hrT2.nii.gz")
    out = read_volume(output / "etz_1_vs_x1.5_scale2_hrT2.nii.gz")
    np.testing.assert_allclose(out.affine, pseudo.affine)
    assert np.array_equal(out.array[..., [0, 1, 4, 5]], pseudo.array[..., [0, 1, 4, 5]])
    assert not np.array_equal(out.array, pseudo.array)
    assert matplotlib.image.imread(output / "tumour_blending.png").std() > 0.1


def test_volumes_do_not_depend_on_which_others_are_made(three: Path, tmp_path: Path) -> None:
    blending_run(three, tmp_path / "all").run()
    blending_run(three, tmp_path / "one", rules=[{**RULES[0], "lambdas": [1.5], "scales": [2]}]).run()
    name = "etz_1_vs_x1.5_scale2_hrT2.nii.gz"
    assert (tmp_path / "all" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_run_that_was_cut_off_makes_what_is_missing(three: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    plan = blending_run(three, output).run()
    files = [output / entry["file"] for entry in plan["volumes"]]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
    picture = (output / "tumour_blending.png").read_bytes()
    files[2].unlink()
    blending_run(three, output).run()
    assert [path for path in files if path.stat().st_mtime_ns != before[path][0]] == [files[2]]
    assert all(path.read_bytes() == before[path][1] for path in files)
    assert (output / "tumour_blending.png").read_bytes() == picture


@pytest.mark.parametrize("change", [{"seed": 1}, {"blending": None}, {"rules": RULES[:1]}])
def test_volumes_of_other_settings_are_not_taken_over(three: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    output = tmp_path / "out"
    blending_run(three, output).run()
    plan = blending_run(three, output, **change).run()
    made = {path.name for path in output.glob("*.nii.gz")}
    assert made == {entry["file"] for entry in plan["volumes"]}


def test_the_naive_augmentation_needs_no_pyramid(three: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    plan = blending_run(three, output, blending=None, rules=[{**RULES[0], "scales": []}]).run()
    assert [entry["file"] for entry in plan["volumes"]] == ["etz_1_vs_x0.5_hrT2.nii.gz", "etz_1_vs_x1.5_hrT2.nii.gz"]
    assert plan["harmonised"] is False
    pseudo = read_volume(three.parent / "pseudo" / "etz_1_hrT2.nii.gz").array
    out = read_volume(output / "etz_1_vs_x0.5_hrT2.nii.gz").array
    mask = labelled() == 1
    np.testing.assert_allclose(out[mask], 0.5 * pseudo[mask])
    assert np.array_equal(out[~mask], pseudo[~mask])


def test_two_rules_that_ask_for_one_volume_make_it_once(three: Path, tmp_path: Path) -> None:
    again = {**RULES[0], "name": "again", "lambdas": [1.5, 3.0]}
    plan = blending_run(three, tmp_path / "out", rules=[RULES[0], again]).plan()
    assert len({entry["file"] for entry in plan["volumes"]}) == len(plan["volumes"]) == 6
    assert {name: count["volumes"] for name, count in plan["counts"].items()} == {"large": 4, "again": 2}


def test_labels_are_known_by_name(tmp_path: Path) -> None:
    """2023 stores the tumour in two parts under other numbers."""
    label = np.zeros(SHAPE, np.uint8)
    label[14:16, 10:13, 2:4], label[16:18, 10:13, 2:4] = 1, 2
    path = dataset(tmp_path, {"ukm_1": ("ukm", scan(), label)}, extra=1, intra=2, cochlea=3)
    rules = [{"name": name, "structure": name, "lambdas": [2], "scales": [1]} for name in ("vs", "intra")]
    plan = blending_run(path, tmp_path / "out", rules=rules).plan()
    measured = plan["cases"][0]["structures"]
    assert measured["vs"]["volume_mm3"] == 2 * measured["intra"]["volume_mm3"] == pytest.approx(24 * 0.6)


def test_a_structure_that_the_labels_cannot_tell_is_refused(three: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="structure 'intra' is not in the labels"):
        blending_run(three, tmp_path / "out", rules=[{**RULES[0], "structure": "intra"}])


def test_no_selected_case_stops_the_run_with_the_reasons(three: Path, tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match=r"no rule selects a case of 3 .*14 mm3, not below 14.*mend the rules"):
        blending_run(three, tmp_path / "out", rules=RULES[1:2]).run()
    assert not (tmp_path / "out").exists()


def test_a_missing_pseudo_hrt2_is_named(three: Path) -> None:
    (three.parent / "pseudo" / "ldn_2_hrT2.nii.gz").unlink()
    with pytest.raises(CrossmodaError, match=r"ldn_2_hrT2\.nii\.gz: no pseudo-hrT2 there; translate the data set"):
        blending_items(three, three.parent / "pseudo")


def test_a_pseudo_hrt2_on_another_grid_is_named(three: Path) -> None:
    write_volume(three.parent / "pseudo" / "ldn_2_hrT2.nii.gz", scan()[1:], affine_of("LPS"))
    with pytest.raises(CrossmodaError, match=r"ldn_2_hrT2\.nii\.gz: not on the grid of .*ldn_2_Label"):
        blending_items(three, three.parent / "pseudo")


@pytest.mark.parametrize("value", [300.0, -1.0, float("nan")])
def test_a_scan_that_is_no_pseudo_hrt2_is_named(three: Path, tmp_path: Path, value: float) -> None:
    image = scan(2)
    image[20, 20, 2] = value
    write_volume(three.parent / "pseudo" / "ldn_2_hrT2.nii.gz", image, affine_of("LPS"))
    with pytest.raises(CrossmodaError, match=r"ldn_2_hrT2\.nii\.gz: values from .* a pseudo-hrT2 has 0 to 1"):
        blending_run(three, tmp_path / "out").run()


def test_a_section_without_labels_is_refused(three: Path) -> None:
    with pytest.raises(CrossmodaError, match="section 'target' has no labelled case"):
        blending_items(three, three.parent / "pseudo", "target")


def test_the_picture_shows_the_strongest_change_of_each_case_rules_taking_turns() -> None:
    def entry(rule: str, case: str, factor: float) -> dict[str, Any]:
        return {"rule": rule, "case": case, "lambda": factor}

    volumes = [entry("a", case, factor) for case in ("1", "2", "3") for factor in (0.5, 0.8, 1.2)]
    volumes += [entry("b", "2", factor) for factor in (2, 4)]
    shown = [(entry["rule"], entry["case"], entry["lambda"]) for entry in pictured({"volumes": volumes}, 3)]
    assert shown == [("a", "1", 0.5), ("b", "2", 4), ("a", "2", 0.5)]


def test_the_picture_is_the_same_however_the_file_stores_its_axes(tmp_path: Path) -> None:
    for axes in ("RAS", "LIP"):
        columns = {"before": in_order(scan(), axes), "after": in_order(alter(scan(), tumour(), 1.5), axes)}
        row = PictureRow("ldn_1", "vs", affine_of(axes), in_order(tumour(), axes), columns)
        draw_rows([row, row], tmp_path / f"{axes}.png")
    assert (tmp_path / "RAS.png").read_bytes() == (tmp_path / "LIP.png").read_bytes()


def test_the_picture_s_window_is_a_square_about_the_largest_piece(tmp_path: Path) -> None:
    mask = np.zeros((100, 90), bool)
    mask[40:50, 30:34] = True  # 5 x 3.2 mm
    mask[80:83, 70:72] = True
    x, y = _window(mask, np.array(SPACING_MM))
    assert ((x.stop - x.start) * 0.5, (y.stop - y.start) * 0.8) == pytest.approx((5 + 32, 5 + 32), abs=0.8)
    assert (x.start + x.stop) / 2 == pytest.approx(45, abs=1)
    assert (y.start + y.stop) / 2 == pytest.approx(32, abs=1)
    cut = np.zeros((100, 90), bool)
    cut[0:4, 86:90] = True
    assert (_window(cut, np.array(SPACING_MM))[0].start, _window(cut, np.array(SPACING_MM))[1].stop) == (0, 90)


class Keep(nn.Module):
    """A pyramid that gives the slice back."""

    scales = 3

    def harmonise(self, slices: torch.Tensor, scale: int, noise: NoiseSource) -> torch.Tensor:
        return slices


def test_a_pyramid_that_gives_the_slice_back_changes_nothing() -> None:
    altered = Volume(alter(scan(), tumour(), 1.5), affine_of())
    out = blending(network=Keep(), pixel_mm=(0.7, 0.7)).volume(altered, tumour(), 2, NoiseSource())
    assert np.array_equal(out, altered.array)
