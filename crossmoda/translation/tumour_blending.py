"""Tumour blending augmentation: a structure made darker or brighter, then blended in by a SinGAN (recipe card B).

Pseudo-hrT2 volumes are float32 (X, Y, Z) in [0, 1] on their ceT1's grid. All work is done on the native axial slices
that show the structure; only for the SinGAN, which knows patches of one pixel size, is a slice resized in plane, and
what comes back onto the native slice is the change alone. Slices without the structure, and voxels that the blurred
mask does not reach, therefore keep their very bits, which resampling the volume there and back would not leave them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import disk

from crossmoda.data.sites import require_sites
from crossmoda.data.volumes import Volume, spacing_mm
from crossmoda.errors import CrossmodaError, did_you_mean
from crossmoda.files import hash_of
from crossmoda.labels import STRUCTURES
from crossmoda.translation.singan import NoiseSource, SinGAN, resize

PLAN = "tumour_blending.json"  # beside the volumes: who was altered how, and why others were not
_BLUR_REACH = 4.0  # standard deviations after which the Gaussian is cut off


@dataclass(frozen=True)
class BlendingRule:
    """Which cases are altered in which structure, how, and from which scales the result is blended in.

    Args:
        name: unique among the rules.
        structure: its label's name.
        lambdas: factors of the structure's intensities on [0, 1], above 0.
        scales: of the pyramid from which harmonisation starts; a volume for each.
        site: of the case, or None for all.
        volume_above_mm3: the structure must be larger, or None.
        volume_below_mm3: the structure must be smaller, or None.
        std_above: the standard deviation of its intensities on [0, 1] must be larger, or None.

    Raises:
        CrossmodaError: a structure that nobody knows, no factor, or one that is not a number above 0.
    """

    name: str
    structure: str
    lambdas: Sequence[float]
    scales: Sequence[int] = ()
    site: str | None = None
    volume_above_mm3: float | None = None
    volume_below_mm3: float | None = None
    std_above: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.structure not in STRUCTURES:
            raise CrossmodaError(
                f"rule {self.name}: structure '{self.structure}' is unknown; choose {', '.join(STRUCTURES)}"
            )
        if not self.lambdas or not all(_is_positive(factor) for factor in self.lambdas):
            raise CrossmodaError(f"rule {self.name}: lambdas {list(self.lambdas)} must be one or more numbers above 0")

    def refusal(self, site: str, volume_mm3: float, intensity_std: float) -> str | None:
        """Return why a case with such a structure is left out, or None where it is selected."""
        if volume_mm3 == 0:
            return f"no {self.structure} in the label"
        if self.site is not None and site != self.site:
            return f"site {site}, not {self.site}"
        if self.volume_above_mm3 is not None and volume_mm3 <= self.volume_above_mm3:
            return f"{volume_mm3:.0f} mm3, not above {self.volume_above_mm3:g}"
        if self.volume_below_mm3 is not None and volume_mm3 >= self.volume_below_mm3:
            return f"{volume_mm3:.0f} mm3, not below {self.volume_below_mm3:g}"
        if self.std_above is not None and intensity_std <= self.std_above:
            return f"standard deviation {intensity_std:.3f}, not above {self.std_above:g}"
        return None


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def read_rules(rules: Sequence[dict[str, Any]]) -> list[BlendingRule]:
    """Build rules from a configuration's dictionaries.

    Raises:
        CrossmodaError: there is none, two have one name, a key is unknown or missing, or a rule is impossible.
    """
    known = [field.name for field in fields(BlendingRule)]
    built = []
    for index, rule in enumerate(rules):
        for key in rule:
            if key not in known:
                raise CrossmodaError(f"rules[{index}]: no such key '{key}'; {did_you_mean(key, known)}")
        missing = [key for key in ("name", "structure", "lambdas") if key not in rule]
        if missing:
            raise CrossmodaError(f"rules[{index}]: {', '.join(missing)} missing; the keys are {', '.join(known)}")
        built.append(BlendingRule(**rule))
    names = [rule.name for rule in built]
    if not names or len(set(names)) < len(names):
        raise CrossmodaError(f"rules {names}: give one or more, each with a name of its own")
    return built


def require_rule_sites(rules: Sequence[BlendingRule], items: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that there are labelled cases of every site that a rule is about.

    Raises:
        CrossmodaError: there are none of a site, so that the rule would select nobody.
    """
    for rule in rules:
        require_sites(f"rules: site of {rule.name}", [rule.site], items, "labelled source (ceT1)")


def require_scales(rules: Sequence[BlendingRule], network: SinGAN) -> None:
    """Make sure that every rule starts from scales that a pyramid has.

    Raises:
        CrossmodaError: a rule has no scale, or one that the pyramid lacks.
    """
    for rule in rules:
        if not rule.scales:
            raise CrossmodaError(f"rule {rule.name}: name the scales to harmonise from, or set harmonise to false")
        for scale in rule.scales:
            network.require_scale(scale)


