import numpy as np
import pytest

from crossmoda.data.phantom.comparison import position_figures, real_figures, table


def test_positions_of_hand_made_blocks():
    vs, cochlea = np.zeros((40, 20, 10), bool), np.zeros((40, 20, 10), bool)
    vs[30:34, 4:6, 4:6] = True  # centre (31.5, 4.5, 4.5)
    cochlea[5:7, 10:12, 4:6] = True  # centre (5.5, 10.5, 4.5)
    cochlea[35:37, 10:12, 4:6] = True  # centre (35.5, 10.5, 4.5)
    figures = position_figures(vs, cochlea, np.diag([2.0, 0.5, 1.5, 1]))
    assert figures["VS volume, mL"] == pytest.approx([16 * 1.5 / 1000])
    assert figures["cochlea volume, mm3"] == pytest.approx([12, 12])
    assert figures["between the cochleae, mm"] == pytest.approx([60])
    assert figures["VS to the nearer cochlea, mm"] == pytest.approx([np.hypot(8, 3)])


def test_the_table_sets_median_and_real_value_side_by_side():
    text = table({"ldn ceT1": {"CSF / brain": [0.2, 0.3, 0.4]}}, {"ceT1": {"CSF / brain": [0.5]}})
    assert text.splitlines()[-1] == "| ldn ceT1: CSF / brain | 0.30 (0.21-0.39) | 0.50 |"


def test_the_real_volumes_hold_what_their_readme_says(real_data):
    found = real_figures(real_data)
    assert sorted(found["positions"]["VS volume, mL"]) == pytest.approx([2.09, 2.39, 3.05], abs=0.02)
    assert found["ceT1"]["tumour / brain"][0] > 1.3
    assert found["hrT2"]["CSF / brain"][0] > 2
