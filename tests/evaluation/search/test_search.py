"""The search against transformers' `generate`, token by token; and that a step of it needs no host."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers.masking_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dora_cli.evaluation.search.search import Search
from dora_cli.evaluation.search.suitable import FAMILIES as KNOWN
from dora_cli.evaluation.search.suitable import suitable
from dora_cli.evaluation.settings import Decoding
from tests.evaluation.search.families import FAMILIES, OTHERS, built, found, sources_of
from tests.evaluation.test_decoding import MODELS

SETTINGS = [
    {"beams": 1, "no_repeat_ngram": 0},
    {"beams": 1, "no_repeat_ngram": 2},
    {"beams": 4},
    {"beams": 3, "length_penalty": -1.0, "no_repeat_ngram": 0},
    {"beams": 5, "length_penalty": 2.0, "no_repeat_ngram": 2},
    {"beams": 2, "no_repeat_ngram": 1},
    {"beams": 4, "max_new_tokens": 1},
    {"beams": 25, "max_new_tokens": 24, "length_penalty": 0.0},
]


def told(changes: dict[str, Any]) -> str:
    return "-".join(f"{key}-{value}" for key, value in changes.items())


def test_every_family_is_tried() -> None:
    assert {built(name).config.model_type for name in FAMILIES} == KNOWN
    assert all(suitable(built(name)) for name in FAMILIES)


CASES = [
    *((name, changes) for name in ("gpt2", "bart") for changes in SETTINGS),
    *((name, changes) for name in sorted(MODELS.keys() - {"gpt2", "bart"}) for changes in SETTINGS[1:5]),
]
"""All settings with one family of each kind, and those that rows are sorted and cut by with all."""


@pytest.mark.parametrize(("name", "changes"), CASES, ids=lambda part: part if isinstance(part, str) else told(part))
def test_it_finds_what_generate_finds(name: str, changes: dict[str, Any]) -> None:
    """In batches of 5, 5 and 2 sources of different lengths, some of whose outputs end early."""
    model, (encoded, layout) = built(name), sources_of(name)
    settings = Decoding(**{"max_new_tokens": 16, "batch_size": 5, **changes})
    expected = found("generating", model, encoded, layout, settings)
    assert found("searching", model, encoded, layout, settings) == expected
    assert len({tuple(output) for output in expected}) > 3


@pytest.mark.parametrize(("attention", "beams"), [("eager", 4), ("sdpa", 1), ("sdpa", 4)])
@pytest.mark.parametrize("name", OTHERS)
def test_other_families_too(name: str, attention: str, beams: int) -> None:
    model, (encoded, layout) = built(name, attention=attention), sources_of(name)
    settings = Decoding(beams=beams, max_new_tokens=10, batch_size=6)
    expected = found("generating", model, encoded, layout, settings)
    assert found("searching", model, encoded, layout, settings) == expected


@pytest.mark.parametrize("name", MODELS)
def test_eager_attention(name: str) -> None:
    model, (encoded, layout) = built(name, attention="eager", seed=1), sources_of(name)
    settings = Decoding(beams=4, max_new_tokens=12, batch_size=12)
    expected = found("generating", model, encoded, layout, settings)
    assert found("searching", model, encoded, layout, settings) == expected


@pytest.mark.parametrize("size", [1, 3, 12])
def test_the_size_of_a_batch_changes_nothing(size: int) -> None:
    """The memory of one batch serves the next one of its shape, and another is made for another shape."""
    model, (encoded, layout) = built("llama", seed=2), sources_of("llama")
    outputs = [
        found("searching", model, encoded, layout, Decoding(beams=4, max_new_tokens=12, batch_size=of))
        for of in (size, 4)
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_under_autocast(name: str) -> None:
    """Keys and values are kept in the type that attention would cast them to; a few outputs hang on a tie in bf16."""
    model, (encoded, layout) = built(name).float(), sources_of(name)
    settings = Decoding(beams=4, max_new_tokens=8, batch_size=6)
    expected, outputs = (
        found(way, model, encoded, layout, settings, precision="bf16") for way in ("generating", "searching")
    )
    assert sum(one == two for one, two in zip(outputs, expected, strict=True)) > len(expected) / 2


@pytest.mark.parametrize("warn", [False, True])
def test_deterministic_algorithms_stay_as_they_were_set(warn: bool) -> None:
    model, (encoded, layout) = built("llama"), sources_of("llama")
    settings = Decoding(beams=4, max_new_tokens=8, batch_size=6)
    expected = found("searching", model, encoded, layout, settings)
    torch.use_deterministic_algorithms(True, warn_only=warn)
    try:
        assert found("searching", model, encoded, layout, settings) == expected
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn
    finally:
        torch.use_deterministic_algorithms(False)


def test_sources_that_end_early_wait_for_the_others_unchanged() -> None:
    """In a batch, some outputs are as long as can be and some end at once."""
    model, (encoded, layout) = built("gpt2", seed=1), sources_of("gpt2")
    settings = Decoding(beams=3, max_new_tokens=20, batch_size=12, length_penalty=-0.5)
    outputs = found("searching", model, encoded, layout, settings)
    assert min(map(len, outputs)) < 5 < max(map(len, outputs))
    alone = Decoding(beams=3, max_new_tokens=20, batch_size=1, length_penalty=-0.5)
    assert found("searching", model, encoded, layout, alone) == outputs


class FromTheHost(TorchDispatchMode):
    """Notes every operation on or to a tensor of the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        self.count += 1
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.seen.append(str(func))
        return result


@pytest.mark.parametrize(("name", "beams"), [("gpt2", 1), ("bart", 1), *((name, 4) for name in FAMILIES)])
def test_a_step_asks_the_host_nothing(name: str, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, where tensors have no values that could be read: so a step can be captured."""
    model_class, config, _ = FAMILIES[name]
    device = torch.device("meta")
    with device:
        model = model_class(config).eval()
    _, layout = sources_of(name)
    settings = Decoding(beams=beams, max_new_tokens=12)
    batch = {key: torch.ones(3, 10, dtype=torch.int64, device=device) for key in ("input_ids", "attention_mask")}
    if layout.encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"][:, : len(layout.start)]
    search = Search(model, layout, settings, device, dtype=None, captured=False)
    with torch.no_grad():
        of_a_shape = search._new(3)
        of_a_shape.choice.begin()
        # prompts are read before anything is captured, and masks of batches may be looked into
        with monkeypatch.context() as patch:
            patch.setattr(transformers.masking_utils, "is_tracing", lambda tensor=None: True)
            of_a_shape.reader.prompts(batch)
        with FromTheHost() as watched:
            of_a_shape.step(of_a_shape.reader.columns_for(1, 32), {})
    assert watched.count > 100
    assert watched.seen == []


def test_the_watch_notices_the_host() -> None:
    with FromTheHost() as watched:
        torch.empty(2, device="meta").copy_(torch.ones(2))
    assert watched.seen
    with pytest.raises(RuntimeError):
        bool(torch.zeros((), device="meta"))
