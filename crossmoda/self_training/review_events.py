"""What happened between two states of the review store: who saved, judged, deleted or was handed what.

Events are told from the store's content before and after a change, so nothing that changes the folder, be it 3D Slicer,
a page or a command, can forget to report. A label's own facts stand in its info (``audit``, ``started_from``,
``replaced``, ``conflict``); what each annotator was last given of a case stands in the object's ``work``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

from crossmoda.self_training.review_info import meta_of
from crossmoda.self_training.review_tags import FINAL, ORIGINAL

Event = dict[str, Any]
Entry = dict[str, Any]

SAVED, JUDGED, PUBLISHED, REFRESHED, FOUND = "saved", "judged", "published", "refreshed", "found"
HANDED_OUT, LABEL_DELETED, SCAN_DELETED = "handed out", "label deleted", "scan deleted"
OWN_FACTS = (
    "audit",
    "started_from",
    "replaced",
    "handed_out",
    "seconds",
    "conflict",
)  # of a label's info, never a client's
WORKERS_REMEMBERED = 20  # annotators of one case whose beginnings are kept


def note_events(before: Mapping[str, Any], model: dict[str, Any], who: str = "") -> list[Event]:
    """Enter the facts of a change into the store's content, and return its events in the order of their happening.

    Args:
        before: content of the store before the change.
        model: content after it; changed in place.
        who: has asked for the change, if that is known; labels, verdicts and hand-outs name their authors themselves.

    Returns:
        Events with the keys of ``review_audit.COLUMNS`` as far as they are known.
    """
    now, events = _now(), []
    for image_id, entry in before["objects"].items():
        if image_id not in model["objects"]:
            events += [_deleted(now, image_id, entry, tag, who) for tag in entry["labels"]]
            events.append(_event(SCAN_DELETED, now, image_id, entry, who=who))
    for image_id, entry in model["objects"].items():
        former = before["objects"].get(image_id, {"image": {"info": {}}, "labels": {}})
        if former != entry or _unrecorded(entry):
            gone = [tag for tag in former["labels"] if tag not in entry["labels"]]
            events += [_deleted(now, image_id, former, tag, who) for tag in gone]
            events += _events_of_case(now, image_id, former, entry)
    return events


def has_unrecorded(model: Mapping[str, Any]) -> bool:
    """Tell whether the store holds labels without an event, e.g. from before there was a history."""
    return any(_unrecorded(entry) for entry in model["objects"].values())


def starting_label(entry: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Return the label that an annotator began with: ``tag``, ``sha256``, ``model``, ``round``; empty where none was.

    It is what the annotator was handed, or saved last; without such a record, the case's ``final``, else ``original``.

    Args:
        entry: the object of the store, before the save.
        info: of the label that the annotator sends, with ``client_id`` or ``user``.
    """
    record = _record_of(entry, info)
    if record is not None:
        return {key: record[key] for key in ("tag", "sha256", "model", "round") if key in record}
    return _current(entry)


def is_begun(entry: Mapping[str, Any], info: Mapping[str, Any]) -> bool:
    """Tell whether an annotator was handed a label, given its info, and may be at work on it."""
    return any(record.get("sha256") == info.get("sha256") for record in (entry.get("work") or {}).values())


def label_event(image_id: str, entry: Mapping[str, Any], tag: str) -> Event:
    """Return the event by which a label came to be, from the label's info alone."""
    info = entry["labels"][tag]["info"]
    audit, start = info["audit"], info.get("started_from") or {}
    event = {
        "id": audit["event"],
        "tag": info.get("archived_from") or tag,
        "replaced": info.get("replaced"),
        "model": info.get("model") or start.get("model"),
        "round": info.get("round", start.get("round")),
        "sha256": info.get("sha256"),
        "start_tag": start.get("tag"),
        "start_sha256": start.get("sha256"),
        "handed_out": info.get("handed_out"),
        "seconds": info.get("seconds"),
        "conflict": info.get("conflict"),
        **{key: start.get(key) for key in ("dice", "added_ml", "removed_ml")},
    }
    return _event(audit["what"], audit["at"], image_id, entry, who=audit["who"], **event)


