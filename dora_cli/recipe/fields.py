"""What a key of a recipe may take, in types that say so: bounds, the words of a message, the words of a JSON Schema.

Nothing is converted: a quoted number is text, 3.0 is no whole number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

MAX_COUNT = 2**31 - 1
"""The largest whole number a key takes: what fits the 32-bit integers that counts may end up in."""
MAX_SEED = 2**32 - 1
"""The largest seed NumPy takes."""
MAX_NUMBER, MIN_POSITIVE = 1e38, 1e-37
"""What a number may be that is computed with in fp32, whose largest is 3.4e38 and whose smallest (normal) is 1.2e-38:
with room for the small factors that it is multiplied by."""
MAX_THREADS = 1024
"""More threads than any machine has cores for would only fail in the operating system."""
MAX_PARTS = 32
"""More parts of a batch than there are pieces to make them up of there cannot be."""


class _Bound:
    """A check whose failure reads ``must be {text}``, and the same in JSON Schema's words, as far as those go.

    NaN fails every comparison, so it fails every bound too.
    """

    def __init__(self, test: Callable[[Any], bool], text: str, **keywords: Any) -> None:
        """Keeps what to check and how to say it; `keywords` are JSON Schema's."""
        self.test, self.text, self.keywords = test, text, keywords

    def check(self, value: Any) -> Any:
        """Gives `value` back, or raises."""
        if not self.test(value):
            raise PydanticCustomError("bound", "must be {bound}", {"bound": self.text})
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), **self.keywords}


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _writable(text: str) -> bool:
    """Whether a file name and a UTF-8 file can hold `text`: no NUL, no lone half of a surrogate pair."""
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _distinct(values: tuple[str, ...]) -> bool:
    return len(set(values)) == len(values)


