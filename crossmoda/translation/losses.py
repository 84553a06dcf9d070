"""What a translator is asked to minimise."""

from __future__ import annotations

import torch
from monai.losses import PatchAdversarialLoss
from torch import nn
from torch.nn.functional import l1_loss


class LeastSquaresGANLoss(nn.Module):
    """Score patches by their squared distance from real (1) or translated (0) (Mao et al., ICCV 2017).

    MONAI's ``PatchAdversarialLoss`` without the leaky ReLU that it puts before the squares by default, in float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

    def generator(self, scores: torch.Tensor) -> torch.Tensor:
        """Return mean((D(fake) - 1)^2): the generator wants its slices taken for real ones."""
        return self.loss(scores.float(), target_is_real=True, for_discriminator=False)

    def discriminator(self, real_scores: torch.Tensor, fake_scores: torch.Tensor) -> torch.Tensor:
        """Return half the sum of mean((D(real) - 1)^2) and mean(D(fake)^2); the half slows the discriminator down."""
        real = self.loss(real_scores.float(), target_is_real=True, for_discriminator=True)
        fake = self.loss(fake_scores.float(), target_is_real=False, for_discriminator=True)
        return 0.5 * (real + fake)


class CycleGANLoss(nn.Module):
    """Weigh the generators' adversarial, cycle and identity terms, 1 : 10 : 5 by default (recipe cards 0.1 and D).

    The identity weight is absolute: 5 here is the 0.5 that CycleGAN's code gives relative to its cycle weight of 10.

    Args:
        adversarial_weight: of the least-squares GAN term, per direction.
        cycle_weight: of the mean absolute difference between a slice and its round trip.
        identity_weight: of the mean absolute difference between a slice and what the generator of its own modality
            makes of it; at 0 the trainer does not compute it.
    """

    def __init__(
        self, adversarial_weight: float = 1.0, cycle_weight: float = 10.0, identity_weight: float = 5.0
    ) -> None:
        super().__init__()
        self.adversarial_weight = adversarial_weight
        self.cycle_weight = cycle_weight
        self.identity_weight = identity_weight
        self.gan = LeastSquaresGANLoss()

    def adversarial(self, fake_scores: torch.Tensor) -> torch.Tensor:
        """Return the weighted adversarial term of one generator."""
        return self.adversarial_weight * self.gan.generator(fake_scores)

    def cycle(self, round_trip: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Return the weighted cycle term of one modality."""
        return self.cycle_weight * l1_loss(round_trip.float(), original.float())

    def identity(self, same: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
        """Return the weighted identity term of one modality."""
        return self.identity_weight * l1_loss(same.float(), original.float())
