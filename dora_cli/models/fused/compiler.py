"""`torch.compile` for modules of a model that is trained: a class of them at a time, and no more once it has failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo.config as dynamo_config
import torch._functorch.config as functorch_config
import torch.fx.experimental._config as shapes_config
from torch import nn

Note = Callable[[str], None]
Backend = Callable[[torch.fx.GraphModule, list[torch.Tensor]], Callable[..., Any]]

_KINDS = 256
"""How many kinds of pass are compiled in a process, of all classes of modules, and of other runs in it too."""


class Compiler:
    """Compiles the `forward` of classes of modules when they are first run, with all sizes open.

    What it cannot do is said once, and from there on it does nothing more.

    Args:
        what: the modules, in the plural.
        around: makes what is compiled of a `forward`.
        note: told why they are no longer compiled.
        device: of the model.
        deterministic: whether kernels may not be chosen by their speed.
        backend: what makes kernels of what is traced, itself or by PyTorch's name.

    Attributes:
        failure: why modules are computed as they stand; None where they are not.
    """

    def __init__(
        self,
        what: str,
        around: Callable[[Callable[..., Any]], Callable[..., Any]],
        *,
        note: Note,
        device: torch.device,
        deterministic: bool,
        backend: str | Backend,
    ) -> None:
        self._what, self._around, self._note = what, around, note
        self._device, self._deterministic, self._backend = device, deterministic, backend
        self._compiled: dict[type, Callable[..., Any]] = {}
        self.failure: str | None = None

    def run(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What `around` has made of the module's `forward`, of these arguments; None where it fails, or has."""
        if self.failure is not None:
            return None
        try:
            with _compiling():
                return self._forward_of(type(module))(module, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of many kinds; what is the model's own comes again where it runs as it stands
            self.failure = _first_line(error)
            self._note(f"{self._what} are not fused by torch.compile, which would be faster: {self.failure}")
            return None

    def _forward_of(self, kind: type[nn.Module]) -> Callable[..., Any]:
        if kind not in self._compiled:
            options = self._options() if self._backend == "inductor" else None
            forward = self._around(kind.forward)
            self._compiled[kind] = torch.compile(forward, dynamic=True, backend=self._backend, options=options)
        return self._compiled[kind]

    def _options(self) -> dict[str, str | int | bool | Callable[..., Any]]:
        """Inductor's. What seams were given is read on a GPU after they have returned, see `lean.branches`, which
        has it until then; so no memory may be written to again while anybody has it.
        """
        own: dict[str, str | int | bool | Callable[..., Any]] = {"deterministic": True} if self._deterministic else {}
        return own | {"allow_buffer_reuse": False, "inplace_buffers": False} if self._device.type == "cuda" else own


class Alone:
    """Tensors of integers that lie alone in memory, the same for all modules of a pass.

    A batch comes to a GPU in one piece of memory. Code that is compiled for a tensor of it, as where texts begin, takes
    none that begins elsewhere in its memory, as copies that captured work reads do.
    """

    def __init__(self) -> None:
        self._moved: dict[int, _Moved] = {}

    @contextmanager
    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """The same arguments, or copies of them as they are now; what is written to a copy within it is written to what
        it is of.
        """
        yield tuple(map(self._of, args)), {name: self._of(value) for name, value in kwargs.items()}
        for moved in self._moved.values():
            moved.write_back()

    def _of(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.is_floating_point() or value.is_inference():
            return value
        if not value.storage_offset():
            return value
        moved = self._moved.get(id(value))
        if moved is None or not moved.is_current:
            moved = self._moved[id(value)] = _Moved(value)
        return moved.copy

    def end(self) -> None:
        """After a pass."""
        self._moved.clear()


class _Moved:
    """A tensor, which it keeps so that no other takes its number, and a copy of it."""

    def __init__(self, value: torch.Tensor) -> None:
        self.value, self.copy = value, value.clone()
        self._versions = value._version, self.copy._version

    @property
    def is_current(self) -> bool:
        """Whether nobody has written to the tensor since."""
        return self.value._version == self._versions[0]

    def write_back(self) -> None:
        if self.copy._version != self._versions[1]:
            self.value.copy_(self.copy)
            self._versions = self.value._version, self.copy._version


@contextmanager
def _compiling() -> Iterator[None]:
    """How modules are compiled, where that is due.

    The backward pass is compiled together with the forward pass, so that what fails, fails there, with nothing done
    yet. Dimensions that happen to be equal in one batch, as its rows and a head's width, are not taken for the same.
    Floats of a model are constants: those that could change are traced as numbers first, and then all once more.
    """
    with (
        functorch_config.patch(force_non_lazy_backward_lowering=True),
        shapes_config.patch(use_duck_shape=False),  # type: ignore[attr-defined]
        dynamo_config.patch(recompile_limit=_KINDS, specialize_float=True),
    ):
        yield


def _first_line(error: Exception) -> str:
    """The first line that an error says something in, of one within the compiler the inner one's."""
    inner = getattr(error, "inner_exception", error)
    lines = (line.strip().rstrip(":") for line in str(inner).splitlines())
    return next(filter(None, lines), type(inner).__name__)[:200]
