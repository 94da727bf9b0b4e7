"""Pretrains the built-in models and writes them where the package ships them.

    python scripts/make_builtin_models.py MODEL [MODEL ...] [--output dora_cli/models/builtin] [--steps N]
    [--learning-rate R]
                                          [--seed 1] [--device cpu]

MODEL is tiny-encoder (`pretrain_encoder`), tiny-decoder or tiny-seq2seq (`pretrain_generators`). Each is under 2 MB in
float32, reads generated text alone, and never the sets that the demonstrations fine-tune on; how these differ is listed
where the text is made (`pretraining_text`, `pretraining_pairs`) and in the model card beside the weights.

On the CPU the result depends on the seed, the processor type and the versions of torch and transformers, and on nothing
else: run twice on one machine, the files are equal byte for byte. On a GPU, where the generators were made, they are
not. The card records loss, time and versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import transformers

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
import pretrain_encoder  # noqa: E402
import pretrain_generators  # noqa: E402

MODELS = {
    "tiny-encoder": (pretrain_encoder.make, pretrain_encoder.CARD, 6000, 2e-3),
    "tiny-decoder": (pretrain_generators.make_decoder, pretrain_generators.DECODER_CARD, 9000, 3e-3),
    "tiny-seq2seq": (pretrain_generators.make_seq2seq, pretrain_generators.SEQ2SEQ_CARD, 9000, 2e-3),
}
"""How each is made, its card, how many steps it takes, and the peak of the learning rate."""


def main() -> None:
    """Makes the models, checks their size and writes each with its card."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", choices=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument(
        "--output",
        type=Path,
        default=root / "dora_cli" / "models" / "builtin",
        help="folder that holds the models' folders",
    )
    parser.add_argument(
        "--steps", type=int, default=None, help="optimiser steps, if others than the model's own number"
    )
    parser.add_argument("--learning-rate", type=float, default=None, help="its peak, if another than the model's own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="the encoder is made on the cpu alone")
    arguments = parser.parse_args()
    if arguments.device != "cpu" and "tiny-encoder" in arguments.models:
        parser.error("tiny-encoder is made with --device cpu")

    torch.set_num_threads(1)  # one thread: the order of every sum is fixed
    if arguments.device == "cpu":
        torch.use_deterministic_algorithms(True)
    for name in arguments.models:
        steps, rate = MODELS[name][2:]
        make(
            name,
            arguments.output / name,
            arguments.steps or steps,
            arguments.learning_rate or rate,
            arguments.seed,
            arguments.device,
        )


def make(name: str, folder: Path, steps: int, rate: float, seed: int, device: str) -> None:
    """Pretrains one model and writes it to `folder`."""
    pretrain, card = MODELS[name][:2]
    torch.manual_seed(seed)
    started = time.monotonic()
    model, tokenizer, facts = pretrain(seed, steps, rate, device)
    seconds = time.monotonic() - started

    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 4 does not know the name that 5 gives this class, and 5 still knows the old one.
    settings = folder / "tokenizer_config.json"
    written = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(
        json.dumps({**written, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2, sort_keys=True) + "\n",
        encoding="utf-8",
    )
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone; package data are for everyone
    weights = folder / "model.safetensors"
    if weights.stat().st_size >= 2_000_000:
        raise SystemExit(f"{weights} has {weights.stat().st_size:,} bytes; a built-in model must stay under 2,000,000")
    text = card.format(
        parameters=model.num_parameters(),
        vocabulary=model.config.vocab_size,
        steps=steps,
        command=f"python scripts/make_builtin_models.py {name} --steps {steps} --seed {seed}"
        + (" --device cuda" if device == "cuda" else ""),
        rate=rate,
        minutes=seconds / 60,
        processor=f"one thread of {platform.machine()}" if device == "cpu" else torch.cuda.get_device_name(),
        python=platform.python_version(),
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        digest=hashlib.sha256(weights.read_bytes()).hexdigest(),
        **facts,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(
        json.dumps(
            {
                "model": name,
                "bytes": weights.stat().st_size,
                "loss": round(float(facts["loss"]), 4),
                "seconds": round(seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
