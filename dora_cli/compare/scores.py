"""What a run of an experiment came to, read from its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dora_cli.compare.cells import Cell
from dora_cli.compare.jobs import Job
from dora_cli.runs.run_folder import RunRecords


@dataclass(frozen=True)
class Score:
    """What one run came to.

    Attributes:
        seed: of the run.
        value: of the metric that is compared; None where the run diverged or the metric is undefined, and nothing
            stands for that.
        constant: what a model is worth that says the same of every example of the same split; None where that means
            nothing, or where the run did not get so far as to say it.
        record: metrics.json; None where the run diverged.
        undefined: whether the metric has no value, as a correlation with outputs that are all the same.
    """

    job: Job
    seed: int
    outcome: Literal["finished", "diverged"]
    value: float | None
    constant: float | None
    record: Mapping[str, Any] | None
    undefined: bool = False

    @property
    def collapsed(self) -> bool:
        """Whether it is no better than a model that says the same of every example, or has diverged."""
        if self.record is None or self.undefined:
            return True
        baseline = self.record.get("baseline")
        return baseline is not None and not baseline["beaten"]

    @property
    def stored(self) -> int | None:
        """Parameters that its adapter stores."""
        return None if self.record is None else int(self.record["budget"]["adapter_parameters_final"])


def read_score(job: Job, cell: Cell) -> Score:
    """The score of a run that has ended. Raises CheckpointError where its records cannot be read."""
    records, seed, metric = RunRecords(job.folder), job.recipe.train.seed, _metric(job, cell)
    if not records.metrics.is_file():
        return Score(job, seed, "diverged", None, None, None)
    record = records.read_metrics()
    baseline = record.get("baseline")
    constant = None if baseline is None else baseline["metrics"].get(metric)
    value = record["metrics"].get(metric)
    if (
        metric not in record["metrics"] and record["epochs"]
    ):  # of texts that were written greedily, after the last epoch
        value = record["epochs"][-1]["metrics"].get(metric)
    return Score(job, seed, "finished", value, constant, record, value is None)


def _metric(job: Job, cell: Cell) -> str:
    """What the run is scored by: where a part of the training split is, none of the metrics of single dev splits."""
    if job.recipe.eval.held_out is not None and cell.task.metric not in cell.task.task.held_out_metrics:
        return cell.task.task.primary
    return cell.task.metric


def with_constants(scores: Sequence[Score], others: Iterable[Score] = (), *, lower_is_better: bool) -> list[Score]:
    """The scores, those without a value given the worst that any of the runs has, or that of a model that says the same
    of every example, if that is worse still. To leave them out would flatter their method; and so would a constant
    model's score where nothing can be learned and every finished run is behind it.
    """
    known = [*scores, *others]
    found = [number for score in known for number in (score.value, score.constant) if number is not None]
    if not found:
        return list(scores)
    stand_in = (max if lower_is_better else min)(found)
    return [replace(score, value=stand_in) if score.value is None else score for score in scores]
