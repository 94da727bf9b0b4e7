"""DoRA beside LoRA and head-only training: same loop, data order, steps, targets and head; learning rates chosen
on held-out data.

    python scripts/compare_methods.py --model MODEL --data GLUE --output DIR [--tasks RTE,CoLA,SST-2] [--ranks 8,2]
    [--seeds 1,2,3]
                                      [--jobs N] [--device auto] [--set KEY=VALUE ...]

`GLUE` holds official TSV folders (RTE, CoLA, SST-2). Two stages. First, a tenth of the training sentences (a fixed
random draw) is held out; every method trains on the rest with each learning rate of its grid, one seed, for as many
epochs as later, and the rate with the best held-out metric at the end of training is chosen. Then each method trains on
the whole training set with its rate, once per seed, and is scored on the dev set with the published selection (best
epoch after DoRA's freeze step; the same epochs for all methods).

LoRA gets DoRA's final rank in every projection, alpha 8 as the published code gives its LoRA, and the same dropout; so
both end at the same number of components. Everything printed also goes to DIR/results.json; a finished run in DIR is
not repeated.

``--variants`` looks for reasons instead: DoRA with one thing changed at a time, each with a few learning rates and two
seeds, scored on the held-out tenth at the end of training. The default method is never touched by it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from run_pool import Pool, finished, prepare, statistics
from torch import nn

from dora_cli import load_recipe, train
from dora_cli.methods import Dora, Method
from dora_cli.methods.low_rank.layer import AdaptedProjection

TASKS: dict[str, dict[str, Any]] = {
    "RTE": {"task": "glue/rte", "epochs": 20, "batch": 16, "dem": 0.5, "interval": 10, "metric": "accuracy"},
    "CoLA": {
        "task": "glue/cola",
        "epochs": 10,
        "batch": 32,
        "dem": 0.3,
        "interval": 10,
        "metric": "matthews_correlation",
    },
    "SST-2": {"task": "glue/sst2", "epochs": 3, "batch": 64, "dem": 0.5, "interval": 10, "metric": "accuracy"},
}
GRIDS = {
    "dora": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "lora": (1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3),
    "head": (1e-3, 3e-3, 1e-2, 3e-2),
}


VARIANTS: dict[str, dict[str, Any]] = {
    "as-published": {},
    "no-DEM": {"dem_weight": 0.0},
    "no-pruning": {"start_rank": "rank"},
    # under Adam the same as gates that move 4 times slower: the update is alpha times the gate
    "alpha-2": {"alpha": 2.0},
    "alpha-0.5": {"alpha": 0.5},
    "small-B": {"b_scale": 0.125},
    "LoRA-start": {"lora_start": True},  # B = 0 and gates at 1 instead of gates at 0
}
VARIANT_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
VARIANT_CELLS = (("CoLA", 2),)


class ChangedDora(Dora):
    """DoRA from another start; for ``--variants`` only."""

    def __init__(self, *, b_scale: float = 1.0, lora_start: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.b_scale, self.lora_start = b_scale, lora_start

    def place(self, model: nn.Module) -> None:
        super().place(model)
        with torch.no_grad():
            for layer in (model.get_submodule(site.name) for site in self.sites):
                assert isinstance(layer, AdaptedProjection)
                layer.B.mul_(0.0 if self.lora_start else self.b_scale)
                layer.gates.fill_(1.0 if self.lora_start else 0.0)


def recipe_text(
    name: str, model: str, data: Path, method: str, rank: int, rate: float, seed: int, batch_factor: int = 1
) -> str:
    spec = TASKS[name]
    shared = f"rank: {rank}, alpha: 8, dropout: 0.1"
    dora = f"{{name: dora, {shared}, prune_interval: {spec['interval']}, dem_weight: {spec['dem']}}}"
    section = {"head": "{name: head}", "lora": f"{{name: lora, {shared}}}"}.get(method, dora)
    train = (
        f"epochs: {spec['epochs']}, batch_size: {spec['batch']}, learning_rate: {rate}, seed: {seed}, precision: "
        "fp32, log_every: 200"
    )
    return (
        f"task: {spec['task']}\nmodel: {{name: {json.dumps(model)}}}\n"
        f"data: {{source: glue-tsv, path: {json.dumps(str(data))}}}\nmethod: {section}\ntrain: {{{train}}}\n"
        "eval: {batch_size: 256, select: best}\n"
    )


def one(folder: Path, method: str, rank: int, overrides: Sequence[str]) -> None:
    """Trains the recipe that lies in `folder`; a separate process."""
    recipe = load_recipe(folder / "wanted.yaml", overrides)
    changed: Callable[[], Method] | None = None
    if method in VARIANTS:
        settings = recipe.method.model_dump(exclude={"name", "targets"}) | VARIANTS[method]
        settings["start_rank"] = rank if settings["start_rank"] == "rank" else settings["start_rank"]
        changed = partial(ChangedDora, **settings)
    train(recipe, folder / "run", overwrite=True, method=changed)


def hold_out(data: Path, target: Path) -> None:
    """Splits train.tsv into nine tenths and one tenth, the latter in the place of dev.tsv; a fixed random draw."""
    target.mkdir(parents=True, exist_ok=True)
    lines = (data / "train.tsv").read_text(encoding="utf-8-sig").split("\n")
    lines = lines[:-1] if not lines[-1] else lines
    header = [] if data.name == "CoLA" else [lines.pop(0)]
    chosen = set(random.Random(20240527).sample(range(len(lines)), len(lines) // 10))
    for name, inside in (("train.tsv", False), ("dev.tsv", True)):
        part = [line for index, line in enumerate(lines) if (index in chosen) == inside]
        (target / name).write_text("\n".join(header + part) + "\n", encoding="utf-8")


Cell = tuple[str, str, int]  # task, method, rank


def place(output: Path, stage: str, name: str, method: str, rank: int, rate: float, seed: int) -> Path:
    return output / stage / f"{name}-{method}-r{rank}-lr{rate:g}-seed{seed}"


def score(folder: Path, metric: str, *, after: float = 0.0, last: bool = False) -> float:
    record = json.loads((folder / "run" / "metrics.json").read_text())
    epochs = record["epochs"]
    total = epochs[-1]["step"]
    values = [epoch["metrics"][metric] for epoch in epochs if epoch["step"] >= after * total]
    return values[-1] if last else max(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tasks", default="RTE,CoLA,SST-2")
    parser.add_argument("--ranks", default="8,2")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads per run")
    parser.add_argument("--stage", choices=["both", "choose"], default="both")
    parser.add_argument(
        "--rate", type=float, help="this learning rate for every method, chosen elsewhere or not at all (to time steps)"
    )
    parser.add_argument("--variants", action="store_true", help="look for reasons instead; see above")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    tasks, ranks, seeds = (
        args.tasks.split(","),
        [int(r) for r in args.ranks.split(",")],
        [int(s) for s in args.seeds.split(",")],
    )
    cells = [
        (name, method, rank) for name in tasks for method in GRIDS for rank in (ranks if method != "head" else [0])
    ]
    pool = Pool(__file__, args.jobs, args.overrides, args.threads)
    for name in tasks:
        hold_out(args.data / name, args.output / "held-out" / name)
    if args.variants:
        look_for_reasons(args.model, args.output, pool)
        return
    if args.rate is None:
        rates = choose_rates(args.model, args.output, cells, pool)
    else:
        rates = dict.fromkeys(cells, args.rate)
    if args.stage == "both":
        compare(args.model, args.data, args.output, rates, seeds, pool)


def choose_rates(model: str, output: Path, cells: Sequence[Cell], pool: Pool) -> dict[Cell, float]:
    """The learning rate with the best held-out metric at the end of training, for each cell; of equals the lowest."""
    wanted = {}
    for name, method, rank in cells:
        for rate in GRIDS[method]:
            text = recipe_text(name, model, (output / "held-out" / name).resolve(), method, rank, rate, 1)
            wanted[name, method, rank, rate] = prepare(place(output, "choose", name, method, rank, rate, 1), text)
    pool.run([(folder, method, rank) for (_, method, rank, _), folder in wanted.items()])
    rates = {}
    for name, method, rank in cells:
        found = {
            rate: score(wanted[name, method, rank, rate], TASKS[name]["metric"], last=True)
            for rate in GRIDS[method]
            if finished(wanted[name, method, rank, rate])
        }
        row = "  ".join(f"{rate:g}: {value:.4f}" for rate, value in found.items())
        print(f"choose {name:6} {method:5} r{rank}: {row}", flush=True)
        if found:
            rates[name, method, rank] = max(found, key=lambda rate: (found[rate], -rate))
    return rates


def compare(
    model: str, data: Path, output: Path, rates: Mapping[Cell, float], seeds: Sequence[int], pool: Pool
) -> None:
    """Trains every cell at its rate once per seed on the whole training set; prints and writes what came of it."""
    wanted = {}
    for (name, method, rank), rate in rates.items():
        for seed in seeds:
            text = recipe_text(name, model, (data / name).resolve(), method, rank, rate, seed)
            wanted[name, method, rank, seed] = prepare(place(output, "final", name, method, rank, rate, seed), text)
    pool.run([(folder, method, rank) for (_, method, rank, _), folder in wanted.items()])
    results = []
    for (name, method, rank), rate in rates.items():
        metric = TASKS[name]["metric"]
        folders = [folder for seed in seeds if finished(folder := wanted[name, method, rank, seed])]
        if not folders:
            continue
        records = [json.loads((folder / "run" / "metrics.json").read_text()) for folder in folders]
        timing = [record["timing"] for record in records]
        result = {
            "task": name,
            "method": method,
            "rank": rank,
            "learning_rate": rate,
            "metric": metric,
            "best": [score(folder, metric, after=0.5) for folder in folders],
            "last": [score(folder, metric, last=True) for folder in folders],
            "adapter_parameters": [record["budget"]["adapter_parameters_final"] for record in records],
        }
        for key in ("train_seconds", "steps_per_second", "peak_memory_bytes"):
            result[key] = [entry[key] for entry in timing]
        results.append(result)
        print(
            f"final {name:6} {method:5} r{rank} lr {rate:g}: best {statistics(result['best'])}  last "
            f"{statistics(result['last'])}  adapter {sum(result['adapter_parameters']) // len(records):,}  "
            f"{max(result['train_seconds']):.0f} s  {min(result['steps_per_second']):.2f} steps/s  "
            f"{max(result['peak_memory_bytes']) / 2**20:.0f} MiB",
            flush=True,
        )
    (output / "results.json").write_text(json.dumps({"results": results}, indent=1))


def look_for_reasons(model: str, output: Path, pool: Pool) -> None:
    """Runs every variant and prints its held-out metric by learning rate."""
    cells = [
        (name, rank, variant, rate) for name, rank in VARIANT_CELLS for variant in VARIANTS for rate in VARIANT_RATES
    ]
    folders = {
        (*cell, seed): prepare(
            place(output, "variants", cell[0], cell[2], cell[1], cell[3], seed),
            recipe_text(cell[0], model, (output / "held-out" / cell[0]).resolve(), "dora", cell[1], cell[3], seed),
        )
        for cell in cells
        for seed in (1, 2)
    }
    pool.run([(folder, key[2], key[1]) for key, folder in folders.items()])
    for name, rank in VARIANT_CELLS:
        for variant in VARIANTS:
            row = []
            for rate in VARIANT_RATES:
                found = [folders[name, rank, variant, rate, seed] for seed in (1, 2)]
                values = [score(folder, TASKS[name]["metric"], last=True) for folder in found if finished(folder)]
                row.append(f"{rate:g}: " + (" / ".join(f"{value:.3f}" for value in values) or "-"))
            print(f"variant {name} r{rank} {variant:13} {'   '.join(row)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5:])
    else:
        main()
