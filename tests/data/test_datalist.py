from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from crossmoda.data.datalist import (
    build_datalist,
    image_items,
    load_datalist,
    save_datalist,
    segmentation_items,
    unpaired_items,
    validate_datalist,
)
from crossmoda.data.layouts import read_dataset
from crossmoda.errors import CrossmodaError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two images and a label, and an image outside of it."""
    for name in (
        "run/round_1/p_Label.nii.gz",
        "run/round_0/p_hrT2.nii.gz",
        "run/round_1/q_hrT2.nii.gz",
        "data/d_T2.nii.gz",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path / "run"


def datalist(run: Path) -> dict[str, Any]:
    data = str(run.parent / "data" / "d_T2.nii.gz")
    label = str(run / "round_1" / "p_Label.nii.gz")
    provenance = {"round": 0, "model": "m", "status": "pseudo", "sha256": "0"}
    return {
        "edition": "2023",
        "labels": {"extra": 1, "intra": 2, "cochlea": 3},
        "source": [
            {"case": "p", "site": "ldn", "image": str(run / "round_0" / "p_hrT2.nii.gz"), "view": "a", "label": label},
            {"case": "p", "site": "ldn", "image": str(run / "round_1" / "q_hrT2.nii.gz"), "view": "b", "label": label},
        ],
        "target": [
            {
                "case": "d",
                "site": "etz",
                "image": data,
                "label": label,
                "labels": {"vs": 1, "cochlea": 2},
                "weight": 0.5,
                "provenance": provenance,
            },
            {"case": "e", "site": "etz", "image": data, "label": label, "weight": 0.0},
            {"case": "f", "site": "etz", "image": data},
        ],
        "validation": [],
    }


def test_a_saved_datalist_is_loaded_back_equal(run: Path) -> None:
    save_datalist(run / "round_1" / "datalist.json", datalist(run))
    assert load_datalist(run / "round_1" / "datalist.json") == datalist(run)


def test_paths_inside_the_run_are_relative_and_survive_a_move(run: Path) -> None:
    save_datalist(run / "round_1" / "datalist.json", datalist(run))
    stored = json.loads((run / "round_1" / "datalist.json").read_text())
    assert stored["source"][0]["image"] == "../round_0/p_hrT2.nii.gz"
    assert stored["source"][0]["label"] == "p_Label.nii.gz"
    assert stored["target"][0]["image"] == str(run.parent / "data" / "d_T2.nii.gz")
    moved = shutil.move(run, run.parent / "elsewhere")
    loaded = load_datalist(moved / "round_1" / "datalist.json")
    assert loaded["source"][0]["image"] == str(run.parent / "elsewhere" / "round_0" / "p_hrT2.nii.gz")


def test_a_dataset_folder_serves_as_datalist_without_its_truth(dataset_2022: Path) -> None:
    loaded = load_datalist(dataset_2022)
    assert loaded == build_datalist(read_dataset(dataset_2022))
    assert [len(loaded[name]) for name in ("source", "target", "validation")] == [2, 2, 1]
    assert "truth" not in json.dumps(loaded)
    assert not any("label" in item for item in loaded["target"])


def test_a_segmenter_gets_labelled_items_of_positive_weight_fit_for_one_batch(run: Path) -> None:
    save_datalist(run / "round_1" / "datalist.json", datalist(run))
    items = segmentation_items(run / "round_1" / "datalist.json")
    assert [(item["case"], item["view"], item["weight"]) for item in items] == [
        ("p", "a", 1.0),
        ("p", "b", 1.0),
        ("d", "", 0.5),
    ]
    assert [item.get("labels") for item in items] == [None, None, {"vs": 1, "cochlea": 2}]
    assert set(items[0]) == {"case", "site", "view", "image", "label", "weight"}
    assert [item["case"] for item in segmentation_items(run / "round_1" / "datalist.json", ["target"])] == ["d"]


def test_a_translator_gets_both_sections_without_labels(dataset_2022: Path) -> None:
    source, target = unpaired_items(dataset_2022)
    assert [item["site"] for item in source] == [item["site"] for item in target] == ["ldn", "etz"]
    assert not any("label" in item for item in [*source, *target])


def test_a_translator_that_focuses_gets_the_labels_of_the_source_alone(dataset_2022: Path) -> None:
    source, target = unpaired_items(dataset_2022, source_labels=True)
    assert [Path(item["label"]).name for item in source] == [f"{item['case']}_Label.nii.gz" for item in source]
    assert not any("label" in item for item in target)


def test_images_to_predict_on_come_from_the_sections_asked_for(dataset_2022: Path) -> None:
    assert [item["case"][-3:] for item in image_items(dataset_2022)] == ["106", "105", "211"]
    assert len(image_items(dataset_2022, ["validation"])) == 1
    with pytest.raises(CrossmodaError, match="section 'test' is unknown"):
        image_items(dataset_2022, ["test"])


def test_empty_sections_are_refused_where_scans_are_needed(tmp_path: Path) -> None:
    (tmp_path / "a_T2.nii.gz").touch()
    with pytest.raises(CrossmodaError, match=r"no source \(ceT1\) scans"):
        unpaired_items(tmp_path)
    with pytest.raises(CrossmodaError, match="no scans in section source"):
        image_items(tmp_path, ["source"])


def test_a_case_that_is_no_plain_name_is_refused(run: Path) -> None:
    listed = datalist(run)
    listed["source"][0]["case"] = "../p"
    with pytest.raises(CrossmodaError, match=r"case '../p' must be a plain name"):
        validate_datalist(listed, "datalist.json")


def test_a_file_that_is_gone_is_named(run: Path) -> None:
    save_datalist(run / "round_1" / "datalist.json", datalist(run))
    (run / "round_1" / "p_Label.nii.gz").unlink()
    with pytest.raises(CrossmodaError, match=r"source case p: label .*p_Label\.nii\.gz is missing"):
        load_datalist(run / "round_1" / "datalist.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {}}, "'labels' must map names"),
        ({"labels": {"vs": 1, "cochlea": 1}}, "'labels' must map names to distinct"),
        ({"source": {"case": "a"}}, "'source' must be a list"),
        ({"source": [{"case": "a"}]}, r"source\[0\]: 'image' is missing"),
        ({"target": [{"image": "a.nii"}]}, r"target\[0\]: 'case' is missing"),
        ({"target": [{"case": "a", "image": "a.nii", "weight": -1}]}, r"target\[0\]: weight -1 must be"),
        ({"target": [{"case": "a", "image": "a.nii", "weight": float("nan")}]}, "weight nan must be"),
        ({"target": [{"case": "a", "image": "a.nii", "labels": {"vs": 0}}]}, r"target\[0\]: 'labels' must map"),
        ({"target": [{"case": "a", "image": "a.nii", "provenance": {"status": "good"}}]}, "status 'good' is unknown"),
        ({"target": [{"case": "a", "image": "a.nii"}] * 2}, "'target' holds case a twice"),
        (
            {"target": [{"case": "a", "image": "a.nii", "view": "v"}] * 2},
            "'target' holds case a twice in view v",
        ),
    ],
)
def test_what_is_not_a_datalist_is_refused_and_not_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    wrong = {"labels": {"vs": 1}, "source": [], "target": [], "validation": []} | change
    with pytest.raises(CrossmodaError, match=message):
        save_datalist(tmp_path / "datalist.json", wrong)
    assert list(tmp_path.iterdir()) == []


def test_other_json_is_not_taken_for_a_datalist(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"structures": {}}')
    with pytest.raises(CrossmodaError, match=r"metrics\.json: not a datalist"):
        load_datalist(tmp_path / "metrics.json")
    with pytest.raises(CrossmodaError, match="no such file"):
        load_datalist(tmp_path / "absent.json")
    with pytest.raises(CrossmodaError, match="not a datalist"):
        validate_datalist([])
