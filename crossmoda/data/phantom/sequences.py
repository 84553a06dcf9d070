"""Signal equations of the sequences that the sites used, as functions of tissue relaxation.

All times in ms, angles in degrees. Every ``signal`` returns the magnitude of the transverse magnetisation at the echo
for a tissue of relaxation times ``t1``, ``t2`` and relative proton density ``pd`` (water at body temperature = 1), in
units of the equilibrium magnetisation of water, and accepts scalars or arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Values = float | np.ndarray


@dataclass(frozen=True)
class SpoiledGradientEcho:
    """Spoiled gradient echo (FLASH, 3D-FFE T1): R. R. Ernst and W. A. Anderson, Rev. Sci. Instrum. 37, 1966.

    S = PD sin(a) (1 - E1) / (1 - cos(a) E1) exp(-TE/T2), E1 = exp(-TR/T1). T2 stands for T2*, which is close to it at
    the short echo times used.
    """

    repetition_ms: float
    echo_ms: float
    flip_deg: float

    def signal(self, t1: Values, t2: Values, pd: Values = 1.0) -> Values:
        """Return the steady-state signal."""
        flip = np.deg2rad(self.flip_deg)
        e1 = np.exp(-self.repetition_ms / t1)
        return pd * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-self.echo_ms / t2)


def ernst_angle_deg(repetition_ms: float, t1: float) -> float:
    """Return the flip angle that gives a spoiled gradient echo its greatest signal: arccos(exp(-TR/T1))."""
    return float(np.rad2deg(np.arccos(np.exp(-repetition_ms / t1))))


@dataclass(frozen=True)
class Mprage:
    """Magnetisation-prepared rapid gradient echo: J. P. Mugler and J. R. Brookeman, MRM 15, 1990.

    An inversion, a wait, a train of ``pulses`` spoiled gradient echoes at ``echo_spacing_ms``, and recovery until the
    next inversion after ``repetition_ms``. ``inversion_ms`` is the time from the inversion to the centre of the train,
    where contrast is set. During the train Mz(n+1) = Mz(n) cos(a) E1 + 1 - E1; the steady state of the whole cycle is
    solved exactly as one affine map of Mz (as R. Deichmann et al., NeuroImage 12, 2000, do).
    """

    repetition_ms: float
    inversion_ms: float
    echo_spacing_ms: float
    echo_ms: float
    flip_deg: float
    pulses: int

    def signal(self, t1: Values, t2: Values, pd: Values = 1.0) -> Values:
        """Return the magnitude at the centre of the echo train in the steady state."""
        flip = np.deg2rad(self.flip_deg)
        half = self.pulses // 2
        before = max(self.inversion_ms - half * self.echo_spacing_ms, 0.0)
        after = max(self.repetition_ms - before - self.pulses * self.echo_spacing_ms, 0.0)
        train_keep, train_gain = self._train(t1, self.pulses)
        wait, rest = np.exp(-before / t1), np.exp(-after / t1)
        # Mz before the first pulse = 1 - wait - wait * Mz(end of cycle); Mz(end) = 1 - rest + rest * Mz(end of train).
        start = (1 - wait - wait * (1 - rest + rest * train_gain)) / (1 + wait * rest * train_keep)
        half_keep, half_gain = self._train(t1, half)
        return pd * np.sin(flip) * np.abs(start * half_keep + half_gain) * np.exp(-self.echo_ms / t2)

    def _train(self, t1: Values, pulses: int) -> tuple[Values, Values]:
        """Return (k, g) with Mz after that many pulses = k Mz + g."""
        e1 = np.exp(-self.echo_spacing_ms / t1)
        shrink = np.cos(np.deg2rad(self.flip_deg)) * e1
        keep = shrink**pulses
        return keep, (1 - e1) * (1 - keep) / (1 - shrink)


@dataclass(frozen=True)
class BalancedSteadyState:
    """Balanced SSFP on resonance, which CISS and FIESTA-C approach by combining phase cycles without bands.

    S = PD sin(a) (1 - E1) / (1 - (E1 - E2) cos(a) - E1 E2) exp(-TE/T2): K. Scheffler and S. Lehnhardt, Eur. Radiol. 13,
    2003. For TR much shorter than T1 and T2 it tends to PD sin(a) / (1 + cos(a) + (1 - cos(a)) T1/T2).
    """

    repetition_ms: float
    echo_ms: float
    flip_deg: float

    def signal(self, t1: Values, t2: Values, pd: Values = 1.0) -> Values:
        """Return the steady-state signal."""
        flip = np.deg2rad(self.flip_deg)
        e1, e2 = np.exp(-self.repetition_ms / t1), np.exp(-self.repetition_ms / t2)
        steady = np.sin(flip) * (1 - e1) / (1 - (e1 - e2) * np.cos(flip) - e1 * e2)
        return pd * steady * np.exp(-self.echo_ms / t2)


@dataclass(frozen=True)
class TurboSpinEcho:
    """Turbo (fast) spin echo: S = PD (1 - exp(-(TR - ETL ESP)/T1)) exp(-TE/T2), TE the effective echo time.

    The time left for recovery is what remains of TR after the echo train: R. V. Mulkern et al., Magn. Reson. Imaging 8,
    1990. With a train of no length this is the spin echo.
    """

    repetition_ms: float
    echo_ms: float
    train_ms: float

    def signal(self, t1: Values, t2: Values, pd: Values = 1.0) -> Values:
        """Return the signal of the effective echo."""
        return pd * (1 - np.exp(-(self.repetition_ms - self.train_ms) / t1)) * np.exp(-self.echo_ms / t2)


Sequence = SpoiledGradientEcho | Mprage | BalancedSteadyState | TurboSpinEcho
