"""Synthetic scans in the working space, for measures of translations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossmoda.data.phantom import write_phantom_dataset
from crossmoda.preprocessing import working_space
from crossmoda.translation.items import section_items

Volumes = dict[str, list[torch.Tensor]]


@pytest.fixture(scope="session")
def phantom_volumes(tmp_path_factory: pytest.TempPathFactory) -> Volumes:
    """Volumes (1, 72, 52, 16) in [-1, 1] of four ceT1 patients (source) and of twice four hrT2 patients of one site."""
    folder = tmp_path_factory.mktemp("phantom") / "dataset"
    options = {"edition": "2021", "field_of_view_mm": (90, 64, 24), "coarsen": 3, "processes": 1}
    write_phantom_dataset(folder, cases=4, validation=4, seed=11, **options)
    return {section: volumes_of(folder, section) for section in ("source", "target", "validation")}


def volumes_of(folder: Path, section: str) -> list[torch.Tensor]:
    space = working_space("image", (), (1.2, 1.2, 1.5), (72, 52), "minmax_percentile")
    return [space(item)["image"].as_tensor() for item in section_items(folder, section)]
