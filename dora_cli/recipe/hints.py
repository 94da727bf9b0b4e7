"""The known name nearest to one that is not known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_MEANT = {
    "gpu": ("cuda",),
    "nvidia": ("cuda",),
    "rocm": ("cuda",),  # as PyTorch calls AMD's devices too
    "csv": ("files",),
    "tsv": ("files",),
    "local": ("files",),
    "hf": ("hub",),
    "huggingface": ("hub",),
    "half": ("fp16", "float16"),
    "float16": ("fp16",),
    "bfloat16": ("bf16",),
    "float32": ("fp32",),
    "fp16": ("float16",),
    "bf16": ("bfloat16",),
    "fp32": ("float32",),
    "noniid": ("dirichlet",),
    "non_iid": ("dirichlet",),
    "random": ("iid",),
    "uniform": ("iid",),
    "fedavg": ("average",),
    "fedit": ("average",),
    "mean": ("average",),
    "flexlora": ("exact",),
    "svd": ("exact", "weight"),
    "lambda": ("residual",),
    "client_fraction": ("participation",),
    "federation": ("federated",),
    "sensitivity": ("taylor",),
    "obd": ("fisher",),
    "energy": ("norm",),
    "magnitude": ("norm",),
    "frozen": ("fixed",),
    "r_min": ("min_rank",),
    "r_max": ("max_rank",),
}
"""Other words for what a key takes, whose letters are nearer to something else (``gpu`` to ``cpu``) or to nothing."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The name in `known` that `word` most likely stands for, None if nothing is near.

    Besides small misspellings and other words for the same it knows initials (``lr`` for ``learning_rate``) and
    beginnings (``acc`` for ``accumulation``).
    """
    names = list(known)
    plain = {name: name.lower().replace("-", "_") for name in names}
    typed = word.lower().replace("-", "_")
    close = difflib.get_close_matches(typed, plain.values(), n=1, cutoff=0.6)
    if meant := [name for name in _MEANT.get(typed, ()) if name in names]:
        return meant[0]
    for name in names:
        if close and plain[name] == close[0]:
            return name
    if len(typed) >= 2:
        for name in names:
            if typed == "".join(part[:1] for part in plain[name].split("_")):
                return name
        for name in names:
            if plain[name].startswith(typed) or f"_{typed}" in plain[name]:
                return name
    return None


def nearest_device(given: str | int) -> str | None:
    """The device that `given` most likely stands for: ``gpu:1``, ``cuda1`` and ``1`` for ``cuda:1``; None if nothing is
    near.
    """
    found = re.fullmatch(r"(?:([a-z]+)[ :_-]?)?([0-9]{0,3})", str(given).strip().lower())
    if found is None or not any(found.groups()):
        return None
    name, index = found[1] or "cuda", found[2]
    # tpu, xpu, npu: a device of another maker, which is none of ours
    if name.endswith("pu") and name not in ("cpu", "gpu"):
        return None
    device = nearest(name, ["auto", "cpu", "cuda"])
    return f"cuda:{int(index)}" if device == "cuda" and index else device