def _pair(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise PydanticCustomError("bound", "must be {bound}", {"bound": "a list of two numbers, such as [0.9, 0.999]"})
    return tuple(value)


def _auto_or_up_to(most: int) -> Callable[[Any], Any]:
    """A check that a value is ``auto`` or a whole number from 1 to `most`."""

    def check(value: Any) -> Any:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value != "auto" and not (whole and 1 <= value <= most):
            raise PydanticCustomError("bound", "must be {bound}", {"bound": f"auto or a whole number from 1 to {most}"})
        return value

    return check


# Two checks each, so that the message names the one bound that was broken.
_AT_MOST_MAX = _Bound(lambda v: v <= MAX_COUNT, f"at most {MAX_COUNT}", maximum=MAX_COUNT)
Count = Annotated[int, _Bound(lambda v: v >= 1, "at least 1", minimum=1), _AT_MOST_MAX]
CountOrZero = Annotated[int, _Bound(lambda v: v >= 0, "at least 0", minimum=0), _AT_MOST_MAX]
Length = Annotated[int, _Bound(lambda v: v >= 8, "at least 8 (special tokens and some text)", minimum=8), _AT_MOST_MAX]
Seed = Annotated[
    int,
    _Bound(lambda v: v >= 0, "at least 0", minimum=0),
    _Bound(lambda v: v <= MAX_SEED, f"at most {MAX_SEED}", maximum=MAX_SEED),
]
_FITS_FP32 = _Bound(
    lambda v: v <= MAX_NUMBER,
    f"at most {MAX_NUMBER:g}, since the arithmetic's fp32 ends at 3.4e+38",
    maximum=MAX_NUMBER,
)
Positive = Annotated[
    float,
    _Bound(lambda v: 0 < v < math.inf, "above 0 and finite", exclusiveMinimum=0),
    _Bound(
        lambda v: v >= MIN_POSITIVE,
        f"at least {MIN_POSITIVE:g}, since the arithmetic's fp32 begins at 1.2e-38",
        minimum=MIN_POSITIVE,
    ),
    _FITS_FP32,
]
NonNegative = Annotated[float, _Bound(lambda v: 0 <= v < math.inf, "at least 0 and finite", minimum=0), _FITS_FP32]
Fraction = Annotated[float, _Bound(lambda v: 0 <= v <= 1, "at least 0 and at most 1", minimum=0, maximum=1)]
FractionBelowOne = Annotated[
    float, _Bound(lambda v: 0 <= v < 1, "at least 0 and below 1", minimum=0, exclusiveMaximum=1)
]
Share = Annotated[float, _Bound(lambda v: 0 < v < 1, "above 0 and below 1", exclusiveMinimum=0, exclusiveMaximum=1)]
ShareOrAll = Annotated[float, _Bound(lambda v: 0 < v <= 1, "above 0 and at most 1", exclusiveMinimum=0, maximum=1)]
Text = Annotated[
    str,
    _Bound(lambda v: bool(v.strip()), "text that is not blank", pattern=r"\S"),
    _Bound(_writable, "Unicode text without NUL characters"),
]
_DEVICE = r"(auto|cpu|cuda|cuda:(0|[1-9][0-9]{0,2}))"
Device = Annotated[
    str, _Bound(lambda v: bool(re.fullmatch(_DEVICE, v)), "auto, cpu, cuda or cuda:N", pattern=f"^{_DEVICE}$")
]
Threads = Annotated[
    int | Literal["auto"],
    BeforeValidator(_auto_or_up_to(MAX_THREADS)),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_THREADS}]}),
]
BatchParts = Annotated[
    int | Literal["auto"],
    BeforeValidator(_auto_or_up_to(MAX_PARTS)),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_PARTS}]}),
]
Targets = Annotated[
    tuple[Text, ...],
    BeforeValidator(_list_to_tuple),
    _Bound(
        lambda v: len(v) >= 1 and _distinct(v),
        "a list of one or more different targets: attention, ffn or glob patterns",
        minItems=1,
        uniqueItems=True,
    ),
]
Models = Annotated[
    tuple[Text, ...],
    BeforeValidator(_list_to_tuple),
    _Bound(
        lambda v: len(v) >= 1 and _distinct(v),
        "a list of one or more different models: hub ids, local folders or builtin:NAME",
        minItems=1,
        uniqueItems=True,
    ),
]
Labels = Annotated[
    tuple[Text, ...],
    BeforeValidator(_list_to_tuple),
    _Bound(
        lambda v: len(v) >= 2 and _distinct(v),
        "a list of two or more different label names, in the order of the classes",
        minItems=2,
        uniqueItems=True,
    ),
]
Columns = Annotated[
    dict[Text, Text], _Bound(lambda v: len(v) >= 1, "a mapping of one or more column names", minProperties=1)
]
Ranks = Annotated[
    dict[Text, CountOrZero],
    _Bound(lambda v: len(v) >= 1, "a mapping of one or more patterns to ranks", minProperties=1),
]
RankList = Annotated[
    tuple[Count, ...],
    BeforeValidator(_list_to_tuple),
    _Bound(lambda v: len(v) >= 1, "a list of one or more ranks, such as [8, 4, 2]", minItems=1),
]
LengthPenalty = Annotated[float, _Bound(lambda v: -10 <= v <= 10, "from -10 to 10", minimum=-10, maximum=10)]
TRACKERS = ("tensorboard", "wandb", "mlflow")
Trackers = Annotated[
    tuple[Literal["tensorboard", "wandb", "mlflow"], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else _list_to_tuple(value)),
    _Bound(lambda v: len(v) >= 1 and _distinct(v), f"one of {', '.join(TRACKERS)}, a list of different ones, or null"),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(TRACKERS)},
                {"type": "array", "items": {"enum": list(TRACKERS)}, "minItems": 1, "uniqueItems": True},
            ]
        }
    ),
]
Switch = Annotated[
    Literal["auto", "on", "off"],
    # YAML 1.1 reads these as booleans
    BeforeValidator(lambda value: ("on" if value else "off") if isinstance(value, bool) else value),
    WithJsonSchema({"enum": ["auto", "on", "off", True, False]}),
]
Scale = Annotated[
    tuple[float, float],
    BeforeValidator(_pair),
    _Bound(lambda v: all(map(math.isfinite, v)) and v[1] > 0, "a mean, and a standard deviation above 0, both finite"),
]
Betas = Annotated[tuple[FractionBelowOne, FractionBelowOne], BeforeValidator(_pair)]


class Section(BaseModel):
    """A part of a recipe: strict, closed and frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def filled(cls, keys: Mapping[str, Any]) -> Mapping[str, Any]:
        """Keys that are not validated yet, with those added that stand for missing ones because of what is there; a
        section's own defaults stand for the rest.
        """
        return keys

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, keys: Any) -> Any:
        return cls.filled(keys) if isinstance(keys, Mapping) else keys
