"""What the runs of one process have in common and need not make twice: examples, their tokens, the model's shapes."""

from __future__ import annotations

import stat
from collections.abc import Callable
from itertools import chain, islice
from pathlib import Path
from typing import Generic, TypeVar

from torch import nn

from dora_cli.assembly.build import AdaptedModel, base_from_config
from dora_cli.assembly.data import RunData, encode_split, evaluated_splits, load_data
from dora_cli.data import Encoded, Examples
from dora_cli.files import at_home
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task

T = TypeVar("T")
_MOST_FILES = 1000


class Warm:
    """Keeps examples, tokens and shapes from one run to the next, as long as the files that they come from stay as they
    are.

    What it gives is shared, and changed by nobody.

    Args:
        most: data sets that are kept, those that were used last, three encodings for each of them, and as many models'
            shapes; 0 for none.
    """

    def __init__(self, most: int = 4) -> None:
        self._data = _Kept[RunData](most)
        self._encoded = _Kept[Encoded](3 * most)
        self._shapes = _Kept[nn.Module](most)

    def load_data(self, recipe: Recipe, task: Task, *, held_out: float = 0.0) -> RunData:
        """See `dora_cli.assembly.data.load_data`."""

        def load() -> RunData:
            return load_data(recipe, task, held_out=held_out)

        data = recipe.data
        if data.path is not None:
            files = _files(at_home(data.path))
        else:
            files = [] if data.source == "builtin" else None  # the hub may have others by now
        if files is None:
            return load()
        splits = evaluated_splits(recipe, task)
        parted = (recipe.eval.held_out, recipe.eval.held_out_by, held_out)
        return self._data.get((task, data, parted, splits, files), load)

    def encode(self, recipe: Recipe, task: Task, examples: Examples, adapted: AdaptedModel) -> Encoded:
        """See `dora_cli.assembly.data.encode_split`."""

        def encode() -> Encoded:
            return encode_split(recipe, task, examples, adapted)

        model = recipe.model
        files = _files(at_home(model.name))
        if files is None:
            return encode()
        which = (model.name, adapted.commit, model.trust_remote_code, files, adapted.pad_multiple)
        return self._encoded.get((examples, task, recipe.data.max_length, adapted.layout, *which), encode)

    def shapes(self, recipe: Recipe, task: Task) -> nn.Module:
        """See `dora_cli.assembly.build.base_from_config`; whoever changes the model makes one of their own."""

        def make() -> nn.Module:
            return base_from_config(recipe, task)

        model = recipe.model
        files = _files(at_home(model.name))
        return make() if files is None else self._shapes.get((model, task, files), make)


class _Kept(Generic[T]):
    """At most so many values, those that were used last, by keys that can be compared."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: list[tuple[object, T]] = []

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The value of `key`, made where it is not there."""
        found = next((entry for entry in self._values if entry[0] == key), None)
        if found is None:
            found = (key, make())
        self._values = [found, *(entry for entry in self._values if entry is not found)][: self._most]
        return found[1]


def _files(place: Path) -> list[tuple[str, int, int]] | None:
    """Path, size and time of every file at `place` and one folder below; none for what is no path, None where that
    cannot be told: there are too many, or one cannot be looked at.
    """
    if place.is_file():
        paths = [place]
    else:
        paths = list(islice(chain(place.glob("*"), place.glob("*/*")), _MOST_FILES + 1))
        if len(paths) > _MOST_FILES:
            return None
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:  # whoever reads it says what is wrong
            return None
        if not stat.S_ISDIR(status.st_mode):
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return sorted(found)
