"""Which linear maps of a model read the same input, as query, key and value do, which read the GELU of what another
gives, and which the input of a module around them as it is, found by one pass over it.

That pass is in evaluation mode and without gradients, and all linear maps count, adapted or not. What is found then
depends on the model's code alone: not on dropout, on layers that are left out at random, on what is adapted at the
moment, or on the step that a run was resumed at. So a run that goes on computes as the one that was not interrupted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

Kind = tuple[str, ...]
"""Paths of maps of one parent that read the same input, in the order of their calls; numbers in the path of the parent
are ``#``: all blocks alike.
"""

_PLAIN = (torch.Tensor, bool, int, float, str, type(None))


class AcrossGelu(NamedTuple):
    """Paths of a map, of a module that gives the GELU of its output, and of the map that reads that."""

    first: str
    gelu: str
    second: str


class Readers:
    """The maps that read the same input, block by block, and those that read the GELU of what another gives.

    Args:
        runs: calls that followed each other, with one input and one parent; maps by path.
        across: calls with a GELU between them.
        around: paths of modules whose first input a map in them reads.
    """

    def __init__(
        self, runs: Sequence[Sequence[str]], across: Sequence[AcrossGelu] = (), around: Collection[str] = ()
    ) -> None:
        self._around = {_without_numbers(path) for path in around}
        seen: dict[str, set[Kind]] = defaultdict(set)
        for run in runs:
            kind = tuple(_of_any_block(path) for path in run)
            for one in kind:
                seen[one].add(kind)
        # what reads an input of its own in some blocks, or at times, is not counted in at all
        self.kinds = sorted({kind for kinds in seen.values() for kind in kinds if len(kind) > 1 and _sure(kind, seen)})
        calls = Counter(_of_any_block(path) for run in runs for path in run)
        found = Counter(AcrossGelu(*map(_of_any_block, one)) for one in across if len(set(map(_numbers, one))) == 1)
        self.kinds_across = sorted(
            kind for kind, count in found.items() if calls[kind.first] == calls[kind.second] == count
        )

    def among(self, paths: Mapping[int, str]) -> list[list[int]]:
        """The keys of those `paths` that read the same input, two or more each, in the order of their calls."""
        places: dict[str, dict[str, int]] = defaultdict(dict)
        for place, path in paths.items():
            places[_parent(path)][_of_any_block(path)] = place
        together = ([known[one] for one in kind if one in known] for known in places.values() for kind in self.kinds)
        return [group for group in together if len(group) > 1]

    def across(self, paths: Collection[str]) -> list[AcrossGelu]:
        """Those of which both maps are among `paths`, in their order; no map or GELU is in two of them."""
        found, taken = list[AcrossGelu](), set[str]()
        for path in paths:
            for kind in self.kinds_across:
                one = AcrossGelu(*(_in_block(part, _numbers(path)) for part in kind))
                if one.first == path and one.second in paths and taken.isdisjoint(one):
                    found.append(one)
                    taken.update(one)
        return found

    def read_input_of(self, path: str) -> bool:
        """Whether a map within the module of this path, or within another block's, reads what that is given."""
        return _without_numbers(path) in self._around


NOBODY = Readers([])
"""None that read the same input."""


def _sure(kind: Kind, seen: Mapping[str, set[Kind]]) -> bool:
    return all(seen[one] == {kind} for one in kind)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _parents(path: str) -> Iterator[str]:
    while path := _parent(path):
        yield path


def _of_any_block(path: str) -> str:
    parent, _, name = path.rpartition(".")
    return f"{_without_numbers(parent)}.{name}"


def _without_numbers(path: str) -> str:
    return ".".join("#" if part.isdigit() else part for part in path.split("."))


def _numbers(path: str) -> tuple[str, ...]:
    """Those of the blocks that it is in."""
    return tuple(part for part in _parent(path).split(".") if part.isdigit())


def _in_block(kind: str, numbers: Sequence[str]) -> str:
    """The path of this kind in the block of these numbers; of another kind of block, any that is nobody's."""
    left = iter(numbers)
    return ".".join(next(left, part) if part == "#" else part for part in kind.split(".") if part)


