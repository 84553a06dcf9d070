"""Paint a patient onto a voxel grid: what fills each voxel, and the truth of what is to be segmented.

Later tissues are painted over earlier ones, each taking its share of a voxel, so that fractions always sum to one and
edges carry partial volume at any spacing and in any orientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from crossmoda.data.phantom import brain, ear, skull, vessels
from crossmoda.data.phantom.anatomy import Patient
from crossmoda.data.phantom.canvas import Canvas, Cover
from crossmoda.data.phantom.ear import Ear
from crossmoda.data.phantom.shapes import Coordinates, coverage
from crossmoda.data.phantom.texture import noise

FINE_MM = 0.4  # sampling of details smaller than a voxel
CLEFT_MM = 0.8  # of fluid, at most, between a tumour and what it has pushed away


@dataclass(frozen=True)
class Anatomy:
    """Hold a rasterised patient.

    ``fractions``: tissue name to float32 (X, Y, Z), summing to 1 in every voxel. ``labels``: ``vs``, ``intra``,
    ``extra`` and ``cochlea`` (both sides) as bool (X, Y, Z), true where the structure fills at least half of the voxel.
    """

    patient: Patient
    affine: np.ndarray
    fractions: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def rasterise(patient: Patient, shape: Sequence[int], affine: np.ndarray) -> Anatomy:
    """Return the tissue fractions and labels of a patient on a grid.

    Args:
        patient: whom to paint.
        shape: (X, Y, Z) voxels.
        affine: 4x4, voxel index to scanner mm (RAS); any spacing, oblique or flipped as it may be.
    """
    canvas = Canvas(shape, affine, patient.frame)
    cavity_mm = skull.cavity(canvas.rigid)
    _paint_head(canvas, patient)
    _paint_skull(canvas, patient, cavity_mm)
    _paint_marrow(canvas, patient)
    _paint_blobs(canvas, patient, "bone")
    _paint_strands(canvas, patient)
    inside = coverage(cavity_mm)
    _paint_meninges(canvas, cavity_mm, inside)
    _paint_cerebrum(canvas, patient, cavity_mm, inside)
    _paint_hindbrain(canvas, patient, cavity_mm, inside)
    _paint_vessels(canvas, patient)
    _paint_flow(canvas, patient)
    _paint_blobs(canvas, patient, "soft")
    cochleae = [_paint_ear(canvas, patient, one) for one in patient.ears]
    _paint_blobs(canvas, patient, "last")
    labels = _paint_tumour(canvas, patient)
    labels["cochlea"] = np.maximum(cochleae[0], cochleae[1]) >= 0.5
    return Anatomy(patient, canvas.affine, canvas.fractions, labels)


def _everywhere(share: np.ndarray) -> Cover:
    """Return a cover of the whole grid."""
    return (slice(None), slice(None), slice(None)), share


def _paint_head(canvas: Canvas, patient: Patient) -> None:
    """Paint skin, fat, muscle, glands, orbits and airways of the head."""
    p, seed = canvas.rigid, patient.texture_seed
    skin_mm = skull.head(p)
    canvas.paint("muscle", _everywhere(coverage(skin_mm)))
    planes = np.clip(1.25 - 3.2 * np.abs(noise(p, 11, seed, 1) + 0.3 * noise(p, 4, seed, 2)), 0, 1)
    # Fat spaces between the muscles, and the little fat within them.
    planes = np.maximum(planes, np.clip(noise(p, 15, seed, 9) - 0.4, 0, 1))
    planes = np.maximum(planes, np.clip(0.13 + 0.12 * noise(p, 2.5, seed, 13), 0, 1))
    under_skin = np.clip((skin_mm + 8) / 2, 0, 1) * np.clip(-skin_mm - 1.5, 0, 1)
    canvas.paint("fat", _everywhere(np.maximum(planes, under_skin) * coverage(skin_mm + 1.5)))
    canvas.draw("gland", skull.parotids, ((-72, -10, -66), (72, 25, -10)))
    canvas.draw("fat", skull.orbits, ((-55, 40, -6), (55, 102, 36)))
    canvas.draw("csf", skull.eyes, ((-46, 76, 0), (46, 102, 26)))


def _paint_skull(canvas: Canvas, patient: Patient, cavity_mm: np.ndarray) -> None:
    """Paint bone, its marrow, and the air in and below it."""
    p, seed = canvas.rigid, patient.texture_seed
    uneven = noise(p, 11, seed, 10)
    canvas.paint("bone", _everywhere(coverage(skull.bone(p, cavity_mm + 0.9 * uneven))))
    away = np.clip(skull.petrous(p) / 4, 0, 1)
    diploe = np.clip(1.3 - np.abs(cavity_mm - 3.2 + 0.8 * uneven) + 0.5 * noise(p, 4, seed, 11), 0, 1) * away
    diploe *= np.clip(0.7 + uneven, 0, 1)
    spongy = np.maximum(0.8 * diploe, np.clip(0.08 + 0.06 * uneven, 0, 1))
    canvas.paint("marrow", _everywhere(spongy * canvas.fractions["bone"]))
    canvas.draw("marrow", skull.clivus_marrow, ((-20, 6, -36), (20, 32, 18)))
    canvas.draw("bone", skull.mandible, ((-60, 8, -90), (60, 45, 0)))
    canvas.draw("marrow", lambda q: skull.mandible(q) + 2, ((-60, 8, -90), (60, 45, 0)))
    if patient.marrow_apex:
        canvas.draw("marrow", skull.apex_marrow, ((-22, 12, -6), (22, 26, 8)))
    cells = canvas.cover(skull.mastoid_cells, ((-67, -20, -28), (67, 4, 12)))
    if cells is not None:
        where = _views(p, cells)
        canvas.paint("air", cells, patient.pneumatised * np.clip(0.6 + noise(where, 3.0, seed, 3), 0, 1))
        canvas.paint("mucosa", cells, (1 - patient.pneumatised) * np.clip(noise(where, 4.0, seed, 4), 0, 1))
    canvas.draw("mucosa", lambda q: skull.sinuses(q) - 1.5, ((-45, 18, -130), (45, 98, 26)))
    canvas.draw("air", skull.sinuses, ((-45, 18, -130), (45, 98, 26)))
    canvas.draw("air", skull.middle_ear, ((-82, 0, -10), (82, 14, 8)))


def _paint_marrow(canvas: Canvas, patient: Patient) -> None:
    """Let a varied patient's thick bones hold more fatty marrow than the plain phantom's, but not the ear's capsule."""
    if patient.variety is not None and "bone" in canvas.fractions:
        p = canvas.rigid
        away = np.clip(skull.petrous(p) / 4, 0, 1)
        share = np.clip(patient.variety.marrow * (0.9 + 0.5 * noise(p, 8, patient.texture_seed, 15)), 0, 1)
        canvas.paint("marrow", _everywhere(away * share * canvas.fractions["bone"]))


