"""A DynUNet planned as nnU-Net plans (card 0.4): spacing, patch, stages and batch from a data set's fingerprint.

nnU-Net's own planner decides. It wants a data set in its folders; it gets one that holds the fingerprint alone, in a
temporary place. Figures are nnU-Net's (z, y, x) inside this module and (x, y, z) in what it returns and writes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from crossmoda.data.datalist import load_datalist
from crossmoda.data.volumes import Grid, read_grid, spacing_mm
from crossmoda.errors import CrossmodaError
from crossmoda.files import write_json, write_text
from crossmoda.segmentation.nnunet.raw_dataset import dataset_json
from crossmoda.segmentation.nnunet.settings import DATASET, PLANS, require_nnunet

CONFIGURATION = "3d_fullres"
FEWEST_STAGES = 3  # a DynUNet has two levels and a bottom at least
_FINGERPRINT = "dataset_fingerprint.json"


@dataclass(frozen=True)
class Fingerprint:
    """What a plan follows from, axes (x, y, z) in RAS.

    Attributes:
        spacings_mm: of each scan.
        shapes: voxels of each scan.
    """

    spacings_mm: list[tuple[float, float, float]]
    shapes: list[tuple[int, int, int]]


@dataclass(frozen=True)
class Plan:
    """A planned network and what it sees, axes (x, y, z).

    Attributes:
        spacing_mm: that scans are resampled to.
        crop_size: window in plane (x, y) in voxels of that spacing, large enough for every scan's field of view.
        patch_size: voxels.
        batch_size: patches.
        kernel_sizes: of each stage's convolutions, finest first.
        strides: of each stage; ones in the first.
        filters: of each stage.
    """

    spacing_mm: list[float]
    crop_size: list[int]
    patch_size: list[int]
    batch_size: int
    kernel_sizes: list[list[int]]
    strides: list[list[int]]
    filters: list[int]

    @property
    def network_def(self) -> dict[str, Any]:
        """MONAI's DynUNet with these stages; deeply supervised where nnU-Net is: not in its two coarsest outputs."""
        return {
            "_target_": "DynUNet",
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": "$len(@structures) + 1",
            "kernel_size": self.kernel_sizes,
            "strides": self.strides,
            "upsample_kernel_size": self.strides[1:],
            "filters": self.filters,
            "deep_supervision": True,
            "deep_supr_num": max(1, len(self.strides) - 3),
        }


def plan(
    dataset_dir: str | Path,
    output: str | Path = "plan.yaml",
    memory_gb: float = 8.0,
    sections: Sequence[str] = ("source", "target"),
    field_of_view_mm: Sequence[float] | None = None,
    structures: Sequence[str] = ("vs", "cochlea"),
) -> Plan:
    """Plan a DynUNet for a data set and write it as an overlay of the segmentation bundle's configurations.

    Args:
        dataset_dir: a dataset folder or a datalist JSON.
        output: the YAML file to write.
        memory_gb: GPU memory that patch and batch are made to fit, by nnU-Net's estimate.
        sections: of the datalist, whose scans are looked at, labelled or not (by their headers alone).
        field_of_view_mm: (x, y) of the crop about the brain that networks will see; whole scans by default.
        structures: what is to be segmented; more output channels take more memory.

    Raises:
        CrossmodaError: no scans, memory that is not positive, or scans too small for a U-Net.
    """
    require_nnunet()
    if memory_gb <= 0:
        raise CrossmodaError(f"memory_gb is {memory_gb}; give a positive number")
    found = fingerprint(dataset_dir, sections, field_of_view_mm)
    planned = plan_fingerprint(found, memory_gb, structures)
    write_text(output, _overlay(planned, found, memory_gb, field_of_view_mm))
    return planned


