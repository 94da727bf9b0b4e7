"""The whole job beside what a user would run instead: `dora train`, and transformers' Trainer with PEFT's LoRA.

    python scripts/bench_real.py RECIPE [--set KEY=VALUE ...] [--runners dora,dora-processes,peft,peft-compiled]
    [--processes N] [--repeats 3] [--caches warm|cold|both] [--warm-up-steps N] [--output DIR] [--json FILE]
    [--markdown FILE] [--dry-run]

    dora            `dora train RECIPE`, from the command to metrics.json
    dora-processes  the same in N processes of an Nth of the batch each (`--processes N`, without which it is left out)
    peft            bench_real_rival.py: LoRA at the recipe's rank on the same projections, examples, tokenizer, batch
                    size, steps, learning rate and precision, an evaluation and a checkpoint after every epoch, the best
                    one loaded at the end; for a task that generates, `model.generate` for its test set as the recipe
                    decodes it
    peft-compiled   the same with `torch_compile=True`; needs CUDA

Each job is a process of its own; they take turns, each round beginning with another one. `wall_seconds` is from a
process's start to its end, `cpu_seconds` what all its threads computed, `train_seconds` with checkpoints,
`rest_seconds` what is neither training, evaluation nor decoding: imports, reading, loading, tokens, the end.
`examples_per_second` are over training. `host_peak_bytes` is the most memory of the process, of several that of the
largest one, `device_peak_bytes` the most that tensors took on the GPU. Figures are medians over the repeats; `times` is
how many times as long as `dora` the others take. What the rival writes is scored here, when its process is over, by the
scorer of the task; its `loss` is a mean of means of batches.

All jobs have a HOME of their own, in which Triton, PyTorch's compiler, datasets and CUDA keep what they keep. With warm
caches it is kept from one repeat to the next, after a run of each that is not counted (the whole job, or N steps of it;
0 for none); with cold ones each job begins in an empty one. Models stay where they are, and Python's bytecode of
libraries is there in both cases (written by the runs that are not counted). What a job leaves is removed, unless DIR is
given. `--dry-run` prints the commands in their order.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import site
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

RUNNERS = ("dora", "dora-processes", "peft", "peft-compiled")
RIVAL = Path(__file__).with_name("bench_real_rival.py")
SECONDS = ("wall_seconds", "train_seconds", "evaluation_seconds", "decoding_seconds", "rest_seconds", "cpu_seconds")
FIGURES = (*SECONDS, "examples_per_second", "host_peak_bytes", "device_peak_bytes")
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """What all jobs have in common.

    Attributes:
        recipe: as the command line names it.
        changes: ``KEY=VALUE`` of the recipe.
        job: what `bench_real_rival` reads, but for `arguments` that differ between jobs.
        references: of each source that is written about; None where nothing is written.
        examples: in the training split.
        global_batch: examples of a step.
        batch_size: those of a pass.
        steps_per_epoch: the last step of an epoch may hold fewer examples.
        primary: the metric that is shown.
        known: what is said of all jobs in the record.
    """

    recipe: Path
    changes: Sequence[str]
    job: Mapping[str, Any]
    task: Any
    references: Sequence[Sequence[str]] | None
    examples: int
    global_batch: int
    batch_size: int
    steps_per_epoch: int
    primary: str
    known: Mapping[str, Any]

    def seen(self, steps: int) -> int:
        """Examples of so many steps."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self.examples + rest * self.global_batch


