"""What the program says of itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from dora_cli import __version__
from dora_cli.commands import program
from tests.commands.conftest import dora, forked, process
from tests.processes import Done

COMMANDS = program().commands

OPTIONS = {
    "init": ["task", "--model -m", "--method", "--data", "--text", "--label", "--output -o", "--overwrite", "--schema"],
    "train": [
        "recipe",
        "--set",
        "--output -o",
        "--seeds",
        "--processes",
        "--resume",
        "--overwrite",
        "--plain",
        "--quiet -q",
        "--dry-run",
    ],
    "compare": ["experiment", "--output -o", "--jobs", "--ray", "--resume", "--dry-run", "--plain", "--quiet -q"],
    "data": ["recipe", "--set", "--json"],
    "eval": ["--checkpoint -c", "--split", "--set", "--output -o", "--overwrite"],
    "predict": [
        "--checkpoint -c",
        "--output -o",
        "--text",
        "--text-pair",
        "--input -i",
        "--format -f",
        "--split",
        "--set",
        "--json",
        "--overwrite",
    ],
    "ranks": [
        "folder",
        "--by",
        "--scores",
        "--history",
        "--compare",
        "--plot",
        "--overwrite",
        "--what",
        "--json",
        "--as",
    ],
    "report": ["runs", "--output -o", "--overwrite"],
    "export": [
        "--checkpoint -c",
        "--format",
        "--output -o",
        "--dtype",
        "--layout",
        "--pad",
        "--max-rank",
        "--compress",
        "--allow-unfrozen",
        "--overwrite",
        "--set",
    ],
    "score": ["task", "--predictions -p", "--references -r", "--json"],
    "tasks": ["--json"],
    "models": ["--json"],
    "methods": ["--json"],
    "doctor": ["--json"],
}
"""Every argument and option. One that is new belongs here, into the guide and into a test of what it does."""


def options(command: object) -> list[str]:
    return [" ".join(parameter.opts) for parameter in command.params]  # type: ignore[attr-defined]


def test_the_options_are_those_we_know() -> None:
    assert {name: options(command) for name, command in COMMANDS.items()} == OPTIONS
    assert options(program()) == ["--version", "--debug", "--install-completion", "--show-completion"]


def test_version() -> None:
    done = dora("--version")
    assert (done.code, done.out, done.err) == (0, f"dora {__version__}\n", "")


@pytest.fixture(scope="module")
def help_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Done]:
    """What a command says of itself, in a process that nobody gave a terminal; asked once."""
    return cache(lambda name: forked(name, "--help", cwd=tmp_path_factory.mktemp("help")))


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], *([name, "--help"] for name in OPTIONS)], ids=" ".join)
def test_help_is_plain_text_of_eighty_columns(
    arguments: list[str], help_of: Callable[[str], Done], tmp_path: Path
) -> None:
    done = process(*arguments, cwd=tmp_path) if len(arguments) == 1 else help_of(arguments[0])
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    if len(arguments) == 1:
        text = " ".join(done.out.split())
        assert "DoRA, Dynamic Low-Rank Adaptation (Mao et al. 2024, arXiv 2405.17357)" in text
        assert "Not the weight-decomposed DoRA" in text
        assert all(re.search(rf"^\W*{name} ", done.out, flags=re.MULTILINE) for name in OPTIONS)
    else:
        for name in OPTIONS[arguments[0]]:
            assert not name.startswith("-") or name.split()[0] in done.out
        assert f"Example:  dora {arguments[0]} " in done.out


@pytest.mark.parametrize("name", OPTIONS)
def test_each_command_shows_an_example_that_it_accepts(name: str, help_of: Callable[[str], Done]) -> None:
    example = COMMANDS[name].epilog.removeprefix("Example:").strip()
    words = shlex.split(example)
    assert words[:2] == ["dora", name]
    COMMANDS[name].make_context(name, words[2:])
    assert example in help_of(name).out, "an example is copied: it must stand on one line"


def test_every_default_that_is_not_obvious_is_said() -> None:
    """Square brackets are markup to the help's printer and would vanish."""
    for command in COMMANDS.values():
        for parameter in command.params:
            assert parameter.help, f"{parameter.name} has no help"
            assert "[" not in parameter.help


def test_no_command_shows_the_help() -> None:
    done = dora()
    assert done.code in (0, 2)  # click 8.2 made it 2
    assert "Usage: dora" in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "trian"),
        (["train"], "RECIPE"),
        (["train", "a.yaml", "b.yaml"], "b.yaml"),
        (["train", "a.yaml", "--epochs", "3"], "--epochs"),
        (["train", "a.yaml", "--set"], "--set"),
        (["eval"], "--checkpoint"),
        (["ranks", "--jsno"], "--jsno"),
    ],
)
def test_a_wrong_command_line(arguments: list[str], said: str) -> None:
    done = dora(*arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err
