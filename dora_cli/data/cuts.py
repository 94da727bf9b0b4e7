"""A batch cut into parts of similar length: each is padded to its own longest row, and computed by itself.

A sum over the rows of a batch, as loss and gradients are, is the same however the batch is cut; only what a dropout
draws is another. What a cut saves is padding, and what it costs is a further pass over the model.

The rows of several processes are dealt by the same costs: all wait for the one that has most to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dora_cli.data.batches import Group, Indices
from dora_cli.data.encoding import Encoded
from dora_cli.data.ragged import padded_widths

MOST_PARTS = 8
"""Parts of a batch at the most, where nothing else is said: more of them save hardly a token."""


@dataclass(frozen=True)
class Cuts:
    """How batches are cut.

    Attributes:
        most: parts of a batch at the most; 1 cuts none.
        pass_tokens: what one more pass over the model costs, in tokens; a batch is cut only where that saves more.
        pieces: a batch is parted into so many pieces of equal size at the most, and parts are made up of whole ones;
            few of them give few shapes.
        dealt: whether several processes have the rows of their batches dealt by what they cost, and not as many each.
    """

    most: int = 1
    pass_tokens: int = 0
    pieces: int = 32
    dealt: bool = False

    def __str__(self) -> str:
        """In words, of batches that are cut."""
        pays = f", where another part saves more than {self.pass_tokens:,} tokens" if self.pass_tokens else ""
        return f"up to {self.most}, of similar length{pays}"

    def parts(self, split: Encoded, rows: Indices) -> list[Indices]:
        """`rows` of `split` in parts whose tokens, padding included, and passes cost the least together; the longest
        first, and of parts that cost the same as few as possible. A batch that is not cut keeps its order.
        """
        most = min(self.most, len(rows))
        if most == 1:
            return [rows]
        lengths = np.stack([side[rows] for side in split.sides])
        widths = padded_widths(lengths.max(axis=1), split.pad_multiple, split.max_length)
        if int(widths.sum()) * len(rows) <= int(lengths.sum()) + self.pass_tokens:
            return [rows]  # not even a cut that left no padding would pay
        order, starts, costs = self._in_pieces(split, rows, lengths)
        first = _best(costs, most, np.add)
        if len(first) == 1:
            return [rows]
        return np.split(rows[order], starts[first[1:]])

    def shares(self, split: Encoded, rows: Indices, processes: int) -> list[Indices]:
        """What each of so many processes computes of `rows` of `split`: the one with most to do has as little to do as
        can be. The first have the longest, the last may have none.
        """
        if processes == 1 or not len(rows):
            return [rows, *([rows[:0]] * (processes - 1))]
        order, starts, costs = self._in_pieces(split, rows, np.stack([side[rows] for side in split.sides]))
        for end in range(1, len(starts)):  # from here on of a share, in as many parts as pay
            costs[:, end] = np.minimum(costs[:, end], (costs[:, :end] + costs[1 : end + 1, end]).min(axis=1))
        first = _best(costs, processes, np.maximum)
        shares = np.split(rows[order], starts[first[1:]])
        return [*shares, *([rows[:0]] * (processes - len(shares)))]

    def _in_pieces(
        self, split: Encoded, rows: Indices, lengths: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """`rows` from the longest to the shortest, where each piece of them starts, and `_costs`.

        Args:
            lengths: of each side, ``(sides, rows)``.
        """
        order = np.argsort(-lengths.sum(axis=0), kind="stable")
        starts = np.arange(0, len(rows), -(-len(rows) // self.pieces))
        longest = np.maximum.reduceat(lengths[:, order], starts, axis=1)
        return order, starts, self._costs(split, longest, np.diff(np.append(starts, len(rows))))

    def _costs(
        self, split: Encoded, longest: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """What a part of the pieces `i` to `j` costs, ``(pieces, pieces)``; infinite where `j` is before `i`.

        Args:
            longest: of each side, the longest row of each piece, ``(sides, pieces)``.
            sizes: rows of each piece, ``(pieces,)``.
        """
        pieces = len(sizes)
        reached = np.maximum.accumulate(np.triu(np.broadcast_to(longest[:, None], (len(longest), pieces, pieces))), 2)
        widths = padded_widths(reached, split.pad_multiple, split.max_length).sum(axis=0)
        ends = np.cumsum(sizes)
        rows = ends - (ends - sizes)[:, None]
        return np.where(np.tri(pieces, k=-1, dtype=np.bool_), np.inf, rows * widths + float(self.pass_tokens))


UNCUT = Cuts()


def _best(costs: npt.NDArray[np.float64], most: int, join: Callable[..., npt.NDArray[np.float64]]) -> list[int]:
    """The first piece of each part of the best way to put all pieces into at most `most` parts.

    Args:
        costs: of a part of the pieces `i` to `j`, ``(pieces, pieces)``.
        join: what two parts cost together, from what each costs.
    """
    pieces = len(costs)
    until = costs[0]  # the best way to put the pieces up to `j` into so many parts
    totals, chosen = [float(until[-1])], []
    for _ in range(min(most, pieces) - 1):
        ways = join(until[:-1, None], costs[1:])  # with the last part beginning at piece i + 1
        begins = ways.argmin(axis=0)
        until = ways[begins, np.arange(pieces)]
        chosen.append(begins + 1)
        totals.append(float(until[-1]))
    first, last = [], pieces - 1
    for begins in reversed(chosen[: int(np.argmin(totals))]):
        first.append(int(begins[last]))
        last = first[-1] - 1
    return [0, *reversed(first)]


def cut_batches(split: Encoded, batches: Iterable[Indices], cuts: Cuts) -> Iterator[Indices]:
    """The parts of all `batches`, one batch after the other."""
    for rows in batches:
        yield from cuts.parts(split, rows)


def deal(split: Encoded, groups: Iterable[Group], cuts: Cuts, processes: int, rank: int) -> Iterator[Group]:
    """What the process number `rank` of `processes` computes of steps whose micro-batches are those of all."""
    for group in groups:
        shares = (cuts.shares(split, rows, processes)[rank] for rows in group.micro_batches)
        yield replace(group, micro_batches=[share for share in shares if len(share)])


def recorded_cuts(environment: Mapping[str, Any]) -> Cuts:
    """What a run wrote into environment.json; older runs wrote nothing, and cut no batch."""
    found = environment.get("batch_parts")
    return UNCUT if found is None else Cuts(**found)
