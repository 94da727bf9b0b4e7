"""Training steps of several methods side by side in one run: time, memory, and the share of DoRA's own work.

    python scripts/bench_step.py --device cpu|cuda [--batch 16] [--length 64] [--methods frozen,dora,peft-lora,...]
    [--json FILE]
                                 [--family roberta|llama] [--size 135m|1.1b|tiny]
                                 [--width 768|1024|2048 | --hidden H --layers N --heads N --vocab V | --model FOLDER]
                                 [--start-rank 12] [--rank 8] [--precision auto|fp32|bf16]
                                 [--dropout 0.1] [--rounds N] [--steps N] [--warmup N] [--threads N] [--no-memory]
                                 [--kernels]

Shapes are RoBERTa-base's with random weights unless told otherwise; sequences are full, under a mask of ones, dropout
is on. Precision `auto` is bf16 autocast on CUDA and fp32 on the CPU. All attention and FFN projections are adapted (72
in RoBERTa-base). `--family llama` is a language model of SmolLM2-135M's shapes or TinyLlama-1.1B's (210 and 154
projections), in which every token has a label and no head trains. `--size tiny` has as many projections as the first
and a width of 32: what a step takes then is the host's time, which bounds steps on a GPU that are not captured; with
`--device cpu --threads 1 --batch 4 --length 16 --start-rank 8 --no-memory` it can be seen without one. The methods:

    frozen          forward, and backward to the input embeddings, of the frozen model: the floor. Nothing trains.
    frozen-graph    the same in one CUDA graph
    frozen-quick    the same on the CPU, the model's own dropouts drawn as ours draws them there: what adapters alone
    add to
    products        the floor's matrix products alone, forward and to the inputs, of all linear maps, in one CUDA graph:
        what the machine could do
    dora            ours, whole step: dropout, DEM, clip, AdamW, scores, their average; before the first event, at the
        start rank
    dora-graph      the same, captured by the product's own training step
    dora-graph-single    the same, but projections that read the same input are computed one by one; also dora-single,
        dora-compacted-graph-single, dora-graph-fused-single and lora-graph-single
    dora-graph-serial    the same, but all its kernels in one stream; also dora-graph-fused-serial and lora-graph-serial
    dora-graph-sdpa      the same, but attention as PyTorch computes it; also dora-graph-fused-sdpa
    dora-compacted  ours after the freeze, tensors shrunk (also dora-compacted-graph)
    lora            our LoRA at DoRA's start rank, by the same training step
    lora-pro        our LoRA-Pro at the same rank, moments of the factors (also lora-pro-full, of whole weights)
    lora-held       our LoRA with a bound on steps
    dora-auto       our preset before its first cut: the same with scores
    riemannian      our LoRA with Riemannian gradients
    flat-lora       the same under noise on its weights, drawn in every step
    adalora         our AdaLoRA amid its pruning, at the same start rank: importance in every step, a selection every 10
    sora            our SoRA at the same start rank
    melora          our MELoRA of two minis of that rank: as large as LoRA, of twice its rank
    cola            our Chain of LoRA in its third link, with that rank in all
    nora            our NoRA of that inner rank, between outer factors of rank 64
    cora            our CoRA at the same rank, its basis frozen (also cora-trained, whose basis trains)
    xgblora         our XGBLoRA in its last booster, of a third of the blocks, with that rank in all
    bitfit, houlsby, pfeiffer, full    ours: biases; bottlenecks of 32 and of 64, 1.2 million parameters; all weights
    peft-lora       PEFT's LoRA at the final rank
    peft-adalora    PEFT's AdaLoRA amid its pruning: importance in every step, a selection every 10, its orthogonal loss
    published       DoRA in the manner of the published code: our transcription, see published_dora.py
    torch-full      full fine-tuning in plain PyTorch

Those of ours are captured in CUDA graphs by the product's own training step under their name with -graph; with
-graph-fused the blocks of the base are compiled too, as `train.fuse` does it; frozen-graph-fused is such a floor. With
--family llama, frozen-graph-liger and lora-graph-liger have the kernels of liger-kernel for norms, rotations and gates.

Methods take turns in rounds of a few steps, each round beginning with another one; the first step of each turn is not
counted. `ms` is the median over all counted steps, `mean_ms` their mean (AdaLoRA's selections show there), `low_ms` and
`high_ms` the 10th and 90th percentile, `host_ms` the median time that the host takes to launch a step; on the CPU its
CPU time, all threads together, which depends less on what else the machine does. On CUDA steps are timed between events
in the stream, without waiting in between. All methods step fused AdamW, clip to norm 1 and train the classification
head, if there is one.

`peak_mb` (MiB) is measured first, in a process of its own per method: on CUDA the most memory that tensors took
(`reserved_mb`: that PyTorch held for them) after building, over warm-up, capture and a few steps; on the CPU the most
that the whole process took, libraries included.

With `--kernels`, on CUDA, `kernels` are those of one step by PyTorch's profiler, those of one name together: how many,
and how many microseconds in all; the longest are printed. Kernels that run side by side count each.

On the CPU `operators` is how many of PyTorch's operators a step calls, views left out: about as many launches on a GPU.

Of ours there is also: `own_ms`, the time of the method's own part of a step alone (DEM's gradient, scores, average,
masks), in a CUDA graph of its own for dora-graph, and `own_share` of `ms`; `event_ms`, the median time of a selection,
the device idle before and after; `freeze_ms`, of the last one with its compaction. Ratios are to the floor (`to_floor`:
frozen-graph where it is measured, else frozen), to the matrix products alone (`to_products`) and to PEFT's LoRA
(`faster_than_peft_lora`). Of `products` there is `teraflops`, what it reaches. `loss` shows that training
was sane; AdaLoRA's holds its orthogonal loss. FILE holds `device`, `versions`, `settings` and `methods`.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any

import torch
from bench_methods import DROPOUT, METHODS, DoraStep, ProductsStep, Settings, Step, attach, captured, dora
from bench_models import LLAMAS, LlamaShapes, Shapes
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from dora_cli.machine.devices import resolve_device, resolve_precision
from dora_cli.machine.environment import installed_version, peak_memory_bytes

DEFAULT = {
    "cpu": "frozen,dora,peft-lora,peft-adalora,torch-full",
    "cuda": "frozen,frozen-graph,dora,dora-graph,peft-lora,peft-adalora,torch-full",
}
LENGTHS = {"cpu": (5, 2, 1), "cuda": (10, 10, 10)}  # rounds, steps, warm-up
EVENTS = 30  # of the pruning in which events are timed; the last one freezes
SIZES = ("hidden", "layers", "heads", "kv_heads", "intermediate", "vocab")
SHOWN = 20  # kernels of a method
MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings: Settings = args.settings
    if args.memory_of:
        print(json.dumps(measure_memory(args.memory_of, settings, args.warmup)))
        return 0
    # Memory comes first: once this process holds all the models, others may find none left.
    memory = measure_memories(args.methods, settings, sys.argv[1:] if argv is None else argv) if args.memory else {}
    results = measure_times(
        args.methods, settings, rounds=args.rounds, steps=args.steps, warmup=args.warmup, kernels=args.kernels
    )
    for name, result in results.items():
        result |= memory.get(name, {})
    add_ratios(results)
    record = {
        "device": describe_device(settings.device),
        "versions": versions(),
        "settings": {
            "batch": settings.batch,
            "length": settings.length,
            "model": settings.model or "random weights",
            "shapes": None if settings.model else settings.shapes.as_dict(),
            "start_rank": settings.start_rank,
            "rank": settings.rank,
            "dropout": settings.dropout,
            "precision": settings.precision,
            "rounds": args.rounds,
            "steps": args.steps,
            "warmup": args.warmup,
            "threads": torch.get_num_threads(),
        },
        "methods": results,
    }
    print_table(record)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=_count, default=16)
    parser.add_argument("--length", type=_count, default=64, help="tokens per sequence")
    parser.add_argument("--methods", help=f"a list of {', '.join(METHODS)}")
    parser.add_argument("--model", help="a local model folder; default: RoBERTa-base's shapes with random weights")
    parser.add_argument("--family", choices=["roberta", "llama"], default="roberta")
    parser.add_argument("--size", choices=list(LLAMAS), help="of a Llama; default: 135m")
    parser.add_argument("--width", type=_count, help="hidden size in RoBERTa-base's proportions")
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=_count)
    parser.add_argument("--start-rank", type=_count, default=12)
    parser.add_argument("--rank", type=_count, default=8)
    parser.add_argument("--dropout", type=float, default=DROPOUT, help="of the adapters' input, 0 for none")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--rounds", type=_count)
    parser.add_argument("--steps", type=_count, help="counted steps of a method in a round")
    parser.add_argument("--warmup", type=_count, help="steps of each method before the first round")
    parser.add_argument("--threads", type=_count, help="CPU threads")
    parser.add_argument(
        "--no-memory", dest="memory", action="store_false", help="leave memory out: no process of its own per method"
    )
    parser.add_argument("--kernels", action="store_true", help="the kernels of a step too, on CUDA")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=list(METHODS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda, but PyTorch {torch.__version__} sees no CUDA device here; use --device cpu")
    if args.kernels and args.device == "cpu":
        parser.error("--kernels needs --device cuda; on a CPU operators are counted")
    if args.json and not args.json.absolute().parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.absolute().parent}")
    args.methods = list(dict.fromkeys((args.methods or DEFAULT[args.device]).split(",")))
    if unknown := [name for name in args.methods if name not in METHODS]:
        parser.error(f"--methods names {', '.join(unknown)}; there are {', '.join(METHODS)}")
    if args.device == "cpu" and (graphs := [name for name in args.methods if "-graph" in name]):
        parser.error(f"--methods names {', '.join(graphs)}, which need --device cuda")
    shapes = _shapes(parser, args)
    if args.model and not (Path(args.model) / "config.json").is_file():
        parser.error(f"--model {args.model} is no model folder: it has no config.json")
    if not 0 <= args.dropout < 1:
        parser.error(f"--dropout is {args.dropout}; it is at least 0 and below 1")
    if args.start_rank < args.rank:
        parser.error(f"--start-rank {args.start_rank} is below --rank {args.rank}")
    for name, value in zip(("rounds", "steps", "warmup"), LENGTHS[args.device], strict=True):
        if getattr(args, name) is None:
            setattr(args, name, value)
    device = resolve_device(args.device)
    args.settings = Settings(
        device=device,
        precision=resolve_precision(args.precision, device, "float32"),
        batch=args.batch,
        length=args.length,
        start_rank=args.start_rank,
        rank=args.rank,
        shapes=shapes,
        dropout=args.dropout,
        model=args.model,
    )
    return args


def _shapes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Shapes | LlamaShapes:
    sizes = {name: getattr(args, name) for name in SIZES if getattr(args, name)}
    llama = args.family == "llama"
    if args.model and (sizes or args.width or args.size or llama):
        options = ("family", "size", "width", *(name.replace("_", "-") for name in SIZES))
        parser.error(f"--model brings its own sizes; leave {', '.join(f'--{name}' for name in options)} out")
    if llama and args.width:
        parser.error("--width is of RoBERTa; use --size or --hidden with --family llama")
    if not llama and (args.size or args.kv_heads):
        parser.error(f"--{'size' if args.size else 'kv-heads'} is of a Llama; add --family llama")
    if args.hidden and not args.intermediate:
        sizes["intermediate"] = 8 * args.hidden // 3 if llama else 4 * args.hidden
    shapes: Shapes | LlamaShapes
    if llama:
        shapes = replace(LLAMAS[args.size or "135m"], **sizes)
        if shapes.heads % shapes.kv_heads:
            parser.error(f"{shapes.heads} heads cannot share {shapes.kv_heads} of keys and values; set --kv-heads")
    else:
        shapes = Shapes.of_width(args.width, **sizes) if args.width else Shapes(**sizes)
    if shapes.hidden % shapes.heads:
        parser.error(
            f"hidden size {shapes.hidden} cannot be split into {shapes.heads} heads; set --heads to a divisor of it"
        )
    positions = shapes.positions - (0 if llama else 2)
    if not args.model and args.length > positions:
        parser.error(f"--length is {args.length}; the model has {positions} positions")
    return shapes


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


# -- time --------------------------------------------------------------------------------------------------------------


def measure_times(
    names: Sequence[str], settings: Settings, *, rounds: int, steps: int, warmup: int, kernels: bool = False
) -> dict[str, dict[str, Any]]:
    """All methods built, warmed up, then timed in turns; `kernels`: those of a step too."""
    built: dict[str, Step] = {}
    for name in names:
        print(f"{name}: built and warmed up", end="", file=sys.stderr, flush=True)
        began = time.perf_counter()
        built[name] = METHODS[name](settings)
        for _ in range(warmup):
            built[name]()
        synchronize(settings.device)
        print(f" in {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    gc.collect()
    times: dict[str, list[float]] = {name: [] for name in names}
    host: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            step_times, host_times = time_calls(built[name], settings.device, steps)
            times[name] += step_times
            host[name] += host_times
    results: dict[str, dict[str, Any]] = {}
    for name, step in built.items():
        low, high = _tenths(times[name])
        results[name] = {
            "ms": median(times[name]),
            "mean_ms": fmean(times[name]),
            "low_ms": low,
            "high_ms": high,
            "host_ms": median(host[name]),
            "counted_steps": len(times[name]),
            "trainable": step.trainable(),
            "loss": step.loss(),
        }
        if kernels:
            results[name]["kernels"] = kernels_of(step)
        if settings.device.type == "cpu":  # Triton's launches are none of PyTorch's operators
            results[name]["operators"] = count_operators(step)
    ours = {name: step for name, step in built.items() if isinstance(step, DoraStep)}
    for name, step in ours.items():
        results[name] |= measure_own_work(step, median(times[name]))
    for name, step in built.items():
        if isinstance(step, ProductsStep):
            results[name]["teraflops"] = step.flops() / median(times[name]) / 1e9
    before = [name for name, step in ours.items() if not step.compacted]
    if before and settings.start_rank > settings.rank:  # else nothing is ever pruned
        events = measure_events(settings)
        for name in before:
            results[name] |= events
    return results


def _tenths(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    parts = quantiles(values, n=10, method="inclusive")
    return parts[0], parts[-1]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_calls(call: Callable[[], object], device: torch.device, count: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each of `count` calls in a row, after one that is not counted; on the device and on the host.

    On CUDA a call lasts from the event before it to the event after it, so that it includes waiting for the host where
    that is slower.
    """
    synchronize(device)
    marks, host = [_Mark(device)], []
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    for _ in range(count + 1):
        began = clock()
        call()
        host.append(1000 * (clock() - began))
        marks.append(_Mark(device))
    synchronize(device)
    times = [before.until(after) for before, after in pairwise(marks)]
    return times[1:], host[1:]


