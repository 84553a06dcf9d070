import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.data.volumes import write_volume
from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.case_files import LoadOfCased, require_predictions

AFFINE = np.array([[0, -0.5, 0, 9], [2.0, 0, 0, 1], [0, 0, 1.5, 2], [0, 0, 0, 1]])


def prediction(path, **meta):
    return MetaTensor(torch.zeros(3, 4, 3, 2), meta={"filename_or_obj": str(path), **meta})


def test_the_prediction_s_own_scan_is_loaded_as_it_is_on_disk(tmp_path):
    array = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)
    write_volume(tmp_path / "ldn_1_hrT2.nii.gz", array, AFFINE)
    item = {"pred": prediction(tmp_path / "ldn_1_hrT2.nii.gz")}
    scan = LoadOfCased("pred", "scan")(item)["scan"]
    np.testing.assert_array_equal(scan[0], array)
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-6)
    assert set(item) == {"pred"}


def test_another_model_s_label_is_found_by_the_case_s_name(tmp_path):
    write_volume(tmp_path / "own.name_Label.nii.gz", np.ones((4, 3, 2), np.uint8), AFFINE)
    write_volume(tmp_path / "ldn_1_Label.nii.gz", np.zeros((4, 3, 2), np.uint8), AFFINE)
    load = LoadOfCased("pred", "other", tmp_path)
    assert load({"pred": prediction("/data/ldn_1_hrT2.nii.gz", case="own.name")})["other"].all()
    assert not load({"pred": prediction("/data/ldn_1_hrT2.nii.gz")})["other"].any()


def test_a_missing_prediction_is_named_before_and_when_it_is_needed(tmp_path):
    write_volume(tmp_path / "a_Label.nii.gz", np.ones((4, 3, 2), np.uint8), AFFINE)
    require_predictions([{"case": "a"}], tmp_path)
    with pytest.raises(CrossmodaError, match=r"b_Label\.nii\.gz: no such file, nor those of 1 more"):
        require_predictions([{"case": "a"}, {"case": "b"}, {"case": "c"}], tmp_path)
    with pytest.raises(CrossmodaError, match=r"b_Label\.nii\.gz: no such file"):
        LoadOfCased("pred", "other", tmp_path)({"pred": prediction("/data/b_hrT2.nii.gz")})


def test_a_prediction_that_knows_no_file_is_refused():
    with pytest.raises(CrossmodaError, match="knows no file"):
        LoadOfCased("pred", "scan")({"pred": torch.zeros(3, 4, 3, 2)})
