"""Where the original programs are: tests against them are skipped elsewhere."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

needs_java = pytest.mark.skipif(
    shutil.which("java") is None or importlib.util.find_spec("pycocoevalcap") is None,
    reason="needs Java and pycocoevalcap: .[e2e]",
)
