"""Texts from a model that generates: beam search or greedy decoding over a split, in batches of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from dora_cli.data import EncodedSources, PairLayout, to_device
from dora_cli.errors import DataError
from dora_cli.evaluation.no_repeat import NoRepeatNgram
from dora_cli.evaluation.passes import Indices, batches_by_length, evaluation_mode, extremes, in_order
from dora_cli.evaluation.settings import Decoding
from dora_cli.machine.devices import autocast, autocast_type, without_cache
from dora_cli.methods.frozen import FrozenMaps
from dora_cli.models import max_positions

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import GenerationConfig, PreTrainedTokenizerBase

Find = Callable[[dict[str, torch.Tensor]], list[list[int]]]
"""Gives the token ids of the output about each source of a batch, without its prompt; they end at a stop token."""

_PROMPT_MULTIPLE = 32
"""What the width of a batch is rounded up to where steps are captured: each width has graphs of its own."""


def check_positions(model: nn.Module, sources: EncodedSources, layout: PairLayout, settings: Decoding) -> None:
    """Raises DataError if `model` has fewer positions than decoding may need; to be called before a long run, too."""
    limit = max_positions(model)
    if limit is None:  # computed positions have no table that ends, but a length the model was made for
        limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int):
        return
    prompt = len(layout.start) if layout.encoder_decoder else int(sources.lengths.max(initial=0))
    room = limit - prompt + 1  # the last token is written, not read
    if settings.max_new_tokens > room:
        before = "its decoder's start" if layout.encoder_decoder else "the longest source"
        raise DataError(
            f"decode.max_new_tokens: {settings.max_new_tokens} is too many: the model has {limit} positions and "
            f"{before} takes {prompt} of them; set it to at most {room}"
        )


def decode(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sources: EncodedSources,
    layout: PairLayout,
    settings: Decoding,
    *,
    accelerator: Accelerator,
    captured: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """One text for every source, in the order of `sources`.

    A text is what the model generated before the first of `layout.stops` or a blank line, on one line. The longest
    sources come first, so that memory runs out at once or not at all. Processes share the batches and all return the
    whole. The caller enters the method's `folded()`.

    Args:
        model: from `load_generator`, on the accelerator's device, not wrapped; it is in evaluation mode meanwhile.
        tokenizer: the model's.
        sources: made with `layout`.
        captured: whether steps may be captured in CUDA graphs, where a `Search` finds the outputs.
        progress: called with the number of batches done and to do in this process.

    Raises:
        DataError: the model has too few positions, see `check_positions`.
    """
    check_positions(model, sources, layout, settings)
    mine = batches_by_length(sources.lengths, settings.batch_size, accelerator)
    captured = captured and accelerator.device.type == "cuda"
    texts = _decoded(model, tokenizer, sources, layout, settings, mine, accelerator, captured, progress)
    return in_order(mine, texts, accelerator)


def try_decoding(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sources: EncodedSources,
    layout: PairLayout,
    settings: Decoding,
    *,
    accelerator: Accelerator,
) -> None:
    """Writes two tokens about two sources in this process alone, as `decode` would; raises whatever the model does."""
    short = replace(settings, max_new_tokens=min(2, settings.max_new_tokens))
    _decoded(model, tokenizer, sources, layout, short, extremes(sources.lengths, settings.batch_size)[:1], accelerator)


def _decoded(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    sources: EncodedSources,
    layout: PairLayout,
    settings: Decoding,
    mine: Sequence[Indices],
    accelerator: Accelerator,
    captured: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Texts of the batches `mine`, in their order."""
    from dora_cli.evaluation.search.suitable import suitable

    texts: list[str] = []
    takes_search = captured or accelerator.device.type != "cuda"  # launched one by one, its steps may win nothing there
    find = searching if takes_search and suitable(model) else generating
    with evaluation_mode(model), find(model, layout, settings, accelerator, captured=captured) as outputs_of:
        for done, rows in enumerate(written(outputs_of, sources, mine, accelerator.device, captured=captured)):
            texts += _texts(rows, tokenizer, layout.stops)
            if progress is not None:
                progress(done + 1, len(mine))
    return texts


