"""One seed makes a training, and an epoch's randomness depends on nothing but the seed and the epoch's number."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd

_EPOCH_STRIDE = 100_003  # prime, so that the streams of neighbouring seeds and epochs do not meet
_MAXIMUM_SEED = 2**32 - 1


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch; weights drawn and samplers started after this call depend on ``seed`` alone."""
    seed %= _MAXIMUM_SEED
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class EpochSeed:
    """Seed all sources of randomness anew when an epoch starts, from the seed and the epoch's number.

    A training that is resumed at the end of an epoch then draws what the unbroken one would have drawn, without any
    generator's state in the checkpoint. Worker processes get their copy of the dataset when they start, so the data
    loader must not keep them alive between epochs (``persistent_workers=False``).

    Args:
        seed: of the whole training.
        dataset: whose random transforms are seeded too (they hold generators of their own in MONAI).
        rank: of this process among those that share the training. The dataset draws alike in all of them; the global
            generators, from which dropout draws, differ.
    """

    def __init__(self, seed: int, dataset: Any = None, rank: int = 0) -> None:
        self.seed = int(seed)
        self.dataset = dataset
        self.rank = rank

    def attach(self, engine: Engine) -> None:
        """Listen to the start of each epoch of ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that starts, and begin a fresh pass over the data."""
        seed_everything(_seed_of_epoch(self.seed + self.rank, engine.state.epoch))
        if self.dataset is not None:
            set_rnd(self.dataset, seed=_seed_of_epoch(self.seed, engine.state.epoch))
        if engine.state.dataloader is not None:
            engine.set_data(engine.state.dataloader)


def _seed_of_epoch(seed: int, epoch: int) -> int:
    return (seed * _EPOCH_STRIDE + epoch) % _MAXIMUM_SEED
