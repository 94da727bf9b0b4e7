"""Evaluating a generator: the loss of its targets, and the outputs it writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dora_cli.data import EncodedPairs, EncodedSources, PairLayout, ReferenceGroups, to_device
from dora_cli.evaluation.base import Finished, Metrics, Progress, Trial, silent
from dora_cli.evaluation.decoding import Decoding, decode, try_decoding
from dora_cli.evaluation.passes import Indices, batches_by_length, evaluation_mode, extremes, in_order
from dora_cli.libraries import loading
from dora_cli.machine.memory import decoding_advice, enough_memory, evaluation_advice
from dora_cli.methods import Method
from dora_cli.tasks import GenerationTask

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dora_cli.metrics.e2e.score import E2EScores


def target_loss(
    model: nn.Module,
    split: EncodedPairs,
    task: GenerationTask,
    *,
    batch_size: int,
    accelerator: Accelerator,
    progress: Progress = silent,
    name: str = "",
) -> float:
    """Mean loss in nats over all target tokens of `split`, end tokens included, without label smoothing."""
    mine = batches_by_length(split.lengths, batch_size, accelerator)
    found: list[torch.Tensor] = []
    with evaluation_mode(model):
        for done, indices in enumerate(mine):
            found.append(_row_losses(model, split, indices, task, accelerator))
            progress(name, done + 1, len(mine))
    losses = in_order(mine, torch.cat(found).double().cpu().tolist() if found else [], accelerator)
    return math.fsum(losses) / int(split.units.sum())


def _row_losses(
    model: nn.Module, split: EncodedPairs, indices: Indices, task: GenerationTask, accelerator: Accelerator
) -> torch.Tensor:
    """Summed loss of each target of one batch, on the device."""
    batch = to_device(split.collate(indices), accelerator.device)
    labels = batch.pop("labels")
    with accelerator.autocast():
        logits = model(**batch).logits
    return task.losses(logits, labels).sum(dim=1)


def _scorer(name: str) -> Callable[..., E2EScores]:
    """How outputs become metrics, by `GenerationTask.score`; its libraries take a second to load when they are first
    needed.
    """
    with loading(f"what computes the metrics of {name}"):
        from dora_cli.metrics.e2e.score import score_e2e
    return {"e2e": score_e2e}[name]


@dataclass(frozen=True)
class Sources:
    """What outputs are written about: the sources of a split with all their references, and the sources encoded."""

    split: str
    groups: ReferenceGroups
    encoded: EncodedSources


class GenerationEvaluator:
    """Loss and perplexity of the dev references, and outputs: a few greedy ones after an epoch, all of them by beam
    search at the end.

    Args:
        losses: the splits whose references are measured, encoded; one as a rule.
        greedy: what is decoded after every epoch; None for nothing.
        full: what is decoded at the end.
        settings: of the decoding at the end.
    """

    generates = True

    def __init__(
        self,
        task: GenerationTask,
        *,
        losses: Mapping[str, EncodedPairs],
        greedy: Sources | None,
        full: Sources,
        settings: Decoding,
        tokenizer: Any,
        layout: PairLayout,
        batch_size: int,
        accelerator: Accelerator,
        progress: Progress = silent,
    ) -> None:
        self.task, self.losses, self.greedy, self.full = task, losses, greedy, full
        self.progress = progress
        self._batch_size = batch_size
        self._settings = settings
        self._loss = partial(target_loss, task=task, batch_size=batch_size, accelerator=accelerator, progress=progress)
        self._accelerator = accelerator
        self._decode = partial(decode, tokenizer=tokenizer, layout=layout, accelerator=accelerator)
        self._try_decoding = partial(try_decoding, tokenizer=tokenizer, layout=layout, accelerator=accelerator)

    def prepare(self) -> None:
        two = ["one output", "another one"]
        with loading(f"what computes the metrics of {self.task.score}"):
            _scorer(self.task.score)(two, [[text] for text in two], meteor=False)

    def trials(self, model: nn.Module, method: Method) -> Sequence[Trial]:
        greedy = Trial(
            "decoding", "decode", partial(self._try_outputs, model, method, replace(self._settings, beams=1))
        )
        found = [Trial("an evaluation", "eval", partial(self._try_losses, model)), greedy]
        if (beams := self._settings.beams) > 1:
            searched = partial(self._try_outputs, model, method, self._settings)
            fix = "set decode.beams: 1, which works"
            found.append(Trial(f"decoding with decode.beams {beams}", "decode", searched, fix))
        return found

    def _try_losses(self, model: nn.Module) -> None:
        for split in self.losses.values():
            for indices in extremes(split.lengths, self._batch_size):
                _row_losses(model, split, indices, self.task, self._accelerator).cpu()

    def _try_outputs(self, model: nn.Module, method: Method, settings: Decoding) -> None:
        with method.folded():
            self._try_decoding(model, sources=self.full.encoded, settings=settings)

    def epoch(self, model: nn.Module, method: Method) -> Metrics:
        metrics = self._losses(model)
        if self.greedy is not None:
            outputs = self._outputs(model, method, self.greedy, replace(self._settings, beams=1))
            scores = _scorer(self.task.score)(outputs, self.greedy.groups.references, meteor=False).metrics
            metrics |= {f"greedy_{name}": value for name, value in scores.items()}
        return metrics

    def finish(self, model: nn.Module, method: Method) -> Finished:
        metrics = self._losses(model)
        outputs = self._outputs(model, method, self.full, self._settings)
        groups = self.full.groups
        column = self.task.text_columns[0]
        records = [
            {column: source, "output": output, "references": references}
            for source, output, references in zip(groups.sources, outputs, groups.references, strict=True)
        ]
        scores = _scorer(self.task.score)(outputs, groups.references)
        return Finished(metrics | scores.metrics, records, scores.notes)

    def _losses(self, model: nn.Module) -> Metrics:
        with enough_memory(evaluation_advice(self._batch_size)):
            per_split = {name: self._loss(model, split, name=name) for name, split in self.losses.items()}
        loss = float(np.mean([*per_split.values()]))
        return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}  # e^709 is the largest float

    def _outputs(self, model: nn.Module, method: Method, sources: Sources, settings: Decoding) -> list[str]:
        with enough_memory(decoding_advice(settings.batch_size, settings.beams)), method.folded():
            return self._decode(
                model,
                sources=sources.encoded,
                settings=settings,
                progress=partial(self.progress, f"{sources.split} (decoding)"),
            )
