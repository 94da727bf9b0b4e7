"""The search for outputs about one batch of sources after the other."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from dora_cli.evaluation.search.choosing import make_choice
from dora_cli.evaluation.search.reading import Reader
from dora_cli.machine.graphs import Graphs, Inputs, shapes

if TYPE_CHECKING:
    from dora_cli.data import PairLayout
    from dora_cli.evaluation.settings import Decoding

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
        self._new = partial(_OneShape, model, layout, settings, device, dtype=dtype, captured=captured)
        self._shape: object = None
        self._latest: _OneShape | None = None

    def __call__(self, batch: dict[str, torch.Tensor]) -> list[list[int]]:
        """Token ids of each output; what stands behind the first stop token is of no account.

        Args:
            batch: from `EncodedSources.collate`, on the device.
        """
        shape = shapes(batch)
        if self._latest is None or shape != self._shape:
            self._latest = None  # gives back its memory first
            self._shape, self._latest = shape, self._new(len(batch["input_ids"]))
        return self._latest(batch)


class _OneShape:
    """The search over batches of one shape; see `Search`."""

    def __init__(
        self,
        model: nn.Module,
        layout: PairLayout,
        settings: Decoding,
        device: torch.device,
        sources: int,
        *,
        dtype: torch.dtype | None,
        captured: bool,
    ) -> None:
        self._device, self._room = device, settings.max_new_tokens
        self.choice = make_choice(sources, layout.stops, settings, device)
        self.reader = Reader(model, beams=settings.beams, room=self._room, written=self.choice.written, dtype=dtype)
        fix = "set train.cuda_graph: off"
        self._graphs = Graphs("the search for outputs with this model", fix) if captured else None

    def __call__(self, batch: dict[str, torch.Tensor]) -> list[list[int]]:
        self.choice.begin()
        tokens, _ = self.choice.choose(self.reader.prompts(batch))
        self.reader.follow(tokens, None, 0)  # so far all rows of a source have read the same
        done = _Done(self._device)
        for written in range(1, self._room):
            if done.reached(self.choice.done):
                break
            if self._graphs is None:
                self.step(self.reader.columns_for(written, 1), {})
            else:
                columns = self.reader.columns_for(written, CAPTURED_STEP)
                self._graphs.run(columns, partial(self.step, columns), {})
        found: list[list[int]] = self.choice.outputs().tolist()
        return found

    def step(self, columns: int, _: Inputs) -> None:
        """One more token of every row, on the device alone; the model sees the first `columns` of its memory."""
        tokens, rows = self.choice.choose(self.reader.next(columns))
        self.reader.follow(tokens, rows, columns)


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
