"""Makes the stored runs of this folder with the version of dora that is on the path; see README.md."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from dora_cli import attach, parse_recipe, save_adapter, shrink, train, train_seeds
from dora_cli.models.source import find_source

CLASSIFIER = """
task: glue/sst2
model: {name: "builtin:tiny-encoder"}
data: {source: builtin, max_train_samples: 32, max_eval_samples: 32, max_length: 32}
method: {name: dora, rank: 1, start_rank: 2, alpha: 2.0, prune_interval: 1, targets: ["*.0.*.query", "*.1.*.value"]}
train: {epochs: 3, batch_size: 8, learning_rate: 5.0e-3, device: cpu, precision: fp32, log_every: 2}
save: {every_steps: 1, keep: 1}
"""
GENERATOR = """
task: e2e
model: {name: "builtin:tiny-decoder"}
data: {source: builtin, max_train_samples: 16, max_eval_samples: 4}
method: {name: dora, rank: 1, start_rank: 2, alpha: 2.0, prune_interval: 1, targets: ["*.0.*.q_proj", "*.1.*.v_proj"]}
train: {epochs: 2, batch_size: 8, learning_rate: 1.0e-3, device: cpu, precision: fp32, log_every: 2}
decode: {beams: 2, max_new_tokens: 24, batch_size: 4, epoch_samples: 2}
"""
CUT = 8
"""The step of 12 at which the interrupted run ends, between two evaluations and after the freeze."""


class PowerCutError(Exception):
    """Stands for the end of the process."""


class Cut:
    """Listens to nothing, and cuts the power before the save of a step."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **others: None

    def tick(self, step: int, phase: str, budget: int) -> None:
        if step == CUT:
            raise PowerCutError


def make(root: Path) -> None:
    """Writes all into `root`, which is emptied."""
    for name in ("finished", "interrupted", "generated", "seeds", "saved"):
        shutil.rmtree(root / name, ignore_errors=True)
    recipe = parse_recipe(CLASSIFIER)
    train(recipe, root / "finished")
    with contextlib.suppress(PowerCutError):
        train(recipe, root / "interrupted", listener=Cut())  # type: ignore[arg-type]
    train(parse_recipe(GENERATOR), root / "generated")
    train_seeds(parse_recipe(CLASSIFIER, overrides=["train.max_steps=8"]), root / "seeds", (1, 2))
    save(root / "saved")
    for run in (root / "finished", root / "generated", *(root / "seeds").glob("seed-*")):
        shutil.rmtree(run / "checkpoints")  # what is finished needs none
    for run in (root / "seeds").glob("seed-*"):
        shutil.rmtree(run / "adapter")  # the records are what counts there
    for run in (root / "finished", root / "interrupted", root / "generated", *(root / "seeds").glob("seed-*")):
        change(run / "environment.json", platform="Linux")


def save(folder: Path) -> None:
    """An adapter on the built-in decoder, trained for four steps in a loop of its own."""
    torch.manual_seed(0)
    place = find_source("builtin:tiny-decoder").location
    model = AutoModelForCausalLM.from_pretrained(place)
    method = attach(model, rank=1, start_rank=2, alpha=2.0, total_steps=4, targets=["*.0.*.q_proj", "*.1.*.v_proj"],
                    prune_interval=1, head=False)  # fmt: skip
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    tokens = torch.arange(4, 36).reshape(2, 16)
    for step in range(1, 5):
        model(input_ids=tokens, labels=tokens).loss.backward()
        method.adjust_gradients(step)
        optimizer.step()
        shrink(optimizer, method.after_step(step))
        optimizer.zero_grad()
    save_adapter(model, folder)
    base = json.loads((folder / "adapter.json").read_text())["base"]
    change(folder / "adapter.json", base={**base, "name": None, "config": {**base["config"], "_name_or_path": ""}})
    change(folder / "adapter_config.json", base_model_name_or_path=None)


def change(path: Path, **values: object) -> None:
    """Puts neutral values in the place of what this machine is called."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}, indent=1) + "\n")
    manifest = path.parent / "manifest.json"
    if manifest.is_file():
        content, record = path.read_bytes(), json.loads(manifest.read_text())
        record["files"][path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
