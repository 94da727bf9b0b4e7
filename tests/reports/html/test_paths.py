"""A page that is made to share does not say where things lie on the machine of its author."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from dora_cli.atomic import write_json
from dora_cli.reports.html.groups import find_groups
from dora_cli.reports.html.page import page
from dora_cli.reports.html.paths import shared, shared_yaml, without_places
from dora_cli.runs.reading import read_json
from dora_cli.runs.run_folder import RunRecords
from tests.reports.html.folders import write_run


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/models/roberta-base", "\u2026/roberta-base"),
        ("/home/my name/models/roberta base/", "\u2026/roberta base"),
        ("C:\\Users\\me\\models\\bert", "\u2026/bert"),
        ("file:///data/me/x", "\u2026/x"),
        ("~/models/x", "\u2026/x"),
        ("/", "\u2026"),
        ("FacebookAI/roberta-base", "FacebookAI/roberta-base"),
        ("models/roberta-base", "models/roberta-base"),
        ("builtin:tiny-encoder", "builtin:tiny-encoder"),
        ("[/home/me/a, /home/me/b]", "[\u2026/a, \u2026/b]"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("glue/sst2 and 12 steps/s", "glue/sst2 and 12 steps/s"),
    ],
)
def test_shared(value: str, shown: str) -> None:
    assert shared(value) == shown


def test_paths_within_a_text() -> None:
    assert (
        without_places("trained by python /opt/me/bin/dora on 'x' (/data/me/x.csv)")
        == "trained by python \u2026/dora on 'x' (\u2026/x.csv)"
    )


def test_a_recipe_stays_a_recipe() -> None:
    text = (
        "# from /home/me/recipes/rte.yaml\n"
        'model: {name: "/home/my name/m", dtype: float32}\ndata:\n  path: /data/me/RTE  # here\n'
        "  files: [/data/me/a b.csv, rel/c.csv]\nsave: null\n"
    )
    made = shared_yaml(text)
    assert "me/" not in made
    assert "my name" not in made
    assert yaml.safe_load(made) == {
        "model": {"name": "\u2026/m", "dtype": "float32"},
        "data": {"path": "\u2026/RTE", "files": ["\u2026/a b.csv", "rel/c.csv"]},
        "save": None,
    }
    assert made.count("\n") == text.count("\n")
    assert shared_yaml("a: [1 # /home/me/x") == "a: [1 # \u2026/x", "damaged, but still no place of it"


def test_no_text_of_the_page_has_a_path_of_the_machine(tmp_path: Path) -> None:
    """Wherever it comes from: the folders as they were named, the recipe, the records."""
    home = tmp_path / "home of somebody"
    for seed in (1, 2):
        write_run(home / "runs" / "rte" / f"seed-{seed}", seed=seed, model=str(home / "models" / "my bert"))
    other = write_run(
        home / "runs" / "small", rank=4, model=str(home / "models" / "bert"), extra=f"data: {{path: {home}/glue/RTE}}\n"
    )
    stopped = write_run(home / "stopped", stop=60, model=str(home / "bert"))
    run = RunRecords(other)
    environment = {
        **read_json(run.environment),
        "platform": f"dora train {tmp_path}/x/y.yaml",
        "device": str(home / "cache"),
    }
    write_json(run.environment, environment)
    for folders in ([home / "runs" / "rte"], [home / "runs" / "rte", other, stopped]):
        html = page(find_groups(folders))
        assert "home of somebody" not in html
        assert str(tmp_path) not in html
        assert all(part not in html for part in tmp_path.parts[1:-1] if len(part) > 4)
    assert "rte/seed-1" in html
    assert "\u2026/my bert" in html
