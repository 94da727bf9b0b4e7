"""A base model's embeddings compiled by `torch.compile` for training passes: what is looked up, its sum, norm and
dropout become one kernel, which writes it in both types that the first block reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from dora_cli.models.fused.both_types import BothTypes
from dora_cli.models.fused.compiler import Alone, Compiler
from dora_cli.models.fused.hashed_dropout import HashedDropouts


class FusedEmbeddings:
    """The module that holds a model's table of tokens, where it does more than to look up, nothing of it trains, and no
    hook is called within it.

    Args:
        module: the embeddings; None where a model has none of their own.
        compiler: for them, around `BothTypes.giving`.
        both: of the pass.
        hashed: likewise; its dropouts are among them.
        alone: likewise.
    """

    def __init__(
        self, module: nn.Module | None, compiler: Compiler, both: BothTypes, hashed: HashedDropouts, alone: Alone
    ) -> None:
        self._module, self._compiler, self._both, self._hashed, self._alone = module, compiler, both, hashed, alone
        self._begun = False

    def begin(self) -> Sequence[nn.Module]:
        """Before the embeddings of a pass; returns those that are computed as they stand."""
        module = self._module
        if module is None:
            return ()
        trains = any(parameter.requires_grad for parameter in module.parameters())
        if trains or self._compiler.failure is not None or "forward" in vars(module) or _has_hooks_within(module):
            return (module,)
        vars(module)["forward"] = partial(self._run, module)
        self._begun = True
        return ()

    def end(self) -> None:
        """After a pass, also one that failed."""
        if self._begun:
            vars(self._module).pop("forward", None)
        self._begun = False

    def _run(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The embeddings' `forward`."""
        self._hashed.begin_block()
        with self._alone.given(args, kwargs) as (args, kwargs):
            done = self._compiler.run(module, self._both.dtype, *args, **kwargs)
            if done is None:
                return type(module).forward(module, *args, **kwargs)
        self._both.note(*done)
        return done[0]


def _has_hooks_within(module: nn.Module) -> bool:
    """Whether something in `module` calls hooks, as for noise on looked-up rows; the compiler looks for them once."""
    return any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in module.modules()
        if part is not module
    )
