"""Whether the model hub answers."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

TIMEOUT = 3.0
"""Seconds to wait for an answer."""
_DATA_SWITCH = "HF_DATASETS_OFFLINE"
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", _DATA_SWITCH)
_MODEL = "FacebookAI/roberta-base"


def ask_the_hub(timeout: float = TIMEOUT) -> dict[str, Any]:
    """``endpoint, state, detail, seconds``; `state` is ``reachable``, ``unreachable``, ``offline`` (not asked, as told) or ``unknown``.

    The question is the one that training asks first, put by the same library, so it takes the same way: mirrors and proxies included.
    """
    switched = [name for name in _SWITCHES if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    try:
        from huggingface_hub import HfApi, constants
    except Exception:  # said among the packages
        return {"endpoint": None, "state": "unknown", "detail": "huggingface_hub cannot be loaded", "seconds": None}
    if constants.HF_HUB_OFFLINE:
        because = f"{' and '.join(switched)} set" if switched else "the library is in offline mode"
        return {"endpoint": constants.ENDPOINT, "state": "offline", "detail": f"not asked: {because}", "seconds": None}

    answers: list[str | Exception] = []

    def ask() -> None:
        try:
            HfApi().model_info(_MODEL, timeout=timeout)
            answers.append("")
        except Exception as error:
            answers.append(error)

    start = time.monotonic()
    # A thread: the timeout does not cover the look-up of the host's name. One that hangs ends with the program.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout + 1.0)
    state, detail = _judge(answers[0] if answers else None, timeout)
    if _DATA_SWITCH in switched and state == "reachable":
        detail = f"{_DATA_SWITCH} set: data sets are read from their cache alone"
    return {"endpoint": constants.ENDPOINT, "state": state, "detail": detail, "seconds": round(time.monotonic() - start, 2)}


def _judge(answer: str | Exception | None, timeout: float) -> tuple[str, str | None]:
    if answer is None:
        return "unreachable", f"no answer within {timeout:g} seconds"
    if isinstance(answer, str):
        return "reachable", None
    from huggingface_hub.errors import RepositoryNotFoundError

    status = getattr(getattr(answer, "response", None), "status_code", None)
    if isinstance(status, int):  # any server may answer; that it has no such model only a hub says
        state = "reachable" if isinstance(answer, RepositoryNotFoundError) else "unreachable"
        return state, f"{status} when asked for {_MODEL}"
    return "unreachable", f"{type(answer).__name__}: {next(iter(str(answer).splitlines()), '')[:200]}"
