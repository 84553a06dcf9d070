"""What each tissue shines like in one drawn scan: by the sequences' equations over wide ranges, or by no rule at all.

Contrasts that no scanner makes keep a network from trusting the contrast (domain randomisation: B. Billot et al.,
Medical Image Analysis 86, 2023); those that a scanner could make keep it from forgetting what hrT2 looks like.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossmoda.data.phantom.sequences import BalancedSteadyState, Sequence, TurboSpinEcho
from crossmoda.data.phantom.tissues import TISSUES, Tissue, at_field, with_gadolinium
from crossmoda.data.phantom.variety import ADDED_TISSUES
from crossmoda.data.teacher.tissue_maps import TISSUE_GROUPS, TISSUE_NAMES

CENTRES: dict[str, Tissue] = {name: found.centre for name, found in TISSUES.items()} | ADDED_TISSUES
WIDE = ("tumour_dense", "tumour_loose", "cyst", "lesion", "mucosa", "gland", "fat", "marrow", "dura")
GRAINY = ("tumour_dense", "tumour_loose", "fat", "marrow", "muscle", "gland", "mucosa", "lesion", "vein")
BLOOD = ("artery", "vein")
UPTAKE_SPREAD, TISSUE_UPTAKE_SPREAD = 0.4, 0.2  # logarithmic, of dose and time since it was given, and of each tissue


@dataclass(frozen=True)
class Contrast:
    """Hold each tissue's mean signal and the amplitude of its texture, (tissues,) float32, any unit, at least 0."""

    signal: np.ndarray
    texture: np.ndarray


def draw_contrast(
    rng: np.random.Generator, random_share: float = 0.35, agent_share: float = 0.5, free_tumour_share: float = 0.5
) -> Contrast:
    """Draw one scan's contrast.

    Args:
        rng: the only source of randomness.
        random_share: of contrasts without any rule (though tissues of one group mostly resemble each other).
        agent_share: of the others, acquired after gadolinium was given: hrT2 often follows the ceT1 of the same visit,
            and balanced sequences, whose signal falls with T1/T2, then show tumour, blood and dura bright.
        free_tumour_share: of those by the equations, in which the tumour takes any signal from half of brain's to
            fluid's.
    """
    by_rule = rng.random() >= random_share
    signals = _by_sequence(rng, agent_share) if by_rule else _without_rule(rng)
    if by_rule and rng.random() < free_tumour_share:
        low, high = 0.5 * signals["white"], 1.05 * signals["csf"]
        for name in ("tumour_dense", "tumour_loose", "lesion"):
            signals[name] = float(rng.uniform(min(low, high), max(low, high)))
    values = np.array([signals[name] for name in TISSUE_NAMES], np.float32)
    typical = float(np.mean([signals[name] for name in ("white", "grey", "csf")]))
    strength = np.abs(rng.normal(0, 0.05, len(TISSUE_NAMES)))
    for name in GRAINY:
        strength[TISSUE_NAMES.index(name)] = abs(rng.normal(0, 0.2))
    texture = strength * np.sqrt(values * typical)
    return Contrast(values, texture.astype(np.float32))


def _by_sequence(rng: np.random.Generator, agent_share: float) -> dict[str, float]:
    """Return signals of a heavily T2-weighted sequence of any make, of tissues scattered widely about their values."""
    sequence: Sequence = BalancedSteadyState(float(rng.uniform(4, 12)), 2.2, float(rng.uniform(35, 75)))
    if rng.random() < 0.5:
        sequence = TurboSpinEcho(float(rng.uniform(1600, 5000)), float(rng.uniform(80, 240)), 300)
    field_t = float(rng.choice([1.0, 1.5, 3.0], p=[0.1, 0.55, 0.35]))
    uptake = float(np.exp(rng.normal(0, UPTAKE_SPREAD))) if rng.random() < agent_share else 0.0
    signals = {}
    for name, centre in CENTRES.items():
        spread = 0.35 if name in WIDE else 0.12
        t1, t2 = np.exp(rng.normal(0, spread, 2))
        tissue = at_field(Tissue(centre.t1 * t1, centre.t2 * t2, centre.pd), field_t)
        own = float(np.exp(rng.normal(0, TISSUE_UPTAKE_SPREAD)))
        tissue = with_gadolinium(tissue, centre.gadolinium * uptake * own)
        signals[name] = float(sequence.signal(tissue.t1, tissue.t2, tissue.pd))
    refocused = uptake > 0 and isinstance(sequence, BalancedSteadyState)
    for name in BLOOD:  # flowing blood loses signal, but not always, and little where it is bright and refocused
        signals[name] *= float(rng.uniform(0.02, 1.0)) ** (0.5 if refocused else 2.0)
    suppressed = rng.uniform(0.05, 0.5) if rng.random() < 0.25 else np.exp(rng.normal(0.3, 0.5))
    for name in ("fat", "marrow"):  # short pulses refocus fat beyond its T2, suppression takes it away
        signals[name] *= float(suppressed)
    signals["moving_csf"] = signals["csf"] * float(rng.uniform(0.2, 1.0))
    return signals


def _without_rule(rng: np.random.Generator) -> dict[str, float]:
    """Return signals between 0 and 1; in most draws tissues of one group differ little, and bone and air are dark."""
    signals = {name: float(rng.random()) for name in TISSUE_NAMES}
    for group in ("fluid", "brain", "vessel"):
        if rng.random() < 0.8:
            level = rng.random()
            for name in TISSUE_GROUPS[group]:
                signals[name] = float(np.clip(level + rng.normal(0, 0.07), 0, 1.1))
    if rng.random() < 0.85:
        for name in TISSUE_GROUPS["dark"]:
            signals[name] = float(rng.uniform(0, 0.08))
    return signals


def expected_statistics(contrast: Contrast, counts: np.ndarray) -> tuple[float, float, float]:
    """Return (minimum, mean, standard deviation) that standardising a whole scan would find, from its tissues' counts.

    As ``StandardiseForeground``: over what exceeds the minimum by a twentieth of the range.

    Args:
        contrast: of the scan.
        counts: (tissues,) voxels that each tissue is the commonest of.
    """
    there = counts > 0
    signal, weight = contrast.signal[there], counts[there].astype(np.float64)
    lowest, highest = float(signal.min()), float(signal.max())
    above = signal > lowest + 0.05 * (highest - lowest)
    if not above.any():
        return lowest, float(signal.mean()), 1.0
    mean = float(np.average(signal[above], weights=weight[above]))
    inner = contrast.texture[there][above] ** 2
    variance = float(np.average((signal[above] - mean) ** 2 + inner, weights=weight[above]))
    return lowest, mean, max(np.sqrt(variance), 1e-3 * max(highest, 1e-6))