def _paint_strands(canvas: Canvas, patient: Patient) -> None:
    """Run dark strands through a varied patient's fat and marrow, which make them speckled."""
    if patient.variety is not None and patient.variety.strands > 0:
        field = noise(canvas.rigid, patient.variety.strand_mm, patient.texture_seed, 16)
        strand = patient.variety.strands * np.clip(1.4 - 2.5 * np.abs(field), 0, 1)
        soft = sum((canvas.fractions[name] for name in ("fat", "marrow") if name in canvas.fractions), np.float32(0))
        canvas.paint("muscle", _everywhere(np.clip(strand * soft, 0, 1)))


def _paint_flow(canvas: Canvas, patient: Patient) -> None:
    """Let a varied patient's fluid move in places, where it loses signal."""
    if patient.variety is not None and patient.variety.flow > 0:
        share = np.clip(patient.variety.flow * (0.4 + 0.9 * noise(canvas.soft, 9, patient.texture_seed, 17)), 0, 1)
        canvas.paint("moving_csf", _everywhere(share * canvas.fractions["csf"]))


def _paint_blobs(canvas: Canvas, patient: Patient, stage: str) -> None:
    """Paint a varied patient's blobs of one stage, never over the cochleae."""
    if patient.variety is None:
        return
    spirals = [ear.cochlea(one) for one in patient.ears]
    for blob in patient.variety.of_stage(stage):
        cover = canvas.cover(lambda p, blob=blob: blob.shape(p, patient.texture_seed), blob.box)  # type: ignore[misc]
        if cover is None:
            continue
        window, share = cover
        if blob.spares_bone:
            hard = (canvas.fractions[name][window] for name in ("bone", "air", "marrow") if name in canvas.fractions)
            share = share * np.clip(1 - sum(hard), 0, 1)
        if stage == "last":  # the ears are there already
            p = _views(canvas.rigid, cover)
            share = share * np.clip(np.minimum(spirals[0].whole(p), spirals[1].whole(p)) - 0.5, 0, 1)
        canvas.paint(blob.tissue, (window, share))


def _views(p: Coordinates, cover: Cover) -> Coordinates:
    return p[0][cover[0]], p[1][cover[0]], p[2][cover[0]]


