"""Weights as plain state dictionaries, each with a sidecar that tells what made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path, read_json, sha256_of, write_json
from crossmoda.versions import versions

CHECKPOINTS = "checkpoints"  # a training's folder of states, beside its weights
TRACES = (CHECKPOINTS, "members", "nnunet")  # folders that one or another kind of training leaves beside its weights
GIVEN = "given"  # in the sidecar of weights that were taken over as they were


def save_weights(network: nn.Module, path: str | Path, info: Mapping[str, Any] | None = None) -> None:
    """Write a network's ``state_dict`` (on the CPU) to ``path`` and ``info`` to the ``.json`` beside it.

    The file loads with ``torch.load(path, weights_only=True)``. The sidecar also holds the versions and the file's
    SHA-256, and is written last: where it is missing, the weights are not finished.
    """
    path = Path(path)
    network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_tensors(path, state)
    write_json(path.with_suffix(".json"), {**(info or {}), "versions": versions(), "sha256": sha256_of(path)})


def write_tensors(path: str | Path, value: Any) -> None:
    """Write what ``torch.load`` reads, whole or not at all; the same tensors give the same bytes."""
    with atomic_path(path) as partial, partial.open("wb") as stream:
        torch.save(value, stream)  # given a path, it would write that temporary name into the file


def load_weights(
    network: nn.Module, path: str | Path, agreed: Mapping[str, Any] | None = None, setting: str = "weights"
) -> nn.Module:
    """Load a plain ``state_dict`` into ``network`` and return it.

    Args:
        network: changed in place.
        path: of the weights.
        agreed: settings that must be those of the training; held against the sidecar, or ``agreed`` in it, where it
            tells them.
        setting: that names the file, for the remedy.

    Raises:
        CrossmodaError: the file is missing, is not a state dictionary, belongs to another network, or was trained with
            other settings.
    """
    path = Path(path)
    _require_agreement(path, agreed or {})
    if not path.is_file():
        raise CrossmodaError(f"{path}: no weights there; train first or name another file with --{setting}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets
        raise CrossmodaError(f"{path}: not a file of weights; train again or name another file") from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CrossmodaError(
            f"{path}: weights of another network than network_def ({type(network).__name__}); "
            "give the configuration that they were trained with"
        ) from error
    return network


def _require_agreement(path: Path, settings: Mapping[str, Any]) -> None:
    sidecar = path.with_suffix(".json")
    told = read_json(sidecar) if settings and sidecar.is_file() else {}
    trained = {**told, **told.get("agreed", {})}
    for key, value in settings.items():
        if key in trained and trained[key] != value:
            raise CrossmodaError(f"{path}: trained with {key} {trained[key]}, but {key} is {value}; give --{key} alike")


def is_given(path: str | Path) -> bool:
    """Return whether weights were taken over as they were, in place of a training."""
    sidecar = Path(path).with_suffix(".json")
    return sidecar.is_file() and GIVEN in read_json(sidecar)


def require_own_weights(path: str | Path) -> None:
    """Make sure that weights which are about to be replaced were made in the same folder.

    Raises:
        CrossmodaError: there are weights, and nothing that a training has left beside them.
    """
    path = Path(path)
    made_here = is_given(path) or any((path.parent / trace).is_dir() for trace in TRACES)
    if path.with_suffix(".json").is_file() and not made_here:
        raise CrossmodaError(
            f"{path}: these weights were not trained in this folder; give --output_dir, or delete them"
        )


class SaveWeights:
    """Write a network's weights when training ends; never over weights that no training in their folder made.

    Those that come with a bundle lie where a training writes by default.

    Args:
        network: the network, or its moving average, that is to be deployed.
        path: of the weights; the sidecar is the same name with ``.json``.
        info: written to the sidecar; the training's length is added.
    """

    def __init__(self, network: nn.Module, path: str | Path, info: Mapping[str, Any] | None = None) -> None:
        self.network = network
        self.path = Path(path)
        self.info = dict(info or {})

    def attach(self, engine: Engine) -> None:
        """Listen to the beginning and the end of ``engine``'s training."""
        engine.add_event_handler(Events.STARTED, require_own_weights, self.path)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save now."""
        save_weights(
            self.network, self.path, {**self.info, "epochs": engine.state.epoch, "iterations": engine.state.iteration}
        )
