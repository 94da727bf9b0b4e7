"""The end token that an encoder-decoder's classification head reads its answer at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dora_cli.errors import ModelError
from dora_cli.models.agreement import set_config
from dora_cli.models.family import is_encoder_decoder
from dora_cli.models.structure.embeddings import vocabulary_rows


def append_end(name: str, model: nn.Module, tokenizer: Any) -> None:
    """Makes `tokenizer` end every text and every pair with the end token of `model`, where it does not already.

    Such a head takes the decoder's output at the last end token, and demands as many of them in every row. From here on
    the tokenizer appends it like its own special tokens: within the length that texts are cut to, and in an export.

    Args:
        model: a classifier; nothing is done for one that is no encoder-decoder.

    Raises:
        ModelError: there is no such token.
    """
    if not is_encoder_decoder(model.config):
        return
    single, pair = _Template.of(name, tokenizer, "a"), _Template.of(name, tokenizer, "a", "a")
    end = _end_of(name, model, tokenizer, [*{*single.after} & {*pair.after}])
    set_config(model, "eos_token_id", end)
    if tokenizer.pad_token_id == end:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_other_pad(name, model, tokenizer, end))
        set_config(model, "pad_token_id", tokenizer.pad_token_id)
    if end in single.after and end in pair.after:
        return
    from tokenizers.processors import TemplateProcessing

    templates = [template if end in template.after else template.followed_by(end) for template in (single, pair)]
    names = {token: tokenizer.convert_ids_to_tokens(token) for template in templates for token in template.tokens}
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=templates[0].pieces,
        pair=templates[1].pieces,
        special_tokens=[{"id": _alias(token), "ids": [token], "tokens": [text]} for token, text in names.items()],
    )


def _end_of(name: str, model: nn.Module, tokenizer: Any, appended: Sequence[int]) -> int:
    """The model's if the tokenizer appends it; else the tokenizer's own, which as for padding comes before the
    config's.
    """
    config: Any = model.config
    stated = getattr(config, "eos_token_id", None)
    if isinstance(stated, int) and stated in appended:
        return stated
    rows = vocabulary_rows(model) or len(tokenizer)
    for token in (tokenizer.eos_token_id, stated, tokenizer.sep_token_id):
        # An unknown word is no end: rows would have unequal numbers of them.
        if isinstance(token, int) and 0 <= token < min(rows, len(tokenizer)) and token != tokenizer.unk_token_id:
            return token
    raise ModelError(
        f"model.name: the head of {name!r} reads its answer at an end token, but its tokenizer has none, and "
        f"eos_token_id in its config.json ({stated}) is no token that could be one; set the tokenizer's eos_token"
    )


def _other_pad(name: str, model: nn.Module, tokenizer: Any, end: int) -> int:
    """A token to pad with that is not the end token, which the head would count; attention masks it, whatever it is."""
    config: Any = model.config
    for token in (getattr(config, "decoder_start_token_id", None), tokenizer.bos_token_id, tokenizer.unk_token_id):
        if isinstance(token, int) and token != end and 0 <= token < len(tokenizer):
            return token
    raise ModelError(
        f"model.name: the tokenizer of {name!r} has nothing to pad with but its end token, which the head counts; set "
        "its pad_token"
    )


def _alias(token: int) -> str:
    """Names a special token within a template, where its own text could be taken for something else."""
    return f"t{token}"


class _Template:
    """What a tokenizer makes of one text or two: its special tokens, and where the texts stand among them.

    Attributes:
        pieces: special tokens and texts in order, with their token types, as `TemplateProcessing` takes them.
        tokens: the special tokens.
        after: those behind the last text.
    """

    def __init__(self, pieces: Sequence[tuple[int | str, int]]) -> None:
        texts = [place for place, (piece, _) in enumerate(pieces) if isinstance(piece, str)]
        self._pieces = pieces
        self.pieces = [f"{_alias(piece) if isinstance(piece, int) else piece}:{kind}" for piece, kind in pieces]
        self.tokens = [piece for piece, _ in pieces if isinstance(piece, int)]
        self.after = [piece for piece, _ in pieces[texts[-1] + 1 :] if isinstance(piece, int)]

    @classmethod
    def of(cls, name: str, tokenizer: Any, *texts: str) -> _Template:
        """Seen by what it makes of `texts`, whatever does it: BERT's, RoBERTa's or a template of its own."""
        found = tokenizer(*texts, return_token_type_ids=True)
        pieces: list[tuple[int | str, int]] = []
        for token, kind, text in zip(found["input_ids"], found["token_type_ids"], found.sequence_ids(0), strict=True):
            piece = token if text is None else ("$A", "$B")[text]
            if text is None or not pieces or pieces[-1][0] != piece:
                pieces.append((piece, kind))
        if [piece for piece, _ in pieces if isinstance(piece, str)] != ["$A", "$B"][: len(texts)]:
            raise ModelError(
                f"model.name: the head of {name!r} reads its answer at an end token, and where its tokenizer could "
                "append one cannot be seen; give the tokenizer a post-processor that does"
            )
        return cls(pieces)

    def followed_by(self, token: int) -> _Template:
        """With one more special token at the end, of the last token's type."""
        return _Template([*self._pieces, (token, self._pieces[-1][1])])
