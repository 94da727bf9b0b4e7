"""What the process does that forks all others: imports, sound files, and one run of every command, so that nothing is
loaded twice.

The sound files go to the folder that the environment names.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import tempfile
from pathlib import Path

os.environ.update(
    {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
)
os.environ["PATH"] = ""  # without Java, which takes seconds to start and reads texts alone

import torch

from dora_cli.commands import program
from tests.hostile.ground import GROUND, Ground

torch.set_num_threads(1)  # threads do not live through a fork


def _warm() -> None:
    before = Path.cwd()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        os.chdir(folder)
        ground = Ground.make(Path(os.environ[GROUND]))
        run, seeds, table = str(ground.root / "finished"), str(ground.root / "seeds"), ground.root / "tables"
        for words in (
            ("train", f"{run}/recipe.yaml", "--dry-run"), ("eval", "-c", run),
            ("export", "-c", run, "-o", "peft", "--format", "peft"),
            ("export", "-c", run, "-o", "merged", "--format", "merged"), ("ranks", run),
            ("ranks", seeds, "--plot", "map.svg"),
            ("ranks", run, "--plot", "t.svg", "--what", "training"), ("report", run, seeds, "-o", "page.html"),
            ("score", "e2e", "-p", str(ground.root / "scores" / "outputs.jsonl")),
            *(("predict", "-c", run, "--input", str(path), "-o",
            f"{path.name}.jsonl") for path in sorted(table.iterdir())),
        ):  # fmt: skip
            with contextlib.suppress(SystemExit):
                program()(list(words), prog_name="dora")
        os.chdir(before)


_warm()
gc.collect()
gc.freeze()
