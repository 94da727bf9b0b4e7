"""``python -m dora_cli.training.capture.probe``: tries whether training steps of a model, and its evaluations, can
be captured in CUDA graphs.

Reads a `dora_cli.machine.capture.Question` with a `device` from stdin, as JSON. Prints one line of JSON, ``{"captured":
true}`` or ``{"captured": false, "reason": "..."}``, and exits with 0 if the answer holds for good, with 1 if it is the
machine's at the moment. The process is lost after a capture that failed; that is why it is one of its own. On a CPU,
which has no graphs, they are tried as they stand.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from dora_cli.errors import DeviceError


def main() -> int:
    import torch

    from dora_cli.machine.devices import resolve_device
    from dora_cli.training.capture.trial import NotCompiledError, try_steps

    question = json.load(sys.stdin)
    try:
        device = resolve_device(question["device"])
        torch.zeros((), device=device)
    except (DeviceError, RuntimeError) as error:
        return _say(1, error)
    try:
        try_steps(question, device, cuda_graph=device.type == "cuda")
    except (torch.OutOfMemoryError, ImportError) as error:
        return _say(1, error)
    except NotCompiledError as error:
        return _say(1, _first(error))
    except Exception as error:
        return _say(0, _first(error) if isinstance(error, DeviceError) else error)
    return _say(0)


def _first(error: BaseException) -> BaseException:
    """What a failed capture began with: the errors after it only say that there was one before."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def _say(code: int, error: BaseException | None = None) -> int:
    answer: dict[str, Any] = {"captured": error is None}
    if error is not None:
        answer["reason"] = (
            next((line.strip() for line in str(error).splitlines() if line.strip()), "") or type(error).__name__
        )[:200]
    print(json.dumps(answer), flush=True)
    return code


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # what the device still holds cannot always be torn down