def kernels_of(call: Callable[[], object], steps: int = 3) -> list[dict[str, Any]]:
    """Name, `count` and `us` of the kernels of one call on CUDA, the longest in all first; means of `steps` calls."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for _ in range(steps):
            call()
        torch.cuda.synchronize()
    count, total = Counter[str](), Counter[str]()
    for event in profiled.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            count[event.name] += 1
            total[event.name] += event.time_range.elapsed_us()
    return [{"name": name, "count": count[name] / steps, "us": us / steps} for name, us in total.most_common()]


def count_operators(call: Callable[[], object]) -> int:
    """How many operators a call makes, those left out that only give a view."""
    with _Operators() as operators:
        call()
    return operators.count


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


class _Mark:
    """A moment of the device."""

    def __init__(self, device: torch.device) -> None:
        self.event: Any = None
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record()
        self.host = time.perf_counter()

    def until(self, later: _Mark) -> float:
        """Milliseconds; on CUDA only after a synchronisation."""
        return 1000 * (later.host - self.host) if self.event is None else float(self.event.elapsed_time(later.event))


# -- the method's own work ---------------------------------------------------------------------------------------------


def measure_own_work(step: DoraStep, step_ms: float) -> dict[str, float]:
    """`own_ms` and `own_share`.

    Afterwards `step` is good for nothing else: DEM was added to its gradients many times.
    """
    work: Callable[[], object] = step.own_work
    if step.graph:
        work = captured(step.own_work).replay
    own = median(time_calls(work, step.settings.device, 20)[0])
    return {"own_ms": own, "own_share": own / step_ms}


@torch.no_grad()
def measure_events(settings: Settings) -> dict[str, float]:
    """`event_ms` and `freeze_ms`, from a schedule with an event at every step that can have one, on gates drawn at
    random: no training.
    """
    model, _ = settings.build()
    method, _ = attach(model, dora(settings, pruning=EVENTS))
    for parameter in method.parameters():
        if parameter.ndim == 1:
            parameter.normal_()
    times = []
    for number in range(1, EVENTS + 1):
        method.observe()
        synchronize(settings.device)
        began = time.perf_counter()
        report = method.advance(number)
        synchronize(settings.device)
        if report.event:  # the curve begins so slowly that the first steps prune nothing
            times.append(1000 * (time.perf_counter() - began))
    assert report.frozen
    return {"event_ms": median(times[len(times) // 3 : -1]), "freeze_ms": times[-1]}


# -- memory ------------------------------------------------------------------------------------------------------------


def measure_memories(names: Sequence[str], settings: Settings, argv: Sequence[str]) -> dict[str, dict[str, float]]:
    """`measure_memory` of every method in a new process each.

    On a GPU several at a time: what PyTorch counts is each process's own.
    """
    together = 4 if settings.device.type == "cuda" else 1
    with ThreadPoolExecutor(together) as pool:
        return dict(zip(names, pool.map(partial(_memory_in_process, argv), names), strict=True))


def _memory_in_process(argv: Sequence[str], name: str) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), *argv, "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"measuring the memory of {name} failed:\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_memory(name: str, settings: Settings, warmup: int) -> dict[str, float]:
    """Peak memory of one method in this process, which must have done nothing else."""
    device = settings.device
    step = METHODS[name](settings)
    # those capture while they are built: their peak is before this line
    if device.type == "cuda" and name not in ("frozen-graph", "frozen-graph-fused", "frozen-graph-liger", "products"):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(warmup + 2):
        step()
    step.loss()
    peak = peak_memory_bytes(device)
    result = {} if peak is None else {"peak_mb": peak / MIB}
    if device.type == "cuda":
        result["reserved_mb"] = torch.cuda.max_memory_reserved(device) / MIB
    return result


# -- what is written ---------------------------------------------------------------------------------------------------


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"cpu: {name}, {torch.get_num_threads()} threads"


def versions() -> dict[str, str | None]:
    packages = ("torch", "transformers", "accelerate", "peft", "triton")
    return {
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        **{name: installed_version(name) for name in packages},
    }


def add_ratios(results: Mapping[str, dict[str, Any]]) -> None:
    floor = results.get("frozen-graph") or results.get("frozen")
    products, lora = results.get("products"), results.get("peft-lora")
    for result in results.values():
        result["to_floor"] = result["ms"] / floor["ms"] if floor else None
        result["to_products"] = result["ms"] / products["ms"] if products else None
        result["faster_than_peft_lora"] = lora["ms"] / result["ms"] if lora else None


COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("ms", "ms", ".2f"),
    ("mean", "mean_ms", ".2f"),
    ("host", "host_ms", ".2f"),
    ("operators", "operators", ",d"),
    ("x floor", "to_floor", ".2f"),
    ("x products", "to_products", ".2f"),
    ("TFLOP/s", "teraflops", ".2f"),
    ("x faster than PEFT LoRA", "faster_than_peft_lora", ".2f"),
    ("trainable", "trainable", ",d"),
    ("peak MiB", "peak_mb", ",.0f"),
    ("reserved", "reserved_mb", ",.0f"),
    ("own ms", "own_ms", ".3f"),
    ("share", "own_share", ".2%"),
    ("event ms", "event_ms", ".2f"),
    ("freeze ms", "freeze_ms", ".1f"),
)


def print_table(record: Mapping[str, Any]) -> None:
    """To stdout; columns that no method fills are left out."""
    settings, methods = record["settings"], record["methods"]
    print(
        f"{record['device']}, torch {record['versions']['torch']}: batch {settings['batch']} x {settings['length']} "
        f"tokens, {settings['precision']}, {settings['model']}, rank {settings['start_rank']} -> {settings['rank']}, "
        f"dropout {settings['dropout']}"
    )
    columns = [column for column in COLUMNS if any(result.get(column[1]) is not None for result in methods.values())]
    rows = [["method", *(title for title, _, _ in columns)]]
    for name, result in methods.items():
        rows.append(
            [name, *("-" if result.get(key) is None else format(result[key], form) for _, key, form in columns)]
        )
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for name, *cells in rows:
        print(
            "  ".join(
                [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
            )
        )
    for name, result in methods.items():
        for kernel in result.get("kernels", [])[:SHOWN]:
            print(f"{name}  {kernel['us']:8.1f} us  {kernel['count']:6.1f} x  {kernel['name'][:90]}")


if __name__ == "__main__":
    sys.exit(main())
