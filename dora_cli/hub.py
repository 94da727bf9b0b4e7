"""Asking the model hub so that its silence costs seconds: its library would try again for half a minute, noisily, file
by file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds to wait for an answer, unless HF_HUB_ETAG_TIMEOUT (the library's own variable) says how long."""
HOLDS = 60.0
"""Seconds after which a hub that did not answer is asked again."""


class _Memory:
    """When the hub last did not answer, and how: one command asks for data and for a model."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.since = 0.0


_memory = _Memory()


def patience() -> float:
    """Seconds to wait for an answer."""
    try:
        return float(os.environ["HF_HUB_ETAG_TIMEOUT"])
    except (KeyError, ValueError):
        return PATIENCE


def ask(question: Callable[[float], T]) -> T:
    """The answer of the hub to `question`, which is given the seconds that a request may take.

    Raises:
        Exception: what `question` raised. `silent` tells a hub that answered from one that did not; of the latter the
            same error is raised again for a minute, without asking.
        TimeoutError: no answer in time.
    """
    if _memory.error is not None and time.monotonic() - _memory.since < HOLDS:
        raise _memory.error
    try:
        answer = within(patience(), question)
    except Exception as error:
        _memory.error, _memory.since = (
            (error, time.monotonic()) if silent(error) and not _forbidden(error) else (None, 0.0)
        )
        raise
    _memory.error = None
    return answer


def within(seconds: float, question: Callable[[float], T]) -> T:
    """`question`'s answer; raises what it raises, or TimeoutError where it takes longer.

    In a thread: the library's timeouts do not cover the look-up of a host's name, and count each part of a request
    anew. One that hangs ends with the program.
    """
    answers: list[T] = []
    failures: list[Exception] = []

    def put() -> None:
        try:
            answers.append(question(seconds))
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    thread.join(seconds)
    if failures:
        raise failures[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:g} seconds")
    return answers[0]


def silent(error: Exception) -> bool:
    """Whether `error` says that the hub did not answer; any HTTP answer is one, a refusal too."""
    from huggingface_hub.errors import HfHubHTTPError

    return not isinstance(error, HfHubHTTPError) and _status(error) is None


def data_cache() -> Path:
    """Where `datasets` keeps data sets, by the two variables that its documentation names: the package itself takes
    seconds to load.
    """
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_DATASETS_CACHE", Path(HF_HOME) / "datasets"))


def _status(error: Exception) -> Any:
    return getattr(getattr(error, "response", None), "status_code", None)


def _forbidden(error: Exception) -> bool:
    """Whether the hub may not be asked: that takes no time, and may be allowed again."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)
