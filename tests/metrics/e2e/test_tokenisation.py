from __future__ import annotations

import pytest

from dora_cli.metrics.e2e import tokenisation
from dora_cli.metrics.e2e.java import JavaError
from dora_cli.metrics.e2e.tokenisation import mteval, mteval_tokens, treebank


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The Eagle isn't family-friendly.", "the eagle isn't family-friendly ."),
        ("From £20-25, 3.5 of 1,000 (cheap)!", "from £20 - 25 , 3.5 of 1,000 ( cheap ) !"),
        ("R&amp;B &lt;x&gt; &quot;y&quot;", 'r & b < x > " y "'),
        (" two  spaces\nand a line ", "two spaces and a line"),
    ],
)
def test_mteval_tokens(text: str, tokens: str) -> None:
    assert mteval_tokens(text) == tokens.split(" ")


def test_an_empty_text_is_one_empty_token_for_mteval() -> None:
    assert mteval_tokens("") == mteval_tokens(" ") == [""]


def test_references_go_back_to_their_outputs() -> None:
    tokens = mteval(["A b", "c"], [["d", "e f", "g"], ["h i"]])
    assert tokens.outputs == [["a", "b"], ["c"]]
    assert tokens.references == [[["d"], ["e", "f"], ["g"]], [["h", "i"]]]


def test_without_java_python_does_it_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(texts: list[str]) -> list[str]:
        raise JavaError("install it")

    monkeypatch.setattr(tokenisation, "ptb_lines", absent)
    tokens = treebank(["It's £20."], [["first", "Isn't it?"]])
    assert tokens.outputs == [["it", "'s", "#", "20"]]
    assert tokens.references == [[["first"], ["is", "n't", "it"]]]
    assert tokens.problem == "install it"


def test_the_original_gets_lines_and_its_punctuation_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(texts: list[str]) -> list[str]:
        asked.append(texts)
        return [f"{text} . -lrb- !! ''" if text else "" for text in texts]

    monkeypatch.setattr(tokenisation, "ptb_lines", answer)
    for _ in range(3):  # once for three metrics
        tokens = treebank(["a\nb\u2028c", ""], [["x"], ["y", "z"]])
    assert asked == [["x", "y", "z"], ["a b c", ""]]
    assert tokens.outputs == [["a", "b", "c", "-lrb-", "!!"], []]
    assert tokens.references == [[["x", "-lrb-", "!!"]], [["y", "-lrb-", "!!"], ["z", "-lrb-", "!!"]]]
    assert tokens.problem is None
