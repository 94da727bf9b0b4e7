from __future__ import annotations

import pytest

from dora_cli.metrics.e2e import tokenisation


@pytest.fixture(autouse=True)
def forget() -> None:
    """The tokens that an earlier test left."""
    tokenisation._treebank.cache_clear()