def written(
    find: Find, sources: EncodedSources, batches: Sequence[Indices], device: torch.device, *, captured: bool
) -> Iterator[list[list[int]]]:
    """What `find` gives for each of `batches`, a row of tokens for every source.

    Where work is `captured` by shape, widths are rounded up to few, and a batch that is smaller than the largest is
    filled up with its last source.
    """
    largest, multiple = max(map(len, batches), default=0), _PROMPT_MULTIPLE if captured else 1
    for indices in batches:
        filled = np.pad(indices, (0, largest - len(indices)), mode="edge") if captured else indices
        yield find(to_device(sources.collate(filled, multiple), device))[: len(indices)]


@contextmanager
def searching(
    model: nn.Module, layout: PairLayout, settings: Decoding, accelerator: Accelerator, *, captured: bool
) -> Iterator[Find]:
    """Finds token ids by a search of our own."""
    from dora_cli.evaluation.search.search import Search

    dtype = autocast_type(accelerator)
    search = Search(model, layout, settings, accelerator.device, dtype=dtype, captured=captured)

    def find(batch: dict[str, torch.Tensor]) -> list[list[int]]:
        with autocast(accelerator, without_cache() if captured else None):
            return search(batch)

    # weights are cast once, not for every token
    with FrozenMaps(model).cast(dtype):
        yield find


@contextmanager
def generating(
    model: nn.Module, layout: PairLayout, settings: Decoding, accelerator: Accelerator, *, captured: bool
) -> Iterator[Find]:
    """Finds token ids by transformers' `generate`, which asks the host for every token and is never captured."""
    config = generation_config(layout, settings)

    def find(batch: dict[str, torch.Tensor]) -> list[list[int]]:
        with autocast(accelerator):
            return _generate(model, batch, config, settings, layout)

    with _own_settings_unheard(model):
        yield find


def generation_config(layout: PairLayout, settings: Decoding) -> GenerationConfig:
    """What `generate` is told; n-grams are forbidden by a processor of our own beside it."""
    from transformers import GenerationConfig

    beam_search = {"length_penalty": settings.length_penalty, "early_stopping": False} if settings.beams > 1 else {}
    return GenerationConfig(
        num_beams=settings.beams,
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(layout.stops),
        pad_token_id=layout.pad,
        decoder_start_token_id=layout.start[0] if layout.encoder_decoder else None,
        **beam_search,
    )


@contextmanager
def _own_settings_unheard(model: nn.Module) -> Iterator[None]:
    """`generate` fills whatever its argument leaves open from the checkpoint's own generation config: forced tokens,
    penalties, beams.
    """
    from transformers import GenerationConfig

    owner: Any = model
    own = owner.generation_config
    owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = own


def _generate(
    model: nn.Module, batch: dict[str, torch.Tensor], config: GenerationConfig, settings: Decoding, layout: PairLayout
) -> list[list[int]]:
    """Token ids of each row after its prompt, padded behind the first stop token."""
    from transformers import LogitsProcessorList

    prompt = batch["decoder_input_ids" if layout.encoder_decoder else "input_ids"].shape[1]
    processors = [NoRepeatNgram(settings.no_repeat_ngram, prompt)] if settings.no_repeat_ngram else []
    generator: Any = model
    rows: torch.Tensor = generator.generate(
        **batch, generation_config=config, logits_processor=LogitsProcessorList(processors)
    )
    return rows[:, prompt:].tolist()


def _texts(generated: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> list[str]:
    """What stands before the first stop token or blank line, with every run of white space as one space."""
    cut = [row[: next((place for place, token in enumerate(row) if token in stops), len(row))] for row in generated]
    texts = tokenizer.batch_decode(cut, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [" ".join(text.partition("\n\n")[0].split()) for text in texts]
