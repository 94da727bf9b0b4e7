"""Elements: everything that is not markup is escaped."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from dora_cli.reports.html.elements import Markup, join, needed, table, tag, text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a < b & \"c\" 'd'", "a &lt; b &amp; &quot;c&quot; &#x27;d&#x27;"),
        (Markup("<b>x</b>"), "<b>x</b>"),
        (3, "3"),
        ("a\nb\tc", "a\nb\tc"),
        ("nul \0 bell \x07", "nul \ufffd bell \ufffd"),
        ("lone \ud800", "lone \ufffd"),  # could not be encoded
        ("turned \u202eknird", "turned \ufffdknird"),
        ("Ünïcode 模型", "Ünïcode 模型"),
    ],
)
def test_text(value: object, shown: str) -> None:
    assert text(value) == shown


def test_tag() -> None:
    assert tag("p", "1 < 2", None, tag("b", "x"), class_="a", data_tip='"', hidden=True, title=None, open=False) == (
        '<p class="a" data-tip="&quot;" hidden>1 &lt; 2<b>x</b></p>'
    )
    assert tag("rect", width=1) == '<rect width="1"/>'
    assert join(["<", Markup("<br>")], "&") == "&lt;&amp;<br>"
    assert tag("meta", name="viewport") == '<meta name="viewport"/>'


def test_a_table_has_heads_of_rows_and_columns() -> None:
    made = table(["", "a<b"], [["one", 1]], foot=[["all", 2]]).markup
    assert '<th scope="col">a&lt;b</th>' in made
    assert '<th scope="row" class="short">one</th><td data-label="a&lt;b">1</td>' in made
    assert "<tfoot><tr>" in made


def test_a_table_knows_the_room_it_needs() -> None:
    """A column is as wide as its longest cell or the longest word of its head; what is longer than a line is broken."""
    narrow = needed(["", "steps"], [["a", "1"]])
    assert needed(["", "steps"], [["a", "1,000,000"]]) > narrow
    assert needed(["", "steps per second"], [["a", "1"]]) < narrow + 20
    assert needed(["", "steps"], [["a", tag("b", "1")]]) == narrow
    assert needed(["", "steps"], [["a", "x" * 900]]) == needed(["", "steps"], [["a", "x" * 90]])
    made = table(["", "steps"], [["a", "1"]])
    assert made.need >= narrow
    assert f"from-{made.need}" in made.markup


@pytest.mark.parametrize(
    "hostile",
    ['"><script>alert(1)</script>', "</title><img src=x onerror=alert(1)>", "' onload='alert(1)", "<!--", "]]>"],
)
def test_hostile_text_stays_text(hostile: str) -> None:
    seen: list[tuple[str, str]] = []

    class Reader(HTMLParser):
        def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
            seen.append(("tag", name))
            seen.extend((key, value or "") for key, value in attributes)

        def handle_data(self, data: str) -> None:
            seen.append(("text", data))

    reader = Reader(convert_charrefs=True)
    reader.feed(tag("p", hostile, title=hostile))
    reader.close()
    assert [entry for entry in seen if entry[0] != "text"] == [("tag", "p"), ("title", hostile)]
    assert "".join(value for kind, value in seen if kind == "text") == hostile
