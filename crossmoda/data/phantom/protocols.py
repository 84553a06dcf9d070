"""How each site scanned: sequence, spacing, matrix and imperfections, drawn per case where a site's practice varied.

Spacings and matrices are the challenge's own (the data description of its site); sequence timings are typical of the
named sequences on such scanners, since the challenge does not state them. The echo times of 3D-TSE are those of equal
contrast in a plain spin echo, about half the nominal ones, since low refocusing angles store magnetisation along the
field (R. F. Busse et al., MRM 55, 2006).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossmoda.data.phantom.sequences import BalancedSteadyState, Mprage, Sequence, SpoiledGradientEcho, TurboSpinEcho

SITES_OF_EDITION = {"2021": ("ldn",), "2022": ("ldn", "etz"), "2023": ("etz", "ldn", "ukm")}
MODALITIES = ("ceT1", "hrT2")


@dataclass(frozen=True)
class Protocol:
    """Describe one scan of one modality at one site.

    ``signal_to_noise`` is white matter's signal over the noise's standard deviation in one channel; ``point_spread`` is
    the in-plane blur's standard deviation in voxels; ``bias`` is the relative amplitude of the receive field's
    variation; ``artery_flow`` and ``vein_flow`` are the share of signal that moving blood keeps; ``orientation`` holds
    the axis codes of the voxel order on disk.
    """

    site: str
    modality: str
    sequence: Sequence
    spacing_mm: tuple[float, float, float]
    matrix: tuple[int, int, int]
    signal_to_noise: float
    point_spread: float
    bias: float
    artery_flow: float
    vein_flow: float
    contrast_agent: bool
    slab_fade: bool
    orientation: str = "LPS"
    field_t: float = 1.5


def draw_protocol(site: str, modality: str, rng: np.random.Generator) -> Protocol:
    """Draw the scan protocol of one case.

    Args:
        site: ``ldn`` (London), ``etz`` (Tilburg) or ``ukm`` (UK multi-centre).
        modality: ``ceT1`` or ``hrT2``.
        rng: decides among the variants that a site used.

    Raises:
        KeyError: there is no such site or modality.
    """
    return _DRAW[site, modality](rng)


def _london_cet1(rng: np.random.Generator) -> Protocol:
    thickness = float(rng.choice([1.0, 1.5], p=[0.15, 0.85]))
    sequence = Mprage(1900, float(rng.uniform(1050, 1150)), 8.0, 3.4, 15, 112)
    return Protocol("ldn", "ceT1", sequence, (0.41015625, 0.41015625, thickness), (512, 512, round(180 / thickness)),
                    float(rng.uniform(14, 22)), 0.7, 0.15, 1.0, 1.0, True, False)  # fmt: skip


def _london_hrt2(rng: np.random.Generator) -> Protocol:
    matrix = int(rng.choice([384, 448]))
    in_plane = 210 / matrix
    thickness = float(rng.choice([1.0, 1.5]))
    sequence = BalancedSteadyState(9.4, 4.2, float(rng.uniform(60, 70)))
    return Protocol("ldn", "hrT2", sequence, (in_plane, in_plane, thickness), (matrix, matrix, round(80 / thickness)),
                    float(rng.uniform(6.5, 9)), 0.5, 0.2, 0.12, 0.35, False, True)  # fmt: skip


def _tilburg_cet1(rng: np.random.Generator) -> Protocol:
    sequence = SpoiledGradientEcho(25, 4.6, float(rng.uniform(28, 32)))
    return Protocol("etz", "ceT1", sequence, (0.8, 0.8, 1.5), (256, 256, 100),
                    float(rng.uniform(22, 32)), 0.5, 0.1, 1.15, 1.0, True, True, orientation="RAS")  # fmt: skip


def _tilburg_hrt2(rng: np.random.Generator) -> Protocol:
    sequence = TurboSpinEcho(2500, float(rng.uniform(130, 160)), 300)
    return Protocol("etz", "hrT2", sequence, (0.4, 0.4, 1.0), (512, 512, 60),
                    float(rng.uniform(11, 16)), 0.75, 0.12, 0.03, 0.1, False, True, orientation="RAS")  # fmt: skip


def _multicentre_grid(rng: np.random.Generator) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Return (spacing, matrix): field of view about 200 mm in plane, slices of 0.8 to 3.5 mm."""
    matrix = int(rng.choice([256, 288, 320, 448]))
    in_plane = float(rng.uniform(190, 220)) / matrix
    thickness = float(rng.choice([0.8, 1.0, 1.5, 2.0, 3.0, 3.5], p=[0.1, 0.3, 0.25, 0.15, 0.1, 0.1]))
    return (in_plane, in_plane, thickness), (matrix, matrix, round(float(rng.uniform(70, 110)) / thickness))


def _multicentre_cet1(rng: np.random.Generator) -> Protocol:
    spacing, matrix = _multicentre_grid(rng)
    sequence: Sequence = SpoiledGradientEcho(float(rng.uniform(18, 30)), 4.5, float(rng.uniform(22, 32)))
    if rng.random() < 0.4:
        sequence = Mprage(2000, float(rng.uniform(900, 1150)), 8.0, 3.2, 12, 128)
    return Protocol("ukm", "ceT1", sequence, spacing, matrix, float(rng.uniform(12, 30)), float(rng.uniform(0.4, 0.8)),
                    float(rng.uniform(0.1, 0.3)), 1.0, 1.0, True, True,
                    orientation=str(rng.choice(["LPS", "RAS", "LAS"])), field_t=_draw_field(rng))  # fmt: skip


def _multicentre_hrt2(rng: np.random.Generator) -> Protocol:
    spacing, matrix = _multicentre_grid(rng)
    sequence: Sequence = BalancedSteadyState(float(rng.uniform(5, 11)), 2.5, float(rng.uniform(45, 65)))
    if rng.random() < 0.45:
        sequence = TurboSpinEcho(float(rng.uniform(1800, 4000)), float(rng.uniform(100, 180)), 300)
    return Protocol("ukm", "hrT2", sequence, spacing, matrix, float(rng.uniform(6, 14)), float(rng.uniform(0.4, 0.8)),
                    float(rng.uniform(0.1, 0.3)), float(rng.uniform(0.03, 0.2)), 0.3, False, True,
                    orientation=str(rng.choice(["LPS", "RAS", "LAS"])), field_t=_draw_field(rng))  # fmt: skip


def _draw_field(rng: np.random.Generator) -> float:
    return float(rng.choice([1.0, 1.5, 3.0], p=[0.1, 0.7, 0.2]))


_DRAW = {
    ("ldn", "ceT1"): _london_cet1,
    ("ldn", "hrT2"): _london_hrt2,
    ("etz", "ceT1"): _tilburg_cet1,
    ("etz", "hrT2"): _tilburg_hrt2,
    ("ukm", "ceT1"): _multicentre_cet1,
    ("ukm", "hrT2"): _multicentre_hrt2,
}
