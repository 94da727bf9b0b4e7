"""Errors that a user can cause.

Each message says what was wrong, the value that was given, the bound it broke and how to fix it. Commands print the
message to stderr and exit with `exit_code`; a traceback appears only with ``--debug``. Mistakes of our own are
`assert`s, not these.
"""

from __future__ import annotations

from collections.abc import Sequence


class DoraError(ValueError):
    """Base class of everything a user can fix. Exit code 2."""

    exit_code = 2


class OptionError(DoraError):
    """Options of a command that do not go together."""


class RecipeError(DoraError):
    """The recipe is missing, malformed or asks for something impossible.

    Carries every problem found, not only the first.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ExperimentError(RecipeError):
    """The file of an experiment is missing, malformed or asks for something impossible; carries every problem."""


class BudgetError(DoraError):
    """A rank budget or schedule that cannot be carried out."""


class DataError(DoraError):
    """Data that is absent, unreadable or does not fit the task."""


class ModelError(DoraError):
    """A base model that cannot be loaded or adapted."""


class ProjectionError(ModelError):
    """The targets name no projection of the model, or one that cannot be adapted."""


class CheckpointError(DoraError):
    """A run folder or checkpoint that is incomplete, damaged or does not fit what it is loaded into."""


class OutputError(DoraError):
    """An output folder that must not or cannot be written."""


class LibraryError(DoraError):
    """A library that is installed but cannot be loaded."""


class TrackerError(DoraError):
    """A tracker that is not installed or does not start."""


class ExportError(DoraError):
    """A run that cannot be exported as it was asked for."""


class DeviceError(DoraError):
    """A device or precision that this machine does not have."""


class OutOfMemoryError(DoraError):
    """The machine has too little memory for what the recipe asks."""


class DivergedError(DoraError):
    """Training produced a non-finite loss or gradient. Exit code 3."""

    exit_code = 3


class ProcessError(DoraError):
    """One of the processes that a command started has failed.

    The exit code is its own; 128 and the signal's number where one ended it.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        self.exit_code = exit_code
        super().__init__(message)


class StoppedError(DoraError):
    """A signal stopped the run.

    Exit code 128 and the signal's number: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, message: str, number: int) -> None:
        self.exit_code = 128 + number
        super().__init__(message)
