"""The door to the terminal: whatever the commands print as plain lines leaves here, and what a terminal would obey
leaves as text.

Names, values and messages come from files that anybody may have written. Two doors let text out, and both use `escape`:
`say` for plain lines, and the consoles of `dora_cli.reports.console` for tables and the live view. A test allows no
other way to print.
"""

from __future__ import annotations

import re
import reprlib
import sys

_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (C0, DEL, C1), line and paragraph separators, what turns the direction of text around, and halves
of surrogate pairs, which no stream takes."""
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
LONGEST_VALUE = 200


def escape(text: str, *, keep: str = "\n\t") -> str:
    r"""`text` with whatever a terminal would obey made visible: ``\x1b``, ``\u202e``. Characters in `keep` stay."""
    if text.isprintable():  # by far the most: nothing of the kind is in it
        return text
    return _UNFIT.sub(lambda found: found[0] if found[0] in keep else _visible(found[0]), text)


def shown(given: object, length: int = LONGEST_VALUE) -> str:
    """What a stranger wrote, for the middle of a message: on one line, cut to `length` characters, nothing in it that
    is obeyed.
    """
    text = given if isinstance(given, str) else reprlib.repr(given)  # lists within lists have no end
    return escape(text if len(text) <= length else text[: length - 3] + "...", keep="")


def is_plain(text: str) -> bool:
    """Whether `text` is one line in which nothing needs to be made visible."""
    return _UNFIT.search(text) is None


def escape_json(text: str) -> str:
    r"""The JSON `text` saying the same with ``\u001b`` for what a terminal would obey, in whose strings alone it can
    stand.
    """
    if text.isprintable():
        return text
    text = text.replace("\r", "\n")  # between values: white space as good as any
    return _UNFIT.sub(lambda found: found[0] if found[0] in "\n\t" else f"\\u{ord(found[0]):04x}", text)


def say(text: str = "", *, err: bool = False, end: str = "\n") -> None:
    """Prints a plain line, or several, to stdout or stderr."""
    print(escape(text), end=end, file=sys.stderr if err else sys.stdout)


def pour(text: str) -> None:
    """Writes a result that was asked for on stdout: to a terminal as `say` does, to a file or another program as it is,
    in UTF-8.
    """
    if sys.stdout.isatty() or not hasattr(sys.stdout, "buffer"):
        say(text, end="")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8"))
    sys.stdout.flush()


def indented(message: str) -> str:
    """`message` with its further lines set in, so that no line of it can pass for one of the program's own."""
    return message.replace("\n", "\n  ")


def _visible(character: str) -> str:
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
