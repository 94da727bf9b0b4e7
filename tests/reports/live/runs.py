"""Runs at a step of our choice, as the live view knows them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dora_cli.reports.live.marks import Line
from dora_cli.reports.live.state import RunState
from dora_cli.training.listener import EvalLog, RunStart, StepLog
from tests.reports.examples import Layout, bert, ranks

EVENTS = (15, 25, 35, 45, 50)
PHASES = (("warm-up", 1, 15), ("pruning", 16, 50), ("final", 51, 100))


def run_start(projections: Any = None, *, start_rank: int = 12, rank: int = 8, **changes: Any) -> RunStart:
    """100 steps, 4 epochs; pruning from step 15 to 50. By default 6 blocks of BERT."""
    record = ranks(bert(6) if projections is None else projections, start_rank=start_rank, rank=rank)
    layers = [{**layer, "rank": start_rank, "scores": None} for layer in record["layers"]]
    values: dict[str, Any] = {
        "task": "glue/mrpc", "model": "roberta-base", "method": "dora", "device": "cpu", "precision": "fp32", "seed": 1,
        "output": Path("runs/x"), "total_steps": 100, "steps_per_epoch": 25, "epochs": 4, "global_batch": 16,
        "projections": len(layers),
        "schedule": {"start_components": len(layers) * start_rank, "final_components": len(layers) * rank,
        "freeze_step": 50},
        "trainable_parameters": 1_992_194, "head_parameters": 1_538, "phases": PHASES, "events": EVENTS,
        "layers": layers,
    }  # fmt: skip
    return RunStart(**{**values, **changes})


def step_log(step: int, budget: int, **changes: Any) -> StepLog:
    values: dict[str, Any] = {
        "step": step, "epoch": (step - 1) // 25 + 1, "phase": "pruning", "budget": budget, "live_components": budget,
        "loss": 0.69123,
        "regulariser": 0.0125, "grad_norm": 0.9142, "learning_rate": 1.2e-3, "steps_per_second": 38.21,
        "samples_per_second": 611.4,
        "memory_bytes": 2_254_857_830,
    }  # fmt: skip
    return StepLog(**{**values, **changes})


def state_at(step: int, projections: Any = None, *, start_rank: int = 12, rank: int = 8, **changes: Any) -> RunState:
    """What is known after `step` steps of half a second; all pruning happens at the first event."""
    run = run_start(projections, start_rank=start_rank, rank=rank, **changes)
    final = {
        layer["name"]: layer["rank"]
        for layer in ranks(projections or bert(6), start_rank=start_rank, rank=rank)["layers"]
    }
    state = RunState(run)
    state.began = time.monotonic() - step / 2
    budget = sum(layer["rank"] for layer in run.layers)
    for done in range(1, step + 1):
        if done in EVENTS:
            budget = sum(final.values())
            state.selected(done, budget, final)
        state.tick(done, next(name for name, _, last in PHASES if done <= last), budget)
        if done % 5 == 0:
            state.logged(step_log(done, budget, loss=1 / (done + 10)))
        if done % 25 == 0:
            accuracy = 0.7 + done / 1000
            state.evaluated(
                EvalLog(done // 25, done, "final", 0.5, {"f1": 0.8, "accuracy": accuracy}, "accuracy", True)
            )
    return state


def text(lines: list[Line]) -> list[str]:
    return ["".join(segment.text for segment in line) for line in lines]


GPT2: Layout = [
    ("attn.c_attn", (2304, 768)),
    ("attn.c_proj", (768, 768)),
    ("mlp.c_fc", (3072, 768)),
    ("mlp.c_proj", (768, 3072)),
]
