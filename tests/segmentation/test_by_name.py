import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.by_name import values_of_channels, values_sought

WEIGHTS = {"background": 1, "vs": 3, "intra": 15, "cochlea": 9}


@pytest.mark.parametrize(
    ("structures", "expected"),
    [
        (["vs", "cochlea"], [1.0, 3.0, 9.0]),
        (["cochlea", "vs"], [1.0, 9.0, 3.0]),
        (["vs"], [1.0, 3.0]),
        (["cochlea"], [1.0, 9.0]),
        (["extra", "intra", "cochlea"], [1.0, 3.0, 15.0, 9.0]),  # extra takes the whole tumour's
    ],
)
def test_values_by_name_come_in_the_order_of_the_channels(structures, expected):
    assert values_of_channels(WEIGHTS, structures) == expected


def test_a_list_is_taken_as_it_is():
    assert values_of_channels([1, 2, 3], ["vs", "cochlea"]) == [1.0, 2.0, 3.0]


def test_wrong_settings_are_refused():
    with pytest.raises(CrossmodaError, match=r"class_ratios \[1, 1\]: 3 are needed, for background, vs, coch"):
        values_of_channels([1, 1], ["vs", "cochlea"], "class_ratios")
    with pytest.raises(CrossmodaError, match="class_weights: unknown tumor; known are background, vs"):
        values_of_channels({"background": 1, "tumor": 3}, ["vs"])
    with pytest.raises(CrossmodaError, match="no value for cochlea; add one"):
        values_of_channels({"background": 1, "vs": 3}, ["vs", "cochlea"])
    with pytest.raises(CrossmodaError, match="no value for background"):
        values_of_channels({"vs": 3}, ["vs"])
    with pytest.raises(CrossmodaError, match="structure_levels: unknown background"):
        values_sought({"background": [0, 1]}, ["vs"])


def test_entries_of_structures_that_are_not_sought_are_left_out():
    levels = {"vs": [0.2, 0.9], "cochlea": [0.1, 0.7], "intra": [0.3, 0.4]}
    assert list(values_sought(levels, ["vs"])) == ["vs"]
    assert list(values_sought(levels, ["cochlea"])) == ["cochlea"]
    assert list(values_sought(levels, ["intra", "extra"])) == ["vs", "intra"]
    assert values_sought(levels, ["vs", "cochlea"])["cochlea"] == [0.1, 0.7]
