"""Which score tells the truth: trains LoRA's components up to DoRA's freeze, with every score followed on the way, and
measures there what the loss on held-out training examples does without some of them.

    python scripts/score_truth.py --recipe RECIPE [--set KEY=VALUE ...] [--rank 4] [--ratio 1.5,4] [--seeds 1,2,3]
    [--components 200] [--cut 1/3] [--betas 0.9,0.98] [--held-out 0.1] [--batch N] [--precision fp32] [--device auto]
    [--earlier FILE ...] [--json FILE] [--markdown FILE]

Task, model, data and training are the recipe's; of its method, if that is dora, also alpha, dropout, targets, scaling,
warmup_fraction and final_fraction. Scores are averaged over steps once with each of --betas. The method is DoRA with
``start: lora``, ``gates: fixed``, no DEM and one event, the freeze, at which the run ends.
For every ratio of start rank to rank, and every seed, at the freeze and before any cut:

* the change of the loss without each of about 200 random components, and Spearman's rho of it with what every score
  says they are worth: over all, and the mean of those within each projection. `halves` is the rho of the changes on one
  half of the held-out examples with those on the other: what could be told at all;
* the same of the components that a rotation gives, with the squares of their singular values;
* the loss after a cut of the lowest third by each, counting components or (by worth per parameter) parameters, and by
  chance (the mean of several draws).

FILE holds all of it, every removal included, or the mean and the standard deviation over seeds as a table; it is
written anew after every run. The runs of earlier calls, from their JSON, are taken into the tables and not done again:
a call that was stopped goes on with ``--earlier FILE --json FILE``, and calls side by side, of a seed each, come
together in one that names the files of all.

How long it takes is said before the removals of every run: the passes over what is held out, in fp32, are most of it.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from score_measures import Held, HeldOut, agreement, draw, lowest, one_by_one
from torch import nn

from dora_cli.assembly.length import RunLength
from dora_cli.assembly.prepare import Prepared, prepare, prepare_model
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.warm import Warm
from dora_cli.atomic import write_json, write_text
from dora_cli.errors import DivergedError, DoraError
from dora_cli.evaluation.base import silent
from dora_cli.evaluation.passes import directly
from dora_cli.machine.devices import autocast, without_cache
from dora_cli.machine.graphs import Graphs
from dora_cli.machine.ground import take_ground
from dora_cli.machine.signals import StopSignals
from dora_cli.machine.threads import own_threads
from dora_cli.methods.base import Statistic, StepReport
from dora_cli.methods.dora.method import Dora
from dora_cli.methods.low_rank.allocation.budget import BUDGETS
from dora_cli.methods.low_rank.allocation.followed import Followed
from dora_cli.methods.low_rank.allocation.moments import SecondMoments
from dora_cli.methods.low_rank.allocation.rotation import ROTATIONS
from dora_cli.methods.low_rank.allocation.scores import SCORES, follow
from dora_cli.methods.low_rank.allocation.turner import Turner
from dora_cli.methods.low_rank.allocation.values import values
from dora_cli.methods.low_rank.components import Components
from dora_cli.recipe import Recipe, load_recipe
from dora_cli.recipe.methods import arguments
from dora_cli.runs.open_run import OpenRun
from dora_cli.training.capture.passes import FEW, CapturedPasses
from dora_cli.training.listener import SilentListener
from dora_cli.training.loop import Loop
from dora_cli.wording import plural

TURNED = {name: rotation for name, rotation in ROTATIONS.items() if rotation is not None}
CHANCE = "chance"
RHOS = ("overall", "within")
MATMUL = {"fp32": "highest", "tf32": "high"}
"""PyTorch's word for how matrices are multiplied; the rho of the halves tells what rounding leaves."""
DRAWS = 5
"""Cuts by chance that are averaged."""


# -- training ----------------------------------------------------------------------------------------------------------