def verdict_event(image_id: str, entry: Mapping[str, Any], tag: str) -> Event:
    """Return the event of the last verdict on a label, from the label's info alone."""
    info = entry["labels"][tag]["info"]
    judged, meta = info["audit"]["judged"], info["segmentationMeta"]
    said = {key: str(meta.get(key) or "") for key in ("status", "level", "comment")}
    about = {"sha256": info.get("sha256"), "model": info.get("model"), "round": info.get("round")}
    facts = {**said, **about, "approved_by": str(meta.get("approvedBy") or ""), "conflict": judged["conflict"]}
    tag = judged["tag"]  # the label may have become a former version since
    return _event(JUDGED, judged["at"], image_id, entry, who=judged["who"], id=judged["event"], tag=tag, **facts)


def events_in_labels(model: Mapping[str, Any]) -> Iterator[Event]:
    """Yield the events that the labels' own infos tell of: how each came to be, and its last verdict."""
    for image_id, entry in model["objects"].items():
        for tag, label in entry["labels"].items():
            if "audit" in label["info"]:
                yield label_event(image_id, entry, tag)
                if "judged" in label["info"]["audit"]:
                    yield verdict_event(image_id, entry, tag)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _event(what: str, at: str, image_id: str, entry: Mapping[str, Any], **facts: Any) -> Event:
    case = entry["image"]["info"].get("case") or image_id
    known = {key: value for key, value in facts.items() if value not in (None, "", [], {})}
    return {"id": uuid.uuid4().hex, "at": at, "event": what, "case": case, "image_id": image_id, **known}


def _deleted(now: str, image_id: str, entry: Mapping[str, Any], tag: str, who: str) -> Event:
    digest = entry["labels"][tag]["info"].get("sha256")
    return _event(LABEL_DELETED, now, image_id, entry, tag=tag, sha256=digest, who=who)


def _unrecorded(entry: Mapping[str, Any]) -> bool:
    return any("audit" not in label["info"] for label in entry["labels"].values())


def _events_of_case(now: str, image_id: str, former: Mapping[str, Any], entry: Entry) -> list[Event]:
    events = _handed_out(now, image_id, former, entry)
    for tag, label in entry["labels"].items():
        if "audit" not in label["info"]:
            _note_label(now, former, entry, tag)
            events.append(label_event(image_id, entry, tag))
    for tag, label in entry["labels"].items():
        if _verdict_is_new(former, tag, label["info"]):
            _note_verdict(now, tag, label["info"])
            events.append(verdict_event(image_id, entry, tag))
    return events


def _handed_out(now: str, image_id: str, former: Mapping[str, Any], entry: Entry) -> list[Event]:
    """Return an event for each strategy whose last hand-out has changed; MONAI Label keeps it in the image's info."""
    events, known = [], former["image"]["info"].get("strategy") or {}
    for strategy, last in (entry["image"]["info"].get("strategy") or {}).items():
        if isinstance(last, Mapping) and last != known.get(strategy):
            who, start = _who(last), _current(entry)
            if who:
                _remember(entry, who, {"handed_out": now, **start, "seen": sorted(_marks(entry))})
            facts = {"model": start.get("model"), "round": start.get("round")}
            facts |= {"start_tag": start.get("tag"), "start_sha256": start.get("sha256"), "handed_out": now}
            events.append(_event(HANDED_OUT, now, image_id, entry, who=who, strategy=str(strategy), **facts))
    return events


def _note_label(now: str, former: Mapping[str, Any], entry: Entry, tag: str) -> None:
    """Enter into a new label's info how it came to be."""
    info, known = entry["labels"][tag]["info"], former["labels"].get(tag)
    who = _who(info)
    if "recovered" in info:
        what = FOUND
    elif tag == ORIGINAL:
        what = REFRESHED if known else PUBLISHED
    else:
        what = SAVED
    same = known is not None and known["info"].get("sha256") == info.get("sha256")
    since_ever = same or bool(info.get("archived_from"))  # saved before there was a history
    at = str(info.get("saved") or now) if since_ever else now
    if what == SAVED and not since_ever:
        _note_circumstances(now, former, entry, tag)
    info["audit"] = {"event": uuid.uuid4().hex, "what": what, "at": at, "who": who}
    if what == SAVED and not since_ever and who:
        record = {"tag": tag, "sha256": info.get("sha256"), "seen": sorted(_marks(entry))}
        start = info["started_from"]
        record |= {key: start[key] for key in ("model", "round") if key in start}
        handed_out = {"handed_out": info["handed_out"]} if "handed_out" in info else {}
        _remember(entry, who, {**handed_out, **record})


