"""How often a run has Triton compile its kernels: once each, whatever changes within the run.

Triton compiles anew where an integer becomes 1, a multiple of 16, or neither, and where the place of a tensor does, if
the kernel does not say that this argument is not to be specialised. Which ones do is read from the source; where there
is Triton, it is asked what it would compile, for a device that need not be there.
"""

from __future__ import annotations

import ast
import os
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dora_cli.methods.bottleneck.layer import Tensors
from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.same_input.products import Wide
from dora_cli.models.short_attention.operators import Drawn, Given
from tests.methods.small import SmallEncoder, linear_maps, new_dora, sites

PACKAGE = Path(__file__).parents[2] / "dora_cli"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "@triton.jit" in path.read_text(encoding="utf-8"))

VARY = re.compile(
    r"(rows|seeds|number|paired|sweeps|tied|length|stride_(u|out)|(text|row)_mask)|(rank|splits|call|seed|place|block)\d?"
)
"""Arguments that differ within a run and make no load of a row wider."""

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


# -- what the source says ----------------------------------------------------------------------------------------------


def jitted(path: Path) -> dict[str, tuple[ast.FunctionDef, list[str]]]:
    """Functions that Triton compiles, by name, with the arguments that they do not specialise."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called) == "triton.jit":
                given = decorator.keywords if isinstance(decorator, ast.Call) else []
                said = [ast.literal_eval(each.value) for each in given if each.arg == "do_not_specialize"]
                found[node.name] = node, [name for names in said for name in names]
    return found


def launched(functions: dict[str, tuple[ast.FunctionDef, list[str]]]) -> set[str]:
    """Those that none of the others calls."""
    called = {
        call.func.id
        for node, _ in functions.values()
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
    }
    return set(functions) - called


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_varies_is_not_specialised(path: Path) -> None:
    functions = jitted(path)
    kernels = launched(functions)
    assert kernels
    for name in kernels:
        node, said = functions[name]
        vary = [argument.arg for argument in node.args.args if VARY.fullmatch(argument.arg)]
        assert sorted(said) == sorted(vary), f"{path.name}: {name}"  # Triton takes no notice of a name that is none


def test_the_kernels_are_found() -> None:
    names = {path.stem for path in FILES}
    assert {"triton_kernels", "triton_many", "triton_flatness", "triton_jacobi", "triton_step_bound"} <= names
    found = jitted(PACKAGE / "methods" / "low_rank" / "arithmetic" / "triton_kernels.py")
    assert launched(found) == {"_down", "_up", "_outer", "_prepare", "_collect", "_collect_gated"}


# -- what Triton would compile -----------------------------------------------------------------------------------------


class NoDevice:
    """What Triton asks a driver before it compiles, for an H100."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    number = -1  # kernels that other tests have compiled are known on devices that are there

    def get_current_device(self) -> int:
        return self.number

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Kernels, and what each would have been compiled for; nothing is compiled or launched."""
    if INTERPRETED:
        pytest.skip("the interpreter compiles nothing")
    triton = pytest.importorskip("triton")
    if not (hasattr(triton, "knobs") and hasattr(triton.runtime.driver, "_active")):
        pytest.skip("this Triton has no such hook")
    found: set[tuple[str, str]] = set()

    def note(*, key: object, fn: Any, **_: object) -> bool:
        found.add((f"{fn.module}.{fn.name}", str(key)))
        return True  # goes no further

    monkeypatch.setattr(triton.runtime.driver, "_active", NoDevice())
    monkeypatch.setattr(triton.knobs.runtime, "jit_cache_hook", note)
    return found


@pytest.fixture
def needed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Kernels, and the bytes of memory that a block of each needs on an H100; nothing is launched."""
    if INTERPRETED:
        pytest.skip("the interpreter compiles nothing")
    triton = pytest.importorskip("triton")
    if not hasattr(triton.runtime.driver, "_active"):
        pytest.skip("this Triton has no such hook")
    from dora_cli.methods.triton_launch import Launch

    found: list[tuple[str, int]] = []

    def compile_it(self: Launch, *arguments: Any) -> None:
        made = self._kernel.warmup(*arguments, *self._constants, grid=self.grid, **self._options)
        found.append((self._kernel.__name__, made.metadata.shared))

    monkeypatch.setattr(triton.runtime.driver, "_active", NoDevice())
    monkeypatch.setattr(Launch, "__call__", compile_it)
    return found


def names(asked: set[tuple[str, str]]) -> list[str]:
    return sorted(name.rsplit(".", 1)[1] for name, _ in asked)


def kernels(projections: int = 4, *, wide: bool = False) -> Any:
    from dora_cli.methods.low_rank.arithmetic.triton_kernels import TritonKernels
    from dora_cli.methods.low_rank.same_input.triton_many import TritonMany

    made = TritonKernels(torch.device("cpu"), projections, wide=wide, many=TritonMany)
    made.begin()
    return made


