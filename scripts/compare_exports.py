"""A run's own model beside what was exported from it: size, load time and agreement on the dev examples.

    python scripts/compare_exports.py --checkpoint RUN [--samples 64] [--set KEY=VALUE ...]

Exports the run in the PEFT format and merged, each in fp32 and bf16, into a temporary folder; loads every one as its
users would, with PEFT or transformers, and prints its bytes, the best load time of three, and the largest and mean
difference of the logits from the run's own in fp32 on the CPU (a generator's: at the target tokens), with the share of
equal argmax. Needs PEFT.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from dora_cli.assembly.restore import Restored, restore
from dora_cli.data.pairs import IGNORED
from dora_cli.export.saved import export_saved


def loader(restored: Restored) -> Callable[..., Any]:
    """What a user would load the run's kind of model with."""
    layout = restored.adapted.layout
    name = restored.task.head.auto_class(encoder_decoder=layout is not None and layout.encoder_decoder)
    return getattr(transformers, name).from_pretrained


@torch.no_grad()
def logits(model: Any, restored: Restored, samples: int) -> torch.Tensor:
    examples = next(iter(restored.examples.values()))
    adapted, length = restored.adapted, restored.recipe.data.max_length
    split: Any = restored.task.encode(examples, adapted.tokenizer, length, adapted.layout)
    model.eval()
    found = []
    for start in range(0, min(samples, len(split)), 16):
        batch = split.collate(range(start, min(start + 16, samples, len(split))))
        labels = batch.pop("labels", None)
        values = model(**batch).logits.double()
        found.append(values if adapted.layout is None else values[labels != IGNORED])
    return torch.cat(found)


def timed(load: Callable[[], Any]) -> tuple[Any, float]:
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        model = load()
        best = min(best, time.perf_counter() - began)
    return model, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    here = ["train.device=cpu", "train.precision=fp32", *args.overrides]
    restored = restore(args.checkpoint, here, lambda recipe, task: task.eval_splits[:1])
    own = logits(restored.adapted.model, restored, args.samples)
    print(f"{len(own):,} rows of logits, the largest {float(own.abs().max()):.3g}", flush=True)
    load, base = loader(restored), restored.recipe.model.name
    labels = {} if restored.adapted.layout is not None else {"num_labels": restored.task.num_labels}  # type: ignore[union-attr]

    def say(name: str, model: Any, size: int, seconds: float) -> None:
        values = logits(model, restored, args.samples)
        difference = (values - own).abs()
        same = float((values.argmax(-1) == own.argmax(-1)).float().mean())
        print(
            f"{name:28} {size:>12,} bytes  load {seconds:6.3f} s  largest {float(difference.max()):.1e}  "
            f"mean {float(difference.mean()):.1e}  equal argmax {100 * same:.1f} %",
            flush=True,
        )

    with tempfile.TemporaryDirectory(prefix="dora-exports-") as folder:
        for form in ("peft", "merged"):
            for dtype in ("float32", "bfloat16"):
                place = Path(folder) / f"{form}-{dtype}"
                export_saved(args.checkpoint, place, format=form, dtype=dtype, overrides=args.overrides)
                size = sum(path.stat().st_size for path in place.glob("*.safetensors"))
                if form == "merged":
                    model, seconds = timed(lambda place=place, dtype=dtype: load(place, dtype=dtype))
                    say(f"merged {dtype}", model, size, seconds)
                    continue
                model, seconds = timed(
                    lambda place=place: PeftModel.from_pretrained(load(base, dtype="float32", **labels), place)
                )
                say(f"peft {dtype}", model, size, seconds)
                if dtype == "float32":
                    say("peft merge_and_unload", model.merge_and_unload(), size, seconds)


if __name__ == "__main__":
    main()
