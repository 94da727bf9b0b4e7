"""The repeated blocks of a transformer and the linear maps in them, found by structure alone.

No class name or parameter name of any architecture is known here, so a home-made encoder works like a published one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from torch import nn


@lru_cache(maxsize=1)
def _linear_classes() -> tuple[type[nn.Module], ...]:
    from transformers.pytorch_utils import Conv1D

    return (nn.Linear, Conv1D)


def is_linear_map(module: nn.Module) -> bool:
    """True for `nn.Linear` and for transformers' `Conv1D`, the linear map of GPT-2."""
    return isinstance(module, _linear_classes())


def linear_maps(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Path and module of every linear map in `module`, itself included, a shared one once, in model order."""
    for path, child in module.named_modules(prefix=name):
        if is_linear_map(child):
            yield path, child


def base_prefix(model: nn.Module) -> str:
    """The path of the base model in `model`; empty if `model` is the base model itself or does not say."""
    prefix = getattr(model, "base_model_prefix", "")
    return prefix if isinstance(prefix, str) and prefix and isinstance(getattr(model, prefix, None), nn.Module) else ""


def base_model(model: nn.Module) -> tuple[str, nn.Module]:
    """Path and module of the base model: what lies under the model's prefix, else the model itself."""
    prefix = base_prefix(model)
    return prefix, (getattr(model, prefix) if prefix else model)


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        name: its full path in the model.
        module: the block.
        list_name: full path of the outermost list it stands in.
        index: its position among the blocks of that list, counted through inner lists.
    """

    name: str
    module: nn.Module
    list_name: str
    index: int


def find_blocks(model: nn.Module) -> list[Block]:
    """All blocks of the base model, in model order, each once even if the model runs it several times.

    A block list is an `nn.ModuleList` whose elements are of one class, are no linear maps themselves and contain linear
    maps. The outer list counts (a block may keep a list of heads) unless an inner one holds every linear map of its
    element (ALBERT's groups of layers).
    """
    prefix, base = base_model(model)
    blocks: list[Block] = []
    seen: set[int] = set()
    for list_name, block_list in _block_lists(base, prefix):
        index = 0
        for name, module in _elements(list_name, block_list):
            if id(module) not in seen:
                seen.add(id(module))
                blocks.append(Block(name, module, list_name, index))
                index += 1
    return blocks


def _join(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child


def _is_block_list(module: nn.Module) -> bool:
    if not isinstance(module, nn.ModuleList) or len(module) == 0 or is_linear_map(module[0]):
        return False
    return all(type(element) is type(module[0]) for element in module) and any(True for _ in linear_maps(module))


def _block_lists(module: nn.Module, name: str) -> Iterator[tuple[str, nn.ModuleList]]:
    """The outermost block lists in `module`, itself included."""
    if _is_block_list(module):
        assert isinstance(module, nn.ModuleList)
        yield name, module
        return
    for child_name, child in module.named_children():
        yield from _block_lists(child, _join(name, child_name))


def _elements(name: str, block_list: nn.ModuleList) -> Iterator[tuple[str, nn.Module]]:
    """The blocks of a list; those of an inner list where that one holds everything."""
    for index, element in enumerate(block_list):
        element_name = _join(name, str(index))
        held = {id(linear) for _, linear in linear_maps(element)}
        inner = next(
            (
                (inner_name, inner_list)
                for inner_name, inner_list in _block_lists(element, element_name)
                if {id(linear) for _, linear in linear_maps(inner_list)} == held
            ),
            None,
        )
        if inner is None:
            yield element_name, element
        else:
            yield from _elements(*inner)
