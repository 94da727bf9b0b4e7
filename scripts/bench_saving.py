"""What checkpoints cost: their time beside training, and their size beside what they must hold.

    python scripts/bench_saving.py RECIPE [--set KEY=VALUE ...] [--json FILE]

Trains the recipe in a temporary folder, with its own saving settings, and prints: seconds of training, evaluation and
saving; the share of saving in training time; and for the newest checkpoint its bytes against those of adapter, head and
their two moments (fp32).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from dora_cli import load_recipe, train
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import Snapshot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dora-bench-") as folder:
        run = Path(folder) / "run"
        metrics = train(load_recipe(args.recipe, args.overrides), run).metrics
        folders = checkpoints_of(RunRecords(run))
        sizes = {path.name: sum(file.stat().st_size for file in path.iterdir()) for path in folders}
        least = {path.name: least_bytes(Snapshot.load(path)) for path in folders}
    timing = metrics["timing"]
    result = {
        "train_seconds": timing["train_seconds"],
        "evaluation_seconds": timing["evaluation_seconds"],
        "saving_seconds": timing["saving_seconds"],
        "share": timing["saving_seconds"] / timing["train_seconds"],
        "checkpoints": {
            name: {"bytes": size, "least": least[name], "ratio": size / least[name]} for name, size in sizes.items()
        },
    }
    print(
        f"training {result['train_seconds']:.1f} s, evaluation {result['evaluation_seconds']:.1f} s, "
        f"saving {result['saving_seconds']:.2f} s: {100 * result['share']:.2f} % of training"
    )
    for name, size in sizes.items():
        print(f"{name}: {size:,} bytes, {size / least[name]:.3f} x adapter, head and their moments ({least[name]:,})")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


def least_bytes(snapshot: Snapshot) -> int:
    """Bytes of what trains and its two moments, in fp32; what the method keeps besides (scores, masks)
    is not counted.
    """
    trained = [
        tensor
        for name, tensor in snapshot.weights.adapter.items()
        if name not in ("scores", "keep", "frozen", "compacted")
    ]
    return 3 * 4 * sum(tensor.numel() for tensor in [*trained, *snapshot.weights.head.values()])


if __name__ == "__main__":
    main()
