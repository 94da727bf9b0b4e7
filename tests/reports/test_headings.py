from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora_cli.reports.headings import headings, stacked


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (
            [
                "attention.self.query",
                "attention.self.key",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            ],
            ["query", "key", "attention.output.dense", "intermediate.dense", "output.dense"],
        ),
        (["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"], ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]),
        (["layer.0.SelfAttention.q", "layer.1.DenseReluDense.wi_0"], ["q", "wi_0"]),
        (["heads.0.q", "heads.1.q"], ["heads.0.q", "heads.1.q"]),
        (["attention.dense", "ffn", "ffn_output"], ["dense", "ffn", "ffn_output"]),
        (["dense"], ["dense"]),
    ],
)
def test_the_shortest_suffix_that_tells_paths_apart(paths: list[str], expected: list[str]):
    assert headings(paths) == expected


segment = st.sampled_from(["a", "b", "0", "1", "dense"])


@given(st.lists(st.lists(segment, min_size=1, max_size=4).map(".".join), unique=True, min_size=1, max_size=8))
def test_headings_are_distinct_suffixes(paths: list[str]):
    found = headings(paths)
    assert len(set(found)) == len(paths)
    for path, heading in zip(paths, found, strict=True):
        assert path == heading or path.endswith("." + heading)


@pytest.mark.parametrize(
    ("heading", "separators", "lines"),
    [
        ("attention.output.dense", ".", ["attention", ".output", ".dense"]),
        ("query_proj", "._", ["query", "_proj"]),
        ("query_proj", ".", ["query_proj"]),
        ("query_proj", "", ["query_proj"]),
        ("_x__y_", "._", ["_x", "__y", "_"]),
    ],
)
def test_stacked_headings_lose_no_character(heading: str, separators: str, lines: list[str]):
    assert stacked(heading, separators) == lines
    assert "".join(lines) == heading
