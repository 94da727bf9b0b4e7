"""Inputs by number: a damaged copy of something sound, and the command that is to read it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.hostile.edits import CELLS, FRAGMENTS, VALUES, dump, edit_file, sign, swap
from tests.hostile.ground import GENERATOR, Ground

SHORT = (
    "train.max_steps=4",
    "train.device=cpu",
    "data.max_train_samples=8",
    "data.max_eval_samples=8",
    "train.log_with=null",
)
"""Whatever a recipe asks for, nobody waits for hours."""


@dataclass(frozen=True)
class Input:
    """One trial.

    Attributes:
        kind: of what was damaged, such as ``adapter``.
        command: what reads it, such as ``ranks --plot``.
        arguments: of `dora`; paths are relative to the input's folder.
        edited: the file that was changed, relative to the folder; None where the hostile text stands among the
            arguments.
    """

    kind: str
    command: str
    arguments: tuple[str, ...]
    edited: Path | None = None


def _sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def _recipe(draw: Random, ground: Ground, place: Path) -> Input:
    path = place / "recipe.yaml"
    path.write_text(draw.choice((ground.recipe, ground.recipe, GENERATOR)))
    edit_file(draw, path)
    if draw.random() < 0.85:
        return Input("recipe", "train --dry-run", ("train", path.name, "--dry-run"), Path(path.name))
    return Input("recipe", "train", ("train", path.name, "-o", "run", *_sets(*SHORT)), Path(path.name))


def keys() -> list[str]:
    """Every key of a recipe."""
    from dora_cli.recipe.schema import Recipe, section_keys

    found = ["task", "nothing", "train.nothing", "", "data.columns.sentence"]
    for section in Recipe.model_fields:
        model = section_keys(section)
        found += [f"{section}.{key}" for key in model.model_fields] if model is not None else []
    return found


def _set(draw: Random, ground: Ground, place: Path) -> Input:
    (place / "recipe.yaml").write_text(draw.choice((ground.recipe, GENERATOR)))
    overrides = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        value = draw.choice(
            (draw.choice(FRAGMENTS), draw.choice(CELLS), dump(draw.choice(VALUES)).decode("utf-8", "surrogateescape"))
        )
        overrides.append(
            f"{draw.choice(keys())}{draw.choice(('=', '=', '=', '=', ': ', ''))}{value}".replace("\x00", "")
        )
    arguments = ["train", "recipe.yaml", "--dry-run", *_sets(*overrides)]
    if draw.random() < 0.1:
        arguments += ["--seeds", draw.choice(("1,2", "1,1", "", "\x1b[2J", "-1", "9" * 5000, "1,,2", "\u0661", "1_0"))]
    return Input("set", "train --dry-run --set", tuple(arguments))


def _table(draw: Random, ground: Ground, place: Path) -> Input:
    names = ("texts.csv", "texts.tsv", "texts.json", "texts.jsonl", "texts.parquet", "texts.txt")
    name = draw.choice(names)
    path = place / name
    shutil.copy(ground.root / "tables" / name, path)
    if path.suffix == ".parquet" and draw.random() < 0.7:
        _write_parquet(draw, path)
    else:
        edit_file(draw, path)
    columns = _sets(
        "data.columns=" + draw.choice(("{sentence: label}", '{sentence: "\\e[2J"}', "{label: sentence}", "{a: b}"))
    ) * (draw.random() < 0.15)
    if path.suffix == ".txt" or draw.random() < 0.35:
        output = draw.choice(("out.jsonl", "out.tsv", "out/"))
        arguments = ("predict", "-c", str(ground.root / "finished"), "--input", name, "-o", output, *columns)
        return Input("data", "predict --input", arguments, Path(name))
    (place / "recipe.yaml").write_text(ground.recipe)
    (place / "data").mkdir()
    moved = Path("data") / ("train" + path.suffix)
    if path.is_symlink() or path.exists():
        path.rename(place / moved)
    shutil.copy(ground.root / "data" / "validation.csv", place / "data")
    arguments = ("train", "recipe.yaml", *_sets("data.path=data"), *columns)
    if draw.random() < 0.8:
        return Input("data", "train --dry-run", (*arguments, "--dry-run"), moved)
    return Input("data", "train", (*arguments, "-o", "run", *_sets(*SHORT)), moved)


def _write_parquet(draw: Random, path: Path) -> None:
    """A sound file of columns that nobody expects."""
    import datetime
    import decimal

    import pyarrow
    from pyarrow import parquet

    columns = {
        "texts": ["a", "\x1b[2J", "", None],
        "bytes": [b"\xff", b"", None, b"a"],
        "numbers": [1, -1, 2**62, None],
        "floats": [0.5, float("nan"), 1e308, None],
        "lists": [["a"], [], None, [None]],
        "objects": [{"a": 1}, {"a": None}, None, {"a": 2}],
        "truths": [True, False, None, True],
        "dates": [datetime.date(2001, 1, 1), None, datetime.date(9999, 12, 31), None],
        "decimals": [decimal.Decimal("1.5"), None, None, None],
        "nulls": [None] * 4,
        "dictionary": pyarrow.array(["positive", "negative", "x", None]).dictionary_encode(),
    }
    names = draw.sample(sorted(columns), draw.randint(0, 4))
    wanted = {draw.choice(("sentence", "label", name, "\x1b[31m", "")): columns[name] for name in names}
    parquet.write_table(pyarrow.table(wanted), path)
    if draw.random() < 0.3:
        edit_file(draw, path)


def _release(draw: Random, ground: Ground, place: Path) -> Input:
    source, name = draw.choice((("glue", "train.tsv"), ("e2e", "trainset.csv")))
    shutil.copytree(ground.root / source, place / source)
    edit_file(draw, place / source / name)
    recipe, kind = (ground.recipe, "glue-tsv") if source == "glue" else (GENERATOR, "e2e-csv")
    (place / "recipe.yaml").write_text(recipe)
    arguments = ("train", "recipe.yaml", "--dry-run", *_sets(f"data={{source: {kind}, path: {source}}}"))
    return Input("data", f"train --dry-run ({kind})", arguments, Path(source) / name)


def _scores(draw: Random, ground: Ground, place: Path) -> Input:
    outputs = draw.choice(("outputs.jsonl", "outputs.txt"))
    for name in ("outputs.jsonl", "outputs.txt", "references.txt"):
        shutil.copy(ground.root / "scores" / name, place)
    edited = draw.choice((outputs, "references.txt")) if outputs == "outputs.txt" else outputs
    edit_file(draw, place / edited)
    arguments = ["score", "e2e", "-p", outputs]
    if outputs == "outputs.txt":
        arguments += ["-r", "references.txt"]
    if draw.random() < 0.3:
        arguments.append("--json")
    return Input("score", "score", tuple(arguments), Path(edited))


PARTS = (
    "adapter.safetensors",
    "head.safetensors",
    "state.json",
    "optimizer.safetensors",
    "random.safetensors",
    "progress.json",
)


def _weights(draw: Random, ground: Ground, place: Path) -> Input:
    command = draw.choice(("eval", "eval", "export", "export merged", "predict", "resume", "resume"))
    run = "unfinished" if command == "resume" else "finished"
    shutil.copytree(ground.root / run, place / "run")
    newest = max((place / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name.removeprefix("step-")))
    folder = newest if command == "resume" or draw.random() < 0.15 else place / "run" / "adapter"
    name = draw.choice(("manifest.json", *(PARTS if command == "resume" else PARTS[:3])))
    edit_file(draw, folder / name)
    if name != "manifest.json" and draw.random() < 0.8:
        sign(folder)
    checkpoint = str((newest if folder == newest else place / "run").relative_to(place))
    return _read(ground, command, checkpoint, "adapter", (folder / name).relative_to(place))


def _read(ground: Ground, command: str, run: str, kind: str, edited: Path) -> Input:
    """`command` on the run folder `run`."""
    arguments: Mapping[str, tuple[str, ...]] = {
        "eval": ("eval", "-c", run),
        "export": ("export", "-c", run, "-o", "exported", "--format", "peft"),
        "export merged": ("export", "-c", run, "-o", "exported", "--format", "merged"),
        "predict": ("predict", "-c", run, "--input", str(ground.root / "tables" / "texts.txt"), "-o", "out.jsonl"),
        "resume": ("train", str(ground.root / "unfinished" / "recipe.yaml"), "-o", "run", "--resume"),
        "overwrite": (
            "train",
            str(ground.root / "finished" / "recipe.yaml"),
            "-o",
            "run",
            "--overwrite",
            *_sets(*SHORT),
        ),
        "seeds": ("train", str(ground.root / "seeds" / "seed-1" / "recipe.yaml"), "-o", "run", "--seeds", "1,2"),
        "ranks": ("ranks", run),
        "ranks --by": ("ranks", run, "--by", "block"),
        "ranks --scores": ("ranks", run, "--scores"),
        "ranks --history": ("ranks", run, "--history"),
        "ranks --json": ("ranks", run, "--json"),
        "ranks --compare": ("ranks", run, "--compare", str(ground.root / "finished")),
        "ranks --plot": ("ranks", run, "--plot", "map.svg"),
        "ranks --plot training": ("ranks", run, "--plot", "training.svg", "--what", "training"),
        "report": ("report", run, "-o", "page.html"),
        "score": ("score", "e2e", "-p", f"{run}/predictions.jsonl"),
    }
    return Input(kind, command, arguments[command], edited)


_LOOKS = ("ranks", "ranks --by", "ranks --scores", "ranks --history", "ranks --json", "ranks --compare", "ranks --plot",
          "ranks --plot training", "report", "report", "report")  # fmt: skip


def _records(draw: Random, ground: Ground, place: Path) -> Input:
    run = draw.choice(("finished", "finished", "finished", "unfinished", "seeds", "generated"))
    shutil.copytree(ground.root / run, place / "run")
    names = ["metrics.json", "ranks.json", "log.jsonl", "environment.json", "recipe.yaml"]
    commands = [*_LOOKS]
    inner = place / "run"
    if run == "finished":
        commands += ["eval", "eval", "export", "predict", "overwrite"]
    elif run == "unfinished":
        commands, names = (
            ["resume", "resume", "ranks --history", "report", "ranks --plot training"],
            ["log.jsonl", "environment.json", "recipe.yaml"],
        )
    elif run == "generated":
        commands, names = ["report", "ranks", "score"], [*names, "predictions.jsonl"]
    else:
        inner = inner / "seed-1"
        commands.append("seeds")
        if draw.random() < 0.1:
            inner, names = place / "run", ["summary.json"]
    path = inner / draw.choice(names)
    command = (
        "score" if path.name == "predictions.jsonl" else draw.choice([name for name in commands if name != "score"])
    )
    if draw.random() < 0.05:
        swap(
            draw, inner / draw.choice(("adapter", "checkpoints", "log.jsonl"))
        ) if run != "seeds" or inner.name == "seed-1" else None
    if path.is_file():
        edit_file(draw, path)
    return _read(ground, command, "run", "run", path.relative_to(place))


def _model(draw: Random, ground: Ground, place: Path) -> Input:
    shutil.copytree(ground.model, place / "model")
    path = draw.choice(
        [path for path in sorted((place / "model").iterdir()) if path.suffix in (".json", ".safetensors")]
    )
    edit_file(draw, path)
    (place / "recipe.yaml").write_text(ground.recipe)
    arguments = ("train", "recipe.yaml", *_sets("model.name=model"))
    edited = path.relative_to(place)
    if path.name == "config.json" and draw.random() < 0.4:
        return Input("model", "train --dry-run", (*arguments, "--dry-run"), edited)
    return Input("model", "train", (*arguments, "-o", "run", *_sets(*SHORT)), edited)


Maker = Callable[[Random, Ground, Path], Input]
MAKERS: tuple[tuple[Maker, int], ...] = (
    (_recipe, 18), (_set, 8), (_table, 18), (_release, 8), (_scores, 14), (_weights, 12), (_records, 16), (_model, 6),
)  # fmt: skip
"""With how often each takes its turn, in a hundred."""


def make(ground: Ground, seed: int, number: int, place: Path) -> Input:
    """Writes input `number` into the empty folder `place`; always the same one for the same `seed`."""
    draw = Random(f"{seed}:{number}")
    makers, weights = zip(*MAKERS, strict=True)
    return draw.choices(makers, weights)[0](draw, ground, place)
