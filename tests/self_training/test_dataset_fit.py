"""A recipe that does not fit its dataset is told in one line before anything is trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support import LOOP

from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.errors import find_user_error
from crossmoda.self_training.bundles import make_workflow

pytestmark = pytest.mark.usefixtures("in_the_repository")

RECIPES = LOOP.parents[2] / "configs"
SMALL = RECIPES / "profiles" / "cpu_small.yaml"
STYLES = LOOP / "variant_site_styles.yaml"
TRAINING = "crossmoda2022_training"


def initialise(dataset: Path, run: Path, *overlays: Path, **settings: Any) -> None:
    files = [LOOP / "train.yaml", *overlays]
    make_workflow(files, "train", dataset_dir=str(dataset), output_dir=str(run), **settings).initialize()


def refusal(dataset: Path, folder: Path, *overlays: Path, **settings: Any) -> str:
    """Return what the loop says to its user while it begins; nothing is written."""
    with pytest.raises(Exception, match=r".") as caught:
        initialise(dataset, folder / "run", *overlays, **settings)
    assert not (folder / "run").exists()
    message = str(find_user_error(caught.value))
    assert "\n" not in message
    return message


def without(dataset: Path, folder: Path, site: str) -> Path:
    """Return a copy of the dataset without the scans of a site."""
    copy = Path(shutil.copytree(dataset, folder / "data"))
    for path in copy.rglob(f"*_{site}_*"):
        path.unlink()
    return copy


def datalist(dataset: Path, folder: Path, source: int) -> Path:
    """Return a datalist of the dataset with so many source patients, who are two, again and again."""
    found = load_datalist(dataset)
    found["source"] = [{**found["source"][n % 2], "case": f"patient_{n}"} for n in range(source)]
    save_datalist(folder / "datalist.json", found)
    return folder / "datalist.json"


def test_a_mixture_of_editions_is_found(tiny_dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    place = data / TRAINING / "training_target"
    scan = sorted(place.iterdir())[0]
    shutil.copy(scan, place / "crossmoda2023_ukm_44_T2.nii.gz")
    message = refusal(data, tmp_path)
    assert "holds cases of several editions" in message
    assert "crossmoda2023_ukm_44_T2.nii.gz (2023)" in message
    assert message.endswith("give each edition a folder")


def test_structures_that_the_labels_do_not_tell_apart_are_found(tiny_dataset: Path, tmp_path: Path) -> None:
    message = refusal(tiny_dataset, tmp_path, RECIPES / "chen2023.yaml", SMALL)
    assert message.startswith(f"{tiny_dataset}: structure 'intra' is not in the labels ")
    assert message.endswith("; give 'structures' that its labels tell apart")
    two = {"structures": ["vs", "cochlea"]}
    initialise(tiny_dataset, tmp_path / "run", RECIPES / "chen2023.yaml", SMALL, **two)
    message = refusal(tiny_dataset, tmp_path, RECIPES / "yang2022.yaml", SMALL, structures=["extra", "cochlea"])
    assert message.startswith(f"{tiny_dataset}: structure 'extra' is not in the labels ")


def test_a_run_on_2023_that_leaves_the_parts_of_the_tumour_together_is_told_of_the_submission(
    tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = {**load_datalist(tiny_dataset), "edition": "2023", "labels": {"extra": 1, "intra": 2, "cochlea": 3}}
    save_datalist(tmp_path / "datalist.json", found)
    whole = {"structures": ["vs", "cochlea"], "anchors": False}
    initialise(tmp_path / "datalist.json", tmp_path / "run", **whole)
    told = [text for record in caplog.records if "challenge of 2023" in (text := record.getMessage())]
    assert len(told) == 1
    assert told[0].endswith("""for a submission give --structures "['intra','extra','cochlea']\"""")
    caplog.clear()
    initialise(tmp_path / "datalist.json", tmp_path / "run", structures=["intra", "extra", "cochlea"], anchors=False)
    initialise(tiny_dataset, tmp_path / "run", **whole)
    assert "challenge of 2023" not in caplog.text


@pytest.mark.parametrize(
    ("overlays", "settings", "told"),
    [
        (
            [STYLES],
            {"translator_sites": ["ldn", "ezt"]},
            "scan of site 'ezt'; there are scans of etz (1), ldn (1); did",
        ),
        ([], {"translator_settings": {"learn_sites": ["London"]}}, "view 'cyclegan': learn_sites: "),
        ([], {"translator_settings": {"sites": ["etz", "ldn"]}}, "renders with [], but its translator learns ['etz',"),
        (
            [],
            {f"translator_{kind}settings": {"sites": ["etz", "ldn"], "site": "ukm"} for kind in ("", "inference_")},
            "view 'cyclegan': site 'ukm' is not among sites ['etz', 'ldn']",
        ),
    ],
)
def test_a_view_s_site_must_be_there(
    overlays: list[Path], settings: dict[str, Any], told: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    assert told in refusal(tiny_dataset, tmp_path, *overlays, **settings)


def test_a_recipe_that_learns_from_london_is_refused_without_london(tiny_dataset: Path, tmp_path: Path) -> None:
    message = refusal(without(tiny_dataset, tmp_path, "ldn"), tmp_path, RECIPES / "salle2022.yaml", SMALL)
    assert message.startswith("view 'cyclegan': learn_sites: ")
    assert "no source or target scan of site 'ldn'; there are scans of etz (2); none" in message


@pytest.mark.parametrize(
    ("recipe", "settings", "told"),
    [
        ("kang2022.yaml", {"segmenter_folds": 5}, "set segmenter_folds (or folds of segmenter_settings) to 2, or add"),
        ("salle2022.yaml", {"segmenter_folds": 3}, "(or folds of members::vs::settings) to 2, or add labelled scans"),
        (None, {"segmenter_settings": {"fold": 0}}, "round 0 can learn from 2 patients, too few for 5 folds"),
    ],
)
def test_fewer_patients_than_folds_are_told_before_a_translator_is_trained(
    recipe: str | None, settings: dict[str, Any], told: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    overlays = [RECIPES / recipe, SMALL] if recipe else []
    message = refusal(tiny_dataset, tmp_path, *overlays, **settings)
    assert message.startswith(f"{tiny_dataset}: round 0 can learn from 2 patients, too few for ")
    assert told in message


def test_folds_of_a_round_that_learns_from_real_scans_alone_are_looked_at_too(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    data = datalist(tiny_dataset, tmp_path, source=3)
    message = refusal(data, tmp_path, RECIPES / "salle2022.yaml", SMALL, segmenter_folds=3)
    assert message.startswith(f"{data}: round 4 can learn from 2 patients, too few for 3 folds; ")


def test_the_anchors_need_patients_for_folds_too(tiny_dataset: Path, tmp_path: Path) -> None:
    data = datalist(tiny_dataset, tmp_path, source=3)
    settings = {"segmenter_folds": 3, "truth_dir": str(tiny_dataset / "truth")}
    message = refusal(data, tmp_path, RECIPES / "kang2022.yaml", SMALL, **settings)
    assert "the anchor oracle, which anchors: false leaves out, can learn from 2 patients" in message
    initialise(data, tmp_path / "run", RECIPES / "kang2022.yaml", SMALL, **settings, anchors=False)


def test_recipes_that_fit_begin(tiny_dataset: Path, tmp_path: Path) -> None:
    for overlays in ([RECIPES / "salle2022.yaml", SMALL], [STYLES]):
        initialise(tiny_dataset, tmp_path / "run", *overlays)
