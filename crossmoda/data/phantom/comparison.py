"""Hold the phantom against real volumes: the same measurements on both, and pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
from scipy import ndimage

from crossmoda.data.phantom.acquisition import render
from crossmoda.data.phantom.anatomy import Patient, draw_patient
from crossmoda.data.phantom.dataset import case_rng
from crossmoda.data.phantom.protocols import draw_protocol
from crossmoda.data.phantom.rasterise import Anatomy, rasterise
from crossmoda.data.phantom.scanner import Grid, scan
from crossmoda.data.volumes import read_volume, voxel_volume_mm3

CROP_SHAPE, CROP_SPACING_MM = (272, 160, 40), (0.41015625, 0.41015625, 1.5)  # of the real volumes
EAR_SHAPE, EAR_SPACING_MM = (200, 150, 60), (0.2, 0.2, 0.3)
SEED = 11
Row = tuple[str, np.ndarray, Sequence[int]]  # title, image (X, Y, Z) in RAS order, slices to show


@dataclass(frozen=True)
class RealRegion:
    """Hold a small cube (voxel index in RAS order, half width 4 in plane) placed by eye in a real volume."""

    file: str
    brain: tuple[int, int, int]
    fluid: tuple[int, int, int]
    lowest: float  # stored value of no signal


# Pons and fluid of two patients (fourth ventricle; cistern beside the medulla); temporal lobe and cistern by the ear.
REAL_REGIONS = {
    "ceT1": RealRegion("vs_gk_99_ceT1", (143, 61, 22), (142, 35, 24), -1.0),
    "hrT2": RealRegion("vs_gk_98_hrT2", (153, 58, 18), (142, 42, 14), -1.0),
    "inner ear T2": RealRegion("inner_ear_right_T2", (100, 130, 80), (30, 30, 52), 0.0),
}


def crop_grid(patient: Patient, shape: Sequence[int], spacing: Sequence[float], centre: Sequence[float]) -> Grid:
    """Return a grid (L P S on disk is not needed here: RAS) about a point of the patient's frame."""
    middle = patient.frame.to_scanner(np.asarray(centre, float)[:, None])[:, 0]
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = middle - np.asarray(spacing) * (np.asarray(shape) - 1) / 2
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def cochlea_figures(label: np.ndarray, affine: np.ndarray) -> dict[str, list[float]]:
    """Return per-cochlea volumes (mm3) and the distance between their centres (mm) from a mask (X, Y, Z)."""
    parts, count = ndimage.label(label, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(label, parts, range(1, count + 1))
    keep = [i + 1 for i in np.argsort(sizes)[::-1][:2]]
    centres = [_centre_mm(parts == i, affine) for i in keep]
    volumes = [float(sizes[i - 1]) * voxel_volume_mm3(affine) for i in keep]
    apart = [float(np.linalg.norm(centres[0] - centres[1]))] if len(centres) == 2 else []
    return {"cochlea volume, mm3": volumes, "between the cochleae, mm": apart}


def position_figures(vs: np.ndarray, cochlea: np.ndarray, affine: np.ndarray) -> dict[str, list[float]]:
    """Return VS volume (mL), its centre's distance to the nearer cochlea (mm), and the cochleae's figures."""
    figures = {"VS volume, mL": [float(vs.sum()) * voxel_volume_mm3(affine) / 1000], **cochlea_figures(cochlea, affine)}
    parts, count = ndimage.label(cochlea, np.ones((3, 3, 3)))
    centre = _centre_mm(vs, affine)
    distances = [float(np.linalg.norm(_centre_mm(parts == i + 1, affine) - centre)) for i in range(count)]
    return {**figures, "VS to the nearer cochlea, mm": [min(distances)] if distances else []}


def _centre_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return nib.affines.apply_affine(affine, np.argwhere(mask).mean(axis=0))


def contrast_figures(image: np.ndarray, anatomy: Anatomy) -> dict[str, list[float]]:
    """Return ratios of median signals to brainstem's, from voxels that a tissue fills almost alone."""
    near = np.abs(_axis_mm(anatomy, 1) + 5) < 12
    brain = float(np.median(image[(anatomy.fractions["white"] > 0.97) & near]))
    fluid = float(np.median(image[(anatomy.fractions["csf"] > 0.97) & near]))
    tumour = float(np.median(image[anatomy.labels["vs"]]))
    return _ratios(brain, fluid, tumour, float(np.percentile(image, 5)))


def _axis_mm(anatomy: Anatomy, axis: int) -> np.ndarray:
    """Return the patient's own coordinate along an axis (X, Y, Z)."""
    index = np.indices(next(iter(anatomy.fractions.values())).shape, np.float32)
    scanner = [sum(anatomy.affine[row, k] * index[k] for k in range(3)) + anatomy.affine[row, 3] for row in range(3)]
    return anatomy.patient.frame.bone((scanner[0], scanner[1], scanner[2]))[axis]


def _ratios(brain: float, fluid: float, tumour: float | None, dark: float) -> dict[str, list[float]]:
    ratios = {"CSF / brain": [fluid / brain], "darkest 5 % / brain": [dark / brain]}
    return ratios if tumour is None else {**ratios, "tumour / brain": [tumour / brain]}


def phantom_figures(patients: int = 24, seed: int = SEED) -> dict[str, dict[str, list[float]]]:
    """Return drawn patients' figures on the real volumes' grid: positions, and contrasts per site and modality."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(patients):
        patient = draw_patient(case_rng(seed, "comparison", str(number)))
        grid = crop_grid(patient, CROP_SHAPE, CROP_SPACING_MM, (0, -3, 1))
        anatomy = rasterise(patient, grid.shape, grid.affine)
        _append(found, "positions", position_figures(anatomy.labels["vs"], anatomy.labels["cochlea"], grid.affine))
        for site in ("ldn", "etz"):
            for modality in ("ceT1", "hrT2"):
                rng = case_rng(seed, "comparison", str(number), site, modality)
                image = scan_of(anatomy, site, modality, rng)
                _append(found, f"{site} {modality}", contrast_figures(image, anatomy))
    return found


def scan_of(anatomy: Anatomy, site: str, modality: str, rng: np.random.Generator) -> np.ndarray:
    """Return an image (X, Y, Z) of a rasterised patient as a site makes it, on the anatomy's own grid."""
    return render(anatomy, draw_protocol(site, modality, rng), rng)


def _append(found: dict[str, dict[str, list[float]]], group: str, figures: dict[str, list[float]]) -> None:
    for name, values in figures.items():
        found.setdefault(group, {}).setdefault(name, []).extend(values)


def real_figures(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return the same figures of the real volumes in a folder."""
    found: dict[str, dict[str, list[float]]] = {}
    label, affine = _canonical(folder / "crossmoda2021_ldn_1_Label.nii.gz")
    _append(found, "positions", position_figures(label == 1, label == 2, affine))
    for name, region in REAL_REGIONS.items():
        image, affine = _canonical(folder / f"{region.file}.nii.gz")
        signal = image - region.lowest
        tumour = None
        mask_file = folder / f"{region.file}_Label.nii.gz"
        if mask_file.is_file():
            mask = _canonical(mask_file)[0] > 0
            tumour = float(np.median(signal[mask]))
            _append(found, "positions", {"VS volume, mL": [float(mask.sum()) * voxel_volume_mm3(affine) / 1000]})
        dark = max(float(np.percentile(signal, 5)), 0.0)
        _append(found, name, _ratios(_cube(signal, region.brain), _cube(signal, region.fluid), tumour, dark))
    return found


def _cube(signal: np.ndarray, at: tuple[int, int, int]) -> float:
    x, y, z = at
    return float(np.median(signal[x - 4 : x + 5, y - 4 : y + 5, z]))


def _canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume's array and affine with axes in RAS order."""
    volume = read_volume(path)
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    return np.asarray(image.dataobj, np.float32), image.affine


def table(phantom: dict[str, dict[str, list[float]]], real: dict[str, dict[str, list[float]]]) -> str:
    """Return the figures as a Markdown table: phantom median with 5th to 95th percentile, and each real value."""
    lines = ["| what | phantom: median (5th-95th percentile) | real |", "|---|---|---|"]
    twins = {"ldn ceT1": "ceT1", "etz ceT1": "ceT1", "ldn hrT2": "hrT2", "etz hrT2": "inner ear T2"}
    for group, figures in phantom.items():
        beside = real.get(twins.get(group, group), {})
        for name, values in figures.items():
            low, middle, high = np.percentile(values, [5, 50, 95])
            others = ", ".join(f"{v:.2f}" for v in beside.get(name, [])) or "not measured"
            title = name if group == "positions" else f"{group}: {name}"
            lines.append(f"| {title} | {middle:.2f} ({low:.2f}-{high:.2f}) | {others} |")
    return "\n".join(lines)


def draw_pictures(folder: Path, real: Path, seed: int = SEED) -> list[Path]:
    """Write the pictures that the documentation shows; return their paths."""
    heads, ears = folder / "phantom_beside_real.png", folder / "phantom_inner_ear.png"
    return [_draw_heads(heads, real, seed), _draw_ears(ears, real, seed)]


def _draw_heads(path: Path, real: Path, seed: int) -> Path:
    patient = draw_patient(case_rng(seed, "picture"), 3)
    grid = crop_grid(patient, CROP_SHAPE, CROP_SPACING_MM, (0, -3, 1))
    anatomy = rasterise(patient, grid.shape, grid.affine)
    rows: list[Row] = []
    for modality, file, slices in (
        ("ceT1", "vs_gk_99_ceT1", (7, 15, 20, 26, 34)),
        ("hrT2", "vs_gk_98_hrT2", (5, 13, 16, 20, 23)),
    ):
        rows.append((f"real {modality}, London", _canonical(real / f"{file}.nii.gz")[0] + 1, slices))
        for site, name in (("ldn", "London"), ("etz", "Tilburg")):
            image = scan_of(anatomy, site, modality, case_rng(seed, site, modality))
            rows.append((f"phantom {modality}, {name}", image, (5, 13, 18, 24, 33)))
    return _save(path, rows, 1.7)


def _draw_ears(path: Path, real: Path, seed: int) -> Path:
    patient = draw_patient(case_rng(seed, "ear"), 1)
    assert patient.tumour is not None  # whom ``draw_patient`` draws has one
    side = -patient.tumour.side
    grid = crop_grid(patient, EAR_SHAPE, EAR_SPACING_MM, (side * 30, 1, 1))
    made = scan(patient, draw_protocol("etz", "hrT2", case_rng(seed, "ear")), grid, case_rng(seed, "ear", "noise"))
    image = made.image if side > 0 else made.image[::-1]
    true = _canonical(real / "inner_ear_right_T2.nii.gz")[0]
    rows: list[Row] = [
        ("real inner ear, 0.2 mm", true, (31, 38, 45, 52, 59)),
        ("phantom, 0.2 mm", image, (20, 24, 28, 32, 36)),
    ]
    return _save(path, rows, 1.33)


def _save(path: Path, rows: Sequence[Row], aspect: float) -> Path:
    """Draw axial slices, one volume a row, the patient's right on the left as radiologists look at them."""
    columns = len(rows[0][2])
    width, height = 2.1, 2.1 / aspect + 0.2
    figure, axes = plt.subplots(len(rows), columns, figsize=(width * columns, height * len(rows)))
    for line, (title, image, slices) in zip(axes, rows, strict=True):
        top = float(np.percentile(image, 99.7))
        for axis, z in zip(line, slices, strict=True):
            axis.imshow(image[::-1, :, z].T, origin="lower", cmap="gray", vmin=0, vmax=top)
            axis.axis("off")
        line[0].set_title(title, fontsize=8, loc="left")
    figure.tight_layout(pad=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
    return path
