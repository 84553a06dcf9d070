import numpy as np
import pytest

from crossmoda.data.phantom.sequences import (
    BalancedSteadyState,
    Mprage,
    SpoiledGradientEcho,
    TurboSpinEcho,
    ernst_angle_deg,
)
from crossmoda.data.phantom.tissues import (
    R1_PER_MMOL_S,
    TISSUES,
    Tissue,
    at_field,
    draw_tissues,
    with_gadolinium,
)


def test_a_fully_recovered_spoiled_echo_is_the_sine_of_the_flip_angle():
    echo = SpoiledGradientEcho(repetition_ms=1e6, echo_ms=0, flip_deg=30)
    assert echo.signal(1000, 80, pd=0.8) == pytest.approx(0.8 * 0.5)


def test_a_90_degree_spoiled_echo_is_saturation_recovery():
    echo = SpoiledGradientEcho(repetition_ms=500, echo_ms=0, flip_deg=90)
    assert echo.signal(1000, 80) == pytest.approx(1 - np.exp(-0.5))


def test_the_echo_time_weights_by_t2():
    short, long = (SpoiledGradientEcho(25, echo, 30).signal(900, 50) for echo in (0, 50))
    assert long / short == pytest.approx(np.exp(-1))


def test_the_ernst_angle_of_tr_equal_t1_ln2_is_60_degrees_and_is_the_maximum():
    # cos(a) = exp(-TR/T1) = 1/2 for TR = T1 ln 2
    angle = ernst_angle_deg(1000 * np.log(2), 1000)
    assert angle == pytest.approx(60)
    signals = [SpoiledGradientEcho(1000 * np.log(2), 0, a).signal(1000, 80) for a in (angle - 1, angle, angle + 1)]
    assert signals[1] == max(signals)
    # sin 60 (1 - 1/2) / (1 - 1/4) by hand
    assert signals[1] == pytest.approx(np.sqrt(3) / 2 * 0.5 / 0.75)


def test_mprage_of_one_pulse_with_full_recovery_is_inversion_recovery():
    sequence = Mprage(1e6, inversion_ms=700, echo_spacing_ms=8, echo_ms=0, flip_deg=90, pulses=1)
    assert sequence.signal(1000, 80) == pytest.approx(abs(1 - 2 * np.exp(-0.7)), rel=1e-6)


def test_mprage_nulls_the_tissue_whose_t1_ln2_is_the_inversion_time():
    sequence = Mprage(1e6, inversion_ms=1000 * np.log(2), echo_spacing_ms=8, echo_ms=0, flip_deg=10, pulses=1)
    assert sequence.signal(1000, 80) == pytest.approx(0, abs=1e-6)


def test_mprage_steady_state_equals_a_step_by_step_simulation():
    t1, s = 900.0, Mprage(1900, 1100, 8, 0, 12, 112)
    relax = lambda mz, ms: 1 - (1 - mz) * np.exp(-ms / t1)  # noqa: E731
    mz, seen = 1.0, 0.0
    before = 1100 - 56 * 8
    for _ in range(30):
        mz = relax(-mz, before)
        for pulse in range(112):
            seen = abs(mz) * np.sin(np.deg2rad(12)) if pulse == 56 else seen
            mz = relax(mz * np.cos(np.deg2rad(12)), 8)
        mz = relax(mz, 1900 - before - 112 * 8)
    assert s.signal(t1, 80) == pytest.approx(seen, rel=1e-9)


def test_bssfp_tends_to_the_t2_over_t1_formula_for_short_repetition():
    flip = np.deg2rad(60)
    expected = np.sin(flip) / (1 + np.cos(flip) + (1 - np.cos(flip)) * 4000 / 2000)
    assert BalancedSteadyState(0.01, 0, 60).signal(4000, 2000) == pytest.approx(expected, rel=1e-4)


def test_bssfp_with_equal_t1_and_t2_at_90_degrees_gives_half():
    assert BalancedSteadyState(0.01, 0, 90).signal(500, 500) == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("tissue", "before", "after"), [("tumour_dense", 1.15, 1.95), ("tumour_loose", 1.57, 2.38), ("vein", 1.30, 2.29)]
)
def test_after_gadolinium_tumour_and_veins_are_as_bright_on_bssfp_as_docs_phantom_says(tissue, before, after):
    sequence = BalancedSteadyState(6, 2.2, 50)

    def signal(name, given):
        known = TISSUES[name].centre
        drawn = with_gadolinium(known, known.gadolinium) if given else known
        return sequence.signal(drawn.t1, drawn.t2, drawn.pd)

    assert signal(tissue, False) / signal("white", False) == pytest.approx(before, abs=0.006)
    assert signal(tissue, True) / signal("white", True) == pytest.approx(after, abs=0.006)


def test_turbo_spin_echo_without_train_is_the_spin_echo():
    assert TurboSpinEcho(1000, 100, 0).signal(500, 50) == pytest.approx((1 - np.exp(-2)) * np.exp(-2))


def test_turbo_spin_echo_of_long_tr_and_no_te_is_proton_density():
    assert TurboSpinEcho(1e7, 0, 300).signal(4000, 2000, pd=0.7) == pytest.approx(0.7)


def test_signals_accept_arrays():
    t1 = np.array([300.0, 900.0])
    assert SpoiledGradientEcho(25, 4, 30).signal(t1, 80).shape == (2,)


def test_gadolinium_shortens_t1_by_its_relaxivity():
    plain = Tissue(t1=1000, t2=100, pd=0.9)
    stained = with_gadolinium(plain, 1.0)
    # 1/1000 ms + 4.1 /(mmol s) = 1/s + 4.1/s
    assert stained.t1 == pytest.approx(1000 / (1 + R1_PER_MMOL_S))
    assert stained.t2 < plain.t2
    assert with_gadolinium(plain, 0.0) == plain


def test_t1_doubles_at_eightfold_field():
    assert at_field(Tissue(800, 70, 1), 12.0).t1 == pytest.approx(1600)


def test_contrasts_are_those_that_radiologists_know():
    t1w, ciss, tse = SpoiledGradientEcho(25, 4.6, 30), BalancedSteadyState(9.4, 4.2, 65), TurboSpinEcho(2500, 145, 300)

    def signal(sequence, name, stained=False):
        tissue = TISSUES[name].centre
        tissue = with_gadolinium(tissue, tissue.gadolinium) if stained else tissue
        return sequence.signal(tissue.t1, tissue.t2, tissue.pd)

    bright = signal(t1w, "tumour_dense", True)
    assert bright > 1.4 * signal(t1w, "white", True) > 2 * signal(t1w, "csf", True)
    for sequence in (ciss, tse):
        fluid, tumour = signal(sequence, "csf"), signal(sequence, "tumour_dense")
        assert fluid > 1.5 * tumour > 5 * signal(sequence, "bone")
        assert signal(sequence, "perilymph") > 2 * signal(sequence, "white")


def test_drawn_tissues_differ_between_patients_and_repeat_with_the_seed():
    first, second = (draw_tissues(np.random.default_rng(seed)) for seed in (1, 2))
    assert first["tumour_dense"] != second["tumour_dense"]
    assert first == draw_tissues(np.random.default_rng(1))
