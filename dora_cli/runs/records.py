"""Run records: what a run folder holds, written so that a reader never finds half a file, and checked when read.

Builders (`metrics_record`, `ranks_record`) make the layouts of `dora_cli.runs.layout`; `validate_metrics` and
`validate_ranks` turn a damaged or foreign record into a CheckpointError that says where it is wrong. JSON has no NaN: a
value that is not finite is written as null.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ValidationError

from dora_cli import files
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.printable import escape_json, shown
from dora_cli.runs.layout import SCHEMA_VERSION, MetricsRecord, RanksRecord

LINE_LENGTH = 140  # a list or object that fits on one line of this length is written on one


# Writing --------------------------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8 as `write_bytes` does. Raises OutputError."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` beside `path`, flushes it to the disk and renames it into place; makes missing folders.

    A reader, or a crash at any moment, finds the whole old file or the whole new one. Raises OutputError.
    """
    path = Path(path)
    clear_leftovers(path)
    # not a mkstemp file: that would be readable by its owner alone, and stay so after the rename
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.unlink(missing_ok=True)
            with open(beside, "xb") as file:  # never through a link that lies there
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def clear_leftovers(path: Path) -> None:
    """Removes what writers of `path` that were killed have left beside it."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9]+\.tmp")
    with contextlib.suppress(OSError):  # no such folder, or it may not be read: a file may still be written there
        for name in os.listdir(path.parent):
            if left.fullmatch(name):
                (path.parent / name).unlink(missing_ok=True)


def write_json(path: Path, obj: Any) -> None:
    """Writes `obj` as JSON, atomically as `write_text` does. Raises OutputError."""
    write_text(path, to_json(obj))


def write_jsonl(path: Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Writes one JSON object a line, atomically as `write_text` does. Raises OutputError."""
    write_text(path, to_jsonl(objects))


def to_jsonl(objects: Iterable[Mapping[str, Any]]) -> str:
    """`objects` as JSON lines."""
    return "".join(_line(obj) for obj in objects)


def _line(obj: Mapping[str, Any]) -> str:
    return escape_json(json.dumps(_plain(obj), ensure_ascii=False, allow_nan=False)) + "\n"


def to_json(obj: Any) -> str:
    """`obj` as indented JSON with a final newline; short lists and objects stay on one line. Not finite -> null."""
    return escape_json(_indented(_plain(obj), 0)) + "\n"


def _indented(obj: Any, depth: int) -> str:
    line = json.dumps(obj, ensure_ascii=False, allow_nan=False)
    if not isinstance(obj, dict | list) or not obj:
        return line
    children = list(obj.values()) if isinstance(obj, dict) else obj
    flat = not any(isinstance(child, dict | list) for child in children)
    # numbers always go on one line: a column of scores a thousand lines long helps nobody
    if flat and (
        len(line) + 2 * depth <= LINE_LENGTH or all(isinstance(child, int | float | None) for child in children)
    ):
        return line
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(obj, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {_indented(value, depth + 1)}" for key, value in obj.items()]
        opening, closing = "{", "}"
    else:
        items = [_indented(value, depth + 1) for value in obj]
        opening, closing = "[", "]"
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f"\n{outer}{closing}"


def _plain(obj: Any) -> Any:
    """Plain JSON values: numpy scalars and arrays unpacked, tuples as lists, paths as strings, not finite as None."""
    if obj is None or isinstance(obj, bool | str):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_plain(value) for value in obj]
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if hasattr(obj, "tolist"):  # numpy
        return _plain(obj.tolist())
    raise TypeError(f"cannot be written as JSON: {obj!r}")


def cannot_write(path: Path, error: OSError) -> OutputError:
    """What to say where the system refuses to write `path`."""
    reason = error.strerror or str(error)
    return OutputError(
        f"cannot write {path}: {reason}. Free some space, fix the permissions, or name another place with --output."
    )


