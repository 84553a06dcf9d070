"""Cases kept in RAM, from which augmented patches are drawn: alike in any number of processes, on one thread each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, Dataset, MetaTensor
from monai.transforms import Randomizable, Transform

from crossmoda.errors import CrossmodaError

DRAWN_FROM = 1_000_000  # indices of which a draw from two sets chooses one


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class CachedCases(CacheDataset):
    """MONAI's ``CacheDataset`` whose random transforms run on one thread.

    Augmenting a patch is many operations of well under a millisecond. Sharing each among threads costs more than it
    saves, and on a machine with other work to do the threads wait for one another: measured on two busy cores, a
    96x80x32 patch with every augmentation took 1.0 s on two threads and 0.05 s on one.
    """

    def _transform(self, index: int) -> Any:
        with one_thread():
            return super()._transform(index)


class CasesBeside(Dataset):
    """Two sets of cases as one, of which draws at random take the second with a given share.

    Every case is counted many times, so that drawing any index alike often gives the share and, within a set, every
    case alike often.

    Args:
        cases: the first set; their items and the others' must have the same keys, but for ``unknown``.
        beside: the second set.
        share: of draws that take the second set, more than 0 and less than 1.
        unknown: maps (1, X, Y, Z), uint8, that the second set's items alone have, and the value that fills one of the
            label's size in the first set's.

    Raises:
        CrossmodaError: the share is not between 0 and 1, or a set is empty.
    """

    def __init__(
        self, cases: CacheDataset, beside: CacheDataset, share: float, unknown: Mapping[str, int] | None = None
    ) -> None:
        if not 0 < share < 1:
            raise CrossmodaError(f"share {share}: give more than 0 and less than 1")
        if not len(cases) or not len(beside):
            raise CrossmodaError("a set of cases to learn from is empty; name a dataset and a teacher that hold some")
        self.cases, self.beside, self.unknown = cases, beside, dict(unknown or {})
        # Of the two sets' lengths, the ratio must be (1 - share) : share; whole repetitions come near enough.
        total = max(DRAWN_FROM, len(cases), len(beside))
        self.first = max(round(total * (1 - share)), 1)
        self.second = max(round(total * share), 1)
        super().__init__(data=[*cases.data, *beside.data])
        self.transform: Any = [cases.transform, beside.transform]  # where RandomDraws looks for what is random

    def __len__(self) -> int:
        """Return from how many indices a draw chooses."""
        return self.first + self.second

    def __getitem__(self, index: int) -> Any:  # type: ignore[override]
        """Return a case of the first set below ``first``, else of the second, as a list of patches of either."""
        if index >= self.first:
            return _patches(self.beside[(index - self.first) % len(self.beside)])
        return [self._filled(patch) for patch in _patches(self.cases[index % len(self.cases)])]

    def _filled(self, patch: Any) -> Any:
        """Return a patch of the first set with the maps that nobody knows of it."""
        if not self.unknown:
            return patch
        maps = {
            key: torch.full_like(patch["label"][:1], value, dtype=torch.uint8) for key, value in self.unknown.items()
        }
        return {**patch, **maps}


def _patches(found: Any) -> list[Any]:
    """Return a case's patches, of which a crop gives a list."""
    return [_plain(patch) for patch in (found if isinstance(found, list) else [found])]


def _plain(patch: Any) -> Any:
    """Return a patch whose images are plain tensors, since a batch is made of one kind."""
    if not isinstance(patch, dict):
        return patch
    return {key: value.as_tensor() if isinstance(value, MetaTensor) else value for key, value in patch.items()}


class RandomDraws(Dataset, Randomizable):
    """The draws of an epoch: at each position a case, any of them each time, changed at random.

    Which case, and the seed of its transforms, are drawn for the whole epoch when ``set_random_state`` is called. So
    what comes at a position depends on that state and the position alone, not on the process that draws it: worker
    processes, and the processes of a training on several GPUs, can each take a share of the positions.

    All random transforms draw from one generator, which is seeded anew for each position. Seeding their own ones,
    of which the default augmentation has 25, takes 3 ms a patch, seeding one takes 4 microseconds.

    Args:
        cases: with random transforms.
        length: draws in an epoch.
    """

    def __init__(self, cases: CacheDataset | CasesBeside, length: int) -> None:
        super().__init__(data=cases.data)
        self.cases = cases
        self.length = length
        self.generator = np.random.RandomState()
        self.set_random_state(seed=0)

    def __len__(self) -> int:
        """Return the number of draws in an epoch."""
        return self.length

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandomDraws:
        """Seed the next epoch and draw its cases."""
        super().set_random_state(seed, state)
        self.randomize()
        for transform in _random_parts(self.cases.transform):
            transform.R = self.generator
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw a case and a seed for each position."""
        self.order = self.R.randint(len(self.cases), size=self.length)
        self.seeds = self.R.randint(2**31 - 1, size=self.length)

    def __getitem__(self, position: int) -> Any:  # type: ignore[override]
        """Return the draw at a position, as the cases' transforms give it."""
        self.generator.seed(int(self.seeds[position]))
        return self.cases[int(self.order[position])]


def _random_parts(transform: Any) -> Iterator[Randomizable]:
    """Yield whatever draws random numbers in a transform: itself, and the transforms that it is made of."""
    if isinstance(transform, (list, tuple)):
        for part in transform:
            yield from _random_parts(part)
    elif isinstance(transform, (Transform, Randomizable)):
        if isinstance(transform, Randomizable):
            yield transform
        for part in vars(transform).values():
            yield from _random_parts(part)
