"""What a command loads: ``dora --help`` nothing heavy, a list of models no library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

HEAVY = {
    "accelerate", "datasets", "evaluate", "huggingface_hub", "matplotlib", "numpy", "pandas", "pyarrow", "safetensors",
    "scipy", "sklearn",
    "tokenizers", "torch", "transformers", "yaml",
}  # fmt: skip
"""All that we depend on but typer, rich (typer's) and pydantic, which newer versions of typer load to read
arguments.
"""


def test_help_loads_nothing_heavy() -> None:
    """Counted, not timed: whatever the machine is doing, these take seconds."""
    code = f"""
import sys
from dora_cli.commands import app
for arguments in (["--help"], ["--version"], ["train", "--help"], ["eval", "--help"], ["ranks", "--help"]):
    app(arguments, standalone_mode=False)
loaded = set({sorted(HEAVY)!r}) & set(sys.modules)
assert not loaded, loaded
assert "typer" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == 4


def test_models_are_listed_without_loading_one() -> None:
    code = """
import sys
from dora_cli.commands import app
app(["models", "--json"], standalone_mode=False)
loaded = {"torch", "transformers", "datasets"} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "builtin:tiny-encoder" in done.stdout


def test_what_is_out_of_reach_is_said_before_pytorch_is_loaded(tmp_path: Path) -> None:
    code = f"""
import sys
from dora_cli.commands import app
code = app(["train", "configs/glue/rte.yaml", "--output", {str(tmp_path / "run")!r}], standalone_mode=False)
assert code == 2, code
loaded = {{"torch", "transformers", "datasets"}} & set(sys.modules)
assert not loaded, loaded
"""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "data.source" in done.stderr
    assert "model.name" in done.stderr
