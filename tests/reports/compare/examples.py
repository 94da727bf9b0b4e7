"""Made-up experiments: comparison.json with numbers that follow from each other, and the run folders it names."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy import stats

from dora_cli.runs.records.comparison import ComparisonRecord
from dora_cli.runs.records.fields import written
from dora_cli.runs.run_folder import RunRecords
from tests.reports import examples
from tests.reports.html.folders import write_run

TASKS = ("rte", "cola", "mrpc", "sst2", "stsb")
METRICS = ("accuracy", "matthews_correlation", "f1", "accuracy", "pearson")
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
MAJORITY = 0.5271
MARGIN = 0.01


def tested(differences: Sequence[float]) -> dict[str, Any]:
    """Mean, deviation, t interval and p of paired differences."""
    count = len(differences)
    found: dict[str, Any] = {"seeds": count, "mean": mean(differences) if count else None}
    if count < 2 or len(set(differences)) < 2:
        return {**found, "sd": None, "low": None, "high": None, "p": None}
    result = stats.ttest_1samp(differences, 0.0)
    low, high = result.confidence_interval(0.95)
    return {**found, "sd": stdev(differences), "low": float(low), "high": float(high), "p": float(result.pvalue)}


def holm(ps: Sequence[float | None]) -> list[float | None]:
    order = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    worst = 0.0
    for place, (p, index) in enumerate(order):
        worst = max(worst, min(1.0, p * (len(order) - place)))
        adjusted[index] = worst
    return adjusted


def experiment(
    tasks: int = 2,
    methods: int = 3,
    seeds: int = 10,
    *,
    tune: bool = True,
    margin: bool = True,
    effect: float = 0.02,
    names: Sequence[str] = (),
    task_names: Sequence[str] = TASKS,
    complete: bool = True,
    noise: int = 7,
) -> dict[str, Any]:
    """The content of comparison.json.

    Args:
        effect: by which each method is better than the one before.
        names: of the methods; the first is the baseline.
    """
    draw = random.Random(noise)
    names = names or ["lora", "dora", "adalora", "sora", "eva", "pissa", "vera", "lora-fa", "head", "full"]
    names = [*names, *(f"method-{n}" for n in range(len(names), methods))][:methods]
    of_seeds = list(range(11, 11 + seeds))
    compared = [
        {
            "name": f"{TASKS[index % 5] if index >= len(task_names) else task_names[index]}",
            "recipe": f"configs/glue/{TASKS[index % 5]}.yaml",
            "task": f"glue/{TASKS[index % 5]}",
            "model": "models/minilm-l6",
            "metric": METRICS[index % 5],
            "lower_is_better": False,
            "majority": MAJORITY if index % 5 == 0 else 0.0 if index % 5 == 1 else None,
        }
        for index in range(tasks)
    ]
    listed = [
        {"name": name, "entry": name, "method": name if name.isalpha() else "lora", "swept": {},
         "matched_to": names[1] if index == 0 and methods > 1 else None, "baseline": index == 0}
        for index, name in enumerate(names)
    ]  # fmt: skip
    cells = [
        _cell(task, index, method, place, of_seeds, draw, tune=tune, effect=effect)
        for index, task in enumerate(compared)
        for place, method in enumerate(names)
    ]
    scores = {(cell["task"], cell["method"]): [run["score"] for run in cell["runs"]] for cell in cells}
    stored = {method: mean(run["stored_parameters"] for cell in cells if cell["method"] == method
              for run in cell["runs"]) for method in names}  # fmt: skip
    comparisons = [
        _comparison(names[0], method, compared, scores, of_seeds, stored, margin=margin) for method in names[1:]
    ]
    adjusted = holm([found["p"] for found in comparisons])
    for found, p in zip(comparisons, adjusted, strict=True):
        found["p_holm"] = p
        if p is not None and p < 0.05:
            found["verdict"] = "better" if found["mean"] > 0 else "worse"
    plan = {"key": "train.learning_rate", "grid": list(GRID), "held_out": 0.1, "seeds": [1, 2], "keep": "halving"}
    return written(
        ComparisonRecord,
        {
            "schema_version": 1,
            "experiment": "experiments/glue.yaml",
            "baseline": names[0],
            "match": "stored-parameters",
            "margin": MARGIN if margin else None,
            "margin_source": "pilot" if margin else "none",
            "seeds": of_seeds,
            "tuning": plan if tune else None,
            "power": {
                "seeds": seeds,
                "comparisons": max(methods - 1, 1),
                "detectable": 1.0,
            },
            "tasks": compared,
            "methods": listed,
            "cells": cells,
            "comparisons": comparisons,
            "complete": complete,
            "notes": ["lora was given rank 3, the nearest to dora in stored parameters (0.2 % apart)."],
        },
    )


def pooled(tasks: int = 2, ranks: Sequence[int] = (1, 2), seeds: int = 10, **options: Any) -> dict[str, Any]:
    """The content of comparison.json where lora and dora are compared over all `ranks` at once."""
    names = [f"{entry} rank={rank}" for rank in ranks for entry in ("lora", "dora")]
    record = experiment(tasks, len(names), seeds, names=names, **options)
    for method in record["methods"]:
        entry, rank = method["name"].split(" rank=")
        method |= {"entry": entry, "method": entry, "swept": {"method.rank": int(rank)}, "baseline": entry == "lora"}
        method["matched_to"] = f"dora rank={rank}" if entry == "lora" else None
    scores = {(cell["task"], cell["method"]): [run["score"] for run in cell["runs"]] for cell in record["cells"]}
    apart = {
        (task["name"], rank): [
            theirs - ours
            for theirs, ours in zip(*(scores[task["name"], f"{entry} rank={rank}"] for entry in ("dora", "lora")),
                                    strict=True)
        ]
        for task in record["tasks"] for rank in ranks
    }  # fmt: skip
    by_task = [
        {"task": task, "pooled": {"method.rank": rank}, **tested(values)} for (task, rank), values in apart.items()
    ]
    for one, p in zip(by_task, holm([one["p"] for one in by_task]), strict=True):
        one["p_holm"] = p
    differences = [mean(values) for values in zip(*apart.values(), strict=True)]
    found = tested(differences)
    comparison = {
        **record["comparisons"][0], **found, "p_holm": found["p"], "differences": differences, "by_task": by_task,
        "method": "dora", "baseline": "lora", "verdict": "undecided", "size_ratio": 1.0123,
        "pairs": [{"method": f"dora rank={rank}", "baseline": f"lora rank={rank}"} for rank in ranks],
        "bootstrap": None,
    }  # fmt: skip
    whole = {**record, "baseline": "lora", "pool": ["method.rank"], "comparisons": [comparison]}
    return written(ComparisonRecord, {**whole, "power": {**record["power"], "comparisons": 1}})


def _cell(
    task: dict[str, Any], index: int, method: str, place: int, seeds: Sequence[int], draw: random.Random, *,
    tune: bool, effect: float,
) -> dict[str, Any]:  # fmt: skip
    level, peak = 0.62 + 0.04 * index + effect * place, 1e-3 * (1 + place % 3)

    def run(seed: int) -> dict[str, Any]:
        score = round(level + 0.01 * math.sin(seed) + draw.gauss(0, 0.006), 6)
        return {
            "seed": seed,
            "outcome": "finished",
            "folder": f"runs/{task['name']}/{method}/seed-{seed}".replace("\n", " "),
            "score": score,
            "metrics": {task["metric"]: score, "loss": round(1.3 - score, 6)},
            "best_on_dev": round(score + 0.004, 6),
            "stored_parameters": 36_864 + 512 * place,
            "most_trained": 60_000 + 9_000 * place,
            "adapter_bytes": 4 * (36_864 + 512 * place),
            "seconds": round(12.5 + 2 * place + draw.random(), 3),
            "peak_memory_bytes": 600_000_000 + 50_000_000 * place,
            "collapsed": False,
        }

    tuned = None
    if tune:
        tried = []
        for step, rate in enumerate(GRID):
            away = abs(math.log10(rate / peak))
            collapsed = 1 if rate == GRID[-1] and place % 2 == 0 else 0
            scores = [round(level - 0.07 * away**1.5 + draw.gauss(0, 0.006), 6) for _ in range(1 if away > 0.9 else 2)]
            if collapsed:
                scores[0] = MAJORITY
            tried.append({
                "value": rate, "seeds": list(range(1, len(scores) + 1)), "scores": scores, "collapsed": collapsed,
                "runs": [f"tuning/{task['name']}/{method}/{rate:g}/seed-{seed + 1}" for seed in range(len(scores))],
                "added": step == 4,
            })  # fmt: skip
        best = max(tried, key=lambda one: mean(one["scores"]))
        near = GRID.index(best["value"])
        tuned = {
            "tried": tried,
            "chosen": best["value"],
            "interior": 0 < near < len(GRID) - 1,
            "band": [GRID[max(near - 1, 0)], GRID[min(near + 1, len(GRID) - 1)]],
            "collapsed": sum(one["collapsed"] for one in tried) / sum(len(one["scores"]) for one in tried),
            "expected_best": [round(level - 0.05 / k, 6) for k in range(1, 6)],
        }
    return {"task": task["name"], "method": method, "tuned": tuned, "runs": [run(seed) for seed in seeds]}


def _comparison(
    baseline: str, method: str, tasks: Sequence[dict[str, Any]], scores: dict[tuple[str, str], list[float]],
    seeds: Sequence[int], stored: dict[str, float], *, margin: bool,
) -> dict[str, Any]:  # fmt: skip
    apart = {
        task["name"]: [
            b - a for a, b in zip(*(scores[task["name"], which] for which in (baseline, method)), strict=True)
        ]
        for task in tasks
    }
    differences = [mean(values) for values in zip(*apart.values(), strict=True)]
    by_task = [{"task": name, **tested(values)} for name, values in apart.items()]
    for one, p in zip(by_task, holm([one["p"] for one in by_task]), strict=True):
        one["p_holm"] = p
    found = tested(differences)
    return {
        "method": method, "baseline": baseline, **found, "differences": differences, "of_seeds": list(seeds),
        "dropped": [], "p_holm": found["p"], "p_equivalent": 0.4 if margin else None,
        "p_non_inferior": 0.03 if margin else None, "margin": MARGIN if margin else None, "detectable": 0.0123,
        "power_equivalent": 0.81 if margin else None, "seeds_needed": None,
        "bootstrap": None if found["low"] is None else [found["low"] - 0.0003, found["high"] + 0.0004],
        "verdict": "undecided", "size_ratio": stored[method] / stored[baseline], "by_task": by_task, "notes": [],
    }  # fmt: skip


def write_experiment(folder: Path, record: dict[str, Any], *, with_ranks: Sequence[str] = ()) -> Path:
    """The folder of an experiment; of the methods in `with_ranks` with the run folder of the first seed on each task.

    Returns it.
    """
    RunRecords(folder).write_comparison(record)
    for cell in record["cells"]:
        if cell["method"] in with_ranks:
            write_run(folder / cell["runs"][0]["folder"], examples.bert(6), seed=cell["runs"][0]["seed"])
    return folder
