"""The search for outputs about one batch of sources after the other."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from dora_cli.evaluation.search.choosing import Beams, Choice, Greedy
from dora_cli.evaluation.search.reading import Reader
from dora_cli.machine.graphs import Graphs, Inputs

if TYPE_CHECKING:
    from dora_cli.data import PairLayout
    from dora_cli.evaluation.decoding import Decoding

CAPTURED_STEP = 32
"""Columns by which what the model sees grows where steps are captured: each time there is another graph."""

LAG = 2
"""Steps by which the host is behind the device when it asks whether a batch is done."""


class Search:
    """Finds the outputs that `generate` finds, with a memory that stays and one step that is always the same.

    On CUDA a step may be captured in CUDA graphs, one for each shape of a batch and each number of columns; the host
    then launches one graph a token and learns two steps late that a batch is done, while the device goes on.

    Args:
        model: of a kind that `suitable` knows, on `device` and in evaluation mode. It stays as it is meanwhile.
        dtype: what autocast computes in, where it is on around every call; else None.
        captured: whether to capture; on CUDA alone.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: PairLayout,
        settings: Decoding,
        device: torch.device,
        *,
        dtype: torch.dtype | None,
        captured: bool,
    ) -> None:
        assert device.type == "cuda" or not captured
        self._model, self._layout, self._settings, self._device = model, layout, settings, device
        self._dtype, self._captured = dtype, captured
        self._sources = 0

    def __call__(self, batch: dict[str, torch.Tensor]) -> list[list[int]]:
        """Token ids of each output; what stands behind the first stop token is of no account.

        Args:
            batch: from `EncodedSources.collate`, on the device.
        """
        if len(batch["input_ids"]) != self._sources:
            self._make(len(batch["input_ids"]))
        choice, reader, room = self._choice, self._reader, self._settings.max_new_tokens
        choice.begin()
        logits, new = reader.prompts(batch)
        if new and self._captured:
            self._graphs = _graphs()
        step = CAPTURED_STEP if self._captured else 1
        columns = reader.columns_for(1, step)
        reader.follow(*choice.choose(logits), columns)
        done = _Done(self._device)
        for written in range(1, room):
            if done.reached(choice.done):
                break
            columns = reader.columns_for(written, step)
            if self._captured:
                self._graphs.run(columns, partial(self._captured_step, columns), {})
            else:
                self._step(columns)
        found: list[list[int]] = choice.outputs().tolist()
        return found

    def _make(self, sources: int) -> None:
        """All that is kept between two steps, for batches of so many sources."""
        settings, stops = self._settings, self._layout.stops
        self._sources = sources
        self._choice: Choice
        if settings.beams == 1:
            self._choice = Greedy(
                sources,
                room=settings.max_new_tokens,
                stops=stops,
                no_repeat_ngram=settings.no_repeat_ngram,
                device=self._device,
            )
        else:
            self._choice = Beams(
                sources,
                beams=settings.beams,
                room=settings.max_new_tokens,
                length_penalty=settings.length_penalty,
                stops=stops,
                no_repeat_ngram=settings.no_repeat_ngram,
                device=self._device,
            )
        self._reader = Reader(
            self._model,
            beams=settings.beams,
            room=settings.max_new_tokens,
            written=self._choice.written,
            dtype=self._dtype,
        )

    def _captured_step(self, columns: int, _: Inputs) -> None:
        self._step(columns)

    def _step(self, columns: int) -> None:
        """One more token of every row, on the device alone."""
        self._reader.follow(*self._choice.choose(self._reader.next(columns)), columns)


def _graphs() -> Graphs:
    return Graphs("the search for outputs with this model", "set train.cuda_graph: off")


class _Done:
    """Whether a batch is done, as the host learns it: on CUDA `LAG` steps late, and so without the device's waiting."""

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._asked: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
        if self._late:
            self._places = torch.zeros(LAG + 1, dtype=torch.bool, pin_memory=True)
            self._number = 0

    def reached(self, done: torch.Tensor) -> bool:
        if not self._late:
            return bool(done)
        place = self._places[self._number % (LAG + 1)]
        place.copy_(done, non_blocking=True)
        event = torch.cuda.Event(blocking=True)  # the cores may have other work
        event.record()
        self._asked.append((place, event))
        self._number += 1
        if len(self._asked) <= LAG:
            return False
        place, event = self._asked.popleft()
        event.synchronize()
        return bool(place)
