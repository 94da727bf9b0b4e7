"""What must hold between the keys of a recipe.

What a single key takes is written at the key, in `dora_cli.recipe.schema`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A condition on several keys.

    Attributes:
        keys: dotted keys whose values `check` takes; the first is the one to blame.
        check: returns what is wrong and how to fix it, or None.
    """

    keys: tuple[str, ...]
    check: Callable[..., str | None]


def broken_rules(value: Callable[[str], Any], rules: Iterable[Rule] = ()) -> Iterator[tuple[str, str]]:
    """Yields ``(key, message)`` of every broken rule: those below, and `rules` of the method.

    Args:
        value: gives the value of a dotted key; raises KeyError where the recipe has no such key or no usable value,
            which excuses the rules that need it.
    """
    for rule in (*RULES, *rules):
        try:
            values = [value(key) for key in rule.keys]
        except KeyError:
            continue
        message = rule.check(*values)
        if message is not None:
            yield rule.keys[0], message


def _path(path: str | None, source: str) -> str | None:
    if source == "glue-tsv" and path is None:
        return "is missing: data.source glue-tsv needs it; set it to the folder of the task's train.tsv and dev.tsv"
    if source == "e2e-csv" and path is None:
        return (
            "is missing: data.source e2e-csv needs it; set it to the folder of trainset.csv, devset.csv and "
            "testset_w_refs.csv"
        )
    if source == "files" and path is None:
        return "is missing: data.source files needs it; set it to the folder of your csv, tsv, json or parquet files"
    if source in ("hub", "builtin") and path is not None:
        return (
            f"is not read with data.source {source}, got {path!r}; set data.source to glue-tsv, e2e-csv or files, "
            "or remove the path"
        )
    return None


def _only_files(value: object, source: str) -> str | None:
    if value is not None and source != "files":
        return (
            f"is only read with data.source files, got data.source {source}; set data.source to files, or remove "
            "this key"
        )
    return None


def _only_own(value: object, source: str, name: str | None) -> str | None:
    return None if source == "hub" and name is not None else _only_files(value, source)


def _only_hub(value: object, source: str) -> str | None:
    if value is not None and source != "hub":
        return (
            f"is only read with data.source hub, got data.source {source}; set data.source to hub, or remove this key"
        )
    return None


def _lr_warmup(warmup_steps: int | None, max_steps: int | None) -> str | None:
    if warmup_steps is not None and max_steps is not None and warmup_steps >= max_steps:
        return f"must be below train.max_steps = {max_steps}, got {warmup_steps}; lower it, or train for more steps"
    return None


def _fp16_on_cpu(precision: str, device: str) -> str | None:
    if precision == "fp16" and device == "cpu":
        return "fp16 needs a GPU, but train.device is cpu; set precision to fp32 or bf16, or device to cuda"
    return None


_FP16_MAX = 65504


def fits_fp16(scale: float, alpha: str, over: str, formula: str, precision: str, dtype: str) -> str | None:
    """What is wrong with a `scale` that the arithmetic of fp16 does not hold; None where it does, or is another.

    Args:
        scale: what updates are multiplied by.
        alpha: the value of ``method.alpha`` that made it so large.
        over: what alpha is divided by, in words.
        formula: how the scale comes about.
        precision: ``train.precision``.
        dtype: ``model.dtype``.
    """
    if precision != "fp16" and not (precision == "auto" and dtype == "float16"):
        return None
    if scale <= _FP16_MAX:
        return None
    return (
        f"must be at most {_FP16_MAX} times {over}, got {alpha}: updates are scaled by {formula}, and the "
        f"arithmetic's fp16 ends at {_FP16_MAX}; lower it, or set train.precision to bf16 or fp32"
    )


def _alpha_over_rank_fits_fp16(alpha: float, rank: int, precision: str, dtype: str) -> str | None:
    return fits_fp16(alpha / rank, f"{alpha:g}", f"the rank of {rank}", "alpha / rank", precision, dtype)


SCALE_FITS_FP16 = Rule(("method.alpha", "method.rank", "train.precision", "model.dtype"), _alpha_over_rank_fits_fp16)
"""The rule of a method that scales all its updates by ``alpha / rank``."""


def trains_fp32(dtype: str, name: str) -> str | None:
    """What is wrong with a half ``model.dtype`` under a method, of this name, that trains the base's own tensors."""
    if dtype == "float32":
        return None
    return (
        f"must be float32 with method {name}, got {dtype}: the base's own tensors train, and half types lose small "
        "updates; set it to float32, and train.precision: bf16 to compute in half"
    )


RULES = (
    Rule(("data.path", "data.source"), _path),
    Rule(("data.name", "data.source"), _only_hub),
    Rule(("data.config", "data.source"), _only_hub),
    Rule(("data.columns", "data.source", "data.name"), _only_own),
    Rule(("data.labels", "data.source", "data.name"), _only_own),
    Rule(("data.scale", "data.source", "data.name"), _only_own),
    Rule(("data.validation", "data.source", "data.name"), _only_own),
    Rule(("data.separator", "data.source"), _only_files),
    Rule(
        ("data.invalid", "data.source", "data.name"),
        lambda value, source, name: _only_own(value if value != "error" else None, source, name),
    ),
    Rule(("train.lr_warmup_steps", "train.max_steps"), _lr_warmup),
    Rule(("train.precision", "train.device"), _fp16_on_cpu),
)


# Methods that prune to a budget ---------------------------------------------------------------------------------------


def _start_rank(start_rank: int | None, rank: int) -> str | None:
    if start_rank is not None and start_rank < rank:
        return (
            f"must be at least method.rank = {rank}, got {start_rank}; raise it, lower the rank, or set null for "
            "ceil(1.5 * rank)"
        )
    return None


def _phases(final: float, warmup: float) -> str | None:
    # Read as decimals, as the schedule does, so that 0.3 + 0.7 is 1 whatever its binary rounding.
    total = Fraction(str(warmup)) + Fraction(str(final))
    if total >= 1:
        given = f"{final} + {warmup} = {float(total)}"
        return (
            f"its sum with method.warmup_fraction must be below 1, got {given}; lower one of them, pruning takes "
            "the rest"
        )
    return None


def _scale_by_start_rank(alpha: float, rank: int, start_rank: int | None, precision: str, dtype: str) -> str | None:
    start = start_rank if start_rank is not None else -(-3 * rank // 2)
    return fits_fp16(alpha / start, f"{alpha:g}", f"the start rank of {start}", "alpha / start rank", precision, dtype)


RANKS_AND_PHASES = (
    Rule(("method.start_rank", "method.rank"), _start_rank),
    Rule(("method.final_fraction", "method.warmup_fraction"), _phases),
)
"""For a method with a start rank and three phases."""

PRUNING = (
    *RANKS_AND_PHASES,
    Rule(("method.alpha", "method.rank", "method.start_rank", "train.precision", "model.dtype"), _scale_by_start_rank),
)
"""For such a method whose updates are scaled by alpha over the start rank."""
