"""The keys of a recipe, their types, bounds and defaults.

Nothing is converted (a quoted number is text, 3.0 is no whole number), nothing unknown is let through, and a recipe
never changes once made. Bounds of one key are written at the key, and so is what a change of it has an effect on (see
`dora_cli.recipe.effects`); what holds between keys is in `dora_cli.recipe.rules`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import reduce
from types import UnionType
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from dora_cli.recipe.effects import (
    ForBatching,
    ForEvaluation,
    ForMachine,
    ForPlace,
    ForRecords,
    ForRun,
    ForSeed,
    ForSource,
    ForSpeed,
)
from dora_cli.recipe.rules import broken_rules

MAX_COUNT = 2**31 - 1
"""The largest whole number a key takes: what fits the 32-bit integers that counts may end up in."""
MAX_SEED = 2**32 - 1
"""The largest seed NumPy takes."""
MAX_NUMBER, MIN_POSITIVE = 1e38, 1e-37
"""What a number may be that is computed with in fp32, whose largest is 3.4e38 and whose smallest (normal) is 1.2e-38:
with room for the small factors that it is multiplied by."""
MAX_THREADS = 1024
"""More threads than any machine has cores for would only fail in the operating system."""


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


def _threads(value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value != "auto" and not (whole and 1 <= value <= MAX_THREADS):
        raise PydanticCustomError(
            "bound", "must be {bound}", {"bound": f"auto or a whole number from 1 to {MAX_THREADS}"}
        )
    return value


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
    BeforeValidator(_threads),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": MAX_THREADS}]}),
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
CudaGraph = Annotated[
    Literal["auto", "on", "off"],
    # YAML 1.1 reads these as booleans
    BeforeValidator(lambda value: ("on" if value else "off") if isinstance(value, bool) else value),
    WithJsonSchema({"enum": ["auto", "on", "off", True, False]}),
]
Betas = Annotated[tuple[FractionBelowOne, FractionBelowOne], BeforeValidator(_pair)]


class Section(BaseModel):
    """A part of a recipe: strict, closed and frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ModelSection(Section):
    """The base model.

    Attributes:
        name: hub id, local folder or ``builtin:...``; ``dora models`` lists what is known.
        revision: branch, tag or commit on the hub; None takes the default branch.
        dtype: of the frozen base weights. What trains is always float32.
        trust_remote_code: whether Python code that comes with the model is run; only for models whose makers are
            trusted.
    """

    name: ForPlace[Text]
    revision: ForSource[Text | None] = None
    dtype: ForRun[Literal["float32", "bfloat16", "float16"]] = "float32"
    trust_remote_code: ForMachine[bool] = False


class DataSection(Section):
    """Where examples come from and how they are cut.

    Attributes:
        source: ``hub``, ``glue-tsv`` or ``e2e-csv`` (a folder of official files), ``files`` (own tables) or ``builtin``
            (generated).
        path: folder of ``glue-tsv``, ``e2e-csv`` and ``files``; not given otherwise.
        columns: the task's column names mapped to those of the own files; None where they agree.
        labels: label names of the own files, in the order of the classes.
        max_train_samples: takes a fixed random subset of this size; None takes all.
        max_eval_samples: the same for every evaluated split; for a task that generates it counts sources, with all
            their references.
        max_length: tokens per example, special ones included; an encoder-decoder's source and target count apart.
        group_by_length: whether batches gather examples of similar length.
    """

    source: ForSource[Literal["hub", "glue-tsv", "e2e-csv", "files", "builtin"]] = "hub"
    path: ForPlace[Text | None] = None
    columns: ForSource[Columns | None] = None
    labels: ForSource[Labels | None] = None
    max_train_samples: ForRun[Count | None] = None
    max_eval_samples: ForEvaluation[Count | None] = None
    max_length: ForEvaluation[Length] = 128
    group_by_length: ForRun[bool] = False


