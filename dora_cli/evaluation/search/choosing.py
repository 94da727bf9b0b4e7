"""From logits to the next token of every row: greedy, or the beams that go on, with the hypotheses that have ended.

What is kept is in tensors of fixed shapes that are changed in place, and nothing asks the host: a step can be captured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from dora_cli.evaluation.no_repeat import forbid_repeats

if TYPE_CHECKING:
    from dora_cli.evaluation.settings import Decoding

FAR = -1.0e9
"""Added to the score of what must not be chosen; the score of a place that no hypothesis has taken."""


class Choice(Protocol):
    """What is chosen in every step.

    Attributes:
        tokens: int64 ``(rows, room)``, what every row has written.
        written: int64 0-d, how many tokens that is.
        done: bool 0-d, whether no more is wanted of any source.
    """

    tokens: torch.Tensor
    written: torch.Tensor
    done: torch.Tensor

    def begin(self) -> None:
        """Forgets all, for another batch."""

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The next token of every row, ``(rows,)``, and the row that each goes on from; None where each goes on itself.

        Args:
            logits: ``(rows, vocabulary)``, of any floating type; n-grams are forbidden in place.
        """

    def outputs(self) -> torch.Tensor:
        """The best output of every source, int64 ``(sources, room)``; ends at its first stop token."""


class Greedy:
    """The likeliest token each time. See `Choice`.

    Args:
        sources: how many are written about at a time.
        room: tokens of an output at most.
        stops: tokens that end an output.
        no_repeat_ngram: no n-gram of this size comes twice; 0 allows any.
    """

    def __init__(
        self, sources: int, *, room: int, stops: Sequence[int], no_repeat_ngram: int, device: torch.device
    ) -> None:
        self.tokens = torch.empty(sources, room, dtype=torch.int64, device=device)
        self.written = torch.zeros((), dtype=torch.int64, device=device)
        self.done = torch.zeros((), dtype=torch.bool, device=device)
        self._ended = torch.zeros(sources, dtype=torch.bool, device=device)
        self._places = torch.arange(room, device=device)
        self._stops, self._end, self._ngram = torch.tensor(stops, device=device), stops[0], no_repeat_ngram

    def begin(self) -> None:
        self.tokens.fill_(self._end)
        for state in (self.written, self.done, self._ended):
            state.zero_()

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, None]:
        if self._ngram:
            forbid_repeats(logits, self.tokens, self.written, self._ngram)
        chosen = logits.argmax(dim=-1).masked_fill(self._ended, self._end)
        self.tokens.copy_(torch.where(self._places == self.written, chosen[:, None], self.tokens))
        self._ended |= (chosen[:, None] == self._stops).any(dim=-1)
        self.written += 1
        self.done.copy_(self._ended.all())
        return chosen, None

    def outputs(self) -> torch.Tensor:
        return self.tokens


