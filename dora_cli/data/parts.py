"""Disjoint parts of a split, one for each client of a federated training.

A part is an ascending array of indices into the split. Together they hold every example once, and the only part is the
whole split in its own order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dora_cli.data.batches import Indices

DRAWS = 100
"""How often shares are drawn at the most until every client has an example."""
_STREAM = 2**31
"""Beside the seed, so that no epoch's order (`dora_cli.data.batches`) is drawn from the same numbers."""


def even_parts(count: int, clients: int, seed: int) -> list[Indices]:
    """`count` examples in `clients` random parts, whose sizes differ by at most one."""
    assert clients > 0
    shuffled = np.random.default_rng([seed, _STREAM]).permutation(count)
    return [np.sort(part) for part in np.array_split(shuffled, clients)]


def parts_by_class(labels: Sequence[int], clients: int, alpha: float, seed: int) -> list[Indices] | None:
    """Parts whose classes differ: each class, in the order of the labels, is shuffled and cut by shares of its own,
    which are drawn from a symmetric Dirichlet distribution over the clients (as in Yurochkin et al. 2019, arXiv
    1905.12022).

    Args:
        labels: the class of each example, ``(N,)``.
        clients: how many parts.
        alpha: concentration of the distribution, above 0: towards 0 each class goes to one client, and a large one
            gives all clients equal shares.
        seed: decides everything that is drawn.

    Returns:
        The parts; None where no draw of `DRAWS` gave every client an example.
    """
    assert clients > 0
    draw = np.random.default_rng([seed, _STREAM])
    classes = np.asarray(labels)
    for _ in range(DRAWS):
        owner = np.empty(len(classes), dtype=np.int64)
        for label in np.unique(classes):
            members = draw.permutation(np.flatnonzero(classes == label))
            shares = draw.dirichlet(np.full(clients, alpha))
            cuts = np.rint(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
            for client, chosen in enumerate(np.split(members, cuts)):
                owner[chosen] = client
        sizes = np.bincount(owner, minlength=clients)
        if sizes.all():
            return np.split(np.argsort(owner, kind="stable"), np.cumsum(sizes)[:-1])
    return None
