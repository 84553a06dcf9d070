from __future__ import annotations

import re

import numpy as np
import pytest

from crossmoda.errors import CrossmodaError
from crossmoda.labels import (
    COLOURS,
    EDITION_LABELS,
    FULL_NAMES,
    STRUCTURES,
    channel_def,
    mask_of,
    model_labels,
    numbers_of,
)


def test_every_structure_has_a_full_name_and_a_colour_of_its_own() -> None:
    assert set(FULL_NAMES) == set(COLOURS) == set(STRUCTURES)
    assert len(set(COLOURS.values())) == len(STRUCTURES)
    assert all(re.fullmatch(r"#[0-9a-f]{6}", colour) for colour in COLOURS.values())


@pytest.mark.parametrize("edition", EDITION_LABELS)
def test_every_edition_numbers_known_structures_distinctly_from_one(edition: str) -> None:
    labels = EDITION_LABELS[edition]
    assert set(labels) <= set(STRUCTURES)
    assert sorted(labels.values()) == list(range(1, len(labels) + 1))


def test_the_whole_tumour_can_be_told_in_every_edition() -> None:
    assert {edition: sorted(numbers_of("vs", labels)) for edition, labels in EDITION_LABELS.items()} == {
        "2021": [1],
        "2022": [1],
        "2023": [1, 2],
    }


def test_masks_are_found_by_name() -> None:
    label_map = np.array([0, 1, 2, 3])
    labels = EDITION_LABELS["2023"]
    assert mask_of("vs", label_map, labels).tolist() == [False, True, True, False]
    assert mask_of("intra", label_map, labels).tolist() == [False, False, True, False]
    assert mask_of("cochlea", label_map, labels).tolist() == [False, False, False, True]


@pytest.mark.parametrize("structure", ["intra", "vestibule"])
def test_a_structure_that_the_labels_do_not_hold_is_refused(structure: str) -> None:
    with pytest.raises(CrossmodaError, match=f"structure '{structure}' is not in the labels"):
        numbers_of(structure, EDITION_LABELS["2022"])


def test_channels_follow_the_order_of_the_structures() -> None:
    assert model_labels(["cochlea", "vs"]) == {"cochlea": 1, "vs": 2}
    assert channel_def(["vs", "cochlea"]) == {"0": "background", "1": "vs", "2": "cochlea"}
