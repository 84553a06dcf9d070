"""The file beside weights that says what else a prediction with them must know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json


def read_sidecar(weights: str | Path, kind: str) -> dict[str, Any]:
    """Return what lies beside weights that were trained by ``<kind>.yaml`` and are used by ``inference_<kind>.yaml``.

    Args:
        weights: ``model.pt``; the sidecar is ``model.json``.
        kind: ``nnunet`` or ``apart``, also the key of what the sidecar tells of that training.

    Raises:
        CrossmodaError: there is none, or it is of another kind.
    """
    sidecar = Path(weights).with_suffix(".json")
    if not sidecar.is_file():
        raise CrossmodaError(f"{sidecar}: missing; train with {kind}.yaml first, or name another file with --weights")
    made: dict[str, Any] = read_json(sidecar)
    if kind not in made:
        raise CrossmodaError(f"{weights}: not trained by {kind}.yaml; use inference.yaml without inference_{kind}.yaml")
    return made
