import csv
import json

import numpy as np
import pytest

from crossmoda.data.checks import check_dataset
from crossmoda.data.datalist import load_datalist
from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.data.phantom.dataset import Request, koos_of, patient_of, plan
from crossmoda.data.volumes import read_volume, same_grid
from crossmoda.errors import CrossmodaError
from crossmoda.files import sha256_of_tree

SMALL = {"field_of_view_mm": (84, 40, 18), "coarsen": 3.0, "seed": 3, "processes": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("phantom") / "d", cases=2, validation=2, **SMALL)


def names(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_edition_2022_has_exactly_the_challenges_names_and_the_truth_apart(dataset):
    assert names(dataset) == [
        "crossmoda2022_training/infos_source_training.csv",
        "crossmoda2022_training/training_source/crossmoda2021_ldn_1_Label.nii.gz",
        "crossmoda2022_training/training_source/crossmoda2021_ldn_1_ceT1.nii.gz",
        "crossmoda2022_training/training_source/crossmoda2022_etz_0_Label.nii.gz",
        "crossmoda2022_training/training_source/crossmoda2022_etz_0_ceT1.nii.gz",
        "crossmoda2022_training/training_target/crossmoda2021_ldn_106_hrT2.nii.gz",
        "crossmoda2022_training/training_target/crossmoda2022_etz_105_hrT2.nii.gz",
        "crossmoda2022_validation/crossmoda2021_ldn_211_hrT2.nii.gz",
        "crossmoda2022_validation/crossmoda2022_etz_210_hrT2.nii.gz",
        "phantom.json",
        "truth/crossmoda2021_ldn_106_Label.nii.gz",
        "truth/crossmoda2021_ldn_211_Label.nii.gz",
        "truth/crossmoda2022_etz_105_Label.nii.gz",
        "truth/crossmoda2022_etz_210_Label.nii.gz",
    ]


def test_the_table_of_2022_names_centre_and_koos_of_source_cases(dataset):
    with (dataset / "crossmoda2022_training/infos_source_training.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["crossmoda_name"], row["center"]) for row in rows] == [
        ("crossmoda2021_ldn_1", "London"),
        ("crossmoda2022_etz_0", "Tilburg"),
    ]
    assert all(row["koos"] in "1234" for row in rows)


def test_edition_2021_is_london_alone(tmp_path):
    out = write_phantom_dataset(tmp_path / "d", cases=1, validation=0, edition="2021", **SMALL)
    assert names(out) == [
        "crossmoda_training/source_training/crossmoda2021_ldn_1_Label.nii.gz",
        "crossmoda_training/source_training/crossmoda2021_ldn_1_ceT1.nii.gz",
        "crossmoda_training/target_training/crossmoda2021_ldn_106_hrT2.nii.gz",
        "phantom.json",
        "truth/crossmoda2021_ldn_106_Label.nii.gz",
    ]


def test_edition_2023_has_three_sites_the_suffix_t2_and_three_labels(tmp_path):
    out = write_phantom_dataset(tmp_path / "d", cases=3, validation=0, edition="2023", **SMALL)
    found = names(out)
    assert "crossmoda23_training/TrainingSource/crossmoda2023_ukm_1_ceT1.nii.gz" in found
    assert "crossmoda23_training/TrainingTarget/crossmoda2023_etz_106_T2.nii.gz" in found
    assert "crossmoda23_training/TrainingTarget/crossmoda2023_ldn_80_T2.nii.gz" in found
    assert "crossmoda23_training/TrainingTarget/crossmoda2023_ukm_44_T2.nii.gz" in found
    values = [np.unique(read_volume(out / name).array) for name in found if name.endswith("_Label.nii.gz")]
    assert set(np.concatenate(values).astype(int)) == {0, 1, 2, 3}


def test_numbers_run_as_the_challenges_do_in_every_section():
    jobs = list(plan(Request(0, "2022", 4, 3, None, 1.0)))
    assert [job.case.removeprefix("crossmoda") for job in jobs] == [
        "2021_ldn_1", "2021_ldn_2", "2022_etz_0", "2022_etz_1",
        "2021_ldn_106", "2021_ldn_107", "2022_etz_105", "2022_etz_106",
        "2021_ldn_211", "2021_ldn_212", "2022_etz_210",
    ]  # fmt: skip


def test_labels_lie_on_their_images_grid_and_hold_known_values(dataset):
    label = dataset / "truth/crossmoda2022_etz_105_Label.nii.gz"
    assert same_grid(label, dataset / "crossmoda2022_training/training_target/crossmoda2022_etz_105_hrT2.nii.gz")
    assert set(np.unique(read_volume(label).array)) <= {0, 1, 2}


def test_images_are_finite_and_not_constant(dataset):
    for path in dataset.rglob("*_hrT2.nii.gz"):
        image = read_volume(path).array
        assert np.isfinite(image).all()
        assert image.std() > 5


def test_same_seed_same_bytes_whatever_the_number_of_processes(dataset, tmp_path):
    again = write_phantom_dataset(tmp_path / "d", cases=2, validation=2, **{**SMALL, "processes": 2})
    assert sha256_of_tree(again) == sha256_of_tree(dataset)


def test_a_case_does_not_depend_on_how_many_others_there_are(dataset, tmp_path):
    fewer = write_phantom_dataset(tmp_path / "d", cases=1, validation=0, **SMALL)
    name = "crossmoda2022_training/training_source/crossmoda2021_ldn_1_ceT1.nii.gz"
    assert (fewer / name).read_bytes() == (dataset / name).read_bytes()


def test_another_seed_gives_other_images(dataset, tmp_path):
    other = write_phantom_dataset(tmp_path / "d", cases=1, validation=0, **{**SMALL, "seed": 4})
    name = "crossmoda2022_training/training_source/crossmoda2021_ldn_1_ceT1.nii.gz"
    assert (other / name).read_bytes() != (dataset / name).read_bytes()


def test_all_patients_differ(dataset):
    parameters = json.loads((dataset / "phantom.json").read_text())["case_parameters"]
    assert len({json.dumps(case["patient"]) for case in parameters.values()}) == len(parameters) == 6


def test_parameters_of_each_case_are_written(dataset):
    written = json.loads((dataset / "phantom.json").read_text())
    assert (written["seed"], written["edition"], written["coarsen"]) == (3, "2022", 3.0)
    case = written["case_parameters"]["crossmoda2021_ldn_106"]
    assert case["section"] == "target"
    assert case["site"] == "ldn"
    assert case["koos"] in (1, 2, 3, 4)
    assert case["side"] in ("left", "right")
    assert case["patient"]["tumour"]["volume_ml"] > 0


def test_a_second_run_does_nothing_and_says_so(dataset, capsys):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    write_phantom_dataset(dataset, cases=2, validation=2, **SMALL)
    assert "nothing to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}


def test_a_phantom_of_other_parameters_is_not_overwritten(dataset):
    with pytest.raises(CrossmodaError, match="holds a phantom with seed=3, not 9"):
        write_phantom_dataset(dataset, cases=2, validation=2, **{**SMALL, "seed": 9})


def test_a_folder_with_other_things_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(CrossmodaError, match="exists and is not a phantom dataset"):
        write_phantom_dataset(tmp_path, cases=1, **SMALL)
    assert names(tmp_path) == ["thesis.txt"]


def test_a_phantom_with_a_missing_file_is_named(tmp_path):
    out = write_phantom_dataset(tmp_path / "d", cases=1, validation=0, edition="2021", **SMALL)
    (out / "truth/crossmoda2021_ldn_106_Label.nii.gz").unlink()
    with pytest.raises(CrossmodaError, match=r"ldn_106_Label\.nii\.gz: missing from the phantom"):
        write_phantom_dataset(out, cases=1, validation=0, edition="2021", **SMALL)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"edition": "2024"}, "edition '2024' is unknown"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"coarsen": 0.5}, "coarsen must be 1 or more"),
        ({"field_of_view_mm": (100, 60)}, "field_of_view_mm must be three lengths"),
        ({"cases": 0}, "cases must not be 0"),
        ({"validation": -1}, "validation must not be -1"),
        ({"cases": 300}, "edition 2022 has numbers for 105 source cases of site ldn"),
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(CrossmodaError, match=message):
        write_phantom_dataset(tmp_path / "d", **{"cases": 1, "validation": 1, **SMALL, **wrong})
    assert not (tmp_path / "d").exists()


