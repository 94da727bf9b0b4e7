"""The blocks of a base model compiled by `torch.compile` for training passes: norms, activations, residuals and
dropouts become a few kernels, forward and backward.

Blocks of one class share their code, and widths are left open, so a family is compiled once, whatever its depth:
projections are called through `Seam`, which makes all blocks look alike. The compiler keeps what it has made in a
folder of the user (`TORCHINDUCTOR_CACHE_DIR`), where a later run finds it.

Modules, parameters and their names stay what they are; outside a pass nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from dora_cli.methods.base import Site
from dora_cli.methods.low_rank.arithmetic.dropout import is_drawn_fast
from dora_cli.methods.low_rank.lean.seam import Joint, Seam, can_be_seam, found_readers
from dora_cli.methods.low_rank.lean.seam_pair import SeamPair, can_be_pair
from dora_cli.methods.low_rank.same_input.products import MANY
from dora_cli.methods.low_rank.same_input.readers import Readers, is_gelu
from dora_cli.models.attention_masks import masks_always_made
from dora_cli.models.fused.both_types import BothTypes, hidden_of
from dora_cli.models.fused.compiler import Alone, Backend, Compiler, Note
from dora_cli.models.fused.fused_embeddings import FusedEmbeddings
from dora_cli.models.fused.hashed_dropout import HashedDropouts
from dora_cli.models.short_attention.operators import is_within
from dora_cli.models.structure.blocks import find_blocks
from dora_cli.models.structure.embeddings import embeddings_of


class FusedBlocks:
    """The blocks of one model, compiled when they are first called within `around`.

    What the compiler cannot do is said once, and from there on blocks are computed as they stand.

    Args:
        model: with a method attached that `fuses`, on the device that it stays on.
        sites: the method's; the projections there become seams.
        note: told why blocks are no longer compiled.
        deterministic: whether the compiler may not choose kernels by their speed.
        backend: what makes kernels of what is traced, itself or by PyTorch's name.
        hashed: whether dropouts are hashed in place of being drawn by the compiler, and embeddings are compiled too;
            None for a GPU alone.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        *,
        note: Note,
        deterministic: bool = False,
        backend: str | Backend = "inductor",
        hashed: bool | None = None,
    ) -> None:
        self._model, self._device = model, next(model.parameters()).device
        blocks = [block for block in find_blocks(model) if "forward" not in vars(block.module)]
        self._blocks, self._block_paths = [block.module for block in blocks], [block.name for block in blocks]
        bases = {id(site.module) for site in sites}
        paths = {module: path for path, module in model.named_modules()}
        self._places = [
            (parent, name, f"{paths[parent]}.{name}")
            for block in self._blocks
            for parent in block.modules()
            if not hasattr(parent, "lean")
            for name, child in parent._modules.items()
            if child is not None and (id(child) in bases or id(getattr(child, "base", None)) in bases)
        ]
        self._gelus = {path: module for module, path in paths.items() if is_gelu(module)}
        is_hashed = self._device.type == "cuda" if hashed is None else hashed
        embeddings = embeddings_of(model) if is_hashed else None
        dropping = [*self._blocks, *filter(None, [embeddings])]
        self._dropouts = [module for part in dropping for module in part.modules() if type(module) is nn.Dropout]
        self._hashed = HashedDropouts(dropping if is_hashed else [], self._device)
        self._both, self._alone = BothTypes(), Alone()
        compiler = partial(Compiler, note=note, device=self._device, deterministic=deterministic, backend=backend)
        self._compiler = compiler("blocks", self._both.around)
        of_embeddings = compiler("embeddings", self._both.giving)
        self._embeddings = FusedEmbeddings(embeddings, of_embeddings, self._both, self._hashed, self._alone)
        self._seams: dict[nn.Module, Seam] = {}
        self._joints: dict[tuple[Seam, ...], Joint] = {}
        self._pairs: dict[tuple[Seam, nn.Module, Seam], SeamPair] = {}

    @property
    def failure(self) -> str | None:
        """Why blocks are computed as they stand; None where they are not."""
        return self._compiler.failure

    @contextmanager
    def around(self, dtype: torch.dtype | None) -> Iterator[None]:
        """The forward and backward pass of a training step, within the method's own pass.

        Seams take their places when the model is called: the method's pass, which began before, looks at it as it
        stands, and has found by then what reads the same input.

        Args:
            dtype: autocast's; None without.
        """
        if self.failure is not None:
            yield
            return
        # on the CPU a pass draws dropout in a way of its own, which the compiler could not fuse
        own = [(dropout, vars(dropout).pop("forward")) for dropout in self._dropouts if is_drawn_fast(dropout)]
        replaced: list[tuple[nn.Module, str, nn.Module]] = []

        def begin(_: nn.Module, args: tuple[Any, ...]) -> None:
            handle.remove()
            readers = next(filter(None, map(found_readers, self._present())), None)
            self._replace(dtype, replaced)
            self._join(readers)
            read = readers is not None and all(map(readers.read_input_of, self._block_paths))
            self._both.begin(dtype if read else None)
            self._hashed.begin(left_out=self._embeddings.begin())
            for block in self._blocks:
                vars(block)["forward"] = partial(self._run, block)

        handle = self._model.register_forward_pre_hook(begin)
        try:
            # within a capture nothing can be compiled; what would have to be runs as it stands. A block that met no
            # mask before it would have to be, since a capture makes one always
            on_gpu = self._device.type == "cuda"
            capturing = on_gpu and torch.cuda.is_current_stream_capturing()
            with (
                torch.compiler.set_stance("eager_on_recompile") if capturing else nullcontext(),
                masks_always_made() if on_gpu else nullcontext(),
            ):
                yield
        finally:
            handle.remove()
            for block in self._blocks:
                vars(block).pop("forward", None)
            self._embeddings.end()
            self._both.end()
            self._hashed.end()
            for dropout, forward in own:
                vars(dropout).setdefault("forward", forward)
            for parent, name, module in replaced:
                parent._modules[name] = module
            for seam in self._seams.values():
                seam.end()
            for joint in self._joints.values():
                joint.end()
            for pair in self._pairs.values():
                pair.end()
            self._alone.end()

    def _replace(self, dtype: torch.dtype | None, replaced: list[tuple[nn.Module, str, nn.Module]]) -> None:
        """Puts seams in the places of projections; adds to `replaced` what was there."""
        seams: dict[nn.Module, Seam] = {}
        for parent, name, _ in self._places:
            module = parent._modules[name]
            assert module is not None
            if not can_be_seam(module):
                continue
            seam = seams[module] = self._seams.get(module) or Seam(module, self._both.entry)
            seam.begin(dtype)
            seam.train(module.training)
            replaced.append((parent, name, module))
            parent._modules[name] = seam
        self._seams = seams

    def _present(self) -> list[nn.Module]:
        """What is in the places of projections."""
        found = (parent._modules[name] for parent, name, _ in self._places)
        return [module for module in found if module is not None]

    def _join(self, readers: Readers | None) -> None:
        """Has the seams of what reads the same input, if that is known, computed by one operator, and a GELU between
        two by them, in all blocks alike: also where some of them have no component any more.
        """
        before, self._joints = self._joints, {}
        pairs_before, self._pairs = self._pairs, {}
        if readers is None:
            return
        seams: dict[int, Seam] = {}
        for place, module in enumerate(self._present()):
            if isinstance(module, Seam) and module not in seams.values():
                seams[place] = module
        for places in readers.among({place: self._places[place][2] for place in seams}):
            for start in range(0, len(places), MANY):
                part = tuple(seams[place] for place in places[start : start + MANY])
                if len(part) > 1 and len({seam.dtype for seam in part}) == 1:
                    self._joints[part] = before.get(part) or Joint(part)
                    self._joints[part].begin(keeps=is_within())
        by_path = {self._places[place][2]: seam for place, seam in seams.items()}
        for first, gelu, second in readers.across(by_path):
            if gelu not in self._gelus:
                continue
            key = by_path[first], self._gelus[gelu], by_path[second]
            if can_be_pair(*key):
                self._pairs[key] = pairs_before.get(key) or SeamPair(*key)
                self._pairs[key].begin()

    def _run(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """A block's `forward`."""
        self._hashed.begin_block()
        given = hidden_of(args, kwargs)
        with self._alone.given(*_differentiable(block, args, kwargs)) as (args, kwargs):
            if self.failure is None:
                converted = self._both.of(given, unread=hidden_of(args, kwargs) is not given)
                done = self._compiler.run(block, converted, *args, **kwargs)
                if done is not None:
                    self._both.note(*done)
                    return done[0]
            return type(block).forward(block, *args, **kwargs)


def _differentiable(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments; the hidden states of the first block that trains require a gradient, as those of all others
    do: one code serves all of them, at the price of one gradient that nobody reads.
    """
    hidden = hidden_of(args, kwargs)
    if (
        hidden is None
        or hidden.requires_grad
        or not hidden.is_floating_point()
        or not torch.is_grad_enabled()
        or not any(parameter.requires_grad for parameter in block.parameters())
    ):
        return args, kwargs
    hidden = hidden.detach().requires_grad_()
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
