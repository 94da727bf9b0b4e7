"""Outputs of a finished run with its adapters folded into the base weights, and beside them: how often they differ, and
the time.

    python scripts/compare_folding.py --checkpoint RUN [--precision fp32,bf16] [--samples 100] [--set KEY=VALUE ...]

The fold is exact in real numbers; in arithmetic of few bits the sum of base and adapter is rounded once more. Prints,
for each precision, the share of equal outputs, the largest difference of two logits of the first batch's prompts, and
the seconds of both decodings.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from dora_cli.assembly.evaluator import decoding
from dora_cli.assembly.restore import restore
from dora_cli.data import encode_sources, group_references
from dora_cli.evaluation.decoding import decode


def compare(checkpoint: Path, precision: str, samples: int, overrides: list[str]) -> None:
    found = restore(
        checkpoint,
        [*overrides, f"train.precision={precision}", f"data.max_eval_samples={samples}"],
        lambda recipe, task: [recipe.decode.split] if recipe.decode else task.evaluated_splits(recipe),
    )
    adapted, layout = found.adapted, found.adapted.layout
    assert layout is not None
    examples = next(iter(found.examples.values()))
    sources = encode_sources(
        group_references(examples).sources, adapted.tokenizer, found.recipe.data.max_length, layout
    )
    batch = {key: value.to(found.ground.device) for key, value in sources.collate(range(min(8, len(sources)))).items()}
    outputs, logits, seconds = [], [], []
    for context in (adapted.method.folded(), nullcontext()):
        with context, torch.no_grad():
            adapted.model.eval()
            with found.ground.accelerator.autocast():
                found_logits = adapted.model(**batch).logits.float()
                logits.append(found_logits if layout.encoder_decoder else found_logits[batch["attention_mask"].bool()])
            began = time.perf_counter()
            outputs.append(
                decode(
                    adapted.model,
                    adapted.tokenizer,
                    sources,
                    layout,
                    decoding(found.recipe),
                    accelerator=found.ground.accelerator,
                )
            )
            seconds.append(time.perf_counter() - began)
    equal = sum(one == two for one, two in zip(*outputs, strict=True))
    print(
        f"{precision}: {equal} of {len(sources)} outputs equal; largest logit difference "
        f"{float((logits[0] - logits[1]).abs().max()):.2e} (largest logit {float(logits[1].abs().max()):.1f}); folded "
        f"{seconds[0]:.1f} s, unfolded {seconds[1]:.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    for precision in args.precision.split(","):
        compare(args.checkpoint, precision, args.samples, args.overrides)


if __name__ == "__main__":
    main()
