"""Every command on the pages is run, in a folder of its own, or at least one that the program takes."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dora_cli.commands import program
from dora_cli.errors import DoraError
from dora_cli.recipe import load_recipe
from dora_cli.recipe.shipped_recipes import find_recipe
from tests import processes
from tests.commands.conftest import dora, environment
from tests.docs.pages import GUIDE, PAGES, ROOT, Block, blocks, name

COMMANDS: dict[str, Any] = program().commands
SETTINGS = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
SCRIPTS = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "scripts").glob("*.py"))
OURS = {
    ".ci", ".github", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "configs", "docs",
    "dora_cli", "pyproject.toml", "scripts", "tests",
}  # fmt: skip
"""What the repository holds, where no command writes."""

SHORT = ("train.max_steps=4", "train.batch_size=8", "data.max_train_samples=64", "data.max_eval_samples=8")
"""What the trainings of the pages are cut to here, to one epoch."""
SHORT_ROUNDS = ("federated.rounds=2", "federated.local_steps=2", *SHORT[1:])
"""The same of a federated training, whose rounds say how many steps there are."""
SHORT_TEXTS = ("decode.max_new_tokens=8",)
"""The same of those that generate."""
SHORT_BOOSTERS = ("train.max_steps=12",)
"""The same of XGBLoRA's, each booster of which needs a step."""
BEGUN = ("dora train configs/demo/sst2.yaml", "dora train configs/demo/sst2.yaml --seeds 1,2,3 --output runs/seeds")
"""What the reader of a page has done, as the guide's first page says."""
ELSEWHERE = {
    ("doctor",): "tests/commands/test_catalogues.py",
    ("compare", "configs/compare/demo.yaml", "--dry-run"): "tests/compare/test_run.py",  # of a smaller experiment
}
"""Commands that take seconds and are run by another test."""
FILES = {
    "films.txt": "the acting is nice .\nthe songs are not beautiful .\n",
    "films.csv": "sentence\nthe acting is nice .\n",
    "moods/train.csv": "text,mood\n" + "a nice film,good\na dull film,bad\n" * 32,
    "moods/validation.csv": "text,mood\n" + "a nice film,good\na dull film,bad\n" * 4,
    "mine.csv": "text,label\n" + "a nice film,good\na dull film,bad\n" * 10,
    "reviews.csv": "review,stars\n" + "a dull film,1\na long film,3\na nice film,5\n" * 20,
    "mrs.txt": "name[Blue Rose], stayType[hostel], view[sea]\nname[Red Inn], stayType[hotel]\n",
    "outputs.txt": "Blue Rose is a hostel .\nRed Inn is a hotel .\n",
    "references.txt": "Blue Rose is a hostel by the sea .\nA hostel : Blue Rose .\n\nRed Inn is a hotel .\n",
}
"""What the pages' readers have already."""


def parts(line: str) -> list[list[str]]:
    """The commands of a line, one after the other or piped into each other, as words."""
    words: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("|", "&&"):
            words.append([])
        elif not (re.fullmatch(r"[A-Z_]+=\S*", word) and not words[-1]):  # of the environment
            words[-1].append(word)
    return words


def arguments_of(words: Sequence[str]) -> list[str] | None:
    """What `dora` is given, where `words` call it; also by way of a launcher."""
    if words[0].rpartition("/")[2] == "dora":
        return list(words[1:])
    at = next((at for at in range(1, len(words)) if list(words[at - 1 : at + 1]) == ["-m", "dora_cli"]), None)
    return None if at is None else list(words[at + 1 :])


def options_of(words: Sequence[str]) -> Iterator[str]:
    return (word.partition("=")[0] for word in words if word.startswith("--"))


def check(words: Sequence[str], made: Sequence[str] = ()) -> None:
    """Fails unless a command is one that is there, with options it has; `made` are files of commands before it."""
    arguments = arguments_of(words)
    program = words[0].rpartition("/")[2]
    if arguments is not None:
        assert arguments[0] in COMMANDS, arguments[0]
        try:
            context = COMMANDS[arguments[0]].make_context(arguments[0], arguments[1:], resilient_parsing=False)
        except Exception as error:  # of which class, depends on typer's version
            raise AssertionError(f"{words}: {error}") from error
        recipe = context.params.get("recipe")
        if recipe is not None and str(recipe) not in made:
            load_recipe(
                ROOT / find_recipe(Path(recipe)),
                [arguments[at + 1] for at, word in enumerate(arguments) if word == "--set"],
            )
    elif words[1:3] == ["-m", "pytest"] or program == "pytest":
        for word in words[words.index("pytest") + 1 :] if "pytest" in words else words[1:]:
            assert "/" not in word or (ROOT / word).exists(), word
    elif words[1:2] == ["install"] and program == "pip":
        for extra in re.findall(r"\[(.*)\]", words[-1]):
            assert all(re.search(rf"^{part} = \[", SETTINGS, flags=re.MULTILINE) for part in extra.split(",")), extra
    elif program.startswith("python") and words[1].startswith("scripts/"):
        assert (ROOT / words[1]).is_file(), words[1]
        for option in options_of(words):
            assert f'"{option}"' in SCRIPTS or f'"{option[2:]}"' in SCRIPTS, option
    else:
        assert program in {"python", "python3", "cat", "ruff", "mypy", "git"}, program


