"""Time the parts that users wait for on this machine, as one table: ``make bench`` or ``python scripts/bench.py``.

Each row is timed in this process after one warm-up; the figure is the median of the repetitions. Nothing is downloaded.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

import fire
import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import DynUNet

from crossmoda.data.phantom import draw_patient, draw_protocol, rasterise, render
from crossmoda.engines import AutocastInferer
from crossmoda.evaluation.metrics import structure_scores
from crossmoda.self_training.selection import Candidate, RefineByContrast, TakeAwayFluid
from crossmoda.translation.generators import ResNetGenerator

SPACING_MM = (0.5, 0.5, 1.5)

Row = tuple[str, str, Callable[[], object]]


def main(repetitions: int = 3) -> None:
    """Print the table.

    Args:
        repetitions: of each row, after one warm-up.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"device {device}, {os.cpu_count()} cores, torch {torch.__version__}, median of {repetitions}\n")
    print(f"{'what':<62}{'precision':<12}{'seconds':>10}")
    for what, precision, work in rows(device):
        print(f"{what:<62}{precision:<12}{median_seconds(work, repetitions, device):>10.3f}", flush=True)


def median_seconds(work: Callable[[], object], repetitions: int, device: torch.device) -> float:
    """Return the median time of calls of ``work``, in seconds, after one call that is not counted."""
    times = []
    for _ in range(repetitions + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def rows(device: torch.device) -> Iterator[Row]:
    """Yield what to time: a title, the precision, and the work."""
    yield "phantom: one hrT2 volume of 272x160x40 at 0.41x0.41x1.5 mm", "float32", phantom_volume
    for enabled, precision in ((False, "float32"), (True, "bfloat16")):
        generator = ResNetGenerator(in_channels=1, out_channels=1, ngf=16, n_blocks=6).to(device)
        yield (
            "translator: generator step, batch 4 of 128x96, ngf 16",
            precision,
            step(generator, torch.randn(4, 1, 128, 96, device=device), enabled),
        )
    for enabled, precision in ((False, "float32"), (True, "bfloat16")):
        yield (
            "segmenter: DynUNet step, batch 2 of 64x64x24",
            precision,
            step(segmenter().to(device), torch.randn(2, 1, 64, 64, 24, device=device), enabled),
        )
    volume = torch.randn(1, 1, 256, 256, 80, device=device)
    for enabled, precision in ((False, "float32"), (True, "bfloat16")):
        yield "segmenter: prediction of 256x256x80, window 96x80x32", precision, prediction(volume, enabled)
    yield "metrics: Dice, ASSD, HD95 of a 20 mm ball, 448x448x80", "-", ball_metrics()
    yield "self-training: contrast rules on a pseudo-label, 448x448x80", "-", contrast_rules()


def phantom_volume() -> np.ndarray:
    """Draw, rasterise and render one patient."""
    rng = np.random.default_rng(0)
    affine = np.diag([0.41, 0.41, 1.5, 1.0])
    affine[:3, 3] = [-55.8, -32.8, -30.0]
    return render(rasterise(draw_patient(rng), (272, 160, 40), affine), draw_protocol("ldn", "hrT2", rng), rng)


def segmenter() -> DynUNet:
    """Return the network of the segmentation bundle's ``train.yaml``, without deep supervision."""
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=3,
        kernel_size=[[3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]],
        upsample_kernel_size=[[2, 2, 1], [2, 2, 2], [2, 2, 2]],
        filters=[16, 32, 64, 96],
    )


def step(network: torch.nn.Module, batch: torch.Tensor, autocast: bool) -> Callable[[], object]:
    """Return one optimisation step on a batch."""
    optimizer = torch.optim.Adam(network.parameters())
    inferer = AutocastInferer(enabled=autocast)

    def work() -> None:
        loss = inferer(batch, network).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return work


def prediction(volume: torch.Tensor, autocast: bool) -> Callable[[], object]:
    """Return the prediction of a volume by overlapping windows, as ``inference.yaml`` does it."""
    network = segmenter().to(volume.device).eval()
    inferer = AutocastInferer(SlidingWindowInferer((96, 80, 32), 2, overlap=0.5, mode="gaussian"), enabled=autocast)

    def work() -> object:
        with torch.no_grad():
            return inferer(volume, network)

    return work


def ball(centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """Return a ball in a volume of 448 x 448 x 80 voxels of ``SPACING_MM``, bool."""
    axes = [np.arange(n) * size for n, size in zip((448, 448, 80), SPACING_MM, strict=True)]
    squares = [(axis - at) ** 2 for axis, at in zip(axes, centre_mm, strict=True)]
    return squares[0][:, None, None] + squares[1][None, :, None] + squares[2] <= radius_mm**2


def ball_metrics() -> Callable[[], object]:
    """Return the scoring of one ball against another that lies 1 mm beside it."""
    balls = [ball((110.0 + shift, 110.0, 60.0), 10.0) for shift in (0, 1)]
    return lambda: structure_scores(balls[0], balls[1], np.array(SPACING_MM))


def contrast_rules() -> Callable[[], object]:
    """Return the two contrast rules on a tumour of 14 mL in fluid, labelled too large, and two cochleae in bone."""
    image = np.random.default_rng(0).normal(10, 2, (448, 448, 80)).astype(np.float32)
    image[ball((110, 110, 60), 40)] += 90
    image[ball((110, 110, 60), 15)] -= 60
    label = ball((110, 110, 60), 17).astype(np.uint8)
    for side in (40, 180):
        image[ball((side, 110, 60), 2.8)] += 60
        label[ball((side + 0.5, 110, 60), 2.8)] = 2
    candidate = Candidate("case", label, ("vs", "cochlea"), 0.1, SPACING_MM, image)
    rules = (TakeAwayFluid(), RefineByContrast())
    return lambda: [rule(candidate) for rule in rules]


if __name__ == "__main__":
    fire.Fire(main)
