"""A client of federated training: what is its own, and one turn of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn

from dora_cli.data import Encoded, Group, plan_epoch, steps_per_epoch, to_device
from dora_cli.data.cuts import Cuts
from dora_cli.data.packed import Packing, training_batches
from dora_cli.errors import DivergedError
from dora_cli.machine.random_state import random_state, restore_random_state
from dora_cli.machine.seeds import seed_everything
from dora_cli.recipe import TrainSection
from dora_cli.training.step import StepReading, TrainingStep


@dataclass
class Client:
    """A client between two turns. The weights are not its own: each round begins with the server's.

    Attributes:
        number: from 1.
        train: its examples, encoded.
        examples: how many these are.
        seed: of its data order and dropout; the first client's is the run's.
        epoch: the pass over its examples that goes on, from 1.
        groups: steps of it done.
        moments: of the training step, see `TrainingStep.state_dict`, on the CPU: the device has those of one client,
            however many there are; empty before its first turn.
        counters: likewise; None before its first turn.
        random: see `random_state`; empty before its first turn.
    """

    number: int
    train: Encoded
    examples: int
    seed: int
    epoch: int = 1
    groups: int = 0
    moments: dict[str, torch.Tensor] = field(default_factory=dict)
    counters: dict[str, Any] | None = None
    random: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Sent:
    """What a turn came to.

    Attributes:
        client: its number.
        seen: examples that it trained on.
        loss: mean of its training loss; None where it is not known.
        readings: of its logged steps, by the run's number of the step.
        weights: of all that trains, in the order in which it travels; None of a client that failed.
        failure: why it did.
    """

    client: int
    seen: int
    loss: float | None
    readings: Mapping[int, StepReading]
    weights: list[torch.Tensor] | None
    failure: str | None = None

    def on_cpu(self) -> Sent:
        """The same with its weights on the CPU."""
        return self if self.weights is None else replace(self, weights=[weight.cpu() for weight in self.weights])

    @property
    def state(self) -> str:
        """In the words of `runs.records.rounds.ClientRecord`."""
        return "trained" if self.failure is None else "failed"

    def record(self, examples: int) -> dict[str, Any]:
        """What metrics.json holds of it."""
        return {"client": self.client, "examples": examples, "loss": self.loss, "state": self.state}


def client_seed(seed: int, number: int) -> int:
    """The seed of client `number`, from 1; the first has the run's own, so that alone it is plain training."""
    return seed if number == 1 else int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class Turns:
    """Has clients train one after another on the one model of this process.

    Args:
        step_function: the step, which trains by itself; its tensors are written to in place, so that what is captured
            stays valid.
        weights: all that trains, in the order in which it travels.
        settings: batches of a client, the run's seed apart.
        cuts: how these are cut.
        packing: how their texts are put into rows; None where they are padded.
        group_by_length: see `plan_epoch`.
        device: of the model.
    """

    def __init__(
        self,
        step_function: TrainingStep,
        weights: Sequence[nn.Parameter],
        settings: TrainSection,
        cuts: Cuts,
        packing: Packing | None,
        *,
        group_by_length: bool,
        device: torch.device,
    ) -> None:
        self._step_function, self._weights, self._settings = step_function, weights, settings
        self._cuts, self._packing = cuts, packing
        self._group_by_length, self._device = group_by_length, device
        self._unused = step_function.state_dict()[1]  # counters before a first step

    def __call__(self, client: Client, steps: range, logged: Callable[[int], bool], ask: Callable[[int], None]) -> Sent:
        """Trains `client` from the weights that are there, and keeps what is its own.

        A client whose loss or weights are not finite fails: it stays as it was before the turn.

        Args:
            steps: the run's numbers of its steps, at least one.
            logged: whether a step is.
            ask: told every step that is done; ends the turn by raising.
        """
        at = client.epoch, client.groups
        self._enter(client)
        readings: dict[int, StepReading] = {}
        seen = 0
        groups = self._groups(client)
        try:
            for step in steps:
                client.epoch, client.groups, group = next(groups)
                made = training_batches(client.train, group.micro_batches, self._cuts, self._packing)
                batches = [to_device(batch, self._device) for batch in made]
                self._step_function(step, batches, group.units, event=False)
                seen += group.examples
                if logged(step):
                    readings[step] = self._step_function.read(step)
                ask(step)
            loss = self._step_function.ledger.take_epoch_loss()
            self._step_function.check_weights(steps[-1])
        except DivergedError as error:
            client.epoch, client.groups = at
            return Sent(client.number, seen, None, {}, None, str(error))
        self._leave(client)
        known = loss if np.isfinite(loss) else None
        return Sent(client.number, seen, known, readings, [weight.detach().clone() for weight in self._weights])

    def _groups(self, client: Client) -> Iterator[tuple[int, int, Group]]:
        """Its optimiser steps from where it was, pass after pass: the pass, the steps of it done after this one, and
        its rows.
        """
        settings, done = self._settings, client.groups
        for epoch in count(client.epoch):
            groups = plan_epoch(
                client.train.lengths,
                client.train.units,
                seed=client.seed,
                epoch=epoch,
                micro_batch=settings.batch_size,
                accumulation=settings.gradient_accumulation,
                group_by_length=self._group_by_length,
            )
            for number, group in enumerate(groups, start=1):
                if number > done:
                    yield epoch, number, group
            done = 0

    def groups_of(self, client: Client) -> int:
        """Optimiser steps of one pass over its examples."""
        return steps_per_epoch(
            len(client.train.lengths), self._settings.batch_size * self._settings.gradient_accumulation
        )

    def _enter(self, client: Client) -> None:
        """Puts what is the client's own in the place of another's."""
        counters = self._unused if client.counters is None else client.counters
        self._step_function.load_state_dict(client.moments, counters)
        if client.random:
            restore_random_state(client.random, self._device)
        else:
            seed_everything(client.seed)

    def _leave(self, client: Client) -> None:
        moments, client.counters = self._step_function.state_dict()
        client.moments = {name: value.to("cpu", copy=True) for name, value in moments.items()}
        client.random = random_state(self._device)

    def clear(self) -> None:
        """Forgets the counters of the latest client, which are none of the server's."""
        self._step_function.ledger.load_state_dict(self._unused)

    def counters_at(self, step: int) -> dict[str, Any]:
        """Those of a training step that has done nothing yet, at this step of the schedule."""
        return {**self._unused, "scheduler": step}


def left_out(client: Client) -> dict[str, Any]:
    """The record of a client that was not drawn."""
    return {"client": client.number, "examples": client.examples, "loss": None, "state": "left out"}
