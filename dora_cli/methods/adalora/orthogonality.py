"""The penalty on factors whose vectors are not orthonormal, in closed form, over many projections of a shape at once.

With `P` a factor's vectors as rows, ``(r, d)``, and ``R = P P^T - I``::

    published:  ||R||_F      gradient 2 R P / ||R||_F, and 0 where the norm is 0     (the authors' code, and PEFT's)
    paper:      ||R||_F^2    gradient 4 R P                                          (equation 4)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Stack:
    """How the rows of one group are cut into the matrices of its projections.

    Where ranks differ, shorter matrices are filled up with rows of zeros, whose places in the identity are zero too.

    Args:
        ranks: of the projections, in the order of their rows; each at least 1.
        like: for device and type.
    """

    def __init__(self, ranks: Sequence[int], like: torch.Tensor) -> None:
        self._count, self._rank = len(ranks), max(ranks)
        there = torch.tensor([[row < rank for row in range(self._rank)] for rank in ranks], device=like.device)
        self._eye = torch.diag_embed(there.to(like.dtype))
        # where each row stands among the rows of all matrices; None where none is filled up
        self._places = None if len(set(ranks)) == 1 else there.view(-1).nonzero().squeeze(1)

    def add_gradient(
        self, gradient: torch.Tensor, factor: torch.Tensor, weight: float, *, squared: bool
    ) -> torch.Tensor:
        """Adds ``weight`` times the gradient of the penalty's sum over all matrices to `gradient`.

        Args:
            gradient, factor: ``(R, d)``, row by row.
            weight: of the penalty of one matrix.
            squared: the paper's form.

        Returns:
            That sum times `weight`, a scalar. No host synchronisation.
        """
        places, shape = self._places, (self._count, self._rank, -1)
        if places is None:
            P = factor.view(shape)
        else:
            P = factor.new_zeros(self._count * self._rank, factor.shape[1]).index_copy_(0, places, factor).view(shape)
        R = torch.baddbmm(self._eye, P, P.mT, beta=-1)
        if squared:
            value = R.square().sum() * weight
            R.mul_(4 * weight)
        else:
            norms = torch.linalg.matrix_norm(R, keepdim=True)
            value = norms.sum() * weight
            R.mul_(torch.where(norms > 0, 2 * weight / norms, 0))
        if places is None:
            gradient.view(shape).baddbmm_(R, P)
        else:
            gradient.add_((R @ P).view(-1, factor.shape[1]).index_select(0, places))
        return value
