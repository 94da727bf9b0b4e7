"""Which rank each projection has, where they are not all the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch

from dora_cli.errors import ProjectionError
from dora_cli.methods.base import Shape, Site


def ranks_of(
    sites: Sequence[Site], rank: int, patterns: Mapping[str, int] | None, *, shuffle: int | None
) -> dict[str, int]:
    """The rank of every site, by full path.

    Args:
        sites: what is adapted; one without a name stands for a model out of reach, and no pattern is held against it.
        rank: of those that no pattern fits.
        patterns: glob patterns to ranks; one is matched against the full path, the path within the block and every
            other dotted end of the full path, and the first that fits counts.
        shuffle: a seed by which ranks are exchanged among sites of equal shape; None leaves them.

    Raises:
        ProjectionError: a pattern fits no site.
    """
    found = {site.name: rank for site in sites}
    unused = dict.fromkeys(patterns or ())
    for site in sites:
        for pattern, wanted in (patterns or {}).items():
            if site.name and _fits(site.name, pattern):
                unused.pop(pattern, None)
                found[site.name] = wanted
                break
    if unused and any(site.name for site in sites):
        names = ", ".join(site.name for site in sites[:8])
        raise ProjectionError(
            f"method.ranks: {next(iter(unused))!r} fits none of the adapted projections, or only ones that an earlier "
            f"pattern fits; there are {names}{', ...' if len(sites) > 8 else ''}"
        )
    return found if shuffle is None else _shuffled(sites, found, shuffle)


def _fits(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[start:]), pattern) for start in range(len(parts)))


def _shuffled(sites: Sequence[Site], ranks: Mapping[str, int], seed: int) -> dict[str, int]:
    """`ranks` exchanged among sites of equal shape, so that the number of parameters stays."""
    alike: dict[Shape, list[str]] = defaultdict(list)
    for site in sites:
        alike[site.shape].append(site.name)
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for names in alike.values():
        order = torch.randperm(len(names), generator=generator).tolist()
        found.update({name: ranks[names[other]] for name, other in zip(names, order, strict=True)})
    return {site.name: found[site.name] for site in sites}
