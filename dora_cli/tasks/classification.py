"""Classification and regression: one sentence or a pair of them, to a class or to a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dora_cli.data.sources.fields import Fields, HubSource, Labels, TsvLayout

if TYPE_CHECKING:
    from torch import Tensor


_VALUES: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "accuracy_f1": ("accuracy", "f1"),
    "matthews": ("matthews_correlation",),
    "pearson_spearman": ("pearson", "spearmanr"),
}
"""What each metric computes on one split."""

_CORRELATIONS = ("matthews_correlation", "pearson", "spearmanr")


@dataclass(frozen=True)
class ClassificationTask:
    """One sentence or a pair of them, to a class or to a number.

    Attributes:
        name: such as ``"glue/rte"``.
        text_columns: the hub's names of the one or two text columns.
        label_names: names of the classes by label id, or None for a regression.
        metric: name of the metric that the evaluation computes on one split.
        primary: key of the value that selects checkpoints, in what `combine` returns.
        splits: official number of examples by the hub's split names.
        eval_splits: the splits that one evaluation covers.
        hub: where the hub has it.
        tsv: how the official files store it.
    """

    name: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...] | None
    metric: str
    primary: str
    splits: Mapping[str, int]
    eval_splits: tuple[str, ...]
    hub: HubSource
    tsv: TsvLayout

    @property
    def kind(self) -> str:
        """What comes out."""
        return "regression" if self.label_names is None else "classification"

    @property
    def sources(self) -> tuple[str, ...]:
        """What ``data.source`` may be."""
        return ("hub", "glue-tsv", "files", "builtin")

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of what is measured on one split."""
        return _VALUES[self.metric]

    @property
    def correlations(self) -> tuple[str, ...]:
        """The scores that are undefined, and set to 0, where all labels are the same."""
        return tuple(score for score in self.scores if score in _CORRELATIONS)

    @property
    def regression(self) -> bool:
        """True if the label is a number, not a class."""
        return self.label_names is None

    @property
    def num_labels(self) -> int:
        """Outputs of the head: the number of classes, or 1 for a regression."""
        return 1 if self.label_names is None else len(self.label_names)

    @property
    def span(self) -> tuple[float, float]:
        """The least and the greatest number of a regression."""
        assert self.tsv.span is not None, "a number has a span"
        return self.tsv.span

    @property
    def fields(self) -> Fields:
        """What a source has to give."""
        general = ("sentence",) if len(self.text_columns) == 1 else ("sentence1", "sentence2")
        names = zip(self.text_columns, general, self.tsv.texts, strict=True)
        return Fields(
            self.name,
            tuple(tuple(dict.fromkeys(each)) for each in names),
            Labels(self.label_names, self.tsv.span),
            tuple(self.splits),
            self.eval_splits,
            self.sources,
            self.hub,
            self.tsv,
        )

    @property
    def epoch_metrics(self) -> tuple[str, ...]:
        """Names of what an evaluation between epochs gives."""
        per_split = self.scores
        splits = [split.removeprefix("validation_") for split in self.eval_splits] if len(self.eval_splits) > 1 else []
        return (*per_split, *(f"{value}_{split}" for split in splits for value in per_split))

    def lower_is_better(self, metric: str) -> bool:
        """Whether a smaller value of `metric`, one of `epoch_metrics`, is the better one."""
        return False

    def losses(self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Loss of each example, not averaged.

        Args:
            logits: ``(B, num_labels)``, any floating type.
            labels: ``(B,)``; class ids (int64), or numbers for a regression.
            label_smoothing: share of the target spread evenly over all classes; 0 for a regression.

        Returns:
            ``(B,)`` in fp32: cross entropy in nats, or the squared error of a regression.
        """
        from torch.nn import functional

        if self.regression:
            return functional.mse_loss(logits.squeeze(-1).float(), labels.float(), reduction="none")
        return functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)

    def predictions(self, logits: Tensor) -> Tensor:
        """What the model says of each example.

        Args:
            logits: ``(B, num_labels)``.

        Returns:
            ``(B,)``: class ids (int64), or fp32 numbers for a regression.
        """
        return logits.squeeze(-1).float() if self.regression else logits.argmax(dim=-1)

    def submitted(self, prediction: float) -> str:
        """A prediction as the benchmark's file of predictions writes it: the official label, or a number within the
        official span.
        """
        if self.tsv.labels is not None:
            return self.tsv.labels[int(prediction)]
        least, greatest = self.span
        return f"{min(max(prediction, least), greatest):.6f}"

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
