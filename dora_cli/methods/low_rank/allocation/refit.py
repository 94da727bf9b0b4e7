"""What is kept of a projection makes up for what is cut, as far as it can. Pure.

A projection's update gives ``sum_i b_i u_i`` with ``u = A x``. Where the components `G` go and `K` stay, the columns of
`B` that come nearest to it over the inputs met, by least squares, follow from ``C = E[u u^T]`` alone::

    b_i' = b_i + sum_{j in G} (C_KK^-1 C_KG)_ij b_j,     i in K

so that ``E ||sum_K b_i' u_i - sum_{K + G} b_i u_i||^2`` is as small as these `u` allow: the compensation of Optimal
Brain Surgeon (Hassibi and Stork 1993) for whole components. Where components do not overlap in the inputs' metric,
as after a rotation in it, there is nothing to make up for.
"""

from __future__ import annotations

import torch

RIDGE = 1e-6
"""What is added to the diagonal of `C`, in shares of its mean: components that give nearly the same must not be told
apart by rounding.
"""


@torch.no_grad()
def refit(B_t: torch.Tensor, C: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """`B_t` of what is kept, zero elsewhere. Computed in float64; waits for the device.

    Args:
        B_t: ``(M, r, d_out)``, of `M` projections.
        C: ``(M, r, r)``; without any input nothing can be made up for.
        keep: which components stay, boolean ``(M, r)``.
    """
    there = keep.double()
    of_kept = C.double() * there[:, :, None]
    inside = of_kept * there[:, None]
    mean = inside.diagonal(dim1=1, dim2=2).sum(1) / there.sum(1).clamp_min(1)
    # what goes has a 1 on the diagonal, and so has everything where there was no input
    ridge = torch.where((mean > 0)[:, None], RIDGE * mean[:, None], 1.0) * there + (1 - there)
    shares: torch.Tensor = torch.linalg.solve(inside + torch.diag_embed(ridge), of_kept * (1 - there)[:, None])
    rows = B_t.double()
    return ((rows + shares @ rows) * there[..., None]).to(B_t.dtype)
