"""Stopping by a signal: the step that runs is finished and the run saved; a second signal stops at once."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from dora_cli.errors import StoppedError
from dora_cli.machine.launched import is_launched

# Windows has no SIGHUP
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


TOGETHER = 1.0
"""Seconds within which a process that others were launched with takes the same signal for one: what ends a job mostly
sends it to all of its processes, and the one that launched them passes it on as well."""


class EvaluationInterruptedError(Exception):
    """A signal came while the model was evaluated."""


class StoppedNow(BaseException):
    """A signal that waits for nothing. No `Exception`: no library may take it for an error of its own and go on.

    Attributes:
        again: whether an earlier signal was being obeyed.
    """

    def __init__(self, number: int, *, again: bool) -> None:
        super().__init__(number)
        self.number, self.again = number, again

    def error(self, how: str | None) -> StoppedError:
        """What a user is told; `how` says how to go on, None where there is nothing to go on from."""
        message = f"stopped by {signal.Signals(self.number).name}" + (" without saving again" if self.again else "")
        return StoppedError(f"{message}; {how or 'nothing was saved yet'}", self.number)


class StopSignals:
    """Within this context SIGINT, SIGTERM and SIGHUP ask the run to stop; the handlers that were there come back on
    leaving.

    While the run is not `patient` (it loads, or decodes at the end: nothing would be won by waiting) the first signal
    stops it at once: it raises `StoppedNow`. Only the main thread of a program can have handlers; elsewhere nothing is
    installed and signals do what they did. A SIGHUP that is ignored (``nohup``) stays so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._last: tuple[int, float] | None = None
        self.patient = False
        self._former: dict[int, Any] = {}

    def interrupt(self) -> None:
        """Ends an evaluation that a signal came into; called between its batches.

        What it would have found is found after resuming.
        """
        if self.received is not None:
            raise EvaluationInterruptedError

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) is signal.SIG_IGN:
                    continue
                self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set by Python
        self._former.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        last, now = self._last, time.monotonic()
        if last is not None and is_launched() and number == last[0] and now - last[1] < TOGETHER:
            return
        self._last = number, now
        if self.received is not None or not self.patient:
            raise StoppedNow(number, again=self.received is not None)
        self.received = number


def stopped(number: int, step: int, how: str) -> StoppedError:
    """The end of a run that saved itself after `step`; `how` says how to go on."""
    return StoppedError(f"stopped by {signal.Signals(number).name} after step {step:,}; {how}", number)
