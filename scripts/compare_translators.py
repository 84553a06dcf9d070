"""Train every translator of ``configs/translators.yaml`` at one size, measure each, write one table and one picture.

    python scripts/compare_translators.py --output_dir runs/translators
    python scripts/compare_translators.py --output_dir runs/translators_real --size real

Each method is a folder with its translator and its evaluation; what is there already is not done again, so the command
goes on after any interruption. OUT gets comparison.md, comparison.json and comparison.png.

With --teach True a segmenter is trained on each method's translations and labels, and on the ceT1 and the true hrT2 of
the same cases; its Dice on the validation cases, real hrT2 that nobody has seen, is the proof of a translation.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fire
import numpy as np
import torch
from comparing import folder_name, read_settings, require_keys, scaled, table, upright
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from crossmoda.command_line import run_command
from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.errors import CrossmodaError, did_you_mean
from crossmoda.files import atomic_path, read_json, write_json, write_text
from crossmoda.labels import VS
from crossmoda.self_training import BundleUse
from crossmoda.self_training.loop import find_truth
from crossmoda.self_training.steps import Step, StepFolder
from crossmoda.self_training.work import Work
from crossmoda.translation.evaluation_pictures import Picture, draw_slice
from crossmoda.translation.items import evaluation_items
from crossmoda.unknown_keys import require_known_keys

COLUMNS = 4  # of the picture
BUNDLE = "bundles/cet1_to_hrt2_translation"
SEGMENTATION = "bundles/vs_cochlea_hrt2_segmentation"
OF_A_SIZE = ("shared", "train", "evaluate", "segmenter_settings", "teach")
OF_A_METHOD = ("train_overlays", "inference_overlays", "shared", "train", "weights_of")
KINDS = ("input", "truth", "real")  # what the first method's evaluation says of images that no method made
NAMES = {"input": "no translation", "truth": "true hrT2", "real": "real hrT2 of others"}
MEASURES = {  # in the columns' order: title and digits
    "psnr_db": ("PSNR, dB", 1),
    "ssim": ("SSIM", 3),
    "contrast_vs": ("contrast VS", 3),
    "contrast_cochlea": ("contrast cochlea", 3),
    "edges_vs": ("edges VS", 3),
    "edges_cochlea": ("edges cochlea", 3),
    "flicker": ("flicker", 4),
    "dice_vs": ("oracle's Dice VS", 3),
    "dice_cochlea": ("oracle's Dice cochlea", 3),
    "taught_vs": ("taught Dice VS", 3),
    "taught_cochlea": ("taught Dice cochlea", 3),
    "kernel_distance": ("kernel distance", 2),
    "frechet_distance": ("Frechet distance", 1),
    "intensity_distance": ("intensity distance", 3),
}


@fire.decorators.SetParseFn(str, "only")  # a name with a comma is no tuple
def main(
    output_dir: str = "runs/translators",
    size: str = "synthetic",
    config: str = "configs/translators.yaml",
    dataset: str | None = None,
    segmenter_weights: str | None = "runs/demo/anchors/oracle/segmenter/model.pt",
    teach: bool = False,
    only: str = "",
) -> None:
    """Train, measure and compare.

    Args:
        output_dir: gets a folder per method, the tables and the picture.
        size: synthetic or real, or another of the configuration's sizes.
        config: the methods and sizes.
        dataset: folder of the data; by default it is made beside the output folder.
        segmenter_weights: of a segmenter that has learnt from real hrT2 alone, such as the demo's oracle; where the
            file is missing, its Dice is left out.
        teach: also train a segmenter on every method's translations, some minutes each, and measure it on real hrT2.
        only: train and measure only the methods whose name holds this text.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ignite").setLevel(logging.WARNING)
    scale, methods = read_settings(config, size, OF_A_SIZE, OF_A_METHOD)
    require_usable_methods(config, methods, scale)
    output = Path(output_dir)
    data = Path(dataset) if dataset else prepared(output.parent / f"{output.name}_data", scale)
    truth = data / "truth" if scale.get("phantom") else None
    further = {"truth": str(truth) if truth else None, **scale["evaluate"]}
    if scale.get("segmenter_settings") and segmenter_weights and Path(segmenter_weights).is_file():
        further |= {"segmenter_weights": segmenter_weights, "segmenter_settings": scale["segmenter_settings"]}
    for name, method in methods.items():
        if only in name and is_possible(method, data):
            compare_one(name, methods, scale, output, data, further)
    if teach:
        teach_all([name for name in methods if only in name], scale, output, data)
    write_comparison(output, list(methods), data, truth)


