"""Where overlays' steps go in what predictions pass through, so that overlays combine in any order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai.transforms import Compose

from crossmoda.errors import CrossmodaError
from crossmoda.segmentation.agreement import MeasureAgreementd
from crossmoda.segmentation.merging import MergeStructuresd

Step = Callable[..., Any]


def compose_steps(
    transforms: Sequence[Step],
    decide: Step,
    keep_one_tumour: Step,
    votes: Step | None = None,
    random_field: Step | None = None,
    remove_small: Step | None = None,
    refine: Step | None = None,
    check_anatomy: Step | None = None,
    keep_confidence: Step | None = None,
    measure_confidence: Step | None = None,
    measure_agreement: MeasureAgreementd | None = None,
    save_maps: Step | None = None,
) -> Compose:
    """Return a bundle's postprocessing with the steps that overlays add, in this order whatever that of the files.

    An overlay that lists its own ``transforms``, as evaluate.yaml, knows nothing of these steps, nor these of it.

    Args:
        transforms: the list, which holds ``decide`` and ``keep_one_tumour``.
        decide: makes a label map of probabilities (C, X, Y, Z).
        keep_one_tumour: chooses among tumours.
        votes: before ``decide``; makes certainty (one-hot) of shares of votes.
        random_field: before ``decide``, after the votes.
        remove_small: before ``keep_one_tumour``, so that no speck of a cochlea draws the choice to it.
        refine: after ``keep_one_tumour``, since borders are redrawn of what is kept.
        check_anatomy: after that.
        keep_confidence: before the votes and the field, which change how sure the network itself is.
        measure_confidence: last, of what is saved.
        measure_agreement: measures how far the random field changes the decision.
        save_maps: after all that, of uncertainties measured on the way.

    Raises:
        CrossmodaError: the list lacks ``decide`` or ``keep_one_tumour``, or there is no random field to measure.
    """
    if measure_agreement is not None:
        if random_field is None:
            raise CrossmodaError("crf_agreement.yaml: there is no random field to measure; name crf.yaml, too")
        random_field = measure_agreement.around(random_field)
    around = {
        id(decide): [keep_confidence, votes, random_field, decide],
        id(keep_one_tumour): [remove_small, keep_one_tumour, refine, check_anatomy, measure_confidence, save_maps],
    }
    if not around.keys() <= {id(step) for step in transforms}:
        raise CrossmodaError("postprocessing::transforms lacks '@decide' or '@keep_one_tumour'; list both")
    steps = [step for listed in transforms for step in around.get(id(listed), [listed])]
    return Compose([step for step in steps if step is not None])


def written_structures(decide: Step, structures: Sequence[str]) -> list[str]:
    """Return the names of the numbers 1, 2, ... in a decision's label map: those merged in it, or the model's own.

    Args:
        decide: a transform, or a ``Compose`` of which one step may be ``MergeStructuresd``.
        structures: of the model.
    """
    for step in decide.transforms if isinstance(decide, Compose) else [decide]:
        if isinstance(step, MergeStructuresd):
            return list(step.merge.structures)
    return list(structures)


def require_unmerged(decide: Step, structures: Sequence[str]) -> None:
    """Refuse to put a rule for one model's numbers where a label map of several models is made.

    Raises:
        CrossmodaError: the decision merges models.
    """
    if written_structures(decide, structures) != list(structures):
        raise CrossmodaError("inference_nnunet.yaml after merge.yaml: name it right after inference.yaml")
