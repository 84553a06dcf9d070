"""Fixtures that every test may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

# Before PyTorch is imported: threads that wait awake for long take the cores from whatever else runs; see the Makefile.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the project."""
    return REPOSITORY


@pytest.fixture(scope="module")
def in_the_repository() -> Iterator[None]:
    """The project's root as the current folder, from which the bundles name each other."""
    before = Path.cwd()
    os.chdir(REPOSITORY)
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the few real volumes, or a visible skip where they are absent."""
    folder = Path(os.environ.get("CROSSMODA_REAL_DATA", REPOSITORY.parent / "shared" / "real"))
    if not (folder / "vs_gk_98_hrT2.nii.gz").is_file():
        pytest.skip(f"no real volumes in {folder}; set CROSSMODA_REAL_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic 2022 dataset of two sites: two source, two target and two validation cases on very coarse grids."""
    from crossmoda.data.phantom import write_phantom_dataset

    folder = tmp_path_factory.mktemp("phantom") / "dataset"
    write_phantom_dataset(
        folder, cases=2, validation=2, seed=11, edition="2022", field_of_view_mm=(90, 64, 40), coarsen=3, processes=1
    )
    return folder


@pytest.fixture(autouse=True)
def _same_threads() -> Iterator[None]:
    """Give PyTorch's threads back after each test, since sums on another number of them differ in their last bits.

    Also the environment of processes that later tests start: MONAI's nnU-Net runner sets the number of threads there.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    with mock.patch.dict(os.environ):
        yield
    if torch and threads:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for PyTorch: small networks are slowed down by more, most of all beside other work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
