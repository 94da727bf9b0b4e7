"""Rounds and clients of federated training: part of metrics.json, and of a round a line of log.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dora_cli.runs.records.confusion import LONGEST_LABEL, MOST_CLASSES
from dora_cli.runs.records.fields import Count, Metrics, Record


class ClientRecord(Record):
    """A client in a round.

    Attributes:
        client: its number.
        examples: those that it holds; its weight among the clients that came is made of them.
        loss: mean of its training loss in the round; None where it did not train, or its loss is not finite.
        state: ``"failed"`` is one that trained and gave nothing that the server could take.
    """

    client: Count
    examples: Count
    loss: float | None
    state: Literal["trained", "left out", "failed"]

    @model_validator(mode="after")
    def _trained(self) -> ClientRecord:
        if self.state == "left out" and self.loss is not None:
            raise ValueError(f"client {self.client} was left out, so it has no loss")
        return self


class PartRecord(Record):
    """A client's part of the training split: how many examples, and how many of each class where there are classes."""

    client: Count
    examples: Count
    labels: (
        Annotated[
            dict[Annotated[str, Field(max_length=LONGEST_LABEL)], Count], Field(min_length=1, max_length=MOST_CLASSES)
        ]
        | None
    )

    @model_validator(mode="after")
    def _whole(self) -> PartRecord:
        if self.labels is not None and sum(self.labels.values()) != self.examples:
            raise ValueError(f"client {self.client} has {self.examples} examples, but its labels are of others")
        return self


class RoundRecord(Record):
    """What the clients did and what the server made of it.

    Attributes:
        round: from 1.
        step: the optimiser step of the run that it ended with: rounds times local steps.
        aggregation: how the server merged.
        clients: all of them, by their numbers.
        correction: of LoRA-FAIR, the norm of all that the server added to the means of `B`; 0 elsewhere.
        distance: of the product of the mean factors from the mean of the products, over all projections, as a share of
            the norm of the latter; None where that is zero.
        bytes_up: from all clients to the server.
        bytes_down: from the server to all clients.
        metrics: of the server's model; None where it was not evaluated.
    """

    round: Annotated[Count, Field(ge=1)]
    step: Annotated[Count, Field(ge=1)]
    aggregation: Literal["lora-fair", "average", "exact"]
    clients: Annotated[list[ClientRecord], Field(min_length=1)]
    correction: Annotated[float, Field(ge=0)]
    distance: Annotated[float, Field(ge=0)] | None
    bytes_up: Count
    bytes_down: Count
    metrics: Metrics | None

    @model_validator(mode="after")
    def _in_order(self) -> RoundRecord:
        check_ascending([client.client for client in self.clients], "clients")
        return self


def check_ascending(numbers: list[int], what: str) -> None:
    """Raises ValueError unless `numbers` ascend."""
    for before, after in pairwise(numbers):
        if before >= after:
            raise ValueError(f"{what} must ascend by their numbers, but {after} follows {before}")


def mean_loss(record: Mapping[str, Any]) -> float | None:
    """The mean of the losses of a round's clients that trained, weighted by their examples; None where none is known.

    Args:
        record: the content of a `RoundRecord`.
    """
    known = [client for client in record["clients"] if client["state"] == "trained" and client["loss"] is not None]
    examples: int = sum(client["examples"] for client in known)
    return sum(client["examples"] * client["loss"] for client in known) / examples if examples else None
