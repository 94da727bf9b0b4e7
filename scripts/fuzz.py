"""Gives `dora` damaged and malicious files, and looks for tracebacks, hangs, crashes, raw control characters and bombs.

    python scripts/fuzz.py [--inputs 10000] [--seed 1] [--jobs 2] [--first 0] [--failures DIR]

Recipes, ``--set`` values, data files of every format, score files, adapters, the records of run folders and local
models: each input is a sound file with something changed (values, types, bytes, sizes, or a pipe, a device or a file of
3 GB in its place) and one command that reads it. Commands run in forked workers, so that a hang of over 20 s and a
crash are seen. An input may end in a result or in one message; see `tests.hostile.trial` for what is a fault. Prints
counts by command, and every kind of fault once, with one input of each in DIR, as short as it could be made; exits 1 if
there is any.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.hostile.ground import Ground
from tests.hostile.inputs import make
from tests.hostile.trial import Outcome, Pool


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first input; with --inputs 1, to try one again"
    )
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--show", action="store_true", help="print every command, and how it ended")
    return parser.parse_args()


def keep(pool: Pool, outcome: Outcome, folder: Path) -> None:
    """Writes down an input with a fault: its files, its command, what happened, and its file made shorter."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "input").mkdir(parents=True)
    given = make(pool.ground, pool.seed, outcome.number, folder / "input")
    command = f"cd input && dora {shlex.join(given.arguments)}"
    lines = (
        f"input {outcome.number}, seed {pool.seed}: {outcome.fault}",
        command,
        str(given.edited),
        "",
        outcome.detail,
    )
    (folder / "fault.txt").write_text("\n".join(lines), errors="backslashreplace")
    shorter = pool.reduced(outcome)
    if shorter is not None and given.edited is not None:
        (folder / f"reduced-{given.edited.name}").write_bytes(shorter)


def main() -> int:
    args = _arguments()
    began = time.monotonic()
    work: Counter[tuple[str, str]] = Counter()
    codes: dict[tuple[str, str], Counter[object]] = defaultdict(Counter)
    faults: dict[str, list[Outcome]] = defaultdict(list)
    slowest = Outcome(-1, None, None)
    with tempfile.TemporaryDirectory(prefix="dora-fuzz-") as name:
        root = Path(name)
        pool = Pool(Ground(root / "ground"), args.seed, root / "scratch", jobs=args.jobs)
        ready = began
        for count, outcome in enumerate(pool.run(range(args.first, args.first + args.inputs)), start=1):
            given = outcome.input
            ready = ready if count > 1 else time.monotonic()
            what = (given.kind, given.command) if given else ("?", "?")
            codes[what][outcome.code if outcome.fault is None else "faults"] += 1
            work[what] += outcome.work
            if args.show:
                print(f"{outcome.number} {outcome.code} {given and given.arguments!r}: {outcome.detail!r}")
            if outcome.fault is not None:
                faults[outcome.fault].append(outcome)
            slowest = max(slowest, outcome, key=lambda one: one.seconds)
            if count % 500 == 0:
                speed = count / (time.monotonic() - ready)
                print(f"{count:,} inputs, {sum(map(len, faults.values()))} faults, {speed:.1f} a second", flush=True)
        seconds = time.monotonic() - ready
        for number, (fault, found) in enumerate(sorted(faults.items(), key=lambda pair: -len(pair[1])), start=1):
            first = found[0]
            command = first.input.command if first.input else "?"
            print(
                f"\n{number}. {fault}: {len(found)} inputs, such as "
                f"{', '.join(str(one.number) for one in found[:5])} ({command})"
            )
            print("  " + "\n  ".join(first.detail.strip().splitlines()[-6:]))
            keep(pool, first, args.failures / str(number))
    print(f"\n{'kind':8} {'command':28} {'done':>6} {'refused':>8} {'diverged':>9} {'faults':>7} {'ms each':>8}")
    for (kind, command), counts in sorted(codes.items()):
        each = 1000 * work[kind, command] / counts.total()
        print(f"{kind:8} {command:28} {counts[0]:6} {counts[2]:8} {counts[3]:9} {counts['faults']:7} {each:8.0f}")
    total = sum(map(len, faults.values()))
    print(f"{args.inputs:,} inputs of seed {args.seed} in {seconds:.0f} s ({args.inputs / seconds:.1f} a second)")
    print(f"the slowest took {slowest.seconds:.1f} s (input {slowest.number}); preparation {ready - began:.0f} s")
    print(f"{total} faults of {len(faults)} kinds" + (f"; one of each is in {args.failures}" if faults else ""))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
