"""Trains recipes at two commits and compares what comes out to the bit: a rebuilt house must compute what the old one
did.

    python scripts/compare_commits.py BEFORE [AFTER] [--recipe FILE ...] [--set KEY=VALUE ...] [--threads N]

Each commit is checked out into a temporary folder and trains with its own code. Weights, optimiser moments, ranks,
outputs, metrics and log must be the same; times, versions and paths are left out. Without `--recipe` the demonstrations
are trained. A recipe file is the one of this checkout for both commits. Exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DEMOS = ("configs/demo/sst2.yaml", "configs/demo/e2e.yaml")


def check_out(commit: str, folder: Path) -> Path:
    """`commit` in `folder`."""
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(folder), commit], check=True)
    return folder


def train(tree: Path, recipe: Path, output: Path, settings: list[str], threads: int) -> None:
    """Trains `recipe` with the code in `tree`."""
    words = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "dora_cli", "train", str(recipe), "--output", str(output), *words]
    # The oldest commits know no train.threads; this variable they all follow.
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads), "CI": "1"}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} in {tree} ended with exit code {done.returncode}:\n{done.stderr}")


def facts(run: Path) -> dict[str, Any]:
    """What must be the same, by file."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*.safetensors")):
        found[str(path.relative_to(run))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for name in ("metrics.json", "ranks.json"):
        found[name] = untimed(json.loads((run / name).read_text()))
    log = (run / "log.jsonl").read_text().splitlines()
    found["log.jsonl"] = [untimed(json.loads(line)) for line in log]
    outputs = run / "predictions.jsonl"
    if outputs.is_file():
        found[outputs.name] = outputs.read_text().splitlines()
    return found


def untimed(record: Any) -> Any:
    """`record` without its times."""
    return {key: value for key, value in record.items() if key != "timing"}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of the files that differ, or that only one of the two has; of a record, the keys that differ too."""
    found = []
    for name in sorted({*before, *after}):
        one, two = before.get(name), after.get(name)
        if one != two:
            keys = f" ({', '.join(_keys(one, two))})" if isinstance(one, dict) and isinstance(two, dict) else ""
            found.append(f"{name}{keys}")
    return found


def _keys(one: dict[str, Any], two: dict[str, Any], above: str = "") -> Iterator[str]:
    """Dotted keys of two records whose values differ."""
    for key in sorted({*one, *two}):
        mine, theirs = one.get(key), two.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            yield from _keys(mine, theirs, f"{above}{key}.")
        elif mine != theirs:
            yield f"{above}{key}{'' if key in one else ' is new'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", default="HEAD")
    parser.add_argument("--recipe", action="append", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    recipes = args.recipe or [ROOT / demo for demo in DEMOS]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="compare-commits-") as temporary:
        folder = Path(temporary)
        trees = [check_out(commit, folder / name) for name, commit in (("before", args.before), ("after", args.after))]
        try:
            for number, recipe in enumerate(recipes):
                runs = [folder / f"run-{number}-{tree.name}" for tree in trees]
                for tree, run in zip(trees, runs, strict=True):
                    train(tree, recipe.resolve(), run, args.settings, args.threads)
                found = [facts(run) for run in runs]
                different = differences(*found)
                wrong += bool(different)
                said = f"differs in {', '.join(different)}" if different else f"the same, {len(found[0])} files"
                print(f"{recipe}: {said}", flush=True)
        finally:
            for tree in trees:
                subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
