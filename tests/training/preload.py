"""What the warm process of `killing` does before it forks: imports, and what a library works out once
for all models.
"""

from __future__ import annotations

# ruff: noqa: F401
import contextlib

import torch
import transformers.models.bert.modeling_bert
import transformers.models.gpt2.modeling_gpt2
import transformers.models.llama.modeling_llama
import transformers.models.roberta.modeling_roberta
import transformers.optimization

import dora_cli.commands
import dora_cli.export.saved
import dora_cli.reports.html.page
import dora_cli.reports.progress
import dora_cli.training.run
import tests.training.killing
from dora_cli.models import load_generator, load_model

with contextlib.suppress(ImportError):  # asked before an export is placed
    import peft
with contextlib.suppress(ImportError):  # of the extra plots
    import matplotlib.backends.backend_agg
    import matplotlib.figure

torch.set_num_threads(1)  # threads do not live through a fork
load_model("builtin:tiny-encoder", num_labels=2, label_names=("no", "yes"), regression=False, seed=0)
load_generator("builtin:tiny-decoder")