@pytest.fixture(scope="module")
def with_source_truth(tmp_path_factory):
    options = {**SMALL, "edition": "2021", "source_truth": True}
    return write_phantom_dataset(tmp_path_factory.mktemp("phantom") / "d", cases=1, validation=0, **options)


def test_the_true_hrt2_of_a_source_case_can_be_had_and_changes_no_other_file(with_source_truth, dataset):
    source = "crossmoda_training/source_training/crossmoda2021_ldn_1"
    truth = with_source_truth / "truth/crossmoda2021_ldn_1_hrT2.nii.gz"
    assert {path.name for path in (with_source_truth / "truth").iterdir()} == {
        "crossmoda2021_ldn_1_hrT2.nii.gz",
        "crossmoda2021_ldn_106_Label.nii.gz",
    }
    assert same_grid(truth, with_source_truth / f"{source}_ceT1.nii.gz")
    of_2022 = dataset / "crossmoda2022_training/training_source/crossmoda2021_ldn_1_ceT1.nii.gz"
    assert (with_source_truth / f"{source}_ceT1.nii.gz").read_bytes() == of_2022.read_bytes()


def test_it_shows_the_same_anatomy_in_the_other_contrast(with_source_truth):
    """Tumours are brighter than brain on ceT1 with contrast agent, fluid is on hrT2; the fluid of the cochlea too."""
    source = with_source_truth / "crossmoda_training/source_training"
    label = read_volume(source / "crossmoda2021_ldn_1_Label.nii.gz").array
    cet1 = read_volume(source / "crossmoda2021_ldn_1_ceT1.nii.gz").array
    hrt2 = read_volume(with_source_truth / "truth/crossmoda2021_ldn_1_hrT2.nii.gz").array
    median = {name: [np.median(image[label == n]) for n in (0, 1, 2)] for name, image in (("t1", cet1), ("t2", hrt2))}
    assert median["t1"][1] > 1.5 * median["t1"][0]
    assert median["t2"][2] > 1.5 * median["t2"][0]
    assert median["t1"][2] < 0.7 * median["t1"][1]


