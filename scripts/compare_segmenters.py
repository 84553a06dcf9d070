"""Train every segmenter of ``configs/segmenters.yaml`` on the same scans for as long; write one table and one picture.

    python scripts/compare_segmenters.py --output_dir runs/segmenters

The teacher is the truth of hrT2 scans, the judges are other hrT2 scans that no training sees. Each method is a folder
with its weights and its predictions; what is there already is not done again, so the command goes on after any
interruption. What a training takes is measured at the end, in some steps of its own. OUT gets comparison.md,
comparison.json and comparison.png.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

import logging
import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import fire
import torch
from comparing import folder_name, read_settings, scaled, table, upright
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossmoda.command_line import run_command
from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.engines.memory import peak_mib, peak_of_children_mib, resident_mib
from crossmoda.errors import CrossmodaError, did_you_mean
from crossmoda.files import atomic_path, read_json, write_json, write_text
from crossmoda.labels import VS
from crossmoda.self_training import BundleUse
from crossmoda.self_training.datalists import with_truth
from crossmoda.self_training.estimate.trainings import paces_of, shortened
from crossmoda.self_training.loop import find_truth
from crossmoda.self_training.steps import StepFolder
from crossmoda.self_training.work import Work
from crossmoda.translation.evaluation_pictures import Picture, draw_slice

BUNDLE = "bundles/vs_cochlea_hrt2_segmentation"
OF_A_SIZE = ("shared", "train", "inference")
OF_A_METHOD = ("overlays", "train_overlays", "inference_overlays", *OF_A_SIZE)
TRUTH = "truth"
CASES = 3  # of the picture
MEASURES = {  # in the columns' order: title and digits
    "million": ("parameters, million", 2),
    "dice_vs": ("VS Dice", 3),
    "assd_vs": ("VS ASSD, mm", 2),
    "dice_cochlea": ("cochlea Dice", 3),
    "assd_cochlea": ("cochlea ASSD, mm", 2),
    "step_seconds": ("step, s", 2),
    "training_mib": ("training, MiB", 0),
}


@fire.decorators.SetParseFn(str, "only")  # a name with a comma is no tuple
def main(
    output_dir: str = "runs/segmenters",
    size: str = "synthetic",
    config: str = "configs/segmenters.yaml",
    dataset: str | None = None,
    only: str = "",
    measure_again: bool = False,
) -> None:
    """Train, measure and compare.

    Args:
        output_dir: gets a folder per method, the table and the picture.
        size: one of the configuration's.
        config: the methods and sizes.
        dataset: folder of a synthetic dataset with its truth; by default it is made beside the output folder.
        only: train and measure only the methods whose name holds this text.
        measure_again: time the steps anew, e.g. since the machine had other work to do.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ignite").setLevel(logging.WARNING)
    scale, methods = read_settings(config, size, OF_A_SIZE, OF_A_METHOD)
    output = Path(output_dir)
    data = (
        Path(dataset) if dataset else write_phantom_dataset(output.parent / f"{output.name}_data", **scale["phantom"])
    )
    output.mkdir(parents=True, exist_ok=True)
    save_datalist(output / "dataset.json", load_datalist(data))
    works = {name: work_of(method, scale, output, data) for name, method in methods.items() if only in name}
    if not works:
        raise CrossmodaError(f"--only {only}: no such method in {config}; {did_you_mean(only, methods)}")
    for name, work in works.items():  # what is wrong with a method is found before the first is trained
        for kind in ("train", "inference"):
            work.segmenter.require_known_keys(kind, f"{config}: method '{name}'")
        work.segmenter.check("train", work.device, dataset_dir=str(output / "dataset.json"), output_dir=str(output))
    for name, work in works.items():
        logging.info("--- %s", name)
        teach(work, StepFolder(output / folder_name(name)))
    write_comparison(output, list(methods), works, measure_again)


