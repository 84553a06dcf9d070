"""Train a segmenter with the synthetic teacher as it is and without each of its parts, and judge each one alike.

    python scripts/ablate_teacher.py --output_dir runs/ablation   # ablation.md, .json; goes on when interrupted

Judged on plain synthetic scans of three sites and, where the real volumes are present, on vs_gk_98, whose label is read
for that alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from comparing import folder_name, read_settings, require_keys, table
from judge_weights import CONFIGS, INFERENCE_FILES, judge_real, judge_synthetic
from monai.bundle import ConfigParser
from real_volumes import real_folder

from crossmoda.command_line import run_command
from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.data.teacher import write_tissue_maps
from crossmoda.files import hash_of, read_json, write_json, write_text
from crossmoda.labels import COCHLEA, VS
from crossmoda.self_training.bundles import make_workflow, run_workflow
from crossmoda.unknown_keys import require_arguments

SCALE_KEYS = ("patients", "shared", "train")
METHOD_KEYS = ("maps", "settings")
COLUMNS = ("VS Dice", "cochlea Dice", "VS Dice, least of the sites", "Spearman", "VS Dice, vs_gk_98")
OVERLAYS = ("teacher", "variant_synthetic_teacher", "variant_tissues")
TRAINING_FILES = [CONFIGS / f"{name}.yaml" for name in ("train", *OVERLAYS)]


def main(
    output_dir: str = "runs/ablation", config: str = "configs/teacher_ablation.yaml", size: str = "small", seed: int = 0
) -> None:
    """Train, judge and print.

    Args:
        output_dir: a folder a method, the tissue maps, the scans that judge, and the table.
        config: methods and sizes.
        size: small or tiny.
        seed: of maps and trainings.
    """
    output = Path(output_dir)
    scale, methods = read_settings(config, size, SCALE_KEYS, METHOD_KEYS)
    require_settings(config, methods)
    judged = Path(write_phantom_dataset(output / "judged", **scale["phantom"]))
    silent = validation_of_none(judged, output / "no_validation.json")
    rows = {}
    for name, method in methods.items():
        maps = maps_of(method.get("maps", {}), output, int(scale["patients"]), seed)
        folder = output / folder_name(name)
        settings = {"seed": seed, **scale["shared"], **scale["train"], **method.get("settings", {})}
        train(folder, maps, silent, settings)
        rows[name] = judge(folder, judged, scale["shared"])
        write_table(output, rows)
    print(f"\n{(output / 'ablation.md').read_text()}\nwritten: {output}/ablation.md, ablation.json")


def require_settings(config: str, methods: Mapping[str, Any]) -> None:
    """Make sure, before the first of many trainings, that the settings of each method are known.

    Raises:
        CrossmodaError: one is not.
    """
    parser = ConfigParser()
    parser.read_config([str(file) for file in TRAINING_FILES])
    for name, method in methods.items():
        given = {key.split("::")[0]: None for key in method.get("settings", {})}
        require_keys(f"{config}: settings of method '{name}'", given, list(parser.get()))
        require_arguments(f"{config}: maps of method '{name}'", write_tissue_maps, method.get("maps", {}))


def maps_of(how: Mapping[str, Any], output: Path, patients: int, seed: int) -> Path:
    """Return a folder of tissue maps made as a method asks, shared by all methods that ask alike."""
    name = "maps" if not how else f"maps_{hash_of(dict(how))[:8]}"
    return write_tissue_maps(output / name, patients, seed, **how)


def validation_of_none(dataset: Path, path: Path) -> Path:
    """Write a datalist with the dataset's labels and no scans: trainings here are judged at their end alone."""
    datalist = load_datalist(dataset)
    save_datalist(path, {**datalist, "source": [], "target": [], "validation": []})
    return path


def train(folder: Path, maps: Path, datalist: Path, settings: Mapping[str, Any]) -> None:
    """Train, or go on with a training, unless its weights are there."""
    if (folder / "model.json").is_file():
        return
    places = {"teacher_dir": str(maps), "dataset_dir": str(datalist), "output_dir": str(folder)}
    run_workflow(make_workflow(TRAINING_FILES, "train", **places, **settings))


def judge(folder: Path, judged: Path, inference: Mapping[str, Any]) -> dict[str, float | None]:
    """Return a method's figures, measured once for its weights."""
    row = folder / "row.json"
    of = {
        "weights": read_json(folder / "model.json")["sha256"],
        "inference": hash_of([[file.read_text() for file in INFERENCE_FILES], dict(inference)]),
    }
    if row.is_file() and (known := read_json(row)).items() >= of.items():
        return dict(known["figures"])
    model, real = str(folder / "model.pt"), real_folder()
    synthetic = judge_synthetic(judged, folder / "synthetic", model, dict(inference))
    scores = synthetic["scores"]
    figures = [
        scores["structures"][VS]["dice"]["mean"],
        scores["structures"][COCHLEA]["dice"]["mean"],
        min(site[VS]["dice"]["mean"] for site in scores["sites"].values()),
        synthetic["spearman"],
        judge_real(real, folder / "real", model, dict(inference))["vs_gk_98"]["dice"] if real is not None else None,
    ]
    found = dict(zip(COLUMNS, figures, strict=True))
    write_json(row, {**of, "figures": found})
    return found


def write_table(output: Path, rows: Mapping[str, Mapping[str, float | None]]) -> None:
    """Write the figures of the methods judged so far."""
    write_json(output / "ablation.json", rows)
    write_text(output / "ablation.md", table("teacher", {name: (name, 3) for name in COLUMNS}, rows))


if __name__ == "__main__":
    run_command(main)
