"""Columns that all beams of a source share, against texts and attentions of one row at a time."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import transformers as tf
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dora_cli.data import to_device
from dora_cli.evaluation.search.attention import SHARING, attending, beams_as_queries, shares
from dora_cli.evaluation.search.cache import KeysValues
from dora_cli.evaluation.search.search import CAPTURED_STEP, Search
from dora_cli.evaluation.search.shared import SharedCache
from dora_cli.evaluation.search.suitable import FAMILIES as KNOWN
from dora_cli.evaluation.settings import Decoding
from tests.evaluation.search.families import FAMILIES, LLAMAS, built, sources_of
from tests.evaluation.test_decoding import EOS, SMALL_IDS

WIDE = tf.LlamaConfig(
    **LLAMAS | {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
)
BOTH = tf.BartConfig(
    d_model=64, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=4,
    decoder_attention_heads=4, vocab_size=50, max_position_embeddings=128, decoder_start_token_id=EOS, **SMALL_IDS,
)  # fmt: skip
MAKE = {"llama": lambda: tf.LlamaForCausalLM(WIDE).eval(), "bart": lambda: tf.BartForConditionalGeneration(BOTH).eval()}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_attention_of_every_row_and_head(heads: int, key_heads: int, beams: int) -> None:
    """Its softmax over the columns that its row sees, written out."""
    sources, columns, width, group = 2, 7, 5, heads // key_heads
    draw = torch.Generator().manual_seed(heads)
    query = torch.randn(sources * beams, heads, 1, width, dtype=torch.float64, generator=draw)
    key, value = torch.randn(2, sources, key_heads, columns, width, dtype=torch.float64, generator=draw)
    seen = torch.rand(sources * beams, columns, generator=draw) < 0.6
    seen[:, 0] = True
    mask = torch.zeros(seen.shape, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    by_query = mask.view(sources, beams, columns).repeat_interleave(group, dim=1)[:, None]
    found, weights = beams_as_queries(torch.nn.Module(), query, key, value, by_query, scaling=0.3)
    assert weights is None
    assert found.shape == (sources * beams, 1, heads, width)
    for row in range(sources * beams):
        for head in range(heads):
            place = row // beams, head // group
            logits = 0.3 * key[place][seen[row]] @ query[row, head, 0]
            expected = logits.softmax(dim=0) @ value[place][seen[row]]
            torch.testing.assert_close(found[row, 0, head], expected)


@pytest.mark.parametrize("unknown", [{"sliding_window": 4}, {"softcap": 30.0}, {"position_bias": torch.zeros(1)}])
def test_what_it_would_pass_over_is_refused(unknown: dict[str, Any]) -> None:
    key = torch.ones(1, 1, 2, 4)
    with pytest.raises(AssertionError):
        beams_as_queries(torch.nn.Module(), key[:, :, :1], key, key, torch.zeros(1, 1, 1, 2), scaling=1.0, **unknown)


def layers_of(tokens: torch.Tensor) -> KeysValues:
    """Two layers of two heads, width 1, whose keys are the tokens themselves and whose values are their negatives."""
    keys = tokens[:, None, :, None].double().expand(-1, 2, -1, 1)
    return [(keys, -keys), (keys, -keys)]


@pytest.mark.parametrize("step", [1, 8])
@pytest.mark.parametrize(("beams", "group"), [(1, 1), (1, 3), (3, 2), (4, 1)])
def test_every_row_sees_its_prompt_and_its_own_text(beams: int, group: int, step: int) -> None:
    """Beams go on from one another at random; two batches, one after the other, in one memory."""
    sources, prompt, room, draw = 3, 5, 9, random.Random(beams)
    numbers = iter(range(1, 10_000))
    written = torch.zeros((), dtype=torch.int64)
    cache: SharedCache | None = None
    for _ in range(2):
        prompts = torch.tensor([[next(numbers) for _ in range(prompt)] for _ in range(sources)])
        real = torch.arange(prompt) >= torch.tensor([[0], [2], [4]])
        own = layers_of(prompts)
        cache = cache or SharedCache(own, None, beams=beams, group=group, room=room, dtype=None)
        cache.fill(own, None, real)
        texts = [prompts[row // beams][real[row // beams]].tolist() for row in range(sources * beams)]
        for count in range(1, room + 1):
            written.fill_(count)
            seen = cache.show(columns := cache.columns_for(count, step), written)
            assert seen.shape == (sources, 1, beams * group, columns)
            tokens = torch.tensor([next(numbers) for _ in texts])
            texts = [[*text, int(token)] for text, token in zip(texts, tokens, strict=True)]
            for layer, (new, negative) in zip(cache.cache.layers, layers_of(tokens[:, None]), strict=True):
                keys, values = layer.update(new, negative)
                assert keys.shape == (sources, 2, columns, 1)
                assert values.equal(-keys)
                for row, text in enumerate(texts):
                    for query in range(group):
                        visible = seen[row // beams, 0, row % beams * group + query]
                        assert keys[row // beams, 0, visible, 0].tolist() == text
                        assert keys[row // beams, 1, visible, 0].tolist() == text
            parents = [row // beams * beams + draw.randrange(beams) for row in range(len(texts))]
            cache.follow(torch.tensor(parents), columns)
            texts = [list(texts[parent]) for parent in parents]


def test_columns_come_in_eights_and_by_whole_steps() -> None:
    """Kernels of attention want that of masks, and every number of columns that is captured is a graph."""
    cache = SharedCache(layers_of(torch.ones(1, 32)), None, beams=3, group=1, room=63, dtype=None)
    assert [cache.columns_for(tokens, 32) for tokens in (1, 32, 33, 63)] == [128, 128, 224, 224]
    assert [cache.columns_for(tokens, 1) for tokens in (1, 2, 3, 63)] == [40, 40, 48, 224]


@pytest.mark.parametrize("name", FAMILIES)
def test_who_shares(name: str) -> None:
    """All but T5, with the attention of PyTorch; `test_search.py` compares what they find with `generate`."""
    assert KNOWN - {"t5"} == SHARING
    assert shares(built(name)) == (name != "t5")
    assert not shares(built(name, attention="eager"))


def searched(model: Any, *, beams: int, captured: bool = False, dtype: torch.dtype | None = None) -> Any:
    """The search after one batch of the first four sources, on the model's device; and that batch."""
    device = next(model.parameters()).device
    encoded, layout = sources_of(model.config.model_type)
    batch = to_device(encoded.collate(range(4)), device)
    settings = Decoding(beams=beams, max_new_tokens=40)
    search = Search(model, layout, settings, device, dtype=dtype, captured=captured)
    with torch.no_grad():
        search(batch)
    return search._latest, batch


