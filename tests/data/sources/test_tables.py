"""Tables that cannot be read: what is wrong, in which line, and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.data.sources.tables import no_examples, read_delimited
from dora_cli.errors import DataError


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "", ": the file is empty; write the examples into it, or copy it again if it was copied"),
        ("a.csv", "label,label\n1,1\n", ": the header names 'label' more than once; rename one"),
        (
            "a.csv",
            'sentence,label\na,1\n"open,0\n',
            (
                ", line 3: cannot be read as csv: unexpected end of data; fix the row that begins there: a quote that "
                "opens is closed, and a quote within a text is written twice"
            ),
        ),
        (
            "a.csv",
            "sentence,label\na,b,1\n",
            (
                ", line 2: 3 fields, expected 2 (sentence, label); fix the line (a text with a comma or a quote stands "
                "in quotes)"
            ),
        ),
        (
            "a.tsv",
            "sentence\tlabel\na\tb\t1\n",
            ", line 2: 3 fields, expected 2 (sentence, label); fix the line (a tsv is not quoted)",
        ),
    ],
)
def test_what_is_damaged(name: str, text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_delimited(path)
    assert str(caught.value) == f"{path}{says}"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"a\.csv: cannot be read: No such file or directory; check that you may read it$"
    ):
        read_delimited(tmp_path / "a.csv")


def test_a_header_alone_is_no_example(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sentence,label\n")
    table = read_delimited(tmp_path / "a.csv")
    assert (table.rows, list(table.columns)) == (0, ["sentence", "label"])
    assert str(no_examples(table.name)).startswith(
        f"{table.name}: the file has no examples; write at least one into it"
    )
