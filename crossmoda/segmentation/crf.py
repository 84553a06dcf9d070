"""A dense conditional random field: probabilities drawn onto the image's edges (step 5 of card A of the recipes)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import TransformBackends, convert_to_dst_type

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.anatomy import spacing_of
from crossmoda.segmentation.geometry import box_of, require_same_grid

TINY = 1e-12  # below any sum of weights that counts; keeps a voxel like no other in its window from 0 / 0

Radii = tuple[int, int, int]


class DenseCRF(Transform):
    """Refine class probabilities by the image: neighbours, above all those of like signal, shall have one label.

    Mean-field inference in the fully connected model of Kraehenbuehl and Koltun 2011 with Potts compatibility. The
    energy has a Gaussian kernel of position (smoothness) and one of position and signal (bilateral). Each class gets

        log p + smoothness_weight * S(q) + bilateral_weight * B(q),    q = softmax over classes,

    where S and B are the kernels' weighted means over the other voxels of a window, and q starts as p, ``iterations``
    times over. The window ends ``truncation`` standard deviations from its centre, along each axis by itself: what lies
    farther is left out, which is what makes it feasible without a compiled library.

    Wu 2021 uses SimpleCRF and gives no parameters; the defaults are its 3D demo's, whose standard deviations are in
    voxels. Work is done in the box about all voxels where a structure is at least ``least_probability`` likely, grown
    by the window, so that time grows with that box and with the window: as the cube of ``truncation``.
    Not random; not invertible.

    Args:
        iterations: of the mean field, at least 1.
        smoothness_weight: at least 0.
        smoothness_std: along x, y, z, in ``unit``.
        bilateral_weight: at least 0.
        bilateral_std: of positions, along x, y, z, in ``unit``.
        intensity_std: of signal, on a scale on which the image's ``percentiles`` are 0 and 255.
        softening: share of the uniform distribution mixed into the probabilities first, from 0 to below 1; it lets the
            field overrule a network that is too sure.
        unit: "voxel" or "mm", of the two standard deviations.
        truncation: half of the window's width in standard deviations.
        percentiles: of the image, lower and upper; beyond them the signal is clipped.
        least_probability: from 0 to 1; with 0 the whole volume is worked on.

    Raises:
        CrossmodaError: a setting is not in its range; at a call, probabilities and image do not lie on one grid, or
            what is given are no probabilities.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        iterations: int = 2,
        smoothness_weight: float = 2.0,
        smoothness_std: Sequence[float] = (5.0, 5.0, 5.0),
        bilateral_weight: float = 3.0,
        bilateral_std: Sequence[float] = (5.0, 5.0, 5.0),
        intensity_std: float = 5.0,
        softening: float = 0.2,
        unit: str = "voxel",
        truncation: float = 1.0,
        percentiles: Sequence[float] = (0.1, 99.9),
        least_probability: float = 0.01,
    ) -> None:
        self.iterations = iterations
        self.smoothness_weight, self.smoothness_std = smoothness_weight, tuple(smoothness_std)
        self.bilateral_weight, self.bilateral_std = bilateral_weight, tuple(bilateral_std)
        self.intensity_std, self.softening, self.unit = intensity_std, softening, unit
        self.truncation, self.percentiles = truncation, tuple(percentiles)
        self.least_probability = least_probability
        for wrong, rule in (
            (iterations < 1, f"iterations is {iterations}, but must be at least 1"),
            (min(smoothness_weight, bilateral_weight) < 0, "weights must not be below 0"),
            (len(self.smoothness_std) != 3 or len(self.bilateral_std) != 3, "give a standard deviation for x, y and z"),
            (min(*smoothness_std, *bilateral_std, intensity_std, truncation) <= 0, "stds and truncation must exceed 0"),
            (not 0 <= softening < 1, f"softening is {softening}, but must be from 0 to below 1"),
            (unit not in ("voxel", "mm"), f"unit is '{unit}', but must be voxel or mm"),
            (len(self.percentiles) != 2, "give two percentiles"),
            (not 0 <= least_probability < 1, f"least_probability is {least_probability}, but must be from 0 to 1"),
        ):
            if wrong:
                raise CrossmodaError(f"DenseCRF: {rule}")

    def __call__(  # type: ignore[override]
        self, probabilities: torch.Tensor, image: torch.Tensor
    ) -> torch.Tensor:
        """Return refined probabilities (C, X, Y, Z) that sum to 1; outside the box they are those given.

        Args:
            probabilities: (C, X, Y, Z), background first; where all are 0, as outside a crop window, it is background.
            image: (1, X, Y, Z) on the same grid, of any scale.
        """
        self._require_inputs(probabilities, image)
        refined = _plain(probabilities).float().clone()
        refined[0] = 1 - refined[1:].sum(dim=0)
        smooth, bilateral = (self._in_voxels(std, probabilities) for std in (self.smoothness_std, self.bilateral_std))
        margins = [max(pair) for pair in zip(self._radii(smooth), self._radii(bilateral), strict=True)]
        box = box_of(1 - refined[0] >= self.least_probability, margins)
        if box is not None:
            signal = _plain(image)[0][box].to(refined)
            signal = _to_255(signal, *np.percentile(_plain(image).cpu().numpy(), self.percentiles))
            inside = (slice(None), *box)
            refined[inside] = self._mean_field(refined[inside], signal, smooth, bilateral)
        return convert_to_dst_type(refined, probabilities, dtype=torch.float32)[0]

    def _require_inputs(self, probabilities: torch.Tensor, image: torch.Tensor) -> None:
        if probabilities.ndim != 4 or len(probabilities) < 2 or len(image) != 1:
            raise CrossmodaError(
                f"DenseCRF: probabilities of shape {tuple(probabilities.shape)} and an image of shape "
                f"{tuple(image.shape)}; (C, X, Y, Z) with background first and (1, X, Y, Z) are needed"
            )
        require_same_grid(probabilities, image, "DenseCRF: probabilities and image")
        if float(probabilities.min()) < -1e-3 or float(probabilities[1:].sum(dim=0).max()) > 1 + 1e-3:
            raise CrossmodaError("DenseCRF: values beyond 0 to 1 are no probabilities; put a softmax before it")

    def _in_voxels(self, std: Sequence[float], image: torch.Tensor) -> tuple[float, ...]:
        sizes = spacing_of(image) if self.unit == "mm" else (1.0, 1.0, 1.0)
        return tuple(value / size for value, size in zip(std, sizes, strict=True))

    def _radii(self, std: Sequence[float]) -> Radii:
        x, y, z = (int(self.truncation * value + 1e-6) for value in std)
        return (x, y, z)

    def _mean_field(
        self, probabilities: torch.Tensor, signal: torch.Tensor, smooth: Sequence[float], bilateral: Sequence[float]
    ) -> torch.Tensor:
        """Return the marginals (C, X, Y, Z); inside, the longest axis is the last, along which memory is read."""
        order = sorted(range(3), key=lambda axis: signal.shape[axis])
        back = [order.index(axis) for axis in range(3)]
        signal = signal.permute(*order).contiguous()
        smooth, bilateral = [smooth[axis] for axis in order], [bilateral[axis] for axis in order]
        classes = len(probabilities)
        softened = (1 - self.softening) * probabilities.clamp(0, 1) + self.softening / classes
        unary = softened.permute(0, *(axis + 1 for axis in order)).contiguous().clamp_(min=TINY).log_()
        marginals = unary.softmax(dim=0)
        for _ in range(self.iterations):
            energy = unary.clone()
            if self.smoothness_weight:
                energy += self.smoothness_weight * smoothness_message(marginals, smooth, self._radii(smooth))
            if self.bilateral_weight:
                radii = self._radii(bilateral)
                message = bilateral_message(marginals, signal, bilateral, self.intensity_std, radii)
                energy += self.bilateral_weight * message
            marginals = energy.softmax(dim=0)
        return marginals.permute(0, *(axis + 1 for axis in back))


