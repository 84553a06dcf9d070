"""The pyramid of generators: sizes, weights, training that resumes, harmonisation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader

from crossmoda.engines import AutocastInferer, EpochSeed, History, NonFiniteLossStop, TrainingState
from crossmoda.errors import CrossmodaError
from crossmoda.files import read_json
from crossmoda.translation.singan import (
    NoiseSource,
    ScaleDiscriminator,
    ScaleGenerator,
    SinGAN,
    initialise,
    pyramid_scales,
    resize,
)
from crossmoda.translation.singan_training import ScaleInTraining, ScalePreview, SinGANTrainer, gradient_penalty

TINY: dict[str, Any] = {"filters": 4, "kernel_size": 3, "layers": 3, "min_size": 8, "scale_factor": 0.7}
SIZE = (20, 16)  # 8 / 16 = 0.5: ceil(ln 0.5 / ln 0.7) + 1 = 3 steps, 4 scales, factor 0.5^(1/3)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> torch.Tensor:
    """Return a slice (1, X, Y) with smooth structure in [-1, 1]."""
    x, y = torch.meshgrid(torch.linspace(0, 6, size[0]), torch.linspace(0, 5, size[1]), indexing="ij")
    noise = 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return (0.6 * torch.sin(x) * torch.cos(y) + noise).clamp(-1, 1)[None]


class Training:
    """A tiny pyramid in training, with everything that the bundle hangs onto it."""

    def __init__(self, folder: Path, iterations_per_scale: int = 4, **options: Any) -> None:
        self.network = SinGAN(SIZE, **TINY)
        self.noise = NoiseSource()
        self.scale = ScaleInTraining(self.network, self.noise)
        self.history = History(folder / "history.json")
        objects = {"network": self.network, "scale": self.scale, "history": self.history}
        self.handlers = [
            EpochSeed(5, self.noise),
            NonFiniteLossStop(),
            self.history,
            TrainingState(folder / "state.pt", objects),
            *options.pop("handlers", []),
        ]
        item = {"image": options.pop("image", picture()), "case": "etz_1"}
        settings = {"iterations_per_scale": iterations_per_scale, "epochs_per_scale": 2, **options}
        loader = DataLoader([item] * (settings["iterations_per_scale"] // 2))  # type: ignore[arg-type]
        self.trainer = SinGANTrainer(
            "cpu", loader, self.network, self.scale, self.noise, train_handlers=self.handlers, **settings
        )

    def run(self, epochs: int | None = None) -> dict[str, torch.Tensor]:
        if epochs is not None:
            self.trainer.state.max_epochs = epochs
        self.trainer.run()
        return self.network.state_dict()


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("size", "scales", "factor"),
    [
        ((256, 256), 17, (25 / 256) ** (1 / 16)),  # recipe card B
        ((300, 256), 17, (25 / 256) ** (1 / 16)),  # the shorter side counts
        ((250, 250), 17, 0.1 ** (1 / 16)),  # ln 0.1 / ln 0.85 = 14.2, so 15 + 1 steps
        ((26, 40), 3, (25 / 26) ** (1 / 2)),
    ],
)
def test_the_number_of_scales_and_the_factor_between_them(size: tuple[int, int], scales: int, factor: float) -> None:
    assert pyramid_scales(size) == (scales, pytest.approx(factor))


def test_the_pyramid_of_recipe_card_b() -> None:
    network = SinGAN((256, 256))
    assert network.factor == pytest.approx(0.8647, abs=5e-5)
    assert network.sizes[0] == (25, 25)
    assert [network.sizes[scale][0] for scale in (13, 15, 16)] == [165, 221, 256]
    assert [network.factor ** (16 - scale) for scale in (13, 15)] == pytest.approx([0.647, 0.865], abs=6e-4)
    assert network.filters == 4 * [32] + 4 * [64] + 9 * [128]  # 256 would be next, but 128 is the most
    # k = 5: conv (k^2 c_in + 1) F and 2 F of its normalisation, four times; the last conv k^2 F + 1.
    counts = {f: (25 + 1 + 2) * f + 3 * (25 * f + 1 + 2) * f + 25 * f + 1 for f in (32, 64, 128)}
    assert counts == {32: 78785, 64: 311169, 128: 1236737}
    assert [parameters_of(generator) for generator in network.generators] == [counts[f] for f in network.filters]
    assert parameters_of(network.make_discriminator(8)) == 1236737


def test_sizes_of_slices_that_are_not_square_or_not_the_training_slice_s() -> None:
    network = SinGAN(SIZE, **TINY)
    assert network.sizes == [(10, 8), (12, 10), (15, 12), (20, 16)]  # 20 and 16 times 0.5, 0.63, 0.794, 1
    assert network.sizes_of((5, 40))[0] == (2, 20)
    assert network.sizes_of((1, 1))[0] == (1, 1)


def test_generators_keep_the_size_and_discriminators_score_patches() -> None:
    generator, discriminator = ScaleGenerator(4), ScaleDiscriminator(4)
    slices = torch.zeros(2, 1, 27, 25)
    assert generator(slices, slices).shape == slices.shape
    assert discriminator(slices).shape == (2, 1, 7, 5)  # five times 5 x 5 take 20 pixels
    assert generator.margin == 10


def test_the_residual_stays_within_1_of_the_image_below() -> None:
    generator = ScaleGenerator(4, 3, 3)
    for module in generator.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.mul_(100)
    previous = torch.full((1, 1, 9, 9), 0.5)
    image = generator(1000 * torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(0)), previous)
    assert image.min() >= -0.5
    assert image.max() <= 1.5
    assert image.std() > 0.3


def test_first_weights_depend_on_the_seed_alone() -> None:
    networks = [ScaleGenerator(32, 5, 3) for _ in range(3)]
    for network, seed in zip(networks, (1, 1, 2), strict=True):
        torch.manual_seed(torch.seed())
        initialise(network, NoiseSource(seed))
    weights = [network.state_dict() for network in networks]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    kernel = weights[0]["convolutions.1.0.weight"]  # 25,600 draws
    assert float(kernel.mean()) == pytest.approx(0, abs=1e-3)
    assert float(kernel.std()) == pytest.approx(0.02, abs=1e-3)
    assert float(weights[0]["convolutions.1.1.weight"].mean()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(kernel, weights[2]["convolutions.1.0.weight"])


class Slope(nn.Module):
    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        return 3 * slices[..., 1:, :] ** 2  # its slope is 6 x, and 0 in the first row


def test_the_gradient_penalty_by_hand() -> None:
    real, fake = torch.full((1, 1, 2, 1), 0.5), torch.full((1, 1, 2, 1), -0.5)
    penalty = gradient_penalty(Slope(), real, fake, share=0.75, weight=0.1)
    # mixture 0.75 * 0.5 - 0.25 * 0.5 = 0.25; slopes 0 and 1.5; ((0 - 1)^2 + (1.5 - 1)^2) / 2 = 0.625
    assert penalty.item() == pytest.approx(0.0625)


def test_the_gradient_penalty_teaches_the_discriminator() -> None:
    discriminator = nn.Conv2d(1, 1, 1)
    discriminator.weight.data.fill_(3.0)
    gradient_penalty(discriminator, torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), 0.5, 0.1).backward()
    assert float(discriminator.weight.grad) == pytest.approx(0.1 * 2 * (3 - 1))  # d/dw of 0.1 (w - 1)^2


def test_the_reconstruction_starts_from_one_noise_and_the_noise_shares_are_errors(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.run()
    network = training.network.eval()
    assert float(network.noise_amplitudes[0]) == 1
    for scale in (1, 2, 3):
        real = resize(picture()[None], network.sizes[scale]).clamp(-1, 1)
        below = network.reconstruct_below(scale)
        error = (below - real).square().mean().sqrt()
        assert float(network.noise_amplitudes[scale]) == pytest.approx(0.1 * float(error), rel=1e-4)
    assert float(network.reconstruction_noise.std()) == pytest.approx(1, abs=0.3)


def test_a_scale_s_networks_start_from_the_former_scale_s_where_they_are_as_large() -> None:
    network = SinGAN((40, 40), **{**TINY, "scale_factor": 0.8})
    assert network.filters[2:5] == [4, 4, 8]
    scale = ScaleInTraining(network, NoiseSource(1))
    for index in range(3):
        scale.begin(index)
    former, judge = network.generators[2].state_dict(), scale.discriminator.state_dict()
    scale.begin(3)
    assert all(torch.equal(former[name], value) for name, value in network.generators[3].state_dict().items())
    assert all(torch.equal(judge[name], value) for name, value in scale.discriminator.state_dict().items())
    scale.begin(4)
    assert scale.discriminator.convolutions[1][0].weight.shape == (8, 8, 3, 3)


def test_the_learning_rate_falls_to_a_tenth_after_four_fifths_of_a_scale(tmp_path: Path) -> None:
    rates: list[float] = []
    training = Training(tmp_path, iterations_per_scale=10)
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: rates.append(training.scale.generator_optimizer.param_groups[0]["lr"])
    )
    training.run(2 * 2)
    assert rates == pytest.approx(2 * (8 * [5e-4] + 2 * [5e-5]))


def test_losses_add_up_and_training_reconstructs_the_slice(tmp_path: Path) -> None:
    training = Training(tmp_path, iterations_per_scale=24)
    training.run()
    series = read_json(tmp_path / "history.json")["series"]
    for total, one, other in zip(
        series["loss"], series["loss_adversarial"], series["loss_reconstruction"], strict=True
    ):
        assert total == pytest.approx(one + other, abs=1e-5)
    network = training.network.eval()
    again = network.render(3, network.reconstruct_below(3), torch.zeros(1, 1, *SIZE))
    assert float((again - picture()).square().mean().sqrt()) < 0.5 * float(picture().std())


def test_autocast_gives_nearly_the_losses_of_float32(tmp_path: Path) -> None:
    def losses(autocast: bool) -> dict[str, list[float]]:
        folder = tmp_path / str(autocast)
        Training(folder, inferer=AutocastInferer(enabled=autocast)).run(2)
        return read_json(folder / "history.json")["series"]

    exact, rough = losses(False), losses(True)
    assert exact != rough
    for name, values in exact.items():
        assert rough[name] == pytest.approx(values, rel=0.05, abs=0.02), name


@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_a_training_that_was_cut_off_ends_with_the_same_weights(stop: int, tmp_path: Path) -> None:
    """Within a scale (odd epochs) and between two."""
    unbroken = Training(tmp_path / "unbroken").run()
    Training(tmp_path / "cut").run(stop)
    torch.manual_seed(99)  # whatever another process drew
    resumed = Training(tmp_path / "cut").run()
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    assert read_json(tmp_path / "cut" / "history.json") == read_json(tmp_path / "unbroken" / "history.json")


def test_finished_scales_are_left_alone(tmp_path: Path) -> None:
    training = Training(tmp_path)
    before = {name: value.clone() for name, value in training.run(2).items() if name.startswith("generators.0.")}
    after = Training(tmp_path).run()
    assert all(torch.equal(value, after[name]) for name, value in before.items())  # running means as well


def test_a_slice_that_is_not_finite_stops_training_and_is_named(tmp_path: Path) -> None:
    image = picture()
    image[0, 3, 3] = math.nan
    with pytest.raises(CrossmodaError, match="etz_1"):
        Training(tmp_path, image=image).run()


def test_each_finished_scale_gets_a_picture(tmp_path: Path) -> None:
    training = Training(tmp_path)
    ScalePreview(training.network, picture(), tmp_path / "previews", 2).attach(training.trainer)
    training.run()
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == [f"scale_0{k}.png" for k in range(4)]
    shown = ScalePreview(training.network, picture(), tmp_path, 2).picture(3)
    assert shown.shape == (SIZE[1], 3 * SIZE[0])
    assert shown[0, 0] == pytest.approx((float(picture()[0, -1, -1]) + 1) / 2, abs=1e-6)


def test_pictures_do_not_disturb_the_training(tmp_path: Path) -> None:
    plain, watched = Training(tmp_path / "a"), Training(tmp_path / "b")
    ScalePreview(watched.network, picture(), tmp_path / "previews", 2).attach(watched.trainer)
    first, second = plain.run(), watched.run()
    assert all(torch.equal(first[name], second[name]) for name in first)


def silent(network: SinGAN) -> SinGAN:
    """Return the pyramid with generators that add nothing, and no noise."""
    for generator in network.generators:
        nn.init.zeros_(generator.convolutions[-1].weight)
        nn.init.zeros_(generator.convolutions[-1].bias)
    return network


def test_harmonisation_begins_one_scale_below_and_goes_up_once() -> None:
    """With generators that add nothing, what is left is the resizing."""
    network = silent(SinGAN(SIZE, **TINY))
    slices = picture()[None]
    by_hand = resize(resize(resize(slices, (12, 10)), (15, 12)), SIZE).clamp(-1, 1)
    torch.testing.assert_close(network.harmonise(slices, 2, NoiseSource()), by_hand)
    losses = [float((network.harmonise(slices, scale, NoiseSource()) - slices).abs().mean()) for scale in (1, 2, 3)]
    assert losses[0] > losses[1] > losses[2] > 0  # the coarser it begins, the more is lost


def test_harmonisation_depends_on_the_noise_s_seed_alone(tmp_path: Path) -> None:
    network = Training(tmp_path)
    network.run()
    network.network.eval()
    first = network.network.harmonise(picture()[None], 2, NoiseSource(3))
    network.network.train()  # as somebody may have left it
    torch.manual_seed(1)
    assert torch.equal(first, network.network.harmonise(picture()[None], 2, NoiseSource(3)))
    assert not torch.equal(first, network.network.harmonise(picture()[None], 2, NoiseSource(4)))
    assert first.abs().max() <= 1


def test_slices_of_another_size_are_harmonised_at_their_own() -> None:
    network = SinGAN(SIZE, **TINY)
    assert network.harmonise(torch.zeros(1, 1, 31, 9), 1, NoiseSource()).shape == (1, 1, 31, 9)


@pytest.mark.parametrize("scale", [0, 4, -1, 1.0, True])
def test_a_scale_that_the_pyramid_lacks_is_named(scale: Any) -> None:
    with pytest.raises(CrossmodaError, match=r"this pyramid has 1 to 3"):
        SinGAN(SIZE, **TINY).harmonise(picture()[None], scale, NoiseSource())


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((25, 300), {}, "25 x 300 pixels are too small for a pyramid whose coarsest scale has 25"),
        ((256, 256), {"scale_factor": 1.0}, "scale_factor 1.0"),
        ((256, 256), {"min_size": 20}, "min_size 20: 5 convolutions of 5 x 5 see patches of 21 pixels"),
        ((256, 256), {"kernel_size": 4}, "kernel_size 4"),
    ],
)
def test_impossible_pyramids_are_refused(size: tuple[int, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossmodaError, match=message):
        SinGAN(size, **options)


def test_iterations_that_cannot_be_parted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossmodaError, match="iterations_per_scale 5: must be a multiple of epochs_per_scale 2"):
        Training(tmp_path, iterations_per_scale=5)
    with pytest.raises(CrossmodaError, match="discriminator_steps and generator_steps"):
        Training(tmp_path, generator_steps=0)