def test_it_is_no_label_to_whoever_reads_the_dataset(with_source_truth):
    found = load_datalist(with_source_truth)
    assert [item["case"] for item in found["source"]] == ["crossmoda2021_ldn_1"]
    assert "truth" not in found["source"][0]["image"]
    assert [str(problem) for problem in check_dataset(with_source_truth, progress=False).errors] == []


def test_a_phantom_without_it_is_not_taken_for_one_with_it(with_source_truth):
    options = {**SMALL, "edition": "2021"}
    with pytest.raises(CrossmodaError, match="holds a phantom with source_truth=True, not False"):
        write_phantom_dataset(with_source_truth, cases=1, validation=0, **options)


def test_nothing_is_left_behind_when_a_case_fails(tmp_path, monkeypatch):
    import crossmoda.data.phantom.dataset as module

    def fail(*_):
        raise CrossmodaError("disk full")

    monkeypatch.setattr(module, "write_volume", fail)
    with pytest.raises(CrossmodaError, match="disk full"):
        write_phantom_dataset(tmp_path / "d", cases=1, validation=0, **SMALL)
    assert names(tmp_path) == []


def test_grades_visit_their_shares_in_small_datasets_too():
    request = Request(5, "2022", 60, 0, None, 1.0)
    grades = [koos_of(request, job) for job in plan(request) if job.section == "source" and job.site == "ldn"]
    assert set(grades) == {1, 2, 3, 4}
    assert patient_of(request, next(plan(request))).tumour.koos == grades[0]
