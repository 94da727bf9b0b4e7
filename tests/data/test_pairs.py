"""Sources and targets, token by token, against what the four kinds of tokenizers give one text at a time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dora_cli.data import (
    EncodedPairs,
    Examples,
    Group,
    PairLayout,
    encode_pairs,
    encode_sources,
    pair_layout,
    plan_epoch,
)
from dora_cli.data.pairs import IGNORED
from dora_cli.errors import DataError
from dora_cli.tasks import get_task
from tests.data import subwords

SOURCES = [
    "name[Blue Spice], eatType[coffee shop], area[city centre]",
    "name[The Vaults], eatType[pub], priceRange[more than £30], near[Café Adriatic]",
    "name[A]",
    "name[Blue Spice], eatType[coffee shop], area[city centre]",
]
TARGETS = [
    "A coffee shop in the city centre area called Blue Spice.",
    "The Vaults is near Café Adriatic.\r\n  Cheap",
    "A pub, A.",
    "Blue Spice is a coffee shop.",
]
EXAMPLES = Examples((SOURCES, TARGETS), None)


def plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


class Row(NamedTuple):
    """One example, made literally: what the encoder reads (None: there is none), what the decoder reads, the labels."""

    encoder: list[int] | None
    decoder: list[int]
    labels: list[int]


def gpt2(source: str, target: str) -> Row:
    prompt = [*plain(subwords.gpt2(), source), 0]
    tokens = [*prompt, *plain(subwords.gpt2(), " " + target), 0]
    return Row(None, tokens[:-1], [IGNORED] * (len(prompt) - 1) + tokens[len(prompt) :])


def llama(source: str, target: str) -> Row:
    prompt = [1, *plain(subwords.llama(), source), 2]
    tokens = [*prompt, *plain(subwords.llama(), target), 2]
    return Row(None, tokens[:-1], [IGNORED] * (len(prompt) - 1) + tokens[len(prompt) :])


def bart(source: str, target: str) -> Row:
    whole = [2, 0, *plain(subwords.bart(), target), 2]
    return Row([0, *plain(subwords.bart(), source), 2], whole[:-1], [IGNORED, *whole[2:]])


def t5(source: str, target: str) -> Row:
    whole = [0, *plain(subwords.t5(), target), 1]
    return Row([*plain(subwords.t5(), source), 1], whole[:-1], whole[1:])


class Kind(NamedTuple):
    tokenizer: Callable[[], Any]
    row: Callable[[str, str], Row]
    decoder_start: int | None = None

    def encode(self, examples: Examples = EXAMPLES, max_length: int = 256) -> EncodedPairs:
        return encode_pairs(examples, self.tokenizer(), max_length, self.layout)

    @property
    def layout(self) -> PairLayout:
        return pair_layout(self.tokenizer(), decoder_start=self.decoder_start)


GPT2, LLAMA = Kind(subwords.gpt2, gpt2), Kind(subwords.llama, llama)
BART, T5 = Kind(subwords.bart, bart, 2), Kind(subwords.t5, t5, 0)
KINDS = {"gpt2": GPT2, "llama": LLAMA, "bart": BART, "t5": T5}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
decoders = pytest.mark.parametrize("kind", [GPT2, LLAMA], ids=["gpt2", "llama"])
encoder_decoders = pytest.mark.parametrize("kind", [BART, T5], ids=["bart", "t5"])


def right(row: list[int], fill: int, width: int) -> list[int]:
    return row + [fill] * (width - len(row))


def up(rows: list[list[int]]) -> int:
    """Width of the longest row, rounded up to a multiple of 8."""
    return -(-max(map(len, rows)) // 8) * 8


@every_kind
def test_a_batch_token_by_token(kind: Kind) -> None:
    order = [2, 0, 1, 3]
    split = kind.encode()
    batch = split.collate(order)
    rows = [kind.row(SOURCES[i], TARGETS[i]) for i in order]
    pad = kind.tokenizer().pad_token_id
    width = up([row.decoder for row in rows])
    expected = {"labels": [right(row.labels, IGNORED, width) for row in rows]}
    decoder = [right(row.decoder, pad, width) for row in rows]
    encoders = [row.encoder for row in rows if row.encoder is not None]
    if encoders:
        expected["decoder_input_ids"] = decoder
        expected["input_ids"] = [right(row, pad, up(encoders)) for row in encoders]
        expected["attention_mask"] = [right([1] * len(row), 0, up(encoders)) for row in encoders]
    else:
        expected["input_ids"] = decoder
        expected["attention_mask"] = [right([1] * len(row.decoder), 0, width) for row in rows]
    assert {name: tensor.tolist() for name, tensor in batch.items()} == expected
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@every_kind
def test_units_are_the_labels_that_count(kind: Kind) -> None:
    split = kind.encode()
    rows = [kind.row(*texts) for texts in zip(SOURCES, TARGETS, strict=True)]
    assert len(split) == 4
    assert split.cut == 0
    assert split.labels is None  # the targets stand in their place
    assert split.units.dtype == split.lengths.dtype == np.int64
    assert split.units.tolist() == [sum(label != IGNORED for label in row.labels) for row in rows]
    assert split.units.tolist() == (split.collate(range(4))["labels"] != IGNORED).sum(1).tolist()
    # The last label of every target is the end token; within a target it does not occur.
    for i in range(4):
        labels = split.collate([i], pad_multiple=1)["labels"][0]
        assert (labels == kind.layout.end).nonzero().flatten().tolist() == [len(labels) - 1]
    # Source and target, each with its special tokens, but for what only starts a decoder.
    if kind.decoder_start is None:
        assert split.lengths.tolist() == [len(row.decoder) + 1 for row in rows]
    else:
        assert split.lengths.tolist() == [
            len(row.encoder or []) + units for row, units in zip(rows, split.units, strict=True)
        ]


@pytest.mark.parametrize("kind", [GPT2, LLAMA, BART], ids=["gpt2", "llama", "bart"])
def test_texts_that_spell_special_tokens_stay_text(kind: Kind) -> None:
    """But for T5's, whose special tokens are pieces of its vocabulary like all others."""
    tokenizer = kind.tokenizer()
    spelled = tokenizer.eos_token
    split = kind.encode(Examples(([f"name[{spelled}]"], [f"a {spelled} b"]), None))
    labels = split.collate([0], pad_multiple=1)["labels"][0].tolist()
    assert labels.count(kind.layout.end) == 1
    sources = split.collate([0], pad_multiple=1)["input_ids"][0].tolist()
    assert sources.count(kind.layout.end) == 1


