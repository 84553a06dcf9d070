"""Features of slices that need no download: a fixed, two-layer bank of oriented filters on a pyramid.

Distances between sets of images are usually taken between features of a network trained on photographs (Heusel et al.,
NeurIPS 2017). That network would have to be downloaded, the challenge forbids what is trained on other data, and MR
slices are not photographs. What is here instead has no weights: the distribution of grey values, the responses of
oriented Gaussian derivatives (bright and dark lines and blobs told apart, edges), and the same filters once more on
the maps of local energy, which is a wavelet scattering of two layers (Bruna and Mallat, PAMI 2013).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from crossmoda.errors import CrossmodaError

LEVELS = 4  # of the pyramid: structures of about 1, 2, 4 and 8 pixels
ORIENTATIONS = 4  # 0, 45, 90 and 135 degrees
BINS = 8  # of grey values
SMALLEST_SIDE = 3 * 2 ** (LEVELS - 1)  # pixels; the coarsest level is reflected by two pixels beyond its edge
FEATURES = BINS + 3 * ORIENTATIONS * LEVELS + ORIENTATIONS * LEVELS * (LEVELS - 1) // 2
_FLOOR = 1e-2  # added before the logarithm: shares of pixels and responses well below it are not told apart
_RADIUS = 3  # pixels of the filters, whose Gaussian has a standard deviation of one pixel
_FOREGROUND = -0.9  # above 5 % of the range [-1, 1] is not air
_SLICES_AT_ONCE = 16


class SliceFeatures(nn.Module):
    """Describe axial slices by 80 numbers, logarithms of means over the slice; deterministic, without weights.

    Args:
        None. The module has buffers only, so ``.to(device)`` moves it.

    Example:
        ``kernel_distance(SliceFeatures()(pseudo), SliceFeatures()(real))``
    """

    kernels: torch.Tensor
    binomial: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", oriented_kernels(), persistent=False)
        row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        self.register_buffer("binomial", torch.outer(row, row)[None, None], persistent=False)

    @torch.no_grad()
    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Return the features (B, 80) of slices (B, 1, X, Y) in [-1, 1].

        Raises:
            CrossmodaError: another shape, or sides below 24 pixels.
        """
        if slices.ndim != 4 or slices.shape[1] != 1 or min(slices.shape[2:]) < SMALLEST_SIDE:
            raise CrossmodaError(
                f"slices of shape {tuple(slices.shape)}: features need (B, 1, X, Y), both sides {SMALLEST_SIDE} or more"
            )
        level, found = slices.float(), [grey_shares(slices.float())]
        energies: list[torch.Tensor] = []
        for _ in range(LEVELS):
            first, energy = self._respond(level)
            found += [first, *(self._second(deeper) for deeper in energies)]
            energies = [self._coarser(map_) for map_ in [*energies, energy]]
            level = self._coarser(level)
        return torch.log(_FLOOR + torch.cat(found, dim=1))

    def _filter(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return second and first derivatives, (B, C, orientations, X, Y) each, of maps (B, C, X, Y)."""
        flat = maps.flatten(0, 1)[:, None]
        responses = F.conv2d(F.pad(flat, (_RADIUS,) * 4, mode="replicate"), self.kernels)
        lines, edges = responses.unflatten(0, maps.shape[:2]).split(ORIENTATIONS, dim=2)
        return lines, edges

    def _respond(self, level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a level's responses (B, 3 x orientations) and its local energy (B, orientations, X, Y).

        Root mean squares, since bright and dark responses of a filter of sum 0 have the same plain mean.
        """
        lines, edges = (response[:, 0] for response in self._filter(level))
        responses = torch.cat([lines.relu(), (-lines).relu(), edges], dim=1)
        return responses.square().mean(dim=(2, 3)).sqrt(), torch.hypot(lines, edges)

    def _second(self, energy: torch.Tensor) -> torch.Tensor:
        """Return the mean response (B, orientations) to a finer level's energy, by the angle between the two filters.

        Averaging over the first filter's own angle leaves a quarter of the features, and with it a distance that fewer
        slices suffice for.
        """
        responses = torch.hypot(*self._filter(energy)).mean(dim=(3, 4))  # (B, first angle, second angle)
        turned = [responses[:, angle].roll(-angle, dims=1) for angle in range(ORIENTATIONS)]
        return torch.stack(turned).mean(dim=0)

    def _coarser(self, maps: torch.Tensor) -> torch.Tensor:
        """Return maps (B, C, X, Y) at half the resolution (Burt and Adelson 1983)."""
        flat = F.pad(maps.flatten(0, 1)[:, None], (2,) * 4, mode="reflect")
        return F.conv2d(flat, self.binomial, stride=2).unflatten(0, maps.shape[:2])[:, :, 0]


def oriented_kernels() -> torch.Tensor:
    """Return second (the first half) and first derivatives of a Gaussian, (2 x orientations, 1, 7, 7).

    Each has sum 0 and absolute sum 1. A second derivative is positive on lines and blobs brighter than what is around.
    """
    axis = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    gaussian = torch.exp(-(x**2 + y**2) / 2)
    kernels = []
    for derivative in (lambda u: 1 - u**2, lambda u: u):
        for index in range(ORIENTATIONS):
            angle = math.pi * index / ORIENTATIONS
            kernel = derivative(x * math.cos(angle) + y * math.sin(angle)) * gaussian
            kernel = kernel - gaussian * (kernel.sum() / gaussian.sum())
            kernels.append(kernel / kernel.abs().sum())
    return torch.stack(kernels)[:, None].float()


def grey_shares(slices: torch.Tensor) -> torch.Tensor:
    """Return the share of pixels (B, 8) in each of eight overlapping bins; slices are (B, 1, X, Y) in [-1, 1].

    A pixel counts for the two bins about it by its nearness, so that the shares change smoothly with the grey values.
    """
    centres = torch.linspace(-1, 1, BINS, device=slices.device)
    width = 2 / (BINS - 1)
    values = slices.clamp(-1, 1).flatten(1)
    return torch.stack([(1 - (values - c).abs() / width).relu().mean(dim=1) for c in centres], dim=1)


def slices_with_tissue(volume: torch.Tensor, minimum_foreground: float = 0.05) -> torch.Tensor:
    """Return the axial slices (B, 1, X, Y) of a volume (1, X, Y, Z) in [-1, 1] that show more than air.

    Args:
        volume: of which axis z is cut.
        minimum_foreground: least share of a slice's pixels above air, as for training.
    """
    slices = torch.as_tensor(volume).float().permute(3, 0, 1, 2)
    return slices[(slices > _FOREGROUND).float().mean(dim=(1, 2, 3)) >= minimum_foreground]


def volume_features(volume: torch.Tensor, features: SliceFeatures) -> torch.Tensor:
    """Return the features (B, 80) of a volume's axial slices that show more than air; B may be 0."""
    slices = slices_with_tissue(volume)
    if len(slices) == 0:
        return torch.empty(0, FEATURES)
    return torch.cat([features(part).cpu() for part in slices.split(_SLICES_AT_ONCE)])