def require_usable_methods(config: str, methods: Mapping[str, Mapping[str, Any]], scale: Mapping[str, Any]) -> None:
    """Find, before anything is trained, settings that nobody would read and weights that no method trains.

    Raises:
        CrossmodaError: a key is not known, or ``weights_of`` names no method.
    """
    further = {"truth": None, **scale["evaluate"]}
    for name, method in methods.items():
        owner = method.get("weights_of", name)
        if owner not in methods:
            raise CrossmodaError(f"{config}: method '{name}': no method '{owner}'; {did_you_mean(owner, methods)}")
        for kind in ("train", "inference"):
            bundle_use(method, scale, further).require_known_keys(kind, f"{config}: method '{name}'")
    inference = Path(SEGMENTATION) / "configs" / "inference.yaml"
    require_known_keys([inference], scale.get("segmenter_settings"), f"{config}: segmenter_settings")
    if scale.get("teach"):
        require_keys(f"{config}: teach", scale["teach"], ("shared", "train", "inference"))
        for kind in ("train", "inference"):
            teaching_use(scale["teach"]).require_known_keys(kind, f"{config}: teach")


def is_possible(method: Mapping[str, Any], data: Path) -> bool:
    """Tell whether the data has hrT2 scans of every site that a method tells apart."""
    sites = method.get("shared", {}).get("sites", [])
    return set(sites) <= {item.get("site") for item in load_datalist(data)["target"]}


def prepared(folder: Path, scale: Mapping[str, Any]) -> Path:
    """Return the data of a size, which is made if it is not there: a phantom, or a datalist of the real volumes."""
    return write_phantom_dataset(folder, **scale["phantom"]) if scale.get("phantom") else real_scans(folder)


def real_scans(folder: Path) -> Path:
    """Write a datalist of the real ceT1 with its VS label and of the real hrT2, without its label."""
    real = Path(os.environ.get("CROSSMODA_REAL_DATA", "../shared/real")).resolve()
    if not (real / "vs_gk_98_hrT2.nii.gz").is_file():
        raise CrossmodaError(f"{real}: the real volumes are not there; set CROSSMODA_REAL_DATA to their folder")
    source = {"case": "vs_gk_99", "site": "ldn", "image": str(real / "vs_gk_99_ceT1.nii.gz")}
    source["label"] = str(real / "vs_gk_99_ceT1_Label.nii.gz")
    target = {"case": "vs_gk_98", "site": "ldn", "image": str(real / "vs_gk_98_hrT2.nii.gz")}
    folder.mkdir(parents=True, exist_ok=True)
    sections = {"source": [source], "target": [target], "validation": []}
    save_datalist(folder / "datalist.json", {"edition": "plain", "labels": {VS: 1}, **sections})
    return folder / "datalist.json"


def compare_one(
    name: str,
    methods: Mapping[str, Mapping[str, Any]],
    scale: Mapping[str, Any],
    output: Path,
    data: Path,
    further: Mapping[str, Any],
) -> None:
    """Train one method and evaluate it, unless that is done."""
    logging.info("--- %s", name)
    use, folder = bundle_use(methods[name], scale, further), StepFolder(output / folder_name(name))
    owner = methods[name].get("weights_of", name)
    weights = output / folder_name(owner) / "translator"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if owner == name:

        def train(workplace: Path) -> None:
            use.run("train", device, dataset_dir=str(data), output_dir=str(workplace / "translator"))

        folder.do(Step("translator", ("translator",), train, use.config("train"), {"data": data}))

    def evaluate(workplace: Path) -> None:
        places = {"dataset_dir": str(data), "weights": str(weights / "model.pt")}
        use.run("inference", device, output_dir=str(workplace / "evaluation"), **places)

    inputs = {"data": data, "weights": weights / "model.pt"}
    if "segmenter_weights" in further:
        inputs["segmenter"] = Path(further["segmenter_weights"])
    folder.do(Step("evaluation", ("evaluation",), evaluate, use.config("inference"), inputs))


def teach_all(names: list[str], scale: Mapping[str, Any], output: Path, data: Path) -> None:
    """Train and measure a segmenter for each method that has been evaluated, and for ceT1 and true hrT2."""
    if not scale.get("teach"):
        raise CrossmodaError("--teach: this size says nothing of teach, how a segmenter is to be trained")
    source = load_datalist(data)["source"]
    scans = {item["case"]: item["image"] for item in source}
    images = {NAMES["input"]: scans, NAMES["truth"]: {case: data / "truth" / f"{case}_hrT2.nii.gz" for case in scans}}
    for name in names:
        folder = output / folder_name(name) / "evaluation" / "pseudo_hrt2"
        images[name] = {case: folder / f"{case}_hrT2.nii.gz" for case in scans}
    for name, files in images.items():
        if all(Path(file).is_file() for file in files.values()):
            teach_one(name, files, scale["teach"], output / folder_name(name), data)


def teach_one(name: str, images: Mapping[str, Any], settings: Mapping[str, Any], folder: Path, data: Path) -> None:
    """Train a segmenter on images ``{case: file}`` with the source's labels, and measure it on the validation cases."""
    logging.info("--- a segmenter taught by: %s", name)
    datalist, device = load_datalist(data), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    taught = StepFolder(folder / "taught")
    taught.path.mkdir(parents=True, exist_ok=True)
    save_datalist(taught.path / "dataset.json", datalist)
    structures, truth = settings["shared"]["structures"], find_truth(data / "truth")
    use, seed = teaching_use(settings), settings["train"]["seed"]
    work = Work(taught.path, datalist, truth, {}, use, (), structures, seed, device)
    view = {} if name in NAMES.values() else {"view": name}  # so that augmentation knows what a translator has made
    items = [{**item, "image": str(images[item["case"]]), **view} for item in work.items("source")]
    work.teach(taught, items, [])


