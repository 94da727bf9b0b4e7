"""A written recipe reads back as the same recipe, here and in a plain YAML 1.1 reader."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dora_cli.recipe import dump_recipe, parse_recipe
from dora_cli.recipe.fields import MAX_COUNT, MAX_NUMBER, MAX_SEED, MIN_POSITIVE
from dora_cli.recipe.schema import Recipe

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(str.strip)
tricky = st.sampled_from(
    [
        "yes",
        "null",
        "~",
        "2e-3",
        "1:30",
        "0x1",
        "010",
        "-",
        "<<",
        "=",
        "- a",
        "a: b",
        "#a",
        "2024-01-01",
        "é\u2028",
        " a ",
        "*.q",
        "'",
        "0\x85",
    ]
)
names = tricky | text
count = st.integers(1, MAX_COUNT)
positive = st.floats(MIN_POSITIVE, MAX_NUMBER)
fraction = st.floats(0, 1, exclude_max=True)


@st.composite
def recipes(draw):
    rank = draw(st.integers(1, 1000))
    warmup = draw(st.floats(0, 0.49))
    dora = {
        "name": "dora",
        "rank": rank,
        "start_rank": draw(st.none() | st.integers(rank, 2000)),
        "alpha": draw(positive),
        "dropout": draw(fraction),
        "targets": draw(st.lists(names, min_size=1, max_size=3, unique=True)),
        "warmup_fraction": warmup,
        "final_fraction": draw(st.floats(0, 0.5)),
        "curve": draw(st.sampled_from(["published", "adalora"])),
        "compact": draw(st.booleans()),
    }
    files = {
        "source": "files",
        "path": draw(names),
        "columns": draw(st.none() | st.dictionaries(names, names, min_size=1, max_size=3)),
        "labels": draw(st.none() | st.lists(names, min_size=2, max_size=4, unique=True)),
        "max_train_samples": draw(st.none() | count),
    }
    return Recipe.model_validate(
        {
            "task": draw(names),
            "model": {"name": draw(names), "revision": draw(st.none() | names)},
            "data": draw(st.sampled_from([files, {}, {"source": "builtin"}])),
            "method": draw(st.sampled_from([dora, {"name": "head"}])),
            "train": {
                "learning_rate": draw(positive),
                "adam_betas": [draw(fraction), draw(fraction)],
                "seed": draw(st.integers(0, MAX_SEED)),
                "batch_size": draw(count),
                "device": draw(st.sampled_from(["auto", "cpu", "cuda", "cuda:3"])),
            },
        }
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(recipes())
def test_round_trip(recipe):
    written = dump_recipe(recipe)
    assert parse_recipe(written) == recipe
    assert Recipe.model_validate(yaml.safe_load(written)) == recipe
    assert dump_recipe(parse_recipe(written)) == written


def test_it_is_readable_and_complete():
    written = dump_recipe(parse_recipe("task: glue/rte\nmodel: {name: m}\nmethod: {targets: ['*.query']}"))
    lines = written.splitlines()
    assert lines[:5] == ["task: glue/rte", "model:", "  name: m", "  revision: null", "  dtype: float32"]
    assert "  learning_rate: 0.002" in lines
    assert "  adam_eps: 1.0e-08" in lines
    assert "  adam_betas: [0.9, 0.999]" in lines
    assert "  targets: ['*.query']" in lines
    assert set(yaml.safe_load(written)) == set(Recipe.model_fields) - {"decode", "federated"}, (
        "a section that is not there is not written"
    )
    both = "task: e2e\nmodel: {name: m}\ndecode: {beams: 2}\nfederated: {rounds: 2}\nmethod: {name: lora}"
    written = dump_recipe(parse_recipe(both))
    assert set(yaml.safe_load(written)) == set(Recipe.model_fields)
    assert dump_recipe(parse_recipe(written)) == written


@pytest.mark.parametrize("text", ["yes", "2e-3", "1e5", "0o7", "012", "null", "1:30"])
def test_text_that_looks_like_something_else_is_quoted(text):
    recipe = parse_recipe(f"task: t\nmodel: {{name: m, revision: '{text}'}}")
    assert f"revision: '{text}'" in dump_recipe(recipe)
