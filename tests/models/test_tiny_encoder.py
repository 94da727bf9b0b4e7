"""The shipped tiny encoder: small, complete, described truly, and pretrained on what its card says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import dora_cli.models
from dora_cli.data.builtin import builtin_tasks, films, generate
from dora_cli.tasks import get_task

FOLDER = Path(dora_cli.models.__file__).parent / "builtin" / "tiny-encoder"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    from transformers import RobertaForMaskedLM

    return RobertaForMaskedLM.from_pretrained(FOLDER).eval()


def test_it_is_under_two_megabytes_of_float32() -> None:
    from safetensors import safe_open

    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2_000_000
    with safe_open(FOLDER / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float32}  # noqa: SIM118


def test_the_card_names_the_weights_that_are_there() -> None:
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert digest in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_its_config_says_nothing_about_classes() -> None:
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert "id2label" not in config
    assert "num_labels" not in config


def test_its_tokens_fit_its_embeddings(tokenizer, model) -> None:
    assert tokenizer.is_fast
    assert len(tokenizer) == model.config.vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(model.config.vocab_size))
    # RoBERTa's positions start after the padding id, so two rows of the table are never reached.
    assert model.config.max_position_embeddings == tokenizer.model_max_length + 2
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]


def test_pairs_are_written_as_roberta_expects(tokenizer) -> None:
    ids = tokenizer("the film is good .", "it is not .")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<s>",
        "the",
        "film",
        "is",
        "good",
        ".",
        "</s>",
        "</s>",
        "it",
        "is",
        "not",
        ".",
        "</s>",
    ]


def test_any_english_text_can_be_spelt(tokenizer) -> None:
    text = 'Zürich\'s quixotic, 42-year-old jazz-vamp flukes: (why?) "B&B" costs $7.50 - or 100%!'
    assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


@pytest.mark.parametrize("name", [name for name in builtin_tasks() if not get_task(name).decodes])
def test_generated_data_need_no_unknown_token(name: str, tokenizer) -> None:
    for column in generate(name, "train").texts:
        assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(column)["input_ids"])


def test_the_new_adjectives_of_the_demonstration_are_not_in_its_vocabulary(tokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    assert {word for word in films.GOOD + films.BAD if word not in vocabulary} == {
        "gripping",
        "touching",
        "lifeless",
        "predictable",
    }


@pytest.mark.parametrize(
    ("text", "likelier", "less_likely"),
    [
        ("the lamp is superb . i <mask> it .", ("love", "like"), ("hate", "regret")),
        ("the lamp is awful . i <mask> it .", ("hate", "regret"), ("love", "like")),
        ("the camera is not <mask> . i sent it back .", ("good", "nice", "great"), ("bad", "poor", "awful")),
        ("the camera is not <mask> . i use it every day .", ("bad", "poor", "awful"), ("good", "nice", "great")),
    ],
)
def test_pretraining_taught_it_polarity_and_negation(text, likelier, less_likely, tokenizer, model) -> None:
    encoded = tokenizer(text, return_tensors="pt")
    place = (encoded["input_ids"][0] == tokenizer.mask_token_id).nonzero().item()
    with torch.no_grad():
        probability = model(**encoded).logits[0, place].softmax(-1)

    def mass(words: tuple[str, ...]) -> float:
        return sum(probability[tokenizer.convert_tokens_to_ids(word)].item() for word in words)

    assert mass(likelier) > 2 * mass(less_likely)