class WatchedDora(Dora):
    """DoRA until the freeze, with all scores followed and with what all rotations need; at the freeze nothing is cut.

    Args:
        held_out: share of the training split that is kept from training.
        betas: of the averages over steps; scores are called ``NAME, BETA`` if there are several.
        settings: DoRA's, of factors that start as LoRA's and have no gates.
    """

    def __init__(self, *, held_out: float, betas: Sequence[float], **settings: Any) -> None:
        super().__init__(**settings)
        assert not self.gated and not self.dem_weight, "components are LoRA's"
        self.held_out, self.betas = held_out, betas

    def place(self, model: nn.Module) -> None:
        super().place(model)
        adapters = self._adapters
        self._moments_of_inputs = SecondMoments(adapters, self.betas[-1])
        wanted = {name for kind in (*SCORES.values(), self._moments_of_inputs) for name in kind.passes}
        self._all = Followed(adapters, self.sites, wanted)
        self.turners = {name: Turner(rotation, self._moments_of_inputs) for name, rotation in TURNED.items()}
        count = sum(len(group.A) for group in adapters.groups())
        self._averages = {
            (name, beta): adapters.groups()[0].A.new_zeros(count) for name in SCORES for beta in self.betas
        }
        self._taken: dict[str, torch.Tensor] = {}

    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> AbstractContextManager[None]:
        return self._all.training_pass(dtype, masks)

    def statistics(self) -> list[Statistic]:
        return self._all.statistics()

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        seen = self._all.observed()
        self._taken = {name: values(score, seen) for name, score in SCORES.items() if score.staged}
        self._moments_of_inputs.stage(seen)

    @torch.no_grad()
    def observe(self, skipped: torch.Tensor | None = None) -> None:
        seen = self._all.observed()
        for name, score in SCORES.items():
            found = self._taken[name] if score.staged else values(score, seen)
            for beta in self.betas:
                follow(self._averages[name, beta], found, beta, skipped)
        self._taken = {}
        self._moments_of_inputs.observe(skipped)

    def advance(self, step: int) -> StepReport:
        """At the freeze an event that changes nothing but what is computed next: whoever watches looks now."""
        schedule = self.schedule
        assert schedule is not None
        end = step == schedule.freeze_step
        return StepReport(schedule.phase(step), schedule.budget(step), schedule.start_components, end, recapture=end)

    @property
    def components(self) -> list[Components]:
        """All of them, by shape."""
        return self._adapters.groups()

    @property
    def names(self) -> list[str]:
        """The projections in that order, by full path."""
        return list(self._adapters.order)

    def worth(self) -> dict[str, torch.Tensor]:
        """What every component is worth by each score, ``(M, r)``, the projections in the order of `components`."""
        return {
            name if len(self.betas) == 1 else f"{name}, {beta:g}": SCORES[name].worth(average).view(-1, self.start_rank)
            for (name, beta), average in self._averages.items()
        }


class Over(Exception):  # noqa: N818  # the end of a run, no error
    """The run has come to its freeze, and all is measured."""


class AtFreeze(SilentListener):
    """Calls `look` at the freeze and ends the run, whose rest is of no interest."""

    def __init__(self, look: Callable[[int], None]) -> None:
        self._look = look

    def event(self, step: int, phase: str, live: int, frozen: bool, ranks: Mapping[str, int]) -> None:
        self._look(step)
        raise Over


def recipe_of(args: argparse.Namespace, ratio: Fraction, seed: int) -> Recipe:
    """That of one run."""
    wanted = {
        "method.rank": args.rank,
        "method.start_rank": math.ceil(ratio * args.rank),
        "method.start": "lora",
        "method.gates": "fixed",
        "method.events": 1,
        "method.dem_weight": 0,
        "train.seed": seed,
        "train.device": args.device,
        "eval.every": "end",
        "save.every_epoch": "false",
    }
    changes = [f"{key}={value}" for key, value in wanted.items()]
    return load_recipe(args.recipe, ["method.name=dora", *args.overrides, *changes])