class LogFile:
    """log.jsonl: one JSON object per line, on the disk's way as soon as it is written, so that a killed run keeps its
    log.

    Opened for appending. If an earlier run died within a line, the next line still starts on its own.

    Args:
        path: the file.
        length: cut it back to so many bytes first: what a resumed run writes again must not stand there twice.
    """

    def __init__(self, path: Path, *, length: int | None = None) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "ab")  # noqa: SIM115 - closed by close()
            if length is not None and length < self._file.tell():
                self._file.truncate(length)
                self._file.seek(0, os.SEEK_END)  # truncating leaves the position where it was, beyond the end
            if self._file.tell() and _last_byte(self.path) != b"\n":
                self._file.write(b"\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def write(self, entry: Mapping[str, Any]) -> None:
        """Appends one line and flushes it.

        Raises OutputError, also where the file was removed meanwhile: nobody would read that line.
        """
        self._check_there()
        try:
            self._file.write(_line(entry).encode("utf-8"))
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def length(self) -> int:
        """Bytes written so far, now on the disk. Raises OutputError."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def _check_there(self) -> None:
        try:
            there = os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except OSError:
            there = False
        if not there:
            raise OutputError(
                f"{self.path} was removed or replaced while the run wrote it; put it back from a copy and go on with "
                "--resume, or train again"
            )

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def __enter__(self) -> LogFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# Reading --------------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises CheckpointError if it is absent, unreadable or cut off."""
    return parse_json(read_text(path), path)


def read_text(path: Path, limit: int = files.RECORD) -> str:
    """The content of a UTF-8 text file of at most `limit` bytes. Raises CheckpointError."""
    path = Path(path)
    with _readable(path):
        return files.read_bytes(path, limit).decode("utf-8")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a log, one by one. Raises CheckpointError."""
    path = Path(path)
    with _readable(path):
        files.check_regular(path, files.LOG)
        for line in files.lines(path):
            yield line.decode("utf-8")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong while `path` is read into a CheckpointError."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no {path.name} in {path.parent}: it is not a run folder, or the run in it has not finished. "
            "Name the folder that dora train wrote (its --output)."
        ) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is damaged: byte {error.start} is not UTF-8 text. {_FIX}") from error
    except (files.NotRegularError, files.TooLargeError, IsADirectoryError) as error:
        reason = error.strerror or ""
        raise CheckpointError(f"{path} is no record of dora: {reason[:1].lower() + reason[1:]}. {_FIX}") from error
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror or error}. Fix its permissions or name another run folder."
        ) from error


def parse_json(text: str, path: Path) -> Any:
    """`text` as JSON; `path` is where it came from. Raises CheckpointError."""
    try:
        return files.parse_json(text)
    except json.JSONDecodeError as error:
        where = "it is empty" if not text.strip() else f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise CheckpointError(f"{path} is damaged: {where}. {_FIX}") from error
    except ValueError as error:  # a number of thousands of digits, or lists within lists without end
        raise CheckpointError(f"{path} is damaged: {error}. {_FIX}") from error


def _last_byte(path: Path) -> bytes:
    with files.open_regular(path) as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


_FIX = "Copy the run folder again if it was copied, or train again."

_Model = TypeVar("_Model", bound=BaseModel)


def validate_ranks(record: Any, source: Path | str = "ranks.json") -> RanksRecord:
    """The checked record. Raises CheckpointError naming `source`, the key, the value and what was expected."""
    return validated(RanksRecord, record, source)


def validate_metrics(record: Any, source: Path | str = "metrics.json") -> MetricsRecord:
    """The checked record. Raises CheckpointError naming `source`, the key, the value and what was expected."""
    return validated(MetricsRecord, record, source)


def validated(model: type[_Model], record: Any, source: Path | str) -> _Model:
    """`record`, which was read from `source`, as a `model`.

    Raises CheckpointError naming the key, the value and what was expected.
    """
    if (
        isinstance(record, Mapping)
        and isinstance(record.get("schema_version"), int)
        and record["schema_version"] != SCHEMA_VERSION
    ):
        raise CheckpointError(
            f"{source} has schema_version {record['schema_version']}; this dora reads {SCHEMA_VERSION}. "
            "Use the version of dora that wrote it."
        )
    try:
        return model.model_validate(record)
    except ValidationError as error:
        raise CheckpointError(f"{source} is damaged or was not written by dora: {_problems(error)}. {_FIX}") from error


def _problems(error: ValidationError, most: int = 3) -> str:
    """The first few problems as ``layers[3].rank is -1: ...``, and how many more there are."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False)[:most]:
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{shown(part, 60)}"
            for part in problem["loc"]
            if part != "[key]"
        ).lstrip(".")
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if problem["type"] == "missing":
            lines.append(f"{place} is missing")
        elif problem["type"] == "value_error":
            lines.append(f"{place}: {message}" if place else message)
        else:
            value = reprlib.repr(problem["input"])  # what a stranger wrote may be nested without end
            value = value if len(value) <= 60 else value[:57] + "..."
            lines.append(f"{place or 'the whole'} is {value}: {message}")
    more = error.error_count() - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")


# Building -------------------------------------------------------------------------------------------------------------


class ProjectionLike(Protocol):
    """What a rank record needs to know of a projection; `dora_cli.models.Projection` is one."""

    @property
    def name(self) -> str: ...
    @property
    def stack(self) -> str: ...
    @property
    def block(self) -> int: ...
    @property
    def attention(self) -> str | None: ...
    @property
    def projection(self) -> str: ...
    @property
    def group(self) -> str: ...


