"""Run every system of ``configs/benchmark.yaml`` on the same synthetic scans; write one table and one page.

    python scripts/benchmark_systems.py --output_dir runs/benchmark

Each system is a run folder of the self-training bundle, with its recipe and the size's profile; what is there already
is not done again, so the command goes on after any interruption. The scans of a further site, which no training sees,
are then segmented with its last model, and where the real volumes are present, the one whose VS is known. Variants are
a system's round 0 without something that the system has, or with something more; what of it is the same is taken over.
OUT gets benchmark.html and benchmark.md. With --scheduler, the workers of a Dask cluster run one system each at the
same time.
"""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

import logging
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import fire
import yaml
from comparing import folder_name, require_keys, require_size
from monai.bundle import ConfigWorkflow
from real_volumes import prepare, real_folder

from crossmoda.command_line import run_command
from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.data.sites import require_sites
from crossmoda.engines.memory import peak_mib, peak_of_children_mib
from crossmoda.errors import CrossmodaError, did_you_mean, find_user_error
from crossmoda.evaluation.aggregate import evaluate_folder
from crossmoda.evaluation.benchmark import read_results, write_page
from crossmoda.evaluation.benchmark.results import ANCHORS, COST_FILE, REAL_FILE, STOPPED_FILE, UNSEEN_FILE
from crossmoda.evaluation.comparison import rounds_of
from crossmoda.files import atomic_directory, hash_of, read_json, sha256_of, sha256_of_tree, write_json
from crossmoda.labels import model_labels
from crossmoda.launching import Course, Launcher, Piece, launcher_for
from crossmoda.processes import end_with_parent
from crossmoda.self_training import Anchors
from crossmoda.self_training.bundles import BundleUse, make_workflow
from crossmoda.self_training.datalists import content_hash
from crossmoda.self_training.estimate.command import loop_of
from crossmoda.self_training.loop import exclusive, find_truth
from crossmoda.versions import versions

LOOP = "bundles/vs_cochlea_self_training/configs/train.yaml"
ANCHOR_RUN = "anchors"
ROUND_0 = "round_0"
TRUTH = "truth"

Settings = dict[str, Any]


@fire.decorators.SetParseFn(str, "only")  # a name with a comma is no tuple
def main(
    output_dir: str = "runs/benchmark",
    size: str = "small",
    config: str = "configs/benchmark.yaml",
    only: str = "",
    scheduler: str = "",
) -> None:
    """Run what is not done yet, measure, and write table and page.

    A system that cannot go on, e.g. since no pseudo-label passes its rules, does not stop the others; table and page
    tell why, and the exit status is 1.

    Args:
        output_dir: gets a run folder per system, the data sets beside it, the table and the page.
        size: one of the configuration's.
        config: systems, sizes, published figures.
        only: run only the systems whose name holds this text; the anchors are run unless it is given.
        scheduler: of a Dask cluster: tcp://HOST:8786, or its --scheduler-file; by default one after another here.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("ignite").setLevel(logging.WARNING)
    settings = read_settings(config, size)
    scale, output, common = settings["sizes"][size], Path(output_dir), settings["settings"]
    runs = planned(settings, size, output, only)
    if not runs:
        named = ", ".join([*settings["systems"], *settings["variants"]])
        raise CrossmodaError(f"--only {only}: no such system; {config} has {named}")
    data = write_phantom_dataset(output.parent / f"{output.name}_data", **scale["phantom"])
    unseen = write_phantom_dataset(output.parent / f"{output.name}_unseen", **scale["unseen"])
    output.mkdir(parents=True, exist_ok=True)
    further = further_scans(unseen, settings["unseen_site"], output)
    if not only:
        runs = {ANCHOR_RUN: Run([LOOP, scale["profile"]], common, output / ANCHOR_RUN), **runs}
    for name, run in runs.items():
        require_sound(name, run, data)
    with launcher_for(scheduler, output) as launcher:
        for variants in (False, True):  # which take over what their systems have made
            together = {name: run for name, run in runs.items() if (run.of is not None) is variants}
            launcher.run([course(launcher, name, run, data, further) for name, run in together.items()])
    found = read_results(
        {name: output / folder_name(name) for name in settings["systems"]},
        output / ANCHOR_RUN,
        settings["published"],
        settings["unseen_site"],
        {name: {**variant, "folder": output / folder_name(name)} for name, variant in settings["variants"].items()},
        scale.get("remarks"),
        settings["published_effects"],
        settings["published_test"],
    )
    text = write_page(found, output, facts(size, config, scale))
    print(f"\n{text}\nwritten: {output}/benchmark.html, benchmark.md")
    if found.stopped:
        raise CrossmodaError("; ".join(f"{name} stopped: {reason}" for name, reason in found.stopped.items()))


def read_settings(config: str, size: str) -> Settings:
    """Return the configuration, all of whose keys are known.

    Raises:
        CrossmodaError: it is missing, has no such size, or names what is not known.
    """
    if not Path(config).is_file():
        raise CrossmodaError(f"{config}: no such file; give --config")
    settings: Settings = {
        "variants": {},
        "published_effects": [],
        "published_test": {},
        **yaml.safe_load(Path(config).read_text(encoding="utf-8")),
    }
    own = ("sizes", "unseen_site", "systems", "variants", "settings", "published")
    require_keys(config, settings, (*own, "published_effects", "published_test"), required=own)
    phantoms = ("phantom", "unseen")
    require_size(config, settings["sizes"], size, ("profile", *phantoms, "remarks"), phantoms, ("profile",))
    for name, variant in settings["variants"].items():
        where = f"{config}: variant '{name}'"
        require_keys(where, variant, ("of", "effect", "adds", "settings", "sizes"), required=("of", "effect"))
        if variant["of"] not in settings["systems"]:
            told = did_you_mean(variant["of"], settings["systems"])
            raise CrossmodaError(f"{config}: variant '{name}' is of '{variant['of']}', which is no system; {told}")
    return settings


@dataclass(frozen=True)
class Run:
    """A system, or its round 0 without something or with something more.

    Args:
        files: configuration files, merged in this order.
        settings: what is set in them.
        folder: of the run.
        of: run folder of the system whose variant this is; None of a system.
    """

    files: list[str]
    settings: Settings
    folder: Path
    of: Path | None = None

    def take_over(self) -> None:
        """Begin a variant with its system's round 0, whose steps are done again only where they differ."""
        if self.of is not None and (self.of / ROUND_0).is_dir() and not (self.folder / ROUND_0).exists():
            with atomic_directory(self.folder / ROUND_0) as place:
                shutil.copytree(self.of / ROUND_0, place, dirs_exist_ok=True)


