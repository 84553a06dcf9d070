"""DICOM for tests: a scan written as a series of slices, and a reader of segmentations apart from the writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

MR_STORAGE = "1.2.840.10008.5.1.4.1.1.4"


def slices_of(
    array: NDArray[np.int16], affine: NDArray[np.float64], series: str, study: str, **changes: Any
) -> list[FileDataset]:
    """Return a scan as DICOM slices, in an order that has nothing to do with their places.

    Args:
        array: (X, Y, Z); x runs along the rows, y down the columns.
        affine: (4, 4), from voxel indices to RAS+ mm.
        series: its UID.
        study: its UID.
        changes: keyword -> value of every slice.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    cosines = lps[:3, :3] / spacing
    frame_of_reference = generate_uid(entropy_srcs=[series, "frame"])
    order = np.random.default_rng(5).permutation(array.shape[2])
    slices = []
    for number, index in enumerate(order, start=1):
        header = _slice(generate_uid(entropy_srcs=[series, str(number)]))
        header.StudyInstanceUID, header.SeriesInstanceUID = study, series
        header.FrameOfReferenceUID = frame_of_reference
        header.SeriesNumber, header.InstanceNumber = 4, number
        header.ImageOrientationPatient = [f"{value:.8f}" for value in [*cosines[:, 0], *cosines[:, 1]]]
        header.ImagePositionPatient = [f"{value:.6f}" for value in (lps @ [0, 0, index, 1])[:3]]
        header.PixelSpacing = [f"{spacing[1]:.6f}", f"{spacing[0]:.6f}"]
        header.SliceThickness = f"{spacing[2]:.6f}"
        plane = np.ascontiguousarray(array[:, :, index].T)
        header.Rows, header.Columns = plane.shape
        header.PixelData = plane.astype("<i2").tobytes()
        for keyword, value in changes.items():
            setattr(header, keyword, value)
        slices.append(header)
    return slices


def save_slices(slices: list[FileDataset], folder: Path) -> list[Path]:
    """Write each slice into a file of its own, named by its number."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{header.InstanceNumber}.dcm" for header in slices]
    for header, file in zip(slices, files, strict=True):
        header.save_as(file, write_like_original=False)
    return files


def _slice(uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR_STORAGE, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    header.is_little_endian, header.is_implicit_VR = True, False
    header.SOPClassUID, header.SOPInstanceUID = MR_STORAGE, uid
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = "Müller^Łucja", "P7", "", "F"
    header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20261101", "101500", "1", ""
    header.ReferringPhysicianName, header.PositionReferenceIndicator = "", ""
    header.Modality, header.SeriesDescription, header.Manufacturer = "MR", "T2 CISS 0.4", "test"
    header.ScanningSequence, header.SequenceVariant, header.ScanOptions = "GR", "SS", ""
    header.MRAcquisitionType, header.EchoTime, header.EchoTrainLength = "3D", "2.7", "1"
    header.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    return header


def points_of(label: NDArray[np.uint8], affine: NDArray[np.float64], value: int) -> NDArray[np.float64]:
    """Return where the voxels of a value lie in the patient: (N, 3), LPS mm, sorted, to a hundredth of a mm."""
    indices = np.argwhere(label == value)
    ras = indices @ affine[:3, :3].T + affine[:3, 3]
    return _sorted(ras * [-1, -1, 1])


def segments_of(segmentation: Dataset) -> dict[str, NDArray[np.float64]]:
    """Return segment's name -> where its voxels lie in the patient, as ``points_of`` has it.

    Each frame is placed by the standard's own formula (PS3.3, C.7.6.2.1-1); bits are counted from the lowest of the
    first byte on, frame after frame (PS3.5, 8.1.1).
    """
    size = int(segmentation.Rows) * int(segmentation.Columns)
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    names = {int(segment.SegmentNumber): str(segment.SegmentLabel) for segment in segmentation.SegmentSequence}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    across, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names.values()}
    for number, frame in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        plane = bits[number * size : (number + 1) * size].reshape(segmentation.Rows, segmentation.Columns)
        corner = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(plane)
        points = corner + np.outer(columns * between_columns, across) + np.outer(rows * between_rows, down)
        found[names[int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]].append(points)
    return {name: _sorted(np.concatenate(points)) for name, points in found.items()}


def _sorted(points: NDArray[np.float64]) -> NDArray[np.float64]:
    points = np.round(points, 2) + 0.0
    ordered: NDArray[np.float64] = points[np.lexsort(points.T)]
    return ordered
