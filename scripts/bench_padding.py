"""Training steps of a decoder on texts of different lengths: padded, in parts, and in one row, side by side.

    python scripts/bench_padding.py [--device cpu|cuda] [--size 135m|1.1b|tiny] [--batch 32] [--rank 4] [--dropout 0.0]
                                    [--precision auto|fp32|bf16] [--ways padded,parts,rows,...] [--rounds N] [--steps N]
                                    [--threads N] [--json FILE]

The model is a Llama of SmolLM2-135M's shapes, TinyLlama-1.1B's, or a narrow one (`bench_models.LLAMAS`), with random
weights and LoRA on all its projections. Texts are those of the generated E2E data, in the product's own order: random
batches, through the product's own training step, fused AdamW included. The ways:

    padded      every batch as wide as its longest text (on CUDA rounded up, as in a run)
    parts       cut into parts of similar length, as `train.batch_parts: 8` cuts it
    rows        all texts in one row, as `train.pack: on` puts them
    fused       padded, with blocks compiled as `train.fuse: on` compiles them
    rows-fused  in one row, with blocks compiled

On CUDA there are the same with -graph, in captured steps, which are what is timed unless `--ways` says otherwise. Each
way sees all batches of the timing once before, so that every shape is captured then; ways take turns in rounds.

`ms` is the median over steps, `mean_ms` their mean, `real_tokens` the share of computed tokens that is no padding,
`shapes` how many kinds of batches there were, and `loss` that of the last step, which must be about the same for all.
On CUDA `peak_mb` (MiB) is the most memory that tensors took in the timed steps, all models on the device included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from bench_methods import ALPHA, TOTAL_STEPS, attach
from bench_models import LLAMAS, random_generator
from bench_step import describe_device, versions

from dora_cli.data import EncodedPairs, encode_pairs, load_examples, pair_layout, plan_epoch, to_device
from dora_cli.data.cuts import MOST_PARTS, UNCUT, Cuts
from dora_cli.data.packed import Packing, training_batches
from dora_cli.data.padding import pad_multiple
from dora_cli.machine.devices import make_accelerator, resolve_device, resolve_precision
from dora_cli.machine.graphs import shapes
from dora_cli.models import load_generator
from dora_cli.models.fused.fused_blocks import FusedBlocks
from dora_cli.models.packed_attention import PackedRows
from dora_cli.recipe import LoraMethod
from dora_cli.tasks import get_task
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep

WAYS = ("padded", "parts", "rows", "fused", "rows-fused")
SEED = 1
VOCABULARY = 1024  # of the texts
MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    split = texts().padded_to(pad_multiple(args.device.type))
    epoch = plan_epoch(split.lengths, split.units, seed=SEED, epoch=1, micro_batch=args.batch, accumulation=1)
    groups = list(islice(epoch, args.steps))
    ways = {name: Way(name, args, split, groups) for name in args.ways}
    for way in ways.values():
        way.run()
        way.run()  # what was eager the first time is captured now
        way.milliseconds.clear()
    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(args.device)
    order = list(ways.values())
    for number in range(args.rounds):
        for way in order[number % len(order) :] + order[: number % len(order)]:
            way.run()
    results = {name: way.result() for name, way in ways.items()}
    record = {
        "device": describe_device(args.device),
        "versions": versions(),
        "settings": {
            "size": args.size, "batch": args.batch, "rank": args.rank, "dropout": args.dropout,
            "precision": args.precision, "steps": args.steps, "rounds": args.rounds,
            "threads": torch.get_num_threads(),
        },
        "ways": results,
    }  # fmt: skip
    if args.device.type == "cuda":
        record["peak_mb"] = torch.cuda.max_memory_allocated(args.device) / MIB
    print(f"{record['device']}, {args.precision}, {args.size}, {args.batch} texts a batch")
    first = next(iter(results.values()))["mean_ms"]
    for name, found in results.items():
        print(
            f"  {name:<14}{found['ms']:>9.2f} ms  mean {found['mean_ms']:>9.2f}  x {first / found['mean_ms']:.2f}  "
            f"{found['real_tokens']:.1%} real  {found['shapes']} shapes  loss {found['loss']:.4f}"
        )
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def texts() -> EncodedPairs:
    """The generated training texts of E2E, in tokens."""
    model = load_generator("builtin:tiny-decoder")
    examples = load_examples(get_task("e2e").fields, "builtin", "train")
    return encode_pairs(examples, model.tokenizer, 128, pair_layout(model.tokenizer, decoder_start=None))


class Way:
    """One way to compute the steps of `groups`, with a model of its own."""

    def __init__(self, name: str, args: argparse.Namespace, split: EncodedPairs, groups: Sequence[Any]) -> None:
        kind, graph = name.removesuffix("-graph"), name.endswith("-graph")
        self._device, self._groups, self._split = args.device, groups, split
        (lengths,) = split.sides
        batches = [batch for group in groups for batch in group.micro_batches]
        rows = Packing.of(lengths, batches, TOTAL_STEPS) if graph else Packing(1, int(lengths.max()))
        self._packing = rows if kind.startswith("rows") else None
        self._cuts = Cuts(MOST_PARTS, pieces=4 if graph else Cuts.pieces) if kind == "parts" else UNCUT
        torch.manual_seed(SEED)
        sizes = LLAMAS[args.size]
        model = random_generator(replace(sizes, vocab=max(sizes.vocab, VOCABULARY))).to(args.device).train()
        method, _ = attach(model, LoraMethod(rank=args.rank, alpha=ALPHA, dropout=args.dropout))
        optimizer = make_optimizer(method, learning_rate=1e-4, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
        self._step = TrainingStep(
            model=model,
            method=method,
            loss=get_task("e2e").losses,
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=TOTAL_STEPS),
            accelerator=make_accelerator(args.device, args.precision),
            max_grad_norm=1.0,
            cuda_graph=graph,
            fused=FusedBlocks(model, method.sites, note=print) if kind.endswith("fused") else None,
            packed=PackedRows(model, rows.longest) if self._packing else None,
        )
        self._done = 0
        self.milliseconds: list[float] = []
        made = [batch for group in groups for batch in self._made(group)]
        self._shapes = len({shapes(batch) for batch in made})
        computed = sum(batch["input_ids"].numel() for batch in made)
        self._real = sum(int(batch["attention_mask"].sum()) for batch in made) / computed

    def _made(self, group: Any) -> list[dict[str, torch.Tensor]]:
        return list(training_batches(self._split, group.micro_batches, self._cuts, self._packing))

    def run(self) -> None:
        """All steps once; times each."""
        marks = [self._mark()]
        for group in self._groups:
            self._done += 1
            batches = [to_device(batch, self._device) for batch in self._made(group)]
            self._step(self._done, batches, group.units, event=False)
            marks.append(self._mark())
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            self.milliseconds += [one.elapsed_time(two) for one, two in pairwise(marks)]
        else:
            self.milliseconds += [1000 * (two - one) for one, two in pairwise(marks)]

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def result(self) -> dict[str, Any]:
        self._step.read(self._done)  # the mean of all before
        self._groups = self._groups[:1]
        self.run()
        timed = self.milliseconds[:-1]
        return {
            "ms": median(timed),
            "mean_ms": fmean(timed),
            "real_tokens": self._real,
            "shapes": self._shapes,
            "loss": self._step.read(self._done).loss,
        }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", choices=sorted(LLAMAS), default="135m")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--ways")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of a round; of the same batches in each")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    args.device = resolve_device(args.device)
    args.precision = resolve_precision(args.precision, args.device, "float32")
    cuda = args.device.type == "cuda"
    known = [*WAYS, *(f"{name}-graph" for name in WAYS if cuda)]
    default = "padded-graph,parts-graph,rows-graph" if cuda else "padded,parts,rows"
    args.ways = (args.ways or default).split(",")
    if odd := [name for name in args.ways if name not in known]:
        parser.error(f"--ways {','.join(odd)}: there is {', '.join(known)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