class AllocationLike(Protocol):
    """The rank of one projection; `dora_cli.methods.base.ProjectionAllocation` is one."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def start_rank(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def scores(self) -> Sequence[float] | None: ...


def ranks_record(
    projections: Sequence[ProjectionLike],
    allocations: Sequence[AllocationLike],
    *,
    unit: str,
    start_rank: int | None,
    target_rank: int | None,
    live_components: int,
    history: Sequence[Mapping[str, Any]],
    phases: Sequence[tuple[str, int, int]] = (),
) -> dict[str, Any]:
    """The content of ranks.json.

    Args:
        projections: the adapted projections, in model order; the order of `layers`.
        allocations: one for each projection, matched by name, in any order; empty for a method that adapts none.
        unit: what ranks count, ``"component"``.
        start_rank: components a projection starts with.
        target_rank: mean final rank of a projection.
        live_components: the sum of all ranks.
        history: ``step, phase, budget, live`` of each event, ascending.
        phases: ``(name, first step, last step)`` of each phase, in order.
    """
    by_name = {allocation.name: allocation for allocation in allocations}
    adapted = [projection for projection in projections if projection.name in by_name]
    assert len(adapted) == len(by_name) == len(allocations), "allocations must name known projections, each once"
    assert not allocations or len(adapted) == len(projections), "a projection has no allocation"
    layers = []
    for projection in adapted:
        allocation = by_name[projection.name]
        layers.append(
            {
                "name": projection.name,
                "stack": projection.stack,
                "block": projection.block,
                "attention": projection.attention,
                "projection": projection.projection,
                "group": projection.group,
                "shape": list(allocation.shape),
                "start_rank": allocation.start_rank,
                "rank": allocation.rank,
                "scores": None if allocation.scores is None else list(allocation.scores),
            }
        )
    record = _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "unit": unit,
            "start_rank": start_rank,
            "target_rank": target_rank,
            "live_components": live_components,
            "layers": layers,
            "phases": [{"name": name, "first": first, "last": last} for name, first, last in phases],
            "history": [{key: entry[key] for key in ("step", "phase", "budget", "live")} for entry in history],
        }
    )
    RanksRecord.model_validate(record)  # our own mistake would raise here, before anything is written
    return dict(record)


def metrics_record(
    *,
    task: str,
    model: str,
    method: str,
    seed: int,
    metrics: Mapping[str, float | None],
    last: Mapping[str, float | None],
    best_epoch: int | None,
    selection: str,
    epochs: Sequence[Mapping[str, Any]],
    budget: Mapping[str, int],
    timing: Mapping[str, float | int | None],
) -> dict[str, Any]:
    """The content of metrics.json. See `layout.MetricsRecord` for the keys of `epochs`, `budget` and `timing`."""
    record = _plain(
        {
            "schema_version": SCHEMA_VERSION,
            "task": task,
            "model": shown(model, 4096),  # a folder may be called anything
            "method": method,
            "seed": seed,
            "metrics": metrics,
            "last": last,
            "best_epoch": best_epoch,
            "selection": selection,
            "epochs": epochs,
            "budget": budget,
            "timing": timing,
        }
    )
    MetricsRecord.model_validate(record)
    return dict(record)


# A run folder ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRecords:
    """Where things are in a run folder, and the records in it.

    metrics.json is to be written last: a folder that holds one holds a finished run.
    """

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.json"

    @property
    def ranks(self) -> Path:
        return self.folder / "ranks.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def environment(self) -> Path:
        return self.folder / "environment.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def predictions(self) -> Path:
        """What the finished model wrote; only of a task that generates."""
        return self.folder / "predictions.jsonl"

    @property
    def trackers(self) -> Path:
        """What trackers keep as files; only where the recipe asks for one."""
        return self.folder / "trackers"

    @property
    def summary(self) -> Path:
        """The record of several seeds, in their parent folder."""
        return self.folder / "summary.json"

    def read_metrics(self) -> dict[str, Any]:
        """metrics.json, checked. Raises CheckpointError."""
        return self._read(self.metrics, "metrics")

    def read_ranks(self) -> dict[str, Any]:
        """ranks.json, checked. Raises CheckpointError."""
        return self._read(self.ranks, "ranks")

    @staticmethod
    def _read(path: Path, kind: Literal["metrics", "ranks"]) -> dict[str, Any]:
        record = read_json(path)
        (validate_metrics if kind == "metrics" else validate_ranks)(record, path)
        return dict(record)

    def seed_runs(self) -> list[RunRecords]:
        """The runs of `dora train --seeds` in this folder, ``seed-*``, in order of their seeds; finished or not."""
        found = []
        for folder in self.folder.glob("seed-*"):
            if re.fullmatch(r"seed-[0-9]+", folder.name) and folder.is_dir():
                found.append((int(folder.name.removeprefix("seed-")), RunRecords(folder)))
        return [run for _, run in sorted(found, key=lambda pair: pair[0])]
