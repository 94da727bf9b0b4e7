from __future__ import annotations

import gc

import pytest

from dora_cli.collector import no_collection


@pytest.mark.parametrize("before", [True, False])
def test_the_collector_is_off_meanwhile_and_as_before_afterwards(before: bool) -> None:
    found = gc.isenabled()
    (gc.enable if before else gc.disable)()
    try:
        with no_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == before
        with pytest.raises(ImportError), no_collection():
            raise ImportError
        assert gc.isenabled() == before
    finally:
        (gc.enable if found else gc.disable)()
