from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged, SaveImaged

from crossmoda.data.transforms import AtomicNibabelWriter, CaseNameFormatter, LoadVolume, LoadVolumed, MapLabelsByNamed
from crossmoda.errors import CrossmodaError
from crossmoda.labels import EDITION_LABELS

AFFINE = np.array([[-0.5, 0, 0, 3], [0, 0.6, 0, 4], [0, 0, 1.5, 5], [0, 0, 0, 1]])
LABELS_2023 = EDITION_LABELS["2023"]


def saved(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def label(values: list[int]) -> MetaTensor:
    meta = {"filename_or_obj": "somewhere/case_Label.nii.gz"}
    return MetaTensor(torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1), meta=meta)


def test_what_is_saved_bears_the_cases_name_and_not_the_files(tmp_path: Path) -> None:
    path = tmp_path / "scan_7_T2.nii.gz"
    saved(path, np.zeros((4, 5, 3), np.float32))
    item = LoadVolumed("image")({"image": str(path), "case": "patient_b"})
    assert CaseNameFormatter("Label")(item["image"].meta, None)["subject"] == "patient_b_Label.nii.gz"
    nameless = LoadVolumed("image")({"image": str(path)})
    assert CaseNameFormatter("Label")(nameless["image"].meta, None)["subject"] == "scan_7_Label.nii.gz"


def test_volumes_are_loaded_channel_first_as_float32_with_their_file_name(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
    image = LoadVolume()(saved(tmp_path / "a_T2.nii.gz", array))
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(image[0].numpy(), array)
    np.testing.assert_allclose(image.affine.numpy(), AFFINE)
    assert image.meta["filename_or_obj"] == str(tmp_path / "a_T2.nii.gz")


def test_the_dictionary_loader_counts_as_monai_loader_and_passes_missing_keys(tmp_path: Path) -> None:
    loader = LoadVolumed(["image", "label"], allow_missing_keys=True)
    assert isinstance(loader, LoadImaged)
    loaded = loader({"image": str(saved(tmp_path / "a.nii", np.ones((2, 3, 4), np.float32))), "case": "a"})
    assert loaded["image"].shape == (1, 2, 3, 4)
    assert "label" not in loaded
    with pytest.raises(KeyError, match="label"):
        LoadVolumed("label")({"image": "a"})


def test_loading_a_damaged_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    with pytest.raises(CrossmodaError, match=r"bad\.nii\.gz: truncated or damaged"):
        LoadVolumed("image")({"image": str(tmp_path / "bad.nii.gz")})


def test_numbers_on_disk_become_the_networks_by_name() -> None:
    swap = MapLabelsByNamed("label", {"vs": 1, "cochlea": 2}, ["cochlea", "vs"])
    item = {"label": label([0, 1, 2])}
    assert swap(item)["label"].flatten().tolist() == [0, 2, 1]
    assert item["label"].flatten().tolist() == [0, 1, 2]


def test_whole_tumour_is_the_union_of_its_parts() -> None:
    mapped = MapLabelsByNamed("label", LABELS_2023, ["vs", "cochlea"])({"label": label([0, 1, 2, 3])})["label"]
    assert mapped.flatten().tolist() == [0, 1, 1, 2]
    assert mapped.meta["filename_or_obj"] == "somewhere/case_Label.nii.gz"


def test_structures_that_the_network_leaves_out_become_background() -> None:
    mapped = MapLabelsByNamed("label", LABELS_2023, ["intra"])({"label": label([0, 1, 2, 3])})["label"]
    assert mapped.flatten().tolist() == [0, 0, 1, 0]


def test_an_items_own_numbering_goes_first_and_is_removed() -> None:
    transform = MapLabelsByNamed("label", LABELS_2023, ["vs", "cochlea"])
    mapped = transform({"label": label([0, 1, 2]), "labels": {"vs": 1, "cochlea": 2}})
    assert mapped["label"].flatten().tolist() == [0, 1, 2]
    assert "labels" not in mapped
    assert transform({"label": label([0, 1, 2])})["label"].flatten().tolist() == [0, 1, 1]


def test_unknown_values_and_structures_are_refused() -> None:
    transform = MapLabelsByNamed("label", {"vs": 1, "cochlea": 2}, ["vs", "cochlea"])
    with pytest.raises(CrossmodaError, match=r"case_Label\.nii\.gz: unknown label values \[7\.0\]"):
        transform({"label": label([0, 1, 7])})
    with pytest.raises(CrossmodaError, match="structure 'intra' is not in the labels"):
        MapLabelsByNamed("label", {"vs": 1, "cochlea": 2}, ["intra"])


@pytest.mark.parametrize("writer", [AtomicNibabelWriter, "crossmoda.data.transforms.AtomicNibabelWriter"])
@pytest.mark.parametrize("case", ["crossmoda2021_ldn_106", "case.3.v1"])
def test_predictions_are_saved_under_their_case(tmp_path: Path, case: str, writer: object) -> None:
    image = LoadVolume()(saved(tmp_path / f"{case}_hrT2.nii.gz", np.ones((5, 4, 3), np.float32)))
    save = SaveImaged(
        "pred",
        output_dir=tmp_path / "out",
        output_postfix="",
        separate_folder=False,
        output_dtype="uint8",
        writer=writer,
        output_name_formatter=CaseNameFormatter("Label"),
        print_log=False,
    )
    save({"pred": image})
    files = list((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"{case}_Label.nii.gz"]
    stored = nib.load(files[0])
    np.testing.assert_allclose(stored.affine, AFFINE)
    assert stored.get_data_dtype() == np.uint8
    assert stored.header.get_xyzt_units()[0] == "mm"


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = AtomicNibabelWriter()
    writer.set_data_array(np.zeros((2, 3, 4)), channel_dim=None)
    writer.set_metadata({"affine": AFFINE}, resample=False)

    def full(image: object, path: str) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(CrossmodaError, match="No space left"):
        writer.write(tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_an_image_without_a_file_name_cannot_be_named() -> None:
    with pytest.raises(CrossmodaError, match="without a file name"):
        CaseNameFormatter("Label")({}, None)