@every_kind
def test_a_long_target_is_cut_and_counted(kind: Kind) -> None:
    whole = kind.row(SOURCES[0], TARGETS[0])
    exact = len(whole.decoder) + (1 if kind.decoder_start is None else 0)
    texts = Examples(([SOURCES[0], SOURCES[2]], [TARGETS[0], TARGETS[2]]), None)
    if kind.decoder_start is not None:
        texts = Examples(([SOURCES[2]] * 2, texts.texts[1]), None)
    assert kind.encode(texts, exact).cut == 0
    split = kind.encode(texts, exact - 3)
    assert split.cut == 1
    batch = split.collate([0, 1])
    assert batch["labels"].shape[1] <= exact - 3
    kept = [label for label in batch["labels"][0].tolist() if label != IGNORED]
    # Three tokens less, the end token among them: what is cut off does not end.
    assert kept == [label for label in whole.labels if label != IGNORED][:-3]
    assert split.units.tolist() == [
        len(kept),
        len([x for x in kind.row(SOURCES[2], TARGETS[2]).labels if x != IGNORED]),
    ]
    if kind.decoder_start is None:
        assert batch["input_ids"][0, : len(whole.decoder) - 3].tolist() == whole.decoder[:-3]


@decoders
def test_widths_are_rounded_but_never_above_max_length(kind: Kind) -> None:
    length = len(kind.row(SOURCES[2], TARGETS[2]).decoder)
    texts = Examples(([SOURCES[2]], [TARGETS[2]]), None)
    assert kind.encode(texts, 256).collate([0], pad_multiple=64)["labels"].shape == (1, 64)
    assert kind.encode(texts, length + 2).collate([0], pad_multiple=64)["labels"].shape == (1, length + 2)
    assert kind.encode(texts, 256).collate([0], pad_multiple=1)["labels"].shape == (1, length)


