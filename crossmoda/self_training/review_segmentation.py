"""A reviewed label as a DICOM segmentation (SEG), which a hospital's archive keeps beside the scan and viewers show.

One segment for each structure, in the order of ``crossmoda.labels``, numbered from 1 without gaps, as the standard
wants it (PS3.3, C.8.20). What a segment is, its name and code say. A structure that was looked for and is not there is
a segment too, of one empty frame, so that "none" and "not looked for" stay apart. Frames lie on the scan's own slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from pydicom_seg.dicom_utils import CodeSequence, DimensionOrganizationSequence
from pydicom_seg.segmentation_dataset import SegmentationDataset, SegmentationType
from pydicom_seg.template import rgb_to_cielab

from crossmoda import __version__
from crossmoda.labels import COCHLEA, COLOURS, EXTRA, FULL_NAMES, INTRA, PARTS, STRUCTURES, VS
from crossmoda.self_training.review_series import Series

ALTERED = ("49755003", "SCT", "Morphologically Abnormal Structure")
ANATOMY = ("123037004", "SCT", "Anatomical Structure")
SCHWANNOMA = ("126949007", "SCT", "Vestibular schwannoma")
CODES = {  # structure -> category and type in SNOMED CT; the parts of a tumour differ by their names
    VS: (ALTERED, SCHWANNOMA),
    INTRA: (ALTERED, SCHWANNOMA),
    EXTRA: (ALTERED, SCHWANNOMA),
    COCHLEA: (ANATOMY, ("80169004", "SCT", "Cochlea")),
}
# Empty where the scan does not say; the standard wants them to be there.
REQUIRED_OF_STUDY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber", "PositionReferenceIndicator"),
)
MANUAL_CORRECTION, AUTOMATIC = "SEMIAUTOMATIC", "AUTOMATIC"  # values of Segment Algorithm Type


@dataclass(frozen=True)
class About:
    """What is said of a segmentation.

    Args:
        digest: sha256 of the label; the same label of the same scan always gets the same UIDs.
        number: how many were stored for the scan, with this one.
        who: made it, or approved it; empty where nobody said.
        algorithm: the model it began with.
        kind: ``MANUAL_CORRECTION`` or ``AUTOMATIC``.
    """

    digest: str
    number: int
    who: str
    algorithm: str
    kind: str


def segmentation_of(label: NDArray[np.uint8], values: Mapping[str, int], series: Series, about: About) -> Dataset:
    """Return a label map as DICOM SEG.

    Args:
        label: (X, Y, Z), on the grid of ``series``.
        values: structure -> voxel value; all structures that were looked for.
        series: the scan's slices.
        about: what else is to be said.
    """
    first = series.headers[0]
    result = SegmentationDataset(
        rows=series.shape[1], columns=series.shape[0], segmentation_type=SegmentationType.BINARY, reference_dicom=first
    )
    _describe(result, first, about)
    structures = listed_structures(label, values)
    result.SegmentSequence = Sequence(
        [_segment(number, structure, about) for number, structure in enumerate(structures, start=1)]
    )
    result.SharedFunctionalGroupsSequence = Sequence([_shared(series)])
    for number, structure in enumerate(structures, start=1):
        mask = label == values[structure]
        slices = np.flatnonzero(mask.any(axis=(0, 1)))
        for index in slices if slices.size else [0]:
            _add_frame(result, mask[:, :, index].T, number, int(index), series.headers[index])
    result.update_pixel_data()
    return result


def listed_structures(label: NDArray[np.uint8], values: Mapping[str, int]) -> list[str]:
    """Return the structures that get a segment: those drawn, and those looked for and not found.

    A whole that was drawn in parts, and parts that were not drawn, get none.
    """
    drawn = {name for name, value in values.items() if (label == value).any()}
    parts = {part for whole in PARTS.values() for part in whole}
    absent = {name for name in values if name not in parts and not drawn & {name, *PARTS.get(name, ())}}
    return [name for name in STRUCTURES if name in drawn | absent]


def _describe(result: Dataset, first: Dataset, about: About) -> None:
    for name in REQUIRED_OF_STUDY:
        if name not in result:
            setattr(result, name, None)
    result.FrameOfReferenceUID = first.FrameOfReferenceUID  # the class has made another one
    result.SpecificCharacterSet = "ISO_IR 192"  # names in any script
    seed = [str(first.SeriesInstanceUID), about.digest, str(about.number)]
    result.SeriesInstanceUID = generate_uid(entropy_srcs=["series", *seed])
    result.SOPInstanceUID = generate_uid(entropy_srcs=["instance", *seed])
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID
    result.SeriesNumber = 3000 + about.number
    of_series = f"Series {first.SeriesNumber}, version" if first.get("SeriesNumber") is not None else "Version"
    result.SeriesDescription = f"{of_series} {about.number}: VS and cochlea"  # viewers cut it off at the end
    result.ContentLabel, result.ContentDescription = "VS_COCHLEA", "Vestibular schwannoma and cochlea on hrT2"
    result.ContentCreatorName = about.who.replace("^", " ").replace("=", " ")[:64]
    result.Manufacturer, result.ManufacturerModelName, result.SoftwareVersions = "crossmoda", "review", __version__
    result.SegmentsOverlap = "NO"
    organization = DimensionOrganizationSequence()
    organization.add_dimension("ReferencedSegmentNumber", "SegmentIdentificationSequence")
    organization.add_dimension("ImagePositionPatient", "PlanePositionSequence")
    result.add_dimension_organization(organization)


def _segment(number: int, structure: str, about: About) -> Dataset:
    category, kind = CODES[structure]
    segment = Dataset()
    segment.SegmentNumber = number
    segment.SegmentLabel = FULL_NAMES[structure]
    segment.SegmentDescription = structure
    segment.SegmentAlgorithmType, segment.SegmentAlgorithmName = about.kind, about.algorithm[:64]
    segment.SegmentedPropertyCategoryCodeSequence = CodeSequence(*category)
    segment.SegmentedPropertyTypeCodeSequence = CodeSequence(*kind)
    red_green_blue = [int(COLOURS[structure][place : place + 2], 16) for place in (1, 3, 5)]
    segment.RecommendedDisplayCIELabValue = rgb_to_cielab(red_green_blue)
    return segment


def _shared(series: Series) -> Dataset:
    first, shared = series.headers[0], Dataset()
    distance = float(np.linalg.norm(series.affine[:3, 2]))
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing = first.PixelSpacing
    measures.SliceThickness = first.get("SliceThickness") or _decimal(distance)
    measures.SpacingBetweenSlices = _decimal(distance)
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Sequence([measures]), Sequence([orientation])
    return shared


def _add_frame(result: Any, mask: NDArray[np.bool_], number: int, index: int, source: Dataset) -> None:
    """Add the slice (rows, columns) of a segment, at the place of the scan's own slice."""
    frame = result.add_frame(mask.astype(np.uint8), number, [source], update_pixel_data=False)
    content, position = Dataset(), Dataset()
    content.DimensionIndexValues = [number, index + 1]
    position.ImagePositionPatient = source.ImagePositionPatient
    frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([position])


def _decimal(value: float) -> str:
    """Return a number as DICOM's decimal string, of at most 16 characters."""
    return f"{value:.10g}"