@torch.no_grad()
def readers_of(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Readers:
    """From one pass of `model` over these arguments; random states and the modules' modes are afterwards as before.

    Nobody is known where the model cannot be called so: it may refuse to be evaluated, or hooks on it may want
    gradients. Whether that is why it failed is not known here; a caller whose training pass over the same arguments
    fails as well has found nothing. Then what remains is a matter of the model's code, the same in every process.
    """
    calls = _Calls()
    with ExitStack() as stack:
        stack.enter_context(_in_evaluation(model))
        stack.enter_context(_without_traces())
        stack.enter_context(_Dropouts(calls))
        stack.enter_context(torch.compiler.set_stance("force_eager"))  # blocks of the user's are not compiled for it
        for path, module in _maps(model).items():
            stack.callback(module.register_forward_pre_hook(partial(calls.note, path)).remove)
            stack.callback(module.register_forward_hook(partial(calls.note_output, path)).remove)
        for path, module in model.named_modules():
            note = partial(calls.note_input, path)
            stack.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
            if is_gelu(module):
                stack.callback(module.register_forward_hook(partial(calls.note_gelu, path)).remove)
        try:
            model.forward(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # of any kind, as the model's code is
            return NOBODY
    return Readers(calls.runs, calls.across, calls.around)


def is_gelu(module: nn.Module) -> bool:
    """Whether it computes GELU itself, no approximation of it."""
    if type(module) is nn.GELU:
        return module.approximate == "none"
    return type(module).__name__ == "GELUActivation" and getattr(module, "act", None) is F.gelu  # transformers' own


def can_be_passed_again(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a pass leaves these arguments as they are, as far as can be seen: a cache of keys would grow."""
    return all(_is_plain(value) for value in (*args, *kwargs.values()))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)


_Version = tuple[torch.Tensor, int]
"""A tensor as it was."""


class _Calls:
    """Calls of maps, in runs of those that read one input, those with a GELU between them, and modules around them
    whose input they read.
    """

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.across: list[AcrossGelu] = []
        self.around: set[str] = set()
        self._inputs: dict[str, tuple[ref[torch.Tensor], int]] = {}  # of modules; no tensor lives longer for it
        self._last: _Version | None = None
        self._made: tuple[str, _Version] | None = None  # by the latest map
        self._activated: tuple[str, str, _Version] | None = None  # the GELU of that

    def forget(self) -> None:
        """What comes next reads nothing of what came before, as far as GELU goes."""
        self._made = self._activated = None

    def forget_inputs(self) -> None:
        """What comes next reads no module's input as it was given."""
        self._inputs.clear()

    def note_input(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x = next(chain(args, kwargs.values()), None)
        if isinstance(x, torch.Tensor):
            self._inputs[path] = ref(x), x._version

    def note_output(self, path: str, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        present = _present(output)
        self._made = None if present is None else (path, present)

    def note_gelu(self, path: str, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        made, present, self._activated = self._made, _present(output), None
        if made is not None and present is not None and _is_same(made[1], _present(args[0] if args else None)):
            self._activated = made[0], path, present

    def note(self, path: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        present = _present(args[0] if args else None)
        if self._activated is not None and _is_same(self._activated[2], present):
            self.across.append(AcrossGelu(self._activated[0], self._activated[1], path))
        self.forget()
        self.around.update(outer for outer in _parents(path) if self._is_input(outer, present))
        if present is not None and self._goes_on(path, present):
            self.runs[-1].append(path)
        else:
            self.runs.append([path])
        self._last = present

    def _is_input(self, path: str, present: _Version | None) -> bool:
        known = self._inputs.get(path)
        return known is not None and _is_same((known[0](), known[1]), present)

    def _goes_on(self, path: str, present: _Version) -> bool:
        if not _is_same(self._last, present):
            return False
        run = self.runs[-1]
        return _parent(path) == _parent(run[0]) and path not in run


class _Dropouts(TorchFunctionMode):
    """Notes dropouts, which give in evaluation what they are given."""

    def __init__(self, calls: _Calls) -> None:
        super().__init__()
        self._calls = calls

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if "dropout" in getattr(func, "__name__", ""):
            self._calls.forget()
            if (kwargs or {}).get("inplace") or func.__name__.endswith("_"):  # in training it changes what it is given
                self._calls.forget_inputs()
        return func(*args, **(kwargs or {}))


def _present(x: object) -> _Version | None:
    return (x, x._version) if isinstance(x, torch.Tensor) else None


def _is_same(one: tuple[torch.Tensor | None, int] | None, other: _Version | None) -> bool:
    return one is not None and other is not None and one[0] is other[0] and one[1] == other[1]


def _maps(model: nn.Module) -> dict[str, nn.Module]:
    """Linear maps and those with an adapter by path, without what is in them."""
    found: dict[str, nn.Module] = {}
    inner: set[nn.Module] = set()
    for path, module in model.named_modules():
        if module in inner:
            continue
        if hasattr(module, "lean") or isinstance(module, nn.Linear | Conv1D):
            found[path] = module
            inner.update(module.modules())
    return found


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """By the flag alone: `train` and `eval` may do more in some models."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _without_traces() -> Iterator[None]:
    """Nothing is drawn for others, and autocast keeps no copy that has no gradient."""
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)
