"""DoRA beside LoRA and the untuned model on E2E: same loop, data order, steps, targets, size and decoding.

    python scripts/compare_e2e.py --model MODEL --data E2E --output DIR [--ranks 4,8] [--seeds 1] [--epochs 2] [--batch
    32] [--jobs N]
                                  [--choose-steps 400] [--stage both|choose|final] [--set KEY=VALUE ...]

`E2E` holds the official CSV files. Each method and rank first trains `--choose-steps` steps with every learning rate of
its grid; the rate with the lowest loss on the dev references is taken. Then each trains on the whole training set for
`--epochs` with its rate, once per seed; the last weights write the test set by the published decoding (beam 10, length
penalty 0.8). LoRA gets DoRA's final rank in every projection, so both end at the same number of components; alpha and
dropout are equal. The untuned model writes the test set as it is.

Everything printed also goes to DIR/results.json, outputs to DIR/*/run/predictions.jsonl; a finished run in DIR is not
repeated. METEOR needs Java: where it is not at hand, ``dora score e2e --predictions FILE`` gives it later.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from run_pool import Pool, finished, prepare, statistics
from torch import nn

from dora_cli import load_recipe, train
from dora_cli.methods import Method

GRIDS = {"dora": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3), "lora": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)}
ALPHA, DROPOUT = 16, 0.1
METRICS = ("loss", "bleu", "nist", "meteor", "rouge_l", "cider")

Cell = tuple[str, int]  # method, rank


class Untuned(Method):
    """Trains one parameter that nothing depends on, so that the model stays as it came."""

    name = "untuned"

    def place(self, model: nn.Module) -> None:
        first = self.sites[0].module
        self._shift = nn.Parameter(torch.zeros(1, device=next(first.parameters()).device))
        # the loss needs something to differentiate; times zero it changes nothing
        first.register_forward_hook(lambda module, inputs, output: output + 0.0 * self._shift)

    def parameters(self) -> list[nn.Parameter]:
        return [self._shift]


def recipe_text(model: str, data: Path, method: str, rank: int, rate: float, seed: int, train: str, decode: str) -> str:
    shared = f"rank: {rank}, alpha: {ALPHA}, dropout: {DROPOUT}"
    section = (
        f"{{name: lora, {shared}}}"
        if method == "lora"
        else f"{{name: dora, {shared}, prune_interval: 10, dem_weight: 0.1}}"
    )
    return (
        f"task: e2e\nmodel: {{name: {json.dumps(model)}}}\n"
        f"data: {{source: e2e-csv, path: {json.dumps(str(data))}, max_length: 512}}\nmethod: {section}\n"
        f"train: {{{train}, learning_rate: {rate}, seed: {seed}, adam_eps: 1.0e-6, max_grad_norm: null, "
        "label_smoothing: 0.1, "
        f"log_every: 100}}\neval: {{batch_size: 128, select: last}}\ndecode: {{batch_size: 64, {decode}}}\n"
    )


def one(folder: Path, method: str, overrides: Sequence[str]) -> None:
    """Trains the recipe that lies in `folder`; a separate process."""
    kind = Untuned if method == "untuned" else None
    train(load_recipe(folder / "wanted.yaml", overrides), folder / "run", overwrite=True, method=kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ranks", default="4,8")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--warmup", type=int, default=100, help="steps of learning-rate warm-up")
    parser.add_argument("--choose-steps", type=int, default=400)
    parser.add_argument("--stage", choices=["both", "choose", "final"], default="both")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads per run")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    cells = [(method, int(rank)) for rank in args.ranks.split(",") for method in GRIDS]
    pool = Pool(__file__, args.jobs, args.overrides, args.threads)
    data = args.data.resolve()
    chosen = args.output / "rates.json"
    if args.stage != "final":
        rates = choose(args, data, cells, pool)
        chosen.write_text(json.dumps({f"{method}-r{rank}": rate for (method, rank), rate in rates.items()}))
    if args.stage != "choose":
        found = json.loads(chosen.read_text())
        compare(args, data, {(method, rank): found[f"{method}-r{rank}"] for method, rank in cells}, pool)


def choose(args: argparse.Namespace, data: Path, cells: Sequence[Cell], pool: Pool) -> dict[Cell, float]:
    """The learning rate with the lowest dev loss after the short training, for each cell; of equals the lowest."""
    train = f"max_steps: {args.choose_steps}, batch_size: {args.batch}, lr_warmup_steps: {args.warmup}"
    wanted = {}
    for method, rank in cells:
        for rate in GRIDS[method]:
            text = recipe_text(
                args.model, data, method, rank, rate, 1, train, "split: validation, beams: 1, epoch_samples: 0"
            )
            wanted[method, rank, rate] = prepare(args.output / "choose" / f"{method}-r{rank}-lr{rate:g}", text)
    # only the loss is of use here, so little is decoded
    short = Pool(pool.script, pool.jobs, [*pool.overrides, "data.max_eval_samples=150"], pool.threads)
    short.run([(folder, method, rank) for (method, rank, _), folder in wanted.items()])
    rates = {}
    for method, rank in cells:
        losses = {
            rate: record(folder)["metrics"]["loss"]
            for rate in GRIDS[method]
            if finished(folder := wanted[method, rank, rate])
        }
        print(
            f"choose {method:5} r{rank}: " + "  ".join(f"{rate:g}: {loss:.4f}" for rate, loss in losses.items()),
            flush=True,
        )
        if losses:
            rates[method, rank] = min(losses, key=lambda rate: (losses[rate], rate))
    return rates


def compare(args: argparse.Namespace, data: Path, rates: Mapping[Cell, float], pool: Pool) -> None:
    """Trains every cell at its rate, decodes the test set, prints and writes what came of it."""
    length = f"batch_size: {args.batch}, lr_warmup_steps: {args.warmup}"
    full = "epoch_samples: 64"
    wanted: dict[tuple[str, int, str], Path] = {}
    for (method, rank), rate in rates.items():
        for seed in args.seeds.split(","):
            text = recipe_text(
                args.model, data, method, rank, rate, int(seed), f"epochs: {args.epochs}, {length}", full
            )
            wanted[method, rank, seed] = prepare(args.output / "final" / f"{method}-r{rank}-seed{seed}", text)
    text = recipe_text(args.model, data, "untuned", 1, 1e-3, 1, f"max_steps: 1, batch_size: {args.batch}", full)
    wanted["untuned", 0, "1"] = prepare(args.output / "final" / "untuned", text)
    pool.run([(folder, method, rank) for (method, rank, _), folder in wanted.items()])
    results = []
    for method, rank in [*rates, ("untuned", 0)]:
        folders = [folder for (m, r, _), folder in wanted.items() if (m, r) == (method, rank) and finished(folder)]
        if not folders:
            continue
        records = [record(folder) for folder in folders]
        result = {
            "method": method,
            "rank": rank,
            "learning_rate": rates.get((method, rank)),
            "steps": records[0]["epochs"][-1]["step"],
            "adapter_parameters": [found["budget"]["adapter_parameters_final"] for found in records],
            "metrics": {name: [found["metrics"].get(name) for found in records] for name in METRICS},
            "timing": [found["timing"] for found in records],
        }
        results.append(result)
        values = "  ".join(
            f"{name} {statistics(numbers)}"
            for name, numbers in result["metrics"].items()
            if all(n is not None for n in numbers)
        )
        timing = result["timing"]
        print(
            f"final {method:7} r{rank} lr {result['learning_rate']}: {values}  adapter "
            f"{result['adapter_parameters'][0]:,}  {max(t['train_seconds'] for t in timing):.0f} s  "
            f"{min(t['steps_per_second'] for t in timing):.2f} steps/s",
            flush=True,
        )
    (args.output / "results.json").write_text(json.dumps({"results": results}, indent=1))


def record(folder: Path) -> dict:
    return json.loads((folder / "run" / "metrics.json").read_text())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(Path(sys.argv[2]), sys.argv[3], sys.argv[5:])
    else:
        main()
