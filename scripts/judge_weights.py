"""Judge the segmenter's weights on real hrT2 scans and on synthetic ones of other sites; draw and print it.

    python -m crossmoda phantom runs/judging --cases 3 --seed 4242 --edition 2023 --validation 24 \\
        --field_of_view_mm 124,84,56
    python scripts/judge_weights.py --synthetic runs/judging --output_dir runs/judged

The real volumes are looked for in ``../shared/real`` or in the folder that CROSSMODA_REAL_DATA names. Only vs_gk_98 has
a label (of its VS); the inner ear and the glioma patient's T2, both without VS, show cochleae and false VS.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from real_volumes import item, real_folder

from crossmoda.command_line import run_command
from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.volumes import Volume, read_volume, spacing_mm, voxel_volume_mm3
from crossmoda.errors import CrossmodaError
from crossmoda.evaluation.aggregate import evaluate_folder
from crossmoda.evaluation.calibration import calibration_of
from crossmoda.evaluation.report.slices import grey_levels, to_ras
from crossmoda.files import atomic_path, read_json, write_json, write_text
from crossmoda.labels import COCHLEA, VS
from crossmoda.self_training.bundles import make_workflow, run_workflow

CONFIGS = Path("bundles/vs_cochlea_hrt2_segmentation/configs")
INFERENCE_FILES = [CONFIGS / f"{name}.yaml" for name in ("inference", "uncertainty", "anatomy")]
WEIGHTS = "bundles/vs_cochlea_hrt2_segmentation/models/model.pt"
REAL = {"vs_gk_98": "vs_gk_98_hrT2", "inner_ear_right": "inner_ear_right_T2", "tcga_fg_6692": "tcga_fg_6692_T2"}
NUMBERS = {VS: 1, COCHLEA: 2}  # as the bundle writes them
TRUTH = "truth"
COLOURS = {VS: "#ff5a5a", COCHLEA: "#41d9ff"}
SLICES = 6
MARGIN_MM = 25.0  # of a picture, about what it shows


def main(
    synthetic: str = "",
    weights: str = WEIGHTS,
    output_dir: str = "runs/judged",
    record: bool = False,
    **settings: Any,
) -> None:
    """Predict, score, draw and print.

    Args:
        synthetic: a phantom dataset whose validation cases judge; none by default.
        weights: of the segmenter; the bundle's own by default.
        output_dir: for predictions, judged.md, judged.json and pictures.
        record: write how well uncertainty foretells error into the weights' model.json, where reports look for it.
        settings: further keys of the bundle's inference.yaml.
    """
    output, real = Path(output_dir), real_folder()
    if real is None and not synthetic:
        raise CrossmodaError(
            "../shared/real: the real volumes are not there; set CROSSMODA_REAL_DATA, or give --synthetic"
        )
    found: dict[str, Any] = {}
    if real is not None:
        found["real"] = judge_real(real, output / "real", weights, settings)
    if synthetic:
        found["synthetic"] = judge_synthetic(Path(synthetic), output / "synthetic", weights, settings)
    write_json(output / "judged.json", found)
    if record and "synthetic" in found:
        sidecar = Path(weights).with_suffix(".json")
        write_json(sidecar, read_json(sidecar) | {"calibration": found["synthetic"]["calibration"]})
    write_text(output / "judged.md", "\n".join(lines(found)) + "\n")
    print("\n" + "\n".join(lines(found)) + f"\n\nwritten: {output}/judged.md, judged.json")


def predict(datalist: Path, output: Path, weights: str, settings: dict[str, Any]) -> None:
    """Predict a datalist's validation cases, with uncertainty."""
    places = {"dataset_dir": str(datalist), "output_dir": str(output), "weights": str(weights)}
    run_workflow(make_workflow(INFERENCE_FILES, "inference", **places, sections=["validation"], **settings))


