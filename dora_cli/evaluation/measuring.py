"""Evaluating a model for a task: its metrics over splits, and, where the model writes texts, the scores of these."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch
from torch import nn

from dora_cli.data import Encoded, EncodedSources, PairLayout, ReferenceGroups, to_device
from dora_cli.evaluation.base import Finished, Metrics, Progress, Trial, silent
from dora_cli.evaluation.decoding import decode, try_decoding
from dora_cli.evaluation.passes import (
    Indices,
    Run,
    batches_by_length,
    directly,
    evaluation_mode,
    extremes,
    in_order,
    work_of,
)
from dora_cli.evaluation.settings import Decoding
from dora_cli.machine.memory import decoding_advice, enough_memory, evaluation_advice
from dora_cli.methods import Method
from dora_cli.tasks import Task

if TYPE_CHECKING:
    from accelerate import Accelerator


def keep_rows(
    model: nn.Module,
    split: Encoded,
    task: Task,
    *,
    batch_size: int,
    accelerator: Accelerator,
    run: Run = directly,
    progress: Callable[[int, int], None] | None = None,
) -> list[npt.NDArray[Any]]:
    """What the task keeps of every row of `split`, in its order, on the CPU.

    Processes share the batches and all return the whole.

    Args:
        run: how the passes are done, such as in CUDA graphs.
    """
    mine = batches_by_length(split.lengths, batch_size, accelerator)
    found: list[torch.Tensor] = []
    with evaluation_mode(model):
        for done, indices in enumerate(mine):
            found.append(_kept(model, split, indices, task, accelerator, run))
            if progress is not None:
                progress(done + 1, len(mine))
    rows = [row for batch in found for row in batch.cpu().numpy()]  # waits for the device once all is queued
    return in_order(mine, rows, accelerator)


def _kept(
    model: nn.Module, split: Encoded, indices: Indices, task: Task, accelerator: Accelerator, run: Run = directly
) -> torch.Tensor:
    """What the task keeps of one batch, on the device."""
    work = work_of(model, task.keep, accelerator, run)
    return run(work, to_device(split.collate(indices), accelerator.device))


@dataclass(frozen=True)
class Sources:
    """What outputs are written about: the sources of a split with all their references, and the sources encoded."""

    split: str
    groups: ReferenceGroups
    encoded: EncodedSources


@dataclass(frozen=True)
class Writing:
    """What a model writes, and how.

    Attributes:
        tokenizer: the model's.
        layout: how texts stand in its input.
        settings: of the decoding at the end.
        greedy: what is decoded after every epoch; None for nothing.
        full: what is decoded at the end; None for nothing.
    """

    tokenizer: Any
    layout: PairLayout
    settings: Decoding
    greedy: Sources | None
    full: Sources | None


DECODING = " (decoding)"
"""What stands behind a split's name where it is told how far the writing of its outputs is."""
_GREEDY = "greedy_"
"""What the names of scores begin with that outputs between epochs have."""


