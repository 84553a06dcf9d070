"""Estimate a run from its configuration files, as ``python -m crossmoda estimate`` does."""

from __future__ import annotations

import math
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from crossmoda.durations import duration_text
from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.files import write_json
from crossmoda.self_training.bundles import make_workflow
from crossmoda.self_training.estimate.extrapolation import Estimate, extrapolate
from crossmoda.self_training.estimate.rehearsal import FEW, Rehearsal
from crossmoda.self_training.estimate.table import table
from crossmoda.self_training.loop import SelfTrainingLoop
from crossmoda.self_training.progress import ESTIMATE

MAIN = "train.yaml"  # the first of a bundle's files


def estimate_command(
    dataset: str | Path,
    configs: Sequence[Path],
    loop: Path,
    price_per_hour: float | None = None,
    output_dir: str | Path | None = None,
    cases: int = 2,
    settings: Mapping[str, Any] | None = None,
) -> Estimate:
    """Estimate a run, print the table, and leave ``estimate.json`` in the run folder if one is named.

    Args:
        dataset: as ``dataset_dir`` of the loop.
        configs: files after the loop's own, or all of them.
        loop: the loop's own file.
        price_per_hour: of the machine, in any currency.
        output_dir: the run folder.
        cases: of source and of target, on which is measured.
        settings: of the loop, as on its command line.

    Raises:
        CrossmodaError: a price that is none, or whatever would stop the run before its first training.
    """
    placed = [key for key in ("dataset_dir", "output_dir") if key in (settings or {})]
    if placed:
        raise CrossmodaError(f"{placed[0]}: no setting here; the dataset comes first, --output_dir is the run folder")
    if price_per_hour is not None and not (isinstance(price_per_hour, (int, float)) and price_per_hour >= 0):
        raise CrossmodaError(f"price_per_hour is {price_per_hour}; give a number from 0 up")
    files = list(configs) if configs and configs[0].name == MAIN else [loop, *configs]
    started = time.monotonic()
    found = estimate(dataset, files, cases, settings)
    print(table(found, price_per_hour))
    print(f"\nmeasured in {duration_text(time.monotonic() - started)} on {found.facts['machine']}")
    if output_dir is not None:
        told = "the time" if price_per_hour is None else "time and cost"
        print(f"written: {write_estimate(found, Path(output_dir), price_per_hour)}, by which the run tells {told} left")
    return found


def estimate(
    dataset: str | Path, files: Sequence[Path], cases: int = 2, settings: Mapping[str, Any] | None = None
) -> Estimate:
    """Return what a run will take, measured on a few of its scans in a temporary folder.

    Args:
        dataset: as ``dataset_dir`` of the loop.
        files: the loop's configuration, merged from left to right.
        cases: of source and of target, on which is measured.
        settings: of the loop, as on its command line.

    Raises:
        CrossmodaError: whatever would stop the run before its first training.
    """
    with tempfile.TemporaryDirectory(prefix="crossmoda_estimate_") as folder:
        here = {**(settings or {}), "scheduler": None}  # workers do not see a temporary folder
        loop = loop_of(dataset, files, Path(folder) / "run", here)
        rehearsal = Rehearsal(loop, Path(folder) / "rehearsal", cases)
        scans = {section: len(rehearsal.work.items(section)) for section in FEW}
        timed = rehearsal.run()
        facts = {"device": str(rehearsal.device), "machine": machine(rehearsal.device), "scans": scans}
        return extrapolate(rehearsal.plan, timed, {**facts, "configs": [str(file) for file in files]})


def loop_of(dataset: str | Path, files: Sequence[Path], run: Path, settings: Mapping[str, Any]) -> SelfTrainingLoop:
    """Return the loop as its workflow builds it, after all checks that come before its first training.

    Raises:
        CrossmodaError: one of them found something.
    """
    try:
        workflow = make_workflow(files, "train", **settings, dataset_dir=str(dataset), output_dir=str(run))
        workflow.initialize()
        loop: SelfTrainingLoop = workflow.parser.get_parsed_content("train::trainer")
        loop.require_known_settings()
        loop.require_fit()
    except Exception as error:
        raise find_user_error(error) or error from error
    return loop


def write_estimate(found: Estimate, run: Path, price_per_hour: float | None = None) -> Path:
    """Write an estimate into a run folder, made if need be, and return the file."""
    rows = [{**vars(row), "hours": round(row.hours, 4)} for row in found.rows]
    for row in rows:
        row["mib"] = None if math.isnan(row["mib"]) else row["mib"]  # JSON has no word for "not a number"
    write_json(
        run / ESTIMATE,
        {
            "hours": round(found.hours, 3),
            "price_per_hour": price_per_hour,
            "steps": dict(found.steps),
            "kinds": dict(found.kinds),
            "left_out": list(found.left_out),
            "rows": rows,
            **found.facts,
        },
    )
    return run / ESTIMATE


def machine(device: torch.device) -> str:
    """Return the name of what was measured on."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"