def _paint_meninges(canvas: Canvas, cavity_mm: np.ndarray, inside: np.ndarray) -> None:
    """Paint the dura as a thin lining, the fluid within, tentorium and falx."""
    p = canvas.rigid
    canvas.paint("dura", _everywhere(coverage(cavity_mm - 0.5)), 0.6)
    canvas.paint("csf", _everywhere(inside))
    gap = np.clip(brain.incisura(p) + 0.5, 0, 1)
    behind = np.clip(-skull.petrous_face(p) - 2, 0, 1)
    sheet = np.clip(0.7 - np.abs(brain.tentorium(p)), 0, 1) * gap * behind
    falx = np.clip(0.7 - np.abs(p[0]), 0, 1) * np.clip(p[2] - 38, 0, 1)
    canvas.paint("dura", _everywhere(np.maximum(sheet, falx) * inside), 0.8)


def _paint_cerebrum(canvas: Canvas, patient: Patient, cavity_mm: np.ndarray, inside: np.ndarray) -> None:
    """Paint cortex, white matter, deep grey matter and the ventricles above the tentorium."""
    q, seed = canvas.soft, patient.texture_seed
    behind = skull.petrous_face(canvas.rigid) < 6
    height = np.where(behind, brain.tentorium(q), q[2] - skull.floor_height(canvas.rigid))
    depth = np.minimum(np.minimum(-cavity_mm - 0.9, height - 0.5), brain.basal_cisterns(q))
    depth = np.minimum(depth, np.where(q[2] > 36, np.abs(q[0]) - 1.5, 99))
    width = 0.45 * (patient.variety.sulci if patient.variety else 1.0)
    sulcus = 7 * np.abs(noise(q, 14, seed, 5) + 0.3 * noise(q, 6, seed, 6)) - width + np.maximum(depth - 11, 0)
    surface = np.minimum(depth, sulcus).astype(np.float32)
    hull = coverage(-surface) * inside
    canvas.paint("grey", _everywhere(hull))
    purity = np.clip(0.88 + 0.08 * noise(q, 5, seed, 12), 0, 1)
    canvas.paint("white", _everywhere(coverage(3.0 - surface) * hull * purity))
    box = ((-40, -35, 5), (40, 55, 68))
    canvas.draw("grey", brain.deep_grey, box, soft=True)
    canvas.draw("csf", brain.upper_ventricles, box, soft=True)


def _paint_hindbrain(canvas: Canvas, patient: Patient, cavity_mm: np.ndarray, inside: np.ndarray) -> None:
    """Paint cerebellum with folia, brainstem and fourth ventricle."""
    box = ((-56, -66, -45), (56, 6, 34))
    window = canvas.window(box)
    if window is not None:
        q = _views(canvas.soft, (window, inside))
        wobble = noise(q, 14, patient.texture_seed, 7)
        wall_mm = np.maximum(cavity_mm[window] + 1.9 + 0.7 * wobble, brain.tentorium(q) + 1.2)
        hull_mm = np.maximum(brain.cerebellum(q), wall_mm)
        shallow = np.clip(1 + (hull_mm + 9) / 5, 0, 1)
        phase = brain.folia_phase(q, wobble) * np.float32(patient.variety.folia if patient.variety else 1.0)
        fissure = np.clip((np.cos(phase) - 0.62) * 4, 0, 1) * shallow
        hull = coverage(hull_mm)
        canvas.paint("grey", (window, hull * (1 - 0.42 * fissure)))
        core = np.minimum(brain.cerebellar_core(q), hull_mm + 8 - 2.2 * np.cos(0.5 * phase))
        canvas.paint("white", (window, coverage(core) * hull), 0.85)
    canvas.draw("white", brain.brainstem, ((-32, -32, -125), (32, 10, 40)), soft=True)
    canvas.draw("csf", brain.fourth_ventricle, ((-15, -30, -24), (15, -10, 32)), soft=True)


def _paint_vessels(canvas: Canvas, patient: Patient) -> None:
    """Paint sinuses, arteries and the nerves of the cisterns."""
    for sinus in vessels.sinuses(patient.vein_dominance):
        canvas.paint("vein", canvas.cover_tubes(sinus))
    canvas.draw("vein", skull.cavernous_sinuses, ((-20, 14, 1), (20, 40, 24)))
    for side in (1, -1):
        carotid = vessels.carotid(side)
        canvas.paint("bone", canvas.cover_tubes(carotid.wider(0.8)))
        canvas.paint("artery", canvas.cover_tubes(carotid))
    arteries = vessels.brain_arteries(np.asarray(patient.artery_wobble))
    canvas.paint("artery", canvas.cover_tubes(arteries, soft=True))
    for nerves in (vessels.trigeminal(), vessels.lower_nerves()):
        canvas.paint("nerve", canvas.cover_tubes(nerves, soft=True))


