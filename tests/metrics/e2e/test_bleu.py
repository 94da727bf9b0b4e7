from __future__ import annotations

import math
import random

import pytest
import sacrebleu

from dora_cli.metrics.e2e.bleu import bleu
from dora_cli.metrics.e2e.tokenisation import mteval


def score(*pairs: tuple[str, list[str]]) -> float:
    return bleu(
        [output.split() for output, _ in pairs], [[text.split() for text in references] for _, references in pairs]
    )


def test_by_hand() -> None:
    # Of "a b c d e", 4 of 5 words, 3 of 4 pairs, 2 of 3 and 1 of 2 are in the reference, whose 6 words make the penalty
    # exp(1 - 6/5).
    assert score(("a b c d e", ["a b c d x y"])) == pytest.approx(
        (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4) * math.exp(1 - 6 / 5)
    )
    assert score(("a b c d", ["a b c d"])) == pytest.approx(1.0)


def test_a_word_counts_as_often_as_the_reference_that_has_most_of_it() -> None:
    # "a" thrice, but twice in one reference: 2 of 3 and not 3 of 3. Pairs: a a once of two. Then the script's 1e-15
    # stands for no match.
    low = 1e-15
    assert score(("a a a", ["a a", "a x x x"])) == pytest.approx((2 / 3 * 1 / 2 * low / 1 * low / 1e-9) ** (1 / 4))


def test_sums_are_over_the_set_not_means_of_outputs() -> None:
    # Hits 8 + 0 of 8 + 4 words, 7 of 7 + 3, 6 of 6 + 2, 5 of 5 + 1.
    value = score(("a b c d e f g h", ["a b c d e f g h"]), ("i j k l", ["m n o p"]))
    assert value == pytest.approx((8 / 12 * 7 / 10 * 6 / 8 * 5 / 6) ** (1 / 4))


@pytest.mark.parametrize(
    ("references", "penalty"),
    [
        (["a b c d", "a b c d e f"], math.exp(1 - 5 / 5)),  # 4 and 6 words are equally near to 5: the shorter counts
        (["a b c d e f g", "a b c d e f"], math.exp(1 - 6 / 5)),
        (["a b c d e f g h i"], math.exp(1 - 9 / 5)),
        (["a b c"], 1.0),
    ],
)
def test_the_nearest_length_counts(references: list[str], penalty: float) -> None:
    # Words that every reference has are not enough for a precision of 1; a last reference of distant length brings
    # them.
    value = score(("a b c d e", [*references, "a b c d e " + 20 * "z "]))
    assert value == pytest.approx(penalty)


def test_short_outputs_take_n_grams_away_as_in_the_script() -> None:
    # n-grams: 1 + 5, 0 + 4, -1 + 3, -2 + 2. Hits: 6, 4, 3, 2. So 3 of 2, and 2 of "none", for which the script puts
    # 1e-9.
    value = score(("a", ["a b c d e"]), ("a b c d e", ["a b c d e"]))
    assert value == pytest.approx((6 / 6 * 4 / 4 * 3 / 2 * 2 / 1e-9) ** (1 / 4) * math.exp(1 - 10 / 6))


def test_without_a_match_it_is_nearly_nothing() -> None:
    assert score(("v w x y z", ["a b c d e"])) == pytest.approx((1e-60 / (5 * 4 * 3 * 2)) ** (1 / 4))
    assert bleu([[]], [[["a"]]]) == 0.0


VOCABULARY = "The the Eagle eagle, £20-25 3.5 family-friendly centre. café near it's (cheap) R&B 1,000 a; pub"


def test_sacrebleu_agrees_on_raw_text() -> None:
    """Texts of at least four tokens: there both define BLEU alike."""
    rng = random.Random(1)

    def text() -> str:
        return " ".join(rng.choices(VOCABULARY.split(), k=rng.randint(4, 14)))

    outputs = [text() for _ in range(60)]
    references = [[text() for _ in range(rng.randint(1, 5))] for _ in outputs]
    for reference in references[::3]:
        reference.append(outputs[references.index(reference)].upper())
    tokens = mteval(outputs, references)
    streams = [[group[place] if place < len(group) else None for group in references] for place in range(6)]
    theirs = sacrebleu.corpus_bleu(outputs, streams, lowercase=True, tokenize="13a", smooth_method="none").score / 100
    assert 0.2 < theirs < 0.9
    assert bleu(tokens.outputs, tokens.references) == pytest.approx(theirs, abs=1e-12)