class Beams:
    """Beam search, as transformers' `generate` does it with ``early_stopping=False``. See `Choice`.

    In every step the best continuations of all beams of a source are ranked by their sums of log probabilities. Those
    that end, among as many of the first as there are beams, become hypotheses, which are ranked by that sum over
    ``tokens ** length_penalty``; the first of the others go on. A source is done with once no beam, at its present
    length, scores better than the worst of as many hypotheses as there are beams.

    Args:
        sources: how many are written about at a time; rows are `beams` times as many, those of a source together.
        beams: at least 2.
        room: tokens of an output at most.
        length_penalty: see above.
        stops: tokens that end an output.
        no_repeat_ngram: no n-gram of this size comes twice; 0 allows any.
    """

    def __init__(
        self,
        sources: int,
        *,
        beams: int,
        room: int,
        length_penalty: float,
        stops: Sequence[int],
        no_repeat_ngram: int,
        device: torch.device,
    ) -> None:
        self._sources, self._beams, self._room, self._ngram = sources, beams, room, no_repeat_ngram
        self._end = stops[0]
        self._ranked = max(2, 1 + len(stops)) * beams  # even if all first ones end, as many as there are beams go on
        self.tokens = torch.empty(sources * beams, room, dtype=torch.int64, device=device)
        self.written = torch.zeros((), dtype=torch.int64, device=device)
        self.done = torch.zeros((), dtype=torch.bool, device=device)
        self._scores = torch.empty(sources, beams, device=device)
        self._hypotheses = torch.empty(sources, beams, room, dtype=torch.int64, device=device)
        self._hypothesis_scores = torch.empty(sources, beams, device=device)
        self._taken = torch.empty(sources, beams, dtype=torch.bool, device=device)
        self._open = torch.empty(sources, 1, dtype=torch.bool, device=device)
        # what never changes
        self._stops = torch.tensor(stops, device=device)
        self._places = torch.arange(room, device=device)
        self._first = torch.arange(self._ranked, device=device) < beams
        self._row = torch.arange(sources, device=device)[:, None] * beams
        lengths = torch.arange(1, room + 1, dtype=torch.float64, device=device)
        self._penalties = (lengths**length_penalty).float()

    def begin(self) -> None:
        self.tokens.fill_(self._end)
        self.written.zero_()
        self.done.zero_()
        self._scores.fill_(FAR)
        self._scores[:, 0] = 0.0  # all beams read the same at first: one of them counts
        self._hypotheses.fill_(self._end)
        self._hypothesis_scores.fill_(FAR)
        self._taken.zero_()
        self._open.fill_(True)

    def choose(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        best, beams, ids = self._ranked_best(logits)
        written = _rows(self.tokens.view(self._sources, self._beams, self._room), beams)
        written = torch.where(self._places == self.written, ids[:, :, None], written)
        ends = (ids[:, :, None] == self._stops).any(dim=-1) | (self.written + 1 >= self._room)
        penalty = self._penalties.index_select(0, self.written.view(1))
        ended = ends & self._first
        self._keep_ended(written, (best / penalty).masked_fill(~ended, FAR), ended)

        going = best + ends.float() * FAR
        next_ones = going.topk(self._beams)[1]
        self._scores.copy_(going.gather(1, next_ones))
        self.tokens.copy_(_rows(written, next_ones).flatten(0, 1))
        self.written += 1
        self._close(ends, penalty)
        return ids.gather(1, next_ones).flatten(), (beams.gather(1, next_ones) + self._row).flatten()

    def _ranked_best(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The best continuations of every source: their sums, beams and tokens, each ``(sources, ranked)``.

        They are among the best of every row, whose logits are in the order of its sums: what a row adds to all of them
        changes no order but where rounding makes two equal. So the vocabulary is read, and nothing of its size is added
        to or looked through a second time.
        """
        scores = logits.log_softmax(dim=-1, dtype=torch.float32)  # what is forbidden counts in it, as in `generate`
        if self._ngram:
            forbid_repeats(logits, self.tokens, self.written, self._ngram)
        likeliest, ids = logits.topk(min(self._ranked, logits.shape[1]))
        of_rows = scores.gather(1, ids).masked_fill_(likeliest.isneginf(), -torch.inf)
        sums = of_rows.view(self._sources, self._beams, -1) + self._scores[:, :, None]
        best, where = sums.flatten(1).topk(self._ranked)
        return best, where // sums.shape[2], ids.view(self._sources, -1).gather(1, where)

    def _keep_ended(self, written: torch.Tensor, scores: torch.Tensor, ended: torch.Tensor) -> None:
        """Takes the continuations that have ended among the hypotheses, where they are better, of sources not done."""
        merged = torch.cat((self._hypothesis_scores, scores), dim=1)
        best = merged.topk(self._beams)[1]
        kept = _rows(torch.cat((self._hypotheses, written), dim=1), best)
        self._hypotheses.copy_(torch.where(self._open[:, :, None], kept, self._hypotheses))
        self._hypothesis_scores.copy_(torch.where(self._open, merged.gather(1, best), self._hypothesis_scores))
        taken = torch.cat((self._taken, ended), dim=1).gather(1, best)
        self._taken.copy_(torch.where(self._open, taken, self._taken))

    def _close(self, ends: torch.Tensor, penalty: torch.Tensor) -> None:
        """Marks sources that are done with: nothing that goes on can become better, or nothing goes on."""
        possible = self._scores[:, :1] / penalty
        least = self._hypothesis_scores.amin(dim=1, keepdim=True).expand_as(self._taken)
        worst = least.masked_fill(~self._taken, FAR)
        self._open &= (possible > worst).any(dim=1, keepdim=True) & ~ends.all(dim=1, keepdim=True)
        self.done.copy_(~self._open.any())

    def outputs(self) -> torch.Tensor:
        return self._hypotheses[:, 0]


def make_choice(sources: int, stops: Sequence[int], settings: Decoding, device: torch.device) -> Choice:
    """What `settings` ask for, for so many `sources` at a time."""
    room, ngram = settings.max_new_tokens, settings.no_repeat_ngram
    if settings.beams == 1:
        return Greedy(sources, room=room, stops=stops, no_repeat_ngram=ngram, device=device)
    return Beams(
        sources,
        beams=settings.beams,
        room=room,
        length_penalty=settings.length_penalty,
        stops=stops,
        no_repeat_ngram=ngram,
        device=device,
    )


def _rows(values: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Those of ``(sources, n, room)`` that `which`, ``(sources, m)``, names: ``(sources, m, room)``."""
    return values.gather(1, which[:, :, None].expand(-1, -1, values.shape[2]))
