"""Training of a SinGAN, one scale after the other from the coarsest (Shaham et al., ICCV 2019; recipe card B).

Two places differ from the authors' code, both towards their paper: the noise from which the slice is reconstructed is
drawn once, not anew in each iteration of the coarsest scale; and each of a generator's steps judges the image that its
weights then make, not the one of its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.image
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.engines import Trainer
from monai.inferers import Inferer, SimpleInferer
from torch import nn
from torch.utils.data import DataLoader

from crossmoda.errors import CrossmodaError
from crossmoda.files import atomic_path
from crossmoda.translation.previews import mosaic
from crossmoda.translation.singan import NoiseSource, SinGAN, initialise, resize
from crossmoda.translation.trainer import frozen

_DECAY = 0.1  # of the learning rate in the last part of a scale's iterations
_BETA2 = 0.999  # of Adam


def gradient_penalty(
    discriminator: Callable[[torch.Tensor], torch.Tensor],
    real: torch.Tensor,
    fake: torch.Tensor,
    share: float,
    weight: float,
) -> torch.Tensor:
    """Return how far the discriminator's slope between two slices is from 1, squared, averaged and weighted.

    The slope is that of the scores' sum by each pixel, its length taken over the channels and compared with 1 pixel by
    pixel, as in SinGAN's code (Gulrajani et al., NeurIPS 2017, take one length for the whole image).

    Args:
        discriminator: scores patches.
        real: (1, C, X, Y).
        fake: of the same shape.
        share: of the real slice in the mixture at which the slope is taken, 0..1.
        weight: of the penalty, lambda.
    """
    mixture = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(mixture).sum(), mixture, create_graph=True)
    return weight * (slope.norm(dim=1) - 1).square().mean()


class ScaleInTraining:
    """What belongs to the one scale that is being trained: its discriminator, both optimisers, their state.

    Args:
        network: the pyramid, on its device already.
        noise: draws the first weights.
        learning_rate: of Adam, for generator and discriminator.
        beta1: of Adam.
    """

    def __init__(self, network: SinGAN, noise: NoiseSource, learning_rate: float = 5e-4, beta1: float = 0.5) -> None:
        self.network = network
        self.noise = noise
        self.learning_rate = learning_rate
        self.beta1 = beta1
        self.index = -1  # none yet

    def begin(self, index: int) -> None:
        """Go on to a scale: its networks start from the former scale's where these are as large, else from noise."""
        generator = self.network.generators[index]
        grown = index > 0 and self.network.filters[index] == self.network.filters[index - 1]
        former = self.discriminator.state_dict() if grown else {}
        self._build(index)
        if grown:
            generator.load_state_dict(self.network.generators[index - 1].state_dict())
            self.discriminator.load_state_dict(former)
        else:
            initialise(generator, self.noise)
            initialise(self.discriminator, self.noise)

    def _build(self, index: int) -> None:
        self.index = index
        self.discriminator = self.network.make_discriminator(index).to(self.network.noise_amplitudes.device)
        self.generator_optimizer = self._adam(self.network.generators[index])
        self.discriminator_optimizer = self._adam(self.discriminator)

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=(self.beta1, _BETA2))

    def set_rates(self, decayed: bool) -> None:
        """Set both optimisers to the full learning rate or to a tenth of it."""
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * (_DECAY if decayed else 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return the scale's number and the state of its discriminator and optimisers."""
        names = ("discriminator", "generator_optimizer", "discriminator_optimizer")
        return {"index": self.index, **{name: getattr(self, name).state_dict() for name in names}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._build(int(state["index"]))
        for name in ("discriminator", "generator_optimizer", "discriminator_optimizer"):
            getattr(self, name).load_state_dict(state[name])


def require_parts(iterations_per_scale: int, epochs_per_scale: int) -> None:
    """Make sure that a scale's iterations fall into whole epochs.

    Raises:
        CrossmodaError: they do not.
    """
    if epochs_per_scale < 1 or iterations_per_scale < 1 or iterations_per_scale % epochs_per_scale:
        raise CrossmodaError(
            f"iterations_per_scale {iterations_per_scale}: "
            f"must be a multiple of epochs_per_scale {epochs_per_scale}; mend either"
        )


class SinGANTrainer(Trainer):
    """Train a pyramid on one slice; an epoch is a part of one scale, so that a state can be kept in between.

    The learning rate falls to a tenth after four fifths of a scale's iterations (1600 of 2000). After each iteration
    ``engine.state.output`` holds every loss as a float under a name with ``loss`` in it.

    Args:
        device: where the network is and the slice goes.
        train_data_loader: yields ``{"image": (1, 1, X, Y)}`` in [-1, 1], always the same slice.
        network: the pyramid.
        scale: the scale in training.
        noise: where all noise comes from; ``EpochSeed`` seeds it.
        iterations_per_scale: of each scale, a multiple of ``epochs_per_scale``.
        epochs_per_scale: parts of a scale, each followed by what is done at the end of an epoch.
        noise_share: of a scale's noise in the error (RMSE) of the reconstruction that it starts from.
        reconstruction_weight: of the mean squared error of the reconstruction in the generator's loss, alpha.
        penalty_weight: of the gradient penalty in the discriminator's loss, lambda.
        discriminator_steps: per iteration.
        generator_steps: per iteration.
        inferer: runs the scales; ``crossmoda.engines.AutocastInferer`` makes that bfloat16.
        train_handlers: ignite handlers with an ``attach`` method.

    Raises:
        CrossmodaError: the iterations cannot be parted so, or there are no steps.
    """

    def __init__(
        self,
        device: str | torch.device,
        train_data_loader: DataLoader,
        network: SinGAN,
        scale: ScaleInTraining,
        noise: NoiseSource,
        iterations_per_scale: int = 2000,
        epochs_per_scale: int = 8,
        noise_share: float = 0.1,
        reconstruction_weight: float = 10.0,
        penalty_weight: float = 0.1,
        discriminator_steps: int = 3,
        generator_steps: int = 3,
        inferer: Inferer | None = None,
        train_handlers: Sequence[Any] | None = None,
    ) -> None:
        require_parts(iterations_per_scale, epochs_per_scale)
        if min(discriminator_steps, generator_steps) < 1:
            raise CrossmodaError("discriminator_steps and generator_steps must be 1 or more")
        super().__init__(
            device=device,
            max_epochs=network.scales * epochs_per_scale,
            data_loader=train_data_loader,
            epoch_length=iterations_per_scale // epochs_per_scale,
            handlers=train_handlers,
            decollate=False,  # losses belong to the batch
        )
        self.network = network
        self.scale = scale
        self.noise = noise
        self.iterations_per_scale = iterations_per_scale
        self.noise_share = noise_share
        self.reconstruction_weight = reconstruction_weight
        self.penalty_weight = penalty_weight
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.steps = {"discriminator": discriminator_steps, "generator": generator_steps}

    def _iteration(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, float]:
        index, step = divmod(engine.state.iteration - 1, self.iterations_per_scale)
        if (engine.state.iteration - 1) % engine.state.epoch_length == 0:
            self._enter(index, torch.as_tensor(batchdata["image"]).to(engine.state.device, torch.float32))
        self.scale.set_rates(decayed=step >= 0.8 * self.iterations_per_scale)
        noise = self.noise.draw(self.network.sizes[index])
        for _ in range(self.steps["discriminator"]):
            previous = self.inferer(self.real, self._draw_below)
            judged = self._judge(previous, noise)
        for _ in range(self.steps["generator"]):
            terms = self._learn(previous, noise)
        return {name: float(value.detach()) for name, value in {**terms, **judged}.items()}

    def _enter(self, index: int, image: torch.Tensor) -> None:
        """Prepare what stays the same for an epoch: the slice at this scale and the reconstruction it starts from."""
        network = self.network
        if self.scale.index != index:
            self.scale.begin(index)
            if index == 0:
                network.reconstruction_noise.copy_(self.noise.draw(network.sizes[0]))
        network.eval()
        self.real = resize(image, network.sizes[index]).clamp(-1.0, 1.0)
        self.reconstruction = network.reconstruct_below(index)
        if index > 0:
            error = F.mse_loss(self.reconstruction, self.real).sqrt()
            network.noise_amplitudes[index] = self.noise_share * error
        # For the coarsest scale, which starts from nothing, this is the one noise that stands for the slice.
        self.reconstruction_noise = (
            network.reconstruction_noise if index == 0 else torch.zeros_like(self.reconstruction)
        )
        network.generators[index].train()
        self.scale.discriminator.train()

    def _judge(self, previous: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take one step of the discriminator and return its losses."""
        judge = partial(self.inferer, network=self.scale.discriminator)
        with torch.no_grad():
            fake = self._render(previous, noise)
        share = float(torch.rand((), generator=self.noise.generator))
        penalty = gradient_penalty(judge, self.real, fake, share, self.penalty_weight)
        loss = judge(fake).mean() - judge(self.real).mean() + penalty
        self._step(self.scale.discriminator_optimizer, loss)
        return {"loss_discriminator": loss, "loss_gradient_penalty": penalty}

    def _learn(self, previous: torch.Tensor, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take one step of the generator and return its losses."""
        with frozen((self.scale.discriminator,)):
            adversarial = -self.inferer(self._render(previous, noise), self.scale.discriminator).mean()
            again = self._render(self.reconstruction, self.reconstruction_noise)
            reconstruction = self.reconstruction_weight * F.mse_loss(again, self.real)
            loss = adversarial + reconstruction
            self._step(self.scale.generator_optimizer, loss)
        return {"loss": loss, "loss_adversarial": adversarial, "loss_reconstruction": reconstruction}

    def _draw_below(self, real: torch.Tensor) -> torch.Tensor:
        """Return a random image of the scales below the one in training, whose slice is given."""
        return self.network.draw_below(self.scale.index, self.noise)

    def _render(self, previous: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return what the scale in training makes of the scale below and of noise."""
        rendered: torch.Tensor = self.inferer(previous, partial(self.network.render, self.scale.index), noise)
        return rendered

    @staticmethod
    def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


class ScalePreview:
    """Write slice | its reconstruction | a random image, side by side, whenever a scale is finished.

    Args:
        network: the pyramid.
        image: the training slice (1, X, Y) in [-1, 1].
        folder: gets ``scale_NN.png``.
        epochs_per_scale: epochs after which a scale is finished.
    """

    def __init__(self, network: SinGAN, image: torch.Tensor, folder: str | Path, epochs_per_scale: int) -> None:
        self.network = network
        self.image = image
        self.folder = Path(folder)
        self.epochs_per_scale = epochs_per_scale

    def attach(self, engine: Engine) -> None:
        """Listen to the ends of ``engine``'s epochs."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write_when_due)

    def _write_when_due(self, engine: Engine) -> None:
        if engine.state.epoch % self.epochs_per_scale == 0:
            scale = engine.state.epoch // self.epochs_per_scale - 1
            with atomic_path(self.folder / f"scale_{scale:02d}.png") as partial:
                matplotlib.image.imsave(partial, self.picture(scale), cmap="gray", vmin=0.0, vmax=1.0)

    @torch.no_grad()
    def picture(self, scale: int) -> Any:
        """Return the three images of a scale as one array (height, width) in [0, 1], in the radiological view."""
        network, noise = self.network, NoiseSource(scale)
        training = network.generators[scale].training
        network.eval()
        below = network.reconstruct_below(scale)
        zero = network.reconstruction_noise if scale == 0 else torch.zeros_like(below)
        again = network.render(scale, below, zero)
        drawn = network.render(scale, network.draw_below(scale, noise), noise.draw(network.sizes[scale]))
        network.generators[scale].train(training)
        real = resize(self.image[None], network.sizes[scale])
        return mosaic([real, again.cpu(), drawn.cpu()])
