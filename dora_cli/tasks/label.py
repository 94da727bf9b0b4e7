"""Classification and regression: one text or a pair of them, to a class or to a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from dora_cli.data.encoding import encode
from dora_cli.data.notes import alike_note, label_notes
from dora_cli.data.sources.fields import Fields, HubSource, Labels, TsvLayout
from dora_cli.libraries import loading
from dora_cli.tasks.base import Answers, Task
from dora_cli.tasks.found import (
    OWN_LABEL,
    OWN_SECOND,
    OWN_TEXT,
    check_numbers,
    find_columns,
    find_labels,
    find_scale,
    listed_problems,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from dora_cli.data.encoding import Encoded
    from dora_cli.data.examples import Examples
    from dora_cli.data.layout import PairLayout
    from dora_cli.models import Head
    from dora_cli.recipe import Recipe


_VALUES: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "accuracy_f1": ("accuracy", "f1"),
    "matthews": ("matthews_correlation",),
    "pearson_spearman": ("pearson", "spearmanr"),
    "classes": ("accuracy", "macro_f1", "micro_f1", "matthews_correlation"),
    "numbers": ("pearson", "spearmanr", "rmse"),
}
"""What each metric computes on one split."""

LOSS = "loss"
"""Mean of what is minimised, without label smoothing: less noisy than what counts right answers."""

_CORRELATIONS = ("matthews_correlation", "pearson", "spearmanr")


@dataclass(frozen=True)
class LabelTask(Task):
    """One text or a pair of them, to a class or to a number.

    Attributes:
        label_names: names of the classes by label id, or None for a regression.
        metric: name of the metric that the evaluation computes on one split.
        hub: where the hub has it; None if it is no source.
        tsv: how the official files store it; None if there are none.
        scale: mean and standard deviation of the numbers of a regression, whose model learns them standardised; None
            where it learns them as they are.
        own: whether it is a task of the user's own data, which say what its columns and labels are.
        fragments: whether its training split holds parts of its texts as examples of their own.
    """

    label_names: tuple[str, ...] | None
    metric: str
    hub: HubSource | None = None
    tsv: TsvLayout | None = None
    scale: tuple[float, float] | None = None
    own: bool = False
    fragments: bool = False

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        return "regression" if self.label_names is None else "classification"

    @property
    def labels(self) -> tuple[str, ...] | None:
        return self.label_names

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of what is measured on one split."""
        binary = self.metric == "classes" and len(self.label_names or ()) in (0, 2)  # none: not yet looked for
        return (*_VALUES[self.metric], *(("auroc",) if binary else ()), LOSS)

    @property
    def standardises(self) -> bool:
        return self.own and self.regression

    @property
    def regression(self) -> bool:
        """True if the label is a number, not a class."""
        return self.label_names is None

    @property
    def num_labels(self) -> int:
        """Outputs of the head: the number of classes, or 1 for a regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def asks(self) -> str:
        if not self.own:
            return super().asks
        return "1 or 2 texts, a number" if self.regression else "1 or 2 texts, any labels"

    @property
    def fields(self) -> Fields:
        if self.own:
            texts = (OWN_TEXT, OWN_SECOND)[: len(self.text_columns)]
            labels = Labels(self.label_names, own=True)
            return Fields(self.name, texts, labels, tuple(self.splits), self.eval_splits, ("files", "hub"), self.hub)
        general = ("sentence",) if len(self.text_columns) == 1 else ("sentence1", "sentence2")
        official = self.text_columns if self.tsv is None else self.tsv.texts
        names = zip(self.text_columns, general, official, strict=True)
        sources = {"hub": self.hub, "glue-tsv": self.tsv, "files": True, "builtin": self.tsv}
        return Fields(
            self.name,
            tuple(tuple(dict.fromkeys(each)) for each in names),
            Labels(self.label_names, None if self.tsv is None else self.tsv.span),
            tuple(self.splits),
            self.eval_splits,
            tuple(source for source, there in sources.items() if there),
            self.hub,
            self.tsv,
            self.fragments,
        )

    def lower_is_better(self, metric: str) -> bool:
        return metric == "rmse" or metric.startswith(LOSS)

    @property
    def epoch_metrics(self) -> tuple[str, ...]:
        per_split = self.scores
        splits = [split.removeprefix("validation_") for split in self.eval_splits] if len(self.eval_splits) > 1 else []
        return (*per_split, *(f"{value}_{split}" for split in splits for value in per_split))

    @property
    def held_out_metrics(self) -> tuple[str, ...]:
        return self.scores

    # -- a recipe ------------------------------------------------------------------------------------------------------

    def problems(self, recipe: Recipe) -> list[str]:
        found = super().problems(recipe)
        if self.own and recipe.data.source != "files" and recipe.data.name is None:
            found.append(
                f"data.source: is {recipe.data.source}, but {self.name} is of your own data; set it to files, and "
                "data.path to their folder, or to the one file; or name a data set of the hub by data.name"
            )
        if self.own and self.regression and recipe.data.labels is not None:
            found.append(f"data.labels: the label of {self.name} is a number; remove the key")
        if self.own and not self.regression:
            found += listed_problems(recipe.data.labels or ())
        if self.regression and recipe.train.label_smoothing:
            found.append(
                f"train.label_smoothing: is {recipe.train.label_smoothing}, but the label of {self.name} is a number, "
                "not a class; set it to 0"
            )
        return found

    def settle(self, recipe: Recipe) -> tuple[Recipe, Task]:
        """A task of the user's own data is told by the recipe, or finds in the training split, which columns and labels
        it has.
        """
        return settled(self, recipe) if self.own else (recipe, self)

    def predicted_splits(self, recipe: Recipe, split: str | None) -> tuple[str, ...]:
        """``test`` stands for all splits that the benchmark takes predictions of."""
        if self.submissions and split in (None, "test"):
            return tuple(self.submissions)
        return super().predicted_splits(recipe, split)

    # -- from texts to losses ------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        from dora_cli.models import ClassifierHead

        return ClassifierHead(self.num_labels, self.label_names, self.regression)

    def encode(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, layout: PairLayout | None
    ) -> Encoded:
        found = encode(examples, tokenizer, max_length)
        if self.scale is None or found.labels is None:
            return found
        mean, deviation = self.scale
        return replace(found, labels=(found.labels.astype(np.float64) - mean) / deviation)

    def losses(self, outputs: Any, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0) -> Tensor:
        """Loss of each example, not averaged.

        Args:
            outputs: with ``logits`` ``(B, num_labels)``, of any floating type.
            batch: with ``labels`` ``(B,)``; class ids (int64), or numbers for a regression.
            label_smoothing: share of the target spread evenly over all classes; 0 for a regression.

        Returns:
            ``(B,)`` in fp32: cross entropy in nats, or the squared error of a regression.
        """
        from torch.nn import functional

        logits, labels = outputs.logits, batch["labels"]
        if self.regression:
            return functional.mse_loss(logits.squeeze(-1).float(), labels.float(), reduction="none")
        return functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)

    # -- from outputs to metrics and predictions -----------------------------------------------------------------------

    def keep(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """The logits in fp32, ``(B, num_labels)``."""
        return outputs.logits.float()

    def predictions(self, logits: Tensor) -> Tensor:
        """What the model says of each example.

        Args:
            logits: ``(B, num_labels)``.

        Returns:
            ``(B,)``: class ids (int64), or fp32 numbers for a regression.
        """
        return logits.squeeze(-1).float() if self.regression else logits.argmax(dim=-1)

    def prepare(self) -> None:
        two = np.array([0, 1], dtype=self._type)
        with loading(f"what computes the metric {self.metric}"):
            compute = self._compute_metrics()
            compute(np.eye(self.num_labels)[:2] if self.metric == "classes" else two, two)

    def measure(self, kept: Sequence[npt.NDArray[Any]], split: Encoded) -> dict[str, float]:
        labels = split.labels
        assert labels is not None, "scorable"
        logits, compute = _stacked(kept), self._compute_metrics()
        if self.metric == "classes":
            found = compute(logits.double().softmax(dim=-1).numpy(), labels)
        else:
            predictions = self.predictions(logits).numpy().astype(self._type)
            found = compute(self._in_units(predictions), self._in_units(labels))
        return {**found, LOSS: self._mean_loss(logits, labels)}

    def _mean_loss(self, logits: Tensor, labels: npt.NDArray[Any]) -> float:
        """The mean of `losses` over a split, without label smoothing; of numbers that are standardised, as learned."""
        import torch

        losses = self.losses(SimpleNamespace(logits=logits), {"labels": torch.from_numpy(labels)})
        return float(losses.numpy().mean(dtype=np.float64))

    def baseline(self, examples: Examples) -> Mapping[str, float]:
        """What saying one class of all is worth, the one that is best for a metric; or the mean of numbers."""
        if not examples.labels:
            return {}
        labels = np.asarray(examples.labels)
        found = {"matthews_correlation": 0.0, "pearson": 0.0, "spearmanr": 0.0, "auroc": 0.5}
        if self.regression:
            found["rmse"] = float(labels.std())
            found[LOSS] = float(labels.var()) / (1.0 if self.scale is None else self.scale[1] ** 2)
        else:
            counts = np.bincount(labels)
            shares = counts[counts > 0] / len(labels)
            found[LOSS] = abs(float((shares * np.log(shares)).sum()))
            share, positive = counts.max() / len(labels), float((labels == 1).mean())
            f1 = 2 * share / (1 + share)  # of the class that is said; all others that are there have 0
            found |= {"accuracy": float(share), "micro_f1": float(share), "macro_f1": float(f1 / (counts > 0).sum())}
            found["f1"] = 2 * positive / (1 + positive)
        return {name: found[name] for name in self.scores}

    def confusion(self, kept: Sequence[npt.NDArray[Any]], split: Encoded) -> Mapping[str, Any] | None:
        if self.metric != "classes" or self.label_names is None:
            return None
        labels = split.labels
        assert labels is not None, "scorable"
        counts = np.zeros((self.num_labels, self.num_labels), dtype=np.int64)
        np.add.at(counts, (labels, self.predictions(_stacked(kept)).numpy()), 1)
        return {"labels": list(self.label_names), "counts": counts.tolist()}

    def _in_units(self, numbers: Any) -> Any:
        """Numbers of the model in those of the data."""
        return numbers if self.scale is None else numbers * self.scale[1] + self.scale[0]

    @property
    def _type(self) -> type[np.float64 | np.int64]:
        """The type of labels and predictions."""
        return np.float64 if self.regression else np.int64

    def _compute_metrics(self) -> Callable[..., dict[str, float]]:
        """The function of that name, whose libraries take a second to load when they are first needed."""
        with loading(f"what computes the metric {self.metric}"):
            if self.metric in ("classes", "numbers"):
                from dora_cli.metrics import labels

                return labels.class_metrics if self.metric == "classes" else labels.number_metrics
            from dora_cli.metrics.glue import compute_metrics, load_libraries

            load_libraries(self.metric)
        return partial(compute_metrics, self.metric)

    def answer(self, kept: Sequence[npt.NDArray[Any]], examples: Examples, recipe: Recipe) -> Answers:
        """A record has the texts under their columns' names, ``prediction`` (name of the class, or a number) and, for
        classes, ``probabilities`` by name; ``label`` where the examples have one.
        """
        import torch

        logits = _stacked(kept)
        predictions = self._in_units(self.predictions(logits)).tolist()
        names = recipe.data.labels or self.label_names  # as the user's own files write them
        shares = torch.softmax(logits.double(), dim=-1).tolist()
        records = []
        for row, prediction in enumerate(predictions):
            record: dict[str, Any] = {
                column: texts[row] for column, texts in zip(self.text_columns, examples.texts, strict=True)
            }
            record["prediction"] = prediction if names is None else names[prediction]
            if names is not None:
                record["probabilities"] = dict(zip(names, shares[row], strict=True))
            if examples.labels is not None:
                label = examples.labels[row]
                record["label"] = label if names is None else names[int(label)]
            records.append(record)
        return Answers(
            records, None if self.tsv is None else [self.submitted(prediction) for prediction in predictions]
        )

    # -- its words -----------------------------------------------------------------------------------------------------

    @property
    def submissions(self) -> Mapping[str, str]:
        return {} if self.tsv is None else self.tsv.submissions

    def submitted(self, prediction: float) -> str:
        """A prediction as the benchmark's file of predictions writes it: the official label, or a number within the
        official span.
        """
        assert self.tsv is not None, "there is a benchmark"
        if self.tsv.labels is not None:
            return self.tsv.labels[int(prediction)]
        assert self.tsv.span is not None, "a number has a span"
        least, greatest = self.tsv.span
        return f"{min(max(prediction, least), greatest):.6f}"

    def notes(self, place: str, examples: Examples, *, training: bool) -> Iterator[str]:
        # of scores that are undefined, and set to 0, where all labels are the same
        zero = [score for score in self.scores if score in _CORRELATIONS]
        yield from label_notes(place, self.fields.labels, examples, training=training, zero=zero)
        if self.own and training and (note := alike_note(place, self.label_names or ())):
            yield note

    @property
    def printed(self) -> str:
        if not self.regression:
            return "model.config.id2label[logits[0].argmax().item()]"
        return (
            "logits[0, 0].item()"
            if self.scale is None
            else f"logits[0, 0].item() * {self.scale[1]!r} + {self.scale[0]!r}"
        )


def _stacked(kept: Sequence[npt.NDArray[Any]]) -> Tensor:
    """The logits of a whole split, ``(N, num_labels)``."""
    import torch

    return torch.from_numpy(np.stack(kept))


def settled(task: LabelTask, recipe: Recipe) -> tuple[Recipe, LabelTask]:
    """The recipe with the columns and labels of its data named, and the task that has them.

    A settled recipe is read no data for, so that a finished run can be evaluated without its training split.

    Raises:
        DataError: the training split cannot be read, or has no such columns, or no two classes.
    """
    data = recipe.data
    told = data.scale if task.regression else data.labels
    found: dict[str, Any] = {}
    if data.columns is None or told is None or not set(OWN_TEXT) & set(data.columns):
        columns, table = find_columns(task.name, recipe)
        found["columns"] = columns
        if told is None:
            values = table.columns[columns[OWN_LABEL]]
            if task.regression:
                check_numbers(table, values)
            else:
                found["labels"] = find_labels(table, values)
    recipe = recipe.model_copy(update={"data": data.model_copy(update=found)})
    columns = recipe.data.columns or {}
    texts = tuple(
        next(name for name in names if name in columns) for names in (OWN_TEXT, OWN_SECOND) if set(names) & set(columns)
    )
    task = replace(task, text_columns=texts)
    if recipe.data.source == "hub":
        assert recipe.data.name is not None, "a problem of the recipe"
        task = replace(task, hub=HubSource(recipe.data.name, recipe.data.config))
    if not task.regression:
        return recipe, replace(task, label_names=recipe.data.labels)
    scale = find_scale(recipe, task.fields) if told is None else recipe.data.scale
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"scale": scale})})
    return recipe, replace(task, scale=scale)
