"""The shipped tiny decoder and sequence-to-sequence model: small, complete, described truly, and pretrained on what
their cards say.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

import dora_cli.models
from dora_cli.data.builtin import generate

BUILTIN = Path(dora_cli.models.__file__).parent / "builtin"
NAMES = ("tiny-decoder", "tiny-seq2seq")

# Records in notations and about things of the pretraining, made up for this test, and what they must be turned into.
KNOWN = {
    "name: Copper Bell | kind: gallery | city: Oslo": ("Copper Bell", "gallery", "Oslo"),
    "name=The Iron Swan;kind=novel;writer=Clara;pages=125": ("The Iron Swan", "novel", "Clara", "125"),
    "<name> Silver Wave <kind> ferry <colour> green <crew> 12": ("Silver Wave", "ferry", "green", "12"),
}


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(name):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BUILTIN / name)


@pytest.fixture(scope="module")
def model(name):
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    family = AutoModelForCausalLM if name == "tiny-decoder" else AutoModelForSeq2SeqLM
    model, report = family.from_pretrained(BUILTIN / name, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def test_it_is_under_two_megabytes_of_float32(name) -> None:
    from safetensors import safe_open

    assert sum(file.stat().st_size for file in (BUILTIN / name).iterdir()) < 2_000_000
    with safe_open(BUILTIN / name / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(key).dtype for key in weights.keys()} == {torch.float32}  # noqa: SIM118


def test_the_card_names_the_weights_that_are_there(name, model) -> None:
    card = (BUILTIN / name / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((BUILTIN / name / "model.safetensors").read_bytes()).hexdigest() in card
    assert f"{model.num_parameters():,} parameters" in card


def test_its_config_says_nothing_about_classes(name) -> None:
    config = json.loads((BUILTIN / name / "config.json").read_text(encoding="utf-8"))
    assert "id2label" not in config
    assert "num_labels" not in config


def test_its_tokens_fit_its_embeddings(tokenizer, model) -> None:
    assert tokenizer.is_fast
    assert sorted(tokenizer.get_vocab().values()) == list(range(model.config.vocab_size))
    assert tokenizer.model_max_length == model.config.max_position_embeddings
    assert tokenizer.pad_token_id == model.config.pad_token_id
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_special_tokens_stand_where_the_family_puts_them(name, tokenizer) -> None:
    around = tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"])
    assert around == ([] if name == "tiny-decoder" else ["<s>", "</s>"])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_generated_data_come_back_as_they_were_and_fit(split, tokenizer) -> None:
    sources, references = generate("e2e", split).texts
    for texts in (sorted(set(sources)), references):
        rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert tokenizer.batch_decode(rows) == texts
        assert max(map(len, rows)) <= 64  # so that an output of 64 tokens holds any reference


def test_any_text_can_be_spelt(tokenizer) -> None:
    text = 'Zürich\'s quixotic, 42-year-old jazz-vamp\nflukes: (why?) "B&B" costs £7.50 — or 100%! 北'
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def generated(name: str, model, tokenizer, source: str) -> str:
    """Greedy, in the layout of fine-tuning."""
    ids = tokenizer(source, return_tensors="pt")["input_ids"]
    if name == "tiny-decoder":
        ids = torch.cat((ids, torch.tensor([[tokenizer.eos_token_id]])), dim=1)
    given = (
        {}
        if name == "tiny-decoder"
        else {"decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id, tokenizer.bos_token_id]])}
    )
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, num_beams=1, max_new_tokens=60, **given
    )
    return tokenizer.decode(
        output[0, ids.shape[1] if name == "tiny-decoder" else 0 :], skip_special_tokens=True
    ).strip()


@pytest.mark.parametrize("source", KNOWN)
def test_pretraining_taught_it_to_put_records_into_sentences(source, name, model, tokenizer) -> None:
    text = generated(name, model, tokenizer, source)
    assert re.fullmatch(r"[A-Z].*\.", text)
    assert all(value in text for value in KNOWN[source]), text


def test_untuned_it_does_not_know_the_demonstration(name, model, tokenizer) -> None:
    """A tuned model's BLEU is above 0.6 on this test set; the whole comparison is a test of the
    demonstration's recipe.
    """
    from dora_cli.metrics.e2e.measures import bleu

    groups: dict[str, list[str]] = {}
    for source, reference in zip(*generate("e2e", "test").texts, strict=True):
        groups.setdefault(source, []).append(reference)
    some = list(groups)[:10]
    outputs = [generated(name, model, tokenizer, source) for source in some]
    assert bleu(outputs, [groups[source] for source in some])["bleu"] < 0.3


def test_the_demonstration_is_not_in_the_pretraining_text() -> None:
    """The shift that the cards state, on a sample of what was read."""
    import sys

    scripts = Path(__file__).parents[2] / "scripts"
    sys.path.insert(0, str(scripts))
    try:
        from pretraining_pairs import pairs
    finally:
        sys.path.remove(str(scripts))
    readings = pairs(1, 20_000)
    texts = {text for _, text in readings}
    records = [source for source, _ in readings if source]
    assert 0.7 < len(records) / len(readings) < 0.8
    # No record in the demonstration's notation, none with one of its attributes but the name.
    assert not any(re.search(r"\w\[[^][]*\]", record) for record in records)
    keys = ("stayType", "priceRange", "rating", "area", "view", "breakfast", "petFriendly", "near")
    assert not any(re.search(rf"(?:^|[^\w ]\s*)(?:{'|'.join(keys)})\s?[:=<>(){{}}-]", record) for record in records)
    for split in ("train", "validation", "test"):
        assert texts.isdisjoint(generate("e2e", split).texts[1])
    # The words of the demonstration are known, though, but for one.
    words = {word for source, text in readings for word in re.findall(r"\w+", f"{source} {text}".lower())}
    needed = {
        word
        for column in generate("e2e", "train").texts
        for text in column
        for word in re.findall(r"[a-z]+", text.lower())
    }
    assert needed - words == {"allow"}