def planned(settings: Settings, size: str, output: Path, only: str) -> dict[str, Run]:
    """Return the runs whose name holds a text, systems before variants."""
    profile, common = settings["sizes"][size]["profile"], settings["settings"]
    runs = {
        name: Run(
            [LOOP, *([recipe] if isinstance(recipe, str) else recipe), profile], common, output / folder_name(name)
        )
        for name, recipe in settings["systems"].items()
    }
    for name, variant in settings["variants"].items():
        system = runs[variant["of"]]
        further = {**variant.get("settings", {}), **variant.get("sizes", {}).get(size, {}), "max_epochs": 1}
        runs[name] = Run(system.files, {**common, **further}, output / folder_name(name), system.folder)
    return {name: run for name, run in runs.items() if only in name}


@dataclass(frozen=True)
class Further:
    """Scans that no system learns from and that are segmented with its last model alone.

    Args:
        name: of the folder of labels.
        metrics: name of the file of figures.
        datalist: whose validation scans they are.
        truth: folder of their true labels.
    """

    name: str
    metrics: str
    datalist: Path
    truth: Path


def further_scans(data: Path, site: str, output: Path) -> list[Further]:
    """Return the synthetic scans of the unseen site, and the real one where it is present."""
    datalist = load_datalist(data)
    require_sites("unseen_site", [site], datalist["validation"], "validation", data)
    kept = [item for item in datalist["validation"] if item["site"] == site]
    save_datalist(output / "unseen.json", {**datalist, "source": [], "target": [], "validation": kept})
    found = [Further("unseen", UNSEEN_FILE, output / "unseen.json", data / TRUTH)]
    real = real_folder()
    if real is None:
        logging.warning("the real volumes are not there; set CROSSMODA_REAL_DATA to their folder to be judged by them")
        return found
    place = prepare(real, output.parent / f"{output.name}_real")
    return [*found, Further("real", REAL_FILE, place / "datalist.json", place / TRUTH)]


def workflow_of(files: list[str], data: Path, run: Path, settings: Settings) -> ConfigWorkflow:
    """Return the loop's workflow for a system."""
    return make_workflow(files, "train", dataset_dir=str(data), output_dir=str(run), **settings)


def require_sound(name: str, run: Run, data: Path) -> None:
    """Find what is wrong with a system before the first is trained.

    Raises:
        CrossmodaError: whatever would stop it; the system is named.
    """
    with tempfile.TemporaryDirectory(prefix="crossmoda_benchmark_") as folder:
        try:
            loop_of(data, [Path(file) for file in run.files], Path(folder) / "run", run.settings)
        except CrossmodaError as error:
            raise CrossmodaError(f"{name}: {error}") from error


def course(launcher: Launcher, name: str, run: Run, data: Path, further: Sequence[Further]) -> Course[None]:
    """Train a system, a variant or the anchors, and measure on further scans what systems and anchors have learnt."""
    logging.info("--- %s", name)
    run.take_over()
    run.folder.mkdir(exist_ok=True)
    train = train_anchors if name == ANCHOR_RUN else train_system
    yield Piece(name, run.folder, own(launcher, train, run.files, data, run.folder, run.settings))
    models = [run.folder / "anchors" / anchor for anchor in ANCHORS] if name == ANCHOR_RUN else [run.folder]
    judged = run.of is None and not (run.folder / STOPPED_FILE).is_file()
    for model in models if judged else ():
        for scans in further:
            yield Piece(f"{name}, {scans.name} scans", run.folder, partial(measure_further, model, run.folder, scans))


