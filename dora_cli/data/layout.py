"""How a source and its target stand in a model's input: which special tokens come where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PairLayout:
    """The special tokens around sources and targets.

    A decoder-only model reads ``before, source, separator, lead + target, end`` as one sequence. An encoder-decoder's
    encoder reads ``before, source, separator``; its decoder reads ``start, target`` and writes ``target, end``.

    Attributes:
        encoder_decoder: which of the two.
        before: what stands before a source: what the tokenizer puts there, such as Llama's ``<s>``; nothing for GPT-2.
        separator: what follows a source: decoder-only, the end token, as published for GPT-2; else what the tokenizer
            puts there.
        start: encoder-decoder: what the decoder reads first: its start token, and what the tokenizer puts before a text
            (BART's ``<s>``). No target tokens, so their loss does not count. Empty for decoder-only.
        end: the end token, the last of every target.
        stops: tokens that end an output: `end`, and a blank line where the tokenizer has one token for it (GPT-2: 628).
        pad: fills batches; may be the same as `end`, so that masks never follow from it.
        lead: put before the text of a target.
    """

    encoder_decoder: bool
    before: tuple[int, ...]
    separator: tuple[int, ...]
    start: tuple[int, ...]
    end: int
    stops: tuple[int, ...]
    pad: int
    lead: str = ""


def pair_layout(tokenizer: PreTrainedTokenizerBase, *, decoder_start: int | None) -> PairLayout:
    """The layout of a model.

    Args:
        tokenizer: the base model's; it must have an end token and a padding token.
        decoder_start: an encoder-decoder's ``decoder_start_token_id``; None for a decoder-only model.
    """
    assert tokenizer.pad_token_id is not None, "the models room gives every tokenizer a padding token"
    assert tokenizer.eos_token_id is not None, "the models room refuses generators without an end token"
    end = int(tokenizer.eos_token_id)
    before, after = _surroundings(tokenizer)
    stops = (end, *_blank_line(tokenizer, end))
    pad = int(tokenizer.pad_token_id)
    if decoder_start is None:
        return PairLayout(False, before, (end,), (), end, stops, pad, lead=_lead(tokenizer))
    return PairLayout(True, before, after, (decoder_start, *before), end, stops, pad)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    return list(tokenizer(text, add_special_tokens=special)["input_ids"])


def _surroundings(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer puts before and after a text."""
    plain, whole = _ids(tokenizer, "a"), _ids(tokenizer, "a", special=True)
    at = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return tuple(whole[:at]), tuple(whole[at + len(plain) :])


def _blank_line(tokenizer: PreTrainedTokenizerBase, end: int) -> tuple[int, ...]:
    ids = _ids(tokenizer, "\n\n")
    # Decoded again, because a tokenizer without line breaks gives its token for the unknown, which ends nothing.
    return tuple(ids) if len(ids) == 1 and ids[0] != end and tokenizer.decode(ids) == "\n\n" else ()


def _lead(tokenizer: PreTrainedTokenizerBase) -> str:
    """The space before a target, as published for GPT-2.

    Left out where the tokenizer itself takes the start of a text for the start of a word, as SentencePiece does: a
    space more would be a token of its own.
    """
    return "" if _ids(tokenizer, "a a") == 2 * _ids(tokenizer, "a") else " "
