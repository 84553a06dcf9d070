"""Where a run's figures come from: settings, versions, machine, and the time of each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from crossmoda.durations import duration_text
from crossmoda.evaluation.report.run_folder import RunFolder
from crossmoda.files import read_json

APART = ("seed", "device", "machine", "versions")  # shown as facts; the rest of run.yaml is the configuration


@dataclass(frozen=True)
class StepTime:
    """A step of a manifest: which folder it belongs to, how long it took, when it ended."""

    folder: str
    name: str
    seconds: float
    finished: str

    @property
    def duration(self) -> str:
        """The time it took, for people."""
        return duration_text(self.seconds)


def step_times(run: RunFolder) -> list[StepTime]:
    """Return every recorded step but the report's own, in the order in which they ended."""
    steps = []
    for manifest in sorted(run.path.glob("**/manifest.json")):
        folder = manifest.parent.relative_to(run.path).as_posix()
        if any(part.startswith(".") and part != "." for part in folder.split("/")):
            continue  # an unfinished step's workplace
        for name, record in read_json(manifest).get("steps", {}).items():
            if name == "report":
                continue  # its time is not known yet when the page is first written
            where = run.path.name if folder == "." else folder
            steps.append(StepTime(where, name, float(record.get("seconds", 0.0)), str(record.get("finished", ""))))
    return sorted(steps, key=lambda step: step.finished)


def facts(run: RunFolder) -> dict[str, str]:
    """Return seed, versions and machine of ``run.yaml`` as name -> text."""
    found: dict[str, str] = {}
    for key in APART:
        value = run.settings.get(key)
        if isinstance(value, dict):
            found |= {str(name).replace("_", " "): str(text) for name, text in value.items()}
        elif value is not None:
            found[key] = str(value)
    return found


def configuration(run: RunFolder) -> str:
    """Return the rest of ``run.yaml`` as text."""
    rest: dict[str, Any] = {key: value for key, value in run.settings.items() if key not in APART}
    return yaml.safe_dump(rest, sort_keys=False, allow_unicode=True) if rest else ""