class DenseCRFd(MapTransform):
    """Dictionary twin of ``DenseCRF``.

    Args:
        keys: of class probabilities (C, X, Y, Z).
        image_key: of the image (1, X, Y, Z) on the same grid.
        allow_missing_keys: skip keys that an item lacks.
        settings: those of ``DenseCRF``.
    """

    backend = DenseCRF.backend

    def __init__(
        self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False, **settings: Any
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key
        self.refine = DenseCRF(**settings)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of the item with refined probabilities."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.refine(item[key], item[self.image_key])
        return item


def smoothness_message(marginals: torch.Tensor, std: Sequence[float], radii: Radii) -> torch.Tensor:
    """Return the Gaussian-weighted mean of the other voxels' marginals (C, X, Y, Z) within a window.

    Args:
        marginals: (C, X, Y, Z).
        std: in voxels along each axis.
        radii: of the window, in voxels; one end of the volume is no reason to count fewer, so what is there counts.
    """
    sums, weights = marginals[:, None], torch.ones_like(marginals[:1, None])
    for axis, (deviation, radius) in enumerate(zip(std, radii, strict=True)):
        steps = torch.arange(-radius, radius + 1, device=marginals.device, dtype=marginals.dtype)
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = len(steps)
        kernel = torch.exp(-0.5 * (steps / deviation) ** 2).reshape(shape)
        padding = [radius if other == axis else 0 for other in range(3)]
        sums, weights = F.conv3d(sums, kernel, padding=padding), F.conv3d(weights, kernel, padding=padding)
    return (sums[:, 0] - marginals) / (weights[:, 0] - 1).clamp_(min=TINY)  # without the voxel itself


def bilateral_message(
    marginals: torch.Tensor, signal: torch.Tensor, std: Sequence[float], intensity_std: float, radii: Radii
) -> torch.Tensor:
    """Return the mean of the other voxels' marginals (C, X, Y, Z) within a window, weighted by distance and signal.

    Each pair of voxels is looked at once, for both of them. The background's share is what the others leave.

    Args:
        marginals: (C, X, Y, Z), summing to 1.
        signal: (X, Y, Z).
        std: of positions, in voxels along each axis.
        intensity_std: of the signal, in its own unit.
        radii: of the window, in voxels.
    """
    maps = torch.cat([torch.ones_like(marginals[:1]), marginals[1:]])
    sums = torch.zeros_like(maps)
    for shift, here, there in _half_window(radii, signal.shape):
        exponent = -0.5 * sum((step / deviation) ** 2 for step, deviation in zip(shift, std, strict=True))
        weight = (signal[there] - signal[here]).square_().mul_(-0.5 / intensity_std**2).add_(exponent).exp_()
        here, there = (slice(None), *here), (slice(None), *there)
        sums[here].addcmul_(weight, maps[there])
        sums[there].addcmul_(weight, maps[here])
    total = sums[0].clone()
    sums[0] -= sums[1:].sum(dim=0)
    return sums.div_(total.clamp_(min=TINY))


def _half_window(
    radii: Radii, shape: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
    """Yield one of each two opposite shifts, and the parts of a volume that it brings onto each other."""
    for shift in product(*(range(-radius, radius + 1) for radius in radii)):
        if shift > (0, 0, 0) and all(abs(step) < size for step, size in zip(shift, shape, strict=True)):
            here = tuple(slice(max(-step, 0), size - max(step, 0)) for step, size in zip(shift, shape, strict=True))
            there = tuple(slice(max(step, 0), size - max(-step, 0)) for step, size in zip(shift, shape, strict=True))
            yield shift, here, there


def _to_255(signal: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Return the signal with ``low`` at 0 and ``high`` at 255, clipped; 0 where they are the same."""
    return (signal - low).mul_(255 / max(high - low, math.ulp(1.0))).clamp_(0, 255)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
