"""Compiled embeddings: that they are used, that they change nothing, and when they stay as they stand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NoReturn

import pytest
import torch
from torch import nn

from dora_cli.models.fused import hashed_dropout
from dora_cli.models.fused.both_types import BothTypes
from dora_cli.models.fused.compiler import Backend
from dora_cli.models.fused.fused_blocks import FusedBlocks
from tests.methods.small import new_lora, sites
from tests.models.fused.test_both_types import HALF, WIDTH, Block, assert_same

pytestmark = pytest.mark.usefixtures("together")
WORDS = 11


class Embeddings(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(7, WIDTH)
        self.norm, self.drop = nn.LayerNorm(WIDTH), nn.Dropout(p)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.drop(self.norm(self.words(ids) + self.places(places)))  # type: ignore[no-any-return]


class Model(nn.Module):
    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings, self.blocks = Embeddings(p), nn.ModuleList(Block() for _ in range(2))
        self.requires_grad_(False)
        self.method = new_lora(rank=2, dropout=0.0)
        maps = sites({name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)})
        self.method.attach(self, maps, [], self.method.plan(10, maps))
        for parameter in self.method.parameters():
            nn.init.normal_(parameter)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.words

    def forward(self, ids: torch.Tensor) -> Any:
        x = self.embeddings(ids)
        for block in self.blocks:
            x = block(x)
        return x

    def run(self, fused: FusedBlocks | None, *, width: int = 5, dtype: torch.dtype | None = HALF) -> list[torch.Tensor]:
        """What it gives, and all gradients."""
        self.zero_grad()
        torch.manual_seed(1)
        ids = torch.randint(WORDS, (3, width))
        around = nullcontext() if fused is None else fused.around(dtype)
        with torch.autocast("cpu", HALF, enabled=dtype is not None), self.method.training_pass(), around:
            y = self(ids)
            y.square().sum().backward()
        return [y.detach(), *(one.grad.clone() for one in self.parameters() if one.grad is not None)]


def fused_of(
    model: Model, *, backend: str | Backend = "aot_eager", note: Callable[[str], Any] = pytest.fail, hashed: bool = True
) -> FusedBlocks:
    return FusedBlocks(model, model.method.sites, note=note, backend=backend, hashed=hashed)


class Traced:
    """A backend that runs what was traced as it stands, and knows how many operations each graph has looked up."""

    def __init__(self) -> None:
        self.lookups: list[int] = []

    def __call__(self, graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        names = [str(node.target) for node in graph.graph.nodes]
        self.lookups.append(sum("embedding" in name and "function" in name for name in names))
        found: Callable[..., Any] = graph.forward
        return found


@pytest.mark.parametrize("dtype", [HALF, None], ids=["bf16", "fp32"])
def test_one_graph_of_embeddings_and_one_of_blocks_change_nothing(dtype: torch.dtype | None) -> None:
    """Over two widths; the embeddings first. Outside of a pass nothing is left of it."""
    model, traced = Model(), Traced()
    fused = fused_of(model, backend=traced)
    for width in (5, 6, 5):
        torch.testing.assert_close(
            model.run(fused, width=width, dtype=dtype), model.run(None, width=width, dtype=dtype), rtol=0, atol=1e-6
        )
    assert traced.lookups == [2, 0]
    assert "forward" not in vars(model.embeddings)


def test_the_first_block_has_what_they_give_in_both_types(monkeypatch: pytest.MonkeyPatch) -> None:
    model, handed = Model(), list[bool]()
    of = BothTypes.of

    def watched(self: BothTypes, x: torch.Tensor | None, **more: bool) -> torch.Tensor | None:
        last = self._last
        found = of(self, x, **more)
        handed.append(last is not None and found is not None and found.data_ptr() == last.converted.data_ptr())
        return found

    monkeypatch.setattr(BothTypes, "of", watched)
    fused = fused_of(model)
    assert_same(model.run(fused), model.run(None))
    assert handed == [True, True]
    handle = model.embeddings.register_forward_hook(lambda module, args, y: 2 * y)
    assert_same(model.run(fused), model.run(None))
    assert handed[2:] == [False, True]
    handle.remove()


def test_dropout_is_hashed_where_they_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the mask in the open, which is the first of a pass."""
    model = Model(p=0.5)
    fused = fused_of(model)
    found = model.run(fused)
    seed, threshold = fused._hashed._draws._all[0, 0, 0], round(0.5 * 2**hashed_dropout.HASH_BITS)
    assert fused._hashed._draws._calls == 1 + len(model.blocks)  # each with seeds of its own
    mask = hashed_dropout.hashed_mask(torch.Size([3, 5, WIDTH]), seed, 0, threshold)
    assert 0 < int(mask.sum()) < mask.numel()
    monkeypatch.setattr(model.embeddings, "drop", nn.Identity())
    model.embeddings.register_forward_hook(lambda module, args, y: torch.where(mask, 2 * y, 0.0))
    assert_same(found, model.run(None))


