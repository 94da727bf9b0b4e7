"""Sound files of every kind that `dora` reads, made once; inputs are damaged copies of them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.training.listener import SilentListener

GROUND = "DORA_FUZZ_GROUND"
"""The variable of the environment that names the folder."""

RECIPE = """\
task: glue/sst2
model:
  name: {model}
data:
  source: files
  path: {data}
method:
  name: dora
  rank: 1
  start_rank: 2
  prune_interval: 1
  targets: ["*.0.*"]
train:
  epochs: 3
  batch_size: 4
  device: cpu
  log_every: 2
  learning_rate: 2.0e-3
  seed: 1
save:
  every_steps: 1
  keep: 2
eval:
  select: best
"""
GENERATOR = """\
task: e2e
model: {name: builtin:tiny-decoder}
data: {source: builtin, max_train_samples: 4, max_eval_samples: 2}
method: {name: dora, rank: 1, start_rank: 2, prune_interval: 1, targets: ["*.0.*"]}
train: {max_steps: 4, batch_size: 2, device: cpu, log_every: 1}
decode: {beams: 1, max_new_tokens: 4, epoch_samples: 1}
"""
PAIRS = (
    ("name[Alimentum], area[riverside]", "Alimentum is by the riverside ."),
    ("name[Aromi], food[Chinese]", 'Aromi serves "Chinese", dear'),
)


class _StopError(Exception):
    """Ends a run as a power cut does."""


class _Stop(SilentListener):
    def tick(self, step: int, phase: str, budget: int) -> None:
        if step == 6:
            raise _StopError


@dataclass(frozen=True)
class Ground:
    """A folder of sound files: ``model``, ``data``, ``tables``, ``scores``, ``glue``, ``e2e`` and runs.

    The runs are ``finished``, ``unfinished``, of two ``seeds``, and one that has ``generated`` texts.
    """

    root: Path

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def recipe(self) -> str:
        return RECIPE.format(model=self.model, data=self.root / "data")

    @classmethod
    def make(cls, root: Path) -> Ground:
        """Makes all of it in the new folder `root`."""
        from dora_cli.training.run import train
        from dora_cli.training.seed_runs import train_seeds
        from tests.hostile.model import make_model

        ground = cls(root)
        root.mkdir()
        make_model(ground.model)
        _write_data(root)
        recipe = parse_recipe(ground.recipe)
        train(recipe, root / "finished")
        with contextlib.suppress(_StopError):
            train(recipe, root / "unfinished", listener=_Stop())
        train_seeds(_short(ground.recipe), root / "seeds", (1, 2))
        train(parse_recipe(GENERATOR), root / "generated")
        return ground


def _short(recipe: str) -> Recipe:
    return parse_recipe(recipe, overrides=("train.max_steps=4", "save.every_steps=null"))


def _write_data(root: Path) -> None:
    rows = [(f"a fine film {i}", f"no good film {i}") for i in range(6)]
    table = "".join(f"{good},positive\n{bad},negative\n" for good, bad in rows)
    for folder in ("data", "tables", "scores", "glue", "e2e"):
        (root / folder).mkdir()
    for split in ("train", "validation"):
        (root / "data" / f"{split}.csv").write_text("sentence,label\n" + table)
    lines = [{"sentence": text, "label": int(place == 0)} for pair in rows for place, text in enumerate(pair)]
    import pyarrow
    from pyarrow import parquet

    tables = root / "tables"
    (tables / "texts.csv").write_text("sentence,label\n" + table)
    (tables / "texts.tsv").write_text("sentence\tlabel\n" + table.replace(",", "\t"))
    (tables / "texts.txt").write_text("".join(f"{good}\n{bad}\n" for good, bad in rows))
    (tables / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tables / "texts.json").write_text(json.dumps(lines))
    parquet.write_table(pyarrow.Table.from_pylist(lines), tables / "texts.parquet")
    for name in ("train.tsv", "dev.tsv", "test.tsv"):
        (root / "glue" / name).write_text("sentence\tlabel\n" + "".join(f"{good}\t1\n{bad}\t0\n" for good, bad in rows))
    quoted = "".join('"' + mr + '","' + ref.replace('"', '""') + '"\r\n' for mr, ref in PAIRS)
    for name in ("trainset.csv", "devset.csv", "testset_w_refs.csv"):
        (root / "e2e" / name).write_text("mr,ref\r\n" + quoted, newline="")
    scores = root / "scores"
    (scores / "outputs.txt").write_text("".join(f"{ref}\n" for _, ref in PAIRS))
    (scores / "references.txt").write_text("\n".join(f"{ref}\nand {ref}\n" for _, ref in PAIRS))
    records = [{"mr": mr, "output": ref, "references": [ref, f"and {ref}"]} for mr, ref in PAIRS]
    (scores / "outputs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
