from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from dora_cli.data import Examples, group_references, load_examples
from dora_cli.errors import DataError
from dora_cli.tasks import get_task

REAL = Path(__file__).parents[4] / "shared" / "data" / "e2e"
E2E = get_task("e2e")
real = pytest.mark.skipif(not REAL.is_dir(), reason="the official files are not here")


def load(folder: Path, split: str = "train", **keys: Any) -> Examples:
    return load_examples(E2E.fields, "e2e-csv", split, path=folder, **keys)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_line_ends_outside_and_inside_of_fields(mark: bytes, end: str, tmp_path: Path) -> None:
    rows = ["mr,ref", '"name[A], eatType[pub]","Café ""A"", a pub.\r\n  Cheap"', "name[B],One\u2028B. "]
    (tmp_path / "trainset.csv").write_bytes(mark + "".join(row + end for row in rows).encode())
    assert load(tmp_path) == Examples(
        (["name[A], eatType[pub]", "name[B]"], ['Café "A", a pub.\r\n  Cheap', "One\u2028B. "]), None
    )


def test_the_cleaned_release_has_other_names_and_more_columns(tmp_path: Path) -> None:
    for name in ("train-fixed.no-ol.csv", "devel-fixed.no-ol.csv", "test-fixed.csv"):
        (tmp_path / name).write_text(f'mr,ref,fixed,orig_mr\nname[A],{name},1,"name[A], area[b]"\n')
    for split, name in {
        "train": "train-fixed.no-ol.csv",
        "validation": "devel-fixed.no-ol.csv",
        "test": "test-fixed.csv",
    }.items():
        assert load(tmp_path, split) == Examples((["name[A]"], [name]), None)


def test_the_first_name_that_exists_is_read(tmp_path: Path) -> None:
    (tmp_path / "testset.csv").write_text('MR\n"name[A], area[b]"\nname[B]\n')
    assert load(tmp_path, "test") == Examples((["name[A], area[b]", "name[B]"],), None)
    (tmp_path / "testset_w_refs.csv").write_text('"mr","ref"\nname[A],A.\n')
    assert load(tmp_path, "test") == Examples((["name[A]"], ["A."]), None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"trainset\.csv: .*empty"),
        (b"mr,ref\n", r"trainset\.csv: .*no examples"),
        (b"MR\nname[A]\n", r"trainset\.csv: no column 'ref'; the header has 'MR'\..*set data\.source: files"),
        (b"source,target\nx,y\n", r"trainset\.csv: .*'mr', 'ref'; .*'source', 'target'"),
        (b"mr;ref\nname[A];A.\n", r"trainset\.csv: .*semicolons"),
        (
            b'mr,ref\nname[A],"two\nlines"\nname[B],\n',
            (r"trainset\.csv, line 4: column 'ref' is empty"),
        ),
        (b"mr,ref\n \t,A.\n", r"trainset\.csv, line 2: column 'mr' is empty"),
        (b"mr,ref\nname[A],A.,x\n", r"trainset\.csv, line 2: 3 fields, expected 2 \(mr, ref\)"),
        (b'mr,ref\nname[A],A.\nname[B],"open\n', r"trainset\.csv, line 3: .*csv"),
        (b"mr,ref\nname[A],A.\nname[B],caf\xe9\n", r"trainset\.csv, line 3: not UTF-8"),
    ],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "trainset.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_wrong_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"^data\.path: .*data\.source e2e-csv .*'trainset\.csv'",
    ):
        load(tmp_path / "absent")
    (tmp_path / "train.csv").touch()
    with pytest.raises(
        DataError,
        match=r"^data\.path: .*'trainset\.csv' or 'train-fixed\.no-ol\.csv' .* e2e; .*'train\.csv'$",
    ):
        load(tmp_path)


@real
@pytest.mark.parametrize(("split", "sources"), [("train", 4862), ("validation", 547), ("test", 630)])
def test_the_official_files(split: str, sources: int) -> None:
    begun = time.process_time()
    examples = load(REAL, split)
    assert time.process_time() - begun < 1.0
    assert len(examples) == E2E.splits[split]
    groups = group_references(examples)
    assert len(groups) == sources
    assert sum(map(len, groups.references)) == len(examples)
    # Line breaks within a reference are part of it.
    broken = [row for row, text in enumerate(examples.texts[1]) if "\n" in text]
    assert broken == ([15764, 32409] if split == "train" else [])
    assert not any("\n" in text for text in examples.texts[0])


@real
def test_a_sample_of_the_official_test_set_keeps_all_references() -> None:
    whole = group_references(load(REAL, "test"))
    part = group_references(load(REAL, "test", max_samples=20))
    assert len(part) == 20
    assert part.references == [whole.references[whole.sources.index(source)] for source in part.sources]
    assert len(load(REAL, "train", max_samples=20)) == 20
