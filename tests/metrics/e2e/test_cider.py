from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from dora_cli.metrics.e2e.cider import cider


def score(*pairs: tuple[str, list[str]]) -> float:
    return cider(
        [output.split(" ") for output, _ in pairs],
        [[text.split(" ") for text in references] for _, references in pairs],
    )


OTHER = ("x", ["y"])
"""A second output, of which nothing matches: with two of them, the idf of what one has is ln 2."""


def test_equal_texts() -> None:
    # Two words: cosine 1 for n = 1 and 2, nothing for 3 and 4. 10 * (1 + 1 + 0 + 0) / 4.
    assert score(("a b", ["a b"]), ("c d", ["c d"])) == pytest.approx(5.0)
    assert score(("a b c d", ["a b c d"]), ("e f g h", ["e f g h"])) == pytest.approx(10.0)


def test_by_hand() -> None:
    # One of two words in common, weights ln 2 all (that of "b" too, which no reference has): cosine 1/2 for n = 1
    # alone.
    assert score(("a b", ["a c"]), OTHER) == pytest.approx(10 * (1 / 2) / 4 / 2)
    # Mean over references: the same text again has cosine 1 for n = 1 and 2.
    assert score(("a b", ["a c", "a b"]), OTHER) == pytest.approx(10 * ((1 / 2) / 4 + 2 / 4) / 2 / 2)


def test_what_all_references_have_weighs_nothing() -> None:
    # "the" is in the references of both outputs: ln(2/2) = 0. Then "a" alone counts, cosine 1 for n = 1; the pairs are
    # as rare as ever.
    assert score(("the a", ["the a"]), ("the", ["the"])) == pytest.approx(10 * 2 / 4 / 2)
    assert score(("the", ["the"]), ("the", ["the"])) == 0.0


def test_document_frequency_counts_outputs_not_references() -> None:
    # "a" in both references of the first output is in the references of one output: idf ln 2, not 0.
    assert score(("a", ["a", "a"]), OTHER) == pytest.approx(10 * 1 / 4 / 2)


def test_a_repeated_word_is_clipped() -> None:
    # Weights 2 L and L with L = ln 2: min(2 L, L) * L / (2 L * L) = 1/2. One bigram against none: exp(-1 / 72).
    assert score(("a a", ["a"]), OTHER) == pytest.approx(10 * (1 / 2) / 4 * math.exp(-1 / 72) / 2)


def test_lengths_differ() -> None:
    # n = 1: 2 / sqrt(3 * 2); n = 2: 1 / sqrt(2 * 1); bigrams 2 against 1.
    expected = 10 * (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72) / 2
    assert score(("a b c", ["a b"]), OTHER) == pytest.approx(expected)
    # No bigram in one word and none in nothing: the difference is in bigrams, not words.
    assert score(("a b", [""]), OTHER) == 0.0


def test_a_single_output_has_no_rare_words() -> None:
    assert score(("a b c d", ["a b c d"])) == 0.0


def test_a_token_with_a_no_break_space_is_two_words() -> None:
    assert score(("1\u00a01/2", ["1 1/2"]), OTHER) == score(("1 1/2", ["1 1/2"]), OTHER) > 0.0


def random_texts() -> list[tuple[str, list[str]]]:
    rng = random.Random(0)

    def text() -> str:
        return " ".join(rng.choices("abcdefg", k=rng.randint(1, 12)))

    return [(text(), [text() for _ in range(rng.randint(1, 4))]) for _ in range(40)]


def test_the_original_agrees() -> None:
    original = pytest.importorskip("pycocoevalcap.cider.cider").Cider()
    pairs = random_texts()
    value, _ = original.compute_score(
        {i: refs for i, (_, refs) in enumerate(pairs)}, {i: [output] for i, (output, _) in enumerate(pairs)}
    )
    assert score(*pairs) == pytest.approx(value, abs=1e-12)


def test_it_is_the_same_to_the_last_bit_in_every_process() -> None:
    """Strings hash differently in every process: no sum may follow a set's order."""
    code = "from tests.metrics.e2e.test_cider import *; print(repr(score(*random_texts())))"
    root = Path(__file__).parents[3]
    values = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            check=True,
            capture_output=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(values) == 1
