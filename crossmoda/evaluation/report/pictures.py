"""Which scans, levels and details the report shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossmoda.data.volumes import Volume
from crossmoda.evaluation.report.panels import Panel, Point, cochlea_of, draw_panel, focus, middle, tumour_of
from crossmoda.evaluation.report.run_folder import Masks, RunFolder, read_ras
from crossmoda.evaluation.report.slices import AXIAL, CORONAL, window_about
from crossmoda.labels import COCHLEA

FOSSA_MM = (112.0, 84.0)  # posterior fossa, both inner ears in view
CORONAL_MM = (112.0, 84.0)
TUMOUR_MM = (44.0, 33.0)
COCHLEA_MM = (32.0, 24.0)
SOURCES_LOOKED_AT = 5
THUMBNAILS = 24  # a run with hundreds of targets still makes a page that opens


@dataclass(frozen=True)
class Strip:
    """A row of panels with its heading."""

    heading: str
    panels: list[Panel]
    text: str = ""
    case: str = ""
    scores: list[dict[str, Any]] = field(default_factory=list)


def source_strips(run: RunFolder) -> list[Strip]:
    """Return a source ceT1, each of its pseudo-hrT2 and a real hrT2, through the tumour and through the cochlea."""
    item = _source_to_show(run)
    if item is None:
        return []
    scans = {"ceT1 (source)": read_ras(Path(item["image"]))}
    scans |= {f"pseudo-hrT2, {view}": read_ras(run.pseudo_hrt2(view, item["case"])) for view in run.views}
    labels = run.source_label(item)
    real_case, real, real_masks = _real_to_show(run)
    strips = []
    for heading, find in (("Through the tumour", tumour_of), ("Through the cochlea", cochlea_of)):
        panels = [_fossa(name, scan, {"label": labels}, find(labels)) for name, scan in scans.items() if scan]
        if real is not None:
            panels.append(_fossa(f"real hrT2 ({real_case})", real, real_masks, find(next(iter(real_masks.values())))))
        strips.append(Strip(heading, panels, case=item["case"]))
    return strips


def _source_to_show(run: RunFolder) -> dict[str, Any] | None:
    """Return the source item with the largest tumour among the first few that were translated."""
    translated = [
        item
        for item in run.dataset.get("source", [])
        if item.get("label") and any(run.pseudo_hrt2(view, item["case"]).is_file() for view in run.views)
    ][:SOURCES_LOOKED_AT]
    sizes = [_volume_of(tumour_of(run.source_label(item))) for item in translated]
    return translated[int(np.argmax(sizes))] if translated else None


def _volume_of(mask: np.ndarray | None) -> int:
    return 0 if mask is None else int(np.count_nonzero(mask))


def _real_to_show(run: RunFolder) -> tuple[str, Volume | None, dict[str, Masks]]:
    """Return a hrT2 case (the median one where scored, else the first), its scan and the best outline of it."""
    ranked = ranked_cases(run)
    cases = [ranked[len(ranked) // 2]["case"]] if ranked else sorted(run.image_items)[:1]
    if not cases:
        return "", None, {}
    truth = run.truth(cases[0])
    masks = {"truth": truth} if truth else {"prediction": run.prediction(cases[0])}
    return cases[0], run.image(cases[0]), masks


def _fossa(title: str, scan: Volume, masks: dict[str, Masks], level_of: np.ndarray | None) -> Panel:
    """Return the posterior fossa at the level of a mask, or in the middle of everything where the mask is empty."""
    reference = next(iter(masks.values()), {})
    x, y, z = middle(reference, scan.array.shape)
    centre: Point = (x, y, focus(level_of)[2] if level_of is not None else z)
    return draw_panel(title, scan, window_about(scan, AXIAL, centre, FOSSA_MM), masks)


def mean_dice(case: dict[str, Any], structures: list[str]) -> float:
    """Return a scored case's Dice, averaged over the structures."""
    return float(np.mean([case[name]["dice"] for name in structures if name in case]))


def ranked_cases(run: RunFolder) -> list[dict[str, Any]]:
    """Return the scored cases of the last round, the worst first."""
    cases = [case for case in (run.metrics or {}).get("cases", []) if any(s in case for s in run.structures)]
    return sorted(cases, key=lambda case: mean_dice(case, run.structures))


