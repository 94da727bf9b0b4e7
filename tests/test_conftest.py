"""What the suite says of itself."""

from __future__ import annotations

from tests.conftest import LONGEST, SLOW
from tests.docs.pages import ROOT


def test_the_files_that_are_slow_exist() -> None:
    """A file that was moved would be back among the quick ones unseen."""
    assert [name for name in SLOW if not (ROOT / "tests" / name).is_file()] == []
    assert set(LONGEST) <= {name.rpartition("/")[2] for name in SLOW}
