"""Whether a model can do a task is said without a network, where it can be known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import transformers as tf

from dora_cli.errors import ModelError
from dora_cli.models import ClassifierHead, GeneratorHead, Head
from tests.models.conftest import SMALL

CLASSES, TEXTS = ClassifierHead(2), GeneratorHead()


@pytest.fixture(autouse=True)
def _nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("builtin:tiny-encoder", CLASSES, "encoder"),
        ("builtin:tiny-decoder", CLASSES, "decoder"),
        ("builtin:tiny-decoder", TEXTS, "decoder"),
        ("builtin:tiny-seq2seq", TEXTS, "encoder-decoder"),
        ("FacebookAI/roberta-base", CLASSES, "encoder"),  # not here, but a known example
        ("openai-community/gpt2", TEXTS, "decoder"),
        ("nobody/nothing", TEXTS, None),
    ],
)
def test_what_can_be_done(name: str, head: Head, kind: str | None) -> None:
    assert head.kind_of(name) == kind


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("builtin:tiny-encoder", "encoder"),
        ("FacebookAI/roberta-base", "encoder"),
        ("builtin:tinny", "builtin:tinny"),
        ("no/such/folder", "no/such/folder"),
        (" ", "is empty"),
    ],
)
def test_what_cannot(name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        TEXTS.kind_of(name)


def test_a_folder(save: Callable[..., Path]) -> None:
    folder = save(tf.BertForMaskedLM, tf.BertConfig(**SMALL))
    assert CLASSES.kind_of(str(folder)) == "encoder"
    with pytest.raises(ModelError, match="'bert', which does not generate"):
        TEXTS.kind_of(str(folder))


def test_a_model_in_the_cache(tmp_path: Path) -> None:
    """By the layout in which the hub's library keeps files."""
    commit = "0" * 40
    snapshot = tmp_path / "cache" / "models--someone--something" / "snapshots" / commit
    tf.BertConfig(**SMALL).save_pretrained(snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    assert CLASSES.kind_of("someone/something") == "encoder"
    with pytest.raises(ModelError, match=r"'someone/something' .*'bert'"):
        TEXTS.kind_of("someone/something")
