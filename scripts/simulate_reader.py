"""Let a simulated reader correct cases in the order of each strategy, round after round; write what it brings.

    python scripts/simulate_reader.py --output_dir runs/reader

The reader knows the truth. For every seed a first model is trained; then, for every order, each round hands out its
next cases by the review's own strategy, the reader saves the true label of each as 3D Slicer would, and the loop's next
round learns from them. The scans that judge are other patients. What is done already is not done again, so that
the command goes on after any interruption. OUT gets reader.md, reader.json and reader.svg.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

import importlib
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from comparing import require_keys, require_size
from reader_curves import write_results

from crossmoda.command_line import run_command
from crossmoda.data.phantom.dataset import EDITIONS, TRUTH_FOLDER, Job, Request, make_case, plan
from crossmoda.errors import CrossmodaError, did_you_mean
from crossmoda.evaluation.aggregate import evaluate_folder
from crossmoda.files import atomic_directory, read_json, replace_directory, write_json
from crossmoda.labels import EDITION_LABELS, model_labels
from crossmoda.self_training import BundleUse, LearnFromReviewed, SelfTrainingLoop
from crossmoda.self_training.loop import continue_run, exclusive
from crossmoda.self_training.review import APP, has_verdict, publish, read_current
from crossmoda.self_training.review_order import case_measures
from crossmoda.self_training.review_store import FINAL, ReviewStore
from crossmoda.self_training.rounds import FromRound
from crossmoda.self_training.views import Untranslated

BUNDLE = "bundles/vs_cochlea_hrt2_segmentation"
OVERLAYS = ("uncertainty.yaml", "mutual_information.yaml")  # which measure what the orders go by
RANDOM = "random"
OF_A_SIZE = (
    *("scans", "seeds", "orders", "rounds", "corrections"),
    *("shared", "train", "next_train", "inference"),
)
OF_SCANS = ("seed", "edition", "field_of_view_mm", "coarsen", "taught", "reader", "judged")
SECTIONS = {"taught": "source", "reader": "target", "judged": "validation"}
SCANS_FILE = "scans.json"
READER = "simulated-reader"
Settings = Mapping[str, Any]


def main(
    output_dir: str = "runs/reader", size: str = "small", config: str = "configs/simulated_reader.yaml", only: str = ""
) -> None:
    """Make the scans, read and train, and write the results.

    Args:
        output_dir: gets the scans, a folder per seed and order, the table and the curves.
        size: one of the configuration's.
        config: the sizes.
        only: read in this order alone; what has been done in the others is shown too.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    settings = read_size(config, size)
    if only and only not in settings["orders"]:
        raise CrossmodaError(f"--only {only}: no order of size '{size}'; {did_you_mean(only, settings['orders'])}")
    output = Path(output_dir)
    with exclusive(output):
        datalist = make_scans(output / "scans", settings["scans"])
        for seed in settings["seeds"]:
            first = first_round(output / f"seed_{seed}" / "first", datalist, settings, seed)
            for order in [only] if only else settings["orders"]:
                read_in_order(output / f"seed_{seed}" / order, first, order, settings, seed)
                write_results(output, settings)
    print((output / "reader.md").read_text(encoding="utf-8"))


def read_size(config: str, size: str) -> dict[str, Any]:
    """Return one of the configuration's sizes.

    Raises:
        CrossmodaError: the file is missing, has no such size, or a key is missing or not known.
    """
    if not Path(config).is_file():
        raise CrossmodaError(f"{config}: no such file; give --config")
    content = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    require_keys(config, content, ("sizes",), required=("sizes",))
    settings = require_size(config, content["sizes"], size, OF_A_SIZE, phantoms=(), required=OF_A_SIZE)
    require_keys(f"{config}: scans of size '{size}'", settings["scans"], OF_SCANS, required=OF_SCANS)
    known = [*strategies().ORDERS, RANDOM]
    for order in settings["orders"]:
        if order not in known:
            raise CrossmodaError(f"{config}: no strategy '{order}'; {did_you_mean(order, known)}")
    return settings


