"""Token ids are those of the `tokenizers` library, whose files come with the models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dora_cli.data import tokens
from dora_cli.errors import DataError
from dora_cli.models.source import builtin_names, find_source
from tests.data import subwords
from tests.data.words import word_tokenizer

MANY = [text + ending for ending in ("", " </s> <|endoftext|>", " twice" * 40) for text in subwords.TEXTS]


def rows(found: Any) -> list[list[int]]:
    return [
        row.tolist()
        for row in (found.values[start:end] for start, end in zip(found.offsets, found.offsets[1:], strict=False))
    ]


def builtin(name: str) -> Callable[[], PreTrainedTokenizerFast]:
    """What makes the tokenizer of a built-in model."""

    def load() -> PreTrainedTokenizerFast:
        return AutoTokenizer.from_pretrained(find_source(name).location)

    return load


SETTINGS: list[dict[str, Any]] = [
    {"truncation": True, "max_length": 24},
    {"truncation": "longest_first", "max_length": 24},
    {"add_special_tokens": False},
]


def of_the_library(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[Sequence[str]], settings: dict[str, Any]
) -> dict[str, list[list[int]]]:
    """What the `tokenizers` library makes of the texts with the same file and settings, without transformers."""
    library = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    library.encode_special_tokens = True  # a text that spells a special token is text
    library.no_padding()
    library.no_truncation()
    if "max_length" in settings:
        library.enable_truncation(settings["max_length"], strategy="longest_first")
    inputs = list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))
    found = library.encode_batch(inputs, add_special_tokens=settings.get("add_special_tokens", True))
    return {"input_ids": [row.ids for row in found], "token_type_ids": [row.type_ids for row in found]}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize(
    "make", [subwords.gpt2, subwords.llama, subwords.bart, subwords.t5, word_tokenizer, *map(builtin, builtin_names())]
)
def test_ids_are_those_of_the_tokenizers_library(
    make: Callable[[], PreTrainedTokenizerFast], pair: bool, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CHUNK", 25)
    assert len(MANY) > 2 * 25
    tokenizer = make()
    texts = [MANY, MANY[::-1]] if pair else [MANY]
    expected = of_the_library(tokenizer, texts, settings)
    found = tokens.tokenise(tokenizer, *texts, names=tuple(expected), **settings)
    for name in expected:
        assert rows(found[name]) == expected[name]


class Shouting(PreTrainedTokenizerFast):
    def __call__(self, *texts: Any, **settings: Any) -> Any:
        return super().__call__(*([text.upper() for text in column] for column in texts), **settings)


def test_a_tokenizer_with_a_call_of_its_own_is_asked_itself() -> None:
    plain = subwords.gpt2()
    own = Shouting(tokenizer_object=plain.backend_tokenizer, pad_token="<|endoftext|>")
    found = rows(tokens.tokenise(own, MANY)["input_ids"])
    assert found == own(MANY, split_special_tokens=True)["input_ids"]
    assert found != plain(MANY, split_special_tokens=True)["input_ids"]


def test_no_texts_give_no_rows() -> None:
    assert rows(tokens.tokenise(subwords.bart(), [])["input_ids"]) == []


def test_a_limit_of_the_model_is_an_error_where_an_example_is_longer() -> None:
    tokenizer = word_tokenizer(model_max_length=6)
    assert tokens.check_model_limit(6, 64, tokenizer) == 6
    says = (
        r"^data\.max_length: 64 is above 6, the longest input of the model, and the data has an example of 7 tokens; "
        r"lower it to 6$"
    )
    with pytest.raises(DataError, match=says):
        tokens.check_model_limit(7, 64, tokenizer)
