"""Time the parts that users wait for on this machine, as one table: ``make bench`` or ``python scripts/bench.py``.

Each row runs in a process of its own: the figures are the median time of its repetitions after one warm-up (of what
takes over a minute, that of its only call), and the memory that it took beyond what the imports had taken. Rows of one
kind are compared with the first of them. Nothing is downloaded.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before PyTorch is imported; see the Makefile

import fire
import numpy as np
import torch
from monai.bundle import ConfigParser

from crossmoda.command_line import run_command
from crossmoda.data.phantom import draw_patient, draw_protocol, rasterise, render
from crossmoda.data.volumes import read_volume, write_volume
from crossmoda.engines import AutocastInferer
from crossmoda.engines.memory import peak_mib, resident_mib
from crossmoda.evaluation.aggregate import score_case, shared_structures
from crossmoda.labels import EDITION_LABELS
from crossmoda.segmentation.losses import WeightedTarget
from crossmoda.segmentation.nnunet.model import NnUNetEnsemble
from crossmoda.segmentation.nnunet.raw_dataset import dataset_json
from crossmoda.segmentation.planning import CONFIGURATION, Fingerprint, nnunet_plans
from crossmoda.self_training.bundles import make_workflow
from crossmoda.self_training.selection import Candidate, RefineByContrast, TakeAwayFluid
from crossmoda.translation.cut import CUTTrainer
from crossmoda.translation.cyclegan import CycleGANTrainer
from crossmoda.translation.discriminators import PatchGAN
from crossmoda.translation.generators import Generator, ResNetGenerator, UNetGenerator
from crossmoda.translation.image_pool import ImagePool
from crossmoda.translation.inferers import SlabInferer
from crossmoda.translation.losses import CUTLoss, CycleGANLoss
from crossmoda.translation.patch_samplers import ATTENTION, PatchProjector, RandomPatches, attended
from crossmoda.translation.plain import cut_step, cyclegan_step
from crossmoda.translation.singan import NoiseSource, SinGAN
from crossmoda.translation.singan_training import ScaleInTraining, SinGANTrainer

SPACING_MM = (0.5, 0.5, 1.5)
SCAN = (448, 448, 80)
SCAN_FOLDER = "CROSSMODA_BENCH_SCAN"  # environment variable, through which the rows' processes share a scan
GIVES_BACK = {"MALLOC_ARENA_MAX": "8"}  # glibc's own default: any wish of the environment's leaves its memory to it
CLASSES = 3  # of the segmenters, background among them
LONG_SECONDS = 60.0  # what takes longer is done once
NCE_LAYERS = (0, 4, 8, 12, 16)
SEGMENTATION = Path("bundles/vs_cochlea_hrt2_segmentation/configs")
SEGMENTERS = {  # network and its overlay
    "DynUNet": "",
    "2.5D U-Net": "variant_unet2d5",
    "2.5D ResUNet": "variant_resunet2d5",
    "MedNeXt": "variant_mednext",
}
METHODS = ("CycleGAN", "CycleGAN of U-Nets", "CUT", "FastCUT", *(f"QS-Attn {mode}" for mode in ATTENTION))

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """What is timed: rows of one ``what`` are compared with the first of them.

    Args:
        what: title.
        how: that tells it from the other rows of its title.
        build: makes the work on a device.
        environment: variables of the row's process, beside those that there are.
    """

    what: str
    how: str
    build: Callable[[torch.device], Work]
    environment: Mapping[str, str] = field(default_factory=dict)


@fire.decorators.SetParseFn(str, "only")  # a name with a comma is no tuple
def main(repetitions: int = 3, only: str = "") -> None:
    """Print the table.

    Args:
        repetitions: of each row, after one warm-up.
        only: leave out the rows whose title does not hold this text.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"device {device}, {os.cpu_count()} cores, torch {torch.__version__}, median of {repetitions}\n")
    print(f"{'what':<73}{'how':<26}{'seconds':>9}{'faster':>8}{'MiB':>7}")
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ[SCAN_FOLDER] = folder
        for row in rows():
            if only in row.what:
                seconds, mebibytes = measured_apart(row, repetitions, device)
                gain = first.setdefault(row.what, seconds) / seconds
                print(f"{row.what:<73}{row.how:<26}{seconds:>9.3f}{gain:>7.2f}x{mebibytes:>7.0f}", flush=True)