def own(launcher: Launcher, work: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    """Return work in a process of its own, whose memory is its own alone; a cluster's worker has one anyway."""
    return partial(work, *arguments) if launcher.scheduler else partial(in_own_process, work, *arguments)


def in_own_process(work: Callable[..., None], *arguments: Any) -> None:
    """Run something in a process of its own, which ends when this one does."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning, initializer=end_with_parent, initargs=(os.getpid(),)) as pool:
        pool.submit(work, *arguments).result()


def train_system(files: list[str], data: Path, run: Path, settings: Settings) -> None:
    """Run a system's loop, and note what it took: minutes of all its steps, and the largest memory of its process.

    Where its own settings do not let it go on, that is noted instead.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    workflow = workflow_of(files, data, run, settings)
    workflow.initialize()
    started = time.monotonic()
    (run / STOPPED_FILE).unlink(missing_ok=True)
    try:
        workflow.run()
    except Exception as error:  # MONAI wraps what is raised within a configuration
        user_error = find_user_error(error)
        if user_error is None:
            raise
        logging.error("%s: %s", run, user_error)
        write_json(run / STOPPED_FILE, {"reason": str(user_error)})
        return
    made_of = {"settings": sha256_of(run / "run.yaml")}
    before = read_json(run / COST_FILE) if (run / COST_FILE).is_file() else {}
    same = before.get("made_of") == made_of
    if time.monotonic() - started > 1 or not same:
        mib = max(before["mib"] if same else 0, peak_mib(), peak_of_children_mib())
        write_json(run / COST_FILE, {**cost_of_steps(run), "mib": round(mib), "made_of": made_of})


def cost_of_steps(run: Path) -> dict[str, Any]:
    """Return ``minutes`` of all recorded steps of a run's rounds.

    Of a step that was interrupted only the last try is recorded; ``interrupted`` tells whether there is one.
    """
    records = [read_json(folder / "manifest.json")["steps"].values() for _, folder in rounds_of(run)]
    steps = [step for found in records for step in found]
    minutes = sum(float(step["seconds"]) for step in steps) / 60
    return {"minutes": minutes, "interrupted": any(step.get("resumed", False) for step in steps)}


def train_anchors(files: list[str], data: Path, run: Path, settings: Settings) -> None:
    """Train the project's own segmenter on ceT1 alone and on hrT2 truth."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    loop = loop_of(data, [Path(file) for file in files], run, settings)
    with exclusive(run):
        loop.write_description()
        save_datalist(loop.work.dataset_file, dict(loop.work.datalist))
        Anchors()(loop)


def measure_further(model: Path, run: Path, scans: Further) -> None:
    """Segment further scans with a run's current model or an anchor's, and measure, unless that was done.

    Args:
        model: the run folder, or the anchor's.
        run: the run folder whose description tells the segmenter's settings.
        scans: what is segmented and what it is measured against.
    """
    use, weights, structures = served(model, run)
    datalist = load_datalist(scans.datalist)
    items = datalist["validation"]
    done = {
        "weights": sha256_of(weights),
        "inference": hash_of(use.config("inference")),
        "scans": content_hash(items, ("image",)),
        "truth": sha256_of_tree(scans.truth),
    }
    path = model / scans.metrics
    if path.is_file() and read_json(path).get("made_of") == done:
        return
    place = str(model / scans.name)
    places = {"dataset_dir": str(scans.datalist), "output_dir": place, "uncertainty_dir": place}
    use.run("inference", None, sections=["validation"], weights=str(weights), **places)
    sites = {item["case"]: item["site"] for item in items}
    truth = {case: file for case, file in find_truth(scans.truth).items() if case in sites}
    labels = dict(datalist["labels"])
    metrics = evaluate_folder(model / scans.name, truth, model_labels(structures), labels, list(sites), sites)
    write_json(path, {**metrics, "made_of": done})


def served(model: Path, run: Path) -> tuple[BundleUse, Path, list[str]]:
    """Return the segmenter, the weights and the structures of a run's current model, or of an anchor."""
    if model == run:
        current = read_json(run / "current.json")
        return BundleUse(**current["segmentation_bundle"]), run / current["segmenter"], current["structures"]
    trainer = yaml.safe_load((run / "run.yaml").read_text(encoding="utf-8"))["trainer"]
    use = BundleUse(**{key: value for key, value in trainer["segmenter"].items() if key != "_target_"})
    return use, model / "segmenter" / "model.pt", trainer["structures"]


def facts(size: str, config: str, scale: Mapping[str, Any]) -> dict[str, str]:
    """Return what made the page."""
    command = f"python scripts/benchmark_systems.py --size {size} --config {config}"
    made = {"Command": command, "Profile": str(scale["profile"]), "Scans": str(scale["phantom"])}
    return {**made, "Unseen scans": str(scale["unseen"]), "Versions": str(versions())}


if __name__ == "__main__":
    run_command(main)
