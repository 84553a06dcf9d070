"""From a tissue map to a patch for training: a place, a pose, a contrast, a scanner; all drawn anew at every look."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import RandomizableTransform
from monai.utils import TransformBackends
from torch.nn import functional as F

from crossmoda.data.phantom.shapes import rotation
from crossmoda.data.teacher.acquisition import draw_acquisition, grains
from crossmoda.data.teacher.clutter import add_clutter, add_outer_layer, move_fluid
from crossmoda.data.teacher.contrast import Contrast, draw_contrast, expected_statistics
from crossmoda.data.teacher.tissue_maps import FIRST, LABEL, LABELS, SECOND, SHARE, WHOLE, group_numbers
from crossmoda.errors import CrossmodaError

MARGIN_VOXELS = 3  # about a region, so that blurring at its edge sees what is there
NARROW = (0.35, 1.0)  # of the patch's width, that of a scan which is cut to less than its map
Centres = Mapping[str, Sequence[Sequence[int]]]  # structure or place to voxels (x, y, z) of a map
ANYWHERE, HEALTHY_CANAL = "anywhere", "healthy_canal"
PLACES = (ANYWHERE, "vs", "cochlea", HEALTHY_CANAL)  # that a patch may lie about
CHANNELS = {"vs": ("intra", "extra"), "cochlea": ("cochlea",), "intra": ("intra",), "extra": ("extra",)}


class RandTissuePatchd(RandomizableTransform):
    """Render a patch (1, X, Y, Z) of a tissue map in the segmenter's working space, with its label and tissue groups.

    A middle is drawn (near a structure or anywhere), and a pose: turned, sheared, scaled, mirrored left-right and bent
    smoothly. The map's region there is rendered on its own grid with a drawn contrast, texture and scanner, then
    sampled at the working spacing, trilinear as ``Spacingd`` does. The image is standardised as the whole scan would
    be; what lies outside the scan gets the scan's minimum, as padding does.

    An item holds what ``teacher_cases`` gives; it gets ``image`` float32, ``label`` uint8 with ``structures[i]`` as
    i + 1, and ``tissue`` uint8, each voxel's place in ``TISSUE_GROUPS`` (all (1, X, Y, Z), RAS).

    Args:
        structures: of the label, among vs, cochlea, intra, extra; in the order of the network's output channels.
        patch_size: voxels (X, Y, Z).
        spacing_mm: working spacing.
        ratios: how often the middle is near each of ``PLACES``; an absent one is never sought. Where a map has no such
            place, a healthy canal is taken, and anywhere where there is none either.
        rotate_deg: largest turn about x, y and z.
        scale: largest relative change of size along each axis.
        shear: largest shear.
        bend_mm: standard deviation of a smooth displacement whose nodes lie ``bend_every_mm`` apart.
        bend_every_mm: see ``bend_mm``.
        random_share: of contrasts without any rule, see ``draw_contrast``.
        agent_share: of the others, of scans after gadolinium, see there.
        faults: whether scanners have faults, see ``draw_acquisition``.
        clutter: whether bone and soft tissue outside the brain are uneven, see ``add_clutter``.
        flow: whether fluid may have moved, see ``move_fluid``.
        layers: whether a tumour's outermost layer may differ, see ``add_outer_layer``.
        narrow_share: of scans that show a part of their map alone, along each axis down to a third of the patch.
        thick_share: of scans in thick slices of any direction, see ``draw_acquisition``.

    Raises:
        CrossmodaError: an unknown structure or place, or ratios that are not positive in sum.
    """

    backend = [TransformBackends.NUMPY, TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        structures: Sequence[str],
        patch_size: Sequence[int],
        spacing_mm: Sequence[float],
        ratios: Mapping[str, float] | None = None,
        rotate_deg: Sequence[float] = (15, 15, 25),
        scale: float = 0.15,
        shear: float = 0.08,
        bend_mm: float = 1.2,
        bend_every_mm: float = 16.0,
        random_share: float = 0.35,
        agent_share: float = 0.5,
        faults: bool = True,
        clutter: bool = True,
        flow: bool = True,
        layers: bool = True,
        narrow_share: float = 0.15,
        thick_share: float = 0.0,
    ) -> None:
        super().__init__(prob=1.0)
        unknown = [name for name in structures if name not in CHANNELS]
        if unknown:
            raise CrossmodaError(f"structure '{unknown[0]}': tissue maps hold {', '.join(CHANNELS)}")
        self.numbers = [[LABELS[part] for part in CHANNELS[name]] for name in structures]
        self.size = np.array(patch_size, int)
        self.spacing = np.array(spacing_mm, float)
        self.ratios = _shares(dict.fromkeys(PLACES[:3], 1.0) if ratios is None else ratios)
        self.rotate_deg, self.scale, self.shear = np.array(rotate_deg, float), scale, shear
        self.bend_mm, self.bend_every_mm = bend_mm, bend_every_mm
        self.random_share, self.agent_share = random_share, agent_share
        self.faults, self.clutter, self.flow, self.layers = faults, clutter, flow, layers
        self.narrow_share, self.thick_share = narrow_share, thick_share
        self.groups = group_numbers()

    def __call__(self, data: Mapping[Any, Any]) -> dict[Hashable, Any]:
        """Return the item with its patch; the tissue map is read from its file where the patch needs it alone."""
        item = dict(data)
        rng = np.random.default_rng(int(self.R.randint(2**31 - 1)))
        voxels = np.load(item.pop("tissue_map"), mmap_mode="r")
        affine, counts = np.array(item.pop("affine")), np.array(item.pop("counts"))
        places = self._places(item.pop("centres"), affine, voxels.shape[1:], rng)
        item.pop("shape", None)
        low = np.maximum(np.floor(places.min(axis=(0, 1, 2))).astype(int) - MARGIN_VOXELS, 0)
        high = np.minimum(np.ceil(places.max(axis=(0, 1, 2))).astype(int) + MARGIN_VOXELS + 1, voxels.shape[1:])
        high = np.maximum(high, low + 1)
        low = np.minimum(low, high - 1)
        region = np.array(voxels[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]])
        contrast = draw_contrast(rng, self.random_share, self.agent_share)
        lowest, mean, deviation = expected_statistics(contrast, counts)
        rendered = self._render(region, contrast, np.linalg.norm(affine[:3, :3], axis=0), mean, rng)
        inside = ((places > -0.5) & (places < np.array(voxels.shape[1:]) - 0.5)).all(axis=-1) & self._view(rng)
        grid = _sampling_grid(places - low, region.shape[1:])
        image = _sample(rendered[None], grid, "bilinear")[0]
        image = np.where(inside, image, lowest)
        item["image"] = torch.as_tensor((image - mean) / deviation, dtype=torch.float32)[None]
        item["label"] = torch.as_tensor(self._label(region[LABEL], grid) * inside)[None]
        groups = self.groups[region[FIRST]]
        item["tissue"] = torch.as_tensor((_sample(groups[None].astype(np.float32), grid, "nearest")[0] * inside)
                                         .astype(np.uint8))[None]  # fmt: skip
        return item

    def _places(
        self,
        centres: Centres,
        affine: np.ndarray,
        shape: Sequence[int],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return where each voxel of the patch lies in the map, in its voxels, (X, Y, Z, 3)."""
        native, ends = np.linalg.norm(affine[:3, :3], axis=0), np.array(shape) - 1.0
        middle = self._middle(centres, shape, rng) + rng.uniform(-0.3, 0.3, 3) * self.size * self.spacing / native
        middle = np.clip(middle, 0, ends)
        turn = rotation(rng.uniform(-1, 1, 3) * self.rotate_deg)
        skew = np.eye(3) + rng.uniform(-self.shear, self.shear, (3, 3)) * (1 - np.eye(3))
        grow = np.exp(rng.uniform(-self.scale, self.scale) + rng.uniform(-self.scale, self.scale, 3) / 2)
        mirror = np.array([-1.0 if rng.random() < 0.5 else 1.0, 1.0, 1.0])
        to_native = (turn @ skew) * (grow * mirror) / native[:, None]
        axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(self.size, self.spacing, strict=True)]
        offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
        return middle + (offsets + self._bend(rng)) @ to_native.T

    def _middle(self, centres: Centres, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
        wanted = str(rng.choice(list(self.ratios), p=list(self.ratios.values())))
        for place in (wanted, HEALTHY_CANAL) if wanted != ANYWHERE else ():
            known = centres.get(place, [])
            if len(known):
                return np.array(known[int(rng.integers(len(known)))], float)
        return rng.uniform(0.2, 0.8, 3) * np.array(shape)

    def _view(self, rng: np.random.Generator) -> np.ndarray:
        """Return which voxels of the patch (X, Y, Z) a scan shows that may be smaller than its map: a box."""
        shown = np.ones(self.size, bool)
        if rng.random() >= self.narrow_share:
            return shown
        kept = np.ceil(rng.uniform(*NARROW, 3) * self.size).astype(int)
        first = [int(rng.integers(n - k + 1)) for n, k in zip(self.size, kept, strict=True)]
        box = tuple(slice(low, low + n) for low, n in zip(first, kept, strict=True))
        shown[:] = False
        shown[box] = True
        return shown

    def _bend(self, rng: np.random.Generator) -> np.ndarray:
        """Return a smooth displacement in mm, (X, Y, Z, 3)."""
        nodes = np.maximum(np.ceil(self.size * self.spacing / self.bend_every_mm).astype(int) + 1, 2)
        strength = self.bend_mm * rng.uniform(0, 1.5)
        coarse = torch.as_tensor(rng.normal(0, strength, (1, 3, *nodes)), dtype=torch.float32)
        fine = F.interpolate(coarse, size=tuple(int(n) for n in self.size), mode="trilinear", align_corners=True)
        return fine[0].permute(1, 2, 3, 0).numpy()

    def _render(
        self, region: np.ndarray, contrast: Contrast, spacing: np.ndarray, mean: float, rng: np.random.Generator
    ) -> np.ndarray:
        share = region[SHARE].astype(np.float32) / WHOLE
        first, second = region[FIRST], region[SECOND]
        signal = share * contrast.signal[first] + (1 - share) * contrast.signal[second]
        amplitude = share * contrast.texture[first] + (1 - share) * contrast.texture[second]
        signal = np.maximum(signal + amplitude * grains(signal.shape, spacing, rng), 0)
        if self.layers:
            tumour = np.isin(region[LABEL], [LABELS["intra"], LABELS["extra"]])
            signal = add_outer_layer(signal, tumour, spacing, rng)
        if self.flow:
            signal = move_fluid(signal, share, first, second, spacing, rng)
        if self.clutter:
            signal = add_clutter(signal, share, first, second, contrast, spacing, rng)
        return draw_acquisition(signal, spacing, mean, rng, self.faults, self.thick_share)

    def _label(self, label: np.ndarray, grid: torch.Tensor) -> np.ndarray:
        """Return the label of the patch, (X, Y, Z) uint8: each structure where it fills at least half."""
        masks = np.stack([np.isin(label, numbers) for numbers in self.numbers]).astype(np.float32)
        shares = _sample(masks, grid, "bilinear")
        result = np.zeros(shares.shape[1:], np.uint8)
        for number, share in enumerate(shares, 1):
            result[share >= 0.5] = number
        return result


def _shares(ratios: Mapping[str, float]) -> dict[str, float]:
    """Return how often each place is sought, 1 in sum."""
    unknown = [name for name in ratios if name not in PLACES]
    if unknown:
        raise CrossmodaError(f"ratios: '{unknown[0]}' is no place in a tissue map; give some of {', '.join(PLACES)}")
    total = float(sum(ratios.values()))
    if total <= 0 or min(ratios.values()) < 0:
        raise CrossmodaError(f"ratios {dict(ratios)}: give numbers from 0 up, one of them above")
    return {name: float(ratio) / total for name, ratio in ratios.items()}


def _sampling_grid(places: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    """Return PyTorch's sampling grid (1, X, Y, Z, 3) of places given in voxels: -1 to 1 between the corner voxels."""
    spans = np.maximum(np.array(shape) - 1, 1)
    return torch.as_tensor((2 * places / spans - 1)[..., ::-1].astype(np.float32))[None]


def _sample(planes: np.ndarray, grid: torch.Tensor, mode: str) -> np.ndarray:
    """Return planes (C, x, y, z) sampled at the grid, (C, X, Y, Z); beyond the edge the edge goes on."""
    volume = torch.as_tensor(np.ascontiguousarray(planes))[None]
    return F.grid_sample(volume, grid, mode=mode, padding_mode="border", align_corners=True)[0].numpy()
