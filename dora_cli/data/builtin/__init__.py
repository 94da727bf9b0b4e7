"""Data made from grammars: every task without a file or a network.

``glue/sst2`` (`films`) and ``e2e`` (`stays`) are the demonstration sets: there labels follow from composition, here
every meaning representation has several references that word and order it differently, so that adapting a model pays.
The other tasks (`events`) have small sets for smoke runs. Every split comes from a seeded stream: the same sentences on
every machine and Python version, and no example twice, neither in one split nor in two; no meaning representation is in
two splits.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dora_cli.data.builtin import events, films, stays
from dora_cli.data.builtin.draw import Draw
from dora_cli.errors import DataError

if TYPE_CHECKING:
    from dora_cli.data import Examples

__all__ = ["builtin_tasks", "generate"]

Row = tuple[tuple[str, ...], int | float]


@dataclass(frozen=True)
class _Stream:
    """One endless source of rows and the splits cut from it, in this order."""

    row: Callable[[Draw], Row]
    splits: tuple[tuple[str, int], ...]
    seed: int


@dataclass(frozen=True)
class _Groups:
    """One endless source of meaning representations with their references, and the splits cut from it, counted in the
    former.
    """

    group: Callable[[Draw], tuple[str, list[str]]]
    splits: tuple[tuple[str, int], ...]
    seed: int


_SMALL = (("train", 1000), ("validation", 200), ("test", 200))

# The seeds are part of the data: a new seed is a new data set.
_STREAMS: dict[str, tuple[_Stream | _Groups, ...]] = {
    "e2e": (_Groups(stays.described_stay, (("train", 480), ("validation", 60), ("test", 80)), 21),),
    "glue/cola": (_Stream(events.cola, _SMALL, 11),),
    "glue/mnli": (
        _Stream(events.mnli, (("train", 1000), ("validation_matched", 200), ("test_matched", 200)), 12),
        _Stream(events.mnli_mismatched, (("validation_mismatched", 200), ("test_mismatched", 200)), 13),
    ),
    "glue/mrpc": (_Stream(events.mrpc, _SMALL, 14),),
    "glue/qnli": (_Stream(events.qnli, _SMALL, 15),),
    "glue/qqp": (_Stream(events.qqp, _SMALL, 16),),
    "glue/rte": (_Stream(events.rte, _SMALL, 17),),
    "glue/sst2": (_Stream(films.review, (("train", 4000), ("validation", 800), ("test", 800)), 18),),
    "glue/stsb": (_Stream(events.stsb, _SMALL, 19),),
    "glue/wnli": (_Stream(events.wnli, (("train", 600), ("validation", 100), ("test", 100)), 20),),
}


def builtin_tasks() -> tuple[str, ...]:
    """Names of the tasks that have generated data."""
    return tuple(_STREAMS)


def generate(task_name: str, split: str) -> Examples:
    """Makes one split of a task's generated data.

    Args:
        task_name: Such as ``glue/sst2`` or ``e2e``.
        split: A split of the task, named as on the hub: ``train``, ``validation``, ``test``; MNLI has two of the
            latter, ``..._matched`` and ``..._mismatched``.

    Returns:
        GLUE: lower-case texts with spaces between words and punctuation, one list per text column of the task, and the
            labels of every
        split (``test`` included): class numbers as in GLUE, or scores from 0 to 5 for STS-B. ``e2e``: meaning
        representations and references in ordinary spelling, one row per reference, those of one meaning representation
        together; no labels.

    Raises:
        DataError: The task has no generated data, or no such split.
    """
    # Here, because `dora_cli.data` itself comes for this function.
    from dora_cli.data import Examples

    if task_name not in _STREAMS:
        near = difflib.get_close_matches(task_name, _STREAMS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise DataError(
            f"data.source: builtin has no data for the task {task_name!r}.{hint} It has data for: "
            f"{', '.join(_STREAMS)}."
        )
    for stream in _STREAMS[task_name]:
        if any(name == split for name, _ in stream.splits):
            if isinstance(stream, _Groups):
                sources, references = _cut_groups(stream, split)
                return Examples(texts=(list(sources), list(references)), labels=None)
            rows = _cut(stream, split)
            texts = tuple([row[0][column] for row in rows] for column in range(len(rows[0][0])))
            return Examples(texts=texts, labels=_labels(rows))
    known = [name for stream in _STREAMS[task_name] for name, _ in stream.splits]
    raise DataError(f"The generated data of {task_name} has no split {split!r}. Its splits are: {', '.join(known)}.")


@functools.cache
def _cut(stream: _Stream, split: str) -> tuple[Row, ...]:
    """The rows of one split: the stream without repeats, after the splits that come before.

    Kept for a process's further runs.
    """
    draw = Draw(stream.seed)
    seen: set[tuple[str, ...]] = set()
    for name, size in stream.splits:
        rows: list[Row] = []
        while len(rows) < size:
            texts, label = stream.row(draw)
            if texts not in seen:
                seen.add(texts)
                rows.append((texts, label))
        if name == split:
            return tuple(rows)
    raise AssertionError("the caller checked that the stream has the split")


@functools.cache
def _cut_groups(stream: _Groups, split: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sources and references of one split, a row per reference: the stream without repeated sources, after the splits
    before. Kept.
    """
    draw = Draw(stream.seed)
    seen: set[str] = set()
    for name, size in stream.splits:
        sources: list[str] = []
        targets: list[str] = []
        end = len(seen) + size
        while len(seen) < end:
            source, references = stream.group(draw)
            if source not in seen:
                seen.add(source)
                sources += [source] * len(references)
                targets += references
        if name == split:
            return tuple(sources), tuple(targets)
    raise AssertionError("the caller checked that the stream has the split")


def _labels(rows: Sequence[Row]) -> list[int] | list[float]:
    if isinstance(rows[0][1], float):
        return [float(label) for _, label in rows]
    return [int(label) for _, label in rows]
