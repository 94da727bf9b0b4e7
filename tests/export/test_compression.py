"""The best approximation of bounded rank, held against a singular value decomposition of the whole update."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dora_cli import save_adapter
from dora_cli.errors import ExportError
from dora_cli.export import markdown, saved
from dora_cli.export.compression import compress, describe_compression
from dora_cli.export.factors import Size
from dora_cli.export.saved import export_saved
from dora_cli.methods import Melora
from dora_cli.methods.base import LoraFactors
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.methods.melora import MeloraMethod
from tests.export.conftest import CLASSIFIER, GetRun, config_of, restored
from tests.export.test_subject import trained
from tests.methods.small import sites

NAME = "bert, regression"


def factors(rank: int, d_in: int = 12, d_out: int = 20, seed: int = 0) -> LoraFactors:
    generator = torch.Generator().manual_seed(seed)
    return LoraFactors(torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator))


def product(one: LoraFactors) -> torch.Tensor:
    return one.B.double() @ one.A.double()


def best(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, float]:
    """The nearest matrix of `rank`, and the norm of the difference."""
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return (U[:, :rank] * S[:rank]) @ Vh[:rank], float(S[rank:].norm())


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("held", [9, 15], ids=["thin", "more components than the weight has columns"])
def test_it_is_the_nearest_of_its_rank(held: int, rank: int) -> None:
    before = factors(held)
    after, found = compress({"p": before}, rank)
    wanted, missing = best(product(before), rank)
    torch.testing.assert_close(product(after["p"]), wanted, rtol=0, atol=1e-5)
    assert float((product(before) - product(after["p"])).norm()) == pytest.approx(missing, rel=1e-6)
    assert found.error == found.worst == pytest.approx(missing / float(product(before).norm()), rel=1e-12)
    assert (after["p"].rank, found.cut, found.worst_projection) == (rank, 1, "p")
    assert found.before == Size(held, held * 32)
    torch.testing.assert_close(after["p"].A.norm(dim=1), after["p"].B.norm(dim=0))


def test_the_bound_holds_for_each_and_the_error_is_of_all_together() -> None:
    before = {"a": factors(2), "b": factors(6, seed=1), "c": factors(5, seed=2), "d": factors(3, seed=3)}
    after, found = compress(before, 3)
    assert [one.rank for one in after.values()] == [2, 3, 3, 3]
    assert after["a"] is before["a"]
    assert after["d"] is before["d"]
    missing = {name: best(product(one), 3)[1] for name, one in before.items()}
    shares = {name: missing[name] / float(product(one).norm()) for name, one in before.items() if missing[name] > 1e-9}
    whole = torch.stack([product(one) for one in before.values()])
    kept = torch.stack([product(one) for one in after.values()])
    assert found.error == pytest.approx(float((whole - kept).norm() / whole.norm()), rel=1e-6)
    assert found.cut == len(shares) == 2
    assert found.worst == pytest.approx(max(shares.values()), rel=1e-9)
    assert found.worst_projection == max(shares, key=lambda name: shares[name])


def test_what_is_of_lower_rank_than_its_factors_loses_nothing() -> None:
    one = factors(2)
    doubled = LoraFactors(torch.cat([one.A, one.A]), torch.cat([one.B, 2 * one.B], dim=1))
    nothing = LoraFactors(one.A.repeat(2, 1), torch.zeros(20, 4))
    after, found = compress({"doubled": doubled, "nothing": nothing}, 3)
    assert (after["doubled"].rank, after["nothing"].rank) == (2, 1)
    torch.testing.assert_close(product(after["doubled"]), product(doubled), rtol=0, atol=1e-5)
    assert not product(after["nothing"]).any()
    assert found.error < 1e-12
    assert found.worst < 1e-12


def test_very_small_updates_are_approximated_like_any_other() -> None:
    one = factors(5)
    small = LoraFactors(one.A * 1e-15, one.B * 1e-15)
    after, found = compress({"p": small}, 2)
    assert found.error == pytest.approx(compress({"p": one}, 2)[1].error, rel=1e-5)
    torch.testing.assert_close(product(after["p"]) * 1e30, best(product(one), 2)[0], rtol=0, atol=1e-4)


def test_an_export_holds_it_and_says_how_far_it_is(run_of: GetRun, tmp_path: Path) -> None:
    """DoRA's run: every third projection at rank 0, others above the bound, some at it."""
    run = run_of(NAME, "method.start_rank=4")
    method = restored(run).adapted.method
    ranks = {item.name: item.rank for item in method.allocation() if item.rank}
    assert max(ranks.values()) > 2 >= min(ranks.values())
    done = export_saved(run, tmp_path / "out", compress=2, layout="constant-alpha")
    config, tensors = config_of(tmp_path / "out"), load_file(tmp_path / "out" / "adapter_model.safetensors")
    missing = whole = 0.0
    shares = {}
    for site in method.sites:
        update = method.delta(site, torch.float64)
        if update is None:
            assert site.name not in config["target_modules"]
            continue
        A, B = (tensors[f"base_model.model.{site.name}.lora_{factor}.weight"].double() for factor in "AB")
        assert len(A) == min(ranks[site.name], 2)
        wanted, left = best(update, 2)
        torch.testing.assert_close(config["lora_alpha"] / len(A) * B @ A, wanted, rtol=0, atol=1e-6)
        missing, whole = missing + left**2, whole + float(update.norm()) ** 2
        shares[site.name] = left / float(update.norm())
    found = done.compression
    assert found is not None
    assert found.error == pytest.approx((missing / whole) ** 0.5, rel=1e-5)
    assert (found.worst, found.worst_projection) == (
        pytest.approx(max(shares.values()), rel=1e-5),
        max(shares, key=lambda name: shares[name]),
    )
    assert (found.cut, found.before.components) == (sum(r > 2 for r in ranks.values()), sum(ranks.values()))
    assert done.exact.components == sum(min(rank, 2) for rank in ranks.values())
    # PEFT computes the approximation, which is not what the run does
    assert done.agreement.by is not None
    assert done.agreement.approximated is not None
    assert done.agreement.approximated < 1e-5 < 1e-3 < done.agreement.difference
    record = json.loads((tmp_path / "out" / "dora_export.json").read_text())
    assert record["compression"] == {
        "rank": 2,
        "cut": found.cut,
        "error": found.error,
        "worst": found.worst,
        "worst_projection": found.worst_projection,
        "components": found.before.components,
        "parameters": found.before.parameters,
    }
    assert record["probe"]["approximated"] == done.agreement.approximated
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"{found.error:.3g} over all updates" in card
    assert f"`{found.worst_projection}`" in card
    assert "before they were approximated" in card


