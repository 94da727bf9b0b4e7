"""Decoding: against a literal greedy loop and an exhaustive search, in batches as alone, folded as unfolded, with
nothing leaking in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import accelerate.utils
import pytest
import torch
import transformers as tf

from dora_cli.data import EncodedSources, PairLayout, encode_sources, pair_layout
from dora_cli.errors import DataError
from dora_cli.evaluation.decoding import check_positions, decode
from dora_cli.evaluation.settings import Decoding
from dora_cli.models import find_projections
from tests.methods.small import new_dora, sites
from tests.models.conftest import SMALL, small_tokenizer

EOS = 3  # of the small tokenizer, as in `SMALL_IDS`
SMALL_IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": EOS}
MODELS: dict[str, tuple[Any, Any, int | None]] = {
    "gpt2": (
        tf.GPT2LMHeadModel,
        tf.GPT2Config(n_embd=16, n_layer=1, n_head=4, n_positions=64, vocab_size=50, initializer_range=0.4,
        **SMALL_IDS),
        None,
    ),
    "llama": (
        tf.LlamaForCausalLM,
        tf.LlamaConfig(num_key_value_heads=2, tie_word_embeddings=False, initializer_range=0.4,
        **SMALL_IDS, **SMALL | {"num_hidden_layers": 1}),
        None,
    ),
    "bart": (
        tf.BartForConditionalGeneration,
        tf.BartConfig(
            d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
            encoder_attention_heads=4,
            decoder_attention_heads=4, vocab_size=50, max_position_embeddings=64, init_std=0.4,
            decoder_start_token_id=EOS, **SMALL_IDS,
        ),
        EOS,
    ),
    "t5": (
        tf.T5ForConditionalGeneration,
        tf.T5Config(
            d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4, vocab_size=50, initializer_factor=3.0,
            tie_word_embeddings=False,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=EOS,
        ),
        0,
    ),
}  # fmt: skip
SOURCES = [
    "a b c",
    "k l m n o p q r s t u",
    "z",
    "word1 word2 word3 word4 word5",
    "b b b b b b b b",
    "x y",
    "word9 a word9 a word9 a",
    "h i j k",
]
ALONE: Any = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"), mixed_precision="no")


def make(name: str, seed: int = 0) -> Any:
    model_class, config, _ = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(config).double().eval()  # no ties by rounding, which differs between processors
    model.config.use_cache = False  # as loaded
    return model


def setting(name: str, sources: Sequence[str] = SOURCES, **special: str) -> tuple[Any, EncodedSources, PairLayout]:
    tokenizer = small_tokenizer(**({"pad_token": "<pad>"} | special))
    layout = pair_layout(tokenizer, decoder_start=MODELS[name][2])
    return tokenizer, encode_sources(sources, tokenizer, 40, layout), layout


def forbidden(generated: list[int], size: int) -> set[int]:
    begun = generated[len(generated) - size + 1 :]
    return {generated[i + size - 1] for i in range(len(generated) - size + 1) if generated[i : i + size - 1] == begun}


def next_log_probabilities(model: Any, layout: PairLayout, source: list[int], generated: list[int]) -> torch.Tensor:
    """One forward pass over everything there is: no cache, no padding, no mask."""
    ids = torch.tensor([source])
    if layout.encoder_decoder:
        logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[*layout.start, *generated]])).logits
    else:
        logits = model(input_ids=torch.tensor([source + generated])).logits
    return logits[0, -1].log_softmax(-1)


@torch.no_grad()
def greedy(model: Any, layout: PairLayout, source: list[int], settings: Decoding) -> list[int]:
    generated: list[int] = []
    while len(generated) < settings.max_new_tokens:
        scores = next_log_probabilities(model, layout, source, generated)
        if settings.no_repeat_ngram:
            scores[list(forbidden(generated, settings.no_repeat_ngram))] = -torch.inf
        token = int(scores.argmax())
        if token in layout.stops:
            break
        generated.append(token)
    return generated


def rows(encoded: EncodedSources) -> list[list[int]]:
    return [encoded.collate([i])["input_ids"][0].tolist() for i in range(len(encoded))]


@pytest.mark.parametrize("ngram", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_is_the_literal_loop(name: str, ngram: int) -> None:
    """Which knows no cache, padding or mask: so positions and masks of the padded batches are right."""
    model, (tokenizer, encoded, layout) = make(name), setting(name)
    settings = Decoding(beams=1, max_new_tokens=8, no_repeat_ngram=ngram, batch_size=3)
    expected = [
        tokenizer.decode(greedy(model, layout, source, settings), skip_special_tokens=True) for source in rows(encoded)
    ]
    assert len(set(expected)) > 4
    assert decode(model, tokenizer, encoded, layout, settings, accelerator=ALONE) == expected


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", MODELS)
def test_batches_are_decoded_as_one_by_one(name: str, beams: int) -> None:
    model, (tokenizer, encoded, layout) = make(name, seed=1), setting(name)
    outputs = [
        decode(
            model,
            tokenizer,
            encoded,
            layout,
            Decoding(beams=beams, max_new_tokens=8, batch_size=size),
            accelerator=ALONE,
        )
        for size in (3, 1)
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) > 4


@functools.cache
def one_and_two_tokens() -> list[tuple[torch.Tensor, dict[int, torch.Tensor]]]:
    """Log-probabilities of the first token of each source's output, and of the second after each first."""
    model, (_, encoded, layout) = make("gpt2", seed=2), setting("gpt2", SOURCES[:4])
    following, others = partial(next_log_probabilities, model, layout), set(range(model.config.vocab_size)) - {EOS}
    with torch.no_grad():
        return [(following(source, []), {t: following(source, [t]) for t in others}) for source in rows(encoded)]


