"""From texts to token ids."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dora_cli.data.ragged import Ragged
from dora_cli.errors import DataError, DoraError, ModelError
from dora_cli.libraries import is_panic
from dora_cli.printable import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CHUNK = 4096


def tokenise(
    tokenizer: PreTrainedTokenizerBase, *columns: Sequence[str], names: Sequence[str] = ("input_ids",), **settings: Any
) -> dict[str, Ragged]:
    """What the tokenizer makes of each text, or of each pair of texts.

    Args:
        tokenizer: the base model's.
        columns: one list of texts, or two of equal length.
        names: which of the tokenizer's outputs to keep: ``input_ids``, ``token_type_ids``.
        settings: of the tokenizer's call, such as the truncation.

    Raises:
        ModelError: the tokenizer fails.
    """
    call = partial(
        tokenizer,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids="token_type_ids" in names,
        split_special_tokens=True,  # a text that spells a special token ("</s>") is text, and BART counts the real ones
        verbose=False,  # its warning of long texts: lengths are checked here
        **settings,
    )
    with _one_message(tokenizer):
        return _tokenise(call, columns, names)


@contextmanager
def _one_message(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """A tokenizer may load whose parts do not fit together: what fails then is the library's business, and its files
    are to blame.
    """
    try:
        yield
    except (DoraError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelError(
            f"model.name: the tokenizer of {tokenizer.name_or_path!r} fails on the texts ({type(error).__name__}: "
            f"{shown(str(error))}); download or build the model again"
        ) from error


def _tokenise(
    call: Callable[..., Mapping[str, Any]], columns: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, Ragged]:
    flat: dict[str, list[npt.NDArray[np.int32]]] = {name: [np.empty(0, dtype=np.int32)] for name in names}
    lengths: list[int] = []
    for start in range(0, len(columns[0]), _CHUNK):
        # In chunks, because lists of Python integers take many times the room of the arrays.
        part = call(*(list(column[start : start + _CHUNK]) for column in columns))
        lengths.extend(map(len, part["input_ids"]))
        for name in names:
            rows = part[name]
            flat[name].append(
                np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=sum(map(len, rows)))
            )
    return {name: Ragged.of(np.concatenate(parts), lengths) for name, parts in flat.items()}


def check_model_limit(longest: int, max_length: int, tokenizer: PreTrainedTokenizerBase) -> int:
    """Raises a DataError if an input of `longest` tokens is more than the model takes.

    A `max_length` above the model's limit matters only where an example is that long.

    Returns:
        What a batch may be padded to: `max_length`, or the model's limit where that is lower.
    """
    limit = tokenizer.model_max_length
    if longest > limit:
        raise DataError(
            f"data.max_length: {max_length} is above {limit}, the longest input of the model, and the data has an "
            f"example of {longest} tokens; lower it to {limit}"
        )
    return min(max_length, limit)