def outputs(line: str) -> list[str]:
    words = shlex.split(line, comments=True)
    return [words[at + 1] for at, word in enumerate(words[:-1]) if word in ("--output", "-o", "--plot")]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_one_that_the_program_takes(page: Path) -> None:
    made: list[str] = []
    for block in blocks(page, "sh"):
        for line in block.lines:
            for words in parts(line):
                check(words, made)
            made += outputs(line)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_in_sentences_exist(page: Path) -> None:
    """In code within a sentence, a command may be cut short."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`([^`]+)`", text):
        words = span.split()
        if len(words) > 1 and words[0] == "dora" and words[1] in COMMANDS:
            known = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts}
            assert set(options_of(words)) <= known, span
        elif len(words) > 1 and words[0] == "python" and words[1].startswith("scripts/"):
            check(words)


class Folder:
    """Where the commands of a page are given: `configs/` and nothing else of the repository, and the files of FILES."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        (path / "configs").symlink_to(ROOT / "configs")
        for file, text in FILES.items():
            (path / file).parent.mkdir(exist_ok=True)
            (path / file).write_text(text, encoding="utf-8")

    def run(self, line: str) -> None:
        """Runs a line as it stands, but for trainings, which are cut short."""
        *before, words = parts(line)
        arguments = arguments_of(words)
        assert arguments is not None, f"{line}: mark what it needs"
        if tuple(arguments) in ELSEWHERE:
            assert f'"{arguments[0]}"' in (ROOT / ELSEWHERE[tuple(arguments)]).read_text(encoding="utf-8")
            return
        if arguments[0] == "train":
            changes = [arguments[at + 1] for at, word in enumerate(arguments) if word == "--set"]
            file = find_recipe(self.path / arguments[1] if arguments[1].endswith(".yaml") else Path(arguments[1]))
            short = SHORT_ROUNDS if load_recipe(file, changes).federated is not None else SHORT
            short += SHORT_TEXTS if "e2e" in arguments[1] else ()
            short += SHORT_BOOSTERS if "xgblora" in line else ()
            arguments += [word for setting in short for word in ("--set", setting)]
        if before:
            ((program, file),) = before
            assert program == "cat"
            self._piped(line, arguments, file)
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            done = dora(*arguments)
        assert done.code == 0, f"{line}\n{done.err}"

    def _piped(self, line: str, arguments: Sequence[str], file: str) -> None:
        """Runs a command that reads `file` through a pipe, as a process of its own."""
        with (self.path / file).open("rb") as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = processes.start(
                *arguments,
                cwd=self.path,
                environment=environment(),
                stdin=stdin.fileno(),
                stdout=out.fileno(),
                stderr=err.fileno(),
            )
            code = processes.end_of(process)
            err.seek(0)
            assert code == 0, f"{line}\n{err.read().decode()}"


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one who begins with the guide."""
    folder = Folder(tmp_path_factory.mktemp("docs") / "begun")
    for line in BEGUN:
        folder.run(line)
    return folder.path / "runs"


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks(page, "sh") if block.needs is None]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=name)
def test_the_commands_of_a_page_run(page: Path, begun: Path, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "folder")
    shutil.copytree(begun, folder.path / "runs")
    for block in runnable(page):
        for line in block.lines:
            for output in outputs(line):
                assert output.split("/")[0] not in OURS, f"{line}: would write among our own files"
            folder.run(line)
    assert OURS & {path.name for path in folder.path.iterdir()} == {"configs"}


def test_what_a_reader_has_done_is_what_the_guide_says() -> None:
    (first,) = (page for page in GUIDE if page.name == "README.md")
    said = " ".join(first.read_text(encoding="utf-8").split())
    plain, seeds = BEGUN
    assert f"`{plain}`" in said
    assert f"`{seeds.removeprefix(plain).strip()}`" in said


def check_line(line: str) -> None:
    for words in parts(line):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "dora train configs/demo/sst3.yaml",
        "dora train configs/demo/sst2.yaml --epoch 3",
        "dora train configs/demo/sst2.yaml --set train.epoch=3",
        "torchrun --nproc-per-node 2 -m dora_cli trian configs/demo/sst2.yaml",
        "python scripts/bench_step.py --methodz",
        "python scripts/bench_stairs.py",
        "pip install -e '.[everything]'",
        "python -m pytest tests/test_nothing.py",
        "dorra ranks",
    ],
)
def test_what_is_wrong_is_found(line: str) -> None:
    with pytest.raises((AssertionError, DoraError)):
        check_line(line)


def test_blocks_are_read_as_a_shell_reads_them(tmp_path: Path) -> None:
    text = "<!-- needs: gpu -->\n```sh\na \\\n  b  # c\n# d\n\npython - <<'PY'\nx\nPY\ne | f\n```\n"
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    (block,) = blocks(page, "sh")
    assert block.needs == "gpu"
    assert [parts(line) for line in block.lines] == [[["a", "b"]], [["python", "-"]], [["e"], ["f"]]]
