"""Labels as DICOM segmentations."""

from __future__ import annotations

import io

import numpy as np
import pytest
from dicom_support import points_of, segments_of, slices_of
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset

from crossmoda.self_training.review_segmentation import AUTOMATIC, About, listed_structures, segmentation_of
from crossmoda.self_training.review_series import order_series

VALUES = {"vs": 1, "cochlea": 2}
ALL_VALUES = {**VALUES, "intra": 3, "extra": 4}
TURN = np.deg2rad(25)
OBLIQUE = np.array(
    [
        [-0.5, 0, 0, 31],
        [0, -0.7 * np.cos(TURN), -1.5 * np.sin(TURN), 25],
        [0, -0.7 * np.sin(TURN), 1.5 * np.cos(TURN), -7],
        [0, 0, 0, 1.0],
    ]
)
DOWNWARDS = np.array([[-0.5, 0, 0, 31], [0, 0.7, 0, 25], [0, 0, -1.5, 7], [0, 0, 0, 1.0]])
SHAPE = (11, 9, 6)


def label_of(**blocks: tuple[int, tuple[slice, slice, slice]]) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    for value, where in blocks.values():
        label[where] = value
    return label


VS = np.s_[1:5, 2:4, 1:4]
COCHLEA = np.s_[7:9, 5:8, 3:5]


def written(
    label: np.ndarray, affine: np.ndarray = OBLIQUE, values: dict[str, int] = VALUES, number: int = 1
) -> Dataset:
    """The segmentation of a label on the grid that the series has, as it comes out of a file."""
    series = order_series(slices_of(np.zeros(SHAPE, np.int16), affine, "1.2.3.4", "1.2.3"))
    about = About("ab" * 32, number, "Dr^Anna", "crossmoda, round 2", AUTOMATIC)
    buffer = io.BytesIO()
    dcmwrite(buffer, segmentation_of(label, values, series, about), write_like_original=False)
    buffer.seek(0)
    return dcmread(buffer)


@pytest.mark.parametrize("affine", [OBLIQUE, DOWNWARDS], ids=["oblique", "mirrored"])
def test_every_voxel_of_a_segment_lies_where_the_label_has_it(affine: np.ndarray) -> None:
    label = label_of(vs=(1, VS), cochlea=(2, COCHLEA))
    grid = order_series(slices_of(np.zeros(SHAPE, np.int16), affine, "1.2.3.4", "1.2.3")).affine
    found = segments_of(written(label, affine))
    assert {name: len(points) for name, points in found.items()} == {"vestibular schwannoma": 24, "cochlea": 12}
    np.testing.assert_allclose(found["vestibular schwannoma"], points_of(label, grid, 1), atol=0.011)
    np.testing.assert_allclose(found["cochlea"], points_of(label, grid, 2), atol=0.011)


def test_segments_carry_names_numbers_and_codes() -> None:
    segmentation = written(label_of(vs=(1, VS), cochlea=(2, COCHLEA)))
    told = [
        (
            segment.SegmentNumber,
            segment.SegmentLabel,
            segment.SegmentedPropertyTypeCodeSequence[0].CodeValue,
            segment.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator,
            segment.SegmentAlgorithmType,
        )
        for segment in segmentation.SegmentSequence
    ]
    assert told == [
        (1, "vestibular schwannoma", "126949007", "SCT", "AUTOMATIC"),
        (2, "cochlea", "80169004", "SCT", "AUTOMATIC"),
    ]
    assert (segmentation.Modality, segmentation.StudyInstanceUID) == ("SEG", "1.2.3")
    assert str(segmentation.PatientName) == "Müller^Łucja"
    assert str(segmentation.ContentCreatorName) == "Dr Anna"
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4"


def test_each_frame_refers_to_the_slice_that_it_lies_on() -> None:
    slices = slices_of(np.zeros(SHAPE, np.int16), OBLIQUE, "1.2.3.4", "1.2.3")
    places = {header.SOPInstanceUID: header.ImagePositionPatient for header in slices}
    segmentation = written(label_of(vs=(1, VS), cochlea=(2, COCHLEA)))
    indices = []
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == places[source]
        indices.append(list(frame.FrameContentSequence[0].DimensionIndexValues))
    assert indices == [[1, 2], [1, 3], [1, 4], [2, 4], [2, 5]]  # one place has one index, whatever the segment


@pytest.mark.parametrize(
    ("value", "where", "expected"),
    [
        (2, COCHLEA, {"vestibular schwannoma": 0, "cochlea": 12}),
        (1, VS, {"vestibular schwannoma": 24, "cochlea": 0}),
        (0, VS, {"vestibular schwannoma": 0, "cochlea": 0}),
    ],
)
def test_a_structure_that_is_not_there_is_an_empty_segment_of_its_own_name(
    value: int, where: tuple[slice, slice, slice], expected: dict[str, int]
) -> None:
    segmentation = written(label_of(drawn=(value, where)))
    assert {name: len(points) for name, points in segments_of(segmentation).items()} == expected
    assert segmentation.NumberOfFrames == len(segmentation.PerFrameFunctionalGroupsSequence)


def test_a_tumour_drawn_in_parts_is_told_by_its_parts() -> None:
    label = label_of(intra=(3, VS), extra=(4, np.s_[1:5, 5:7, 1:4]))
    assert listed_structures(label, ALL_VALUES) == ["cochlea", "intra", "extra"]
    assert listed_structures(np.zeros(SHAPE, np.uint8), ALL_VALUES) == ["vs", "cochlea"]
    found = segments_of(written(label, values=ALL_VALUES))
    assert list(found) == ["cochlea", "intra-meatal vestibular schwannoma", "extra-meatal vestibular schwannoma"]
    assert [len(points) for points in found.values()] == [0, 24, 24]


def test_the_same_label_is_the_same_instance_and_another_version_is_not() -> None:
    label = label_of(vs=(1, VS))
    first, again, second = written(label), written(label), written(label, number=2)
    assert (first.SOPInstanceUID, first.SeriesInstanceUID) == (again.SOPInstanceUID, again.SeriesInstanceUID)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert second.SeriesDescription == "Series 4, version 2: VS and cochlea"
