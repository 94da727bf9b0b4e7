"""Records of made-up runs with the projections of known architectures, written out by hand: reports
never see a model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dora_cli.runs.records.metrics import metrics_record
from dora_cli.runs.records.ranks import ranks_record


@dataclass(frozen=True)
class FakeProjection:
    name: str
    stack: str
    block: int
    attention: str | None
    projection: str
    group: str


@dataclass(frozen=True)
class FakeAllocation:
    name: str
    shape: tuple[int, int]
    start_rank: int
    rank: int
    scores: tuple[float, ...] | None = None
    parameters: int | None = None
    links: tuple[int, ...] | None = None
    live: tuple[int, ...] | None = None


Layout = Sequence[tuple[str, tuple[int, int]]]

BERT: Layout = [
    (f"attention.{name}", (768, 768)) for name in ("self.query", "self.key", "self.value", "output.dense")
] + [
    ("intermediate.dense", (3072, 768)),
    ("output.dense", (768, 3072)),
]
LLAMA: Layout = [(f"self_attn.{name}_proj", (2048, 2048)) for name in "qkvo"] + [
    ("mlp.gate_proj", (5632, 2048)),
    ("mlp.up_proj", (5632, 2048)),
    ("mlp.down_proj", (2048, 5632)),
]
DEBERTA: Layout = [
    (f"attention.self.{name}_proj", (768, 768)) for name in ("query", "key", "value", "pos_key", "pos_query")
] + list(BERT[3:])
BART_ENCODER: Layout = [(f"self_attn.{name}_proj", (768, 768)) for name in ("k", "v", "q", "out")] + [
    ("fc1", (3072, 768)),
    ("fc2", (768, 3072)),
]
BART_DECODER: Layout = [
    *BART_ENCODER[:4],
    *((f"encoder_attn.{name}_proj", (768, 768)) for name in ("k", "v", "q", "out")),
    *BART_ENCODER[4:],
]


def stack(
    prefix: str, layout: Layout, blocks: int, *, decoder: bool = False
) -> list[tuple[FakeProjection, tuple[int, int]]]:
    result = []
    for block in range(blocks):
        for path, shape in layout:
            group = "attention" if "att" in path else "ffn"
            attention = None if group == "ffn" else "cross" if "encoder_attn" in path else "self"
            name = f"{prefix}.{block}.{path}"
            result.append(
                (FakeProjection(name, "decoder" if decoder else "encoder", block, attention, path, group), shape)
            )
    return result


def bert(blocks: int) -> list[tuple[FakeProjection, tuple[int, int]]]:
    return stack("bert.encoder.layer", BERT, blocks)


def llama(blocks: int) -> list[tuple[FakeProjection, tuple[int, int]]]:
    return stack("model.layers", LLAMA, blocks, decoder=True)


def bart(blocks: int) -> list[tuple[FakeProjection, tuple[int, int]]]:
    return stack("model.encoder.layers", BART_ENCODER, blocks) + stack(
        "model.decoder.layers", BART_DECODER, blocks, decoder=True
    )


def ranks(
    projections: list[tuple[FakeProjection, tuple[int, int]]], *, rank: int = 8, start_rank: int = 12, seed: int = 0
) -> dict[str, Any]:
    """A run at the end of its budget, its components dropped at random but with a liking for high blocks."""
    generator = random.Random(seed)
    live, left = [start_rank] * len(projections), start_rank * len(projections)
    blocks = 1 + max((projection.block for projection, _ in projections), default=0)
    while left > rank * len(projections):
        index = generator.randrange(len(projections))
        block = projections[index][0].block
        if live[index] and generator.random() > 0.9 * block / blocks:
            live[index] -= 1
            left -= 1
    allocations = [
        FakeAllocation(projection.name, shape, start_rank, count, tuple(float(i) for i in range(start_rank)))
        for (projection, shape), count in zip(projections, live, strict=True)
    ]
    return exact(projections, allocations, rank=rank, start_rank=start_rank)


def exact(
    projections: list[tuple[FakeProjection, tuple[int, int]]],
    allocations: list[FakeAllocation],
    *,
    rank: int,
    start_rank: int,
) -> dict[str, Any]:
    total = sum(allocation.rank for allocation in allocations)
    start = start_rank * len(projections)
    return ranks_record(
        [projection for projection, _ in projections],
        allocations,
        unit="component",
        start_rank=start_rank,
        target_rank=rank,
        live_components=total,
        phases=[("warm-up", 1, 117), ("pruning", 118, 390), ("final", 391, 780)],
        history=[
            {
                "step": 254,
                "phase": "pruning",
                "budget": total + 7 * (start - total) // 8,
                "live": total + 7 * (start - total) // 8,
            },
            {"step": 390, "phase": "pruning", "budget": total, "live": total},
        ],
    )


def metrics(
    *, seed: int = 1, accuracy: float = 0.7978, last_accuracy: float = 0.7942, **changes: Any
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "task": "glue/mrpc",
        "model": "FacebookAI/roberta-base",
        "method": "dora",
        "seed": seed,
        "metrics": {"accuracy": accuracy, "f1": accuracy + 0.05},
        "last": {"accuracy": last_accuracy, "f1": last_accuracy + 0.05},
        "best_epoch": 62,
        "selection": "best-after-freeze",
        "epochs": [
            {
                "epoch": 62,
                "step": 9672,
                "phase": "final",
                "train_loss": 0.1234,
                "metrics": {"accuracy": accuracy, "f1": accuracy + 0.05},
            }
        ],
        "budget": {
            "start_components": 864,
            "final_components": 576,
            "live_components": 576,
            "trainable_parameters_start": 2_582_882,
            "trainable_parameters_final": 1_904_690,
            "adapter_parameters_final": 1_312_512,
        },
        "timing": {
            "train_seconds": 722.4,
            "samples_per_second": 276.6,
            "steps_per_second": 17.3,
            "peak_memory_bytes": 2_254_857_830,
        },
    }
    return metrics_record(**{**values, **changes})


def rounds(
    count: int = 4,
    *,
    clients: int = 4,
    aggregation: str = "lora-fair",
    steps: int = 25,
    evaluations: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Rounds of a federated run, `clients` counted from 1 with 100 examples each more than the one before. Client 2 is
    left out of the first round, client 3 fails in the second. `evaluations` are those after the rounds, as far as there
    are any.
    """
    states = {(1, 2): "left out", (2, 3): "failed"}
    made = []
    for number in range(1, count + 1):
        of = [(client, states.get((number, client), "trained")) for client in range(1, clients + 1)]
        came = sum(state == "trained" for _, state in of)
        made.append(
            {
                "round": number,
                "step": steps * number,
                "aggregation": aggregation,
                "clients": [
                    {
                        "client": client,
                        "examples": 100 * client,
                        "loss": round(0.9 / number + client / 100, 6) if state == "trained" else None,
                        "state": state,
                    }
                    for client, state in of
                ],
                "correction": 0.0125 / number if aggregation == "lora-fair" else 0.0,
                "distance": 0.034 / number,
                "bytes_up": came * 1_327_104,
                "bytes_down": clients * 1_327_104,
                "metrics": evaluations[number - 1]["metrics"] if number <= len(evaluations) else None,
            }
        )
    return made


def parts(clients: int = 4) -> list[dict[str, Any]]:
    """What those clients hold: of client `k` k tenths are of the second class, as far as there are tenths."""
    second = [100 * client * min(client, 9) // 10 for client in range(1, clients + 1)]
    return [
        {"client": client, "examples": 100 * client, "labels": {"no": 100 * client - yes, "yes": yes}}
        for client, yes in enumerate(second, start=1)
    ]


def environment() -> dict[str, Any]:
    """environment.json of a run on the CPU, without the size of its base model, as older versions wrote it."""
    return {
        "schema_version": 1,
        "dora": "0.1.0",
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "packages": {"torch": "2.11.0", "datasets": None},
        "device": "cpu",
        "cpu_threads": 1,
        "precision": "fp32",
        "processes": 1,
        "model": {"commit": None, "fingerprint": "ab12"},
        "data": {"train": {"examples": 3668, "fingerprint": "cd34"}},
    }
