"""Which linear maps a method adapts: the attention and FFN projections of a transformer's blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd

from dora_cli.errors import ProjectionError
from dora_cli.methods.base import Site
from dora_cli.methods.linear import shape_of
from dora_cli.models.family import is_decoder_only
from dora_cli.models.structure.blocks import base_model, find_blocks, linear_maps
from dora_cli.models.structure.mixers import never_called, read_past
from dora_cli.models.structure.norms import after_projection
from dora_cli.models.structure.roles import role_of

GROUPS = ("attention", "ffn")
_LISTED = 24  # how many names an error message lists before it counts the rest


def find_projections(
    model: nn.Module, targets: Sequence[str] = GROUPS, takes: Callable[[Site], bool] | None = None
) -> list[Site]:
    """Finds the projections that `targets` name, in model order; a shared module appears once.

    Args:
        model: any module whose blocks stand in an `nn.ModuleList`; weights may be on the meta device.
        targets: ``"attention"``, ``"ffn"`` or glob patterns. A pattern is matched against the full path, the path
            within the block and every other dotted end of the full path (``query``, ``*.output.dense``,
            ``layer.11.*``). Nothing outside blocks is ever adapted. ``"attention"`` and ``"ffn"`` leave out what
            `left_out` tells of; patterns reach it.
        takes: whether the method can adapt a projection; None for one that can adapt all. What it cannot is left out.

    Raises:
        ProjectionError: no blocks; no or unmatched targets; targets of which the method can adapt nothing; or targets
            that reach a mixture of experts or a linear map whose weight its parent reads directly, where an adapter
            would have no effect.
    """
    if not targets:
        raise ProjectionError(
            "method.targets is empty: nothing would be adapted; give attention, ffn or patterns such as '*.query'"
        )
    mixtures = _mixtures(model)
    available = [p for p in _all_projections(model) if not _inside(p.name, mixtures)]
    chosen: set[str] = set()
    past = read_past(model)
    for target in targets:
        _refuse_mixtures(target, mixtures, attention_left=any(p.group == "attention" for p in available))
        if not available:
            raise _no_blocks(model)
        matched = {
            p.name
            for p in available
            if (p.group == target and p.name not in past if target in GROUPS else _matches(p.name, target))
        }
        if not matched:
            counts = Counter(p.projection for p in available)
            raise ProjectionError(
                f"target {target!r} matches no projection of {type(model).__name__}; what could be matched, by path "
                "within a block: " + _listing([f"{path} (x{count})" for path, count in counts.items()])
            )
        chosen |= matched if takes is None else _taken(target, matched, available, takes)
    projections = [p for p in available if p.name in chosen]
    _refuse_bypassed(model, projections)
    if unused := [p.name for p in projections if p.name in past and never_called(p.name)]:
        raise ProjectionError(
            f"{type(model).__name__} reads these weights without calling the module, so an adapter would have no "
            f"effect on {_listing(unused)}; choose targets that leave them out"
        )
    return projections


def _taken(target: str, matched: set[str], available: Sequence[Site], takes: Callable[[Site], bool]) -> set[str]:
    """Those of `matched` that the method can adapt. Raises ProjectionError where there are none."""
    fit = [p for p in available if takes(p)]
    if not (found := matched & {p.name for p in fit}):
        counts = Counter(p.projection for p in fit)
        raise ProjectionError(
            f"target {target!r} matches no projection that this method can adapt; those are, by path within a block: "
            + (_listing([f"{path} (x{count})" for path, count in counts.items()]) or "none of this model")
        )
    return found


def left_out(model: nn.Module, targets: Sequence[str]) -> str | None:
    """Which projections of state-space mixers ``"attention"`` and ``"ffn"`` leave out, and why; None if there are none.

    Args:
        model: before or after adapters were attached.
        targets: as of `find_projections`.
    """
    groups = [target for target in targets if target in GROUPS]
    counts = Counter(path.rpartition(".")[2] for path in read_past(model)) if groups else Counter[str]()
    if not counts:
        return None
    return (
        f"{' and '.join(groups)}: left out are {_listing([f'{path} (x{count})' for path, count in counts.items()])} "
        "of the state-space mixers: fused kernels read these weights past the module, where an adapter has no effect, "
        "and PEFT refuses out_proj. A pattern such as '*.out_proj' adapts them all the same where no such kernels are "
        "installed; then export with --format merged"
    )


def _no_blocks(model: nn.Module) -> ProjectionError:
    """Says which lists there are: blocks of several classes (Jamba's attention and Mamba layers) are
    the usual reason.
    """
    lists = [
        (name, sorted({type(element).__name__ for element in module}))
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(True for _ in linear_maps(module))
    ]
    names = [name for name, _ in lists]
    outermost = [f"{name} holds {' and '.join(kinds)}" for name, kinds in lists if not _inside(name, names)]
    return ProjectionError(
        f"{type(model).__name__} has no blocks to adapt: no nn.ModuleList in it holds modules of one class with "
        "linear maps that are no "
        "experts" + (f" ({_listing(outermost)})" if outermost else "") + "; choose another model"
    )


def _all_projections(model: nn.Module) -> list[Site]:
    config = getattr(model, "config", None)
    decoder_only = is_decoder_only(config)
    found: list[Site] = []
    seen: set[int] = set()
    lists: dict[str, list[Site]] = {}
    for block in find_blocks(model):
        stack = _stack(block.list_name, decoder_only)
        for name, module in linear_maps(block.module, block.name):
            if id(module) in seen:
                continue
            seen.add(id(module))
            path = name[len(block.name) + 1 :]
            group = _group(path)
            role = role_of(path, group, shape_of(module))
            ends = role in ("output", "down")  # a residual branch
            dropout, norm = after_projection(config, block.module, block.name, path) if ends else ("", "")
            lists.setdefault(block.list_name, []).append(
                Site(
                    name,
                    module,
                    shape_of(module),
                    stack,
                    block.index,
                    _attention(path, stack, group),
                    path,
                    group,
                    role,
                    dropout,
                    norm,
                )
            )
    for list_name, projections in lists.items():
        # Some models keep attention and FFN in two lists side by side; then only the list's name tells them apart.
        if "att" in list_name.rpartition(".")[2].lower() and all(p.group == "ffn" for p in projections):
            stack = projections[0].stack
            projections = [
                replace(
                    p,
                    group="attention",
                    attention=_attention(list_name, stack, "attention"),
                    role=role_of(p.projection, "attention", p.shape),
                )
                for p in projections
            ]
        found += _renumbered(projections, found)
    return found


def _renumbered(projections: list[Site], before: list[Site]) -> list[Site]:
    """Counts blocks on where two lists of one stack would claim the same projection of the same block."""
    taken = {(p.stack, p.block, p.projection) for p in before}
    if not any((p.stack, p.block, p.projection) in taken for p in projections):
        return projections
    start = 1 + max(p.block for p in before if p.stack == projections[0].stack)
    return [replace(p, block=p.block + start) for p in projections]


def _group(path: str) -> str:
    return "attention" if any("att" in segment for segment in path.lower().split(".")) else "ffn"


def _attention(path: str, stack: str, group: str) -> str | None:
    if group != "attention":
        return None
    segments = path.lower().split(".")
    # "enc" alone (`encoder_attn`, `EncDecAttention`) says cross attention only where there is an encoder to look at.
    cross = any("cross" in s or (stack == "decoder" and "enc" in s) for s in segments)
    return "cross" if cross else "self"


def _stack(list_name: str, decoder_only: bool) -> str:
    for segment in reversed(list_name.lower().split(".")):
        if ("decoder" in segment) != ("encoder" in segment):
            return "decoder" if "decoder" in segment else "encoder"
    return "decoder" if decoder_only else "encoder"


def _matches(name: str, pattern: str) -> bool:
    segments = name.split(".")
    return any(fnmatchcase(".".join(segments[start:]), pattern) for start in range(len(segments)))


@dataclass(frozen=True)
class _Mixture:
    """Part of a mixture of experts: what it is, which group it would belong to, and the paths of itself and everything
    inside.
    """

    kind: str
    group: str
    paths: tuple[str, ...]


def _mixtures(model: nn.Module) -> dict[str, _Mixture]:
    """Path -> what it is, of the parts that make up mixtures of experts, outermost only.

    Known by what they are called (expert, router), as a path segment or as a class, and by weights with an expert
    dimension: a 3-D parameter in a block that belongs to no convolution. A module that holds experts is refused whole,
    with its router, whatever that is called.
    """
    prefix, base = base_model(model)
    blocks = [block.name for block in find_blocks(model)]
    marked: dict[str, str] = {}
    for name, module in base.named_modules(prefix=prefix):
        if module is base:
            continue
        segment, kind = name.rpartition(".")[2].lower(), type(module).__name__
        if any(word in text for text in (segment, kind.lower()) for word in ("expert", "router")):
            # The parent of experts is the mixture, unless it is the block itself, a list or the model, which hold other
            # things too.
            parent = name.rpartition(".")[0]
            owner = model.get_submodule(parent)
            if parent not in blocks and owner is not base and not isinstance(owner, nn.ModuleList):
                name, kind = parent, type(owner).__name__
            marked.setdefault(name, kind)
        elif not isinstance(module, _ConvNd) and _block_of(name, blocks) is not None:
            for parameter_name, parameter in module.named_parameters(recurse=False):
                path = f"{name}.{parameter_name}"
                # Attention may keep its own weights by head in three dimensions (XLNet); those are not found, but no
                # experts either.
                if parameter.ndim == 3 and min(parameter.shape) > 1 and _group_within(path, blocks) == "ffn":
                    marked.setdefault(path, f"3-D weight {list(parameter.shape)}")
    mixtures: dict[str, _Mixture] = {}
    modules = [name for name, _ in base.named_modules(prefix=prefix)]
    for path, kind in marked.items():
        if not _inside(path, marked):
            mixtures[path] = _Mixture(
                kind, _group_within(path, blocks), (path, *(m for m in modules if m.startswith(path + ".")))
            )
    return mixtures


def _refuse_mixtures(target: str, mixtures: Mapping[str, _Mixture], attention_left: bool) -> None:
    reached = [
        f"{path} ({mixture.kind})"
        for path, mixture in mixtures.items()
        if (mixture.group == target if target in GROUPS else any(_matches(inner, target) for inner in mixture.paths))
    ]
    if reached:
        example = ", such as targets: [attention]" if attention_left and target != "attention" else ""
        raise ProjectionError(
            f"target {target!r} reaches a mixture of experts, which cannot be adapted: {_listing(reached)}; "
            f"choose targets that leave routers and experts out{example}"
        )


def _block_of(name: str, blocks: Sequence[str]) -> str | None:
    return next((block for block in blocks if name == block or name.startswith(block + ".")), None)


def _inside(name: str, paths: Collection[str]) -> bool:
    return any(name.startswith(path + ".") for path in paths)


def _group_within(name: str, blocks: Sequence[str]) -> str:
    block = _block_of(name, blocks)
    return _group(name if block is None else name[len(block) + 1 :])


def _listing(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _refuse_bypassed(model: nn.Module, projections: Sequence[Site]) -> None:
    """PyTorch's own attention reads its projection's weight, and its encoder layer has a fast path that reads all of
    them.
    """
    parents = {
        name: type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoderLayer))
    }
    bypassed = [p.name for p in projections if _inside(p.name, parents)]
    if bypassed:
        raise ProjectionError(
            f"torch.nn.{' and torch.nn.'.join(sorted(set(parents.values())))} read their weights without calling the "
            f"module, so an adapter would have no effect on {_listing(bypassed)}; leave them out of the targets, or "
            "write these blocks with nn.Linear modules that are called"
        )