class DoraMethod(Section):
    """DoRA, Dynamic Low-Rank Adaptation (Mao et al. 2024).

    Attributes:
        name: which method: ``dora`` adapts every projection and prunes ranks to the budget.
        rank: average final rank per projection.
        start_rank: rank of every projection at the start; None is ``ceil(1.5 * rank)``.
        alpha: the update is scaled by ``alpha / start rank``.
        dropout: on the adapters' input.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
        ema_beta: decay of the moving average of the scores.
        warmup_fraction: share of the steps before pruning starts.
        final_fraction: share of the steps after the ranks are frozen.
        prune_interval: optimiser steps between two pruning events.
        curve: how the budget falls: slowly then fast (``published``), or fast then slowly (``adalora``).
        dem_weight: weight of the regulariser (DEM); 0 turns it off.
        dem_scale: ``published`` (as in the authors' code) or ``paper`` (twice that).
        dem_until: whether the regulariser stops at the freeze or runs to the end.
        compact: whether pruned components leave memory at the freeze.
    """

    name: ForRun[Literal["dora"]] = "dora"
    rank: ForRun[Count] = 8
    start_rank: ForRun[Count | None] = None
    alpha: ForRun[Positive] = 8.0
    dropout: ForRun[FractionBelowOne] = 0.1
    targets: ForRun[Targets] = ("attention", "ffn")
    ema_beta: ForRun[FractionBelowOne] = 0.9
    warmup_fraction: ForRun[FractionBelowOne] = 0.15
    final_fraction: ForRun[FractionBelowOne] = 0.5
    prune_interval: ForRun[Count] = 10
    curve: ForRun[Literal["published", "adalora"]] = "published"
    dem_weight: ForRun[NonNegative] = 0.5
    dem_scale: ForRun[Literal["published", "paper"]] = "published"
    dem_until: ForRun[Literal["freeze", "end"]] = "freeze"
    compact: ForRun[bool] = True


class HeadMethod(Section):
    """Trains the head alone on the frozen base; the floor other methods are compared with.

    Attributes:
        name: which method: ``head`` trains the head alone.
    """

    name: ForRun[Literal["head"]] = "head"


METHODS: dict[str, type[Section]] = {"dora": DoraMethod, "head": HeadMethod}
"""Every method by its name; the first is the default."""


def method_name(section: Any) -> str | None:
    """The method a raw or validated `method` section asks for; None if it is no section or its name is no text."""
    if isinstance(section, Section):
        name: Any = getattr(section, "name", None)
    elif isinstance(section, dict):
        name = section.get("name", next(iter(METHODS)))
    else:
        return None
    return name if isinstance(name, str) else None


MethodSection = Annotated[
    Annotated[DoraMethod, Tag("dora")] | Annotated[HeadMethod, Tag("head")], Discriminator(method_name)
]


class TrainSection(Section):
    """How the trainable parameters are fitted.

    Attributes:
        epochs: passes over the training split.
        max_steps: optimiser steps; takes precedence over `epochs` where given.
        batch_size: examples per process and micro-batch.
        gradient_accumulation: micro-batches per optimiser step and process.
        learning_rate: peak of the schedule (linear warm-up, linear decay to 0).
        weight_decay: AdamW's, on everything that trains.
        adam_betas: AdamW's two betas.
        adam_eps: AdamW's epsilon.
        lr_warmup_fraction: share of the steps the learning rate rises.
        lr_warmup_steps: steps the learning rate rises; takes precedence over the fraction where given.
        max_grad_norm: gradients are clipped to this global norm; None never clips.
        label_smoothing: share of the target that is spread evenly over all classes or the vocabulary; in the training
            loss alone.
        precision: ``auto`` is that of a half `model.dtype`, else bf16 on CUDA and fp32 on the CPU.
        device: ``auto`` takes CUDA where present.
        threads: of the CPU; ``auto`` follows model, batch and cores (OMP_NUM_THREADS: at most so many). Their number
            decides last digits.
        deterministic: bitwise repeatable on CUDA too, at some cost in speed.
        cuda_graph: whether steps are captured in CUDA graphs, which is faster; ``auto``: where they can be, ``on``: or
            not at all, ``off``.
        skip_nonfinite: optimiser steps whose loss or gradient may be non-finite; they change nothing. One more ends the
            run.
        log_every: optimiser steps between two logged ones.
        log_with: trackers that are told losses, metrics, budget and ranks too; one or a list of them.
        seed: of data order, initialisation and dropout.
    """

    epochs: ForRun[Count] = 80
    max_steps: ForRun[Count | None] = None
    batch_size: ForRun[Count] = 16
    gradient_accumulation: ForRun[Count] = 1
    learning_rate: ForRun[Positive] = 2e-3
    weight_decay: ForRun[NonNegative] = 0.01
    adam_betas: ForRun[Betas] = (0.9, 0.999)
    adam_eps: ForRun[Positive] = 1e-8
    lr_warmup_fraction: ForRun[Fraction] = 0.06
    lr_warmup_steps: ForRun[CountOrZero | None] = None
    max_grad_norm: ForRun[Positive | None] = 1.0
    label_smoothing: ForRun[FractionBelowOne] = 0.0
    precision: ForMachine[Literal["auto", "fp32", "bf16", "fp16"]] = "auto"
    device: ForMachine[Device] = "auto"
    threads: ForMachine[Threads] = "auto"
    deterministic: ForMachine[bool] = False
    cuda_graph: ForSpeed[CudaGraph] = "auto"
    skip_nonfinite: ForRun[CountOrZero] = 0
    log_every: ForRecords[Count] = 50
    log_with: ForRecords[Trackers | None] = None
    seed: ForSeed[Seed] = 1


