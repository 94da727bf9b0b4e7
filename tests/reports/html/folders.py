"""Run folders of made-up runs, as `dora train` leaves them, finished or stopped."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from dora_cli.atomic import write_json, write_jsonl, write_text
from tests.reports import examples

WARMUP, FREEZE, STEPS, EPOCHS = 24, 80, 160, 8
HEAD = 1_538


def recipe(model: str, seed: int, *, rank: int, extra: str = "") -> str:
    quoted = model.replace("'", "''")
    train = f"{{epochs: {EPOCHS}, seed: {seed}}}"
    return (
        f"task: glue/mrpc\nmodel: {{name: '{quoted}'}}\nmethod: {{name: dora, rank: {rank}}}\ntrain: {train}\n{extra}"
    )


def phase(step: int) -> str:
    return "warm-up" if step <= WARMUP else "pruning" if step <= FREEZE else "final"


def write_run(
    folder: Path,
    projections: list[Any] | None = None,
    *,
    seed: int = 1,
    rank: int = 8,
    model: str = "FacebookAI/roberta-base",
    stop: int | None = None,
    parameters: int | None = 124_647_170,
    extra: str = "",
    clients: int = 0,
) -> Path:
    """A run of `STEPS` steps.

    Args:
        projections: what is adapted, as `examples.bert` gives it.
        stop: the step at which it was stopped; None for a finished one.
        parameters: of the base model; None as older versions recorded nothing.
        clients: of a federated run, of which an epoch is a round; 0 for any other run.
    """
    projections = examples.bert(2) if projections is None else projections
    start_rank = math.ceil(1.5 * rank)
    start, final = start_rank * len(projections), rank * len(projections)
    history = []
    for step in range(WARMUP, FREEZE + 1, 8):
        budget = start - int((start - final) * ((step - WARMUP) / (FREEZE - WARMUP)) ** 3)
        history.append({"step": step, "phase": phase(step), "budget": budget, "live": budget})
    noise = random.Random(seed)
    log: list[dict[str, Any]] = []
    epochs: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    for step in range(1, STEPS + 1):
        budget = next((event["budget"] for event in reversed(history) if event["step"] <= step), start)
        if step % 4 == 0:
            log.append(
                {
                    "type": "train",
                    "step": step,
                    "epoch": 1 + (step - 1) * EPOCHS // STEPS,
                    "phase": phase(step),
                    "budget": budget,
                }
                | {"live": budget, "loss": 0.7 * math.exp(-step / 90) + noise.gauss(0, 0.01), "regulariser": 0.1}
                | {"grad_norm": 1.0, "learning_rate": 1e-3}
            )
        if step % (STEPS // EPOCHS) == 0:
            accuracy = 0.7 + step / 1600 + noise.gauss(0, 0.005)
            entry = {
                "epoch": step * EPOCHS // STEPS,
                "step": step,
                "phase": phase(step),
                "train_loss": 0.7 * math.exp(-step / 90),
            }
            epochs.append({**entry, "metrics": {"accuracy": accuracy, "f1": accuracy + 0.05}})
            log.append({"type": "eval", **epochs[-1]})
            if clients:
                rounds = examples.rounds(len(epochs), clients=clients, steps=STEPS // EPOCHS, evaluations=epochs)
                log.append({"type": "round", **rounds[-1]})
    write_text(folder / "recipe.yaml", recipe(model, seed, rank=rank, extra=extra))
    size = {} if parameters is None else {"parameters": parameters, "bytes": 4 * parameters, "head_parameters": HEAD}
    environment = examples.environment()
    write_json(folder / "environment.json", {**environment, "model": {**environment["model"], **size}})
    write_jsonl(folder / "log.jsonl", [entry for entry in log if stop is None or entry["step"] <= stop])
    if stop is not None:
        return folder
    ranks = {**examples.ranks(projections, rank=rank, start_rank=start_rank, seed=seed), "history": history}
    edges = (("warm-up", 1, WARMUP), ("pruning", WARMUP + 1, FREEZE), ("final", FREEZE + 1, STEPS))
    ranks["phases"] = [{"name": name, "first": first, "last": last} for name, first, last in edges]
    layers = ranks["layers"]
    at_start, at_end = (sum(layer[key] * sum(layer["shape"]) for layer in layers) for key in ("start_rank", "rank"))
    best = max((entry for entry in epochs if entry["phase"] == "final"), key=lambda entry: entry["metrics"]["accuracy"])
    budget_record = {
        "start_components": start,
        "final_components": final,
        "live_components": final,
        "trainable_parameters_start": at_start + start + HEAD,
        "trainable_parameters_final": at_end + final + HEAD,
        "adapter_parameters_final": at_end,
    }
    metrics = examples.metrics(
        seed=seed,
        model=model,
        metrics=best["metrics"],
        last=epochs[-1]["metrics"],
        best_epoch=best["epoch"],
        epochs=epochs,
        budget=budget_record,
        rounds=rounds or None,
        clients=examples.parts(clients) if clients else None,
    )
    write_json(folder / "ranks.json", ranks)
    write_json(folder / "metrics.json", metrics)
    return folder
