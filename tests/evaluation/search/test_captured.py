"""The search in CUDA graphs against the search as it stands, and against `generate` on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dora_cli.data import to_device
from dora_cli.evaluation.decoding import decode
from dora_cli.evaluation.passes import evaluation_mode
from dora_cli.evaluation.search.search import CAPTURED_STEP, LAG, Search, _Done
from dora_cli.evaluation.settings import Decoding
from tests.evaluation.search.families import FAMILIES, built, found, sources_of
from tests.models.conftest import small_tokenizer

pytestmark = pytest.mark.gpu
BEAMS = pytest.mark.parametrize("beams", [1, 4])
LONG = CAPTURED_STEP + 10  # more than one graph's columns


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


@BEAMS
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_captured_as_on_the_cpu(name: str, attention: str, beams: int) -> None:
    """In fp64, in batches of two shapes, the first of which serves twice."""
    (encoded, layout), tokens = sources_of(name), 20 if name == "llama" else 12
    settings = Decoding(beams=beams, max_new_tokens=tokens, batch_size=5, no_repeat_ngram=3)
    expected = found("generating", built(name, attention=attention), encoded, layout, settings)
    model = built(name, attention=attention, device="cuda")
    outputs = found("searching", model, encoded, layout, settings, captured=True)
    if attention == "sdpa" or name == "t5":
        assert outputs == expected
    else:  # fp32, on two devices
        assert sum(one == two for one, two in zip(outputs, expected, strict=True)) >= len(expected) - 2


@BEAMS
def test_more_than_one_graph_and_a_batch_that_is_filled_up(beams: int) -> None:
    """Through `decode`: widths of prompts are rounded up, and twelve sources make batches of five, five and two."""
    (encoded, layout), tokenizer = sources_of("gpt2"), small_tokenizer(pad_token="<pad>")
    model = built("gpt2", seed=4, device="cuda")
    settings = Decoding(beams=beams, max_new_tokens=LONG, batch_size=5, no_repeat_ngram=0)
    accelerator: Any = SimpleNamespace(
        process_index=0, num_processes=1, device=torch.device("cuda", 0), mixed_precision="no"
    )
    outputs = [
        decode(model, tokenizer, encoded, layout, settings, accelerator=accelerator, captured=captured)
        for captured in (True, False)
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) > 4
    assert max(len(output.split()) for output in outputs[0]) > CAPTURED_STEP


@BEAMS
@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_bf16(name: str, beams: int) -> None:
    """Captured or not, the same kernels on other shapes: a few outputs hang on a tie."""
    model, (encoded, layout) = built(name, device="cuda").float(), sources_of(name)
    settings = Decoding(beams=beams, max_new_tokens=8, batch_size=6)
    plain, captured = (
        found("searching", model, encoded, layout, settings, precision="bf16", captured=captured)
        for captured in (False, True)
    )
    assert sum(one == two for one, two in zip(captured, plain, strict=True)) > len(plain) / 2


@BEAMS
@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_deterministic_algorithms_are_captured_too(name: str, beams: int) -> None:
    model, (encoded, layout) = built(name, device="cuda"), sources_of(name)
    settings = Decoding(beams=beams, max_new_tokens=12, batch_size=6)
    expected = found("searching", model, encoded, layout, settings, captured=True)
    torch.use_deterministic_algorithms(True)
    try:
        assert found("searching", model, encoded, layout, settings, captured=True) == expected
    finally:
        torch.use_deterministic_algorithms(False)


@BEAMS
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_a_token_never_waits_for_the_device(name: str, captured: bool, beams: int) -> None:
    model, (encoded, layout) = built(name, device="cuda"), sources_of(name)
    settings = Decoding(beams=beams, max_new_tokens=24)
    search = Search(model, layout, settings, torch.device("cuda", 0), dtype=None, captured=captured)
    batch = to_device(encoded.collate(range(4)), torch.device("cuda", 0))
    with evaluation_mode(model):
        search(batch)  # captures
        one = search._latest
        assert one is not None
        one.choice.begin()
        tokens, _ = one.choice.choose(one.reader.prompts(batch))
        one.reader.follow(tokens, None, 0)
        columns = one.reader.columns_for(1, CAPTURED_STEP)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                if one._graphs is None:
                    one.step(columns, {})
                else:
                    one._graphs.run(columns, lambda _: one.step(columns, {}), {})
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_the_host_learns_two_steps_late_that_a_batch_is_done() -> None:
    device = torch.device("cuda", 0)
    done, watch, told = torch.zeros((), dtype=torch.bool, device=device), _Done(device), []
    for step in range(8):
        if step == 3:
            done.fill_(True)
        told.append(watch.reached(done))
    assert told == [step >= 3 + LAG for step in range(8)]