@dataclass(frozen=True)
class Job:
    """One process.

    Attributes:
        runner: one of `RUNNERS`.
        caches: ``warm`` or ``cold``.
        number: of the repeat; 0 for one that is not counted.
        folder: where it writes.
        home: where its libraries keep what they keep.
        steps: optimiser steps at most, if not those of the recipe.
        processes: of ``dora-processes``.
    """

    runner: str
    caches: str
    number: int
    folder: Path
    home: Path
    steps: int | None = None
    processes: int = 1

    @property
    def ours(self) -> bool:
        return self.runner.startswith("dora")

    def command(self, setting: Setting) -> list[str]:
        if not self.ours:
            return [sys.executable, str(RIVAL), str(self.folder / "JOB.json")]
        changes = [*setting.changes, *([] if self.steps is None else [f"train.max_steps={self.steps}"])]
        if self.processes > 1:
            changes.append(f"train.batch_size={setting.batch_size // self.processes}")
        words = [part for change in changes for part in ("--set", change)]
        words += ["--processes", str(self.processes)] if self.processes > 1 else []
        run = ["--output", str(self.folder / "run"), "--quiet"]
        return [sys.executable, "-m", "dora_cli", "train", str(setting.recipe), *words, *run]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runners", help=f"a list of {', '.join(RUNNERS)}; without CUDA not the last")
    parser.add_argument("--processes", type=int, metavar="N", help="of dora-processes, which is run beside the others")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--caches", choices=["warm", "cold", "both"], default="warm")
    parser.add_argument("--warm-up-steps", type=int, metavar="N", help="of the runs that are not counted; 0 for none")
    parser.add_argument("--output", type=Path, metavar="DIR", help="keep what the jobs leave here")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    args = parser.parse_args(argv)
    for option, target in (("--json", args.json), ("--markdown", args.markdown)):
        if target and not target.absolute().parent.is_dir():
            parser.error(f"{option} {target}: there is no folder {target.absolute().parent}")
    if args.repeats < 1:
        parser.error(f"--repeats {args.repeats}: there must be one at least")
    from dora_cli.errors import DoraError

    with tempfile.TemporaryDirectory(prefix="dora-bench-") as folder:
        work = (args.output or Path(folder)).absolute()
        try:
            setting = settle(args.recipe, args.overrides, work)
        except (DoraError, OSError) as error:
            parser.error(str(error))
        args.runners = runners(parser, args.runners, args.processes, device=setting.known["device"])
        if args.processes is not None and (args.processes < 2 or setting.batch_size % args.processes):
            parser.error(
                f"--processes {args.processes}: give 2 or more that divide train.batch_size {setting.batch_size}"
            )
        jobs = list(plan(args.runners, args.repeats, args.caches, args.warm_up_steps, work, args.processes or 1))
        if args.dry_run:
            for job in jobs:
                counted = f"repeat {job.number}" if job.number else "not counted"
                print(f"# {job.runner}, {job.caches} caches, {counted}, HOME={job.home}")
                print(shlex.join(job.command(setting)))
            return 0
        record = bench(setting, jobs)
    table = markdown(record)
    print(table)
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if args.markdown:
        args.markdown.write_text(table + "\n", encoding="utf-8")
    return 0


def runners(
    parser: argparse.ArgumentParser, text: str | None, processes: int | None = None, *, device: str
) -> list[str]:
    """Those that are asked for, or all that can run on `device` in so many processes."""
    cuda = device.startswith("cuda")
    cannot = {*(() if cuda else ("peft-compiled",)), *(() if processes else ("dora-processes",))}
    if text is None:
        return [name for name in RUNNERS if name not in cannot]
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in RUNNERS]:
        parser.error(f"--runners names {', '.join(unknown)}; there are {', '.join(RUNNERS)}")
    if "dora-processes" in names and processes is None:
        parser.error("--runners names dora-processes; give --processes N")
    if processes is not None and "dora-processes" not in names:
        parser.error(f"--processes {processes} is of dora-processes, which --runners does not name")
    if "peft-compiled" in names and not cuda:
        parser.error("--runners names peft-compiled, which needs CUDA; leave it out")
    return names


def plan(
    names: Sequence[str], repeats: int, caches: str, warm_up_steps: int | None, work: Path, processes: int = 1
) -> Iterator[Job]:
    """All jobs in their order; the first round of each, which is not counted, fills warm caches."""
    for mode in ("warm", "cold") if caches == "both" else (caches,):
        first = 1 if warm_up_steps == 0 or (mode == "cold" and caches == "both") else 0
        for number in range(first, repeats + 1):
            begin = number % len(names)
            for name in [*names[begin:], *names[:begin]]:
                folder = work / f"{name}-{mode}-{number}"
                home = work / f"{name}-home" if mode == "warm" else folder / "home"
                steps, several = None if number else warm_up_steps, processes if name == "dora-processes" else 1
                yield Job(name, mode, number, folder, home, steps, several)


# -- what both do ------------------------------------------------------------------------------------------------------


