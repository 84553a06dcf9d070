"""Unpaired slices: what is skipped, what is paired, and that a seed fixes it all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, MapTransform, RandFlipd, RandSpatialCropd, Transform
from torch.utils.data import DataLoader

from crossmoda.errors import CrossmodaError
from crossmoda.translation.slices import UnpairedSlices

SHAPE = (12, 16, 6)


class LoadArrayd(MapTransform):
    """Stand in for the working space: a saved array becomes (1, X, Y, Z)."""

    def __call__(self, data: Any) -> dict[str, Any]:
        return {**data, "image": torch.as_tensor(np.load(data["image"]))[None]}


def saved(folder: Path, case: str, values: np.ndarray) -> dict[str, Any]:
    """Save a volume whose slice z holds the constant ``values[z]``."""
    path = folder / f"{case}.npy"
    np.save(path, np.broadcast_to(values.astype(np.float32), (*SHAPE[:2], len(values))))
    return {"case": case, "image": str(path), "site": "ldn"}


@pytest.fixture
def items(tmp_path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    heights = np.arange(6) / 8  # 0, 0.125, ... exact in float16
    source = [saved(tmp_path, "a", heights), saved(tmp_path, "b", np.where(heights > 0.4, -1.0, heights))]
    return source, [saved(tmp_path, name, -heights) for name in "cde"]


def build(items: tuple[list[dict[str, Any]], list[dict[str, Any]]], **options: Any) -> UnpairedSlices:
    return UnpairedSlices(items, LoadArrayd("image"), **options)


def facts(pair: dict[str, Any]) -> tuple[str, str, float, float]:
    cases = pair["cases"]
    return cases["source"]["case"], cases["target"]["case"], pair["source"].max().item(), pair["target"].max().item()


def test_a_pass_is_as_long_as_the_modality_with_more_slices(items: Any) -> None:
    dataset = build(items)
    assert (len(dataset.source), len(dataset.target), len(dataset)) == (6 + 4, 18, 18)


def test_slices_of_air_are_skipped(items: Any) -> None:
    sources = {facts(pair)[:3:2] for pair in build(items)}
    assert sources == {("a", z / 8) for z in range(6)} | {("b", z / 8) for z in range(4)}


def test_each_source_slice_comes_once_before_any_comes_again(items: Any) -> None:
    dataset = build(items, length=20)
    for half in (range(10), range(10, 20)):
        assert len({facts(dataset[index])[:3:2] for index in half}) == 10


def test_same_seed_same_pairs_and_another_seed_others(items: Any) -> None:
    dataset, twin = build(items), build(items)
    first = [facts(pair) for pair in dataset.set_random_state(5)]
    assert [facts(pair) for pair in twin.set_random_state(5)] == first
    assert [facts(pair) for pair in twin.set_random_state(6)] != first


def test_worker_processes_do_not_change_the_pairs(items: Any) -> None:
    dataset = build(items, length=6)
    alone = [batch["target"] for batch in DataLoader(dataset, batch_size=2, num_workers=0)]
    helped = [batch["target"] for batch in DataLoader(dataset, batch_size=2, num_workers=2)]
    torch.testing.assert_close(alone, helped)


def test_target_slices_come_from_all_heights_unless_told_otherwise(items: Any) -> None:
    dataset = build(items, length=300)
    drawn = {(facts(pair)[2], facts(pair)[3]) for pair in dataset}
    assert len({target for _, target in drawn}) == 6


def test_position_jitter_pairs_slices_of_similar_height(items: Any) -> None:
    dataset = build(items, length=200, position_jitter=0.2)  # a slice is 1/6 of the height
    steps = [round(8 * (source + target)) for _, _, source, target in map(facts, dataset)]
    assert {-1, 0, 1} == set(steps)


def test_nearest_slice_is_taken_where_none_is_within_the_jitter(items: Any) -> None:
    source = items[0]
    dataset = build(
        (source, [saved(Path(source[0]["image"]).parent, "f", np.array([0.5, 0.75]))]), position_jitter=0.01
    )
    assert {facts(pair)[3] for pair in dataset} == {0.5, 0.75}


def test_source_and_target_are_cut_and_flipped_on_their_own(tmp_path: Path) -> None:
    path = tmp_path / "ramp.npy"
    ramp = np.linspace(0, 1, 192, dtype=np.float32).reshape(12, 16)
    np.save(path, np.repeat(ramp[..., None], 2, axis=2))
    augmentation = Compose(
        [
            *[RandSpatialCropd(key, roi_size=(8, 8), random_size=False) for key in ("source", "target")],
            *[RandFlipd(key, prob=0.5, spatial_axis=0) for key in ("source", "target")],
        ]
    )
    item = [{"case": "ramp", "image": str(path)}]
    pairs = list(build((item, item), augmentation=augmentation, length=40))
    assert all(pair["source"].shape == (1, 8, 8) and type(pair["source"]) is torch.Tensor for pair in pairs)
    assert any(not torch.equal(pair["source"], pair["target"]) for pair in pairs)
    rises = [bool(pair["source"][0, 1, 0] > pair["source"][0, 0, 0]) for pair in pairs]
    assert {True, False} == set(rises)


def test_volumes_that_do_not_fit_into_memory_go_to_disk_and_give_the_same_slices(items: Any, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    on_disk = build(items, memory_gib=1e-9, cache_dir=cache)
    assert len(list(cache.glob("*.pt"))) == 5
    assert [facts(pair) for pair in on_disk] == [facts(pair) for pair in build(items)]


def test_volumes_that_do_not_fit_and_have_no_place_on_disk_are_refused(items: Any) -> None:
    with pytest.raises(CrossmodaError, match=r"need over .* GiB of memory; name a cache_dir"):
        build(items, memory_gib=1e-9)


def test_an_empty_modality_is_refused_by_name(items: Any) -> None:
    with pytest.raises(CrossmodaError, match="section 'target' has no images"):
        build((items[0], []))


def test_a_modality_of_air_is_refused_by_name(items: Any, tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="section 'source': no slice has 5% of its pixels above air"):
        build(([saved(tmp_path, "air", np.full(4, -1.0))], items[1]))


def test_the_error_of_a_bad_volume_reaches_the_user_in_one_line(items: Any) -> None:
    class Refuse(MapTransform):
        def __call__(self, data: Any) -> Any:
            raise CrossmodaError(f"{data['image']}: bad")

    with pytest.raises(CrossmodaError, match=r"a\.npy: bad"):
        UnpairedSlices(items, Refuse("image"))


def test_volumes_are_prepared_once_and_not_for_every_slice() -> None:
    prepared: list[str] = []

    class Preparation(Transform):
        def __call__(self, item: dict) -> dict:
            prepared.append(item["case"])
            return {**item, "image": torch.ones(1, 5, 4, 3)}

    def items(name: str) -> list[dict]:
        return [{"case": f"{name}_{number}", "image": ""} for number in range(2)]

    slices = UnpairedSlices(
        (items("source"), items("target")), Compose([Compose([Preparation()])]), Compose([]), length=20
    )
    before = len(prepared)
    for index in range(20):
        slices[index]
    assert sorted(set(prepared)) == ["source_0", "source_1", "target_0", "target_1"]
    assert len(prepared) == before


class LoadLabelledd(LoadArrayd):
    """A label beside the image, saved in the same way."""

    def __call__(self, data: Any) -> dict[str, Any]:
        label = {"label": torch.as_tensor(np.load(data["label"]))[None]} if "label" in data else {}
        return super().__call__(data) | label


@pytest.fixture
def labelled(items: Any, tmp_path: Path) -> Any:
    """Case a shows structure 1 on slice 2 and structure 2 on slices 4 and 5; case b has no label."""
    (a, b), target = items
    label = saved(tmp_path, "a_label", np.array([0, 0, 1, 0, 2, 2]))["image"]
    return [a | {"label": label}, b], target


def test_focus_draws_its_share_from_the_slices_that_show_the_structure(labelled: Any) -> None:
    dataset = UnpairedSlices(labelled, LoadLabelledd("image"), length=1000, focus={"vs": 0.5, "cochlea": 0.2})
    drawn = [facts(pair)[:3:2] for pair in dataset]
    # 300 of 1000 come from all 10 slices, 30 each, and 500 and 200 from those in focus.
    assert drawn.count(("a", 2 / 8)) == 500 + 30
    assert drawn.count(("a", 4 / 8)) == drawn.count(("a", 5 / 8)) == 100 + 30
    assert drawn.count(("b", 0.0)) == 30


def test_focus_is_spread_over_the_pass_and_follows_the_seed(labelled: Any) -> None:
    dataset = UnpairedSlices(labelled, LoadLabelledd("image"), length=200, focus={"vs": 0.5})
    first = [facts(pair) for pair in dataset.set_random_state(3)]
    assert [facts(pair) for pair in dataset.set_random_state(3)] == first
    halves = [sum(one[:3:2] == ("a", 2 / 8) for one in half) for half in (first[:100], first[100:])]
    assert min(halves) > 35


def test_focus_on_volumes_kept_on_disk_gives_the_same_slices(labelled: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"length": 30, "focus": {"vs": 0.5}}
    on_disk = UnpairedSlices(labelled, LoadLabelledd("image"), memory_gib=1e-9, cache_dir=tmp_path / "cache", **options)
    in_memory = UnpairedSlices(labelled, LoadLabelledd("image"), **options)
    assert [facts(pair) for pair in on_disk] == [facts(pair) for pair in in_memory]


def test_without_focus_labels_change_nothing(items: Any, labelled: Any) -> None:
    plain, with_label = build(items), UnpairedSlices(labelled, LoadLabelledd("image"))
    assert [facts(pair) for pair in plain] == [facts(pair) for pair in with_label]


@pytest.mark.parametrize("focus", [{"vs": 0.7, "cochlea": 0.4}, {"vs": -0.1}])
def test_impossible_shares_are_refused(labelled: Any, focus: dict[str, float]) -> None:
    with pytest.raises(CrossmodaError, match="shares must be 0 or more and add up to 1 at most"):
        UnpairedSlices(labelled, LoadLabelledd("image"), focus=focus)


def test_a_structure_that_no_slice_shows_is_refused_by_name(items: Any) -> None:
    with pytest.raises(CrossmodaError, match="no source slice shows cochlea"):
        build(items, focus={"cochlea": 0.5})


class LoadWithLabeld(LoadArrayd):
    """Also make a label: 1 where the image is above 0.3, 2 where it is above 0.6."""

    def __call__(self, data: Any) -> dict[str, Any]:
        item = super().__call__(data)
        if item["case"] in ("p", "q"):
            item["label"] = (item["image"] > 0.3).to(torch.uint8) + (item["image"] > 0.6).to(torch.uint8)
        return item


@pytest.fixture
def textured(tmp_path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two source and two target volumes without any symmetry; the sources' slices grow brighter with z."""

    def volume(case: str, site: str) -> dict[str, Any]:
        noise = np.random.default_rng(ord(case)).uniform(-1, 1, SHAPE).astype(np.float32)
        np.save(tmp_path / f"{case}.npy", noise)
        return {"case": case, "image": str(tmp_path / f"{case}.npy"), "site": site}

    return [volume("p", "ldn"), volume("q", "ldn")], [volume("s", "ldn"), volume("t", "etz")]


