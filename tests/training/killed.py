"""What is killed beyond a single run in a new folder: each kind of command that writes, and what may be there
afterwards.

A `Case` says what is in the place before, how a user calls the command (again), what a kill may leave and what must be
there at the end: what a command left alone has made, to the bit, the user's own files, and nothing besides.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path

from dora_cli.recipe import Recipe, dump_recipe
from tests.training.killing import Attempt, Straight, Strike, Warm, assert_same_files
from tests.training.test_run import read, without_timing

PLACE = "place"
"""The name, in the folder of an attempt, of what is written."""
OWN = {"notes.txt": b"mine", "mine/more.txt": b"mine too"}
"""A user's files in a run folder."""


def content(path: Path) -> dict[str, bytes]:
    """The bytes of a file or of all files in a folder, by their names in it; empty if there is none."""
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@dataclass
class Case(ABC):
    """A command that writes to ``folder/PLACE``.

    Attributes:
        warm: what runs it.
        folder: where the result of a command that was left alone is, and what is needed for it.
        before: what the place holds before; None for nothing.
        pauses: seconds to rest at each mark, by phase.
        straight: the attempt that was left alone, in `folder`.
    """

    warm: Warm
    folder: Path
    before: Path | None = None
    pauses: Mapping[str, float] = field(default_factory=dict)
    straight: Attempt = field(init=False)

    def __post_init__(self) -> None:
        self.begin(self.folder)
        self.straight = self.attempt(self.folder, None)

    @property
    def place(self) -> str:
        """The name of what is written."""
        return PLACE

    def begin(self, folder: Path) -> None:
        """Puts what was there before into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.before is not None:
            (shutil.copytree if self.before.is_dir() else shutil.copyfile)(self.before, folder / self.place)

    def attempt(self, folder: Path, strike: Strike | None) -> Attempt:
        """One call, with the flags that a user would give; ends by success or by the strike.

        Raises:
            AssertionError: it ended otherwise.
        """
        attempt = self.warm.run(*self.arguments(folder / self.place), strike=strike, pauses=self.pauses)
        ends = (0,) if strike is None else (0, *(-number for number in strike.numbers))
        assert attempt.code in ends, f"exit code {attempt.code} after {attempt.marks[-3:]}:\n{attempt.output}"
        return attempt

    def struck(self, folder: Path, strikes: Iterable[Strike]) -> Iterator[Attempt]:
        """Calls the command in `folder`, again after each of `strikes`, until it has ended by itself; looks at all that
        comes out.

        Raises:
            AssertionError: something is not as it should be; after the attempt was given that left it so.
        """
        self.begin(folder)
        for strike in chain(strikes, repeat(None)):
            attempt = self.attempt(folder, strike)
            yield attempt
            if attempt.code == 0:
                self.assert_equals(folder)
                return
            try:
                self.check(folder / self.place)
            except AssertionError as error:
                raise AssertionError(f"killed after {attempt.marks[-3:]}: {error}") from error

    @abstractmethod
    def arguments(self, place: Path) -> list[str]:
        """What is called as things are now."""

    @abstractmethod
    def check(self, place: Path) -> None:
        """Looks at what a kill has left. Raises AssertionError."""

    @abstractmethod
    def assert_equals(self, folder: Path) -> None:
        """Compares the end with that of the command that was left alone. Raises AssertionError."""


@dataclass
class Training(Case):
    """``dora train``, of one or several seeds, in a new folder or over an earlier run (`OWN` lies beside it)."""

    recipe: Recipe | None = None
    seeds: str | None = None

    def begin(self, folder: Path) -> None:
        super().begin(folder)
        if folder == self.folder:
            assert self.recipe is not None
            (folder / "recipe.yaml").write_text(dump_recipe(self.recipe), encoding="utf-8")
        for name, mine in OWN.items() if self.before is not None else ():
            (folder / self.place / name).parent.mkdir(exist_ok=True)
            (folder / self.place / name).write_bytes(mine)

    def runs(self, place: Path) -> list[Path]:
        """The folders of the runs in `place`."""
        return [place / f"seed-{seed}" for seed in self.seeds.split(",")] if self.seeds else [place]

    def arguments(self, place: Path) -> list[str]:
        command = [
            "train",
            str(self.folder / "recipe.yaml"),
            "--output",
            str(place),
            *(["--seeds", self.seeds] if self.seeds else []),
        ]
        recipes = [run / "recipe.yaml" for run in self.runs(place)]
        begun = [path for path in recipes if path.is_file() and self._is_new(path)]
        if begun and not self.seeds:
            saved = any((place / "checkpoints").glob("step-*"))
            return [*command, "--resume" if saved else "--overwrite"]
        if begun or (self.seeds and self.before is None):
            return command
        return (
            [*command, "--overwrite"] if any(path.is_file() for path in recipes) or self.before is not None else command
        )

    def _is_new(self, recipe: Path) -> bool:
        """Whether a run of this case wrote it: what the earlier ones wrote is known."""
        held = recipe.read_bytes()
        before = self.before is not None and content(self.before).values()
        return bool(held) and not (before and held in before)

    def check(self, place: Path) -> None:
        if self.before is None:
            return
        found = content(place)
        assert found.items() >= OWN.items(), "a file of the user's is lost"
        if {name: held for name, held in found.items() if name not in OWN} == content(self.before):
            return
        for finished in place.glob("**/metrics.json"):
            name = finished.parent.relative_to(place)
            whole = content(self.before / name).items() <= content(place / name).items()
            assert whole or self._is_new(finished.with_name("recipe.yaml")), (
                f"{place / name} says that it is finished, and is in parts"
            )

    def assert_equals(self, folder: Path) -> None:
        mine, theirs = self.folder / self.place, folder / self.place
        for one, two in zip(self.runs(mine), self.runs(theirs), strict=True):
            Straight(self.folder / "recipe.yaml", one, {}, 0.0).assert_equals(two)
        assert_same_files(mine, theirs)
        if self.seeds:
            assert without_timing(read(mine / "summary.json")) == without_timing(read(theirs / "summary.json"))
        assert self.before is None or content(theirs).items() >= OWN.items()


@dataclass
class Result(Case):
    """A command that makes one file or folder from a finished run: the place holds the old one, none, or the whole new
    one.
    """

    command: tuple[str, ...] = ()
    option: str = "--output"
    name: str = PLACE

    @property
    def place(self) -> str:
        return self.name

    def arguments(self, place: Path) -> list[str]:
        return [
            *self.command,
            self.option,
            str(place),
            *(["--overwrite"] if self.before is not None or place.exists() else []),
        ]

    def check(self, place: Path) -> None:
        allowed = [{}, content(self.folder / self.place), *([content(self.before)] if self.before is not None else [])]
        found = content(place)
        assert found in allowed, f"neither old nor new: {sorted(found)}"
        assert found or not place.exists(), "an empty folder is left"

    def assert_equals(self, folder: Path) -> None:
        assert_same_files(self.folder, folder)
        assert content(self.folder) == content(folder)