def teaching_use(settings: Mapping[str, Any]) -> BundleUse:
    """Return how the segmentation bundle is used to train and measure a segmenter on translations."""
    return BundleUse(
        SEGMENTATION,
        train={**settings["shared"], **settings["train"]},
        inference={**settings["shared"], **settings["inference"]},
        inference_overlays=["uncertainty.yaml"],
    )


def taught_dice(folder: Path) -> dict[str, float]:
    """Return ``{"taught_<structure>": mean Dice}`` of the segmenter that a method's folder holds, if it holds one."""
    metrics = folder / "taught" / "metrics.json"
    if not metrics.is_file():
        return {}
    return {f"taught_{name}": found["dice"]["mean"] for name, found in read_json(metrics)["structures"].items()}


def bundle_use(method: Mapping[str, Any], scale: Mapping[str, Any], further: Mapping[str, Any]) -> BundleUse:
    """Return how a method uses the translation bundle: its own settings over those of the size."""
    shared = {**scale["shared"], **method.get("shared", {})}
    return BundleUse(
        BUNDLE,
        train={**shared, **scale["train"], **method.get("train", {})},
        inference={**shared, **further},
        train_overlays=method.get("train_overlays", ()),
        inference_overlays=[*method.get("inference_overlays", ()), "evaluate.yaml"],
    )


def write_comparison(output: Path, names: list[str], data: Path, truth: Path | None) -> None:
    """Write and print the table of the methods that have been measured, and draw their picture."""
    done = [name for name in names if (output / folder_name(name) / "evaluation" / "metrics.json").is_file()]
    if not done:
        raise CrossmodaError(f"{output}: nothing has been measured; choose other methods with --only")
    measured = {
        name: read_json(output / folder_name(name) / "evaluation" / "metrics.json")["measures"] for name in done
    }
    rows = {
        name: {**of_kind(measures, "translation"), **taught_dice(output / folder_name(name))}
        for name, measures in measured.items()
    }
    for kind in KINDS:
        if found := of_kind(measured[done[0]], kind):
            rows[NAMES[kind]] = {**found, **taught_dice(output / folder_name(NAMES[kind]))}
    write_json(output / "comparison.json", rows)
    text = table("method", MEASURES, rows)
    write_text(output / "comparison.md", text)
    draw_comparison(output, done, data, truth)
    print(f"\n{text}\nwritten: {output}/comparison.md, comparison.json, comparison.png")


def of_kind(measures: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return the mean of every measure of one kind of image."""
    found = {name: kinds[kind] for name, kinds in measures.items() if kind in kinds}
    return {name: values.get("mean", values.get("value")) for name, values in found.items()}


def draw_comparison(output: Path, names: list[str], data: Path, truth: Path | None, cases: int = 2) -> None:
    """Draw the slice of some cases that shows most of the VS: ceT1, every method, true hrT2, four in a row."""
    items = [item for item in evaluation_items(data, "source", truth) if item.get("structures")]
    chosen = [items[index] for index in sorted({int(i) for i in np.linspace(0, len(items) - 1, cases)})]
    kinds = ["ceT1", *names, *(["true hrT2"] if truth else [])]
    rows = [kinds[start : start + COLUMNS] for start in range(0, len(kinds), COLUMNS)]
    lines = [(picture, row) for picture in (picture_of(item, output, names) for item in chosen) for row in rows]
    figure = Figure(figsize=(2.6 * COLUMNS, 2.2 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(lines), COLUMNS, squeeze=False)
    for axes_row, (picture, row) in zip(grid, lines, strict=True):
        for axes in axes_row:
            axes.set_axis_off()
        for axes, kind in zip(axes_row, row, strict=False):
            if kind in picture.images:
                draw_slice(axes, picture, kind)
                axes.set_title(kind, fontsize=9)
    with atomic_path(output / "comparison.png") as partial:
        figure.savefig(partial, dpi=80, metadata={"Software": None})


def picture_of(item: Mapping[str, Any], output: Path, names: list[str]) -> Picture:
    """Return a case's slice of every method, on the ceT1's grid."""
    label = upright(item["structures"]) == item["labels"][VS]
    level = int(label.sum(axis=(0, 1)).argmax())
    images = {"ceT1": scaled(item["image"], level)}
    for name in names:
        path = output / folder_name(name) / "evaluation" / "pseudo_hrt2" / f"{item['case']}_hrT2.nii.gz"
        images[name] = 2 * upright(path)[..., level] - 1
    if "label" in item:
        images["true hrT2"] = scaled(item["label"], level)
    return Picture(str(item["case"]), images, {VS: label[..., level]}, 1.0)


if __name__ == "__main__":
    run_command(main)
