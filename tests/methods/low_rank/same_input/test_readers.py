"""Which projections read the same input, as one pass over a model finds it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration
from transformers.activations import GELUActivation

from dora_cli.methods.low_rank.same_input.readers import Readers, can_be_passed_again, readers_of
from tests.methods.small import tiny_gpt2, tiny_roberta

IDS = torch.arange(3, 12).view(1, -1)


def tiny_llama(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Keys and values are narrower than queries."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=20,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).to(dtype)


def tiny_t5() -> nn.Module:
    config = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return T5ForConditionalGeneration(config)


def names(readers: Readers) -> list[list[str]]:
    return [[path.rpartition(".")[2] for path in kind] for kind in readers.kinds]


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (tiny_roberta, [["query", "key", "value"]]),
        (tiny_gpt2, []),  # one map makes all three
        (tiny_llama, [["gate_proj", "up_proj"], ["q_proj", "k_proj", "v_proj"]]),
    ],
)
def test_families(make: Callable[[], nn.Module], kinds: list[list[str]]) -> None:
    assert sorted(names(readers_of(make(), (), {"input_ids": IDS}))) == sorted(kinds)


def test_a_query_of_one_stack_and_keys_of_another() -> None:
    """Beside each other in a module, and yet of different inputs."""
    found = readers_of(tiny_t5(), (), {"input_ids": IDS, "decoder_input_ids": IDS})
    assert sorted(found.kinds) == [
        ("decoder.block.#.layer.#.DenseReluDense.wi_0", "decoder.block.#.layer.#.DenseReluDense.wi_1"),
        ("decoder.block.#.layer.#.EncDecAttention.k", "decoder.block.#.layer.#.EncDecAttention.v"),
        *[tuple(f"decoder.block.#.layer.#.SelfAttention.{name}" for name in "qkv")],
        ("encoder.block.#.layer.#.DenseReluDense.wi_0", "encoder.block.#.layer.#.DenseReluDense.wi_1"),
        *[tuple(f"encoder.block.#.layer.#.SelfAttention.{name}" for name in "qkv")],
    ]


class Attention(nn.Module):
    """Whoever has no keys of its own takes those that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        y: torch.Tensor = self.q(x) + (self.k(x) if kept is None else kept)
        return y + self.v(x)


def test_blocks_that_differ_are_not_sure() -> None:
    """The second one asks for no keys: its query is followed by its value. So nothing is done for either."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Attention() for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.blocks[0](x)
            return y + self.blocks[1](y, kept=y)

    assert readers_of(Model(), (torch.ones(2, 4),), {}).kinds == []


def test_blocks_that_were_not_called_are_like_those_that_were() -> None:
    """Some experts have no token, and some layers are left out at random."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Attention() for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.blocks[1](x)
            return y

    found = readers_of(Model(), (torch.ones(2, 4),), {})
    assert found.among(dict(enumerate(["blocks.2.v", "blocks.0.q", "blocks.0.v", "blocks.2.k", "head"]))) == [
        [3, 0],
        [1, 2],
    ]


def test_an_input_that_was_changed_or_made_anew_is_another() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three, self.four = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.one(x) + self.two(x.add_(1))
            return y + self.three(x[:1]) + self.four(x[:1])

    assert readers_of(Model(), (torch.ones(2, 4),), {}).kinds == []


# -- the input of what is around them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "path", "read"), [(tiny_roberta, "roberta.encoder", True), (tiny_llama, "model", False)]
)
def test_blocks_whose_input_maps_read(make: Callable[[], nn.Module], path: str, read: bool) -> None:
    """Those that begin with a norm do not; a block that was not called is like the others."""
    readers = readers_of(make(), (), {"input_ids": IDS})
    assert readers.read_input_of(f"{path}.layer{'s' * (not read)}.0") is read
    assert readers.read_input_of(f"{path}.layer{'s' * (not read)}.7") is read
    assert not readers.read_input_of("head")


@pytest.mark.parametrize(
    ("change", "read"),
    [
        (lambda x: x, True),
        (lambda x: x.add_(1), False),
        (lambda x: x + 1, False),
        (lambda x: F.dropout(x, training=False), True),
        (lambda x: F.dropout(x, training=False, inplace=True), False),
    ],
    ids=["as it is", "changed", "made anew", "dropped in training", "changed in training"],
)
@pytest.mark.parametrize("by_name", [False, True], ids=["by place", "by name"])
def test_an_input_is_read_as_it_is(change: Callable[[torch.Tensor], torch.Tensor], read: bool, by_name: bool) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"map": nn.Linear(4, 4)})

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.inner["map"](change(hidden))
            return y

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.block(hidden=x) if by_name else self.block(x)
            return y

    assert readers_of(Model(), (torch.ones(2, 4),), {}).read_input_of("block") is read


# -- across a GELU -----------------------------------------------------------------------------------------------------


class FeedForward(nn.Module):
    """Two maps and what is between them."""

    def __init__(self, gelu: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.gelu, self.down = nn.Linear(4, 4), gelu or nn.GELU(), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, *, copied: bool = False) -> torch.Tensor:
        y = self.gelu(self.up(x))
        down: torch.Tensor = self.down(y.clone() if copied else y)
        return down


class Stack(nn.Module):
    """Blocks in a row; those of `copied` have something else between GELU and map."""

    def __init__(self, blocks: Sequence[nn.Module], copied: Collection[int] = (), called: int | None = None) -> None:
        super().__init__()
        self.blocks, self._copied, self._called = nn.ModuleList(blocks), copied, called

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, block in enumerate(self.blocks[: self._called]):
            x = block(x, copied=index in self._copied)
        return x


def across(model: nn.Module, paths: Collection[str]) -> list[tuple[str, ...]]:
    return [tuple(one) for one in readers_of(model, (torch.ones(2, 4),), {}).across(paths)]


