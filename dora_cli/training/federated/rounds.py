"""Rounds of federated training: clients train in turn from the server's weights, and the server joins what they send.

Several processes share the clients out, a client always to the same one; each then makes the same of what all sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from dora_cli.assembly.prepare import Prepared
from dora_cli.errors import CheckpointError, DivergedError
from dora_cli.machine.processes import AGREE_EVERY, gathered, take_those_of_main
from dora_cli.machine.random_state import restore_random_state
from dora_cli.training.checkpoint import Snapshot
from dora_cli.training.federated.aggregation import AGGREGATIONS, Merged, weighted_mean
from dora_cli.training.federated.clients import Client, Sent, Turns, client_seed, left_out
from dora_cli.training.step import StepReading, TrainingStep
from dora_cli.wording import plural

_DRAWS = 1
"""Tells the generator that draws clients from others that are made of the run's seed."""


@dataclass(frozen=True)
class Round:
    """What a round came to.

    Attributes:
        record: as metrics.json holds it, not evaluated yet.
        loss: of the clients that came, weighted by their examples; not a number where none is known.
        readings: of logged steps, means over the clients that came, weighted likewise.
        seen: examples that were trained on.
        failures: of each client that failed, its number and why.
    """

    record: dict[str, Any]
    loss: float
    readings: Mapping[int, StepReading]
    seen: int
    failures: Mapping[int, str]


