"""Steps of overlays come in one order, whatever that of the files."""

import pytest
from monai.transforms import AsDiscreted, Compose

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.inferers import FlipAveragingInferer, require_hard_votes
from crossmoda.segmentation.merging import MergeStructuresd
from crossmoda.segmentation.postprocessing import compose_steps, require_unmerged, written_structures

ADDED = (
    "keep_confidence",
    "votes",
    "random_field",
    "remove_small",
    "refine",
    "check_anatomy",
    "measure_confidence",
)


class Step:
    """A step that notes that it was there."""

    def __init__(self, name):
        self.name = name

    def __call__(self, seen):
        return f"{seen} {self.name}"


def order(*added, listed=("load", "decide", "keep", "save")):
    steps = {name: Step(name) for name in listed}
    composed = compose_steps(list(steps.values()), steps["decide"], steps["keep"], **{n: Step(n) for n in added})
    return composed("").strip()


def test_added_steps_stand_before_and_after_the_decision_and_the_choice():
    assert order() == "load decide keep save"
    everything = "load keep_confidence votes random_field decide remove_small keep refine check_anatomy "
    everything += "measure_confidence save"
    assert order(*ADDED) == order(*reversed(ADDED)) == everything
    assert order("refine", listed=("decide", "measure", "keep")) == "decide measure keep refine"


def test_a_list_without_the_decision_is_refused():
    with pytest.raises(CrossmodaError, match=r"postprocessing::transforms lacks '@decide'"):
        compose_steps([Step("keep")], Step("decide"), Step("keep"))


def test_what_a_label_map_s_numbers_mean_is_what_was_merged_or_the_model_s_own():
    argmax = AsDiscreted("pred", argmax=True)
    merge = MergeStructuresd(["pred", "other"], [["cochlea"], ["vs"]], ["vs", "cochlea"])
    assert written_structures(argmax, ("cochlea",)) == ["cochlea"]
    assert written_structures(merge, ["cochlea"]) == ["vs", "cochlea"]
    assert written_structures(Compose([argmax, merge]), ["cochlea"]) == ["vs", "cochlea"]
    require_unmerged(argmax, ("cochlea",))
    with pytest.raises(CrossmodaError, match="right after inference"):
        require_unmerged(Compose([argmax, merge]), ["cochlea"])


def test_hard_votes_are_found_in_whatever_averages_them():
    hard, soft = FlipAveragingInferer(hard=True), FlipAveragingInferer()
    for inferer in (hard, FlipAveragingInferer(hard), FlipAveragingInferer(soft, hard=True)):
        require_hard_votes(inferer)
    for inferer in (soft, FlipAveragingInferer(soft), None):
        with pytest.raises(CrossmodaError, match="averages probabilities"):
            require_hard_votes(inferer)