def judge_real(real: Path, output: Path, weights: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what was found on each real scan: volumes (mL, mm3) and, where a label judges, Dice and ASSD (mm)."""
    output.mkdir(parents=True, exist_ok=True)
    items = [item(case, real / f"{name}.nii.gz") for case, name in REAL.items()]
    empty: dict[str, Any] = {"edition": "plain", "labels": {VS: 1}, "source": [], "target": []}
    save_datalist(output / "datalist.json", {**empty, "validation": items})
    predict(output / "datalist.json", output, weights, settings)
    truth = real / "vs_gk_98_hrT2_Label.nii.gz"
    predicted = {"vs_gk_98": output / "vs_gk_98_Label.nii.gz"}
    scores = evaluate_folder(predicted, {"vs_gk_98": truth}, NUMBERS, {VS: 1}, progress=False)["structures"][VS]
    uncertain = read_json(output / "uncertainty" / "uncertainty.json")
    rows: dict[str, Any] = {}
    for entry in items:
        case = entry["case"]
        label = read_volume(output / f"{case}_Label.nii.gz")
        rows[case] = {"uncertainty": uncertain[case], **volumes(label)}
        draw(
            output / f"{case}.png",
            read_volume(entry["image"]),
            label,
            read_volume(truth) if case == "vs_gk_98" else None,
        )
    rows["vs_gk_98"] |= {"dice": scores["dice"]["mean"], "assd": scores["assd"]["mean"]}
    rows["vs_gk_98"] |= overlap(read_volume(predicted["vs_gk_98"]).array == NUMBERS[VS], read_volume(truth).array == 1)
    return rows


def overlap(found: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Return the share of the true voxels that was found (recall) and that of the found ones that is true (precision).

    Args:
        found: mask (X, Y, Z).
        true: mask on the same grid, not empty.
    """
    both = float((found & true).sum())
    return {"recall": both / float(true.sum()), "precision": both / float(found.sum()) if found.any() else float("nan")}


def volumes(label: Volume) -> dict[str, float]:
    """Return a label map's VS in mL and its cochleae right and left of the scan's middle in mm3."""
    upright = to_ras(label)
    voxel = voxel_volume_mm3(upright.affine)
    cochlea = upright.array == NUMBERS[COCHLEA]
    half = cochlea.shape[0] // 2
    return {
        "vs_ml": round(float((upright.array == NUMBERS[VS]).sum()) * voxel / 1000, 3),
        "cochlea_left_mm3": round(float(cochlea[:half].sum()) * voxel, 1),
        "cochlea_right_mm3": round(float(cochlea[half:].sum()) * voxel, 1),
    }


def judge_synthetic(dataset: Path, output: Path, weights: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return scores over all validation cases and by site, and how uncertainty ranks the errors."""
    output.mkdir(parents=True, exist_ok=True)
    datalist = load_datalist(dataset)
    cases = {entry["case"]: dataset / TRUTH / f"{entry['case']}_Label.nii.gz" for entry in datalist["validation"]}
    save_datalist(output / "datalist.json", {**datalist, "source": [], "target": []})
    predict(output / "datalist.json", output, weights, settings)
    predictions = {case: output / f"{case}_Label.nii.gz" for case in cases}
    sites = {entry["case"]: entry["site"] for entry in datalist["validation"]}
    scores = evaluate_folder(predictions, cases, NUMBERS, dict(datalist["labels"]), sites=sites)
    uncertain = read_json(output / "uncertainty" / "uncertainty.json")
    measured_on = f"synthetic scans of {len(set(sites.values()))} sites"
    calibration = calibration_of(uncertain, scores["cases"], list(NUMBERS), measured_on)
    return {"scores": scores, "calibration": None if calibration is None else calibration.as_json(),
            "spearman": float("nan") if calibration is None else calibration.spearman}  # fmt: skip


def draw(path: Path, scan: Volume, label: Volume, truth: Volume | None) -> None:
    """Draw axial slices through what was found (filled contours) and the truth (dashed), radiological convention."""
    image, found = to_ras(scan), to_ras(label)
    true = None if truth is None else to_ras(truth).array > 0
    depth = image.array.shape[2]
    shown = found.array > 0 if true is None else (found.array > 0) | true
    levels = np.flatnonzero(shown.any(axis=(0, 1))) if shown.any() else np.arange(depth)
    spacing = spacing_mm(image.affine)
    x, y = about(shown, spacing)
    chosen = np.unique(levels[np.linspace(0, len(levels) - 1, min(SLICES, len(levels))).round().astype(int)])
    figure = Figure(figsize=(3.4 * len(chosen), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    low, high = grey_levels(image.array)
    for axes, level in zip(np.atleast_1d(figure.subplots(1, len(chosen))), chosen, strict=True):
        axes.imshow(
            image.array[x, y, level].T,
            cmap="gray",
            origin="lower",
            vmin=low,
            vmax=high,
            aspect=spacing[1] / spacing[0],
        )
        for name, number in NUMBERS.items():
            outline(axes, found.array[x, y, level] == number, COLOURS[name], "solid")
        if true is not None:
            outline(axes, true[x, y, level], "#ffe14d", "dashed")
        axes.invert_xaxis()  # the patient's right on the left
        axes.set_title(f"slice {level + 1} of {depth}", fontsize=8)
        axes.set_axis_off()
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=75, metadata={"Software": None})


def about(shown: np.ndarray, spacing: np.ndarray) -> tuple[slice, slice]:
    """Return the window in plane (x, y) about everything that is shown, with a margin; all of it if nothing is.

    Args:
        shown: mask (X, Y, Z).
        spacing: of the voxels, mm.
    """
    found = []
    for axis in (0, 1):
        there = np.flatnonzero(shown.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (there[0], there[-1]) if there.size else (0, shown.shape[axis])
        margin = round(MARGIN_MM / spacing[axis])
        found.append(slice(max(0, int(low) - margin), int(high) + margin + 1))
    return found[0], found[1]


def outline(axes: Any, mask: np.ndarray, colour: str, style: str) -> None:
    """Draw a mask's outline, if it has one on this slice."""
    if mask.any():
        axes.contour(mask.T, [0.5], colors=colour, linewidths=1.0, linestyles=style)


def lines(found: dict[str, Any]) -> list[str]:
    """Return the tables in Markdown."""
    made = []
    if "real" in found:
        made += [
            "| real scan | VS Dice | VS recall | VS precision | VS ASSD, mm | VS, mL "
            "| cochlea right, left of the middle, mm3 | uncertainty |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for case, row in found["real"].items():
            judged = ("dice", "recall", "precision", "assd")
            cells = [f"{row[key]:.3f}" if key in row else "no label" for key in judged]
            ears = f"{row['cochlea_right_mm3']:.0f}, {row['cochlea_left_mm3']:.0f}"
            cells += [f"{row['vs_ml']:.2f}", ears, f"{row['uncertainty']:.3f}"]
            made.append(f"| {case} | {' | '.join(cells)} |")
        made.append("")
    if "synthetic" in found:
        scores = found["synthetic"]["scores"]
        made += [
            "| synthetic scans | VS Dice | cochlea Dice | VS ASSD, mm | cochlea ASSD, mm | cases |",
            "|---|---|---|---|---|---|",
        ]
        for name, row in {"all": scores["structures"], **scores["sites"]}.items():
            cells = [f"{row[structure][key]['mean']:.3f}" for key in ("dice", "assd") for structure in NUMBERS]
            made.append(f"| {name} | {' | '.join(cells)} | {row[VS]['dice']['n']} |")
        sizes = [case[VS]["volume_mm3"] / case[VS]["truth_volume_mm3"] for case in scores["cases"]]
        told = f"{np.median(sizes):.2f} ({min(sizes):.2f} to {max(sizes):.2f})"
        made += ["", f"VS found, times the true volume: median {told}"]
        made += ["", f"Spearman's rank correlation of uncertainty and error: {found['synthetic']['spearman']:.2f}"]
    return made


if __name__ == "__main__":
    run_command(main)