def factor(rank: int, width: int, dtype: torch.dtype) -> Factor:
    return Factor(torch.zeros(rank, width, dtype=dtype), rank)


class Loading(NoDevice):
    """Such a driver that takes note of who loads what."""

    number = -2

    def __init__(self) -> None:
        self.loaded: list[tuple[str, bool]] = []  # and whether by the main thread
        self.launched: list[str] = []
        self.utils = self

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448}

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *_: self.launched.append(metadata.name)

    def load_binary(self, name: str, *_: object) -> tuple[int, int, int, int, int]:
        self.loaded.append((name, threading.current_thread() is threading.main_thread()))
        return 1, 1, 0, 0, 1024


def test_what_is_announced_can_be_launched_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled and loaded once each, by other threads."""
    if INTERPRETED:
        pytest.skip("the interpreter compiles nothing")
    triton = pytest.importorskip("triton")
    if not (hasattr(triton, "AsyncCompileMode") and hasattr(triton.runtime.driver, "_active")):
        pytest.skip("this Triton compiles one kernel after the other")
    from dora_cli.methods.triton_launch import announced

    driver = Loading()
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)
    made, A = kernels(), factor(3, 80, torch.float32)

    def work() -> None:
        for rows in (40, 50):  # one kernel for both
            u = made.down(torch.zeros(rows, 80), A, None)
            made.up(torch.zeros(rows, 80), u, A, None, torch.zeros(rows, 80))

    with ThreadPoolExecutor(2) as pool, announced(pool):
        work()
    assert sorted(driver.loaded) == [("_down", False), ("_up", False)]
    assert driver.launched == []
    work()
    assert driver.launched == ["_down", "_up"] * 2
    assert len(driver.loaded) == 2


def test_what_cannot_be_loaded_says_so_when_it_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:
        pytest.skip("the interpreter compiles nothing")
    triton = pytest.importorskip("triton")
    if not (hasattr(triton, "AsyncCompileMode") and hasattr(triton.runtime.driver, "_active")):
        pytest.skip("this Triton compiles one kernel after the other")
    from dora_cli.methods.triton_launch import announced

    class Broken(Loading):
        number = -3

        def load_binary(self, name: str, *_: object) -> tuple[int, int, int, int, int]:
            raise RuntimeError("the driver is too old")

    monkeypatch.setattr(triton.runtime.driver, "_active", Broken())
    made, A = kernels(), factor(3, 80, torch.float32)
    with ThreadPoolExecutor(2) as pool, announced(pool):
        made.down(torch.zeros(40, 80), A, None)
    with pytest.raises(RuntimeError, match="the driver is too old"):
        made.down(torch.zeros(40, 80), A, None)


ROWS = 1, 7, 16, 24, 40, 112, 128, 168, 512, 1000
"""Whole batches and the last one, some in one part for `outer`, none with blocks of another size."""


@TYPES
def test_rows_ranks_and_seeds(dtype: torch.dtype, asked: set[tuple[str, str]]) -> None:
    made, width = kernels(), 64
    for index, rows in enumerate(ROWS):
        for rank in (1, 3, 12, 16):
            x, u, A = (
                torch.zeros(rows, width, dtype=dtype),
                torch.zeros(rows, rank, dtype=dtype),
                factor(rank, 64, dtype),
            )
            drop = made.drop(x, 0.1, index % 4)
            made.down(x, A, drop)
            made.up(x, u, A, drop, x)
            made.up(x, u, A, None, x, gelu=torch.zeros_like(x))
            made.up(x, u, A, drop, x, gelu_of=torch.zeros_like(x))
            made.outer(torch.zeros(8, rank, width), u, x, drop)
            made.collect(torch.zeros(8, rank, width), torch.zeros(rank, width))
            two, gates = torch.zeros(rank, width), torch.zeros(rank)
            made.collect_gated(torch.zeros(8, rank, width), two, gates, two, gates, 1.0)
            copies = torch.zeros(rank, width, dtype=dtype), torch.zeros(rank, width, dtype=dtype)
            made.prepare((two, two, gates), *copies, 1.0)
    assert names(asked) == ["_collect", "_collect_gated", "_down", "_outer", "_prepare", "_up", "_up", "_up"]


@pytest.mark.parametrize(("wide", "kinds"), [(False, 1), (True, 2)])
def test_small_activations_load_wide_where_all_ranks_let_them(
    wide: bool, kinds: int, asked: set[tuple[str, str]]
) -> None:
    """Then what is left of 32 without four that are tied is of another kind."""
    made, x = kernels(wide=wide), torch.zeros(40, 64)
    u = torch.zeros(40, 32)
    for tied in (0, 4):
        made.outer(torch.zeros(8, 32 - tied, 64), u[:, tied:], x, None)
    assert names(asked) == ["_outer"] * kinds


@TYPES
def test_several_projections_at_once(dtype: torch.dtype, asked: set[tuple[str, str]]) -> None:
    made, widths = kernels(), (64, 32, 32)
    many = made.many()
    for rows in ROWS:
        for ranks in ((12, 12, 12), (16, 16, 16), (1, 0, 7)):
            x, dy = torch.zeros(rows, 48, dtype=dtype), torch.zeros(rows * 128, dtype=dtype)
            A = [factor(rank, 48, dtype) for rank in ranks]
            B_t = [factor(rank, width, dtype) for rank, width in zip(ranks, widths, strict=True)]
            drops = [made.drop(x, 0.1, i) if rank else None for i, rank in enumerate(ranks)]
            u = many.down(Wide.same(x, 3), A, drops)
            base = Wide.beside(dy, rows, widths)
            many.up(base, u, B_t, base)
            many.up_sum(x, u, A, drops, x)
            many.outer(_sums(ranks, [48] * 3), u, Wide.same(x, 3), drops)
    assert names(asked) == ["_down", "_outer", "_up", "_up_sum"]


def _sums(ranks: Sequence[int], widths: Sequence[int]) -> list[torch.Tensor | None]:
    return [torch.zeros(8, rank, width) if rank else None for rank, width in zip(ranks, widths, strict=True)]


@TYPES
def test_rows_of_bottlenecks(dtype: torch.dtype, asked: set[tuple[str, str]]) -> None:
    from dora_cli.methods.bottleneck.triton_kernels import TritonKernels

    made, m, width = TritonKernels(torch.device("cpu"), 64), 8, 64
    own = Tensors(*(torch.zeros(shape, dtype=dtype) for shape in ((m, width), (m,), (width, m), (width,))))
    sums = Tensors(*(torch.zeros(8, *tensor.shape) for tensor in vars(own).values()))
    for rows in ROWS:
        y, small = torch.zeros(rows, width, dtype=dtype), torch.zeros(rows, m, dtype=dtype)
        made.enter(y, own, "gelu")
        made.leave(y, small, own)
        made.back_in(y, small, own.W_up, "gelu")
        made.back_out(y, small, own.W_down)
        made.collect(sums, y, small, y, small)
    assert names(asked) == ["_into", "_into", "_out_of", "_out_of", "_sums", "_sums"]  # forward and backward


def attention_of(kernels: Any, length: int, width: int, dtype: torch.dtype, dropout: float, *, padded: bool) -> None:
    """Both passes over two texts; a projection has written queries, keys and values beside each other."""
    memory = torch.zeros(2, length, 3, 4, width, dtype=dtype)
    query, key, value = (memory[:, :, place].transpose(1, 2) for place in range(3))
    mask = torch.ones(2, 1, 1, length, dtype=torch.bool).expand(2, 1, length, length) if padded else None
    seed = torch.tensor(1)
    kernels.forward(Given(query, key, value, mask, Drawn(seed, 1, dropout), 0.1))
    gradient = torch.zeros(2, length, 4, width, dtype=dtype)
    for into in (torch.zeros_like(memory).unbind(2), [torch.zeros_like(gradient) for _ in range(3)]):
        kernels.backward(gradient, Given(query, key, value, mask, Drawn(seed, 2, dropout), 0.1), into)


def test_lengths_of_short_texts(asked: set[tuple[str, str]]) -> None:
    """Two sizes of blocks, whatever the widths of batches."""
    from dora_cli.models.short_attention.triton_kernels import TritonAttention

    made = TritonAttention()
    for length in (1, 8, 16, 24, 40, 64, 72, 112, 128):
        attention_of(made, length, 32, torch.bfloat16, 0.1, padded=True)
    assert names(asked) == ["_backward", "_backward", "_forward", "_forward"]


@pytest.mark.parametrize("length", [64, 128])
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_attention_of_short_texts_needs_what_is_said(
    length: int, width: int, dropout: float, needed: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more than the memory that it asks for."""
    from dora_cli.models.short_attention import triton_kernels as room

    attention_of(room.TritonAttention(), length, width, torch.bfloat16, dropout, padded=True)
    assert [name for name, _ in needed] == ["_forward", "_backward", "_backward"]
    most = max(size for _, size in needed)
    for memory, enough in ((most - 1, False), (2 * most, True)):
        monkeypatch.setattr(room, "shared_memory", lambda _, memory=memory: memory)
        assert room.has_memory(torch.device("cuda"), length, width) is enough


