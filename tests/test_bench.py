"""The benchmark gives another's predictor the same network that ours runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

BENCH = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "bench.py"))

pytestmark = pytest.mark.usefixtures("in_the_repository")


@pytest.mark.parametrize("overlay", BENCH["SEGMENTERS"].values())
def test_a_network_handed_z_y_x_labels_as_it_does_x_y_z(overlay: str) -> None:
    parser = ConfigParser()
    parser.read_config(BENCH["segmenter_files"](overlay, "inference"))
    torch.manual_seed(0)
    network = parser.get_parsed_content("network_def").eval()
    patch = torch.randn(1, 1, *parser["patch_size"])
    assert len(set(patch.shape[2:])) == 3  # no two axes could be taken for one another
    with torch.inference_mode():
        expected = network(patch)
        found = BENCH["AxesReversed"](network)(patch.transpose(2, 4))
    torch.testing.assert_close(found.transpose(2, 4), expected)
