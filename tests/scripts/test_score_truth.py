"""Which score tells the truth: that what is measured is so, and that a true score would be told."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from dora_cli import load_recipe, train
from dora_cli.assembly.origin import make
from dora_cli.errors import OutOfMemoryError
from dora_cli.methods.base import Calibration, Method
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.layer import AdaptedProjection

RECIPE = """
task: glue/sst2
model: {name: builtin:tiny-encoder}
data: {source: builtin, max_train_samples: 64, max_eval_samples: 8}
method: {name: dora, warmup_fraction: 0.25, final_fraction: 0.25}
train: {epochs: 1, batch_size: 8, learning_rate: 2.0e-2, threads: 1}
"""
RANK, START_RANK = 2, 3
SEEDS = (1, 2)
SHARE = 0.25
OPTIONS = [
    "--rank",
    "2",
    "--components",
    "20",
    "--held-out",
    str(SHARE),
    "--device",
    "cpu",
    "--batch",
    "20",
    "--betas",
    "0.5,0.9",
]
NAMES = ["published", "norm", "output", "taylor", "fisher", "kfac"]
SCORES = [f"{name}, {beta}" for name in NAMES for beta in (0.5, 0.9)]


@dataclass
class Found:
    """The record of two runs, and what was looked at beside the last."""

    recipe: Path
    record: dict[str, Any] = field(default_factory=dict)
    explicit: list[tuple[int, float]] = field(default_factory=list)
    loss: float = 0.0
    moved: list[str] = field(default_factory=list)
    models: list[weakref.ref[nn.Module]] = field(default_factory=list)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    folder = tmp_path_factory.mktemp("scores")
    found = Found(folder / "recipe.yaml")
    found.recipe.write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "scripts")
        import score_truth

        measured = score_truth.measured

        def looking(loop: Any, args: Any, seed: int) -> dict[str, Any]:
            model = loop.adapted.model
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            record: dict[str, Any] = measured(loop, args, seed)
            after = model.state_dict()
            found.moved = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
            found.loss = loop.prepared.calibrator(Calibration("loss")).loss
            removals = record["removals"]["trained"]
            places = zip(removals["projection"], removals["place"], strict=True) if seed == SEEDS[-1] else ()
            for index, (projection, place) in enumerate(places):
                with Zeroed(model.get_submodule(record["projections"][projection]), place):
                    found.explicit.append((index, loop.prepared.calibrator(Calibration("loss")).loss))
            found.models.append(weakref.ref(model))
            return record

        patch.setattr(score_truth, "measured", looking)
        options = ["--recipe", str(found.recipe), *OPTIONS, "--ratio", "1.5", "--seeds", ",".join(map(str, SEEDS))]
        options += ["--json", str(folder / "found.json"), "--markdown", str(folder / "found.md")]
        assert score_truth.main(options) == 0
        found.record = json.loads((folder / "found.json").read_text(encoding="utf-8"))
        yield found


class Zeroed:
    """Within it a layer has a column of `B` and a row of `A` at zero."""

    def __init__(self, layer: nn.Module, place: int) -> None:
        assert isinstance(layer, AdaptedProjection)
        self._parts = layer.A.data[place], layer.B.data[:, place]

    def __enter__(self) -> None:
        self._kept = [part.clone() for part in self._parts]
        for part in self._parts:
            part.zero_()

    def __exit__(self, *_: object) -> None:
        for part, kept in zip(self._parts, self._kept, strict=True):
            part.copy_(kept)


# -- what is measured --------------------------------------------------------------------------------------------------


def test_removals_are_those_of_zeroed_factors(found: Found) -> None:
    """Against the product's own held-out loss."""
    run = found.record["runs"][-1]
    assert run["loss"] == pytest.approx(found.loss, rel=1e-6)
    changes = run["removals"]["trained"]["change"]
    assert len(changes) == 6 * START_RANK  # all of six projections
    assert len(found.explicit) == len(changes)
    expected, given = [loss - found.loss for _, loss in found.explicit], [changes[index] for index, _ in found.explicit]
    assert max(map(abs, expected)) > 1e-5
    assert given == pytest.approx(expected, abs=1e-6)