@pytest.mark.parametrize("penalty", [-4.0, 0.0, 0.8, 4.0])
def test_a_beam_that_holds_everything_finds_the_best_of_all_hypotheses(penalty: float) -> None:
    """Score: the sum of log p over the generated tokens, the end token too, by their number to the power of the
    penalty.
    """
    model, (tokenizer, encoded, layout) = make("gpt2", seed=2), setting("gpt2", SOURCES[:4])
    vocabulary = model.config.vocab_size
    expected = []
    for first, second in one_and_two_tokens():
        pairs = {a: ((first[a] + following) / 2**penalty).tolist() for a, following in second.items()}
        scores = {(a, b): pairs[a][b] for a, b in product(pairs, range(vocabulary))} | {(EOS,): float(first[EOS])}
        best = max(scores, key=scores.__getitem__)
        expected.append(tokenizer.decode([t for t in best if t != EOS], skip_special_tokens=True))
    settings = Decoding(beams=vocabulary, length_penalty=penalty, max_new_tokens=2, no_repeat_ngram=0)
    assert decode(model, tokenizer, encoded, layout, settings, accelerator=ALONE) == expected
    # a strong penalty on length takes the empty output, which is the least of what the others find
    assert (set(expected) == {""}) == (penalty == -4.0)


def test_the_end_token_as_padding() -> None:
    """Masks are explicit: an end token that separates is read, one that pads is not."""
    model, (tokenizer, encoded, layout) = make("gpt2", seed=1), setting("gpt2", pad_token="</s>")
    assert layout.pad == layout.end == EOS
    batched, alone = (
        decode(
            model, tokenizer, encoded, layout, Decoding(beams=3, max_new_tokens=12, batch_size=size), accelerator=ALONE
        )
        for size in (8, 1)
    )
    assert batched == alone
    padded_otherwise = decode(
        model, *setting("gpt2"), Decoding(beams=3, max_new_tokens=12, batch_size=8), accelerator=ALONE
    )
    # there <pad> is a special token and not written; here it is a word
    assert [" ".join(text.replace("<pad>", "").split()) for text in batched] == padded_otherwise


@pytest.mark.parametrize("name", MODELS)
def test_folded_decodes_as_unfolded(name: str) -> None:
    model, (tokenizer, encoded, layout) = make(name, seed=1), setting(name)
    run = partial(decode, model, tokenizer, encoded, layout, Decoding(beams=3, max_new_tokens=12), accelerator=ALONE)
    plain = run()
    method = new_dora(rank=2)
    torch.manual_seed(0)
    method.attach(model, sites({p.name: p.module for p in find_projections(model)}))
    assert run() == plain  # the gates start at zero
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-0.2, 0.2)
    unfolded = run()
    with method.folded():
        folded = run()
    assert folded == unfolded
    assert sum(a != b for a, b in zip(unfolded, plain, strict=True)) > 4


