"""The blocks of a model, and which of them each booster trains.

Blocks whose projections have the same shapes are of one kind; most models have one, an encoder-decoder has two. How
many blocks of each kind a booster takes is planned, in proportion to how many there are, so that the components and
parameters of every booster are known before any is drawn. Which blocks these are is drawn, anew for each booster and
all subsets being equally likely.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dora_cli.methods.base import Shape, Site


@dataclass(frozen=True)
class Kind:
    """Blocks that have the same projections, by shape.

    Attributes:
        blocks: their numbers among all blocks, ascending.
        shapes: of the projections in each of them.
    """

    blocks: tuple[int, ...]
    shapes: tuple[Shape, ...]


def blocks_of(sites: Sequence[Site]) -> list[int]:
    """The number of the block of each site, from 0, over all stacks and in the order of the sites."""
    numbers: dict[tuple[str, int, str], int] = {}
    found = []
    for site in sites:
        # a stack may have several lists of blocks, which number them alike
        path = site.name.removesuffix(site.projection) if site.projection else ""
        found.append(numbers.setdefault((site.stack, site.block, path), len(numbers)))
    return found


def kinds_of(sites: Sequence[Site]) -> list[Kind]:
    """All blocks by kind, in the order of the first of each."""
    shapes: dict[int, list[Shape]] = defaultdict(list)
    for site, block in zip(sites, blocks_of(sites), strict=True):
        shapes[block].append(site.shape)
    kinds: dict[tuple[Shape, ...], list[int]] = defaultdict(list)
    for block, found in shapes.items():
        kinds[tuple(sorted(found))].append(block)
    return [Kind(tuple(blocks), found) for found, blocks in kinds.items()]


def shares(kinds: Sequence[Kind], layers: int) -> Iterator[tuple[int, ...]]:
    """How many blocks of each kind one booster after the other takes, `layers` in all, without an end.

    Place by place, to the kind that is furthest behind its share of all blocks; of equals the first.
    """
    blocks = sum(len(kind.blocks) for kind in kinds)
    assert 1 <= layers <= blocks
    taken = [0] * len(kinds)
    places = 0
    while True:
        booster = [0] * len(kinds)
        for _ in range(layers):
            places += 1
            room = [number for number, kind in enumerate(kinds) if booster[number] < len(kind.blocks)]
            behind = {number: places * len(kinds[number].blocks) - taken[number] * blocks for number in room}
            most = max(room, key=lambda number: (behind[number], -number))
            booster[most] += 1
            taken[most] += 1
        yield tuple(booster)


def draw(kinds: Sequence[Kind], planned: Sequence[Sequence[int]], generator: torch.Generator) -> torch.Tensor:
    """Which blocks each booster trains, boolean ``(boosters, blocks)``.

    Args:
        kinds: of all blocks.
        planned: for each booster how many of each kind.
        generator: on the CPU.
    """
    subsets = torch.zeros(len(planned), sum(len(kind.blocks) for kind in kinds), dtype=torch.bool)
    for row, counts in zip(subsets, planned, strict=True):
        for kind, count in zip(kinds, counts, strict=True):
            order = torch.randperm(len(kind.blocks), generator=generator)
            row[torch.tensor(kind.blocks)[order[:count]]] = True
    return subsets
