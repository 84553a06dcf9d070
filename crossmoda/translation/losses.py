"""What a translator is asked to minimise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import PatchAdversarialLoss
from torch import nn
from torch.nn.functional import cross_entropy, l1_loss

from crossmoda.errors import CrossmodaError


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


class PatchNCELoss(nn.Module):
    """Tell each patch of a translation's source from the other patches of the same slice (Park et al., ECCV 2020).

    For unit vectors q_i of the translated slice's patches and k_j of the source's, cross-entropy of the cosines
    q_i . k_j / temperature with i as the right answer, averaged over patches and slices. The keys k get no gradient.

    Args:
        temperature: 0.07 in the paper.
    """

    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return the loss of patches (B, P, width), P being 2 or more, as a scalar."""
        logits = torch.bmm(queries.float(), keys.detach().float().transpose(1, 2)) / self.temperature
        right = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
        return cross_entropy(logits.flatten(0, 1), right.flatten())


class CUTLoss(nn.Module):
    """Weigh the adversarial and the contrastive terms of CUT and FastCUT (recipe card 0.2).

    The generator's loss is ``adversarial_weight * GAN + nce_weight * NCE(x, G(x))``; with ``identity`` the second term
    is the mean of NCE(x, G(x)) and NCE(y, G(y)), y being slices of the target modality.

    Args:
        adversarial_weight: of the least-squares GAN term.
        nce_weight: of the contrastive term: 1 in CUT, 10 in FastCUT.
        identity: contrast target slices with their own translations as well: true in CUT, false in FastCUT.
        temperature: of the contrastive term.
    """

    def __init__(
        self,
        adversarial_weight: float = 1.0,
        nce_weight: float = 1.0,
        identity: bool = True,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise CrossmodaError(f"nce_temperature is {temperature}; give a positive number, 0.07 in the paper")
        self.adversarial_weight = adversarial_weight
        self.nce_weight = nce_weight
        self.identity = identity
        self.gan = LeastSquaresGANLoss()
        self.patches = PatchNCELoss(temperature)

    def adversarial(self, fake_scores: torch.Tensor) -> torch.Tensor:
        """Return the weighted adversarial term."""
        return self.adversarial_weight * self.gan.generator(fake_scores)

    def contrast(self, queries: Sequence[torch.Tensor], keys: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the weighted contrastive term of one modality: the mean over its feature layers."""
        layers = [self.patches(query, key) for query, key in zip(queries, keys, strict=True)]
        return self.nce_weight * (0.5 if self.identity else 1.0) * torch.stack(layers).mean()