def measured_apart(row: Row, repetitions: int, device: torch.device) -> tuple[float, float]:
    """Return the seconds and the MiB of a row, from a process of its own."""
    with mock.patch.dict(os.environ, row.environment), multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, (row, repetitions, device))


def measured(row: Row, repetitions: int, device: torch.device) -> tuple[float, float]:
    """Return the median time of a row's work in seconds, and its peak in MiB.

    The first call is not counted, unless it takes so long that warming up hardly matters; then it is the only one.
    """
    before = resident_mib()
    work = row.build(device)
    times = [seconds_of(work, device)]
    if times[0] < LONG_SECONDS:
        times = [seconds_of(work, device) for _ in range(repetitions)]
    if device.type == "cuda":
        return statistics.median(times), torch.cuda.max_memory_allocated(device) / 2**20
    return statistics.median(times), peak_mib() - before


def seconds_of(work: Work, device: torch.device) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def rows() -> list[Row]:
    """Return what to time."""
    precisions = (("float32", False), ("bfloat16", True))
    found = [Row("phantom: one hrT2 volume of 272x160x40", "float32", phantom)]
    sizes = dict.fromkeys(METHODS, 128)
    sizes |= {
        "QS-Attn global": 256,
        "CycleGAN of U-Nets": 256,
    }  # 64 x 64 positions of attention; as eight halvings need
    for method, size in sizes.items():
        what = f"translator: {method} step, slice of {size}x{size}"
        found.append(Row(what, "plain float32", partial(translator_step, method, size, True, False)))
        found += [Row(what, name, partial(translator_step, method, size, False, amp)) for name, amp in precisions]
    what = "translator: SinGAN iteration, finest scale of 96x96"
    found += [Row(what, name, partial(singan_iteration, amp)) for name, amp in precisions]
    for name, fewest in (("ResNet-9", 1), ("ResNet-9 antialiased", 1), ("U-Net-256", 4)):  # as the bundle has them
        what = f"translator: volume of 256x256x16, {name}"
        for at_once in (fewest, 8):
            how = f"{at_once} at once, "
            found += [Row(what, how + p, partial(translated_volume, name, at_once, amp)) for p, amp in precisions]
    for network, overlay in SEGMENTERS.items():
        what = f"segmenter: {network} step, batch 2 of 96x80x32"
        found += [Row(what, name, partial(segmenter_step, overlay, amp)) for name, amp in precisions]
    for kind, work in (
        ("10 patches of 96x80x32", segmenter_patch),
        ("step, batch 2 of 96x80x32", partial(segmenter_step, "", True)),
    ):
        what = f"memory that arrays leave: DynUNet {kind}, bfloat16"
        found += [Row(what, "given back", work, GIVES_BACK), Row(what, "kept", work)]
    what = "segmenter: nnU-Net's usual plan, scan of 448x448x80 from file to file"
    found.append(Row(what, "nnU-Net's predictor", partial(nnunet_scan, None)))
    for network, overlay in SEGMENTERS.items():
        what = f"segmenter: {network}, scan of 448x448x80 from file to file"
        found.append(Row(what, "nnU-Net's predictor", partial(nnunet_scan, overlay)))
        found += [Row(what, name, partial(segmented_scan, overlay, amp)) for name, amp in precisions]
    what = "metrics: VS and both cochleae, 448x448x80, from files to scores"
    found.append(Row(what, "medpy: Dice, ASSD", medpy_scores))
    found.append(Row(what, "Dice, ASSD, HD95, volumes", case_scores))
    found.append(Row("self-training: contrast rules on a pseudo-label, 448x448x80", "-", contrast_rules))
    return found


