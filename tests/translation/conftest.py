"""A CycleGAN small enough for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from crossmoda.translation.cyclegan import CycleGANTrainer
from crossmoda.translation.discriminators import PatchGAN
from crossmoda.translation.generators import ResNetGenerator
from crossmoda.translation.image_pool import ImagePool
from crossmoda.translation.losses import CycleGANLoss


@pytest.fixture(scope="module", autouse=True)
def small_networks(one_thread: None) -> None:
    """Run every test of translation on one thread."""


def make_trainer(data: list[Any] | None = None, **options: Any) -> CycleGANTrainer:
    """Return a trainer with freshly drawn weights of seed 0, on the CPU, batches of 2."""
    torch.manual_seed(0)
    generators = [ResNetGenerator(ngf=4, n_blocks=1) for _ in range(2)]
    discriminators = [PatchGAN(ndf=4) for _ in range(2)]
    optimizers = [
        torch.optim.Adam([p for network in networks for p in network.parameters()], lr=1e-3)
        for networks in (generators, discriminators)
    ]
    loss = options.pop("loss_function", CycleGANLoss())
    loader = DataLoader(data or [0], batch_size=2)
    pools = [ImagePool(size=3, seed=seed) for seed in (1, 2)]
    training = {"device": "cpu", "max_epochs": 1, "train_data_loader": loader, **options}
    return CycleGANTrainer(*generators, *discriminators, *optimizers, loss, *pools, **training)


@pytest.fixture
def trainer_factory() -> Callable[..., CycleGANTrainer]:
    """Make equal trainers."""
    return make_trainer
