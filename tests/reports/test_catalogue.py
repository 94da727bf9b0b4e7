"""The lists of tasks, models and methods, at the widths of terminals."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dora_cli.models import model_catalogue
from dora_cli.recipe.methods import method_catalogue
from dora_cli.reports.catalogue import print_methods, print_models, print_tasks
from dora_cli.tasks import task_catalogue


def shown(printer, what, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    printer(console, what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_tasks_at_80_columns() -> None:
    lines = shown(print_tasks, task_catalogue(), 80).splitlines()
    rows = [line.rstrip() for line in lines]
    assert rows[0] == "task       kind               metrics                 train  validation     test"
    assert "glue/cola  1 text, 2 labels   matthews_correlation    8,551       1,043    1,063" in rows
    assert "glue/stsb  2 texts, a number  pearson, spearmanr      5,749       1,500    1,379" in rows
    mnli = next(index for index, row in enumerate(rows) if row.startswith("glue/mnli"))
    assert rows[mnli].split() == ["glue/mnli", "2", "texts,", "3", "labels", "accuracy,", "392,702", "9,815", "9,796"]
    assert rows[mnli + 1].split() == ["accuracy_matched,", "9,832", "9,847"]
    assert "regression of your own data: 1 or 2 texts, a number; pearson, spearmanr, rmse" in rows
    assert "  glue/*: hub, glue-tsv, files, builtin" in rows
    assert "  e2e: hub, e2e-csv, files, builtin" in rows
    assert max(map(len, rows[: rows.index("")])) == 80


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_every_name_is_there_at_any_width(width: int) -> None:
    text = "".join(shown(print_tasks, task_catalogue(), width).split())
    assert all(task["name"] in text for task in task_catalogue()) or width < 80
    catalogue = model_catalogue()
    text = shown(print_models, catalogue, width)
    assert max(map(len, (line.rstrip() for line in text.splitlines()))) <= width
    for model in catalogue["builtin"] if width >= 80 else ():
        assert f"  {model['name']} " in text
    for family in catalogue["families"] if width >= 80 else ():
        assert all(f" {name}" in text for name in family["model_types"])
        assert all(f" {name}" in text for name in (*family["examples"], *family["attention"], *family["ffn"]))


def test_families_at_80_columns() -> None:
    lines = [line.rstrip() for line in shown(print_models, model_catalogue(), 80).splitlines()]
    start = lines.index("  gpt2")
    assert lines[start : start + 4] == [
        "  gpt2",
        "    for example openai-community/gpt2, openai-community/gpt2-medium",
        "    attention   attn.c_attn, attn.c_proj",
        "    FFN         mlp.c_fc, mlp.c_proj",
    ]
    assert "Decoders, for glue/* and e2e, whose projections are tested" in lines
    assert "  builtin:tiny-encoder  encoder (roberta)          372,048  1.4 MiB" in lines


@pytest.mark.parametrize("width", [40, 80, 120])
def test_methods(width: int) -> None:
    lines = [line.rstrip() for line in shown(print_methods, method_catalogue(), width).splitlines()]
    assert max(map(len, lines[:-1])) <= width
    assert lines[-1].startswith("A recipe whose method.name is left out gets dora.")
    (start,) = [number for number, line in enumerate(lines) if line.startswith("lora  ")]
    assert any(line.endswith("arXiv 2106.09685") for line in lines[start:]) or width < 80
    assert "  ranks       pruned while training goes on" in lines[:start] or width < 80
    others = [method["name"] for method in method_catalogue() if not method["lora"]]
    assert "head" in others
    assert lines[start:].count("  plain LoRA  no") == len(others)
    assert lines.count("  federated   yes") == sum(method["federated"] for method in method_catalogue())


def test_what_a_method_does_not_say_is_left_out() -> None:
    silent = {**method_catalogue()[0], "title": "dora", "paper": "", "adapts": "", "ranks": None, "mergeable": None,
              "lora": None, "federated": False}  # fmt: skip
    lines = [line.split()[0] for line in shown(print_methods, [silent], 400).splitlines() if line]
    assert lines == ["dora", "what", "keys", "A"]
