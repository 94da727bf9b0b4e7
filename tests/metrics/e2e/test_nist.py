from __future__ import annotations

import math

import pytest

from dora_cli.metrics.e2e.nist import BETA, nist


def score(*pairs: tuple[str, list[str]]) -> float:
    return nist(
        [output.split() for output, _ in pairs], [[text.split() for text in references] for _, references in pairs]
    )


def test_by_hand() -> None:
    # Four words in all references: a twice, b and c once. Information: a log2(4/2) = 1, b log2(4/1) = 2, "a b"
    # log2(2/1) = 1. One output of two words: (1 + 2) / 2 + 1 / 1, and no longer n-grams.
    assert score(("a b", ["a b", "a c"])) == pytest.approx(2.5)


def test_information_is_of_all_references_of_the_set() -> None:
    # Six words: a thrice, b, c, d once. a log2(6/3) = 1; b log2 6; "a b" log2(3/1). The second output matches nothing.
    first, second = ("a b", ["a b", "a c"]), ("z z", ["a d"])
    assert score(first, second) == pytest.approx((1 + math.log2(6)) / 4 + math.log2(3) / 2)


def test_matches_are_clipped() -> None:
    # "a a a" against "a a" and "a b": two a of three count, log2(4/3) each; the pair "a a" once of two, log2(3/1).
    assert score(("a a a", ["a a", "a b"])) == pytest.approx(2 * math.log2(4 / 3) / 3 + math.log2(3) / 2)


def test_the_penalty_is_a_half_at_two_thirds_of_the_length() -> None:
    assert math.exp(-BETA * math.log(2 / 3) ** 2) == pytest.approx(0.5)
    # Each of three words log2 3; "a b" is certain after a: log2(1/1) = 0.
    assert score(("a b", ["a b c"])) == pytest.approx(0.5 * math.log2(3))


def test_lengths_are_means_over_an_outputs_references() -> None:
    # References of 2 and 6 words: mean 4 for an output of 2. Eight words, a and b twice each: log2(8/2) = 2; "a b":
    # log2(2/2).
    value = score(("a b", ["a b", "a b c d e f"]))
    assert value == pytest.approx(2.0 * math.exp(-BETA * math.log(2 / 4) ** 2))


def test_longer_outputs_are_not_penalised_but_diluted() -> None:
    # a and b: log2 2 each, of four words; "a b" adds nothing.
    assert score(("a b x y", ["a b"])) == pytest.approx(2 / 4)


def test_no_match() -> None:
    assert score(("x y", ["a b"])) == 0.0
    assert nist([[]], [[["a"]]]) == 0.0
