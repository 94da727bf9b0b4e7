"""Whether the model hub answers."""

from __future__ import annotations

import os
import time
from typing import Any

from dora_cli.hub import PATIENCE, within

_DATA_SWITCH = "HF_DATASETS_OFFLINE"
_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", _DATA_SWITCH)
_MODEL = "FacebookAI/roberta-base"


def ask_the_hub(timeout: float = PATIENCE) -> dict[str, Any]:
    """``endpoint, state, detail, seconds``; `state` is ``reachable``, ``unreachable``, ``offline`` (not asked, as told)
    or ``unknown``.

    The question is the one that training asks first, put by the same library, so it takes the same way: mirrors and
    proxies included.
    """
    switched = [name for name in _SWITCHES if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    try:
        from huggingface_hub import HfApi, constants
    except Exception:  # said among the packages
        return {"endpoint": None, "state": "unknown", "detail": "huggingface_hub cannot be loaded", "seconds": None}
    if constants.HF_HUB_OFFLINE:
        because = f"{' and '.join(switched)} set" if switched else "the library is in offline mode"
        return {"endpoint": constants.ENDPOINT, "state": "offline", "detail": f"not asked: {because}", "seconds": None}

    start = time.monotonic()
    failure: Exception | None = None
    try:
        within(timeout, lambda seconds: HfApi().model_info(_MODEL, timeout=seconds))
    except Exception as error:
        failure = error
    state, detail = _judge(failure)
    if _DATA_SWITCH in switched and state == "reachable":
        detail = f"{_DATA_SWITCH} set: data sets are read from their cache alone"
    return {
        "endpoint": constants.ENDPOINT,
        "state": state,
        "detail": detail,
        "seconds": round(time.monotonic() - start, 2),
    }


def _judge(failure: Exception | None) -> tuple[str, str | None]:
    if failure is None:
        return "reachable", None
    from huggingface_hub.errors import RepositoryNotFoundError

    status = getattr(getattr(failure, "response", None), "status_code", None)
    if isinstance(status, int):  # any server may answer; that it has no such model only a hub says
        state = "reachable" if isinstance(failure, RepositoryNotFoundError) else "unreachable"
        return state, f"{status} when asked for {_MODEL}"
    return "unreachable", f"{type(failure).__name__}: {next(iter(str(failure).splitlines()), '')[:200]}"