# --- Scans ---


def make_scans(folder: Path, scans: Settings) -> dict[str, Any]:
    """Write the synthetic scans, unless they are there, and return their datalist.

    A patient of ``taught`` is a labelled source case, whose image is the true hrT2 on the ceT1's grid.

    Raises:
        CrossmodaError: the folder holds other scans.
    """
    if not folder.is_dir():
        with atomic_directory(folder) as partial_folder:
            request, jobs = jobs_of(scans)
            for job in jobs:
                make_case(partial_folder, request, job)
            write_json(partial_folder / SCANS_FILE, dict(scans))
    if not (folder / SCANS_FILE).is_file() or read_json(folder / SCANS_FILE) != dict(scans):
        raise CrossmodaError(f"{folder}: holds other scans; choose another --output_dir or delete this one")
    return datalist_of(folder, scans)


def jobs_of(scans: Settings) -> tuple[Request, list[Job]]:
    """Return the phantom's cases that are wanted: the first ones of each site and section."""
    wanted = {SECTIONS[name]: scans[name] for name in SECTIONS}
    sites = EDITIONS[scans["edition"]].first
    most = len(sites) * max(count for counts in wanted.values() for count in counts.values())
    request = Request(
        scans["seed"], scans["edition"], most, most, tuple(scans["field_of_view_mm"]), scans["coarsen"], True
    )
    return request, [job for job in plan(request) if job.index < wanted[job.section].get(job.site, 0)]


def datalist_of(folder: Path, scans: Settings) -> dict[str, Any]:
    """Return the datalist of the scans in a folder."""
    edition = EDITIONS[scans["edition"]]
    found: dict[str, list[dict[str, Any]]] = {section: [] for section in SECTIONS.values()}
    for job in jobs_of(scans)[1]:
        item = {"case": job.case, "site": job.site}
        if job.section == "source":
            item["image"] = str(folder / TRUTH_FOLDER / f"{job.case}_hrT2.nii.gz")
            item["label"] = str(folder / edition.folders[job.section] / f"{job.case}_Label.nii.gz")
        else:
            item["image"] = str(folder / edition.folders[job.section] / f"{job.case}{edition.target_suffix}.nii.gz")
        found[job.section].append(item)
    return {"edition": scans["edition"], "labels": EDITION_LABELS[scans["edition"]], **found}


# --- Rounds ---


def first_round(run: Path, datalist: Settings, settings: Settings, seed: int) -> Path:
    """Train the first model and let it label the reader's scans; return the run."""
    segmenter = BundleUse(
        BUNDLE,
        train={**settings["shared"], **settings["train"], "seed": seed},
        inference={**settings["shared"], **settings["inference"]},
        inference_overlays=OVERLAYS,
    )
    SelfTrainingLoop(
        run,
        datalist,
        views={"hrt2": Untranslated()},
        segmenter=segmenter,
        rules=(LearnFromReviewed(),),
        structures=settings["shared"]["structures"],
        max_epochs=1,
        seed=seed,
        device=None,
        truth_dir=truth_folder(datalist),
        later_rounds=(FromRound(1, train=settings["next_train"], warm_start=True),),
    ).run()
    return run


def truth_folder(datalist: Settings) -> Path:
    """Return where the truth of the scans lies."""
    return Path(datalist["source"][0]["image"]).parent


def read_in_order(run: Path, first: Path, order: str, settings: Settings, seed: int) -> None:
    """Go on from the first model, round after round, with the corrections of a reader who is handed cases in an order.

    Args:
        run: the folder of this order; begun as a copy of ``first``.
        first: the run with the first model.
        order: name of a strategy.
        settings: of the size.
        seed: of the random order.
    """
    if not run.is_dir():
        copy = run.with_name(f".{run.name}.partial")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(first, copy)
        replace_directory(copy, run)
    for number in range(settings["rounds"] + 1):
        if read_current(run)["round"] < number:
            started = time.monotonic()
            reader_corrects(run, order, number * settings["corrections"], seed)
            continue_run(run)
            print(f"{run}: round {number}, {time.monotonic() - started:.0f} s", flush=True)
        record_round(run, number)


