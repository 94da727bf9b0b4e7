"""Holm's correction for several tests (Holm, A simple sequentially rejective multiple test procedure, 1979)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Adjusted p-values of a family of tests, the last axis: rejecting those of at most a makes at least one false
    rejection with a probability of at most a, whatever the dependence between the tests (all methods share the runs of
    the baseline).

    With ``p_(1) <= ... <= p_(m)`` the adjusted value is ``max_(j <= i) min(1, (m - j + 1) p_(j))``. It is the closed
    testing procedure with Bonferroni's test of each intersection. A test that cannot be made counts with p = 1: the
    family is what was declared, not what turned out to be testable.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, axis=-1, kind="stable")
    factors = np.arange(p.shape[-1], 0, -1)
    ascending = np.take_along_axis(p, order, axis=-1) * factors
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(1.0, np.maximum.accumulate(ascending, axis=-1)), axis=-1)
    return adjusted