@pytest.mark.parametrize("name", MODELS)
def test_the_checkpoint_s_own_generation_config_is_unheard(name: str) -> None:
    model, (tokenizer, encoded, layout) = make(name, seed=1), setting(name)
    settings = Decoding(beams=2, max_new_tokens=8, no_repeat_ngram=0)
    clean = decode(model, tokenizer, encoded, layout, settings, accelerator=ALONE)
    own = tf.GenerationConfig(
        num_beams=4, num_return_sequences=2, max_length=3, min_new_tokens=8, no_repeat_ngram_size=1,
        repetition_penalty=1.9,
        forced_bos_token_id=7, forced_eos_token_id=8, suppress_tokens=[9, 10, 11], bad_words_ids=[[12]],
        early_stopping=True,
        encoder_no_repeat_ngram_size=1, do_sample=True, temperature=3.0, use_cache=False, output_scores=True,
        return_dict_in_generate=True, pad_token_id=5, decoder_start_token_id=9,
    )  # fmt: skip
    model.generation_config = own
    before = own.to_dict()
    assert decode(model, tokenizer, encoded, layout, settings, accelerator=ALONE) == clean
    assert model.generation_config is own
    assert own.to_dict() == before


def test_the_model_is_left_as_it_was() -> None:
    model, (tokenizer, encoded, layout) = make("llama"), setting("llama")
    model.train()
    settings, calls = Decoding(beams=1, max_new_tokens=4, batch_size=3), []
    first = decode(
        model, tokenizer, encoded, layout, settings, accelerator=ALONE, progress=lambda *call: calls.append(call)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert all(module.training for module in model.modules())
    assert model.config.use_cache is False
    # and can still be trained through
    model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
    assert decode(model, tokenizer, encoded, layout, settings, accelerator=ALONE) == first


def test_processes_share_the_batches_and_all_return_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (tokenizer, encoded, layout) = make("gpt2"), setting("gpt2")
    settings = Decoding(beams=1, max_new_tokens=6, batch_size=2)
    alone = decode(model, tokenizer, encoded, layout, settings, accelerator=ALONE)
    shares: dict[int, Any] = {}

    def run(process: int, gather: Callable[[list[Any]], list[Any]]) -> list[str]:
        monkeypatch.setattr(accelerate.utils, "gather_object", gather)
        accelerator: Any = SimpleNamespace(**vars(ALONE) | {"process_index": process, "num_processes": 3})
        return decode(model, tokenizer, encoded, layout, settings, accelerator=accelerator)

    for process in range(3):

        def leave(share: list[Any], process: int = process) -> list[Any]:
            shares[process] = share
            return share

        with pytest.raises(KeyError):  # one share is not the whole
            run(process, leave)
    assert [sum(len(texts) for _, texts in shares[process]) for process in range(3)] == [4, 2, 2]
    assert run(1, lambda share: [*shares[0], *share, *shares[2]]) == alone


@pytest.mark.parametrize(("name", "prompt"), [("gpt2", 12), ("bart", 1)])
def test_too_few_positions(name: str, prompt: int) -> None:
    """The longest source is 11 tokens and a separator; the last token of an output takes no position."""
    model, (tokenizer, encoded, layout) = make(name), setting(name)
    most = 64 - prompt + 1
    check_positions(model, encoded, layout, Decoding(max_new_tokens=most))
    decode(
        model, tokenizer, encoded, layout, Decoding(beams=1, max_new_tokens=most, no_repeat_ngram=1), accelerator=ALONE
    )
    for refuse in (check_positions, partial(decode, accelerator=ALONE)):
        arguments = (model, encoded, layout) if refuse is check_positions else (model, tokenizer, encoded, layout)
        with pytest.raises(
            DataError,
            match=rf"decode\.max_new_tokens: {most + 1} is too many: the model has 64 .* at "
            rf"most {most}",
        ):
            refuse(*arguments, Decoding(beams=1, max_new_tokens=most + 1))


def test_computed_positions_end_where_the_model_says() -> None:
    """A Llama has no table of positions, but a length that it was made for; a T5 has neither."""
    (_, encoded, layout), (_, sources, family) = setting("llama"), setting("t5")
    room = make("llama").config.max_position_embeddings - int(encoded.lengths.max()) + 1
    check_positions(make("llama"), encoded, layout, Decoding(max_new_tokens=room))
    with pytest.raises(DataError, match=rf"^decode\.max_new_tokens: {room + 1} .* {room}\b"):
        check_positions(make("llama"), encoded, layout, Decoding(max_new_tokens=room + 1))
    check_positions(make("t5"), sources, family, Decoding(max_new_tokens=100_000))


# --- what becomes of the tokens ---------------------------------------------------------------------------------------


def byte_tokenizer(*merges: tuple[str, str]) -> Any:
    """Bytes, the given pairs of them, ``<mask>`` and the end token, as GPT-2 spells them (``Ċ`` is a line break, ``Ġ``
    a space).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = ["<end>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>", mask_token="<mask>"
    )


def chain(tokenizer: Any, successors: dict[str, str]) -> Any:
    """A GPT-2 that says after each token its successor: its blocks add nothing, and its head reads the last token off
    the embeddings.
    """
    size = len(tokenizer)
    sizes = {"n_embd": size, "n_layer": 1, "n_head": 1, "n_positions": 64, "vocab_size": size}
    model = tf.GPT2LMHeadModel(tf.GPT2Config(tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size))
        model.transformer.ln_f.weight.fill_(1.0)
        for token, successor in successors.items():
            model.lm_head.weight[tokenizer.convert_tokens_to_ids(successor), tokenizer.convert_tokens_to_ids(token)] = (
                1.0
            )
    return model


def said(tokenizer: Any, tokens: Sequence[str], source: str = "name[x]", **settings: Any) -> str:
    layout = pair_layout(tokenizer, decoder_start=None)
    model = chain(tokenizer, dict(zip(["<end>", *tokens], tokens, strict=False)))
    settings = {"beams": 1, "max_new_tokens": 20} | settings
    (text,) = decode(
        model,
        tokenizer,
        encode_sources([source], tokenizer, 40, layout),
        layout,
        Decoding(**settings),
        accelerator=ALONE,
    )
    return text


def test_an_output_is_one_line_of_generated_text() -> None:
    tokenizer = byte_tokenizer()
    assert said(tokenizer, ["Ġ", "a", "Ċ", "b", "<mask>", ",", "ĉ", "c", "<end>"]) == "a b, c"
    assert said(tokenizer, ["<end>"]) == ""


def test_spaces_before_punctuation_stay() -> None:
    """Whatever the tokenizer's own settings are: an output is what the model wrote."""
    tokenizer = byte_tokenizer()
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    assert tokenizer.decode(tokenizer("a .")["input_ids"]) == "a."
    assert said(tokenizer, ["a", "Ġ", ".", "<end>"]) == "a ."


def test_a_blank_line_ends_an_output() -> None:
    line = ("Ċ", "Ċ")
    one = byte_tokenizer(line)
    assert len(pair_layout(one, decoder_start=None).stops) == 2
    assert said(one, ["a", "b", "ĊĊ", "c", "<end>"]) == "ab"
    # one that is part of a longer token, too, which stops nothing
    longer = byte_tokenizer(line, ("ĊĊ", "x"))
    assert said(longer, ["a", "b", "ĊĊx", "c", "<end>"]) == "ab"
    assert said(longer, ["ĊĊx", "c", "<end>"]) == ""


def test_n_grams_of_the_prompt_are_free_and_those_of_the_output_are_not() -> None:
    tokenizer, loop = byte_tokenizer(), ["a", "b", "c", "a"]
    assert said(tokenizer, loop, "abcabc", max_new_tokens=9, no_repeat_ngram=0) == "abcabcabc"
    assert said(tokenizer, ["a", "b", "c", "d", "<end>"], "abcd" * 3, no_repeat_ngram=2) == "abcd"
    output = said(tokenizer, loop, "abcabc", max_new_tokens=9, no_repeat_ngram=4)
    assert output.startswith("abcabc")
    assert not output.startswith("abcabca")  # abca was there
