"""A training's state on disk, from which it goes on after any interruption."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from crossmoda.engines.weights import write_tensors
from crossmoda.errors import CrossmodaError

logger = logging.getLogger(__name__)


class TrainingState:
    """Keep the state of a training in one file, written after each epoch, and go on from it when training starts again.

    Unlike MONAI's ``CheckpointSaver`` the file is replaced atomically, so a process killed at any moment leaves a
    complete state behind, and it is tied to the configuration that made it.

    Args:
        path: of the state file.
        objects: name -> anything with ``state_dict`` and ``load_state_dict``: networks, optimisers, schedulers, pools.
        every: epochs between two writes; the last epoch is always written.
        resume: False ignores a state that exists.
        fingerprint: text that identifies the configuration; a state with another one is not used.
        writes: False reads a state and writes none, in all processes but the first, whose states are the same.
    """

    def __init__(
        self,
        path: str | Path,
        objects: Mapping[str, Any],
        every: int = 1,
        resume: bool = True,
        fingerprint: str = "",
        writes: bool = True,
    ) -> None:
        self.path = Path(path)
        self.objects = dict(objects)
        self.every = every
        self.resume = resume
        self.fingerprint = fingerprint
        self.writes = writes

    def attach(self, engine: Engine) -> None:
        """Restore when ``engine`` starts, and save when its epochs end."""
        engine.add_event_handler(Events.STARTED, self.start)

    def start(self, engine: Engine) -> None:
        """Restore the state if there is one, and begin to listen to the ends of epochs."""
        if self.resume and self.path.is_file():
            self.restore(engine)
        # Added only now, so that it runs after all other handlers of the epoch's end (schedules, averages, validation).
        if not engine.has_event_handler(self.save_when_due, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.save_when_due)

    def restore(self, engine: Engine) -> None:
        """Load every object and the position in the training.

        Raises:
            CrossmodaError: the file is not a state of this training.
        """
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["fingerprint"] != self.fingerprint:
                logger.warning("%s belongs to another configuration: training starts afresh", self.path)
                return
            for name, item in self.objects.items():
                item.load_state_dict(state["objects"][name])
        except (RuntimeError, KeyError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise CrossmodaError(
                f"{self.path}: not a state of this training ({reason}); delete the file or set resume to false"
            ) from error
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        logger.info("resumed from %s after epoch %d", self.path, state["epoch"])

    def save_when_due(self, engine: Engine) -> None:
        """Save if this epoch is one to be saved, and this process the one that saves."""
        due = engine.state.epoch % self.every == 0 or engine.state.epoch == engine.state.max_epochs
        if due and self.writes:
            self.save(engine)

    def save(self, engine: Engine) -> None:
        """Write the state file, whole or not at all."""
        state = {
            "fingerprint": self.fingerprint,
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "objects": {name: item.state_dict() for name, item in self.objects.items()},
        }
        write_tensors(self.path, state)
