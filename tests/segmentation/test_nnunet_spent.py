from __future__ import annotations

from pathlib import Path

from crossmoda.engines.speed import Pace
from crossmoda.segmentation.nnunet.settings import NnUNetFolders
from crossmoda.segmentation.nnunet.spent import Spent, read_spent


def test_the_last_epoch_tells_the_pace_and_all_of_them_the_time_of_the_steps(tmp_path: Path) -> None:
    spent = Spent(epochs={"2d": [(9.0, 2.0), (5.0, 1.5)]}, scans={"2d": [0.7]})
    with spent.watch.time("training"), spent.watch.time("planning"):
        pass
    spent.write(NnUNetFolders(tmp_path / "nnunet"), mib=700.0)
    found = read_spent(tmp_path)
    assert found.pace("2d", steps=10) == Pace(step=0.5, epoch=1.5, steps_in_all=17.5)
    assert found.mib == 700.0
    assert found.scans == {"2d": [0.7]}
    assert set(found.watch.seconds) == {"training", "planning"}
