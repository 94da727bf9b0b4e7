"""Pretrains ``builtin:tiny-decoder`` (a small Llama) and ``builtin:tiny-seq2seq`` (a small BART) on the readings of
`pretraining_pairs`.

Both share one byte-level BPE vocabulary. A record is read in the layout that fine-tuning uses: the decoder sees
``record </s> " " text </s>``, the sequence-to-sequence model gets the record in its encoder and starts its decoder with
``</s> <s>``, as BART does. The loss is on the text alone. Plain text is a text without a source for the decoder; the
other model restores it from a copy with spans hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pretraining_pairs import pairs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from dora_cli.data.builtin.draw import Draw

BOS, PAD, EOS, MASK = range(4)
SPECIAL = ("<s>", "<pad>", "</s>", "<mask>")  # the ids BartConfig expects
VOCABULARY = 1024
WIDTH, HEADS = 96, 4
SOURCE_LENGTH = TARGET_LENGTH = 128  # of the sequence-to-sequence model, each
DECODER_LENGTH = 256  # source and text together

TEXTS, HELD_OUT = 160_000, 2_000
BATCH = 128
IGNORED = -100  # the label of a position that does not count


def make_bpe(readings: list[tuple[str, str]]) -> Tokenizer:
    """Byte-level BPE: any text can be spelt, and decoding gives back what was encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )

    def parts() -> Iterator[str]:
        for source, text in readings:
            # Words as they stand inside a text and as its first word. Plain text counts more: it has the words of later
            # use.
            yield from (source, text, " " + text) if source else (text, " " + text) * 3

    tokenizer.train_from_iterator(parts(), trainer)
    return tokenizer


def wrap(bpe: Tokenizer, *, framed: bool) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers loads it; `framed` puts ``<s>`` before and ``</s>`` after every text,
    as BART's does.
    """
    bpe = Tokenizer.from_str(bpe.to_str())
    if framed:
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
        )
    names = {"eos_token": "</s>", "pad_token": "<pad>"}
    if framed:
        names |= {"bos_token": "<s>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        model_max_length=SOURCE_LENGTH if framed else DECODER_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        **names,
    )


def decoder_model(vocabulary: int) -> LlamaForCausalLM:
    """Four small blocks; embedding and output share their weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=DECODER_LENGTH,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=EOS,
            pad_token_id=PAD,
            initializer_range=0.05,  # larger than the default for a width this small
        )
    )


def seq2seq_model(vocabulary: int) -> BartForConditionalGeneration:
    """Two small blocks on each side; both embeddings and the output share their weights."""
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=vocabulary,
            d_model=WIDTH,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            encoder_ffn_dim=160,
            decoder_ffn_dim=160,
            max_position_embeddings=SOURCE_LENGTH,
            # A model this small underfits rather than overfits; an adapter's own dropout is set by its recipe.
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=EOS,
            forced_eos_token_id=None,
            init_std=0.05,
            tie_word_embeddings=True,
            num_labels=2,  # every config's default, so that the file says nothing about classes
        )
    )


@dataclass(frozen=True)
class Rows:
    """Encoded readings, padded to one width: model inputs by name, labels with `IGNORED` where nothing counts, lengths
    on the host.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    lengths: dict[str, list[int]]

    def batch(self, indices: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs and labels of some rows, as wide as the longest of them."""
        place = torch.tensor(indices, device=self.labels.device)
        width = {name: max(lengths[i] for i in indices) for name, lengths in self.lengths.items()}
        inputs = {name: values[place, : width[name]].long() for name, values in self.inputs.items()}
        # The labels belong to what the model predicts from: the decoder's input, where there is one.
        name = "decoder_input_ids" if "decoder_input_ids" in inputs else "input_ids"
        if "decoder_input_ids" in inputs:
            inputs["attention_mask"] = (inputs["input_ids"] != PAD).long()
        return inputs, self.labels[place, : width[name]].long()


def padded(rows: list[list[int]], filler: int, device: str) -> Tensor:
    """Token ids as one int16 (rows, longest) tensor, padded on the right."""
    longest = max(map(len, rows))
    return torch.tensor([row + [filler] * (longest - len(row)) for row in rows], dtype=torch.int16, device=device)