def fingerprint(
    dataset_dir: str | Path,
    sections: Sequence[str] = ("source", "target"),
    field_of_view_mm: Sequence[float] | None = None,
) -> Fingerprint:
    """Return spacings and shapes of a data set's scans, read from their headers.

    nnU-Net crops to voxels that are not 0, which MR scans fill; the bundle crops to ``field_of_view_mm`` instead.

    Args:
        dataset_dir: a dataset folder or a datalist JSON.
        sections: of the datalist.
        field_of_view_mm: (x, y) that larger scans are cut down to; None leaves them whole.

    Raises:
        CrossmodaError: there are no scans, or the field of view is not two positive lengths.
    """
    if field_of_view_mm is not None and (len(field_of_view_mm) != 2 or min(field_of_view_mm) <= 0):
        raise CrossmodaError(f"field_of_view_mm is {list(field_of_view_mm)}; give two positive lengths, x and y")
    datalist = load_datalist(dataset_dir)
    images = sorted({item["image"] for name in sections for item in datalist.get(name, [])})
    if not images:
        raise CrossmodaError(f"{dataset_dir}: no scans in {' or '.join(sections)} to plan for; name other sections")
    grids = [_in_ras(read_grid(image)) for image in images]
    spacings = [(spacing[0], spacing[1], spacing[2]) for spacing, _ in grids]
    return Fingerprint(spacings, [_cut(shape, spacing, field_of_view_mm) for spacing, shape in grids])


def _in_ras(grid: Grid) -> tuple[list[float], list[int]]:
    """Return spacing and shape along x, y and z, whatever the order in which the axes are stored."""
    axes = nib.io_orientation(grid.affine)[:, 0].astype(int)
    spacing, shape = np.empty(3), np.empty(3, dtype=int)
    spacing[axes], shape[axes] = spacing_mm(grid.affine), grid.shape[:3]
    return spacing.tolist(), shape.tolist()


def _cut(shape: Sequence[int], spacing: Sequence[float], field_of_view_mm: Sequence[float] | None) -> Any:
    limits = [round(length / step) for length, step in zip(field_of_view_mm or (), spacing, strict=False)]
    return (*(min(pair) for pair in zip(shape[:2], limits or shape[:2], strict=True)), shape[2])


def plan_fingerprint(found: Fingerprint, memory_gb: float = 8.0, structures: Sequence[str] = ("vs", "cochlea")) -> Plan:
    """Return what nnU-Net's planner makes of a fingerprint.

    Raises:
        CrossmodaError: the scans are too small for a U-Net.
    """
    plans = nnunet_plans(found, memory_gb, structures)
    made, backward = plans["configurations"][CONFIGURATION], plans["transpose_backward"]
    stages = made["architecture"]["arch_kwargs"]
    spacing = [float(made["spacing"][axis]) for axis in backward]
    shapes = _shapes_at(found, np.asarray(spacing))
    if stages["n_stages"] < FEWEST_STAGES:
        median = np.median(shapes, 0)
        raise CrossmodaError(
            f"scans of {' x '.join(str(round(n)) for n in median[::-1])} voxels leave room for {stages['n_stages']} "
            f"stages; a U-Net needs {FEWEST_STAGES}"
        )

    def in_xyz(values: Sequence[Any]) -> list[Any]:
        return [np.asarray(values)[axis].item() for axis in backward][::-1]

    return Plan(
        spacing_mm=[round(value, 4) for value in spacing[::-1]],
        crop_size=[int(n) for n in np.max(shapes, 0)[::-1][:2]],
        patch_size=in_xyz(made["patch_size"]),
        batch_size=int(made["batch_size"]),
        kernel_sizes=[in_xyz(kernel) for kernel in stages["kernel_sizes"]],
        strides=[in_xyz(stride) for stride in stages["strides"]],
        filters=[int(n) for n in stages["features_per_stage"]],
    )


