"""Workflows of bundles, made and run from Python, by whatever trains or predicts with a bundle in this process."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from crossmoda.errors import CrossmodaError, find_user_error
from crossmoda.unknown_keys import require_known_keys

# Settings that say where and on what a workflow runs; they do not change what comes out, so no step is redone for them.
PLACE_KEYS = (
    "bundle_root",
    "dataset_dir",
    "output_dir",
    "uncertainty_dir",
    "device",
    "num_workers",
    "resume",
    "fingerprint",
    "weights",
    "initial_weights",
    "return_weights",
    "scan_dir",
    "scheduler",
    "imports",
)


def make_workflow(files: Sequence[str | Path], kind: str, **settings: Any) -> ConfigWorkflow:
    """Return a bundle's ``train`` or ``inference`` workflow, not yet initialised, without touching the logging.

    Args:
        files: configuration files, merged from left to right.
        kind: "train" or "inference".
        settings: overrides of the configuration's keys.

    Raises:
        CrossmodaError: a file is missing, or a file or a setting names a key that nobody reads.
    """
    require_known_keys(files, settings)
    return unchecked_workflow(files, kind, settings)


def unchecked_workflow(files: Sequence[str | Path], kind: str, settings: Mapping[str, Any]) -> ConfigWorkflow:
    """Return a workflow as ``make_workflow`` does, of files and settings whose keys have been looked at already."""
    return ConfigWorkflow(config_file=[str(f) for f in files], workflow_type=kind, logging_file=False, **settings)


def in_one_line(error: Exception, what: str) -> CrossmodaError:
    """Return the user's error inside ``error`` if there is one; else ``what``, the innermost reason and a remedy."""
    user_error = find_user_error(error)
    if user_error is not None:
        return user_error
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    reason = " ".join(str(root).split())[:200] or type(root).__name__
    return CrossmodaError(f"{what} ({reason}); correct its name or its arguments")


def run_workflow(workflow: ConfigWorkflow) -> None:
    """Initialise, run and finalise a workflow, and free its memory.

    Raises:
        CrossmodaError: whatever the workflow found to be the user's to mend, which MONAI had wrapped.
    """
    try:
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is not None:
            raise user_error from error
        raise
    finally:
        gc.collect()
