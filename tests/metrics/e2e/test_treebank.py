from __future__ import annotations

import hashlib

import pytest

from dora_cli.metrics.e2e.java import ptb_lines
from dora_cli.metrics.e2e.treebank import PUNCTUATION, treebank_tokens
from tests.metrics.e2e.data import needs_data, texts
from tests.metrics.e2e.java import needs_java

CASES = {
    "The Eagle is cheap, isn't it?": "the eagle is cheap is n't it",
    "It's £20-25; near £30, €5.": "it 's # 20-25 near # 30 $ 5",
    "They'll serve what you can't cook: we cannot, I'm "
    "sure.": "they 'll serve what you ca n't cook we can not i 'm sure",
    "A family-friendly coffee/tea shop (rated 5-star).": "a family-friendly coffee/tea shop -lrb- rated 5-star -rrb-",
    'The "Punter" costs 1,000 or 10.50 at 10:30.': "the punter costs 1,000 or 10.50 at 10:30",
    "Rated 3/5 and 5out of 5.": "rated 3/5 and 5out of 5",
    "near St. John's, e.g. in the city centre., or not.": "near st. john 's e.g. in the city centre. or not",
    "riverside area.It is": "riverside area.it is",
    "hors d'oeuvres": "hors d'oeuvres",
    "Café Rouge’s menu doesn’t change": "café rouge 's menu does n't change",
    "Line\nbreaks\r\nand\ttabs": "line breaks and tabs",
    "": "",
    " . ": "",
}
"""What the original makes of each (see below), punctuation removed."""


@pytest.mark.parametrize("text", CASES)
def test_tokens(text: str) -> None:
    assert " ".join(treebank_tokens(text)) == CASES[text]


@needs_data
@pytest.mark.parametrize(
    ("name", "count", "digest"),
    [
        ("testset_w_refs", 4693, "e3f851d104b326fb05e166dcccd23214ac3d3bc0e0c6a31a94aaa25514af085a"),
        ("devset", 4672, "30fea3f80eb8342da82656dbe66a3242e1ff735f783140a6098403a09ec0b7d5"),
    ],
)
def test_every_reference_of_the_official_files(name: str, count: int, digest: str) -> None:
    """The digest is that of the original's tokens, made with Java 17."""
    tokens = [" ".join(treebank_tokens(text)) for _, text in texts(name)]
    assert len(tokens) == count
    assert hashlib.sha256("\n".join(tokens).encode()).hexdigest() == digest


def original(lines: list[str]) -> list[str]:
    return [
        " ".join(token for token in line.split(" ") if token and token not in PUNCTUATION) for line in ptb_lines(lines)
    ]


@needs_java
def test_the_original_makes_the_same_of_the_cases() -> None:
    # A neutral text between them: the original looks at the next one's first word.
    lines = [line for text in CASES for line in (" ".join(text.split()), "x")]
    assert original(lines)[::2] == list(CASES.values())


@needs_java
@needs_data
def test_the_original_makes_the_same_of_nearly_all_training_references() -> None:
    lines = [text for _, text in texts("trainset")]
    tokens = [" ".join(treebank_tokens(line)) for line in lines]
    different = [line for line, ours, theirs in zip(lines, tokens, original(lines), strict=True) if ours != theirs]
    assert len(lines) == 42061
    assert len(different) == 5