def nnunet_plans(
    found: Fingerprint, memory_gb: float = 8.0, structures: Sequence[str] = ("vs", "cochlea")
) -> dict[str, Any]:
    """Return nnU-Net's plans of its configuration ``3d_fullres`` for a fingerprint, as nnU-Net's predictor takes them.

    Figures are nnU-Net's: (z, y, x), in the configuration with the coarsest axis first (``transpose_forward``).
    """
    with _planner(found, memory_gb, structures) as planner:
        forward, backward = planner.determine_transpose()
        spacing = planner.determine_fullres_target_spacing()
        shapes = _shapes_at(found, spacing)
        median = np.median(shapes, 0)
        voxels = float(np.prod(median)) * len(shapes)
        made = planner.get_plans_for_configuration(spacing[forward], median[forward], CONFIGURATION, voxels, {})
    return {
        "dataset_name": DATASET,
        "plans_name": PLANS,
        "image_reader_writer": "NibabelIO",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 0.0, "std": 1.0}
        },  # looked up, but used for CT alone
        "transpose_forward": [int(axis) for axis in forward],
        "transpose_backward": [int(axis) for axis in backward],
        # The planner writes numpy's arrays and numbers, which no plans.json may hold.
        "configurations": {CONFIGURATION: json.loads(json.dumps(made, default=lambda value: value.tolist()))},
    }


def _shapes_at(found: Fingerprint, spacing: np.ndarray) -> np.ndarray:
    """Return every scan's shape (z, y, x) once it is resampled."""
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    pairs = zip(found.shapes, found.spacings_mm, strict=True)
    return np.asarray([compute_new_shape(shape[::-1], own[::-1], spacing) for shape, own in pairs])


@contextmanager
def _planner(found: Fingerprint, memory_gb: float, structures: Sequence[str]) -> Iterator[Any]:
    """Give nnU-Net's planner of a data set that consists of a fingerprint."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    content = {
        "spacings": [spacing[::-1] for spacing in found.spacings_mm],
        "shapes_after_crop": [shape[::-1] for shape in found.shapes],
        "median_relative_size_after_cropping": 1.0,
    }
    described = {**dataset_json(structures, len(found.shapes)), "dataset": {}}
    with tempfile.TemporaryDirectory() as place:
        write_json(Path(place) / DATASET / "dataset.json", described)
        write_json(Path(place) / DATASET / _FINGERPRINT, content)
        with _environment({"nnUNet_raw": place, "nnUNet_preprocessed": place}):
            yield ExperimentPlanner(DATASET, gpu_memory_target_in_gb=memory_gb)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables within the block; nnU-Net looks them up whenever it needs a folder."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _overlay(planned: Plan, found: Fingerprint, memory_gb: float, field_of_view_mm: Sequence[float] | None) -> str:
    def spread(values: Sequence[Sequence[float]]) -> str:
        low, middle, high = (np.percentile(np.asarray(values, dtype=float), share, axis=0) for share in (0, 50, 100))
        return "; ".join(" x ".join(f"{value:g}" for value in np.round(row, 3)) for row in (low, middle, high))

    cut = f"cut down to {field_of_view_mm[0]:g} x {field_of_view_mm[1]:g} mm in plane" if field_of_view_mm else "whole"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("nnunetv2", "monai"))
    header = f"""\
# Use after train.yaml and after inference.yaml: a DynUNet planned by nnU-Net's rules. Axes (x, y, z).
#
# Made by python -m crossmoda plan: {len(found.shapes)} scans, {cut}, to fit {memory_gb:g} GB with {versions}.
# Least; median; largest spacing, mm: {spread(found.spacings_mm)}
# Least; median; largest shape, voxels: {spread(found.shapes)}

"""
    settings = {
        "spacing": planned.spacing_mm,
        "crop_size": planned.crop_size,
        "patch_size": planned.patch_size,
        "batch_size": planned.batch_size,
        "network_def": planned.network_def,
    }
    return header + yaml.safe_dump(
        json.loads(json.dumps(settings)), sort_keys=False, default_flow_style=None, width=120
    )
