"""What leaves by the door to the terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest
from rich.table import Table
from rich.text import Text

from dora_cli.printable import escape, escape_json, indented, is_plain, pour, say, shown
from dora_cli.reports.console import make_console

OBEYED = [
    *map(chr, (*range(0x20), 0x7F, *range(0x80, 0xA0))), "\u2028", "\u2029",
    *map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))),
    "\ud800", "\udfff",
]  # fmt: skip


def test_what_is_obeyed_becomes_text() -> None:
    for character in OBEYED:
        assert not is_plain(f"a{character}b")
        out = escape(f"a{character}b", keep="")
        assert out.isprintable(), ascii(character)
        assert out.encode()
        assert out.encode().decode("unicode_escape") == f"a{character}b", "it says which character stood there"
        assert escape(out, keep="") == out


def test_what_is_written_stays() -> None:
    """Umlauts, the joiner within an emoji, Arabic and a no-break space are text."""
    text = "na\u00efve \U0001f469\u200d\U0001f52c \u0633\u0644\u0627\u0645 5\u00a0MB"
    assert escape(text) == shown(text) == text
    assert is_plain(text)
    assert escape("a\tb\nc\rd") == "a\tb\nc\\rd"


def test_a_value_in_a_message_is_one_short_line() -> None:
    assert shown("a\nb") == r"a\nb"
    assert shown("x" * 300) == "x" * 197 + "..."
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert len(shown(deep)) < 200
    assert shown(None) == "None"


def test_json_says_the_same() -> None:
    for character in set(OBEYED) - set("\n\t\r"):
        record = {f"k{character}": [f"v{character}", "\u00e9\U0001f600"]}
        text = escape_json(json.dumps(record, ensure_ascii=False))
        assert text.isprintable(), ascii(character)
        assert "\u00e9\U0001f600" in text
        assert json.loads(text) == record


def test_json_of_another_system_keeps_its_lines() -> None:
    assert json.loads(escape_json('{\r\n"a": 1}\r\n')) == {"a": 1}


def test_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2J\nb")
    say("c\x9b31m", err=True, end="")
    assert capsys.readouterr() == ("a\\x1b[2J\nb\n", "c\\x9b31m")
    assert indented("a\nb\nc") == "a\n  b\n  c"


def test_a_result_is_whole_for_a_program_and_harmless_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream(io.TextIOWrapper):
        terminal = False

        def isatty(self) -> bool:
            return self.terminal

    for terminal, expected in ((False, b"\x1bc\t\xc3\xa9\n"), (True, b"\\x1bc\t\xc3\xa9\n")):
        stream = Stream(io.BytesIO(), encoding="utf-8")
        stream.terminal = terminal
        monkeypatch.setattr(sys, "stdout", stream)
        pour("\x1bc\t\u00e9\n")
        assert stream.buffer.getvalue() == expected  # type: ignore[attr-defined]


def _renderables(text: str) -> Iterator[object]:
    yield text
    yield Text(text, style="bold")
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    table.add_row(Text(text))
    yield table


@pytest.mark.parametrize(
    "text", ["a\x1b]0;x\x07b", "\x9b31m", "\u202eabc", "[red]x[/red]", "[link=http://x]y[/link]", ":smile:", "[/]"]
)
def test_no_text_is_obeyed_by_the_console(text: str) -> None:
    file = io.StringIO()
    console = make_console(file)
    for renderable in _renderables(text):
        console.print(renderable)
    out = file.getvalue()
    assert escape(out) == out
    if is_plain(text):
        assert out.count(text) == 7


def test_the_consoles_own_colours_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    console = make_console(file)
    console.print(Text("a\x1b[2J", style="bold"))
    assert file.getvalue() == "\x1b[1ma\\x1b[2J\x1b[0m\n"
