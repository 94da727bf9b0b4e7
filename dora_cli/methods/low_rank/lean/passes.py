"""The training passes over a model, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dora_cli.methods.low_rank.lean.lean_pass import LeanPass
from dora_cli.methods.low_rank.protocols import Group
from dora_cli.methods.low_rank.same_input.readers import NOBODY, Readers, can_be_passed_again, readers_of


class Passes:
    """The training passes over a model, one after the other: each with what the first of its kind has prepared.

    Attributes:
        readers: the maps that read the same input; None until a pass has found them.
        serial: whether captured passes have one stream, as others do, instead of `branches`; read when a pass is the
            first of its kind.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._lean: LeanPass | None = None
        self.readers: Readers | None = None
        self.serial = False

    def forget(self) -> None:
        """What is prepared is of no use any more, or takes up memory that is needed."""
        self._lean = None

    @contextmanager
    def around(self, groups: Sequence[Group], dtype: torch.dtype | None) -> Iterator[None]:
        """One forward and backward pass with less work than autograd's own way, up to rounding the same.

        The parameters' gradients are complete when it ends, not before: whoever sums them over processes does it
        afterwards, and DistributedDataParallel, which sums within `backward`, needs the plain pass. Within it only
        `backward` gives gradients, not `torch.autograd.grad`.

        Where it pays, projections that read the same input are computed together. Which they are is found when the
        model is first called within a pass: just before, it is called once more without gradients, see
        `same_input`.

        Args:
            groups: of all projections; others only after `forget`.
            dtype: autocast's, where autocast is entered within; None means that of the autocast around it, or else the
                factors' own.
        """
        if not groups:  # every projection lost all its components
            yield
            return
        if dtype is None:
            device = groups[0].A.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else groups[0].A.dtype
        if self._lean is None or self._lean.dtype != dtype:
            self._lean = LeanPass(self._model, groups, dtype, serial=self.serial)
            if self.readers is not None:
                self._lean.put_together(self.readers, self._paths(self._lean))
        lean = self._lean
        if lean.drops and not lean.kernels.draws_alike and lean.computes_twice:
            yield
            return
        try:
            lean.begin()
            with self._looking(lean):
                yield
        except BaseException:
            self._lean = None  # with the gradients that it had in part
            lean.give_up()
            raise
        finally:
            lean.end()
        lean.finish()

    @contextmanager
    def _looking(self, lean: LeanPass) -> Iterator[None]:
        """Finds what reads the same input when the model is called, unless that is known or of no use.

        A pass that fails or is interrupted has found nothing: nothing is captured by then, and the next one looks anew.
        """
        if self.readers is not None or not lean.computes_together:
            yield
            return
        paths = self._paths(lean)

        def look(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if torch.compiler.is_compiling():  # the user's own `torch.compile`, which had better not follow all this
                self.readers = NOBODY
                return
            handle.remove()
            self.readers = self._found(args, kwargs)
            lean.put_together(self.readers, paths)

        handle = self._model.register_forward_pre_hook(look, with_kwargs=True)
        try:
            yield
        except BaseException:
            self.readers = None
            raise
        finally:
            handle.remove()

    def _found(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Readers:
        """It is now or never: captured steps rely on weights that stay where they are."""
        if not can_be_passed_again(args, kwargs) or (
            torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        ):
            return NOBODY
        return readers_of(self._model, args, kwargs)

    def _paths(self, lean: LeanPass) -> dict[int, str]:
        """Where its projections are in the model, by their place in the pass, of those that still are in it."""
        found = {id(module): path for path, module in self._model.named_modules()}
        return {place: found[id(layer)] for place, layer in enumerate(lean.layers) if id(layer) in found}
