"""What was found out about each case, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ignite.engine import Engine, Events

from crossmoda.files import write_json


class CaseReport:
    """Write what the postprocessing found of each case to a JSON file ``{case: found}`` when all cases are done.

    Args:
        path: of the file.
        key: of what was found, in the engine's output: anything that JSON can hold.
    """

    def __init__(self, path: str | Path, key: str) -> None:
        self.path = Path(path)
        self.key = key
        self.cases: dict[str, Any] = {}

    def attach(self, engine: Engine) -> None:
        """Listen to ``engine``'s iterations and to its end."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def value_of(self, output: Any) -> Any:
        """Return what is written of a case's output."""
        return output

    def _begin(self, engine: Engine) -> None:
        self.cases = {}

    def _add(self, engine: Engine) -> None:
        batch, outputs = cast(Any, engine.state.batch), cast(Any, engine.state.output)  # lists, as MONAI leaves them
        for item, output in zip(batch, outputs, strict=True):
            self.cases[str(item["case"])] = self.value_of(output[self.key])

    def _write(self, engine: Engine) -> None:
        write_json(self.path, self.cases)