class EvalSection(Section):
    """How a model is evaluated and which epoch is kept.

    Attributes:
        batch_size: examples per process and batch.
        select: ``best-after-freeze`` (best epoch evaluated once the ranks are frozen), ``best`` of all, or ``last``.
        metric: what makes an epoch the best; None is the task's own choice.
    """

    batch_size: ForBatching[Count] = 64
    select: ForRun[Literal["best-after-freeze", "best", "last"]] = "best-after-freeze"
    metric: ForRun[Text | None] = None


class DecodeSection(Section):
    """How outputs are generated; for tasks that generate text.

    Attributes:
        split: what the finished model is scored on; None is the task's own choice.
        beams: width of the beam search; 1 is greedy.
        length_penalty: a hypothesis scores ``sum log p / length^penalty`` over its generated tokens.
        max_new_tokens: length of an output at most.
        no_repeat_ngram: no output holds an n-gram of this size twice; 0 allows it.
        batch_size: sources per process and batch.
        epoch_samples: sources of the dev split that are decoded greedily after every epoch; 0 decodes none.
    """

    split: ForEvaluation[Text | None] = None
    beams: ForEvaluation[Count] = 10
    length_penalty: ForEvaluation[LengthPenalty] = 0.8
    max_new_tokens: ForEvaluation[Count] = 64
    no_repeat_ngram: ForEvaluation[CountOrZero] = 4
    batch_size: ForBatching[Count] = 16
    epoch_samples: ForRun[CountOrZero] = 64


class SaveSection(Section):
    """When checkpoints are written that a run can be resumed from; one is written after every epoch in any case.

    Attributes:
        every_steps: optimiser steps between two checkpoints within an epoch; null for none.
        every_minutes: minutes between two checkpoints; null for none.
        keep: how many of the newest checkpoints are kept; the selected one always is.
    """

    every_steps: ForRecords[Count | None] = None
    every_minutes: ForRecords[Positive | None] = None
    keep: ForRecords[Count] = 2


class Recipe(Section):
    """Everything that decides a run. `task` and `model.name` have no default.

    Attributes:
        task: name of a task, such as ``glue/rte``; ``dora tasks`` lists them.
        model: the base model.
        data: where examples come from.
        method: how weights adapt; its `name` says by which method, and which keys there are.
        train: how the weights that train are fitted.
        eval: how the result is measured and selected.
        save: when a run is saved, to be resumed.
        decode: how outputs are generated; None where the task generates none.
    """

    task: ForRun[Text]
    model: ModelSection
    data: DataSection = Field(default_factory=DataSection)
    method: MethodSection = Field(default_factory=DoraMethod)
    train: TrainSection = Field(default_factory=TrainSection)
    eval: EvalSection = Field(default_factory=EvalSection)
    save: SaveSection = Field(default_factory=SaveSection)
    decode: DecodeSection | None = None

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Recipe:
        def value(key: str) -> Any:
            try:
                return reduce(getattr, key.split("."), self)
            except AttributeError:
                raise KeyError(key) from None

        broken = [f"{key}: {message}" for key, message in broken_rules(value)]
        if broken:
            raise PydanticCustomError("rules", "{broken}", {"broken": "; ".join(broken)})
        return self


def section_keys(section: str, raw: Any = None) -> type[Section] | None:
    """The model of a top-level section, None where `section` is none.

    `raw` is the section's content and chooses among methods.
    """
    if section == "method":
        return METHODS.get(method_name(raw) or "")
    field = Recipe.model_fields.get(section)
    annotation: Any = field.annotation if field is not None else None
    if isinstance(annotation, UnionType):  # a section or None
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
