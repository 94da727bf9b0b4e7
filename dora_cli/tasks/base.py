"""The contract of a task: everything that differs between one task and another.

A task is one object. It says which columns it reads and what a model of it looks like, makes batches of examples and
losses of a model's outputs, turns outputs into predictions and metrics, and has its own words where a run, a model card
or a file of predictions speaks of it. Nobody else asks what kind of task it is. The defaults are those of a task whose
model reads one or two texts and gives a row of numbers for each; a kind of task overrides what it needs.

What is asked of a model's outputs comes in two parts, because an evaluation may be shared by several processes: `keep`
takes what is worth keeping from a batch, on the device, and `measure` and `answer` read the kept rows of a whole split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dora_cli.data.encoding import encode, pair_tokens
from dora_cli.data.notes import label_notes
from dora_cli.errors import DataError, RecipeError
from dora_cli.python_text import literal
from dora_cli.wording import plural

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from dora_cli.data.encoding import Encoded
    from dora_cli.data.examples import Examples
    from dora_cli.data.layout import PairLayout
    from dora_cli.data.sources.fields import Fields
    from dora_cli.models import Head, LoadedModel
    from dora_cli.recipe import Recipe


@dataclass(frozen=True)
class Scores:
    """What a task's scorer says of outputs.

    Attributes:
        metrics: values by name; None where one cannot be computed on this machine.
        notes: what a reader of the metrics should know.
    """

    metrics: Mapping[str, float | None]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Answers:
    """What a model says of examples.

    Attributes:
        records: one a row, as JSON lines hold it.
        official: one a row, as the benchmark's file of predictions writes it; None for a task without a benchmark.
    """

    records: list[dict[str, Any]]
    official: list[str] | None = None


@dataclass(frozen=True)
class Use:
    """What the lines of a model card that ask the model have to know.

    Attributes:
        max_length: tokens of a text at most.
        pad_with_end: whether the tokenizer has no padding token of its own, and takes its end token.
        layout: what `Task.layout` gave.
        generation: settings of a generator's decoding.
        adapter: whether the card is that of an adapter, not of a merged model.
    """

    max_length: int
    pad_with_end: bool
    layout: PairLayout | None
    generation: Mapping[str, Any]
    adapter: bool


@dataclass(frozen=True)
class Task(ABC):
    """What a task is; a subclass is a kind of tasks, an object of it one task.

    Attributes:
        name: such as ``"glue/rte"``; what a recipe says.
        text_columns: its own names of the text columns.
        splits: official number of examples by split, in the hub's names; 0 where nothing is official.
        eval_splits: the splits that one evaluation covers.
        primary: the metric that selects an epoch unless the recipe names another; one of `epoch_metrics`.
    """

    name: str
    text_columns: tuple[str, ...]
    splits: Mapping[str, int]
    eval_splits: tuple[str, ...]
    primary: str

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def kind(self) -> str:
        """What comes out, in a word."""

    @property
    @abstractmethod
    def fields(self) -> Fields:
        """What a source has to give."""

    @property
    @abstractmethod
    def epoch_metrics(self) -> tuple[str, ...]:
        """Names of what an evaluation between epochs gives."""

    @property
    def held_out_metrics(self) -> tuple[str, ...]:
        """The same where a part of the training split is evaluated, which is one split."""
        return self.epoch_metrics

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all that is measured, also once the training is done."""
        return self.epoch_metrics

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes by label id; None where there are none."""
        return None

    @property
    def classifies(self) -> bool:
        """Whether every example is of a class; the names of the classes may still have to be found in the data."""
        return self.labels is not None

    @property
    def reads(self) -> int:
        """How many texts a model reads."""
        return len(self.text_columns)

    @property
    def asks(self) -> str:
        """What it asks, in a few words."""
        return f"{plural(self.reads, 'text')}, " + (plural(len(self.labels), "label") if self.labels else "a number")

    @property
    def standardises(self) -> bool:
        """Whether a model learns its labels, which are numbers, with mean 0 and standard deviation 1."""
        return False

    def lower_is_better(self, metric: str) -> bool:
        """Whether a smaller value of `metric`, one of `epoch_metrics`, is the better one."""
        return False

    # -- a recipe ------------------------------------------------------------------------------------------------------

    def problems(self, recipe: Recipe) -> list[str]:
        """What in `recipe` means nothing to this task, a line each; before anything is loaded."""
        found = []
        if recipe.decode is not None and not self.decodes:
            found.append(f"decode: {self.name} generates no text; remove the section")
        elif recipe.decode is not None and recipe.decode.at_the_end not in (None, *self.splits):
            found.append(
                f"decode.split: {self.name} has no split {recipe.decode.split!r}; it has {', '.join(self.splits)}; "
                "with none nothing is written at the end"
            )
        if recipe.data.name is not None and not (self.fields.labels is not None and self.fields.labels.own):
            found.append(
                f"data.name: {self.name} has a data set of its own; remove the key, or set task to classification or "
                "regression"
            )
        if recipe.data.scale is not None and not self.standardises:
            found.append(f"data.scale: {self.name} has no numbers of your own to scale; remove the key")
        if recipe.federated is not None and recipe.federated.split == "dirichlet" and not self.classifies:
            found.append(
                f"federated.split: dirichlet parts examples by their classes, and {self.name} has none; set it to iid"
            )
        return found

    def settle(self, recipe: Recipe) -> tuple[Recipe, Task]:
        """The recipe with what this task decides filled in, and the task with what this recipe decides. Of a task that
        writes texts, how it does so (the section ``decode``) is filled in here.

        Raises:
            DataError: the data that decide it cannot be read.
        """
        if not self.decodes:
            return recipe, self
        from dora_cli.recipe import DecodeSection

        decode = recipe.decode or DecodeSection()
        decode = decode.model_copy(update={"split": decode.split or self.written_split})
        return recipe.model_copy(update={"decode": decode}), self

    def evaluated_splits(self, recipe: Recipe) -> tuple[str, ...]:
        """The splits that an evaluation of `recipe` (settled) reads."""
        if not self.decodes:
            return self.eval_splits
        assert recipe.decode is not None, "settled"
        written = recipe.decode.at_the_end
        return tuple(dict.fromkeys((*self.eval_splits, *(() if written is None else (written,)))))

    def predicted_splits(self, recipe: Recipe, split: str | None) -> tuple[str, ...]:
        """The splits that ``dora predict --split`` means; with None those that it takes by itself.

        Raises:
            RecipeError: no such split.
        """
        if split is None and self.decodes:
            split = (recipe.decode and recipe.decode.at_the_end) or self.written_split
        if split is None:
            split = "test" if "test" in self.splits else self.eval_splits[0]
        if split not in self.splits:
            raise RecipeError(f"--split {split}: {self.name} has {', '.join(self.splits)}")
        return (split,)

    # -- the model -----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def head(self) -> Head:
        """What stands on the base model."""

    def layout(self, base: LoadedModel) -> PairLayout | None:
        """How texts stand in the input of `base`, for a task that has to know: one that writes texts has."""
        return None

    # -- training ------------------------------------------------------------------------------------------------------

    def encode(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, layout: PairLayout | None
    ) -> Encoded:
        """Examples as the model reads them.

        Raises:
            DataError: they do not fit into `max_length`, or into the model.
        """
        return encode(examples, tokenizer, max_length)

    def token_counts(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, layout: PairLayout | None
    ) -> npt.NDArray[np.int64]:
        """Tokens of each example before anything is cut, ``(N,)``: what ``data.max_length`` is compared with."""
        return pair_tokens(examples, tokenizer)

    @abstractmethod
    def losses(self, outputs: Any, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0) -> Tensor:
        """Loss of each unit of a batch, not averaged, in fp32; units are counted by the encoded split.

        Args:
            outputs: what the model gave.
            batch: what it was made of, labels included.
            label_smoothing: share of the target that is spread evenly over all there is.
        """

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def check_scorable(self, split: str, examples: Examples, source: str) -> None:
        """Raises a DataError where `examples` lack what they would be scored by."""
        if examples.labels is None:
            raise DataError(self._unscorable(split, "labels", source))

    def _unscorable(self, split: str, what: str, source: str) -> str:
        return f"split {split}: {self.name} has no {what} for it in data.source {source}, so it cannot be scored"

    def prepare(self) -> None:  # noqa: B027  # a metric may need no library
        """Loads the libraries of the metrics and has them score two rows; raises LibraryError where one is broken."""

    @abstractmethod
    def keep(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """What an evaluation or a prediction keeps of a batch, ``(B, ...)`` on the device; rows may differ in shape
        between batches. `batch` holds its labels where the data have some.

        As `losses`, it is captured in CUDA graphs where training steps are: it does the same with every batch of one
        shape, and asks the device for no value.
        """

    @abstractmethod
    def measure(self, kept: Sequence[npt.NDArray[Any]], split: Encoded) -> dict[str, float]:
        """Metrics of one split.

        Args:
            kept: what `keep` gave of each row, in the order of `split`.
            split: the rows, encoded.
        """

    def baseline(self, examples: Examples) -> Mapping[str, float]:
        """Metrics, of those that `measure` gives, of a model that says the same of all `examples`, whatever is best:
        who is no better has learned nothing. Empty where that means nothing.
        """
        return {}

    def confusion(self, kept: Sequence[npt.NDArray[Any]], split: Encoded) -> Mapping[str, Any] | None:
        """How often a class of one split was taken for another, as a `ConfusionRecord` holds it; None where that is not
        written down. Arguments as for `measure`.
        """
        return None

    def combine(self, per_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Metrics of one evaluation from those of its splits.

        One split: its metrics. Several: the plain mean of each metric under its own name (splits weigh the same,
        whatever their sizes), and each split's value under ``<metric>_<split>``, with ``validation_`` left out of the
        split's name.
        """
        if len(per_split) == 1:
            (metrics,) = per_split.values()
            return dict(metrics)
        keys = next(iter(per_split.values())).keys()
        combined = {key: sum(metrics[key] for metrics in per_split.values()) / len(per_split) for key in keys}
        for split, metrics in per_split.items():
            for key in keys:
                combined[f"{key}_{split.removeprefix('validation_')}"] = metrics[key]
        return combined

    @abstractmethod
    def answer(self, kept: Sequence[npt.NDArray[Any]], examples: Examples, recipe: Recipe) -> Answers:
        """What the model says of `examples`, of which `kept` are the rows that `keep` gave."""

    # -- a task that writes texts --------------------------------------------------------------------------------------

    @property
    def decodes(self) -> bool:
        """Whether the model writes texts, about each different source: an evaluation of finished weights, and a
        prediction, decodes them as the recipe's section ``decode`` says.
        """
        return False

    @property
    def written_split(self) -> str:
        """What the finished model writes about, unless the recipe names another split."""
        return self.eval_splits[0]

    def score(self, outputs: Sequence[str], references: Sequence[Sequence[str]], *, quick: bool = False) -> Scores:
        """Metrics of texts that were written; `quick` leaves out what takes too long between epochs."""
        raise AssertionError(f"{self.name} writes no texts")

    def read_scored(self, predictions: Path, references: Path | None) -> tuple[list[str], list[list[str]]]:
        """The texts and their references that ``dora score`` is given as files; raises DataError."""
        raise AssertionError(f"{self.name} writes no texts")

    # -- its words -----------------------------------------------------------------------------------------------------

    @property
    def submissions(self) -> Mapping[str, str]:
        """The benchmark's name for the file of predictions of each split; empty for a task without a benchmark."""
        return {}

    def notes(self, place: str, examples: Examples, *, training: bool) -> Iterator[str]:
        """What is odd about the labels of `examples`, a line each.

        Args:
            place: where they come from, such as ``"split train"``.
            examples: as they are used.
            training: whether a model learns from them; else it is scored on them.
        """
        return label_notes(place, self.fields.labels, examples, training=training)

    def lacks(self) -> str | None:
        """What an evaluation of finished weights will lack on this machine; None where nothing."""
        return None

    @property
    def pipeline_tag(self) -> str:
        """The hub's word for models of this task."""
        return "text-classification"

    @property
    def printed(self) -> str:
        """What the last line of `use` prints, of ``logits``."""
        return "logits[0].tolist()"

    def use(self, use: Use) -> list[str]:
        """Lines of Python that ask ``model`` and ``tokenizer`` about a text, for a model card."""
        texts = ", ".join(literal(f"the {column}") for column in self.text_columns)
        lines = ["import torch", ""]
        if use.pad_with_end:
            lines.append("tokenizer.pad_token = tokenizer.eos_token")
        return [
            *lines,
            f'inputs = tokenizer({texts}, truncation=True, max_length={use.max_length}, return_tensors="pt")',
            "with torch.no_grad():",
            "    logits = model(**inputs).logits",
            f"print({self.printed})",
        ]