def reader_corrects(run: Path, order: str, corrections: int, seed: int) -> None:
    """Let the reader save the true labels of the next cases, until as many have been corrected in all."""
    studies = run / "review"
    publish(run, studies)
    store = ReviewStore(studies)
    datastore = strategies_module("lib.datastore").ReviewDatastore(store, partial(read_current, run))
    truth = Path(yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["trainer"]["truth_dir"])
    numbers = read_json(run / "dataset.json")["labels"]
    segments = [{"name": name, "idx": number} for name, number in sorted(numbers.items(), key=lambda pair: pair[1])]
    while (done := len(corrected(store))) < corrections:
        handed_out = strategy(order, np.random.default_rng([seed, done]))({}, datastore)
        if handed_out is None:
            raise CrossmodaError(f"{run}: no case left for correction {done + 1}; lower 'rounds' or 'corrections'")
        case = store.read()["objects"][handed_out["id"]]["image"]["info"]["case"]
        label_info = {"label_info": segments, "client_id": READER}
        datastore.save_label(handed_out["id"], str(truth / f"{case}_Label.nii.gz"), FINAL, label_info)


def corrected(store: ReviewStore) -> list[str]:
    """Return the cases that the reader has corrected."""
    objects = store.read()["objects"].values()
    return [entry["image"]["info"]["case"] for entry in objects if has_verdict(entry)]


def strategy(order: str, rng: np.random.Generator) -> Any:
    """Return a strategy of the app, as 3D Slicer offers it under this name."""
    module = strategies_module("lib.strategies.order")
    return module.RandomOrder(rng) if order == RANDOM else module.Highest(*strategies().ORDERS[order])


def strategies() -> Any:
    """Return the app's module that names its strategies."""
    return strategies_module("lib.configs.segmenter")


def strategies_module(name: str) -> Any:
    """Return a module of the app, which is no package of the installation."""
    if str(APP) not in sys.path:
        sys.path.append(str(APP))
    return importlib.import_module(name)


def record_round(run: Path, number: int) -> None:
    """Write what a round has brought, ``round_N/reader.json``, unless it is there.

    ``judged`` is the Dice on the scans that judge; ``pool`` that of the labels of the reader's scans, corrected ones
    counting as 1; ``corrected`` the cases that the round has learnt from; ``measures`` what the orders go by.
    """
    folder = run / f"round_{number}"
    if (folder / "reader.json").is_file():
        return
    truth = Path(yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["trainer"]["truth_dir"])
    datalist = read_json(run / "dataset.json")
    cases = [item["case"] for item in datalist["target"]]
    done = [entry["case"] for entry in read_json(folder / "reviewed" / "reviews.json")] if number else []
    structures = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["trainer"]["structures"]
    pool = evaluate_folder(
        {case: folder / "predictions" / f"{case}_Label.nii.gz" for case in cases},
        {case: truth / f"{case}_Label.nii.gz" for case in cases},
        prediction_labels=model_labels(structures),
        truth_labels=datalist["labels"],
        sites={item["case"]: item["site"] for item in datalist["target"]},
        progress=False,
    )
    record = {
        "judged": dice_of_cases(read_json(folder / "metrics.json")),
        "pool": dice_of_cases(pool),
        "corrected": done,
        "measures": case_measures(folder, {"predictions": "predictions", "uncertainty": "uncertainty"}),
    }
    write_json(folder / "reader.json", record)


def dice_of_cases(metrics: Settings) -> dict[str, dict[str, Any]]:
    """Return case -> ``site`` and the Dice of each structure."""
    return {
        entry["case"]: {
            "site": entry["site"],
            **{name: entry[name]["dice"] for name in metrics["structures"]},
        }
        for entry in metrics["cases"]
    }


if __name__ == "__main__":
    run_command(main)
