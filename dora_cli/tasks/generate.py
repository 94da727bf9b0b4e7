"""Generation: a source text to a target text, such as a meaning representation to a sentence that says it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dora_cli.data.pairs import IGNORED, encode_pairs, pair_lengths
from dora_cli.data.sources.fields import CsvLayout, Fields, HubSource
from dora_cli.errors import DataError
from dora_cli.libraries import loading
from dora_cli.python_text import call, literal
from dora_cli.tasks.base import Answers, Scores, Task, Use

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from dora_cli.data.encoding import Encoded
    from dora_cli.data.examples import Examples
    from dora_cli.data.layout import PairLayout
    from dora_cli.models import Head, LoadedModel
    from dora_cli.recipe import Recipe

Scorer = Callable[..., Scores]
"""From outputs and the references of each to metrics; with ``quick=True`` without those that take long."""

_LOSSES = ("loss", "perplexity")


def _nothing() -> str | None:
    return None


@dataclass(frozen=True)
class GenerateTask(Task):
    """A source text to a target text, scored against all references of its source.

    Attributes:
        text_columns: the hub's names of source and reference, in this order.
        splits: official number of references by the hub's split names.
        eval_splits: the splits whose loss is measured after every epoch.
        decoded_split: the split that the finished model is scored on, unless the recipe names another.
        scorer: turns outputs and references into metrics; its libraries are loaded when it is first called.
        scores: names of its metrics.
        epoch_scores: those that are quick enough for after every epoch.
        hub: where the hub has it.
        csv: how the official files store it.
        example: a source, for model cards.
        missing: what the scorer will lack on this machine, in words; None where nothing.
    """

    text_columns: tuple[str, str]
    decoded_split: str
    scorer: Scorer
    scores: tuple[str, ...]
    epoch_scores: tuple[str, ...]
    hub: HubSource
    csv: CsvLayout
    example: str
    missing: Callable[[], str | None] = _nothing

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        return "generation"

    @property
    def reads(self) -> int:
        return 1

    @property
    def asks(self) -> str:
        return "text to text"

    @property
    def fields(self) -> Fields:
        return Fields(
            self.name,
            tuple(zip(self.text_columns, (self.csv.source, self.csv.target), strict=True)),
            None,
            tuple(self.splits),
            self.eval_splits,
            ("hub", "e2e-csv", "files", "builtin"),
            self.hub,
            self.csv,
        )

    @property
    def epoch_metrics(self) -> tuple[str, ...]:
        """The greedy ones only where outputs are decoded between epochs."""
        return (*_LOSSES, *(f"greedy_{score}" for score in self.epoch_scores))

    @property
    def metrics(self) -> tuple[str, ...]:
        return (*_LOSSES, *self.scores)

    def lower_is_better(self, metric: str) -> bool:
        return metric in _LOSSES

    # -- a recipe ------------------------------------------------------------------------------------------------------

    def problems(self, recipe: Recipe) -> list[str]:
        from dora_cli.recipe import DecodeSection
        from dora_cli.recipe.methods import METHODS, about

        found = super().problems(recipe)
        decode = recipe.decode or DecodeSection()
        if recipe.data.labels is not None:
            found.append(f"data.labels: {self.name} has references, not labels; remove the key")
        if about(recipe.method.name).head_only:
            other = next(name for name in METHODS if not about(name).head_only)
            found.append(
                f"method.name: {recipe.method.name} trains a head alone, and the model of {self.name} has none; choose "
                f"another, such as {other}"
            )
        if (recipe.eval.metric or "").startswith("greedy_") and not decode.epoch_samples:
            found.append(
                f"eval.metric: {recipe.eval.metric} needs outputs after every epoch, but decode.epoch_samples "
                "is 0; raise it"
            )
        return found

    # -- from texts to losses ------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        from dora_cli.models import GeneratorHead

        return GeneratorHead()

    def layout(self, base: LoadedModel) -> PairLayout | None:
        from dora_cli.data.layout import pair_layout

        return pair_layout(base.tokenizer, decoder_start=base.decoder_start)

    def encode(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, layout: PairLayout | None
    ) -> Encoded:
        assert layout is not None
        return encode_pairs(examples, tokenizer, max_length, layout)

    def token_counts(
        self, examples: Examples, tokenizer: PreTrainedTokenizerBase, layout: PairLayout | None
    ) -> npt.NDArray[np.int64]:
        assert layout is not None
        return pair_lengths(examples, tokenizer, layout)

    def losses(self, outputs: Any, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0) -> Tensor:
        """Loss of each target token.

        Args:
            outputs: with ``logits`` ``(B, T, vocabulary)``, of any floating type.
            batch: with ``labels``, int64 ``(B, T)``: `IGNORED` where nothing counts (prompt, padding).
                ``logits[b, t]`` predicts ``labels[b, t]``, nothing is shifted here.
            label_smoothing: `e` in ``(1 - e) * NLL + e * mean over the vocabulary of -log p``.

        Returns:
            ``(B, T)`` in fp32, in nats; 0 where ignored.
        """
        from torch.nn import functional

        labels = batch["labels"]
        flat = functional.cross_entropy(
            outputs.logits.flatten(0, 1).float(),
            labels.flatten(),
            reduction="none",
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        )
        return flat.view_as(labels)

    # -- from outputs to metrics ---------------------------------------------------------------------------------------

    def check_scorable(self, split: str, examples: Examples, source: str) -> None:
        if len(examples.texts) != 2:
            raise DataError(f"{self._unscorable(split, 'references', source)}; set decode.split to one that has them")

    def prepare(self) -> None:
        two = ["one output", "another one"]
        with loading(f"what computes the metrics of {self.name}"):
            self.score(two, [[text] for text in two], quick=True)

    def keep(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Summed loss of each target, ``(B,)``, without label smoothing."""
        return self.losses(outputs, batch).sum(dim=1)

    def measure(self, kept: Sequence[npt.NDArray[Any]], split: Encoded) -> dict[str, float]:
        """Mean loss in nats over all target tokens, end tokens included."""
        return {"loss": math.fsum(map(float, kept)) / int(split.units.sum())}

    def combine(self, per_split: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        loss = float(np.mean([metrics["loss"] for metrics in per_split.values()]))
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}  # e^709 is the largest float

    def answer(self, kept: Sequence[npt.NDArray[Any]], examples: Examples, recipe: Recipe) -> Answers:
        raise AssertionError("what it says is decoded")

    # -- from outputs that were written to metrics ---------------------------------------------------------------------

    @property
    def decodes(self) -> bool:
        return True

    @property
    def written_split(self) -> str:
        return self.decoded_split

    def score(self, outputs: Sequence[str], references: Sequence[Sequence[str]], *, quick: bool = False) -> Scores:
        return self.scorer(outputs, references, quick=quick)

    def read_scored(self, predictions: Path, references: Path | None) -> tuple[list[str], list[list[str]]]:
        from dora_cli.metrics.e2e.score_files import read_pairs

        return read_pairs(predictions, references)

    # -- its words -----------------------------------------------------------------------------------------------------

    def lacks(self) -> str | None:
        return self.missing()

    @property
    def pipeline_tag(self) -> str:
        return "text-generation"

    def use(self, use: Use) -> list[str]:
        layout = use.layout
        assert layout is not None
        before, after = ([str(list(tokens))] if tokens else [] for tokens in (layout.before, layout.separator))
        ids = " + ".join([*before, "tokenizer(source, add_special_tokens=False).input_ids", *after])
        start = [f"decoder_input_ids=torch.tensor([{list(layout.start)}])"] if layout.encoder_decoder else []
        prompt = str(len(layout.start)) if layout.encoder_decoder else "ids.shape[1]"
        lines = ["import torch"]
        # on the base itself, because what a caller leaves open comes from there: forced tokens, penalties
        if use.adapter:
            settings = [f"{key}={value!r}" for key, value in use.generation.items()]
            lines += [
                "from transformers import GenerationConfig",
                "",
                *call("model.get_base_model().generation_config = GenerationConfig", settings),
            ]
        return [
            *lines,
            "",
            f"source = {literal(self.example)}",
            f"ids = torch.tensor([{ids}])",
            *call("written = model.generate", ["input_ids=ids", "attention_mask=torch.ones_like(ids)", *start]),
            f"print(tokenizer.decode(written[0, {prompt}:], skip_special_tokens=True).strip())",
        ]