def test_the_model_is_left_as_it_was() -> None:
    model = built("llama")
    seen: list[str] = []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args: seen.append(module.config._attn_implementation)
    )
    searched(model, beams=2)
    assert model.config._attn_implementation == "sdpa"
    assert seen[0] == "sdpa"  # reads the prompts
    assert len(set(seen[1:])) == 1
    assert seen[1] not in {"sdpa", "eager"}
    with pytest.raises(ZeroDivisionError), attending(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"


class Made(TorchDispatchMode):
    """Notes how many numbers every new tensor has."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        there = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in there:
                self.sizes[str(func)] = max(leaf.numel(), self.sizes.get(str(func), 0))
        return result


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", MAKE)
def test_a_step_copies_no_keys(name: str, beams: int) -> None:
    """Nothing that it makes has as many numbers as one layer's keys; not when beams go on from one another, either."""
    one, _ = searched(MAKE[name](), beams=beams)
    one.choice.written.fill_(39)  # the last that is read
    columns = one.reader.columns_for(39, 1)
    cache = one.reader._cache.cache
    keys = (cache if name == "llama" else cache.self_attention_cache).layers[0].keys[:, :, :columns]
    with torch.no_grad(), Made() as made:
        logits = one.reader.next(columns)
        one.reader.follow(logits.argmax(dim=-1), torch.zeros(4 * beams, dtype=torch.int64), columns)
    assert keys.shape[:2] == (4, 2 if name == "llama" else 4)
    assert made.sizes
    assert max(made.sizes.values()) < keys.numel(), made.sizes


def test_prompts_are_kept_once() -> None:
    one, batch = searched(tf.LlamaForCausalLM(WIDE).eval(), beams=4)
    prompt = batch["input_ids"].shape[1]
    numbers = one.reader._cache._own.numel()
    rows_of_a_column = 2 * WIDE.num_hidden_layers * 4 * 32  # two heads of sixteen
    assert numbers == rows_of_a_column * (-(-(prompt + 39 * 4) // 8) * 8)


@pytest.mark.gpu
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MAKE)
def test_one_kernel_attends(name: str, dtype: torch.dtype, beams: int) -> None:
    """Not products and a softmax one by one, which would write all logits: PyTorch raises if no kernel takes the
    masks, strides and types there are.
    """
    device = torch.device("cuda", 0)
    model = MAKE[name]().to(device)
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        one, _ = searched(model, beams=beams, dtype=None if dtype == torch.float32 else dtype)
        one.choice.written.fill_(21)
        for step in (1, CAPTURED_STEP):
            with torch.no_grad(), sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
                assert one.reader.next(one.reader.columns_for(21, step)).isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("name", MAKE)
def test_captured_it_attends_in_one_way_and_leaves_the_model_as_it_was(name: str, beams: int) -> None:
    """Graphs of two numbers of columns, against steps that are launched one by one."""
    model = MAKE[name]().double().to("cuda")
    outputs = []
    for captured in (False, True):
        one, batch = searched(model, beams=beams, captured=captured)
        with torch.no_grad():
            outputs.append(one(batch))  # graphs that are there now are launched
        assert model.config._attn_implementation == "sdpa"
    assert outputs[0] == outputs[1]