def phantom_volume(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """Draw, rasterise and render one patient."""
    rng = np.random.default_rng(0)
    return render(rasterise(draw_patient(rng), shape, affine), draw_protocol("ldn", "hrT2", rng), rng)


def phantom(device: torch.device) -> Work:
    """Return the making of one hrT2 volume about the posterior fossa."""
    affine = np.diag([0.41, 0.41, 1.5, 1.0])
    affine[:3, 3] = [-55.8, -32.8, -30.0]
    return partial(phantom_volume, (272, 160, 40), affine)


def translator_step(method: str, size: int, plain: bool, autocast: bool, device: torch.device) -> Work:
    """Return a training step of a method with the paper's networks: as the paper writes it, or as our trainer does."""
    torch.manual_seed(0)
    cyclic = method.startswith("CycleGAN")
    trainer: Any = cyclegan(method, autocast, device) if cyclic else cut(method, autocast, device)
    source, target = (torch.rand(1, 1, size, size, device=device) * 2 - 1 for _ in range(2))
    step = cyclegan_step if cyclic else cut_step
    return partial(step, trainer, source, target) if plain else partial(trainer.learn, source, target)


def adam(*networks: torch.nn.Module) -> torch.optim.Adam:
    """Return the papers' optimiser of some networks' weights."""
    return torch.optim.Adam([p for n in networks for p in n.parameters()], lr=2e-4, betas=(0.5, 0.999))


def cyclegan(method: str, autocast: bool, device: torch.device) -> CycleGANTrainer:
    """Return a trainer of CycleGAN at the paper's sizes."""
    generators = [(UNetGenerator() if "U-Net" in method else ResNetGenerator()).to(device) for _ in range(2)]
    discriminators = [PatchGAN().to(device) for _ in range(2)]
    optimizers = adam(*generators), adam(*discriminators)
    parts: Any = (*generators, *discriminators, *optimizers, CycleGANLoss(), ImagePool(), ImagePool())
    share_casts = "U-Net" in method  # as its overlay has it
    return CycleGANTrainer(*parts, **training(autocast, device), share_casts=share_casts)


def cut(method: str, autocast: bool, device: torch.device) -> CUTTrainer:
    """Return a trainer of CUT, FastCUT or QS-Attn at the papers' sizes."""
    generator = ResNetGenerator(antialias=True, initialisation="xavier").to(device)
    discriminator = PatchGAN(antialias=True, initialisation="xavier").to(device)
    mode = method.removeprefix("QS-Attn ")
    choices = attended(mode, 256, len(NCE_LAYERS), 2) if mode in ATTENTION else RandomPatches()
    projector = PatchProjector(generator.feature_channels(NCE_LAYERS), choices).to(device)
    loss = CUTLoss(nce_weight=10.0, identity=False) if method == "FastCUT" else CUTLoss()
    parts = (generator, discriminator, projector, adam(generator), adam(discriminator), adam(projector), loss)
    return CUTTrainer(*parts, **training(autocast, device))


def training(autocast: bool, device: torch.device) -> dict[str, Any]:
    """Return what every trainer needs besides its networks; its steps are called directly, not through an engine."""
    inferer = AutocastInferer(enabled=autocast)
    return {"device": device, "max_epochs": 1, "train_data_loader": [0], "inferer": inferer}


def singan_iteration(autocast: bool, device: torch.device) -> Work:
    """Return three steps of the discriminator and three of the generator of a SinGAN's finest scale."""
    noise, batch = NoiseSource(0), {"image": torch.rand(1, 1, 96, 96) * 2 - 1}
    network = SinGAN((96, 96)).to(device)
    scale = ScaleInTraining(network, noise)
    for finished in range(network.scales - 1):
        scale.begin(finished)
    inferer = AutocastInferer(enabled=autocast)
    trainer = SinGANTrainer(device, [0], network, scale, noise, inferer=inferer)  # type: ignore[arg-type]
    trainer.state.iteration = (network.scales - 1) * trainer.iterations_per_scale + 1
    return partial(trainer._iteration, trainer, batch)


def translated_volume(name: str, slices_at_once: int, autocast: bool, device: torch.device) -> Work:
    """Return the translation of a volume, as ``inference.yaml`` does it."""
    networks: dict[str, Callable[[], Generator]] = {
        "ResNet-9": ResNetGenerator,
        "ResNet-9 antialiased": partial(ResNetGenerator, antialias=True),
        "U-Net-256": UNetGenerator,
    }
    network, volume = networks[name]().to(device).eval(), torch.randn(1, 1, 256, 256, 16, device=device)
    inferer = AutocastInferer(SlabInferer((256, 256), slabs_at_once=slices_at_once), enabled=autocast)
    return partial(without_gradients, inferer, volume, network)


def without_gradients(inferer: AutocastInferer, volume: torch.Tensor, network: torch.nn.Module) -> object:
    """Run a network on a volume."""
    with torch.no_grad():
        return inferer(volume, network)


def segmenter_files(overlay: str, base: str) -> list[str]:
    """Return the configuration files of the segmentation bundle with one of its networks."""
    return [str(SEGMENTATION / f"{name}.yaml") for name in (base, overlay) if name]


def segmenter_step(overlay: str, autocast: bool, device: torch.device) -> Work:
    """Return one optimisation step of a segmenter on a batch, deep supervision and loss as ``train.yaml`` has them."""
    parser = ConfigParser()
    parser.read_config(segmenter_files(overlay, "train"))
    network = parser.get_parsed_content("network_def").to(device).train()
    batch, label = torch.randn(2, 1, 96, 80, 32, device=device), torch.zeros(2, 1, 96, 80, 32, dtype=torch.uint8)
    label[:, :, 30:50, 30:50, 10:20], label[:, :, 60:64, 30:34, 10:14] = 1, 2
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    target = WeightedTarget(label.to(device), torch.ones(2, device=device))
    loss_function = parser.get_parsed_content("loss_def").to(device)
    inferer = AutocastInferer(enabled=autocast)

    def work() -> None:
        loss = loss_function(inferer(batch, network), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return work


def segmenter_patch(device: torch.device) -> Work:
    """Return the prediction of ten patches of 96 x 80 x 32 by the DynUNet in bfloat16, one after another."""
    parser = ConfigParser()
    parser.read_config(segmenter_files("", "inference"))
    network = parser.get_parsed_content("network_def").to(device).eval()
    patch, inferer = torch.randn(1, 1, 96, 80, 32, device=device), AutocastInferer()

    def work() -> object:
        with torch.inference_mode():
            return [inferer(patch, network) for _ in range(10)]

    return work


def segmented_scan(overlay: str, autocast: bool, device: torch.device) -> Work:
    """Return the way of a scan from its file to its labels' file, as ``inference.yaml`` goes it; weights are random."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    parser = ConfigParser()
    parser.read_config(segmenter_files(overlay, "inference"))
    torch.manual_seed(0)
    torch.save(mostly_background(parser.get_parsed_content("network_def")).state_dict(), folder / "model.pt")
    places = {"dataset_dir": whole_scan().parent, "output_dir": folder / "out", "weights": folder / "model.pt"}
    settings = {"device": device, "amp": autocast, **{key: str(path) for key, path in places.items()}}
    workflow = make_workflow(segmenter_files(overlay, "inference"), "inference", **settings)
    workflow.initialize()
    return workflow.run


def nnunet_scan(overlay: str | None, device: torch.device) -> Work:
    """Return the same way as nnU-Net's predictor goes it by default but for mirroring, which takes 8 times as long.

    Args:
        overlay: of a network of ours, which slides over the scan with its own spacing and patch; None is the network
            that nnU-Net plans for scans like this.
        device: where the network is.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    out = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    plans = nnunet_plans(Fingerprint([SPACING_MM], [SCAN]))
    configuration = plans["configurations"][CONFIGURATION]
    dataset = dataset_json(("vs", "cochlea"), 1)
    if overlay is None:
        description = {"plans": plans, "dataset": dataset, "postprocessing": []}
        member = {"configuration": CONFIGURATION, "trainer": "nnUNetTrainer", "folds": [0]}
        network = next(NnUNetEnsemble({**description, "members": [member]}).members[0].children())
    else:
        parser = ConfigParser()
        parser.read_config(segmenter_files(overlay, "inference"))
        network = AxesReversed(mostly_background(parser.get_parsed_content("network_def")))
        configuration["spacing"] = parser["spacing"][::-1]
        configuration["patch_size"] = parser["patch_size"][::-1]
    on_device = device.type == "cuda"
    predictor = nnUNetPredictor(
        perform_everything_on_device=on_device, device=device, use_mirroring=False, allow_tqdm=False
    )
    manager, parameters = PlansManager(plans), [network.state_dict()]
    of_plans = manager.get_configuration(CONFIGURATION)
    predictor.manual_initialization(network, manager, of_plans, parameters, dataset, "nnUNetTrainer", None)
    return partial(predictor.predict_from_files_sequential, [[str(whole_scan())]], [str(out / "case")])


class AxesReversed(torch.nn.Module):
    """A network of x, y, z that is handed z, y, x, as nnU-Net orders the axes: its strides differ among them.

    Args:
        network: takes and returns (batch, channel, x, y, z).
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the logits of patches, both (batch, channel, z, y, x)."""
        logits: torch.Tensor = self.network(patches.permute(0, 1, 4, 3, 2).contiguous())
        return logits.permute(0, 1, 4, 3, 2)


def mostly_background(network: torch.nn.Module) -> torch.nn.Module:
    """Return a network that finds next to nothing, as trained ones do, so that what follows takes its usual time."""
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)) and module.out_channels == CLASSES:
            assert module.bias is not None
            module.bias.data[0] += 10.0
    return network