MAPS = ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]


def test_maps_of_a_family_with_a_gelu_between_them() -> None:
    model = tiny_roberta()
    maps = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = readers_of(model, (), {"input_ids": IDS}).across(maps)
    assert found
    assert [tuple(one) for one in found] == [
        (f"{block}.intermediate.dense", f"{block}.intermediate.intermediate_act_fn", f"{block}.output.dense")
        for block in (f"roberta.encoder.layer.{index}" for index in range(model.config.num_hidden_layers))
    ]


@pytest.mark.parametrize("called", [None, 1], ids=["called", "like one that was"])
def test_all_blocks_are_alike(called: int | None) -> None:
    found = across(Stack([FeedForward(), FeedForward()], called=called), MAPS)
    assert found == [(f"blocks.{i}.up", f"blocks.{i}.gelu", f"blocks.{i}.down") for i in range(2)]


def test_maps_of_a_model_that_is_a_block_itself() -> None:
    assert across(FeedForward(), ["up", "down"]) == [("up", "gelu", "down")]


def test_only_maps_that_are_asked_for() -> None:
    assert across(Stack([FeedForward(), FeedForward()]), MAPS[:3]) == [
        ("blocks.0.up", "blocks.0.gelu", "blocks.0.down")
    ]


@pytest.mark.parametrize("gelu", [nn.GELU("tanh"), nn.ReLU(), GELUActivation(use_gelu_python=True)], ids=str)
def test_something_else_is_no_gelu(gelu: nn.Module) -> None:
    assert across(Stack([FeedForward(gelu)]), MAPS) == []


def test_nobody_is_sure_where_some_block_is_another() -> None:
    assert across(Stack([FeedForward(), FeedForward()], copied={1}), MAPS) == []


class Within(FeedForward):
    """With something done between GELU and the second map."""

    def __init__(self, between: Callable[[FeedForward, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.drop, self._between = nn.Dropout(0.5, inplace=True), between

    def forward(self, x: torch.Tensor, *, copied: bool = False) -> torch.Tensor:
        y: torch.Tensor = self.down(self._between(self, self.gelu(self.up(x))))
        return y


@pytest.mark.parametrize(
    "between",
    [
        lambda block, y: y.mul_(2),
        lambda block, y: block.drop(y),
        lambda block, y: nn.functional.dropout(y, 0.5, block.training),
        lambda block, y: block.down(y),
    ],
    ids=["changed in place", "dropped", "dropped by a function", "the second before"],
)
def test_what_is_done_between_makes_it_unsure(between: Callable[[FeedForward, torch.Tensor], torch.Tensor]) -> None:
    """Evaluation drops nothing, and hands on the very tensor; in training it is another."""
    assert across(Stack([Within(between)]), MAPS) == []


def test_a_map_that_is_called_elsewhere_too_is_unsure() -> None:
    class Again(FeedForward):
        def forward(self, x: torch.Tensor, *, copied: bool = False) -> torch.Tensor:
            y: torch.Tensor = super().forward(x) + self.up(x)
            return y

    assert across(Stack([Again()]), MAPS) == []


def test_a_map_is_in_one_pair() -> None:
    class Three(FeedForward):
        def __init__(self) -> None:
            super().__init__()
            self.other, self.last = nn.GELU(), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, *, copied: bool = False) -> torch.Tensor:
            y: torch.Tensor = self.last(self.other(super().forward(x)))
            return y

    assert across(Three(), ["up", "down", "last"]) == [("up", "gelu", "down")]
    assert across(Three(), ["down", "last"]) == [("down", "other", "last")]


def test_a_gelu_is_in_one_pair() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gelu = nn.GELU()
            self.one, self.two, self.three, self.four = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.four(self.gelu(self.three(self.two(self.gelu(self.one(x))))))
            return y

    assert len(across(Twice(), ["one", "two", "three", "four"])) == 1


def test_one_gelu_for_all_blocks_is_of_none() -> None:
    gelu = nn.GELU()
    assert across(Stack([FeedForward(gelu), FeedForward(gelu)]), MAPS) == []


# -- the pass itself ---------------------------------------------------------------------------------------------------


def test_nothing_of_the_pass_is_left() -> None:
    model = tiny_roberta()
    model.config.hidden_dropout_prob = 0.5
    dropout = next(module for module in model.modules() if isinstance(module, nn.Dropout))
    dropout.p = 0.5
    model.train()
    model.roberta.embeddings.eval()
    modes = [module.training for module in model.modules()]
    state, drawn = torch.get_rng_state(), []
    handle = dropout.register_forward_hook(lambda module, args, output: drawn.append(module.training))
    readers_of(model, (), {"input_ids": IDS})
    handle.remove()
    assert drawn == [False]
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_autocast_keeps_no_weight_without_a_gradient() -> None:
    """It would serve the pass that follows."""
    model = nn.Sequential(nn.Linear(4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        readers_of(model, (torch.ones(2, 4),), {})
        assert torch.is_autocast_cache_enabled()
        model(torch.ones(2, 4)).sum().backward()
    assert model[0].weight.grad is not None


def test_a_model_that_cannot_be_evaluated_has_none() -> None:
    class Model(Attention):
        def forward(self, x: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
            y = super().forward(x, kept)
            y.retain_grad()
            return y

    model = Model()
    assert readers_of(model, (torch.ones(2, 4),), {}).kinds == []
    assert model.training
    assert not model.q._forward_pre_hooks


def test_what_a_pass_would_change_is_not_passed_twice() -> None:
    assert can_be_passed_again((IDS, None), {"a": [1, 2.0, "x"], "b": (IDS, (True,))})
    assert not can_be_passed_again((), {"past_key_values": DynamicCache()})
