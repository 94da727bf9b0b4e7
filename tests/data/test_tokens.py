"""Token ids are the tokenizer's own, whichever way they are made."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dora_cli.data import tokens
from tests.data import subwords
from tests.data.words import word_tokenizer

MANY = [text + ending for ending in ("", " </s> <|endoftext|>", " twice" * 40) for text in subwords.TEXTS]


def rows(found: Any) -> list[list[int]]:
    return [
        row.tolist()
        for row in (found.values[start:end] for start, end in zip(found.offsets, found.offsets[1:], strict=False))
    ]


@pytest.mark.parametrize("make", [subwords.gpt2, subwords.llama, subwords.bart, subwords.t5, word_tokenizer])
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("settings", [{"truncation": True, "max_length": 24}, {"add_special_tokens": False}])
def test_ids_are_those_of_the_tokenizers_call(
    make: Any, pair: bool, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CHUNK", 25)
    assert len(MANY) > 2 * 25
    tokenizer: PreTrainedTokenizerBase = make()
    texts = [MANY, MANY[::-1]] if pair else [MANY]
    names = ("input_ids", "token_type_ids")
    expected = tokenizer(*texts, split_special_tokens=True, return_token_type_ids=True, **settings)
    calls = []
    call = PreTrainedTokenizerBase.__call__
    monkeypatch.setattr(
        PreTrainedTokenizerBase, "__call__", lambda self, *a, **k: calls.append(len(a[0])) or call(self, *a, **k)
    )
    found = tokens.tokenise(tokenizer, *texts, names=names, **settings)
    assert calls == [tokens._COMPARED], "the rest went straight to the library"
    for name in names:
        assert rows(found[name]) == expected[name]


class Shouting(PreTrainedTokenizerFast):
    def __call__(self, *texts: Any, **settings: Any) -> Any:
        return super().__call__(*([text.upper() for text in column] for column in texts), **settings)


class Late(PreTrainedTokenizerFast):
    """Changes what is rare: the texts that are compared need not show it."""

    def _convert_encoding(self, encoding: Any, *args: Any, **settings: Any) -> Any:
        found, encodings = super()._convert_encoding(encoding, *args, **settings)
        if len(found["input_ids"][0]) > 100:
            found["input_ids"][0][0] = 7
        return found, encodings


@pytest.mark.parametrize("kind", [Shouting, Late])
def test_a_tokenizer_that_changes_what_the_library_gives_is_asked_itself(kind: type[PreTrainedTokenizerFast]) -> None:
    plain = subwords.gpt2()
    own = kind(tokenizer_object=plain.backend_tokenizer, pad_token="<|endoftext|>")
    texts = ["short"] * 8 + MANY
    found = rows(tokens.tokenise(own, texts)["input_ids"])
    assert found == own(texts, split_special_tokens=True)["input_ids"]
    assert found != plain(texts, split_special_tokens=True)["input_ids"]


def test_no_texts_give_no_rows() -> None:
    assert rows(tokens.tokenise(subwords.bart(), [])["input_ids"]) == []
