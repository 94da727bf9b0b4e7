"""Which steps of a run have their weights averaged, by ``train.average_last``."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from dora_cli.errors import BudgetError
from dora_cli.methods.base import Schedule, events_of
from dora_cli.wording import plural


@dataclass(frozen=True)
class AveragedSteps:
    """The last steps of a run, over the weights after which the mean is taken. An average is of tensors whose shapes
    and meaning stay, so it begins after the method's last event.

    Attributes:
        first: the first of them.
        last: the run's last step.
        wanted: how many ``train.average_last`` asks for.
        share: ``train.average_last``.
    """

    first: int
    last: int
    wanted: int
    share: float

    @classmethod
    def of(cls, share: float, schedule: Schedule, method: str) -> AveragedSteps | None:
        """The last ``ceil(share * T)`` steps, a decimal `share` read as one, without those up to the last event of
        `method`; None where nothing is averaged.

        Raises:
            BudgetError: no step is left.
        """
        if not share:
            return None
        total, event = schedule.total_steps, max(events_of(schedule), default=0)
        wanted = ceil(Fraction(str(share)) * total)
        if event >= total:
            raise BudgetError(
                f"train.average_last is {share:g}, but the method {method} changes what trains until the end of the "
                f"run, at the latest after step {event:,} of {total:,}, so no weights are left to average; set "
                "train.average_last: 0, or have the method's last event come earlier where its keys allow that"
            )
        return cls(max(total - wanted, event) + 1, total, wanted, share)

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    def done(self, step: int) -> int:
        """How many of them the mean is over after `step`."""
        return max(0, step - self.first + 1)

    @property
    def note(self) -> str | None:
        """What is to be said where they are fewer than asked for; None where they are not."""
        if self.count == self.wanted:
            return None
        return (
            f"train.average_last {self.share:g} asks for the last {plural(self.wanted, 'step')}, but the method "
            f"changes what trains after step {self.first - 1:,}: weights are averaged over the last "
            f"{plural(self.count, 'step')}, from step {self.first:,} on"
        )

    def __str__(self) -> str:
        return (
            f"over the weights after each of the last {plural(self.count, 'step')}; their mean is evaluated and kept, "
            f"from step {self.first:,} on"
        )