@cache
def whole_scan() -> Path:
    """Write a scan of a whole slab once for all rows, and return its file."""
    path = Path(os.environ[SCAN_FOLDER]) / "case_hrT2.nii.gz"
    if not path.is_file():
        affine = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
        affine[:3, 3] = [size * n / 2 for size, n in zip(SPACING_MM, SCAN, strict=True)] * np.array([1, 1, -1])
        write_volume(path, phantom_volume(SCAN, affine), affine)
    return path


def ball(centre_mm: tuple[float, float, float], radius_mm: float) -> np.ndarray:
    """Return a ball in a volume of 448 x 448 x 80 voxels of ``SPACING_MM``, bool."""
    axes = [np.arange(n) * size for n, size in zip((448, 448, 80), SPACING_MM, strict=True)]
    squares = [(axis - at) ** 2 for axis, at in zip(axes, centre_mm, strict=True)]
    return squares[0][:, None, None] + squares[1][None, :, None] + squares[2] <= radius_mm**2


@cache
def label_maps() -> tuple[Path, Path]:
    """Write the labels of a patient once for all rows, a VS of 4 mL and two cochleae, and the same 1 mm beside."""
    paths = tuple(Path(os.environ[SCAN_FOLDER]) / f"{name}_Label.nii.gz" for name in ("prediction", "truth"))
    for path, shift in zip(paths, (1.0, 0.0), strict=True):
        if not path.is_file():
            label = ball((100 + shift, 110, 60), 10).astype(np.uint8)
            for side in (85, 140):
                label[ball((side + shift, 112, 60), 2.8)] = 2
            write_volume(path, label, np.diag([*SPACING_MM, 1.0]))
    return paths[0], paths[1]


def case_scores(device: torch.device) -> Work:
    """Return the scoring of a case as ``evaluate`` does it, on one thread."""
    labels = EDITION_LABELS["2022"]
    return partial(score_case, *label_maps(), labels, labels, shared_structures(labels, labels))


def medpy_scores(device: torch.device) -> Work:
    """Return the same as the challenge's script does it: medpy, a distance transform of the volume each way."""
    from medpy.metric import assd, dc

    def work() -> dict[str, tuple[float, float]]:
        prediction, truth = (read_volume(path) for path in label_maps())
        spacing_mm, scores = np.abs(np.diag(truth.affine))[:3], {}
        for structure, number in EDITION_LABELS["2022"].items():
            masks = prediction.array == number, truth.array == number
            scores[structure] = dc(*masks), assd(*masks, voxelspacing=spacing_mm)
        return scores

    label_maps()
    return work


def contrast_rules(device: torch.device) -> Work:
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
    run_command(main)
