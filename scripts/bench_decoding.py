"""How fast outputs are searched for: sources a second of transformers' `generate` and of the product's search.

    python scripts/bench_decoding.py --device cpu|cuda [--ways generate,search,search-graph] [--batches 16,64]
    [--model NAME] [--csv FILE] [--sources 630] [--beams 10] [--tokens 64] [--precision auto|fp32|bf16] [--rounds 2]
    [--threads N] [--json FILE]

The ways:

    generate        transformers' own search, which asks the host after every token: what the product uses for models
        that it does not know
    search          the product's search, its steps launched one by one
    search-graph    the same, its steps captured in CUDA graphs

Each way writes about the same sources in batches of each size, once to warm up with one batch and then `--rounds`
times, in turns. `seconds` is the least of these, captures included, since a run makes its graphs anew for every
decoding; `per_second` the sources in one second of it; `peak_mb` on CUDA the most memory that tensors took; `same` the
share of outputs that are those of the first way and batch size.

`--model` is a folder, a name on the hub or ``builtin:...``; `--csv` a file of the E2E challenge, whose different
meaning representations are the sources, in place of the generated ones. Without a model it is a Llama of SmolLM2-135M's
shapes with random weights over random tokens, 17 to 60 a source as in E2E: it hardly ever ends an output, so every one
has as many tokens as may be, about twice as many as of a model that was trained.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_models import LlamaShapes
from bench_step import describe_device, versions

from dora_cli.data import EncodedSources, PairLayout, encode_sources, pair_layout
from dora_cli.data.builtin import generate
from dora_cli.data.ragged import Ragged
from dora_cli.evaluation.decoding import generating, searching, written
from dora_cli.evaluation.passes import by_length, evaluation_mode
from dora_cli.evaluation.search.suitable import suitable
from dora_cli.evaluation.settings import Decoding
from dora_cli.machine.devices import make_accelerator, resolve_device, resolve_precision

WAYS = ("generate", "search", "search-graph")
MAX_LENGTH = 512


@dataclass
class Subject:
    """What is decoded: a model on its device and sources in its tokens."""

    model: Any
    sources: EncodedSources
    layout: PairLayout


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = resolve_device(args.device)
    precision = resolve_precision(args.precision, device, "float32")
    subject = subject_of(args, device)
    assert suitable(subject.model, {subject.model.device.type}), "the product would leave this model to generate"
    results = measure(subject, args, make_accelerator(device, precision))
    record = {
        "device": describe_device(device),
        "versions": versions(),
        "settings": {
            "model": args.model or "random weights", "precision": precision, "sources": len(subject.sources),
            "beams": args.beams, "tokens": args.tokens, "no_repeat_ngram": args.no_repeat_ngram,
        },
        "results": results,
    }  # fmt: skip
    for result in results:
        print("  ".join(f"{key} {value}" for key, value in result.items()))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1))
    return 0


def measure(subject: Subject, args: argparse.Namespace, accelerator: Any) -> list[dict[str, Any]]:
    """A row for every way and batch size."""
    first: list[list[int]] = []
    times: dict[tuple[str, int], list[float]] = {(way, size): [] for size in args.batches for way in args.ways}
    rest: dict[tuple[str, int], dict[str, Any]] = {}
    for (way, size), seconds in [pair for _ in range(args.rounds) for pair in times.items()]:
        if not seconds:
            outputs_of(subject, way, size, args, accelerator, most=1)
        if cuda := accelerator.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        outputs = outputs_of(subject, way, size, args, accelerator)
        seconds.append(time.perf_counter() - began)
        first = first or outputs
        rest[way, size] = {
            "peak_mb": round(torch.cuda.max_memory_allocated() / 2**20) if cuda else None,
            "same": round(sum(one == two for one, two in zip(outputs, first, strict=True)) / len(first), 4),
            "mean_tokens": round(sum(map(len, outputs)) / len(outputs), 1),
        }
    return [
        {"way": way, "batch": size, "seconds": round(min(seconds), 3),
         "per_second": round(len(subject.sources) / min(seconds), 2), **rest[way, size]}
        for (way, size), seconds in times.items()
    ]  # fmt: skip


def outputs_of(
    subject: Subject, way: str, size: int, args: argparse.Namespace, accelerator: Any, *, most: int | None = None
) -> list[list[int]]:
    """Tokens of each output up to its end, the longest sources first; of the first `most` batches alone."""
    settings = Decoding(
        beams=args.beams, max_new_tokens=args.tokens, no_repeat_ngram=args.no_repeat_ngram, batch_size=size
    )
    captured, find = way == "search-graph", generating if way == "generate" else searching
    batches, stops = by_length(subject.sources.lengths, size)[:most], subject.layout.stops
    with (
        evaluation_mode(subject.model),
        find(subject.model, subject.layout, settings, accelerator, captured=captured) as found,
    ):
        return [
            row[: next((place for place, token in enumerate(row) if token in stops), len(row))]
            for rows in written(found, subject.sources, batches, accelerator.device, captured=captured)
            for row in rows
        ]


def subject_of(args: argparse.Namespace, device: torch.device) -> Subject:
    if args.model is None:
        return random_subject(args, device)
    from dora_cli.models.generator import load_generator

    base = load_generator(args.model)
    layout = pair_layout(base.tokenizer, decoder_start=base.decoder_start)
    texts = list(dict.fromkeys(_texts(args)))[: args.sources]
    sources = encode_sources(texts, base.tokenizer, MAX_LENGTH, layout)
    return Subject(base.model.to(device).eval().requires_grad_(False), sources, layout)


def random_subject(args: argparse.Namespace, device: torch.device) -> Subject:
    """A model of random weights, and random tokens that are none of its special ones."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    shapes = LlamaShapes(layers=args.layers, vocab=args.vocab)
    model = LlamaForCausalLM(shapes.config()).to(device).eval().requires_grad_(False)
    draw = np.random.default_rng(0)
    lengths = draw.integers(17, 61, args.sources)
    sources = Ragged.of(draw.integers(3, shapes.vocab, int(lengths.sum())).astype(np.int32), lengths)
    layout = PairLayout(False, (), (0,), (), 2, (2,), 2)
    return Subject(model, EncodedSources(sources, layout, MAX_LENGTH), layout)


def _texts(args: argparse.Namespace) -> list[str]:
    if args.csv is None:
        return list(generate("e2e", "train").texts[0])
    with args.csv.open(encoding="utf-8", newline="") as file:
        return [row["mr"] for row in csv.DictReader(file)]


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ways", type=lambda text: text.split(","))
    parser.add_argument("--batches", type=lambda text: [int(part) for part in text.split(",")], default=[16, 64])
    parser.add_argument("--model")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--sources", type=int, default=630)
    parser.add_argument("--beams", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--no-repeat-ngram", type=int, default=4)
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--layers", type=int, default=LlamaShapes.layers, help="of the model of random weights")
    parser.add_argument("--vocab", type=int, default=LlamaShapes.vocab, help="of the model of random weights")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    on_cuda = resolve_device(args.device).type == "cuda"
    args.ways = args.ways or list(WAYS if on_cuda else WAYS[:2])
    if unknown := set(args.ways) - set(WAYS):
        parser.error(f"--ways: no way {sorted(unknown)[0]!r}; there are: {', '.join(WAYS)}")
    if "search-graph" in args.ways and not on_cuda:
        parser.error("--ways: search-graph needs --device cuda")
    return args


if __name__ == "__main__":
    raise SystemExit(main())