@encoder_decoders
def test_widths_of_source_and_target_are_bound_apart(kind: Kind) -> None:
    row = kind.row(SOURCES[0], TARGETS[2])
    assert row.encoder is not None
    split = kind.encode(Examples(([SOURCES[0]], [TARGETS[2]]), None), len(row.encoder))
    batch = split.collate([0], pad_multiple=64)
    assert batch["input_ids"].tolist() == [row.encoder]
    assert batch["decoder_input_ids"].shape == (1, len(row.encoder))
    assert split.collate([0], pad_multiple=1)["decoder_input_ids"].tolist() == [row.decoder]


def prompt(kind: Kind, source: str) -> list[int]:
    """What stands before the first token with a label."""
    row = kind.row(source, "x")
    return row.decoder[: row.labels.count(IGNORED) + 1]


@decoders
def test_a_source_without_room_for_a_target_is_an_error(kind: Kind) -> None:
    need = len(prompt(kind, SOURCES[1])) + 1
    texts = Examples(([SOURCES[2], SOURCES[1], SOURCES[1] * 2], TARGETS[:3]), None)
    longest = len(prompt(kind, SOURCES[1] * 2)) + 1
    with pytest.raises(DataError) as caught:
        kind.encode(texts, need - 1)
    assert (
        f"example 2 ({SOURCES[1][:60] + '...'!r}): its source and one token of its reference need {need} tokens"
    ) in str(caught.value)
    assert f"data.max_length is {need - 1}; raise it to at least {longest}" in str(caught.value)
    # One token of the target is kept, and it is not the end.
    split = kind.encode(Examples((SOURCES[:2], TARGETS[:2]), None), need)
    assert split.units[1] == 1
    assert (
        split.collate([1])["labels"][0, need - 2]
        == kind.row(SOURCES[1], TARGETS[1]).labels[need - 2]
        != kind.layout.end
    )
    with pytest.raises(DataError, match=r"example 1 \('name"):
        encode_sources([SOURCES[1]], kind.tokenizer(), need - 1, kind.layout)


@encoder_decoders
def test_a_source_above_max_length_is_an_error(kind: Kind) -> None:
    need = len(kind.row(SOURCES[1], "").encoder or [])
    with pytest.raises(
        DataError,
        match=rf"example 2 .*: its source needs {need} tokens, but data\.max_length is "
        rf"{need - 1}; raise it",
    ):
        kind.encode(max_length=need - 1)
    assert len(kind.encode(max_length=need)) == 4


def test_max_length_above_the_models_limit_is_an_error_only_where_it_matters() -> None:
    texts = Examples((SOURCES[:1], TARGETS[:1]), None)
    read = len(gpt2(SOURCES[0], TARGETS[0]).decoder)
    layout = pair_layout(subwords.gpt2(), decoder_start=None)
    assert len(encode_pairs(texts, subwords.gpt2(read), 512, layout)) == 1
    with pytest.raises(
        DataError,
        match=rf"data\.max_length: 512 is above {read - 1}, .*\b{read} tokens",
    ):
        encode_pairs(texts, subwords.gpt2(read - 1), 512, layout)
    with pytest.raises(DataError, match=r"data\.max_length: 512 is above 4"):
        encode_sources(SOURCES, subwords.gpt2(4), 512, layout)


