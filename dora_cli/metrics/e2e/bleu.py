"""BLEU of a set of outputs, each with several references (Papineni et al. 2002), as the E2E script computes it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from dora_cli.metrics.e2e.ngrams import Tokens, check, most_in_one, ngrams

ORDER = 4
TINY_HITS, TINY_LENGTH = 1e-15, 1e-9
"""What stands for no match and for no n-gram at all: BLEU is never undefined, and without a match of an order it is
nearly 0.
"""


def bleu(outputs: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """BLEU-4 over the whole set, as a fraction.

    Geometric mean of the clipped n-gram precisions times the brevity penalty ``exp(1 - r / c)``, where c is the length
    of all outputs and r that of the references nearest to them in length (the shorter of two equally near).

    The script counts ``len(output) - n + 1`` n-grams for every output, a negative number for outputs shorter than n -
    1; so do we.

    Args:
        outputs: tokens, already in one case (`tokenisation.mteval_tokens`).
        references: for each output, at least one.
    """
    check(outputs, references)
    hits, totals = [0] * ORDER, [0] * ORDER
    reference_length = 0
    for output, wanted in zip(outputs, references, strict=True):
        for n in range(1, ORDER + 1):
            hits[n - 1] += sum((Counter(ngrams(output, n)) & most_in_one(wanted, n)).values())
            totals[n - 1] += len(output) - n + 1
        reference_length += min((abs(len(tokens) - len(output)), len(tokens)) for tokens in wanted)[1]
    if totals[0] == 0:
        return 0.0
    brevity = min(0.0, 1.0 - reference_length / totals[0])
    logs = [math.log(max(hit, TINY_HITS) / max(total, TINY_LENGTH)) for hit, total in zip(hits, totals, strict=True)]
    return math.exp(brevity + sum(logs) / ORDER)