def test_ranks_of_matrices_and_of_noise(asked: set[tuple[str, str]]) -> None:
    from dora_cli.methods.low_rank.gradients.triton_jacobi import jacobi
    from dora_cli.methods.low_rank.noise.triton_flatness import deviations

    for rank in (1, 3, 8, 12, 16):
        jacobi(torch.zeros(5, rank, rank, dtype=torch.float64))
        layer: Any = SimpleNamespace(A=torch.zeros(rank, 64), B=torch.zeros(rank, 64).T, c=None, scaling=1.0)
        deviations(layer, torch.zeros(64, 64), torch.zeros(()), torch.zeros(64))
    assert names(asked) == ["_deviate", "_jacobi"]


def test_components_and_their_variances(asked: set[tuple[str, str]]) -> None:
    from dora_cli.methods.dora.triton_importance import add_variance_gradients

    for rows in (1, 3, 16, 40):
        both = torch.zeros(rows, 64), torch.zeros(rows, 48)
        add_variance_gradients(both, both, 0.1)
    assert names(asked) == ["_variance_gradients"]


def test_how_much_is_updated_and_how_many_bad_steps_pass(
    asked: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora_cli.training import ledger
    from dora_cli.training.update.triton_adamw import Blocks, tensors_of

    monkeypatch.setattr(ledger, "takes_triton", lambda _: True)
    cpu = torch.device("cpu")
    for blocks in (1, 3, 16, 17):
        trained = [nn.Parameter(torch.zeros(1024)) for _ in range(blocks)]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimizer = torch.optim.AdamW(trained, lr=torch.zeros(()), capturable=True)
        made = Blocks(optimizer.param_groups[0], tensors_of(optimizer) or [], cpu)
        skipped = ledger.Ledger(cpu, skip_nonfinite=blocks, scaled=False).judge(made.clip(1.0))
        made.step(skipped)
        made.clear()
    assert names(asked) == ["_adamw", "_clear", "_count", "_judge", "_norm", "_squares"]


@pytest.mark.parametrize(("dtype", "rank"), [(torch.bfloat16, 40), (torch.bfloat16, 64), (torch.float32, 128)])
def test_blocks_fit_into_the_memory_of_a_multiprocessor(
    dtype: torch.dtype, rank: int, needed: list[tuple[str, int]]
) -> None:
    """By what the compiled kernels need, with dropout and without, tied components too."""
    made, memory = kernels(), 232448
    made._memory = memory
    many = made.many()
    for rows, width in ((64, 3072), (4096, 768)):
        x, u, A = (
            torch.zeros(rows, width, dtype=dtype),
            torch.zeros(rows, rank, dtype=dtype),
            factor(rank, width, dtype),
        )
        for drop in (None, made.drop(x, 0.1, 0)):
            made.down(x, A, drop)
            made.outer(torch.zeros(8, rank, width), u, x, drop)
            both = many.down(Wide.same(x, 2), [A, A], [drop, drop])
            many.outer(_sums([rank, rank], [width, width]), both, Wide.same(x, 2), [drop, drop])
        made.down(x, A, drop, tied=rank // 2)
    assert len(needed) == 2 * (2 * 4 + 1)
    assert {name for name, _ in needed} == {"_down", "_outer"}
    assert all(0 < bytes_ <= memory for _, bytes_ in needed)


# -- a run -------------------------------------------------------------------------------------------------------------


def test_a_run_compiles_in_its_first_step_alone(asked: set[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of whole batches and of the last one of an epoch, and with the ranks that are left of a selection."""
    from dora_cli.methods.low_rank.lean import lean_pass as lean

    monkeypatch.setattr(lean, "kernels_for", lambda device, dtype, projections, ranks: kernels(projections))
    torch.manual_seed(0)
    model = SmallEncoder(d=16, h=32).requires_grad_(False)
    dora = new_dora(rank=3, start_rank=6, dropout=0.1, prune_interval=1)
    projections = sites(linear_maps(model, "blocks"))
    schedule = dora.plan(10, projections)
    dora.attach(model, projections, [], schedule, seed=1)
    known: set[tuple[str, str]] = set()
    for step in range(1, 11):
        x = torch.randn(7 if step % 3 == 0 else 32 * step, 16)
        with dora.training_pass():
            model(x).sum().backward()
        _go_on(dora.parameters())  # nothing was launched
        dora.adjust_gradients()
        dora.observe(None)
        dora.advance(step)
        known = known or set(asked)
    ranks = {item.rank for item in dora.allocation()}
    assert dora.frozen
    assert len(ranks) > 1
    assert asked == known
    assert {"_down", "_up", "_outer", "_prepare", "_collect_gated"} <= set(names(known))


@torch.no_grad()
def _go_on(parameters: Sequence[nn.Parameter]) -> None:
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.normal_()
        parameter.normal_()
