"""Generation: a source text to a target text, such as a meaning representation to a sentence that says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dora_cli.data.pairs import IGNORED
from dora_cli.data.sources.fields import CsvLayout, Fields, HubSource

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GenerationTask:
    """A source text to a target text, scored against all references of its source.

    Attributes:
        name: such as ``"e2e"``.
        text_columns: the hub's names of source and reference, in this order.
        splits: official number of references by the hub's split names.
        eval_splits: the splits whose loss is measured after every epoch.
        decoded_split: the split that the finished model is scored on, unless the recipe names another.
        score: name of the scorer that turns outputs and references into metrics.
        scores: names of its metrics.
        epoch_scores: those that are quick enough for after every epoch.
        hub: where the hub has it.
        csv: how the official files store it.
        primary: what selects an epoch unless the recipe names something else.
    """

    name: str
    text_columns: tuple[str, str]
    splits: Mapping[str, int]
    eval_splits: tuple[str, ...]
    decoded_split: str
    score: str
    scores: tuple[str, ...]
    epoch_scores: tuple[str, ...]
    hub: HubSource
    csv: CsvLayout
    primary: str = "loss"

    @property
    def kind(self) -> str:
        """What comes out."""
        return "generation"

    @property
    def sources(self) -> tuple[str, ...]:
        """What ``data.source`` may be."""
        return ("hub", "e2e-csv", "files", "builtin")

    @property
    def epoch_metrics(self) -> tuple[str, ...]:
        """Names of what an evaluation between epochs gives; the greedy ones only where outputs are decoded between
        epochs.
        """
        return ("loss", "perplexity", *(f"greedy_{score}" for score in self.epoch_scores))

    def lower_is_better(self, metric: str) -> bool:
        """Whether a smaller value of `metric`, one of `epoch_metrics`, is the better one."""
        return metric in ("loss", "perplexity")

    @property
    def fields(self) -> Fields:
        """What a source has to give."""
        return Fields(
            self.name,
            tuple(zip(self.text_columns, (self.csv.source, self.csv.target), strict=True)),
            None,
            tuple(self.splits),
            self.eval_splits,
            self.sources,
            self.hub,
            self.csv,
        )

    def losses(self, logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Loss of each target token.

        Args:
            logits: ``(B, T, vocabulary)``, any floating type; ``logits[b, t]`` predicts ``labels[b, t]``, nothing is
                shifted here.
            labels: int64 ``(B, T)``; `IGNORED` where nothing counts (prompt, padding).
            label_smoothing: `e` in ``(1 - e) * NLL + e * mean over the vocabulary of -log p``.

        Returns:
            ``(B, T)`` in fp32, in nats; 0 where ignored.
        """
        from torch.nn import functional

        flat = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            reduction="none",
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        )
        return flat.view_as(labels)