def test_a_bound_that_binds_nothing_changes_nothing(run_of: GetRun, tmp_path: Path) -> None:
    run = run_of(NAME)
    plain, bounded = export_saved(run, tmp_path / "plain"), export_saved(run, tmp_path / "bounded", compress=3)
    assert bounded.compression is not None
    assert (bounded.compression.cut, bounded.compression.error) == (0, 0.0)
    assert bounded.agreement == plain.agreement
    for name in ("adapter_model.safetensors", "adapter_config.json", "README.md"):
        assert (tmp_path / "bounded" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_an_export_that_is_not_the_approximation_is_refused(
    run_of: GetRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the approximation explains is no excuse for anything else."""
    balance = saved.balance
    monkeypatch.setattr(saved, "balance", lambda one: LoraFactors(balance(one).A, 1.5 * balance(one).B))
    with pytest.raises(ExportError, match="more than rounding explains"):
        export_saved(run_of(NAME), tmp_path / "out", compress=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [({"compress": 0}, "--compress 0: "), ({"compress": 2, "format": "merged"}, "--compress 2 is for --format peft")],
)
def test_what_it_refuses(options: dict[str, object], says: str, run_of: GetRun, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"^{says}"):
        export_saved(run_of(NAME), tmp_path / "out", **options)  # type: ignore[arg-type]


def test_an_adapter_of_a_loop_of_one_s_own_is_approximated_alike(bases: dict[str, Path], tmp_path: Path) -> None:
    save_adapter(trained(bases["bert"], CLASSIFIER), tmp_path / "saved")
    done = export_saved(tmp_path / "saved", tmp_path / "out", compress=1)
    assert done.largest_rank == 1
    assert done.agreement.approximated is not None
    assert done.agreement.approximated < 1e-5 < done.agreement.difference
    assert describe_compression(done.compression, markdown.code) in (tmp_path / "out" / "README.md").read_text()


def test_a_block_diagonal_update_is_approximated_too(tmp_path: Path) -> None:
    """MELoRA's: each chunk has a rank of its own, and the best of all of them are kept."""
    layer = nn.Linear(12, 8).double()
    method = Melora(**(arguments(MeloraMethod()) | {"minis": 4, "rank": 1, "dropout": 0.0}))
    method.attach(nn.Sequential(layer), sites({"0": layer}))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    after, found = compress(method.to_lora(), 2)
    wanted, missing = best(method.delta(method.sites[0], torch.float64), 2)
    torch.testing.assert_close(product(after["0"]), wanted, rtol=0, atol=1e-5)
    assert found.error == pytest.approx(missing / float(method.delta(method.sites[0], torch.float64).norm()), rel=1e-5)
