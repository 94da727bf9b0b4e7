"""Whether the inputs and outputs of projections can be cut into equal parts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from dora_cli.errors import BudgetError
from dora_cli.methods.base import Shape, Site


def check_parts(sites: Sequence[Site], parts: int) -> None:
    """Raises BudgetError, which names every shape that does not fit; a site without a name stands for a model out of
    reach.
    """
    sites = [site for site in sites if site.name]
    odd: dict[Shape, list[str]] = defaultdict(list)
    for site in sites:
        if any(width % parts for width in site.shape):
            odd[site.shape].append(site.name)
    if not odd:
        return
    misfits = "; ".join(
        f"{d_in:,} to {d_out:,}: {names[0]}" + (f" and {len(names) - 1:,} more" if names[1:] else "")
        for (d_out, d_in), names in odd.items()
    )
    common = math.gcd(*(width for site in sites for width in site.shape))
    choices = [number for number in range(2, common + 1) if common % number == 0]
    fix = "leave those projections out of method.targets"
    if choices:
        nearest = min(choices, key=lambda number: (abs(number - parts), number))
        fix = f"choose a divisor of {common:,}, such as {nearest:,}, or {fix}"
    raise BudgetError(
        f"method.minis is {parts}, which does not divide inputs and outputs of {sum(map(len, odd.values())):,} of "
        f"{len(sites):,} projections ({misfits}); {fix}"
    )