def _paint_ear(canvas: Canvas, patient: Patient, one: Ear) -> np.ndarray:
    """Paint canal, nerves and labyrinth of one ear; return the cochlea's coverage of the whole grid (X, Y, Z)."""
    tumour, variety = patient.tumour, patient.variety
    affected = tumour is not None and one.side == tumour.side
    widening = max(tumour.widening, 0.0) if tumour is not None and affected else 0.0
    which = 0 if one.side > 0 else 1
    if variety is not None and not affected:
        widening = variety.canal_mm[which]
    tube = [one.porus, one.fundus]
    room = 5 + 1.5 * max(widening - 1.5, 0)
    low, high = np.min(tube, 0) - room, np.max(tube, 0) + room
    canvas.draw("csf", lambda p: ear.canal(one, p, widening), _sided(low, high, one.side))
    nerves = ear.canal_nerves(one, *((variety.nerve_width[which], variety.nerve_spread[which]) if variety else ()))
    canvas.draw("nerve", nerves, nerves.box, FINE_MM)
    if variety is not None and variety.vessel_loops[which]:
        canvas.paint("artery", canvas.cover_tubes(vessels.loop_into_canal(one.side, one.porus, one.axis)))
    spiral, loops = ear.cochlea(one), ear.labyrinth(one)
    low, high = one.here((34, -3, -5)), one.here((42, 6, 8))
    if variety is None or variety.labyrinth_removed != one.side:
        canvas.draw("perilymph", lambda p: ear.vestibule(one, p), _sided(low, high, one.side), FINE_MM)
        canvas.draw("perilymph", loops, loops.box, FINE_MM)
    whole = canvas.draw("bone", spiral.whole, spiral.box, FINE_MM)
    canvas.draw("perilymph", spiral.fluid, spiral.box, FINE_MM)
    return canvas.whole(whole)


def _sided(low: np.ndarray, high: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a right-sided box on the side asked for."""
    return (low, high) if side > 0 else (np.array([-high[0], *low[1:]]), np.array([-low[0], *high[1:]]))


def _paint_tumour(canvas: Canvas, patient: Patient) -> dict[str, np.ndarray]:
    """Paint the tumour and the fluid about it; return the masks of the whole and of its two parts."""
    nothing = np.zeros(canvas.shape, bool)
    none = {"vs": nothing, "intra": nothing.copy(), "extra": nothing.copy()}
    if patient.tumour is None:
        return none
    tumour, one = patient.tumour, patient.tumour_ear
    box = tumour.box(one)
    cleft_mm = patient.variety.cleft_mm if patient.variety else CLEFT_MM
    if cleft_mm > 0:
        _paint_cleft(canvas, patient, canvas.cover(lambda p: tumour.body(p, one) - cleft_mm, box))
    whole = canvas.cover(lambda p: tumour.body(p, one), box, FINE_MM * 2)
    canvas.paint("tumour_dense", whole)
    if whole is None:
        return none
    p = _views(canvas.rigid, whole)
    patches = np.clip(0.5 + 1.2 * (noise(p, tumour.grain, patient.texture_seed, 8) + _quantile(tumour.mixture)), 0, 1)
    canvas.paint("tumour_loose", whole, patches)
    window, share = whole
    canvas.paint("cyst", (window, coverage(tumour.cystic(p, one)) * share))
    mask = canvas.whole(whole) >= 0.5
    inner = np.zeros(canvas.shape, bool)
    inner[window] = tumour.intra_meatal(p, one) < 0
    return {"vs": mask, "intra": mask & inner, "extra": mask & ~inner}


def _quantile(share: float) -> float:
    """Return the standard normal threshold above which ``share`` of the values of a field lie, negated."""
    return float(ndtri(np.clip(share, 0.005, 0.995)))


def _paint_cleft(canvas: Canvas, patient: Patient, cover: Cover | None) -> None:
    """Paint the fluid between tumour and brain: here wide, there gone, and none within the petrous bone."""
    if cover is not None:
        patchy = np.clip(0.4 + 0.8 * noise(_views(canvas.rigid, cover), 7, patient.texture_seed, 14), 0, 1)
        canvas.paint("csf", cover, patchy * (1 - canvas.fractions["bone"][cover[0]]))