class Rounds:
    """The rounds of one run: its clients, and the server.

    Args:
        prepared: of a federated recipe.
        step_function: of its model; it trains alone in every process.
    """

    def __init__(self, prepared: Prepared, step_function: TrainingStep) -> None:
        federated, recipe, method = prepared.recipe.federated, prepared.recipe, prepared.adapted.method
        assert federated is not None
        assert prepared.clients is not None
        self._federated, self._seed, self._length = federated, recipe.train.seed, prepared.length
        self._log_every = recipe.train.log_every
        self._accelerator = prepared.ground.accelerator
        self._step_function = step_function
        pairs = method.factors()
        self._factors = [parameter for pair in pairs for parameter in (pair.A, pair.B)]
        joined = {id(parameter) for parameter in self._factors}
        self._averaged = [one for one in prepared.adapted.trainable if id(one) not in joined]
        assert pairs, "a method of two factors"
        assert not method.training_state(), "all that a client keeps is in its optimiser"
        self._weights = [*self._factors, *self._averaged]
        self._bytes = sum(weight.numel() * weight.element_size() for weight in self._weights)
        self._turns = Turns(
            step_function,
            self._weights,
            recipe.train,
            prepared.adapted.cuts,
            prepared.packing,
            group_by_length=recipe.data.group_by_length,
            device=self._accelerator.device,
        )
        self.clients = [
            Client(number, part.train, part.examples, client_seed(self._seed, number))
            for number, part in enumerate(prepared.clients, start=1)
        ]

    # -- a round -------------------------------------------------------------------------------------------------------

    def __call__(self, number: int, ask: Callable[[int], None]) -> Round:
        """Round `number`, from 1; the model then has the server's weights.

        Args:
            ask: told how far the run is, in its steps, as they are done; ends the round by raising. Several processes
                call it equally often and with the same steps, also one that has no client left or whose client has
                failed: none waits for longer than the steps between two calls take.

        Raises:
            DivergedError: no client has sent anything.
        """
        steps = self._steps(number)
        drawn = self._drawn(number)
        start = [weight.detach().clone() for weight in self._weights]
        self._before = start, [replace(client) for client in self.clients]  # a turn replaces what a client has
        mine = [client for client in drawn if self._is_mine(client)]
        sent = []
        turns = self._turns_of(drawn)
        for turn in range(turns):
            left = self._asked(steps)
            before = turns * (steps[0] - 1) + turn * len(steps)

            def told(step: int, left: deque[int] = left, before: int = before) -> None:
                while left and left[0] <= step:
                    ask(max(steps[0], (before + left.popleft() - steps[0] + 1) // turns))

            if turn < len(mine):
                self._put(start)
                sent.append(self._turns(mine[turn], steps, self._logged, told))
            told(steps[-1])  # where there was no client, or it failed before the end
        self._turns.clear()
        everything = {one.client: one for part in gathered(self._accelerator, self._packed(sent)) for one in part}
        came = [one for client in drawn if (one := everything[client.number]).weights is not None]
        if not came:
            raise DivergedError(
                f"round {number:,}: none of the {plural(len(drawn), 'client')} that trained has sent weights; "
                f"{_reasons([everything[client.number] for client in drawn])}"
            )
        shares = self._shares(came)
        record = self._server(number, came, shares)
        record["clients"] = [
            everything[client.number].record(client.examples) if client.number in everything else left_out(client)
            for client in self.clients
        ]
        record["bytes_up"], record["bytes_down"] = len(came) * self._bytes, len(drawn) * self._bytes
        return Round(
            record=record,
            loss=_mean([(share, one.loss) for share, one in zip(shares.tolist(), came, strict=True)]),
            readings=_readings(shares.tolist(), came),
            seen=sum(one.seen for one in everything.values()),
            failures={one.client: one.failure for one in everything.values() if one.failure is not None},
        )

    def take_back(self) -> None:
        """Has weights and clients be what they were before the round that was ended by `ask`."""
        weights, self.clients = self._before
        self._put(weights)
        self._turns.clear()

    def _steps(self, number: int) -> range:
        first = (number - 1) * self._length.steps_per_epoch
        return range(first + 1, first + self._length.steps_in(number) + 1)

    def _asked(self, steps: range) -> deque[int]:
        """The steps of a turn after which it is asked whether to go on."""
        return deque(
            step for step in steps if self._alone or (step - steps[0] + 1) % AGREE_EVERY == 0 or step == steps[-1]
        )

    def _drawn(self, number: int) -> list[Client]:
        """Who trains in a round, by number; it depends on the run's seed and the round."""
        generator = np.random.default_rng([self._seed, _DRAWS, number])
        chosen = generator.permutation(len(self.clients))[: self._federated.drawn]
        return [self.clients[index] for index in sorted(chosen)]

    @property
    def _alone(self) -> bool:
        return self._accelerator.num_processes == 1

    def _is_mine(self, client: Client) -> bool:
        return self._process_of(client) == self._accelerator.process_index

    def _process_of(self, client: Client) -> int:
        return (client.number - 1) % self._accelerator.num_processes

    def _turns_of(self, drawn: Sequence[Client]) -> int:
        """How many of `drawn` the process with most of them has."""
        return int(np.bincount([self._process_of(client) for client in drawn]).max())

    def _logged(self, step: int) -> bool:
        return step % self._log_every == 0 or step == self._length.total_steps

    def _packed(self, sent: list[Sent]) -> list[Sent]:
        """Where they go to other processes: on the CPU, from which each takes them to its own device."""
        if self._alone:
            return sent
        return [one.on_cpu() for one in sent]

    def _shares(self, came: Sequence[Sent]) -> torch.Tensor:
        examples = torch.tensor([self.clients[one.client - 1].examples for one in came], dtype=torch.float64)
        return examples / examples.sum()

    @torch.no_grad()
    def _put(self, weights: Sequence[torch.Tensor]) -> None:
        for weight, value in zip(self._weights, weights, strict=True):
            weight.copy_(value)

    @torch.no_grad()
    def _server(self, number: int, came: Sequence[Sent], shares: torch.Tensor) -> dict[str, Any]:
        """Makes one start of what the clients have sent, and puts it into the model; returns its part of the record."""
        device = self._accelerator.device
        shares = shares.to(device)
        stacked = [
            torch.stack([weight.to(device) for weight in weights])
            for weights in zip(*(one.weights for one in came if one.weights is not None), strict=True)
        ]
        joined: list[torch.Tensor] = []
        merged: list[Merged] = []
        aggregation, residual = AGGREGATIONS[self._federated.aggregation], self._federated.residual or 0.0
        for index in range(0, len(self._factors), 2):
            merged.append(aggregation(stacked[index], stacked[index + 1], shares, residual))
            joined += [merged[-1].A, merged[-1].B]
        joined += [weighted_mean(values, shares).to(values.dtype) for values in stacked[len(self._factors) :]]
        self._put(joined)
        take_those_of_main(self._accelerator, self._weights)  # processes may differ in last digits
        correction, distance, size = (
            float(torch.stack([getattr(one, what) for one in merged]).norm())
            for what in ("correction", "distance", "size")
        )
        return {
            "round": number,
            "step": self._steps(number)[-1],
            "aggregation": self._federated.aggregation,
            "correction": correction,
            "distance": distance / size if size else None,
            "metrics": None,
        }

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self, step: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, Any]]:
        """Moments and random states by ``CLIENT.NAME``, and plain values: what `Snapshot` holds of a federated run.

        Every process calls it, since each has only its own clients.
        """
        mine = [client for client in self.clients if self._is_mine(client)]
        packed = [(one.number, one.epoch, one.groups, one.moments, one.counters, one.random) for one in mine]
        everyone = sorted(entry for part in gathered(self._accelerator, packed) for entry in part)
        moments: dict[str, torch.Tensor] = {}
        random: dict[str, torch.Tensor] = {}
        plain = []
        for number, epoch, groups, kept, counters, state in everyone:
            moments |= {f"{number}.{name}": value for name, value in kept.items()}
            random |= {f"{number}.{name}": value for name, value in state.items()}
            plain.append({"client": number, "epoch": epoch, "groups": groups, "counters": counters})
        return moments, random, {"step_function": self._turns.counters_at(step), "clients": plain}

    def load_state_dict(self, snapshot: Snapshot) -> None:
        """Goes back to what `state_dict` gave. Raises CheckpointError on the first misfit."""
        progress = snapshot.progress
        entries, rounds = progress.get("clients") or (), progress.get("rounds") or ()
        numbers = [client.number for client in self.clients]
        if [entry["client"] for entry in entries] != numbers:
            raise CheckpointError(
                f"the checkpoint is not of {plural(len(self.clients), 'client')}, which federated.clients says; it is "
                "damaged, use another checkpoint of the run"
            )
        done, within = divmod(progress["at"]["step"], self._length.steps_per_epoch)
        expected = [(number, self._steps(number)[-1]) for number in range(1, done + 1)]
        found = [(record["round"], record["step"]) for record in rounds]
        clients = [[client["client"] for client in record["clients"]] for record in rounds]
        if within or found != expected or any(each != numbers for each in clients):
            raise _damaged("the rounds that it holds cannot be those of this run")
        for client, entry in zip(self.clients, entries, strict=True):
            self._load_client(client, entry, snapshot)
        self._turns.clear()

    def _load_client(self, client: Client, entry: Mapping[str, Any], snapshot: Snapshot) -> None:
        client.epoch, client.groups, client.counters = entry["epoch"], entry["groups"], entry["counters"]
        client.moments = _of(client.number, snapshot.optimizer)
        client.random = snapshot.random_of(client.number)
        if client.counters is None:
            if (client.epoch, client.groups) != (1, 0) or client.moments or client.random:
                raise _damaged(f"client {client.number} has not trained yet, but the checkpoint holds a state of it")
            return
        if (
            client.groups > self._turns.groups_of(client)
            or client.counters["scheduler"] > snapshot.progress["at"]["step"]
        ):
            raise _damaged(f"client {client.number} cannot have come as far as it says")
        self._step_function.load_state_dict(client.moments, client.counters)  # says what does not fit
        restore_random_state(client.random, self._accelerator.device)  # likewise


