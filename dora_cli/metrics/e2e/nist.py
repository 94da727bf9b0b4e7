"""NIST of a set of outputs, each with several references (Doddington 2002), as the E2E script computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from dora_cli.metrics.e2e.ngrams import Tokens, check, most_in_one, ngrams

ORDER = 5
BETA = math.log(2.0) / math.log(1.5) ** 2
"""Makes the length penalty 0.5 for outputs of two thirds of the references' length: ``exp(-BETA ln(2/3)^2) = 1/2``."""


def nist(outputs: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """NIST-5 over the whole set; about 8 to 9 for good E2E outputs.

    The sum over n of the information in the matched n-grams (clipped as in BLEU) divided by the number of n-grams in
    the outputs, times ``exp(-BETA ln(min(1, c / r))^2)``, where c is the length of all outputs and r the sum of the
    references' mean lengths. An n-gram's information is ``log2(count of its first n - 1 tokens / its own count)`` over
    all references; of one token, the first count is that of all tokens. An order without any n-gram in the outputs adds
    nothing.

    Args:
        outputs: tokens, already in one case (`tokenisation.mteval_tokens`).
        references: for each output, at least one.
    """
    check(outputs, references)
    seen = _counts(references)
    value = 0.0
    for n in range(1, ORDER + 1):
        information, total = 0.0, 0
        for output, wanted in zip(outputs, references, strict=True):
            total += len(output) - n + 1
            for ngram, hits in (Counter(ngrams(output, n)) & most_in_one(wanted, n)).items():
                information += hits * math.log2(seen[ngram[:-1]] / seen[ngram])
        value += information / total if total > 0 else 0.0
    return value * _length_penalty(outputs, references)


def _counts(references: Sequence[Sequence[Tokens]]) -> Counter[tuple[str, ...]]:
    """Occurrences of every n-gram in all references; of the empty one, the number of tokens."""
    seen: Counter[tuple[str, ...]] = Counter()
    for wanted in references:
        for tokens in wanted:
            seen[()] += len(tokens)
            for n in range(1, ORDER + 1):
                seen.update(ngrams(tokens, n))
    return seen


def _length_penalty(outputs: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    length = sum(map(len, outputs))
    wanted_length = sum(sum(map(len, wanted)) / len(wanted) for wanted in references)
    if length >= wanted_length:
        return 1.0
    return math.exp(-BETA * math.log(length / wanted_length) ** 2) if length else 0.0
