"""ROUGE-L of outputs with several references (Lin 2004), as the MS-COCO evaluation computes it."""

from __future__ import annotations

from collections.abc import Sequence

from dora_cli.metrics.e2e.ngrams import Tokens, check

BETA = 1.2
"""Weight of recall against precision."""


def rouge_l(outputs: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Mean over the outputs of the F-measure of the longest common subsequence, from 0 to 1.

    Precision is the best over the references of ``lcs / len(output)``, recall the best of ``lcs / len(reference)``,
    which may be another reference; ``F = (1 + b^2) P R / (R + b^2 P)``.

    Args:
        outputs: tokens (`tokenisation.treebank`).
        references: for each output, at least one.
    """
    check(outputs, references)
    return sum(map(_best, outputs, references)) / len(outputs)


def _best(output: Tokens, references: Sequence[Tokens]) -> float:
    # A text without tokens is one empty token there: two of them are alike.
    output = output or [""]
    shared = [
        (longest_common_subsequence(output, wanted), len(wanted))
        for wanted in (tokens or [""] for tokens in references)
    ]
    precision = max(length for length, _ in shared) / len(output)
    recall = max(length / size for length, size in shared)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence, a whole row of the table at a time (Hyyrö 2004).

    Bit i of `row` is 0 where the table's row grows by one at token i of `first`; the zeros are the length.
    """
    places: dict[str, int] = {}
    for index, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << index
    full = (1 << len(first)) - 1
    row = full
    for token in second:
        matches = row & places.get(token, 0)
        row = (row + matches | row - matches) & full
    return len(first) - row.bit_count()
