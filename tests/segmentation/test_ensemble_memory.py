"""The peak memory of an ensemble with mirrored copies, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import torch
from pathlib import Path
from monai.inferers import SimpleInferer
from crossmoda.engines import save_weights
from crossmoda.segmentation.inferers import EnsembleInferer, FlipAveragingInferer

torch.set_num_threads(1)
CHANNEL_MIB = 128 * 128 * 64 * 4 / 2**20
FLIPS = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

network = torch.nn.Conv3d(1, 3, 1)
weights = []
for fold in range(5):
    weights.append(Path(sys.argv[1]) / f"{fold}.pt")
    save_weights(torch.nn.Conv3d(1, 3, 1), weights[-1])
image = torch.rand(1, 1, 128, 128, 64)
peaks = []
with torch.no_grad():
    for inferer in (
        SimpleInferer(),
        EnsembleInferer(weights[:2], FlipAveragingInferer(flips=FLIPS[:1]), keep_mutual_information=True),
        EnsembleInferer(weights, FlipAveragingInferer(flips=FLIPS), keep_mutual_information=True),
    ):
        result = inferer(image, network)
        del result
        inferer.mutual_information = None
        peaks.append(peak() / CHANNEL_MIB)
print(json.dumps(peaks))
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read as Linux tells it")
def test_five_members_with_eight_copies_need_no_more_than_sums_of_a_few_volumes(tmp_path, repository):
    # Arrays get pages of their own, as those of whole heads do anyway, so that freed ones do not count.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    run = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    one, two_members, five_members = json.loads(run.stdout)  # in volumes of one channel
    # A plain prediction holds image and logits, 1 + 3 channels. Here a moment sees both means, logits and
    # probabilities, 4 x 3, and the image, its mirror image, the map and what a softmax needs: 12 more than the plain
    # one, which for 448 x 448 x 80 voxels is 735 MiB. All forty predictions held together would be 120 channels. The
    # lower bound tells that the peak was seen at all.
    assert 8 < five_members - one < 12.5
    assert five_members - two_members < 0.5
