"""The short form of the simulation of a comparison's statistics, and that it notices what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = "2000"


def test_every_promise_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within three standard errors of that many experiments, or what is allowed of 20,000 where that is more."""
    import simulate_comparison

    file = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["simulate_comparison.py", "--experiments", EXPERIMENTS, "--json", str(file)])
    assert simulate_comparison.main() == 0
    first, second = capsys.readouterr().out.split("\n\n")[1:]
    content = json.loads(file.read_text())
    assert (len(first.splitlines()), len(second.splitlines())) == (2 + 2 * 14, 2 + 2 * 8)
    assert (len(content["normal"]), len(content["skewed"])) == (2 * 14, 2 * 2 * 8)
    assert all(promise["kept"] for promise in content["normal"])
    assert {promise["seeds"] for promise in content["normal"]} == {5, 10}
    level = content["normal"][0]
    assert f"| {level['what']} | 5 | 5.0 % | {100 * level['found']:.1f} % |" in first
    # Normal scores in the second table too, as a yardstick: both tests miss them about as often as they say.
    yardstick = [miss for miss in content["skewed"] if miss["scores"] == "normal, both"]
    assert [miss["test"] for miss in yardstick] == ["t", "bootstrap-t"] * 2
    assert all(0.03 < miss["below"] + miss["above"] < 0.08 for miss in yardstick)
    # Where the method alone collapses now and then, intervals miss its mean from above, and far too often.
    rare = [miss for miss in content["skewed"] if miss["scores"] == "1 in 10 runs of the method collapses"]
    assert all(miss["above"] > 0.09 and miss["below"] < 0.02 for miss in rare)


def test_without_a_correction_promises_are_missed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import simulate_comparison

    monkeypatch.setattr(simulate_comparison, "holm", np.asarray)
    monkeypatch.setattr(sys, "argv", ["simulate_comparison.py", "--normal", "--experiments", EXPERIMENTS])
    assert simulate_comparison.main() == 1
    missed = [line for line in capsys.readouterr().out.splitlines() if "(missed)" in line]
    assert len(missed) == 2 * 4, "any of several rejected, at 5 and at 10 seeds"
    assert all("any" in line for line in missed)


@pytest.mark.parametrize(
    ("bound", "found", "kept"),
    [("", 0.052, True), ("", 0.056, False), ("", 0.044, False), ("at most", 0.0, True), ("at most", 0.056, False),
     ("at least", 1.0, True), ("at least", 0.044, False)],
)  # fmt: skip
def test_what_is_kept(bound: str, found: float, kept: bool) -> None:
    from simulate_comparison import Promise

    assert Promise("rejected", 5, promised=0.05, found=found, allowed=0.005, bound=bound).kept is kept