def prepared_of(
    recipe: Recipe, held_out: float, betas: Sequence[float], warm: Warm, note: Callable[[str], None]
) -> Prepared:
    """All that the loop needs for a run of `recipe`, as `dora train` has it, but with `WatchedDora`."""
    recipe, task = resolve(recipe)
    ground = take_ground(recipe)
    if ground.processes > 1:
        raise SystemExit("score_truth measures in one process")
    new_method = partial(WatchedDora, held_out=held_out, betas=betas, **arguments(recipe.method))
    data = warm.load_data(recipe, task, held_out=held_out)
    length = RunLength.of(recipe, len(data.training), ground.processes)
    adapted, speed = prepare_model(
        recipe, task, new_method, ground, length, fresh=True, threads=None, fused=None, note=note
    )
    return prepare(recipe, task, data, length, adapted, ground, fresh=True, speed=speed, progress=silent, warm=warm)


@own_threads()
def one_run(args: argparse.Namespace, ratio: Fraction, seed: int, warm: Warm) -> dict[str, Any]:
    """Trains to the freeze and measures there; raises DoraError."""
    began = time.perf_counter()
    recipe = recipe_of(args, ratio, seed)
    found: dict[str, Any] = {"ratio": float(ratio), "seed": seed}
    prepared = prepared_of(recipe, args.held_out, args.betas, warm, lambda message: print(message, file=sys.stderr))

    def look(step: int) -> None:
        found.update(trained_steps=step, train_seconds=time.perf_counter() - began)
        found.update(measured(loop, args, seed))

    # nothing is written, as the run ends before it would be; signals do what they always do
    with tempfile.TemporaryDirectory(prefix="dora-scores-") as folder, OpenRun(Path(folder)) as place:
        loop = Loop(prepared, place, AtFreeze(look), StopSignals(), how_to_resume="start it again")
        with suppress(Over):
            loop.run()
    found["seconds"] = time.perf_counter() - began
    return found


# -- measuring ---------------------------------------------------------------------------------------------------------


