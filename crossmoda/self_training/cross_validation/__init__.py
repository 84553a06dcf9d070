"""Cross-validation in folds of patients: the best segmenter and post-processing, written down for inference.

Every configuration is trained once a fold and predicts the patients that it has not seen. Candidates of post-processing
are tried on these predictions. What did best is written as one overlay of ``inference.yaml`` that names the folds'
weights, their network and the post-processing, so that a prediction needs no further setting (card E of the recipes,
after nnU-Net's search for its best configuration).
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch

from crossmoda.data.checks import require_writable
from crossmoda.data.datalist import load_datalist, save_datalist
from crossmoda.files import sha256_of, write_json, write_text
from crossmoda.launching import launcher_for
from crossmoda.self_training.cross_validation.checks import (
    padded_patches,
    require_configurations,
    require_patients,
)
from crossmoda.self_training.cross_validation.choice import Result, choose, sum_up
from crossmoda.self_training.cross_validation.outputs import best_overlay, draw, markdown, write_best
from crossmoda.self_training.cross_validation.settings import BEST, CrossValidationSettings, read_settings
from crossmoda.self_training.cross_validation.work import CrossValidation
from crossmoda.versions import versions

__all__ = ["CrossValidation", "CrossValidationSettings", "choose", "cross_validate", "read_settings"]

logger = logging.getLogger(__name__)

CONFIG = Path("configs/cross_validation.yaml")
RESULTS, TABLE, PICTURE = "cross_validation.json", "cross_validation.md", "cross_validation.png"


def cross_validate(
    dataset: str | Path,
    output_dir: str | Path,
    config: str | Path = CONFIG,
    device: str | None = None,
    scheduler: str | None = None,
) -> str:
    """Compare configurations and post-processings on folds of patients, and write down the best.

    Interrupted, the same call goes on where it stopped; what is done is not done again while nothing that it depends on
    has changed.

    Args:
        dataset: a dataset folder or a datalist JSON with labelled cases.
        output_dir: gets ``best.yaml``, ``cross_validation.json`` (every configuration, fold, case and post-processing),
            ``cross_validation.md``, ``cross_validation.png``, and a folder for each configuration.
        config: what is compared, a YAML file like ``configs/cross_validation.yaml``.
        device: torch device; the first GPU by default, if there is one.
        scheduler: of a Dask cluster whose workers train and predict, several folds at the same time: its address, or
            its ``--scheduler-file``; None does one after another here.

    Returns:
        The table of results.

    Raises:
        CrossmodaError: before any training, whatever is wrong with the data, the configurations or the folder.
    """
    settings, output = read_settings(config), Path(output_dir).absolute()
    datalist = load_datalist(dataset)
    require_writable(output)
    save_datalist(output / "dataset.json", datalist)
    place = torch.device(device) if device else None
    with launcher_for(scheduler, output) as launcher:
        launcher.call("checks", output, partial(require_configurations, settings, output / "dataset.json", place))
        patients = require_patients(output / "dataset.json", settings)
        warnings = [*patients.warnings, *padded_patches(settings, patients.grids)]
        for warning in warnings:
            logger.warning("%s", warning)
        work = CrossValidation(output, output / "dataset.json", settings, patients, place, launcher)
        work.run()
    return write_results(work, warnings)


def write_results(work: CrossValidation, warnings: list[str]) -> str:
    """Choose among what has been scored, write all files of the output folder, and return the table."""
    settings, output = work.settings, work.output
    scored = {
        (name, candidate): [
            {"fold": fold, **case} for fold in range(settings.folds) for case in work.scores(name, fold, candidate)
        ]
        for name in settings.configurations
        for candidate in settings.postprocessing
    }
    results = [sum_up(*pair, cases, settings.structures) for pair, cases in scored.items()]
    best, reason = choose(results, settings.structures)
    weights = [work.weights(best.configuration, fold) for fold in range(settings.folds)]
    use, transforms = settings.configurations[best.configuration], settings.postprocessing[best.postprocessing]
    write_best(output / BEST, best_overlay(use, transforms, weights, output), best, use.root)
    write_json(output / RESULTS, _described(work, results, best, reason, scored, warnings))
    table = markdown(results, best, reason, settings.structures, warnings)
    write_text(output / TABLE, table)
    shown = {name: scored[name, _best_of(name, results, settings)] for name in settings.configurations}
    draw(output / PICTURE, shown, settings.structures)
    return table


def _best_of(name: str, results: list[Result], settings: CrossValidationSettings) -> str:
    """Return the post-processing that would have been chosen, had this configuration been the only one."""
    own = [result for result in results if result.configuration == name]
    return choose(own, settings.structures)[0].postprocessing


def _described(
    work: CrossValidation,
    results: list[Result],
    best: Result,
    reason: str,
    scored: dict[tuple[str, str], list[dict[str, Any]]],
    warnings: list[str],
) -> dict[str, Any]:
    settings = work.settings
    return {
        "chosen": {**best.described(), "reason": reason},
        "folds": settings.folds,
        "seed": settings.seed,
        "sections": list(settings.sections),
        "structures": list(settings.structures),
        "patients": dict(sorted(work.patients.folds.items())),
        "postprocessing": {name: list(transforms) for name, transforms in settings.postprocessing.items()},
        "results": [result.described() for result in results],
        "cases": [
            {"configuration": name, "postprocessing": candidate, **case}
            for (name, candidate), cases in scored.items()
            for case in cases
        ],
        "weights": [
            {"configuration": name, "fold": fold, "file": str(path.relative_to(work.output)), "sha256": sha256_of(path)}
            for name in settings.configurations
            for fold in range(settings.folds)
            for path in [work.weights(name, fold)]
        ],
        "warnings": warnings,
        "versions": versions(),
    }