def work_of(method: Mapping[str, Any], scale: Mapping[str, Any], output: Path, data: Path) -> Work:
    """Return a method's use of the segmentation bundle, its own settings over those of the size, on the data."""
    truth, datalist = find_truth(data / TRUTH), load_datalist(data)
    if not with_truth(datalist["target"], truth, datalist["labels"]):
        raise CrossmodaError(f"{data}: no truth of its hrT2 scans; give a synthetic dataset")
    shared = {**scale["shared"], **method.get("shared", {})}
    use = BundleUse(
        BUNDLE,
        train={**shared, **scale["train"], **method.get("train", {})},
        inference={**shared, **scale["inference"], **method.get("inference", {})},
        train_overlays=method.get("overlays", []) + method.get("train_overlays", []),
        inference_overlays=[*method.get("overlays", []), *method.get("inference_overlays", []), "uncertainty.yaml"],
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Work(output, datalist, truth, {}, use, (), shared["structures"], scale["train"]["seed"], device)


def teach(work: Work, folder: StepFolder) -> None:
    """Train on the target's truth, label and measure the validation cases."""
    folder.path.mkdir(parents=True, exist_ok=True)
    work.teach(folder, [], with_truth(work.items("target"), work.truth, work.datalist["labels"]))


def cost_of(work: Work, datalist: Path) -> dict[str, float]:
    """Return what training takes: ``step_seconds``, its data's making included, and ``training_mib``.

    Some steps are trained again in a process of their own, whose largest memory is the training's alone.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, work.segmenter, datalist, work.device).result()


def measured(use: BundleUse, datalist: Path, device: torch.device | None) -> dict[str, float]:
    """Train some steps in this process, and return their cost; memory is that beyond what the imports had taken."""
    logging.basicConfig(level=logging.WARNING)
    before, short = resident_mib(), shortened(use)
    with tempfile.TemporaryDirectory() as folder:
        short.run("train", device, dataset_dir=str(datalist), output_dir=folder)
        seconds = sum(pace.step for pace in paces_of(short, Path(folder)).values())
    # nnU-Net trains in a child of its own.
    return {"step_seconds": seconds, "training_mib": round(max(peak_mib(), peak_of_children_mib()) - before)}


def write_comparison(output: Path, names: Sequence[str], works: Mapping[str, Work], measure_again: bool) -> None:
    """Write and print the table of the methods that have been measured, and draw their picture."""
    done = [name for name in names if (output / folder_name(name) / "metrics.json").is_file()]
    rows = {}
    for name in done:
        place = output / folder_name(name)
        row = read_json(place / "row.json") if (place / "row.json").is_file() else {}
        if name in works and (measure_again or not row):
            row = {"million": parameters_of(works[name].segmenter, place / "segmenter" / "model.pt") / 1e6}
            row |= cost_of(works[name], place / "datalist.json")
            write_json(place / "row.json", row)
        rows[name] = {**row, **scores_of(place)}
    write_json(output / "comparison.json", rows)
    text = table("network", MEASURES, rows)
    write_text(output / "comparison.md", text)
    draw_comparison(output, done, next(iter(works.values())))
    print(f"\n{text}\nwritten: {output}/comparison.md, comparison.json, comparison.png")


def parameters_of(use: BundleUse, weights: Path) -> int:
    """Return the number of parameters of a trained network; of several folds, those of all."""
    network = use.workflow("inference", weights=str(weights)).parser.get_parsed_content("network_def")
    return sum(parameter.numel() for parameter in network.parameters())


def scores_of(place: Path) -> dict[str, float]:
    """Return the mean Dice and ASSD of each structure that a method's folder holds."""
    structures = read_json(place / "metrics.json")["structures"]
    return {f"{key}_{name}": found[key]["mean"] for name, found in structures.items() for key in ("dice", "assd")}


def draw_comparison(output: Path, names: Sequence[str], work: Work) -> None:
    """Draw the slice of some validation cases that shows most of the VS: the truth, then every method's outlines."""
    items = with_truth(work.items("validation"), work.truth, work.datalist["labels"])[:CASES]
    columns = [TRUTH, *names]
    figure = Figure(figsize=(2.6 * len(columns), 2.2 * len(items)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(items), len(columns), squeeze=False)
    for axes_row, item in zip(grid, items, strict=True):
        numbers = item["labels"]
        level = int((upright(item["label"]) == numbers[VS]).sum(axis=(0, 1)).argmax())
        image = scaled(item["image"], level)
        for axes, name in zip(axes_row, columns, strict=True):
            predicted = output / folder_name(name) / "predictions" / f"{item['case']}_Label.nii.gz"
            label = upright(item["label"] if name == TRUTH else predicted)[..., level]
            values = numbers if name == TRUTH else {s: i + 1 for i, s in enumerate(work.structures)}
            masks = {structure: label == values[structure] for structure in work.structures}
            draw_slice(axes, Picture(item["case"], {"hrT2": image}, masks, 1.0), "hrT2")
            axes.set_title(name, fontsize=9)
        axes_row[0].set_ylabel(item["case"], fontsize=7)
    with atomic_path(output / "comparison.png") as partial:
        figure.savefig(partial, dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    run_command(main)
