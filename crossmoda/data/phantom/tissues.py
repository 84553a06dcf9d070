"""What tissues are made of: relaxation times and proton density at 1.5 T, and what gadolinium does to them.

Centre values: a G. J. Stanisz et al., MRM 54, 2005 (1.5 T: white and grey matter, muscle, blood, optic nerve);
b C. de Bazelaire et al., Radiology 230, 2004 (1.5 T: subcutaneous fat, bone marrow, muscle); c common textbook values
(cerebrospinal fluid, cortical bone); d chosen here, so that the contrasts span what the challenge's papers describe and
the real volumes show (tumour, dura, mucosa, fluid of the inner ear). Spreads are the relative standard deviations
between patients, chosen (d).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

# Relaxivity of gadolinium chelates in plasma at 1.5 T and 37 C, L/(mmol s): M. Rohrer et al., Invest. Radiol. 40, 2005
# (gadopentetate 4.1 and 4.6; gadoterate 3.6 and 4.3).
R1_PER_MMOL_S = 4.1
R2_PER_MMOL_S = 4.6

REFERENCE_FIELD_T = 1.5


@dataclass(frozen=True)
class Tissue:
    """Hold a tissue's T1 and T2 (ms, 1.5 T, before contrast), proton density (water = 1) and gadolinium (mmol/L)."""

    t1: float
    t2: float
    pd: float
    gadolinium: float = 0.0


@dataclass(frozen=True)
class TissueRange:
    """Hold a tissue's centre values and how far patients scatter about them (relative standard deviations)."""

    centre: Tissue
    t1_spread: float = 0.03
    t2_spread: float = 0.04
    uptake_spread: float = 0.15


TISSUES: dict[str, TissueRange] = {
    "air": TissueRange(Tissue(1000, 1, 0.0), 0, 0, 0),
    "bone": TissueRange(Tissue(250, 0.8, 0.15), 0, 0, 0),  # c: compact bone, decays before any echo
    "marrow": TissueRange(Tissue(549, 49, 0.60, 0.10), 0.15, 0.1),  # b
    "fat": TissueRange(Tissue(343, 58, 0.90), 0.05, 0.1),  # b
    "muscle": TissueRange(Tissue(1008, 44, 0.85, 0.10)),  # a, b
    "gland": TissueRange(Tissue(700, 60, 0.85, 0.15), 0.1, 0.1),  # d: parotid, half fat
    "mucosa": TissueRange(Tissue(1200, 90, 0.90, 0.55), 0.1, 0.2),  # d
    "csf": TissueRange(Tissue(4000, 2000, 1.0), 0.02, 0.05),  # c
    "white": TissueRange(Tissue(650, 72, 0.70, 0.02)),  # T2 a; T1 c (a: 884, beside which grey matter would not darken)
    "grey": TissueRange(Tissue(1124, 95, 0.80, 0.03)),  # a
    "nerve": TissueRange(Tissue(815, 77, 0.72, 0.03)),  # a, optic nerve
    "dura": TissueRange(Tissue(1000, 45, 0.65, 0.55), 0.1, 0.1, 0.25),  # d
    "artery": TissueRange(Tissue(1441, 290, 0.85, 0.80)),  # a, some minutes after 0.1 mmol/kg
    "vein": TissueRange(Tissue(1441, 180, 0.85, 0.75)),  # a, less oxygen
    "perilymph": TissueRange(Tissue(3500, 1300, 0.95), 0.08, 0.25),  # d: protein shortens both
    "tumour_dense": TissueRange(Tissue(1150, 118, 0.85, 0.52), 0.08, 0.25, 0.22),  # d: Antoni A
    "tumour_loose": TissueRange(Tissue(1650, 240, 0.93, 0.38), 0.1, 0.25, 0.25),  # d: Antoni B
    "cyst": TissueRange(Tissue(3000, 900, 0.98, 0.03), 0.1, 0.3),  # d
}


def draw_tissues(rng: np.random.Generator) -> dict[str, Tissue]:
    """Draw one patient's tissues, each quantity log-normal about its centre value."""
    drawn = {}
    for name, tissue_range in TISSUES.items():
        spreads = [tissue_range.t1_spread, tissue_range.t2_spread, tissue_range.uptake_spread]
        factors = np.exp(rng.standard_normal(3) * spreads)
        centre = tissue_range.centre
        drawn[name] = Tissue(
            t1=round(float(centre.t1 * factors[0]), 1),
            t2=round(float(centre.t2 * factors[1]), 2),
            pd=centre.pd,
            gadolinium=round(float(centre.gadolinium * factors[2]), 4),
        )
    return drawn


def with_gadolinium(tissue: Tissue, concentration_mmol: float) -> Tissue:
    """Return the tissue with its relaxation shortened by gadolinium: 1/T = 1/T0 + r C, for T1 and T2 alike."""
    rate1 = 1 / tissue.t1 + R1_PER_MMOL_S * concentration_mmol / 1000
    rate2 = 1 / tissue.t2 + R2_PER_MMOL_S * concentration_mmol / 1000
    return replace(tissue, t1=1 / rate1, t2=1 / rate2)


def at_field(tissue: Tissue, field_t: float) -> Tissue:
    """Return the tissue at another field strength: T1 grows with the cube root of the field, T2 hardly changes.

    P. A. Bottomley et al., Med. Phys. 11, 1984, find exponents of 0.3 to 0.4 for soft tissue between 1 and 100 MHz.
    """
    return replace(tissue, t1=tissue.t1 * (field_t / REFERENCE_FIELD_T) ** (1 / 3))