def alter(image: NDArray[np.float32], mask: NDArray[np.bool_], factor: float) -> NDArray[np.float32]:
    """Return a copy of an image in [0, 1] whose voxels inside the mask are multiplied and kept in [0, 1]."""
    altered = image.copy()
    altered[mask] = np.clip(image[mask] * np.float32(factor), 0.0, 1.0)
    return altered


def blending_mask(mask: NDArray[np.bool_], dilation_pixels: int = 7, sigma_pixels: float = 5.0) -> NDArray[np.float32]:
    """Return a mask (X, Y) of a slice widened by a disk, blurred, and stretched to [0, 1] (SinGAN's harmonisation).

    Args:
        mask: not empty.
        dilation_pixels: radius of the disk.
        sigma_pixels: standard deviation of the Gaussian; beyond four of them it is exactly 0.
    """
    widened = ndimage.binary_dilation(mask, structure=disk(dilation_pixels)).astype(np.float64)
    blurred = ndimage.gaussian_filter(widened, sigma_pixels, mode="nearest", truncate=_BLUR_REACH)
    low, high = blurred.min(), blurred.max()
    if high == low:  # the disk covers the whole slice
        return np.ones(mask.shape, np.float32)
    return np.asarray((blurred - low) / (high - low), dtype=np.float32)


def noise_for(seed: int, case: str, structure: str, factor: float, scale: int) -> NoiseSource:
    """Return a source of noise that depends on these alone, whatever has been harmonised before."""
    digest = hash_of([int(seed), case, structure, float(factor), int(scale)])
    return NoiseSource(int(digest[:8], 16) % (2**32 - 1))


@dataclass(frozen=True)
class Blending:
    """How an altered structure is blended into its surroundings.

    Args:
        network: a trained pyramid.
        pixel_mm: of the slice that it was trained on, (x, y).
        dilation_pixels: radius of the disk that widens the structure's mask, in such pixels.
        sigma_pixels: standard deviation of the Gaussian that blurs it, in such pixels.
        device: where the network is.
    """

    network: SinGAN
    pixel_mm: Sequence[float]
    dilation_pixels: int = 7
    sigma_pixels: float = 5.0
    device: torch.device | str = "cpu"

    def volume(self, altered: Volume, mask: NDArray[np.bool_], scale: int, noise: NoiseSource) -> NDArray[np.float32]:
        """Return a volume's voxels with every axial slice that shows the structure harmonised about it.

        Args:
            altered: in [0, 1], on any axes; axial is what lies nearest to it in RAS.
            mask: of the structure, of the same shape, in the same order.
            scale: of the pyramid from which harmonisation starts.
            noise: where the noise comes from.

        Returns:
            float32 in the file's own order; a new array.
        """
        orientation = nib.orientations.io_orientation(altered.affine)
        blended = altered.array.copy()
        axial, shown = (nib.orientations.apply_orientation(array, orientation) for array in (blended, mask))
        spacing = spacing_mm(altered.affine @ nib.orientations.inv_ornt_aff(orientation, altered.shape))
        window = _window((axial > 0) | shown)
        for z in np.flatnonzero(shown.any(axis=(0, 1))):
            place = (*window, int(z))
            axial[place] = self._slice(axial[place], shown[place], spacing[:2], scale, noise)
        back = nib.orientations.ornt_transform(_RAS, orientation)
        return np.ascontiguousarray(nib.orientations.apply_orientation(axial, back))

    def _slice(
        self, altered: NDArray[Any], mask: NDArray[Any], spacing: NDArray[Any], scale: int, noise: NoiseSource
    ) -> NDArray[np.float32]:
        """Return one native slice (X, Y) in [0, 1], changed where the blurred mask reaches and nowhere else."""
        native = mask.shape
        size = [
            max(round(n * float(s) / float(pixel)), 1)
            for n, s, pixel in zip(native, spacing, self.pixel_mm, strict=True)
        ]
        pixels = resize(_tensor(altered), size) * 2 - 1
        # A pixel that holds any of the structure belongs to it: a cochlea must not vanish between coarser pixels.
        covered = F.adaptive_max_pool2d(_tensor(mask), size)[0, 0].numpy() > 0
        weight = torch.from_numpy(blending_mask(covered, self.dilation_pixels, self.sigma_pixels))
        harmonised = self.network.harmonise(pixels.clamp(-1, 1).to(self.device), scale, noise).cpu()
        change = resize(weight * (harmonised - pixels) / 2, native)[0, 0].numpy()
        return np.where(change == 0, altered, np.clip(altered + change, 0.0, 1.0)).astype(np.float32)


_RAS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])  # nibabel's orientation of axes that need no change


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None, None]


def _window(shown: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the columns and rows of (X, Y, Z) that hold anything: the translator leaves 0 outside its window."""
    x, y = (np.flatnonzero(shown.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    return slice(int(x[0]), int(x[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1)