def _note_circumstances(now: str, former: Mapping[str, Any], entry: Entry, tag: str) -> None:
    info, record = entry["labels"][tag]["info"], _record_of(former, entry["labels"][tag]["info"])
    info.setdefault("started_from", starting_label(former, info))
    versions = [key for key in entry["labels"] if key not in former["labels"]]
    replaced = [key for key in versions if entry["labels"][key]["info"].get("archived_from") == tag]
    if replaced:
        info["replaced"] = replaced[0]
    if record and "handed_out" in record:
        seconds = datetime.fromisoformat(now) - datetime.fromisoformat(record["handed_out"])
        info |= {"handed_out": record["handed_out"], "seconds": round(seconds.total_seconds(), 1)}
    marks = {mark: said for mark, said in _marks(entry, tag).items() if _others(said[0], _identities(info))}
    if record is not None:
        meant = [said for mark, said in marks.items() if mark not in record["seen"]]
    else:  # nobody knows when this annotator began: what the save replaced may not have been seen
        meant = [said for mark, said in marks.items() if replaced and mark == _mark(entry, replaced[0])]
    if meant:
        info["conflict"] = [text for _, text in meant]


def _verdict_is_new(former: Mapping[str, Any], tag: str, info: Mapping[str, Any]) -> bool:
    meta = info.get("segmentationMeta")
    if not isinstance(meta, Mapping):
        return False
    if "judged" not in info["audit"]:
        return bool(meta.get("status"))
    return tag in former["labels"] and former["labels"][tag]["info"].get("segmentationMeta") != meta


def _note_verdict(now: str, tag: str, info: dict[str, Any]) -> None:
    meta, earlier = info["segmentationMeta"], info["audit"].get("judged")
    who = str(info.get("judged_by") or meta.get("approvedBy") or "")
    conflict = []
    if earlier and earlier["who"] != who and earlier["status"] != str(meta.get("status") or ""):
        conflict = [f"{earlier['who'] or 'somebody'} said '{earlier['status']}' of {tag} at {earlier['at']}"]
    judged = {"event": uuid.uuid4().hex, "at": now, "who": who, "tag": tag, "status": str(meta.get("status") or "")}
    info["audit"] = {**info["audit"], "judged": {**judged, "conflict": conflict}}


def _current(entry: Mapping[str, Any]) -> dict[str, Any]:
    tag = FINAL if FINAL in entry["labels"] else ORIGINAL
    if tag not in entry["labels"]:
        return {}
    info = entry["labels"][tag]["info"]
    origin = info if "model" in info else info.get("started_from") or {}
    start = {"tag": tag, "sha256": info.get("sha256"), "model": origin.get("model"), "round": origin.get("round")}
    return {key: value for key, value in start.items() if value is not None}


def _record_of(entry: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any] | None:
    work = entry.get("work") or {}
    return work.get(_who(info))


def _remember(entry: Entry, who: str, record: dict[str, Any]) -> None:
    work = {key: value for key, value in (entry.get("work") or {}).items() if key != who}
    entry["work"] = {**dict(list(work.items())[-WORKERS_REMEMBERED + 1 :]), who: record}


def _who(info: Mapping[str, Any]) -> str:
    """Return who saved a label or was handed a case: the user, else the client's name for itself.

    The latter alone tells nobody apart who has left 3D Slicer's default, ``user-xyz``.
    """
    return str(info.get("user") or info.get("client_id") or "")


def _identities(info: Mapping[str, Any]) -> set[str]:
    return {_who(info)} - {""}


def _others(first: set[str], second: set[str]) -> bool:
    return first.isdisjoint(second) and bool(first or second)


def _mark(entry: Mapping[str, Any], tag: str) -> str:
    return str(entry["labels"][tag]["info"].get("sha256"))[:16]


def _marks(entry: Mapping[str, Any], besides: str = "") -> dict[str, tuple[set[str], str]]:
    """Return what people have said of a case, each with its authors and a line that tells of it."""
    found: dict[str, tuple[set[str], str]] = {}
    for tag, label in entry["labels"].items():
        info, mark = label["info"], _mark(entry, tag)
        if tag not in (ORIGINAL, besides):
            who = _who(info) or "somebody"
            place = f"{info['archived_from']} (now {tag})" if info.get("archived_from") else tag
            found[mark] = (_identities(info), f"{who} saved {place} at {info.get('saved', 'an unknown time')}")
        meta = meta_of(info)
        if tag != besides and meta.get("status"):
            who = str(meta.get("approvedBy") or info.get("judged_by") or "")
            said = f"{who or 'somebody'} said '{meta['status']}' of {tag}"
            found[f"{mark} {meta['status']} {who}"] = ({who} if who else set(), said)
    return found