def case_strips(run: RunFolder) -> list[Strip]:
    """Return the worst, the median and the best scored case, and the most doubtful one that training learns from."""
    ranked = ranked_cases(run)
    chosen: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, index in (("Worst case", 0), ("Median case", len(ranked) // 2), ("Best case", len(ranked) - 1)):
        if ranked:
            chosen.setdefault(ranked[index]["case"], (name, ranked[index]))
    strips = [_case_strip(run, case, name, scores) for case, (name, scores) in chosen.items()]
    doubtful = by_uncertainty(run)
    taught = [case for case in doubtful if _teaches(run.targets[case])]
    strips += [_case_strip(run, case, "The most uncertain case that the model learns from", {}) for case in taught[:1]]
    if not strips:  # nothing is scored and the rules left every label out
        strips += [_case_strip(run, case, "The most uncertain case", {}) for case in doubtful[:1]]
    return [strip for strip in strips if strip.panels]


def _teaches(item: dict[str, Any]) -> bool:
    """Tell whether a training learns from an item: a label that the rules left out weighs nothing."""
    return "label" in item and float(item.get("weight", 1.0)) > 0


def _case_strip(run: RunFolder, case: str, name: str, scores: dict[str, Any]) -> Strip:
    scan = run.image(case)
    truth, prediction, pseudo = run.truth(case), run.prediction(case), run.pseudo_label(case)
    drawn = {kind: m for kind, m in (("truth", truth), ("pseudo", pseudo), ("prediction", prediction)) if m}
    panels = _case_panels(scan, drawn, truth if tumour_of(truth) is not None else prediction) if scan else []
    found = [{"structure": s, **scores[s]} for s in run.structures if s in scores]
    return Strip(name, panels, case=case, scores=found)


def _case_panels(scan: Volume, masks: dict[str, Masks], reference: Masks) -> list[Panel]:
    tumour, cochlea = tumour_of(reference), cochlea_of(reference)
    about = middle(reference, scan.array.shape)
    at_tumour = focus(tumour) if tumour is not None else about
    axial_centre = (about[0], about[1], at_tumour[2])
    coronal_centre = (about[0], at_tumour[1], about[2])
    panels = [
        draw_panel("axial, posterior fossa", scan, window_about(scan, AXIAL, axial_centre, FOSSA_MM), masks),
        draw_panel("coronal", scan, window_about(scan, CORONAL, coronal_centre, CORONAL_MM), masks),
        draw_panel("close-up: tumour", scan, window_about(scan, AXIAL, at_tumour, TUMOUR_MM), masks),
    ]
    if cochlea is not None:
        panels.append(
            draw_panel("close-up: cochlea", scan, window_about(scan, AXIAL, focus(cochlea), COCHLEA_MM), masks)
        )
    return panels


@dataclass(frozen=True)
class Card:
    """A target case on its way to a clinician: what is uncertain, what became of it."""

    case: str
    site: str
    score: float
    status: str
    weight: float | None
    panels: list[Panel]
    reasons: str = ""
    expected_dice: float | None = None


def by_uncertainty(run: RunFolder) -> list[str]:
    """Return the target-training cases that have an uncertainty score, the most uncertain first."""
    known = [case for case in run.targets if case in run.uncertainties]
    return sorted(known, key=lambda case: (-run.uncertainties[case], case))


def uncertainty_cards(run: RunFolder) -> list[Card]:
    """Return a card for each target case, the most uncertain first; the first ``THUMBNAILS`` with pictures."""
    return [_card(run, run.targets[case], position < THUMBNAILS) for position, case in enumerate(by_uncertainty(run))]


def _card(run: RunFolder, item: dict[str, Any], with_pictures: bool) -> Card:
    provenance = item.get("provenance") or {}
    reasons = provenance.get("reasons") or []
    return Card(
        case=item["case"],
        site=item.get("site", "unknown"),
        score=run.uncertainties[item["case"]],
        status=provenance.get("status", "not in training"),
        weight=item.get("weight", 1.0) if item.get("label") else None,
        panels=_thumbnails(run, item["case"]) if with_pictures else [],
        reasons="; ".join(reasons) if isinstance(reasons, (list, tuple)) else str(reasons),
        expected_dice=run.calibration.expected_dice(run.uncertainties[item["case"]]) if run.calibration else None,
    )


def _thumbnails(run: RunFolder, case: str) -> list[Panel]:
    scan = run.image(case)
    if scan is None:
        return []
    prediction, doubt = run.prediction(case), run.uncertainty(case)
    masks = {kind: m for kind, m in (("pseudo", run.pseudo_label(case)), ("prediction", prediction)) if m}
    tumour = tumour_of(prediction)
    centre = focus(tumour) if tumour is not None else _most_doubtful(doubt, scan, prediction)
    window = window_about(scan, AXIAL, centre, TUMOUR_MM)
    panels = [draw_panel("outlines", scan, window, masks)]
    if doubt is not None:
        panels.append(draw_panel("uncertainty", scan, window, {}, heat=doubt))
    return panels


def _most_doubtful(doubt: Volume | None, scan: Volume, prediction: Masks) -> Point:
    """Return where to look if no tumour was found: the cochlea, else the most uncertain voxel, else the middle."""
    cochlea = prediction.get(COCHLEA)
    if cochlea is not None and cochlea.any():
        return focus(cochlea)
    if doubt is None:
        return middle({}, scan.array.shape)
    x, y, z = np.unravel_index(int(np.nanargmax(doubt.array)), doubt.array.shape)
    return float(x), float(y), float(z)