def measured(loop: Loop, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What is said of one run at its freeze."""
    prepared, method = loop.prepared, loop.method
    assert isinstance(method, WatchedDora)
    accelerator, data = prepared.ground.accelerator, prepared.calibrator.held_out
    assert data is not None
    # graphs of its own: those of the loop do something else with batches of the same shapes
    graphs = Graphs("a measurement of this model", "set train.cuda_graph: off") if prepared.speed.captured else None
    held_out = HeldOut(
        loop.adapted.model,
        prepared.task.losses,
        data,
        batch_size=args.batch or prepared.recipe.eval.batch_size,
        device=accelerator.device,
        around=(lambda: autocast(accelerator, without_cache())) if args.precision == "train" else nullcontext,
        run=directly if graphs is None else CapturedPasses(graphs, FEW),
    )
    held = Held(method.components, held_out)
    generator = torch.Generator().manual_seed(seed)
    worth = method.worth()
    like = next(iter(worth.values()))
    none, every = torch.zeros_like(like, dtype=torch.bool), torch.ones_like(like, dtype=torch.bool)
    began = time.perf_counter()
    whole, empty = held_out.mean(held.losses_without([none, every])).tolist()
    seconds = (time.perf_counter() - began) / 2
    drawn = draw(*like.shape, args.components, generator)
    passes = len(drawn) * (1 + len(TURNED))
    print(
        f"step {prepared.schedule.freeze_step}: {passes:,} removals, each measured on {held_out.rows:,} held-out "
        f"examples in {seconds:.2g} s: about {passes * seconds / 60:.1f} minutes",
        file=sys.stderr,
    )
    worth_by_chance = [torch.rand(like.shape, generator=generator).to(like) for _ in range(DRAWS)]
    record = {
        "start_rank": method.start_rank,
        "rank": method.rank,
        "projections": method.names,
        "total_steps": prepared.length.total_steps,
        "held_out": held_out.rows,
        "loss": whole,
        "loss_without_all": empty,
        "removals": {},
        "agreement": {},
        "cuts": [],
    }
    bases: list[tuple[str, Callable[[], dict[str, torch.Tensor]]]] = [("trained", lambda: worth)]
    bases += [(name, partial(rotated, name, turner, held)) for name, turner in method.turners.items()]
    for basis, worth_of in bases:
        with held.restored():
            own = worth_of()
            record["removals"][basis], record["agreement"][basis] = removals(held, own, drawn, whole)
            record["cuts"] += [cut for share in args.cut for cut in cuts(held, own, share, whole)]
    record["cuts"] += [cut for share in args.cut for cut in cuts_by_chance(held, worth_by_chance, share, whole)]
    return record


def rotated(name: str, turner: Turner, held: Held) -> dict[str, torch.Tensor]:
    """Rotates all components, in place; what they are worth then."""
    found = torch.cat([turner(group)[0] for group in held.groups])
    return {name: found.view(sum(len(group.layers) for group in held.groups), -1)}


def removals(
    held: Held, worth: Mapping[str, torch.Tensor], drawn: torch.Tensor, whole: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the loss does without each of the components `drawn`, and how well scores tell it."""
    like = next(iter(worth.values()))
    losses = held.losses_without(one_by_one(drawn, like))
    changes = (held.held_out.mean(losses) - whole).tolist()
    projections, places = drawn.T.tolist()
    said = {name: value.cpu()[projections, places].tolist() for name, value in worth.items()}
    found = {
        "projection": projections,
        "place": places,
        "change": changes,
        "halves": losses.T.tolist(),
        "worth": said,
    }
    told = {name: agreement(of_score, changes, projections) for name, of_score in said.items()}
    return found, told | {"halves": agreement(*losses.T.tolist(), projections)}


def cuts(
    held: Held,
    worth: Mapping[str, torch.Tensor],
    share: Fraction,
    whole: float,
    budgets: Sequence[str] = tuple(BUDGETS),
) -> list[dict[str, Any]]:
    """The loss after cutting `share` of what there is, by each score and budget."""
    wanted = [(name, budget) for name in worth for budget in budgets]
    gone = [lowest(worth[name], share, held.costs[budget]) for name, budget in wanted]
    losses = held.held_out.mean(held.losses_without(gone)).tolist()
    paid = torch.tensor(held.costs["parameters"], dtype=torch.float64)
    return [
        {
            "share": str(share),
            "by": name,
            "budget": budget,
            "loss": loss,
            "increase": loss - whole,
            "parameters_left": 1 - float((chosen.sum(1).cpu() * paid).sum() / (paid.sum() * chosen.shape[1])),
        }
        for (name, budget), chosen, loss in zip(wanted, gone, losses, strict=True)
    ]


def cuts_by_chance(held: Held, worth: Sequence[torch.Tensor], share: Fraction, whole: float) -> list[dict[str, Any]]:
    """The mean over several draws, by budget; a dear component is as likely to go as a cheap one."""
    costs = torch.tensor(held.costs["parameters"], device=worth[0].device)[:, None]
    found = []
    for budget in held.costs:
        by_draw = [draw_ * (costs if budget == "parameters" else 1) for draw_ in worth]
        draws = [cut for one in by_draw for cut in cuts(held, {CHANCE: one}, share, whole, [budget])]
        means = {key: statistics.fmean(cut[key] for cut in draws) for key in ("loss", "increase", "parameters_left")}
        found.append({**draws[0], **means, "draws": [cut["loss"] for cut in draws]})
    return found


# -- over seeds --------------------------------------------------------------------------------------------------------


def summaries(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds, for each ratio."""
    found = []
    for ratio in sorted({run["ratio"] for run in runs}):
        of_ratio = [run for run in runs if run["ratio"] == ratio]
        told = [
            {"by": name, "basis": basis}
            | {
                kind: spread([run["agreement"][basis][name][kind] for run in of_ratio])
                for kind in ("overall", "within")
            }
            for basis, scores in of_ratio[0]["agreement"].items()
            for name in scores
        ]
        cut = [
            {key: first[key] for key in ("share", "by", "budget")}
            | {key: spread([run["cuts"][place][key] for run in of_ratio]) for key in ("increase", "parameters_left")}
            for place, first in enumerate(of_ratio[0]["cuts"])
        ]
        plain = {key: spread([run[key] for run in of_ratio]) for key in ("loss", "loss_without_all")}
        change = [spread_of(run["removals"]["trained"]["change"]) for run in of_ratio]
        removal = {
            "median": spread([one["median"] for one in change]),
            "helped": spread([one["helped"] for one in change]),
        }
        measures = {"removal": removal, "agreement": told, "cuts": cut}
        found.append({"ratio": ratio, "runs": len(of_ratio), **plain, **measures})
    return found


def spread(numbers: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and standard deviation of those that there are."""
    there = [number for number in numbers if number is not None]
    return {
        "mean": statistics.fmean(there) if there else None,
        "sd": statistics.stdev(there) if len(there) > 1 else None,
    }


def spread_of(changes: Sequence[float]) -> dict[str, float]:
    """The median change, and the share of removals after which the loss is lower."""
    return {"median": statistics.median(changes), "helped": sum(change < 0 for change in changes) / len(changes)}


def markdown(record: Mapping[str, Any]) -> str:
    """A table for each ratio."""
    return "\n".join(line for summary in record["summaries"] for line in _table(record, summary))


def _table(record: Mapping[str, Any], summary: Mapping[str, Any]) -> list[str]:
    run = next(run for run in record["runs"] if run["ratio"] == summary["ratio"])
    columns = list(dict.fromkeys((cut["share"], cut["budget"]) for cut in summary["cuts"]))
    told = {one["by"]: one for one in summary["agreement"] if one["by"] != "halves"}
    halves = [one | {"by": f"halves, {one['basis']}"} for one in summary["agreement"] if one["by"] == "halves"]
    cut = {(one["by"], one["share"], one["budget"]): one["increase"] for one in summary["cuts"]}
    head = ["score", "rho, all", "rho, within", *(f"cut {share} of {budget}" for share, budget in columns)]
    loss, empty, removal = summary["loss"], summary["loss_without_all"], summary["removal"]
    seeds = plural(summary["runs"], "seed")
    setting = (
        f"{record['task']}, {record['model']}, rank {run['start_rank']} -> {run['rank']}, {len(run['projections'])} "
        f"projections, after {run['trained_steps']:,} of {run['total_steps']:,} steps; {seeds}, "
        f"{run['held_out']:,} held-out examples. Loss {_text(loss, 4)}, without all components {_text(empty, 4)}; "
        f"the median removal changes it by {_text(removal['median'], 6)}, {_text(removal['helped'], 2)} of them for "
        "the better. Cuts: increase of the loss."
    )
    lines = [
        setting,
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
    ]
    for name in [*told, CHANCE]:
        rhos = [_text(told[name][kind], 2) for kind in RHOS] if name in told else ["", ""]
        lines.append(
            f"| {' | '.join([name, *rhos, *(_text(cut[name, share, budget], 4) for share, budget in columns)])} |"
        )
    for one in halves:
        rhos = [_text(one[kind], 2) for kind in RHOS]
        lines.append(f"| {' | '.join([one['by'], *rhos, *('' for _ in columns)])} |")
    return [*lines, ""]


def _text(spread: Mapping[str, float | None], digits: int) -> str:
    mean, sd = spread["mean"], spread["sd"]
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if sd is None else f"{mean:.{digits}f} ± {sd:.{digits}f}"


# -- the command -------------------------------------------------------------------------------------------------------


def listed(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Reads values between commas."""

    def read(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",")]

    return read


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; ends the program where they are wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--ratio", type=listed(Fraction), default=[Fraction("1.5"), Fraction(4)])
    parser.add_argument("--seeds", type=listed(int), default=[1, 2, 3])
    parser.add_argument("--components", type=int, default=200, help="that are removed one by one")
    parser.add_argument("--cut", type=listed(Fraction), default=[Fraction(1, 3)], help="shares that are cut")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of the training split")
    parser.add_argument("--batch", type=int, help="held-out examples at a time; default: eval.batch_size")
    parser.add_argument("--betas", type=listed(float), default=[0.9, 0.98], help="of the averages of scores over steps")
    parser.add_argument("--precision", choices=(*MATMUL, "train"), default="fp32", help="of what is measured")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--earlier", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    for option, file in (("--json", args.json), ("--markdown", args.markdown)):
        if file and not file.absolute().parent.is_dir():
            parser.error(f"{option} {file}: there is no folder {file.absolute().parent}")
    if missing := [str(file) for file in args.earlier if not file.is_file()]:
        parser.error(f"--earlier {missing[0]}: there is no such file")
    if not all(0 < beta < 1 for beta in args.betas):
        parser.error("--betas are above 0 and below 1")
    if any(ratio < 1 for ratio in args.ratio):
        parser.error("--ratio: no start rank is below the rank")
    if not all(0 < share < 1 for share in [*args.cut, args.held_out]):
        parser.error("--cut and --held-out are shares, above 0 and below 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parsed(argv)
    # some machines are set to less than they are asked for, and removals change the loss by 1e-5
    torch.set_float32_matmul_precision(MATMUL.get(args.precision, "highest"))

    def keep(record: Mapping[str, Any]) -> None:
        if args.json:
            write_json(args.json, record)
        if args.markdown:
            write_text(args.markdown, markdown(record))

    try:
        record = experiment(args, keep)
    except DoraError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(markdown(record))
    return 0


def experiment(args: argparse.Namespace, keep: Callable[[Mapping[str, Any]], None] = lambda _: None) -> dict[str, Any]:
    """All runs, one after the other in this process, and what they come to; a run that diverges is left out.

    Args:
        keep: given what there is after every run, and at the end.
    """
    recipe, warm = recipe_of(args, args.ratio[0], args.seeds[0]), Warm()
    if args.precision in MATMUL and recipe.model.dtype != "float32":
        raise SystemExit(
            f"model.dtype is {recipe.model.dtype}, which is too coarse for what is measured; add --set "
            "model.dtype=float32, or --precision train to see it all the same"
        )
    setting = setting_of(args, recipe)
    runs, diverged = earlier_runs(args.earlier, setting)
    done = {(run["ratio"], run["seed"]) for run in [*runs, *diverged]}
    wanted = [(ratio, seed) for ratio in args.ratio for seed in args.seeds if (float(ratio), seed) not in done]

    def record() -> dict[str, Any]:
        ordered = sorted(runs, key=lambda run: (run["ratio"], run["seed"]))
        return {**setting, "summaries": summaries(ordered), "diverged": diverged, "runs": ordered}

    for ratio, seed in wanted:
        try:
            run = one_run(args, ratio, seed, warm)
        except DivergedError as error:
            print(error, file=sys.stderr)
            diverged.append({"ratio": float(ratio), "seed": seed, "message": str(error)})
        else:
            runs.append(run)
            print(
                f"ratio {float(ratio):g}, seed {seed}: {run['train_seconds']:.0f} s to step {run['trained_steps']:,}, "
                f"{run['seconds'] - run['train_seconds']:.0f} s of measuring",
                file=sys.stderr,
            )
        finally:
            # a run is in cycles; its memory on the device is wanted by the next one
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        keep(record())
    if not wanted:
        keep(record())
    return record()


def setting_of(args: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """What runs that stand in one table have in common."""
    return {
        "task": recipe.task,
        "model": Path(recipe.model.name).name,
        "recipe": args.recipe.name,
        "overrides": args.overrides,
        "rank": args.rank,
        "components": args.components,
        "cut": [str(share) for share in args.cut],
        "betas": args.betas,
        "share_held_out": args.held_out,
        "precision": args.precision,
    }


def earlier_runs(
    files: Sequence[Path], setting: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The runs of earlier calls, each once, and those that diverged; ends the program where a setting is another."""
    runs: dict[tuple[float, int], dict[str, Any]] = {}
    diverged: dict[tuple[float, int], dict[str, Any]] = {}
    for file in files:
        record = json.loads(file.read_text(encoding="utf-8"))
        if others := [key for key, value in setting.items() if record.get(key) != value]:
            raise SystemExit(f"--earlier {file}: its runs are of another {', '.join(others)}; leave it out")
        for found, kind in ((runs, "runs"), (diverged, "diverged")):
            found.update({(run["ratio"], run["seed"]): run for run in record[kind]})
    return list(runs.values()), list(diverged.values())


if __name__ == "__main__":
    sys.exit(main())
