"""Going on with a run that was stopped: whether it is the same run, on the same ground."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from dora_cli.errors import CheckpointError, OutputError
from dora_cli.printable import shown
from dora_cli.recipe import Recipe
from dora_cli.recipe.changes import keys_of
from dora_cli.recipe.effects import Effect
from dora_cli.runs.left_open import HELD_OUT_BY, read_recipe, settled
from dora_cli.runs.run_folder import RunRecords

HARMLESS = keys_of(Effect.RECORDS, Effect.SPEED, Effect.BATCHING)
"""Recipe keys that change what is written down, or how fast, and nothing that is trained. Those of evaluation are what
to lower where it ran out of memory: a run that has trained for days must be able to go on then."""

LOCATIONS = keys_of(Effect.PLACE)
"""Keys that may change because something was moved; fingerprints tell whether it is still the same."""

ADDED = {
    "train.threads": "auto",
    "train.batch_parts": "auto",
    "train.average_last": 0.0,
    "train.fuse": "off",
    "train.pack": "off",
    "data.scale": None,
    "data.validation": None,
    "data.invalid": "error",
    "data.separator": None,
    "data.name": None,
    "data.config": None,
    "eval.every": "epoch",
    "eval.held_out": None,
    "eval.held_out_by": HELD_OUT_BY,
    "save.every_epoch": True,
    "method.flatness": 0.0,
    "method.step_bound": None,
    "method.gradients": "plain",
    "method.moments": "low-rank",
    "method.damping": None,
    "federated": None,
}
"""Keys that older runs do not know, with what stands for their absence: then they are left out of the hash, so that
such runs go on.
"""

ADDED_TO: Mapping[str, Mapping[str, Any]] = {
    "dora": {
        "method.preset": "published",
        "method.min_rank": 0,
        "method.max_rank": None,
        "method.budget": "components",
        "method.start": "published",
        "method.calibration_examples": 256,
        "method.gates": "trained",
        "method.learning_rate_ratio": 1.0,
        "method.gate_rate": 1.0,
        "method.scaling": "start",
        "method.score": "published",
        "method.rotate": "none",
        "method.refit": False,
        "method.events": None,
        "method.guard": False,
    }
}
"""The same of single methods, where others may have had a key of that name before."""


def check_no_links(records: RunRecords) -> None:
    """Refuses a run folder parts of which are links or pipes: going on would write wherever they lead, and anybody may
    have laid them.

    Raises:
        CheckpointError: names it.
    """
    parts = [records.log, records.adapter, records.checkpoints, records.trackers]
    if records.checkpoints.is_dir():
        parts += records.checkpoints.iterdir()
    for part in parts:
        if part.is_symlink():
            raise CheckpointError(
                f"{part} is a link to {os.readlink(part)}; a run goes on in its own folder alone: "
                "put the real one there"
            )
        if part.exists() and not (part.is_file() or part.is_dir()):
            raise CheckpointError(f"{part} is neither a file nor a folder; restore it from a copy of the run")
    if records.log.is_dir():
        raise CheckpointError(f"{records.log} is a folder; restore the log from a copy of the run")


def check_log(records: RunRecords, length: int | None) -> None:
    """Refuses to go on where log.jsonl has lost lines that the checkpoint had written. Raises CheckpointError."""
    there = records.log.stat().st_size if records.log.is_file() else 0
    if length is not None and there < length:
        raise CheckpointError(
            f"{records.log} has {there:,} bytes and had {length:,} when the checkpoint was written; restore it from a "
            "copy of the run"
        )


def check_resumable(records: RunRecords, recipe: Recipe) -> None:
    """Refuses to go on with something else than this run.

    Args:
        recipe: resolved, with local paths made absolute.

    Raises:
        OutputError: there is no run, or one that was stopped before it began.
        CheckpointError: the recipe changed in more than `HARMLESS` and `LOCATIONS`; names the keys.
    """
    if not records.recipe.is_file():
        raise OutputError(
            f"--output {records.folder} holds no run to go on with; leave out --resume to start one there"
        )
    if not records.recipe.stat().st_size:
        raise OutputError(
            f"the run in --output {records.folder} was stopped before it began; start it again with --overwrite"
        )
    if changes := changed_keys(read_recipe(records.recipe), recipe):
        raise CheckpointError(
            f"the recipe is not the one {records.folder} was begun with, so it cannot go on; give it as it was, or "
            f"choose another --output{changes}"
        )


def changed_keys(before: Recipe, now: Recipe) -> str:
    """What differs between two recipes beyond `HARMLESS` and `LOCATIONS`, a line each; empty if nothing does.

    What `now` leaves open is as it was `before`, in a recipe that `read_recipe` gave.
    """
    one, two = _flat(before), _flat(settled(now, before))
    changed = [
        key for key in sorted({*one, *two}) if one.get(key) != two.get(key) and key not in (*HARMLESS, *LOCATIONS)
    ]
    return "".join(f"\n{key} was {one.get(key)!r} and is {two.get(key)!r}" for key in changed)


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 of all keys that decide what is computed, of a recipe that leaves nothing open."""
    added = {**ADDED, **ADDED_TO.get(recipe.method.name, {})}
    flat = {key: value for key, value in _flat(recipe).items() if key not in added or value != added[key]}
    kept = {key: value for key, value in flat.items() if key not in (*HARMLESS, *LOCATIONS)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _flat(recipe: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            found[prefix] = value

    walk("", recipe.model_dump())
    return found


def check_same_inputs(environment: Mapping[str, Any], *, model: str, data: Mapping[str, str]) -> None:
    """Refuses to set a run beside others that have learned from other data, or on another base model.

    Args:
        environment: environment.json of the run.
        model: fingerprint of today's base model.
        data: that of today's examples by split.

    Raises:
        CheckpointError: names what differs.
    """
    before = environment["model"]["fingerprint"]
    parts = {name: part["fingerprint"] for name, part in environment["data"].items()}
    different = sorted(name for name in {*parts, *data} if parts.get(name) != data.get(name))
    if different:
        raise CheckpointError(f"its examples of {', '.join(different)} are others than today's (fingerprint)")
    if before != model:
        raise CheckpointError("its base model is another one than today's (fingerprint)")


def check_same_ground(
    environment: Mapping[str, Any], now: Mapping[str, Any], *, any_processes: bool = False
) -> list[str]:
    """Refuses other ground than the run began on: base model, data, processes, kind of device, precision.

    Args:
        environment: environment.json of the run.
        now: what it would be now.
        any_processes: whether the run may go on with more processes or fewer.

    Returns:
        Differences that may change digits: other versions, another device of the same kind.

    Raises:
        CheckpointError: names what differs.
    """

    def kind(device: str) -> str:
        return "the CPU" if device == "cpu" else "CUDA"

    processes = now["processes"]
    others = "the number of processes was {before} and is {now}"
    checks: tuple[tuple[str, Callable[[Mapping[str, Any]], Any], str], ...] = (
        ("the base model is another one (fingerprint)", lambda e: e["model"]["fingerprint"], ""),
        (
            "the examples are others (fingerprint)",
            lambda e: {name: part["fingerprint"] for name, part in e["data"].items()},
            "",
        ),
        (
            others,
            lambda e: None if any_processes else e["processes"],
            f"; start as many as before (--processes {shown(environment['processes'])})",
        ),
        ("it ran on {before} and this is {now}", lambda e: kind(e["device"]), "; set train.device"),
        ("it computed in {before} and this is {now}", lambda e: e["precision"], "; set train.precision"),
    )
    for what, value, fix in checks:
        before = value(environment)
        if before != value(now):
            raise CheckpointError(
                f"the run cannot go on here: {what.format(before=shown(before), now=value(now))}{fix}"
            )
    packages = environment["packages"]
    found = now["packages"].items()
    notes = [
        f"{name} was {shown(packages.get(name))} and is {version}"
        for name, version in found
        if packages.get(name) != version
    ]
    if environment["processes"] != processes:
        notes.append(others.format(before=shown(environment["processes"]), now=processes))
    if environment["device"] != now["device"]:
        notes.append(f"the device was {shown(environment['device'])} and is {now['device']}")
    return notes