def _reasons(sent: Sequence[Sent]) -> str:
    """Why clients failed; what several of them have in common, as in a run that diverges, once."""
    clients: dict[str | None, list[int]] = {}
    for one in sent:
        clients.setdefault(one.failure, []).append(one.client)
    return "; ".join(
        f"{'client' if len(numbers) == 1 else 'clients'} {', '.join(map(str, numbers))}: {reason}"
        for reason, numbers in clients.items()
    )


def _damaged(what: str) -> CheckpointError:
    return CheckpointError(f"progress.json of the checkpoint is damaged: {what}; use another checkpoint of the run")


def _of(number: int, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = f"{number}."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _mean(weighted: Sequence[tuple[float, float | None]]) -> float:
    """Over those that are known and finite; not a number where none is."""
    known = [(share, value) for share, value in weighted if value is not None and np.isfinite(value)]
    total = sum(share for share, _ in known)
    return sum(share * value for share, value in known) / total if total else float("nan")


def _readings(shares: Sequence[float], came: Sequence[Sent]) -> dict[int, StepReading]:
    found = {}
    for step in came[0].readings:
        each = [(share, one.readings[step]) for share, one in zip(shares, came, strict=True)]
        regularised = all(reading.regulariser is not None for _, reading in each)
        found[step] = StepReading(
            loss=_mean([(share, reading.loss) for share, reading in each]),
            regulariser=_mean([(share, reading.regulariser) for share, reading in each]) if regularised else None,
            grad_norm=_mean([(share, reading.grad_norm) for share, reading in each]),
        )
    return found
