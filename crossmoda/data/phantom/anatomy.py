"""One patient as a handful of numbers: drawn at random, written to JSON, the same in every scan."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from crossmoda.data.phantom.ear import Ear, draw_ear
from crossmoda.data.phantom.frame import Frame, Triple, Wave
from crossmoda.data.phantom.tissues import Tissue, draw_tissues
from crossmoda.data.phantom.tumour import Tumour, draw_koos, draw_tumour
from crossmoda.data.phantom.variety import Variety, draw_variety, vary_tumour

HEALTHY_SHARE = 0.2  # of the varied patients: ears without a tumour teach where there is none


@dataclass(frozen=True)
class Patient:
    """Hold everything that tells one patient from another; all scans of a patient are made from it alone.

    Lengths in mm in the patient's frame, angles in degrees. ``marrow_apex`` says whether the petrous apices hold fatty
    marrow, ``pneumatised`` (0..1) how much air the mastoids hold, ``artery_wobble`` how the arteries wind. ``tumour``
    is None in a healthy patient; ``variety`` holds what only varied patients have.
    """

    ears: tuple[Ear, Ear]  # right, left
    tumour: Tumour | None
    tissues: dict[str, Tissue]
    angles_deg: Triple
    shift_mm: Triple
    scale: Triple
    waves: tuple[Wave, ...]
    marrow_apex: bool
    pneumatised: float
    artery_wobble: tuple[float, ...]
    vein_dominance: float
    texture_seed: int
    variety: Variety | None = None

    @property
    def tumour_ear(self) -> Ear:
        """Return the ear that the tumour grew in."""
        if self.tumour is None:
            raise ValueError("this patient has no tumour")
        return self.ears[0] if self.tumour.side > 0 else self.ears[1]

    @property
    def frame(self) -> Frame:
        """Return the map from scanner coordinates to this patient's."""
        return Frame(
            self.angles_deg, self.shift_mm, self.scale, self.waves, self.tumour.push() if self.tumour else None
        )

    def as_json(self) -> dict[str, Any]:
        """Return all parameters as plain numbers, lists and dictionaries."""
        numbers = asdict(self)
        if self.variety is None:
            del numbers["variety"]
            (numbers["tumour"] or {}).pop("erosion", None)
        return numbers


def draw_patient(rng: np.random.Generator, koos: int | None = None) -> Patient:
    """Draw a patient with a vestibular schwannoma on one side.

    Args:
        rng: the only source of randomness.
        koos: the tumour's Koos grade, 1 to 4; None draws it too.

    Raises:
        ValueError: ``koos`` is not 1, 2, 3, 4 or None.
    """
    if koos not in (None, 1, 2, 3, 4):
        raise ValueError(f"koos must be 1, 2, 3, 4 or None, got {koos}")
    grade = draw_koos(rng) if koos is None else koos
    ears = (draw_ear(1, rng), draw_ear(-1, rng))
    tumour = draw_tumour(ears[int(rng.random() < 0.5)], grade, rng)
    return Patient(
        ears=ears,
        tumour=tumour,
        tissues=draw_tissues(rng),
        angles_deg=_triple(rng.normal(0, [4.0, 2.5, 3.5])),
        shift_mm=_triple(rng.normal(0, [4.0, 6.0, 6.0])),
        scale=_triple(np.clip(rng.normal(1, 0.035, 3), 0.91, 1.09)),
        waves=tuple(_draw_wave(rng) for _ in range(3)),
        marrow_apex=bool(rng.random() < 0.4),
        pneumatised=round(float(rng.beta(4, 1.5)), 3),
        artery_wobble=tuple(round(float(v), 3) for v in rng.normal(0, 1.5, 6)),
        vein_dominance=round(float(rng.normal(0.3, 0.6)), 3),
        texture_seed=int(rng.integers(2**31)),
    )


def draw_varied_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient with all the variety that teaches a segmenter for real scans; one in five has no tumour.

    The four Koos grades are drawn alike often, so that small tumours in the canal are not rare.

    Args:
        rng: the only source of randomness.
    """
    plain = draw_patient(rng, int(rng.integers(1, 5)))
    assert plain.tumour is not None
    tumour = None if rng.random() < HEALTHY_SHARE else vary_tumour(plain.tumour, rng)
    variety = draw_variety(tumour, rng)
    return replace(plain, tumour=tumour, variety=variety, tissues={**plain.tissues, **variety.tissues})


def _draw_wave(rng: np.random.Generator) -> Wave:
    """Draw one wave of 60 to 120 mm that moves points by about 1 mm."""
    vector = rng.standard_normal(3)
    vector *= 2 * np.pi / (rng.uniform(60, 120) * np.linalg.norm(vector))
    return Wave(_triple(rng.normal(0, 0.8, 3)), _triple(vector), round(float(rng.uniform(0, 2 * np.pi)), 4))


def _triple(values: np.ndarray) -> Triple:
    return round(float(values[0]), 5), round(float(values[1]), 5), round(float(values[2]), 5)