class Evaluator:
    """Evaluates one model again and again on data that is encoded once: the metrics of the task's splits, and of a
    model that writes texts a few greedy ones after an epoch, all of them by beam search at the end.

    Every process calls it; all get the whole result.

    Args:
        task: says what is kept of a model's outputs, and what is measured of it.
        splits: what is measured, encoded.
        writing: what is written beside; None for a task that writes no texts.
        batch_size: rows at a time, in each process.
        captured: whether the search for outputs may be captured in CUDA graphs.
        progress: told how far every pass is.
    """

    def __init__(
        self,
        task: Task,
        splits: Mapping[str, Encoded],
        writing: Writing | None = None,
        *,
        batch_size: int,
        accelerator: Accelerator,
        captured: bool = False,
        progress: Progress = silent,
    ) -> None:
        self.task, self.splits, self.writing = task, splits, writing
        self.confusion: Mapping[str, Any] | None = None
        """That of the latest pass, where the task has one."""
        self._batch_size, self._accelerator, self._progress = batch_size, accelerator, progress
        self._captured = captured

    @property
    def generates(self) -> bool:
        """Whether `finish` writes texts, and so knows more than `epoch`."""
        return self.writing is not None and self.writing.full is not None

    def prepare(self) -> None:
        """Loads the libraries of the metrics, which the first evaluation would load otherwise, and has them score two
        rows.

        Raises:
            LibraryError: one of them is broken.
        """
        self.task.prepare()

    def trials(self, model: nn.Module, method: Method) -> Sequence[Trial]:
        """What `epoch` and `finish` do with the model, in an order in which the earlier tells more of why the later
        fails.
        """
        found = [Trial("an evaluation", "eval", partial(self._try, model))]
        writing = self.writing
        sources = None if writing is None else writing.full or writing.greedy
        if writing is None or sources is None:
            return found
        settings, write = writing.settings, partial(self._try_writing, writing, sources, model, method)
        found.append(Trial("decoding", "decode", partial(write, replace(settings, beams=1))))
        if writing.full is not None and settings.beams > 1:
            searched = partial(write, settings)
            fix = "set decode.beams: 1, which works"
            found.append(Trial(f"decoding with decode.beams {settings.beams}", "decode", searched, fix))
        return found

    def _try(self, model: nn.Module) -> None:
        for split in self.splits.values():
            for indices in extremes(split.lengths, self._batch_size):
                _kept(model, split, indices, self.task, self._accelerator).cpu()

    def _try_writing(
        self, writing: Writing, sources: Sources, model: nn.Module, method: Method, settings: Decoding
    ) -> None:
        with method.folded():
            try_decoding(
                model,
                writing.tokenizer,
                sources.encoded,
                writing.layout,
                settings,
                accelerator=self._accelerator,
            )

    def epoch(self, model: nn.Module, method: Method, run: Run = directly) -> Metrics:
        """The metrics between epochs, as far as the task's `epoch_metrics`; `run` as for `keep_rows`."""
        metrics = self._measured(model, run)
        if self.writing is not None and (greedy := self.writing.greedy) is not None:
            outputs = self._written(self.writing, model, method, greedy, replace(self.writing.settings, beams=1))
            scores = self.task.score(outputs, greedy.groups.references, quick=True).metrics
            metrics |= {f"{_GREEDY}{name}": value for name, value in scores.items()}
        return metrics

    def finish(self, model: nn.Module, method: Method, measured: Mapping[str, float | None] | None = None) -> Finished:
        """Everything about finished weights.

        Args:
            measured: what `epoch` has found of these very weights; None measures it.
        """
        if measured is None:
            metrics = self._measured(model)
        else:
            metrics = {name: value for name, value in measured.items() if not name.startswith(_GREEDY)}
        if self.writing is None or (full := self.writing.full) is None:
            return Finished(metrics)
        groups = full.groups
        outputs = self._written(self.writing, model, method, full, self.writing.settings)
        column = self.task.text_columns[0]
        records = [
            {column: source, "output": output, "references": references}
            for source, output, references in zip(groups.sources, outputs, groups.references, strict=True)
        ]
        scores = self.task.score(outputs, groups.references)
        return Finished({**metrics, **scores.metrics}, records, scores.notes)

    def _measured(self, model: nn.Module, run: Run = directly) -> Metrics:
        per_split = {}
        with enough_memory(evaluation_advice(self._batch_size)):
            for name, split in self.splits.items():
                rows = keep_rows(
                    model,
                    split,
                    self.task,
                    batch_size=self._batch_size,
                    accelerator=self._accelerator,
                    run=run,
                    progress=partial(self._progress, name),
                )
                per_split[name] = self.task.measure(rows, split)
                self.confusion = self.task.confusion(rows, split)
        return dict(self.task.combine(per_split))

    def _written(
        self, writing: Writing, model: nn.Module, method: Method, sources: Sources, settings: Decoding
    ) -> list[str]:
        with enough_memory(decoding_advice(settings.batch_size, settings.beams)), method.folded():
            return decode(
                model,
                writing.tokenizer,
                sources.encoded,
                writing.layout,
                settings,
                accelerator=self._accelerator,
                captured=self._captured and not method.cannot_merge,  # a folded model is of a known family alone
                progress=partial(self._progress, f"{sources.split}{DECODING}"),
            )