def test_measuring_changes_nothing(found: Found) -> None:
    assert found.moved == []


def test_the_run_ends_at_the_freeze_and_is_gone(found: Found) -> None:
    for run in found.record["runs"]:
        assert run["total_steps"] == 48 // 8
        assert run["trained_steps"] == 1 + 3  # of warm-up and of pruning
        assert run["held_out"] == 64 * SHARE
    assert len(found.models) == 2
    gc.collect()
    assert [model() for model in found.models] == [None, None]


@pytest.mark.parametrize("name", ["published", "fisher", "input"])
def test_scores_are_those_that_dora_prunes_by(name: str, found: Found, tmp_path: Path) -> None:
    """The very run by the program's own method, which keeps the scores of the freeze."""
    how = f"method.rotate={name}" if name == "input" else f"method.score={name}"
    fixed = ["rank=2", "start=lora", "gates=fixed", "events=1", "dem_weight=0"]
    recipe = load_recipe(found.recipe, [*(f"method.{key}" for key in fixed), how, "train.device=cpu", "eval.every=end"])

    def holding_out() -> Method:
        method = make(recipe.method)
        method.held_out = SHARE
        return method

    ranks = train(recipe, tmp_path / "run", method=holding_out).ranks
    expected = {layer["name"]: layer["scores"] for layer in ranks["layers"]}
    run = found.record["runs"][0]
    removals = run["removals"]["input" if name == "input" else "trained"]
    for projection, place, worth in zip(
        *(removals[key] for key in ("projection", "place")),
        removals["worth"][name if name == "input" else f"{name}, 0.9"],
        strict=True,
    ):
        assert worth == pytest.approx(expected[run["projections"][projection]][place], rel=1e-5, abs=1e-12)


def test_the_record_holds_every_score_and_every_cut(found: Found) -> None:
    run, (summary,) = found.record["runs"][0], found.record["summaries"]
    assert {basis: list(told) for basis, told in run["agreement"].items()} == {
        "trained": [*SCORES, "halves"],
        "weight": ["weight", "halves"],
        "input": ["input", "halves"],
    }
    told = {(cut["by"], cut["budget"]): cut for cut in run["cuts"]}
    assert len(told) == len(run["cuts"])
    assert set(told) == {
        (by, kind) for by in [*SCORES, "weight", "input", "chance"] for kind in ("components", "parameters")
    }
    for (_, kind), cut in told.items():
        assert cut["increase"] == pytest.approx(cut["loss"] - run["loss"])
        if kind == "parameters":  # to one component of some fifty
            assert 0.6 < cut["parameters_left"] < 2 / 3 + 1e-3
    assert len({cut["parameters_left"] for (_, kind), cut in told.items() if kind == "components"}) > 1
    seeds = [run["agreement"]["trained"]["norm, 0.9"]["overall"] for run in found.record["runs"]]
    of_norm = next(one for one in summary["agreement"] if one["by"] == "norm, 0.9")
    assert of_norm["overall"]["mean"] == pytest.approx(sum(seeds) / 2)
    assert of_norm["overall"]["sd"] == pytest.approx(abs(seeds[0] - seeds[1]) / 2**0.5)


def test_the_table_has_a_row_for_each(found: Found) -> None:
    lines = (found.recipe.parent / "found.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")]
    assert rows == [
        "score",
        *SCORES,
        "weight",
        "input",
        "chance",
        *(f"halves, {b}" for b in ("trained", "weight", "input")),
    ]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


# -- a planted truth ---------------------------------------------------------------------------------------------------


