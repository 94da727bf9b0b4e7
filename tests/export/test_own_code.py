"""Models that come with Python code of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from dora_cli import parse_recipe, train
from dora_cli.assembly.restore import restore
from dora_cli.errors import ExportError, RecipeError
from dora_cli.export.saved import export_saved
from tests.export.conftest import logits
from tests.models.test_own_code import own, trace

__all__ = ["own", "trace"]


def test_its_code_goes_with_a_merged_model_and_is_asked_for_again(own: Path, tmp_path: Path) -> None:
    recipe = parse_recipe(f"""
        task: glue/sst2
        model: {{name: {own}, trust_remote_code: true}}
        data: {{source: builtin, max_train_samples: 48, max_eval_samples: 8}}
        method: {{name: dora, rank: 2, prune_interval: 1, alpha: 64}}
        train: {{epochs: 1, batch_size: 8, learning_rate: 2.0e-2, device: cpu}}
    """)
    train(recipe, tmp_path / "run")
    with pytest.raises(RecipeError, match="trust_remote_code"):
        export_saved(tmp_path / "run", tmp_path / "out")
    trust = ["model.trust_remote_code=true"]
    # Its head is called "out", and PEFT takes every module for it whose name ends so, dropouts and its own parts
    # included.
    with pytest.raises(ExportError, match=r"bert\.embeddings\.dropout.*--format merged"):
        export_saved(tmp_path / "run", tmp_path / "peft", overrides=trust)
    found = export_saved(tmp_path / "run", tmp_path / "merged", format="merged", overrides=trust)
    assert found.agreement.difference < 1e-5
    assert "modeling_own.py" in found.files
    assert "trust_remote_code=True" in (tmp_path / "merged" / "README.md").read_text()
    batch = {"input_ids": torch.arange(5, 13)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", trust_remote_code=True)
    run = restore(tmp_path / "run", trust, lambda recipe, task: ())
    torch.testing.assert_close(logits(merged, batch), logits(run.adapted.model, batch), atol=1e-5, rtol=0)