def decoder_rows(bpe: Tokenizer, readings: list[tuple[str, str]], device: str) -> Rows:
    """``record </s> " " text </s>``, predicted after the first ``</s>``; right padding needs no mask under causal
    attention.
    """
    sources = [encoding.ids for encoding in bpe.encode_batch([source for source, _ in readings])]
    texts = [encoding.ids for encoding in bpe.encode_batch([" " + text for _, text in readings])]
    rows, labels = [], []
    for source, text in zip(sources, texts, strict=True):
        rows.append([*source, EOS, *text][:DECODER_LENGTH])
        labels.append([*([IGNORED] * len(source)), *text, EOS][:DECODER_LENGTH])
    return Rows(
        {"input_ids": padded(rows, PAD, device)},
        padded(labels, IGNORED, device),
        {"input_ids": [len(row) for row in rows]},
    )


def hide_spans(ids: list[int], draw: Draw) -> list[int]:
    """About 30 % of the tokens hidden in spans of one to five, each span behind one ``<mask>``."""
    left, hidden, at = round(0.3 * len(ids)), [], 0
    while at < len(ids):
        if left > 0 and draw.chance(0.15):
            span = 1 + draw.below(5)
            hidden.append(MASK)
            left -= span
            at += span
        else:
            hidden.append(ids[at])
            at += 1
    return hidden


def seq2seq_rows(bpe: Tokenizer, readings: list[tuple[str, str]], device: str) -> Rows:
    """Record, or text with hidden spans, to text; the decoder starts with ``</s> <s>``, and neither is predicted."""
    draw = Draw(0)
    sources = [encoding.ids for encoding in bpe.encode_batch([source for source, _ in readings])]
    texts = [encoding.ids for encoding in bpe.encode_batch([text for _, text in readings])]
    rows, starts, labels = [], [], []
    for source, text in zip(sources, texts, strict=True):
        text = text[: TARGET_LENGTH - 2]
        rows.append([BOS, *(source or hide_spans(text, draw))[: SOURCE_LENGTH - 2], EOS])
        starts.append([EOS, BOS, *text])
        labels.append([IGNORED, *text, EOS])
    inputs = {"input_ids": padded(rows, PAD, device), "decoder_input_ids": padded(starts, PAD, device)}
    lengths = {"input_ids": [len(row) for row in rows], "decoder_input_ids": [len(row) for row in starts]}
    return Rows(inputs, padded(labels, IGNORED, device), lengths)


def batches(rows: Rows, generator: torch.Generator) -> list[list[int]]:
    """One pass over the rows in random order, cut into batches of rows of about one length."""
    lengths = [sum(each) for each in zip(*rows.lengths.values(), strict=True)]
    order = torch.randperm(len(lengths), generator=generator).tolist()
    cut: list[list[int]] = []
    for start in range(0, len(order) - BATCH + 1, 50 * BATCH):
        near = sorted(order[start : start + 50 * BATCH], key=lengths.__getitem__)
        cut += [near[at : at + BATCH] for at in range(0, len(near), BATCH)]
    return [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]