@decoders
def test_sources_to_decode_are_the_prompts_of_training_padded_on_the_left(kind: Kind) -> None:
    sources = encode_sources(SOURCES[:3], kind.tokenizer(), 256, kind.layout)
    prompts = [prompt(kind, source) for source in SOURCES[:3]]
    assert len(sources) == 3
    assert sources.lengths.tolist() == [len(prompt) for prompt in prompts]
    batch = sources.collate([2, 0])
    width = len(prompts[0])
    pad = kind.tokenizer().pad_token_id
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["input_ids"].tolist() == [[pad] * (width - len(prompts[2])) + prompts[2], prompts[0]]
    assert batch["attention_mask"].tolist() == [[0] * (width - len(prompts[2])) + [1] * len(prompts[2]), [1] * width]
    assert sources.collate([2], pad_multiple=8)["input_ids"].shape[1] % 8 == 0
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@encoder_decoders
def test_sources_of_an_encoder_are_padded_on_the_right(kind: Kind) -> None:
    batch = encode_sources(SOURCES[:3], kind.tokenizer(), 256, kind.layout).collate([2, 0])
    short, long = (kind.row(SOURCES[i], "").encoder or [] for i in (2, 0))
    pad = kind.tokenizer().pad_token_id
    assert batch["input_ids"].tolist() == [right(short, pad, len(long)), long]
    assert batch["attention_mask"].tolist() == [right([1] * len(short), 0, len(long)), [1] * len(long)]
    assert batch["decoder_input_ids"].tolist() == [list(kind.layout.start)] * 2
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def many(count: int) -> Examples:
    """Examples of very different lengths."""
    draw = np.random.default_rng(0)
    words = np.array(["A", "coffee", "shop", "called", "Blue", "Spice", "near", "the", "city", "centre", "pub"])

    def text(most: int) -> str:
        return " ".join(words[draw.integers(0, len(words), draw.integers(1, most))])

    return Examples(([f"name[{text(4)}]" for _ in range(count)], [text(30) for _ in range(count)]), None)


@every_kind
def test_batches_agree_with_rows_made_one_by_one(kind: Kind) -> None:
    examples = many(60)
    split = kind.encode(examples)
    rows = [kind.row(*texts) for texts in zip(*examples.texts, strict=True)]
    for start in range(0, 60, 7):
        chosen = list(range(start, min(start + 7, 60)))
        batch = split.collate(chosen)
        read = batch["input_ids" if kind.decoder_start is None else "decoder_input_ids"]
        for i, ids, labels in zip(chosen, read.tolist(), batch["labels"].tolist(), strict=True):
            length = len(rows[i].decoder)
            assert ids[:length] == rows[i].decoder
            assert labels[:length] == rows[i].labels
            assert set(ids[length:]) <= {kind.layout.pad}
            assert set(labels[length:]) <= {IGNORED}


@every_kind
def test_accumulation_with_unequal_token_counts_equals_the_large_batch(kind: Kind) -> None:
    """The gradient of the summed loss over the step's units, however a step is made up; a mean of means
    is another one.
    """
    task, split = get_task("e2e"), kind.encode(many(22))
    size = len(kind.tokenizer())
    weight = torch.randn(size, size, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def loss(indices: np.ndarray) -> tuple[torch.Tensor, int]:
        """Summed over the target tokens, of a model that predicts each token from the one before; and how many they
        are.
        """
        batch = split.collate(indices)
        logits = weight[batch["input_ids" if kind.decoder_start is None else "decoder_input_ids"]]
        losses = task.losses(SimpleNamespace(logits=logits), batch, label_smoothing=0.1)
        return losses.sum(), int((batch["labels"] != IGNORED).sum())

    def step(micro: int, accumulation: int, processes: int) -> list[Group]:
        """The first step of the epoch, as each process sees it."""
        cut = {"micro_batch": micro, "accumulation": accumulation, "processes": processes}
        return [
            next(plan_epoch(split.lengths, split.units, seed=1, epoch=0, rank=rank, **cut)) for rank in range(processes)
        ]

    def gradient(of: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(of, weight)[0]

    (whole,) = step(8, 1, 1)
    (everything,) = whole.micro_batches
    total, tokens = loss(everything)
    assert len(everything) == 8
    for made_up in [(8, 1, 1), (2, 4, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1)]:
        groups = step(*made_up)
        assert [group.units for group in groups] == [tokens] * len(groups)
        parts = [loss(indices)[0] / group.units for group in groups for indices in group.micro_batches]
        torch.testing.assert_close(
            gradient(torch.stack(parts).sum()), gradient(loss(everything)[0] / tokens), rtol=1e-4, atol=1e-7
        )
    means = [part / count for group in step(2, 4, 1) for part, count in map(loss, group.micro_batches)]
    assert (gradient(torch.stack(means).mean()) - gradient(total / tokens)).abs().max() > 1e-3
