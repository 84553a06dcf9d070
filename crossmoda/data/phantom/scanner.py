"""One patient in one scanner: the grid of the scan, the image, and the truth on the same grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff

from crossmoda.data.phantom.acquisition import acquire, mixed_signal
from crossmoda.data.phantom.anatomy import Patient
from crossmoda.data.phantom.protocols import Protocol
from crossmoda.data.phantom.rasterise import rasterise

SLAB_VOXELS = 2_500_000  # a scan is painted in slabs of about this size, which bounds the memory needed
HEAD_CENTRE_MM = (0.0, 17.0, 0.0)  # what a whole scan is centred on, in the patient's frame
FOSSA_CENTRE_MM = (0.0, -3.0, 1.0)  # what a scan of limited field of view is centred on
LABELS = ("vs", "intra", "extra", "cochlea")


@dataclass(frozen=True)
class Grid:
    """Hold a scan's voxel grid in the protocol's own voxel order."""

    shape: tuple[int, int, int]
    affine: np.ndarray


@dataclass(frozen=True)
class Scan:
    """Hold an image, float32 (X, Y, Z) >= 0, and its truth, bool (X, Y, Z) by structure name, on one grid."""

    image: np.ndarray
    labels: dict[str, np.ndarray]
    grid: Grid


def draw_grid(
    patient: Patient,
    protocol: Protocol,
    rng: np.random.Generator,
    field_of_view_mm: tuple[float, float, float] | None = None,
    coarsen: float = 1.0,
) -> Grid:
    """Return where the operator placed the scan: about the middle of the head or fossa, sometimes too high or too low.

    Args:
        patient: whose head lies in the scanner.
        protocol: gives spacing, matrix and voxel order.
        rng: decides how well the scan is centred; one hrT2 slab in eight is off by up to a sixth of its height.
        field_of_view_mm: (x, y, z) limits about the posterior fossa; None for the protocol's own.
        coarsen: multiplies the spacing in plane, at the same field of view.
    """
    spacing = np.array(protocol.spacing_mm) * [coarsen, coarsen, 1]
    extent = np.array(protocol.spacing_mm) * protocol.matrix
    centre = np.array(HEAD_CENTRE_MM)
    if field_of_view_mm is not None:
        extent = np.minimum(extent, field_of_view_mm)
        centre = np.array(FOSSA_CENTRE_MM)
    shape = np.maximum(np.round(extent / spacing).astype(int), 2)
    offset = rng.normal(0, [2.0, 2.0, 1.5])
    misplaced, share = rng.random() < 0.125, rng.uniform(-1, 1) / 6
    if protocol.modality == "hrT2" and misplaced:
        offset[2] += share * extent[2]
    middle = patient.frame.to_scanner(centre[:, None])[:, 0] + offset
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = np.round(middle - spacing * (shape - 1) / 2, 4)
    counts = (int(shape[0]), int(shape[1]), int(shape[2]))
    turn = axcodes2ornt(protocol.orientation)
    return Grid(counts, affine @ inv_ornt_aff(turn, counts))


def scan(patient: Patient, protocol: Protocol, grid: Grid, rng: np.random.Generator) -> Scan:
    """Return what a protocol yields of a patient on a grid; slabs along the last axis keep the memory small."""
    signal = np.empty(grid.shape, np.float32)
    labels = {name: np.zeros(grid.shape, bool) for name in LABELS}
    depth = max(SLAB_VOXELS // (grid.shape[0] * grid.shape[1]), 4)
    for first in range(0, grid.shape[2], depth):
        last = min(first + depth, grid.shape[2])
        # One more slice on either side, so that slopes at the slab's edges are those of the whole grid.
        low, high = max(first - 1, 0), min(last + 1, grid.shape[2])
        moved = grid.affine.copy()
        moved[:3, 3] += grid.affine[:3, 2] * low
        anatomy = rasterise(patient, (grid.shape[0], grid.shape[1], high - low), moved)
        keep = slice(first - low, last - low)
        signal[..., first:last] = mixed_signal(anatomy, protocol)[..., keep]
        for name in LABELS:
            labels[name][..., first:last] = anatomy.labels[name][..., keep]
    return Scan(acquire(signal, protocol, rng), labels, grid)
