"""Strangers' names in a Markdown file are text and nothing else."""

from __future__ import annotations

import pytest

from dora_cli.export import markdown


@pytest.mark.parametrize("name", ["accuracy", "rouge_l", "attention.self.query", "FacebookAI/roberta-base", "F1 score"])
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert markdown.text(name) == name


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("# Title", r"\# Title"),
        ("<img src=x>", r"\<img src\=x\>"),
        ("a|b", r"a\|b"),
        ("a\n\n# b", r"a\\n\\n\# b"),
        ("[x](http://y)", r"\[x\]\(http\:\/\/y\)"),
        ("http://y", r"http\:\/\/y"),
        ("www.evil.com", r"www\.evil\.com"),
        ("_a_", r"\_a\_"),
        ("a__b", r"a\_\_b"),
        ("`a`", r"\`a\`"),
        ("&lt;", r"\&lt\;"),
        ("a\\", r"a\\"),
        ("\u202ecba", r"\\u202ecba"),
        ("-", r"\-"),
    ],
)
def test_what_markdown_would_obey_is_escaped(name: str, written: str) -> None:
    assert markdown.text(name) == written


def test_code() -> None:
    assert markdown.code("a<b>") == "`a<b>`"
    assert markdown.code("a``b\n") == r"```a``b\n```"
    assert markdown.code("`") == "`` ` ``"


def test_no_line_closes_its_block() -> None:
    assert markdown.block("yaml", ["a: 1"]) == "```yaml\na: 1\n```"
    assert markdown.block("yaml", ["a: |", "  ````", "  # b"]) == "`````yaml\na: |\n  ````\n  # b\n`````"
