"""What the warm process of `tests.processes` does before it forks: imports, what a library works out once for all
models, and a small run with its commands, which load what is only loaded when it is needed.
"""

from __future__ import annotations

# ruff: noqa: F401
import contextlib
import gc
import io
import os
import tempfile
from pathlib import Path

import sacrebleu.metrics
import scipy.stats
import sklearn.metrics
import torch
import transformers.models.bert.modeling_bert
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama
import transformers.models.roberta.modeling_roberta
import transformers.optimization
from accelerate.state import AcceleratorState

import dora_cli.export.saved
import dora_cli.reports.html.page
import dora_cli.reports.progress
import dora_cli.training.run
from dora_cli.commands import program
from dora_cli.models import load_generator, load_model
from dora_cli.recipe.shipped_recipes import shipped_recipes
from tests.hostile.model import make_model
from tests.training import killing

with contextlib.suppress(ImportError):  # asked before an export is placed
    import peft
with contextlib.suppress(ImportError):  # of the extra plots
    import matplotlib.backends.backend_agg
    import matplotlib.figure

torch.set_num_threads(1)  # threads do not live through a fork
os.chdir(Path(__file__).parents[1])  # the current folder of the test that came first will be gone


def _work() -> None:
    """A small run and what is done with one, by the commands: who is forked loads and works out little anew."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, run = Path(folder, "recipe.yaml"), Path(folder, "run")
        recipe.write_text(
            f"""
            task: glue/sst2
            model: {{name: {make_model(Path(folder, "model"))}}}
            data: {{source: builtin, max_train_samples: 32, max_eval_samples: 8}}
            method: {{name: dora, rank: 2, prune_interval: 1}}
            train: {{max_steps: 4, batch_size: 8, device: cpu}}
            """
        )
        for command in (
            ("train", recipe, "--output", run), ("eval", "--checkpoint", run), ("ranks", run),
            ("report", run, "--output", Path(folder, "page.html")),
            ("export", "--checkpoint", run, "--format", "merged", "--output", Path(folder, "merged")),
        ):  # fmt: skip
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                code = program()(list(map(str, command)), prog_name="dora", standalone_mode=False)
            assert not code, printed.getvalue()
    AcceleratorState._reset_state(reset_partial_state=True)  # else no process would find the others of its run


_work()
load_generator("builtin:tiny-decoder")
shipped_recipes()  # `dora init` reads them all, and what was read once is not parsed again
gc.collect()
gc.freeze()  # or the first collection of every process would copy the pages of all that is loaded
