"""The process that tries whether a model's steps can be captured, run in this one."""

from __future__ import annotations

import io
import json

import pytest

from dora_cli.training.capture import probe, trial


def test_a_trial_that_cannot_compile_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Maybe only a compiler is missing; the reason is what it began with."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"device": "cpu"}'))

    def broken(*arguments: object, **others: object) -> None:
        raise trial.NotCompiledError("blocks are not compiled") from FileNotFoundError("no g++")

    monkeypatch.setattr(trial, "try_steps", broken)
    assert probe.main() == 1
    assert json.loads(capsys.readouterr().out) == {"captured": False, "reason": "no g++"}


def test_a_trial_that_cannot_import_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1: the answer is the installation's at the moment, and is not kept."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"device": "cpu"}'))

    def broken(*arguments: object, **others: object) -> None:
        raise ModuleNotFoundError("Could not import module 'BertForSequenceClassification'")

    monkeypatch.setattr(trial, "try_steps", broken)
    assert probe.main() == 1
    assert json.loads(capsys.readouterr().out) == {
        "captured": False,
        "reason": "Could not import module 'BertForSequenceClassification'",
    }
