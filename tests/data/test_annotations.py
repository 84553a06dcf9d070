import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from crossmoda.data.annotations import AttachConfidenced, MapKnownLabelsByNamed, channel_groups
from crossmoda.data.transforms import MapLabelsByNamed
from crossmoda.errors import CrossmodaError

PARTS = ["intra", "extra", "cochlea"]


def label_map(values: list[int]) -> MetaTensor:
    voxels = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
    return MetaTensor(voxels, affine=np.diag([0.5, 0.5, 1.5, 1.0]), meta={"filename_or_obj": "case_Label.nii.gz"})


@pytest.mark.parametrize(
    ("labels", "structures", "expected"),
    [
        ({"vs": 1, "cochlea": 2}, ["vs", "cochlea"], [0, 1, 2]),
        ({"vs": 1}, ["vs", "cochlea"], [0, 1, 0]),  # the cochlea was not drawn
        ({"cochlea": 1}, ["vs", "cochlea"], [0, 0, 2]),
        ({"extra": 1, "intra": 2, "cochlea": 3}, ["cochlea", "vs"], [0, 1, 2]),  # a whole from its parts
        ({"extra": 1, "cochlea": 3}, ["cochlea", "vs"], [0, 1, 0]),  # half a tumour tells nothing of the whole
        ({"vs": 1, "cochlea": 2}, PARTS, [0, 2, 2, 3]),  # an undivided tumour: its parts together
        ({"vs": 1, "cochlea": 2}, ["cochlea", "extra", "intra"], [0, 1, 2, 2]),  # the extra-meatal part, by name
        ({"vs": 1, "cochlea": 2}, ["intra", "cochlea"], [0, 0, 2]),  # the network seeks one part alone: unknown
        ({"extra": 4, "cochlea": 3}, PARTS, [0, 0, 2, 3]),
    ],
)
def test_channels_that_an_annotation_cannot_tell_apart_stand_together(
    labels: dict[str, int], structures: list[str], expected: list[int]
) -> None:
    assert channel_groups(labels, structures) == expected


def test_a_complete_annotation_is_mapped_as_ever() -> None:
    labels, structures = {"extra": 1, "intra": 2, "cochlea": 3}, ["vs", "cochlea"]
    item = {"label": label_map([0, 1, 2, 3, 3])}
    known = MapKnownLabelsByNamed("label", labels, structures)(item)
    plain = MapLabelsByNamed("label", labels, structures)(item)
    assert torch.equal(known["label"], plain["label"])
    assert known["label"].dtype == plain["label"].dtype
    assert torch.equal(known["label"].affine, item["label"].affine)
    assert known["channel_group"].tolist() == [0, 1, 2]
    assert known["structure_weight"].tolist() == [1.0, 1.0]


def test_an_undivided_tumour_gets_the_number_of_the_part_that_stands_for_it() -> None:
    transform = MapKnownLabelsByNamed("label", {"extra": 1, "intra": 2, "cochlea": 3}, PARTS)
    item = {"label": label_map([0, 7, 9]), "labels": {"vs": 7, "cochlea": 9}}
    mapped = transform(item)
    assert mapped["label"].flatten().tolist() == [0, 2, 3]
    assert mapped["channel_group"].tolist() == [0, 2, 2, 3]
    assert "labels" not in mapped
    assert item["label"].flatten().tolist() == [0, 7, 9]


def test_items_that_know_different_structures_come_out_with_the_same_entries() -> None:
    transform = MapKnownLabelsByNamed("label", {"vs": 1, "cochlea": 2}, ["vs", "cochlea"])
    one, other = transform({"label": label_map([0, 3]), "labels": {"cochlea": 3}}), transform({"label": label_map([1])})
    assert one["label"].flatten().tolist() == [0, 2]
    assert one["channel_group"].tolist() == [0, 0, 2]
    assert one.keys() == other.keys()


def test_weights_of_structures_are_given_by_name() -> None:
    transform = MapKnownLabelsByNamed("label", {"extra": 1, "intra": 2, "cochlea": 3}, PARTS)
    for weights, expected in [
        ({"cochlea": 0.25}, [1.0, 1.0, 0.25]),
        ({"intra": 0.5, "vs": 0.75}, [0.5, 0.75, 1.0]),
        ({"vs": 0}, [0.0, 0.0, 1.0]),
    ]:
        mapped = transform({"label": label_map([0]), "structure_weights": weights})
        assert mapped["structure_weight"].tolist() == expected
        assert "structure_weights" not in mapped


def test_a_weight_of_a_structure_that_the_network_leaves_alone_is_passed_over() -> None:
    transform = MapKnownLabelsByNamed("label", {"vs": 1, "cochlea": 2}, ["vs"])
    weights = {"vs": 0.5, "cochlea": 0.1}
    assert transform({"label": label_map([2]), "structure_weights": weights})["structure_weight"].tolist() == [0.5]


def test_wrong_annotations_are_refused() -> None:
    transform = MapKnownLabelsByNamed("label", {"vs": 1}, ["vs", "cochlea"])
    with pytest.raises(CrossmodaError, match=r"case_Label\.nii\.gz: unknown label values \[2\.0\]"):
        transform({"label": label_map([0, 2])})
    with pytest.raises(CrossmodaError, match=r"p7: the labels \{'extra': 1\} know none of vs, cochlea"):
        transform({"label": label_map([0]), "labels": {"extra": 1}, "case": "p7"})
    with pytest.raises(CrossmodaError, match="know none of intra"):
        MapKnownLabelsByNamed("label", {"vs": 1}, ["intra"])
    with pytest.raises(CrossmodaError, match=r"p7: structure weight 1\.5 of vs must be"):
        transform({"label": label_map([0]), "structure_weights": {"vs": 1.5}, "case": "p7"})
    with pytest.raises(CrossmodaError, match="'tumor', which is no structure"):
        transform({"label": label_map([0]), "structure_weights": {"tumor": 0.5}})


def test_confidence_becomes_the_label_s_second_channel() -> None:
    item = {"label": torch.tensor([1, 0, 2], dtype=torch.uint8).reshape(1, 3, 1, 1)}
    item["confidence"] = torch.tensor([0.9, 0.4, 0.899]).reshape(1, 3, 1, 1)
    kept = AttachConfidenced("label", threshold=0.9)(item)
    assert kept["label"].dtype == torch.uint8
    assert kept["label"].reshape(2, 3).tolist() == [[1, 0, 2], [255, 0, 0]]
    assert "confidence" not in kept
    graded = AttachConfidenced("label", threshold=None)(item)
    assert graded["label"][1].flatten().tolist() == [230, 102, 229]  # 255 times 0.9, 0.4 and 0.899, to whole numbers
    assert item["label"].shape == (1, 3, 1, 1)


def test_a_label_without_confidence_is_trusted_fully() -> None:
    result = AttachConfidenced("label")({"label": label_map([1, 0])})["label"]
    assert result.reshape(2, 2).tolist() == [[1, 0], [255, 255]]


def test_confidence_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CrossmodaError, match=r"case_Label\.nii\.gz: a confidence must lie on its label's grid \(3"):
        AttachConfidenced("label")({"label": label_map([1, 0, 0]), "confidence": label_map([1, 0])})
    with pytest.raises(CrossmodaError, match="between 0 and 255"):
        AttachConfidenced("label")({"label": label_map([1, 0]), "confidence": label_map([255, 0])})
    with pytest.raises(CrossmodaError, match=r"threshold 1\.2"):
        AttachConfidenced("label", threshold=1.2)
