"""The keys of a recipe, their types, bounds and defaults.

Nothing unknown is let through, and a recipe never changes once made. Bounds of one key are written at the key, by
types of `dora_cli.recipe.fields`, and so is what a change of it has an effect on (see `dora_cli.recipe.effects`); what
holds between keys is in `dora_cli.recipe.rules`. The keys of a method are in `dora_cli.recipe.methods`.
"""

from __future__ import annotations

from functools import reduce
from types import UnionType
from typing import Any, Literal, get_args

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

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
from dora_cli.recipe.federated import RULES as FEDERATED_RULES
from dora_cli.recipe.federated import FederatedSection
from dora_cli.recipe.fields import (
    BatchParts,
    Betas,
    Columns,
    Count,
    CountOrZero,
    Device,
    Fraction,
    FractionBelowOne,
    Labels,
    Length,
    LengthPenalty,
    NonNegative,
    Positive,
    Scale,
    Section,
    Seed,
    Share,
    Switch,
    Text,
    Threads,
    Trackers,
)
from dora_cli.recipe.methods import METHODS, MethodSection, method_name, rules_of
from dora_cli.recipe.methods.dora import DoraMethod
from dora_cli.recipe.rules import Rule, broken_rules


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
        name: with ``hub`` and a task of your own data, the data set's id there, such as owner/name.
        config: the data set's configuration, where it has several.
        path: folder of ``glue-tsv``, ``e2e-csv`` and ``files`` (there also one file, of the training split); not given
            otherwise.
        columns: the task's column names mapped to those of the own files; None where they agree.
        labels: label names of the own files, in the order of the classes; a task of your own classes finds them.
        scale: mean and standard deviation of your own numbers that are learned; the task finds them.
        validation: share of the training file that is held out to evaluate on, of every class its share; for own files
            without one to evaluate on.
        invalid: what rows of the own files without a text or a label are: an ``error``, or left out and counted,
            ``skip``.
        separator: what separates the fields of own csv and tsv files where their name's ending says otherwise:
            ``comma``, ``semicolon``, ``tab`` or ``bar``.
        max_train_samples: takes a fixed random subset of this size; None takes all.
        max_eval_samples: the same for every evaluated split; for a task that generates it counts sources, with all
            their references.
        max_length: tokens per example, special ones included; an encoder-decoder's source and target count apart.
        group_by_length: whether batches gather examples of similar length.
    """

    source: ForSource[Literal["hub", "glue-tsv", "e2e-csv", "files", "builtin"]] = "hub"
    name: ForSource[Text | None] = None
    config: ForSource[Text | None] = None
    path: ForPlace[Text | None] = None
    columns: ForSource[Columns | None] = None
    labels: ForSource[Labels | None] = None
    scale: ForRun[Scale | None] = None
    validation: ForRun[Share | None] = None
    invalid: ForSource[Literal["error", "skip"]] = "error"
    separator: ForSource[Literal["comma", "semicolon", "tab", "bar"] | None] = None
    max_train_samples: ForRun[Count | None] = None
    max_eval_samples: ForEvaluation[Count | None] = None
    max_length: ForEvaluation[Length] = 128
    group_by_length: ForRun[bool] = False


class TrainSection(Section):
    """How the trainable parameters are fitted.

    Attributes:
        epochs: passes over the training split.
        max_steps: optimiser steps; takes precedence over `epochs` where given.
        batch_size: examples per process and micro-batch.
        batch_parts: how many parts of similar length a micro-batch is cut into at the most, to pad less; each is
            computed by itself, and the step stays the same. ``auto`` cuts where that saves time, 1 never.
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
        average_last: share of the optimiser steps, the last ones, over which weights are averaged: what is evaluated
            and kept from then on is their mean; 0 averages none.
        precision: ``auto`` is that of a half `model.dtype`, else bf16 on CUDA and fp32 on the CPU.
        device: ``auto`` takes CUDA where present.
        threads: of the CPU; ``auto`` follows model, batch and cores (OMP_NUM_THREADS: at most so many). Their number
            decides last digits.
        deterministic: bitwise repeatable on CUDA too, at some cost in speed.
        cuda_graph: whether steps are captured in CUDA graphs, which is faster; ``auto``: where they can be, ``on``: or
            not at all, ``off``.
        fuse: whether norms, activations, residuals and dropouts of the base's blocks are compiled into few kernels;
            ``auto``: on CUDA, where a run is long enough to win more than compiling takes, ``on``: wherever it can be,
            ``off``. It draws dropout otherwise.
        pack: whether the texts of a micro-batch stand in one row, without padding between them, where a decoder learns
            to write; ``auto``: on CUDA, in captured steps under bf16 or fp16 whose blocks are not compiled, ``on``:
            wherever it can be, ``off``. It draws dropout otherwise.
        skip_nonfinite: optimiser steps whose loss or gradient may be non-finite; they change nothing. One more ends the
            run.
        log_every: optimiser steps between two logged ones.
        log_with: trackers that are told losses, metrics, budget and ranks too; one or a list of them.
        seed: of data order, initialisation and dropout.
    """

    epochs: ForRun[Count] = 80
    max_steps: ForRun[Count | None] = None
    batch_size: ForRun[Count] = 16
    batch_parts: ForRun[BatchParts] = "auto"
    gradient_accumulation: ForRun[Count] = 1
    learning_rate: ForRun[Positive] = 2e-3
    weight_decay: ForRun[NonNegative] = 0.01
    adam_betas: ForRun[Betas] = (0.9, 0.999)
    adam_eps: ForRun[Positive] = 1e-8
    lr_warmup_fraction: ForRun[Fraction] = 0.06
    lr_warmup_steps: ForRun[CountOrZero | None] = None
    max_grad_norm: ForRun[Positive | None] = 1.0
    label_smoothing: ForRun[FractionBelowOne] = 0.0
    average_last: ForRun[FractionBelowOne] = 0.0
    precision: ForMachine[Literal["auto", "fp32", "bf16", "fp16"]] = "auto"
    device: ForMachine[Device] = "auto"
    threads: ForMachine[Threads] = "auto"
    deterministic: ForMachine[bool] = False
    cuda_graph: ForSpeed[Switch] = "auto"
    fuse: ForSpeed[Switch] = "auto"
    pack: ForSpeed[Switch] = "auto"
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
        every: ``epoch``, or only once, at the ``end`` of the training.
        held_out: share of the training split that is kept out of the training and evaluated in the place of the dev
            split, of every class its share and the same one in every run; to choose settings by.
        held_out_by: by what that is parted, and what a method asks to have held out. ``text``: examples that share a
            text are on one side, and so are a sentence and its phrases where a task's training split has these as
            examples; ``rows``: every example for itself. None is ``text``, and in a run that goes on what it was begun
            with. Generated texts are parted by their sources in any case.
    """

    batch_size: ForBatching[Count] = 64
    select: ForRun[Literal["best-after-freeze", "best", "last"]] = "best-after-freeze"
    metric: ForRun[Text | None] = None
    every: ForRun[Literal["epoch", "end"]] = "epoch"
    held_out: ForRun[Share | None] = None
    held_out_by: ForRun[Literal["text", "rows"] | None] = None


