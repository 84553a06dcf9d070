"""Pictures written while a translator trains."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from ignite.engine import Engine

from crossmoda.translation.previews import TranslationPreview, mosaic


def test_mosaic_shows_anterior_up_and_the_patients_right_on_the_left() -> None:
    tile = torch.full((1, 1, 2, 3), -1.0)
    tile[0, 0, 1, 2] = 1.0  # right-most (x = 1), most anterior (y = 2)
    picture = mosaic([tile])
    assert picture.shape == (3, 2)
    np.testing.assert_array_equal(picture, [[1, 0], [0, 0], [0, 0]])


def test_mosaic_has_a_row_per_item_and_a_column_per_tensor() -> None:
    columns = [torch.tensor([a, b]).view(2, 1, 1, 1).expand(2, 1, 2, 3) for a, b in ((-1.0, 0.0), (1.0, 0.5))]
    picture = mosaic(columns)
    assert picture.shape == (6, 4)
    assert picture[0].tolist() == [0, 0, 1, 1]
    assert picture[5].tolist() == [0.5, 0.5, 0.75, 0.75]


def test_pictures_come_every_so_many_epochs_and_after_the_last(tmp_path: Path) -> None:
    network = torch.nn.Conv2d(1, 1, 1).train()
    data = [{"source": torch.full((1, 4, 6), i / 9), "target": torch.zeros(1, 4, 6)} for i in range(9)]
    engine = Engine(lambda engine, batch: None)
    TranslationPreview(network, data, tmp_path, every=2, rows=3).attach(engine)  # type: ignore[arg-type]
    engine.run([0], max_epochs=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch_002.png", "epoch_003.png"]
    assert matplotlib.image.imread(tmp_path / "epoch_003.png").shape[:2] == (3 * 6, 3 * 4)
    assert network.training


def test_a_data_set_smaller_than_the_rows_gives_fewer_rows(tmp_path: Path) -> None:
    data = [{"source": torch.zeros(1, 4, 6), "target": torch.zeros(1, 4, 6)}] * 2
    preview = TranslationPreview(torch.nn.Conv2d(1, 1, 1), data, tmp_path, every=1, rows=4)  # type: ignore[arg-type]
    engine = Engine(lambda engine, batch: None)
    preview.attach(engine)
    engine.run([0], max_epochs=1)
    assert preview.picture().shape == (2 * 6, 3 * 4)
    assert preview.picture().max() == pytest.approx(0.5, abs=1)
