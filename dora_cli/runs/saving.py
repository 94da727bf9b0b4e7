"""When a run is saved, and which of its checkpoints are kept."""

from __future__ import annotations

import time
from pathlib import Path

from dora_cli.files import RECORD, parse_json, read_bytes
from dora_cli.recipe import SaveSection
from dora_cli.runs.checkpoints import PROGRESS, checkpoints_of, step_of
from dora_cli.runs.folders import remove_folder
from dora_cli.runs.run_folder import RunRecords


class SavePolicy:
    """Says when a checkpoint is due within an epoch, and clears away old ones.

    Minutes are counted by a clock that is never set back.

    Attributes:
        last_step: of the newest checkpoint of this run.
    """

    def __init__(self, settings: SaveSection) -> None:
        self.settings = settings
        self.last_step: int | None = None
        self._saved = time.monotonic()

    def step_due(self, step: int) -> bool:
        """Whether ``save.every_steps`` asks for one after `step`."""
        return self.settings.every_steps is not None and step % self.settings.every_steps == 0

    def due(self, step: int) -> bool:
        """Whether a checkpoint should follow `step`."""
        minutes = self.settings.every_minutes
        return self.step_due(step) or (minutes is not None and time.monotonic() - self._saved >= 60 * minutes)

    def saved(self, step: int) -> None:
        """The checkpoint of `step` was written; said in every process, whose clocks then agree again."""
        self._saved, self.last_step = time.monotonic(), step

    def keep_newest(self, records: RunRecords, *, step: int) -> None:
        """After the checkpoint of `step` was written: removes all but the newest ``save.keep`` and what they had
        selected.
        """
        self.clear(records, step=step)
        for folder in checkpoints_of(records):
            if (step_of(folder) or 0) > step:  # a damaged one that a resumed run went on without
                remove_folder(folder)

    def clear(self, records: RunRecords, *, step: int) -> None:
        """Removes older checkpoints; again when a run goes on from `step`, since it may have been killed on the way.

        The selected checkpoint of each that is kept stays too: going on from that one needs it.
        """
        by_step = {step_of(folder) or 0: folder for folder in checkpoints_of(records)}
        older = [number for number in by_step if number <= step]
        kept = older[-self.settings.keep :]
        kept += [_selected(by_step[number]) for number in kept]
        for number in older:
            if number not in kept:
                remove_folder(by_step[number])


def _selected(folder: Path) -> int:
    """The step that was selected when a checkpoint was written; -1 if none was, or if it is too damaged to say."""
    try:
        return int(parse_json(read_bytes(folder / PROGRESS, RECORD))["selection"]["step"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return -1