class DecodeSection(Section):
    """How outputs are generated; for tasks that generate text.

    Attributes:
        split: what the finished model writes about and is scored on; None is the task's own choice, ``none`` nothing:
            then there are no outputs at the end, and no scores of them.
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

    @property
    def at_the_end(self) -> str | None:
        """The split that the finished model writes about; None where it writes nothing, or the recipe leaves it to the
        task.
        """
        return None if self.split == "none" else self.split


class SaveSection(Section):
    """When checkpoints are written that a run can be resumed from; one is written after the last step in any case, and
    after an epoch that is the best one so far.

    Attributes:
        every_epoch: whether one follows every epoch.
        every_steps: optimiser steps between two checkpoints within an epoch; null for none.
        every_minutes: minutes between two checkpoints; null for none. A federated training has one where a round ends.
        keep: how many of the newest checkpoints are kept; the selected one always is.
    """

    every_epoch: ForRecords[bool] = True
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
        federated: how clients train on parts of the data, and a server joins what they learn; None trains on all of it.
    """

    task: ForRun[Text]
    model: ModelSection
    data: DataSection = Field(default_factory=DataSection)
    method: MethodSection = Field(default_factory=DoraMethod)
    train: TrainSection = Field(default_factory=TrainSection)
    eval: EvalSection = Field(default_factory=EvalSection)
    save: SaveSection = Field(default_factory=SaveSection)
    decode: DecodeSection | None = None
    federated: FederatedSection | None = None

    @model_validator(mode="after")
    def _keep_the_rules(self) -> Recipe:
        def value(key: str) -> Any:
            try:
                return reduce(getattr, key.split("."), self)
            except AttributeError:
                raise KeyError(key) from None

        broken = [f"{key}: {message}" for key, message in broken_rules(value, rules_with(self.method.name))]
        if broken:
            raise PydanticCustomError("rules", "{broken}", {"broken": "; ".join(broken)})
        return self


def rules_with(method: str) -> tuple[Rule, ...]:
    """What must hold in a recipe of this method beyond what does in every one: for a federated training, and between
    the keys of the method; of one that is not known, the former alone.
    """
    return (*FEDERATED_RULES, *(rules_of(method) if method in METHODS else ()))


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
