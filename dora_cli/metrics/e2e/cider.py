"""CIDEr of outputs with several references (Vedantam et al. 2015), as the MS-COCO evaluation computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dora_cli.metrics.e2e.ngrams import Tokens, check, ngrams

ORDER = 4
SIGMA = 6.0
"""Standard deviation, in tokens, of the penalty on a difference in length."""


def cider(outputs: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Ten times the mean over outputs, their references and n = 1 to 4 of a similarity of tf-idf vectors; about 2.5 for
    good E2E outputs.

    The evaluation's "CIDEr" is the variant that the paper calls CIDEr-D, without stemming: an n-gram's weight in the
    output is clipped at its weight in the reference, and each similarity is multiplied by ``exp(-d^2 / (2 sigma^2))``,
    d being the difference in the number of bigrams. The weight is the n-gram's count times ``ln(number of outputs /
    number of outputs in whose references it occurs)``. With a single output that is 0 for all of its references'
    n-grams, and so is CIDEr.

    Args:
        outputs: tokens (`tokenisation.treebank`).
        references: for each output, at least one.
    """
    check(outputs, references)
    # A token may hold a no-break space (a mixed fraction, "1 1/2"), at which this metric splits it.
    counted = [[_count(tokens) for tokens in wanted] for wanted in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for wanted in counted:
        documents.update(set().union(*wanted))
    rarest = math.log(len(outputs))
    idf = {ngram: rarest - math.log(number) for ngram, number in documents.items()}
    total = 0.0
    for output, wanted in zip(outputs, counted, strict=True):
        vector = _vector(_count(output), idf, rarest)
        total += sum(_similarity(vector, _vector(count, idf, rarest)) for count in wanted) / len(wanted)
    return 10.0 * total / len(outputs)


def _count(tokens: Tokens) -> Counter[tuple[str, ...]]:
    words = " ".join(tokens).split()
    return Counter(ngram for n in range(1, ORDER + 1) for ngram in ngrams(words, n))


@dataclass(frozen=True)
class _Vector:
    """A text's weights by n-gram, the Euclidean norm for each n, and its number of bigrams."""

    weights: dict[tuple[str, ...], float]
    norms: list[float]
    bigrams: int


def _vector(counts: Counter[tuple[str, ...]], idf: dict[tuple[str, ...], float], unseen: float) -> _Vector:
    weights = {ngram: count * idf.get(ngram, unseen) for ngram, count in counts.items()}
    norms = [math.sqrt(square) for square in _sums((len(ngram), weight * weight) for ngram, weight in weights.items())]
    return _Vector(weights, norms, sum(count for ngram, count in counts.items() if len(ngram) == 2))


def _similarity(output: _Vector, reference: _Vector) -> float:
    # In the output's order, not a set's: the sum must be the same to the last bit in every process.
    common = (
        (ngram, mine, reference.weights[ngram]) for ngram, mine in output.weights.items() if ngram in reference.weights
    )
    products = _sums((len(ngram), min(mine, theirs) * theirs) for ngram, mine, theirs in common)
    scales = [mine * theirs for mine, theirs in zip(output.norms, reference.norms, strict=True)]
    cosines = [product / scale if scale else 0.0 for product, scale in zip(products, scales, strict=True)]
    return math.exp(-((output.bigrams - reference.bigrams) ** 2) / (2 * SIGMA**2)) * sum(cosines) / ORDER


def _sums(terms: Iterable[tuple[int, float]]) -> list[float]:
    """Sums of the terms of each order n = 1 to 4."""
    sums = [0.0] * ORDER
    for n, term in terms:
        sums[n - 1] += term
    return sums