@pytest.mark.parametrize("reason", ["training", "replaced", "on a CPU", "no table", "hooks within"])
def test_they_stay_as_they_stand(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With PyTorch's dropout; parameters that train have their gradients."""
    model, traced, seen = Model(p=0.5), Traced(), list[str]()
    monkeypatch.setattr(hashed_dropout, "hashed_mask", None)
    if reason == "training":
        model.embeddings.norm.requires_grad_(True)
    if reason == "replaced":
        plain = model.embeddings.forward
        model.embeddings.forward = lambda ids: plain(ids)  # type: ignore[method-assign]
    if reason == "hooks within":
        model.embeddings.words.register_forward_hook(lambda module, args, y: seen.append(reason))
    if reason == "no table":
        monkeypatch.setattr(model, "get_input_embeddings", lambda: None)
    fused = fused_of(model, backend=traced, hashed=reason != "on a CPU")
    found = model.run(fused)
    assert traced.lookups == [0]
    assert ("forward" in vars(model.embeddings)) is (reason == "replaced")
    assert (model.embeddings.norm.weight.grad is not None) is (reason == "training")
    assert len(found) > 1
    assert bool(seen) is (reason == "hooks within")


def test_what_becomes_somebody_elses_between_passes_stays_theirs() -> None:
    model = Model()
    fused, plain = fused_of(model), model.embeddings.forward
    expected = model.run(fused)
    mine = model.embeddings.forward = lambda ids: 2 * plain(ids)  # type: ignore[method-assign]
    assert not torch.equal(model.run(fused)[0], expected[0])
    assert vars(model.embeddings)["forward"] is mine


class Writes(Embeddings):
    """Clamps what it is given."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids.clamp_(max=4))


@pytest.mark.parametrize("embeddings", [Embeddings, Writes])
def test_part_of_a_batch_that_is_written_to_is_read_as_it_is(embeddings: type[Embeddings]) -> None:
    """Parts do not begin where their memory does, and are copied once for a pass. Here its embeddings are called twice,
    and their input changes meanwhile, also by themselves; what comes after reads it too.
    """
    model = Model()
    table = model.embeddings
    model.embeddings = embeddings(0.0).requires_grad_(False)
    model.embeddings.load_state_dict(table.state_dict())

    def forward(ids: torch.Tensor) -> torch.Tensor:
        x = model.embeddings(ids)
        ids.add_(1)
        x = x + model.embeddings(ids) + ids[..., None]
        for block in model.blocks:
            x = block(x)
        return x

    model.forward = forward  # type: ignore[method-assign]

    def run(fused: FusedBlocks | None, start: int) -> torch.Tensor:
        whole = torch.arange(18) % 8 + start
        around = nullcontext() if fused is None else fused.around(None)
        with torch.no_grad(), model.method.training_pass(), around:
            return model(whole[1 + start : 16 + start].view(3, 5))  # type: ignore[no-any-return]

    run(None, 0)  # in the first pass the model is called once more, which finds what reads the same input
    traced = Traced()
    fused = fused_of(model, backend=traced)
    for start in (0, 1, 2):
        torch.testing.assert_close(run(fused, start), run(None, start))
    assert traced.lookups.count(2) == 1  # wherever they begin
    assert fused._alone._moved == {}


def test_what_the_compiler_cannot_do_is_said_once_and_blocks_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time with PyTorch's dropout."""
    model, notes, traced = Model(p=0.5), list[str](), Traced()

    def backend(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> Callable[..., Any]:
        run = traced(graph, example)
        return _fails() if traced.lookups[-1] else run

    fused = fused_of(model, backend=backend, note=notes.append)
    model.run(fused)
    monkeypatch.setattr(hashed_dropout, "hashed_mask", None)
    model.run(fused)
    (note,) = notes
    assert note.startswith("embeddings")
    assert note.endswith("no such kernel")
    assert traced.lookups == [2, 0]
    assert fused.failure is None


def _fails() -> NoReturn:
    raise NotImplementedError("no such kernel")