def loss_of(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy in nats over the positions that count."""
    logits = model(**inputs, use_cache=False).logits
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction=reduction
    )


def pretrain(model: nn.Module, rows: Rows, steps: int, rate: float, seed: int) -> None:
    """AdamW with a linear warm-up over 5 % of the steps and linear decay to zero."""
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warmup = max(1, steps // 20)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, (steps - s) / (steps - warmup + 1))
    )
    waiting: list[list[int]] = []
    model.train()
    for step in range(steps):
        waiting = waiting or batches(rows, generator)
        loss = loss_of(model, *rows.batch(waiting.pop()))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % 250 == 0 or step == steps - 1:
            print(f"step {step:5d}  loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def held_out(model: nn.Module, rows: Rows) -> float:
    """Loss of the readings in `rows`, in nats per token."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(rows.labels), 250):
        inputs, labels = rows.batch(list(range(start, min(start + 250, len(rows.labels)))))
        total += loss_of(model, inputs, labels, "sum").double().cpu()
    return float(total) / int((rows.labels != IGNORED).sum())


def _make(
    seed: int, steps: int, rate: float, device: str, *, framed: bool
) -> tuple[Any, PreTrainedTokenizerFast, dict[str, object]]:
    readings = pairs(seed, TEXTS + HELD_OUT)
    train = readings[HELD_OUT:]
    seen = set(train)
    unseen = [reading for reading in readings[:HELD_OUT] if reading not in seen]
    bpe = make_bpe(train)
    model = (seq2seq_model if framed else decoder_model)(bpe.get_vocab_size()).to(device)
    encode = seq2seq_rows if framed else decoder_rows
    pretrain(model, encode(bpe, train, device), steps, rate, seed)
    loss = held_out(model, encode(bpe, unseen, device))
    print(f"held-out loss {loss:.4f}", flush=True)
    facts = {
        "width": WIDTH,
        "heads": HEADS,
        "texts": TEXTS,
        "batch": BATCH,
        "heldout": len(unseen),
        "loss": loss,
    }
    return model.cpu().eval(), wrap(bpe, framed=framed), facts


def make_decoder(
    seed: int, steps: int, rate: float, device: str
) -> tuple[Any, PreTrainedTokenizerFast, dict[str, object]]:
    """Pretrains the decoder.

    Returns:
        Model, tokenizer, and what the card says of them.
    """
    model, tokenizer, facts = _make(seed, steps, rate, device, framed=False)
    config = model.config
    return (
        model,
        tokenizer,
        {**facts, "layers": config.num_hidden_layers, "ffn": config.intermediate_size, "length": DECODER_LENGTH},
    )


def make_seq2seq(
    seed: int, steps: int, rate: float, device: str
) -> tuple[Any, PreTrainedTokenizerFast, dict[str, object]]:
    """Pretrains the sequence-to-sequence model.

    Returns:
        Model, tokenizer, and what the card says of them.
    """
    model, tokenizer, facts = _make(seed, steps, rate, device, framed=True)
    config = model.config
    return (
        model,
        tokenizer,
        {**facts, "layers": config.encoder_layers, "ffn": config.encoder_ffn_dim, "length": SOURCE_LENGTH},
    )


_REST = """
It was pretrained from scratch by `scripts/make_builtin_models.py` on {{texts:,}} readings generated by
`scripts/pretraining_pairs.py`:
records with a text about them (three quarters) and plain text. Nothing else was read.

The demonstration (`builtin` data of the task `e2e`: places to stay) fine-tunes on something else, on purpose:

- subject: records in pretraining are about museums, trains, books, people, boats and clubs, or have random fields; none
  is about a
  place to stay, and the name is the only attribute that both have;
- notation: pretraining writes fields in many ways (`key: value | ...`, `key=value;...`, `<key> value ...`, `key(value),
  ...`) and in any
  order; the demonstration writes `key[value], ...` in a fixed order, which pretraining never does;
- wording: what an attribute makes of its value ("low" is "cheap", `petFriendly[no]` is "does not allow pets") is new;
- words: the demonstration's words (all but "allow") occur in plain text, in names, and as values of random fields only.

So the model can copy from a record and write fluent sentences, and has to learn which ones. Untuned, it scores poorly
on the
demonstration's test set.

| how it was made | |
|---|---|
| command | `{{command}}` |
| objective | {objective}; AdamW, peak learning rate {{rate}}, batch {{batch}}, {{steps:,}} steps |
| held-out loss | {{loss:.3f}} nats per token ({{heldout:,}} unseen readings) |
| time | {{minutes:.1f}} minutes on {{processor}} |
| versions | Python {{python}}, torch {{torch}}, transformers {{transformers}} |
| sha256 of model.safetensors | `{{digest}}` |

Licence: Apache-2.0, like the package.
"""


def _card(head: str, objective: str) -> str:
    return head + _REST.format(objective=objective)


DECODER_CARD = _card(
    """\
# builtin:tiny-decoder

A Llama language model of {parameters:,} parameters ({layers} blocks, width {width}, FFN {ffn}, {heads} heads,
{vocabulary:,} byte-level
BPE tokens, at most {length} tokens, tied embeddings, float32), for demonstrations and tests without a network. It knows
a toy English
and is of no use for real text.
""",
    "the text after `record </s>`, its end included; plain text from the start",
)
SEQ2SEQ_CARD = _card(
    """\
# builtin:tiny-seq2seq

A BART sequence-to-sequence model of {parameters:,} parameters ({layers} blocks on each side, width {width}, FFN {ffn},
{heads} heads,
{vocabulary:,} byte-level BPE tokens, at most {length} tokens on each side, tied embeddings, float32), for
demonstrations and tests
without a network. It knows a toy English and is of no use for real text.
""",
    "record to text; plain text from a copy with 30% of the tokens hidden in spans",
)