def test_labels_are_cropped_and_flipped_with_their_slices(textured: Any) -> None:
    keys = ["source", "label"]
    augmentation = Compose(
        [
            RandSpatialCropd(keys, roi_size=(8, 9), random_size=False, allow_missing_keys=True),
            RandFlipd(keys, prob=0.5, spatial_axis=0, allow_missing_keys=True),
        ]
    )
    options = {"structures": ["vs", "cochlea"], "keep_labels": True, "length": 12}
    dataset = UnpairedSlices(textured, LoadWithLabeld("image"), augmentation, **options)
    for pair in dataset:
        assert pair["source"].shape == pair["label"].shape == (1, 8, 9)
        expected = (pair["source"] > 0.3).to(torch.uint8) + (pair["source"] > 0.6).to(torch.uint8)
        # float16 rounds, so voxels next to a threshold may fall on its other side
        assert (pair["label"] != expected).float().mean() < 0.02
    assert "label" not in UnpairedSlices(textured, LoadWithLabeld("image"))[0]


def test_a_target_slice_has_the_number_of_its_site(textured: Any) -> None:
    dataset = UnpairedSlices(textured, LoadWithLabeld("image"), sites=["etz", "ldn"], length=24)
    found = {(pair["cases"]["target"]["case"], pair["site"]) for pair in dataset}
    assert found == {("s", 1), ("t", 0)}
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch["site"].dtype == torch.int64
    assert "site" not in UnpairedSlices(textured, LoadWithLabeld("image"))[0]


def test_a_site_that_is_not_listed_is_named(textured: Any) -> None:
    with pytest.raises(CrossmodaError, match="t: site 'etz' is not among sites ldn; add it there"):
        UnpairedSlices(textured, LoadWithLabeld("image"), sites=["ldn"])


def test_a_slab_holds_its_slice_between_its_neighbours(items: Any) -> None:
    """Volume a has the values z / 8; at the ends the last slice stands in for the missing one."""
    dataset = build(items, context=1, length=20)
    slabs = {tuple((8 * pair["source"][:, 0, 0]).tolist()) for pair in dataset if facts(pair)[0] == "a"}
    assert slabs == {(0, 0, 1), (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 5)}
    assert all(pair["target"].shape == (3, 12, 16) for pair in dataset)
