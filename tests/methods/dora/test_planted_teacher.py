"""Does the allocation find where the change is? A teacher with low-rank changes in a few known projections.

The teacher is the student's base model plus a rank-6 change of three of its twelve projections; its outputs on random
inputs are the data. The student starts with six components in every projection and may keep half of them. Learned well,
the planted projections use all their components, and the rest, whose best update is none, keep only noise in their
gates: some of those components are far smaller than their neighbours, and they are pruned first. (Scores are normalised
within a projection, so a small update as such is no reason to be pruned, and a student far from converged shows no
difference: the training here is long and its rate high.)

Statistic: the total final rank of the planted projections over all seeds. Under the null hypothesis the labels
"planted" are exchangeable within a seed, so the statistic is a sum of independent draws of three of twelve ranks
without replacement; its exact distribution follows by enumeration of the 220 subsets of every seed and convolution over
seeds.
"""

from __future__ import annotations

import copy
from collections import Counter
from fractions import Fraction
from functools import lru_cache
from itertools import combinations

import torch
from torch import nn

from dora_cli.training.optimizer import make_scheduler
from tests.methods.small import Training, linear_maps, new_dora

SEEDS = (1, 2)
D, HIDDEN, BLOCKS, PLANTED, CHANGE = 32, 16, 6, 3, 6
STEPS, EXAMPLES, BATCH = 280, 512, 64


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.up = nn.Linear(D, HIDDEN)
        self.down = nn.Linear(HIDDEN, D)
        nn.init.normal_(self.up.weight, std=D**-0.5)
        nn.init.normal_(self.down.weight, std=D**-0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def orthonormal(rows: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, CHANGE))[0]


@lru_cache
def final_ranks(seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ranks of the planted projections and of the others."""
    torch.manual_seed(seed)
    student = nn.Sequential(*(Block() for _ in range(BLOCKS)))
    teacher = copy.deepcopy(student)
    names = list(linear_maps(student))
    planted = [names[i] for i in torch.randperm(len(names))[:PLANTED].tolist()]
    with torch.no_grad():
        for name in planted:  # six singular values of one
            weight = teacher.get_parameter(f"{name}.weight")
            weight += orthonormal(weight.shape[0]) @ orthonormal(weight.shape[1]).T
        x = torch.randn(EXAMPLES, D)
        y = teacher(x)
        at_start = float(nn.functional.mse_loss(student(x), y))
    dora = new_dora(rank=3, start_rank=6, dropout=0.0)
    run = Training(
        student,
        dora,
        projections=linear_maps(student),
        total_steps=STEPS,
        learning_rate=3e-2,
        head="no head",
        seed=seed,
    )
    scheduler = make_scheduler(run.optimizer, warmup_steps=30, total_steps=STEPS)
    for step in range(1, run.schedule.freeze_step + 1):
        batch = torch.randint(EXAMPLES, (BATCH,))
        run.step(step, lambda model, batch=batch: nn.functional.mse_loss(model(x[batch]), y[batch]))
        scheduler.step()
    assert run.losses[-2] < 0.25 * at_start  # before the last selection: it did learn
    ranks = {item.name: item.rank for item in dora.allocation()}
    assert sum(ranks.values()) == 3 * len(names)
    return tuple(ranks[name] for name in planted), tuple(rank for name, rank in ranks.items() if name not in planted)


def exact_p(groups: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> Fraction:
    """Probability, under exchangeable labels within each group, of a total at least as large as the observed one."""
    total = Counter({0: Fraction(1)})
    for planted, others in groups:
        sums = Counter(sum(subset) for subset in combinations(planted + others, len(planted)))
        subsets = sum(sums.values())
        following: Counter[int] = Counter()
        for before, chance in total.items():
            for value, count in sums.items():
                following[before + value] += chance * Fraction(count, subsets)
        total = following
    assert sum(total.values()) == 1
    observed = sum(sum(planted) for planted, _ in groups)
    return sum((chance for value, chance in total.items() if value >= observed), Fraction(0))


def test_the_test_statistic_by_hand() -> None:
    # The six pairs of (3, 2, 1, 0) sum to 5, 4, 3, 3, 2 and 1.
    assert exact_p([((3, 2), (1, 0))]) == Fraction(1, 6)
    assert exact_p([((3, 1), (2, 0))]) == Fraction(2, 6)
    assert exact_p([((3, 2), (1, 0))] * 2) == Fraction(1, 36)
    assert exact_p([((1, 1), (1, 1))]) == 1


def test_planted_projections_get_more_rank() -> None:
    groups = [final_ranks(seed) for seed in SEEDS]
    for planted, others in groups:  # measured: 3.1 and 3.6
        assert sum(planted) / len(planted) > sum(others) / len(others) + 0.5
    assert float(exact_p(groups)) < 1e-3