def settle(path: Path, changes: Sequence[str], work: Path) -> Setting:
    """What a recipe asks for, in the words of both; writes its examples down for the rival.

    Raises:
        DoraError: the recipe cannot be run, or not by the rival.
    """
    from dora_cli.assembly.build import base_from_config, make_method
    from dora_cli.assembly.data import HELD_OUT, load_data
    from dora_cli.assembly.length import RunLength
    from dora_cli.assembly.origin import sites_of
    from dora_cli.assembly.resolve import resolve, selecting_metric
    from dora_cli.data import group_references
    from dora_cli.machine.devices import resolve_device, resolve_precision
    from dora_cli.models.source import find_source
    from dora_cli.recipe import load_recipe
    from dora_cli.recipe.shipped_recipes import find_recipe

    recipe, task = resolve(load_recipe(find_recipe(path), list(changes)))
    refuse_others(recipe, task)
    method = make_method(recipe)
    data = load_data(recipe, task, held_out=method.held_out)
    length = RunLength.of(recipe, len(data.training), 1)
    device = resolve_device(recipe.train.device)
    precision = resolve_precision(recipe.train.precision, device, recipe.model.dtype)
    base = task.head.outline(recipe.model.name, revision=recipe.model.revision, trust_remote_code=False)
    layout = task.layout(base)
    section: Any = recipe.method
    sites = sites_of(base_from_config(recipe, task), section, method)
    split = task.eval_splits[0] if recipe.eval.held_out is None else HELD_OUT
    dev = data.evaluated[split]
    texts = ["source", "target"] if task.decodes else list(task.text_columns)
    files = {"train": rows_of(data.training, texts), "dev": rows_of(dev, texts)}
    written = None
    if task.decodes:
        assert recipe.decode is not None
        assert recipe.decode.split is not None
        written = group_references(data.evaluated[recipe.decode.split])
        files["test"] = [{"source": source, "target": ""} for source in written.sources]
    places = {}
    for name, rows in files.items():
        places[name] = str(work / "data" / f"{name}.jsonl")
        Path(places[name]).parent.mkdir(parents=True, exist_ok=True)
        Path(places[name]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    primary = selecting_metric(recipe, task)
    train, cuda = recipe.train, device.type == "cuda"
    from bench_real_rival import METRICS

    job = {
        "generates": task.decodes,
        "model": str(find_source(recipe.model.name, recipe.model.revision).location),
        "revision": recipe.model.revision,
        "dtype": recipe.model.dtype,
        "seed": train.seed,
        "files": places,
        "texts": texts,
        "num_labels": None if task.decodes else task.num_labels,
        "metrics": [] if task.decodes else [name for name in task.scores if name in METRICS],
        "max_length": recipe.data.max_length,
        "rank": section.rank,
        "alpha": section.alpha,
        "dropout": section.dropout,
        "targets": [place.name for place in sites],
        "group_by_length": recipe.data.group_by_length,
        "pad_multiple": 8 if cuda else None,
        "arguments": {
            "max_steps": length.total_steps,
            "per_device_train_batch_size": train.batch_size,
            "per_device_eval_batch_size": recipe.eval.batch_size,
            "gradient_accumulation_steps": train.gradient_accumulation,
            "learning_rate": train.learning_rate,
            "weight_decay": train.weight_decay,
            "adam_beta1": train.adam_betas[0],
            "adam_beta2": train.adam_betas[1],
            "adam_epsilon": train.adam_eps,
            "max_grad_norm": train.max_grad_norm or 0.0,
            "label_smoothing_factor": train.label_smoothing,
            "warmup_steps": length.lr_warmup,
            "lr_scheduler_type": "linear",
            "bf16": precision == "bf16",
            "fp16": precision == "fp16",
            "use_cpu": not cuda,
            "logging_steps": train.log_every,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "save_total_limit": recipe.save.keep,
            "load_best_model_at_end": True,
            "metric_for_best_model": "loss" if task.decodes else primary,
            "greater_is_better": not task.lower_is_better("loss" if task.decodes else primary),
            "seed": train.seed,
            "report_to": [],
        },
    }
    if layout is not None:
        assert recipe.decode is not None
        job |= {
            "lead": layout.lead,
            "before": layout.before,
            "separator": layout.separator,
            "decode_batch": recipe.decode.batch_size,
            "decode": {
                "num_beams": recipe.decode.beams,
                "length_penalty": recipe.decode.length_penalty,
                "max_new_tokens": recipe.decode.max_new_tokens,
                "no_repeat_ngram_size": recipe.decode.no_repeat_ngram,
                "eos_token_id": list(layout.stops),
            },
        }
    known = {
        "recipe": str(path),
        "overrides": list(changes),
        "task": task.name,
        "model": Path(recipe.model.name).name if os.sep in recipe.model.name else recipe.model.name,
        "method": recipe.method.name,
        "rank": section.rank,
        "projections": len(sites),
        "device": device_name(device),
        "precision": precision,
        "steps": length.total_steps,
        "batch": length.global_batch,
        "evaluated": len(dev),
        "written": None if written is None else len(written),
    }
    return Setting(
        recipe=path,
        changes=changes,
        job=job,
        task=task,
        references=None if written is None else written.references,
        examples=len(data.training),
        global_batch=length.global_batch,
        batch_size=train.batch_size,
        steps_per_epoch=length.steps_per_epoch,
        primary="bleu" if task.decodes else primary,
        known=known,
    )


def refuse_others(recipe: Any, task: Any) -> None:
    """Raises RecipeError for what the rival's script does not do."""
    from dora_cli.errors import RecipeError

    if any(not hasattr(recipe.method, key) for key in ("rank", "alpha", "dropout", "targets")):
        raise RecipeError(f"method.name: {recipe.method.name} has no rank of its own that LoRA could have; choose lora")
    if task.kind not in ("classification", "regression", "generation"):
        raise RecipeError(f"task: {task.name} is of a kind of its own, which the rival's script does not know")
    if len(task.eval_splits) > 1 and recipe.eval.held_out is None:
        raise RecipeError(f"task: {task.name} is evaluated on several splits; set eval.held_out to have one")
    if recipe.eval.every != "epoch" or recipe.federated is not None or recipe.model.trust_remote_code:
        raise RecipeError(
            "eval.every must be epoch, federated and model.trust_remote_code unset: the rival knows no other"
        )
    if task.decodes:
        base = task.head.outline(recipe.model.name, revision=recipe.model.revision, trust_remote_code=False)
        if task.layout(base).encoder_decoder:
            raise RecipeError(f"model.name: {recipe.model.name} is an encoder-decoder; the rival knows decoders alone")


def rows_of(examples: Any, columns: Sequence[str]) -> list[dict[str, Any]]:
    names = [*columns, *([] if examples.labels is None else ["label"])]
    values = [*examples.texts, *([] if examples.labels is None else [examples.labels])]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def device_name(device: Any) -> str:
    if device.type != "cuda":
        return f"cpu, {os.cpu_count()} cores"
    import torch

    return f"cuda, {torch.cuda.get_device_name(device)}"


# -- the jobs ----------------------------------------------------------------------------------------------------------


def bench(setting: Setting, jobs: Sequence[Job]) -> dict[str, Any]:
    """Runs all of them; raises SystemExit where one fails."""
    found: list[dict[str, Any]] = []
    for at, job in enumerate(jobs, start=1):
        print(f"{at} of {len(jobs)}: {job.runner}, {job.caches} caches", end="", file=sys.stderr, flush=True)
        result = run(setting, job)
        print(f", {result['wall_seconds']:.1f} s", file=sys.stderr, flush=True)
        if job.number:
            found.append({"runner": job.runner, "caches": job.caches, "repeat": job.number, **result})
    there = {(result["runner"], result["caches"]) for result in found}
    kinds = [(runner, caches) for caches in ("warm", "cold") for runner in RUNNERS if (runner, caches) in there]
    summary = {
        f"{runner}, {caches}": summary_of(
            [result for result in found if (result["runner"], result["caches"]) == (runner, caches)]
        )
        for runner, caches in kinds
    }
    for runner, caches in kinds:
        ours = summary.get(f"dora, {caches}")
        its = summary[f"{runner}, {caches}"]
        its["times"] = its["wall_seconds"] / ours["wall_seconds"] if ours else None
    return {**setting.known, "primary": setting.primary, "versions": versions(), "summary": summary, "each": found}


def versions() -> dict[str, str | None]:
    from dora_cli.machine.environment import installed_version

    return {name: installed_version(name) for name in ("torch", "transformers", "peft", "accelerate", "datasets")}


def summary_of(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of the figures, and what is the same in all."""
    figures = {}
    for name in FIGURES:
        values = [result[name] for result in results if result[name] is not None]
        figures[name] = statistics.median(values) if values else None
    last = results[-1]
    same = {key: last[key] for key in ("steps", "examples", "trainable", "metrics")}
    return {**figures, "repeats": len(results), **same}


def run(setting: Setting, job: Job) -> dict[str, Any]:
    """One process from its start to its end, and what came of it."""
    job.folder.mkdir(parents=True)
    job.home.mkdir(parents=True, exist_ok=True)
    (job.folder / "JOB.json").write_text(json.dumps(rivals_job(setting, job)), encoding="utf-8")
    said = job.folder / "said.txt"
    spent = spend(job.command(setting), surroundings(job), said)
    if spent.code:
        tail = said.read_text(errors="replace")[-3000:]
        raise SystemExit(f"{job.runner} ended with exit code {spent.code}:\n{tail}")
    result = (ours if job.ours else theirs)(setting, job)
    known = sum(result[name] or 0.0 for name in ("train_seconds", "evaluation_seconds", "decoding_seconds"))
    return {
        "wall_seconds": spent.wall_seconds,
        "cpu_seconds": spent.cpu_seconds,
        "rest_seconds": spent.wall_seconds - known,
        "host_peak_bytes": spent.peak_bytes,
        "examples_per_second": result["examples"] / result["train_seconds"],
        **result,
    }


class Spent(NamedTuple):
    """What a process took, and its exit code."""

    code: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def spend(command: Sequence[str], environment: Mapping[str, str], said: Path) -> Spent:
    """Runs `command` to its end; what it prints goes to `said`.

    Its peak of memory is never below that of this process, which a system counts to a child before it begins.
    """
    with said.open("w") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)  # it is gone: nobody is to wait for it again
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Spent(process.returncode, wall, usage.ru_utime + usage.ru_stime, peak)


def rivals_job(setting: Setting, job: Job) -> dict[str, Any]:
    changes: dict[str, Any] = {"output_dir": str(job.folder / "run"), "torch_compile": job.runner == "peft-compiled"}
    if job.steps is not None:
        changes["max_steps"] = job.steps
    return {**setting.job, "arguments": {**setting.job["arguments"], **changes}}


def surroundings(job: Job) -> dict[str, str]:
    """The environment of a job, whose home is its own; what is large or secret stays where it is."""
    from huggingface_hub import constants

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    package = str(Path(__file__).resolve().parents[1])
    own = {
        "HOME": "",
        "XDG_CACHE_HOME": ".cache",
        "HF_HOME": ".cache/huggingface",
        "HF_DATASETS_CACHE": ".cache/huggingface/datasets",
        "TRITON_CACHE_DIR": ".triton",
        "TORCHINDUCTOR_CACHE_DIR": ".inductor",
        "CUDA_CACHE_PATH": ".nv",
    }
    kept = {
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "HF_TOKEN_PATH": constants.HF_TOKEN_PATH,
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONPYCACHEPREFIX": str(job.folder.parent / "bytecode"),
    }
    return environment | {name: str(job.home / place) for name, place in own.items()} | kept


def ours(setting: Setting, job: Job) -> dict[str, Any]:
    """What `dora train` came to, from its run folder."""
    metrics = json.loads((job.folder / "run" / "metrics.json").read_text())
    timing = metrics["timing"]
    return {
        "train_seconds": timing["train_seconds"] + timing["saving_seconds"],
        "evaluation_seconds": timing["evaluation_seconds"],
        "decoding_seconds": timing.get("decoding_seconds"),
        "steps": metrics["epochs"][-1]["step"],
        "examples": round(timing["samples_per_second"] * timing["train_seconds"]),
        "trainable": metrics["budget"]["trainable_parameters_start"],
        "metrics": metrics["metrics"],
        "device_peak_bytes": timing["peak_memory_bytes"] if setting.known["device"].startswith("cuda") else None,
    }


def theirs(setting: Setting, job: Job) -> dict[str, Any]:
    """What the rival came to, from its RESULT.json."""
    result = json.loads((job.folder / "RESULT.json").read_text())
    metrics = {name: value for name, value in result["metrics"].items() if name in ("loss", *setting.job["metrics"])}
    if setting.references is not None:
        metrics |= setting.task.score(result["outputs"], setting.references).metrics
    return {
        "train_seconds": result["train_seconds"],
        "evaluation_seconds": result["evaluation_seconds"],
        "decoding_seconds": result.get("decoding_seconds"),
        "steps": result["steps"],
        "examples": setting.seen(result["steps"]),
        "trainable": result["trainable"],
        "metrics": metrics,
        "device_peak_bytes": result.get("device_peak_bytes"),
    }


# -- what is written ---------------------------------------------------------------------------------------------------


def markdown(record: Mapping[str, Any]) -> str:
    """The medians as a table, under a line that says of what."""
    primary = record["primary"]
    header = ["job", *(name.removesuffix("_seconds") + " s" for name in SECONDS), "times", "examples/s", primary]
    header += ["host MiB", "GPU MiB"]
    methods = f"{record['method']} and LoRA of rank {record['rank']}"
    setting = f"{record['task']}, {record['model']}, {methods}, {record['device']}, {record['precision']}"
    lines = [f"{setting}: {record['steps']:,} steps of {record['batch']}", ""]
    lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for name, its in record["summary"].items():
        cells = [_cell(its[key], ".1f") for key in SECONDS]
        cells += [_cell(its["times"], ".2f"), _cell(its["examples_per_second"], ",.0f")]
        cells += [_cell(its["metrics"].get(primary), ".4f")]
        cells += [
            _cell(None if its[key] is None else its[key] / MIB, ",.0f")
            for key in ("host_peak_bytes", "device_peak_bytes")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