class Rows:
    """Vectors as a split, each of one loss unit."""

    labels = None

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self._x, self._y = x, y
        self.lengths: npt.NDArray[np.int64] = np.ones(len(x), dtype=np.int64)
        self.units = self.lengths
        self.sides, self.max_length, self.pad_multiple = (self.lengths,), 1, 8

    def __len__(self) -> int:
        return len(self._x)

    def padded_to(self, multiple: int) -> Rows:
        return self

    def collate(self, indices: Sequence[int], pad_multiple: int | None = None) -> dict[str, torch.Tensor]:
        return {"x": self._x[list(indices)], "labels": self._y[list(indices)]}


class Answering(nn.Module):
    """Two maps side by side."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, x: torch.Tensor) -> Any:
        return SimpleNamespace(logits=torch.cat([self.one(x), self.two(x)], 1))


def test_rho_of_a_planted_truth_is_1() -> None:
    """Inputs are the unit vectors and targets the answers: the loss without a component is its squared norm, over
    their number.
    """
    from score_measures import Held, HeldOut, agreement, draw, lowest, one_by_one

    d, rank = 6, 4
    torch.manual_seed(5)
    model = Answering(d).double()
    rows = [torch.randn(rank, d, dtype=torch.float64) for _ in range(4)]
    layers = {
        name: AdaptedProjection(getattr(model, name), A, B.T.clone(), scaling=0.5, dropout=0.3)
        for name, A, B in (("one", rows[0], rows[1]), ("two", rows[2], rows[3]))
    }
    groups = Adapters(model, layers).groups()
    x = torch.eye(d, dtype=torch.float64)
    with torch.no_grad():
        y = model.eval()(x).logits
    model.train()

    def loss(outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return (outputs.logits - batch["labels"]).square().sum(1)

    held = Held(groups, HeldOut(model, loss, Rows(x, y), batch_size=4, device=torch.device("cpu")))
    truth = torch.cat([0.25 * group.A.square().sum(1) * group.B_t.square().sum(1) for group in groups]).view(2, rank)
    drawn = draw(2, rank, 8, torch.Generator().manual_seed(1))
    whole = held.losses_without([torch.zeros_like(truth, dtype=torch.bool)])
    torch.testing.assert_close(whole, torch.zeros_like(whole), rtol=0, atol=1e-12)
    changes = held.held_out.mean(held.losses_without(one_by_one(drawn, truth)))
    projections, places = drawn.T.tolist()
    torch.testing.assert_close(changes, truth[projections, places] / d, rtol=1e-10, atol=0)
    told = agreement(truth[projections, places].tolist(), changes.tolist(), projections)
    assert told == {"overall": pytest.approx(1), "within": pytest.approx(1), "projections": 2}
    against = agreement((-truth)[projections, places].tolist(), changes.tolist(), projections)
    assert (against["overall"], against["within"]) == (pytest.approx(-1), pytest.approx(-1))
    assert model.training

    cut = lowest(truth, Fraction(1, 3), [1, 1])
    assert truth[cut].max() < truth[~cut].min()
    assert int(cut.sum()) == 2  # floor(8 / 3)


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_ties_stand_at_their_mean_rank_and_what_is_all_equal_is_left_out() -> None:
    from score_measures import agreement

    told = agreement([1.0, 1.0, 2.0, 5.0, 5.0, 5.0], [3.0, 4.0, 5.0, 1.0, 2.0, 3.0], [0, 0, 0, 1, 1, 1])
    # ranks 1.5, 1.5, 3 with 1, 2, 3: covariance 0.75 over the root of 0.75 x 1
    assert told["within"] == pytest.approx(0.75**0.5)
    assert told["projections"] == 1
    assert agreement([1.0, 1.0], [2.0, 3.0], [0, 0]) == {"overall": None, "within": None, "projections": 0}


@pytest.mark.parametrize(
    ("projections", "rank", "wanted", "each", "count"),
    [(210, 6, 200, 4, 200), (210, 16, 200, 4, 200), (36, 3, 200, 3, 108), (36, 8, 200, 6, 198), (5, 1, 3, 1, 3)],
)
def test_several_components_are_drawn_of_a_projection(
    projections: int, rank: int, wanted: int, each: int, count: int
) -> None:
    from score_measures import draw

    drawn = draw(projections, rank, wanted, torch.Generator().manual_seed(1)).tolist()
    assert len(drawn) == len({tuple(one) for one in drawn}) == count
    of_each = [sum(one[0] == projection for one in drawn) for projection in range(projections)]
    assert set(of_each) <= {0, each}
    assert max(place for _, place in drawn) < rank


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_run_that_diverges_is_left_out_and_earlier_ones_are_taken_in(
    found: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from score_truth import experiment, parsed

    diverging = tmp_path / found.recipe.name
    diverging.write_text(RECIPE.replace("2.0e-2", "1.0e+36"))
    earlier = ["--earlier", str(found.recipe.parent / "found.json")]
    options = ["--recipe", str(diverging), *OPTIONS, "--ratio", "1.5", *earlier]
    kept: list[Mapping[str, Any]] = []
    record = experiment(parsed([*options, "--seeds", "1,2,3"]), kept.append)
    assert kept == [record]
    assert [(run["ratio"], run["seed"]) for run in record["diverged"]] == [(1.5, 3)]  # 1 and 2 are not done again
    assert "diverged" in capsys.readouterr().err
    assert [run["seed"] for run in record["runs"]] == [1, 2]
    assert record["summaries"] == found.record["summaries"]
    with pytest.raises(SystemExit, match=r"found\.json.*rank"):
        experiment(parsed([*options, "--rank", "1"]))


def test_what_earlier_calls_have_is_written_once_and_nothing_is_done(found: Found, tmp_path: Path) -> None:
    from score_truth import main

    file, place = found.recipe.parent / "found.json", tmp_path / "all.json"
    options = ["--recipe", str(found.recipe), *OPTIONS, "--ratio", "1.5", "--seeds", "1,2"]
    models = len(found.models)
    assert main([*options, "--earlier", str(file), "--earlier", str(file), "--json", str(place)]) == 0
    assert json.loads(place.read_text(encoding="utf-8")) == found.record
    assert len(found.models) == models


def test_what_is_done_is_kept_when_a_later_run_fails(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import score_truth

    def failing(args: Any, ratio: Any, seed: int, warm: Any) -> Any:
        if seed == 2:
            raise OutOfMemoryError("no room")
        return found.record["runs"][0]

    monkeypatch.setattr(score_truth, "one_run", failing)
    place = tmp_path / "part.json"
    options = ["--recipe", str(found.recipe), *OPTIONS, "--ratio", "1.5", "--json", str(place)]
    assert score_truth.main([*options, "--seeds", "1,2"]) == OutOfMemoryError.exit_code
    (run,) = json.loads(place.read_text(encoding="utf-8"))["runs"]
    assert run["removals"] == found.record["runs"][0]["removals"]


def test_a_coarse_base_is_refused(found: Found) -> None:
    from score_truth import main

    with pytest.raises(SystemExit, match=r"model\.dtype"):
        main(["--recipe", str(found.recipe), *OPTIONS, "--set", "model.dtype=bfloat16"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "nowhere/at/all.json"), "nowhere/at"),
        (("--earlier", "nowhere/at/all.json"), "--earlier nowhere"),
        (("--ratio", "1.5,0.5"), "--ratio"),
        (("--cut", "1/3,1"), "--cut"),
        (("--held-out", "0"), "--held-out"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from score_truth import parsed

    with pytest.raises(SystemExit) as stop:
        parsed(["--recipe", "recipe.yaml", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_recipe_s_problem_is_said(found: Found, capsys: pytest.CaptureFixture[str]) -> None:
    from score_truth import main

    assert main(["--recipe", str(found.recipe), *OPTIONS, "--set", "train.epochs=0"]) == 2
    assert "train.epochs" in capsys.readouterr().err
