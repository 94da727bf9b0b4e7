"""YAML text to plain values: the scalars, the lines, and everything that is refused."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from yaml.scanner import Scanner

from dora_cli.recipe.document import MAX_DEPTH, MAX_VALUES, read_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),  # text to PyYAML
        ("2.0e-3", 0.002),
        ("1E5", 100000.0),
        ("+1e+2", 100.0),
        ("-.5", -0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("0", 0),
        ("-7", -7),
        ("007", 7),
        ("0x10", 16),
        ("0o17", 15),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),  # YAML 1.1 takes these four for a boolean, a sexagesimal, a date and an integer
        ("1:30", "1:30"),
        ("2024-05-27", "2024-05-27"),
        ("1_000", "1_000"),
        ("'2e-3'", "2e-3"),
        ("cuda:0", "cuda:0"),
        ("!!str 12", "12"),
        ("{'<<': 1}", {"<<": 1}),
        ("!!float 3", 3.0),
        ("[a, 1, [2.5]]", ["a", 1, [2.5]]),
        ("{a: {b: [1]}}", {"a": {"b": [1]}}),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
    ],
)
def test_plain_values(text, value):
    document = read_document(text)
    assert document.problems == []
    assert document.value == value
    assert type(document.value) is type(value)


def test_not_a_number():
    assert math.isnan(read_document(".nan").value)


def test_lines_are_those_of_the_keys():
    document = read_document("a: 1\n\n# comment\nb:\n  c:\n    - x\n    - y\n  d: {e: 2}\n")
    assert document.lines == {
        ("a",): 1,
        ("b",): 4,
        ("b", "c"): 5,
        ("b", "c", 0): 6,
        ("b", "c", 1): 7,
        ("b", "d"): 8,
        ("b", "d", "e"): 8,
    }


def test_duplicate_keys_are_found_at_every_level():
    problems = read_document("a: 1\nb: {c: 1, c: 2}\na: 3\n").problems
    assert [(p.path, p.line) for p in problems] == [(("b", "c"), 2), (("a",), 3)]
    assert problems[1].message == "duplicate key, already given on line 1; keep one of them"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: !!python/object/apply:os.system ['true']", "!!python/object/apply:os.system"),
        (
            "a: !!python/name:os.system ''",
            "the YAML tag !!python/name:os.system is not allowed here; recipes are plain data, remove the tag",
        ),
        ("a: !!binary aGk=", "!!binary"),
        ("a: !!set {b}", "!!set"),
        ("a: !mine 3", "!mine"),
        ("a: !!int x", "!!int"),
        ("a: !!bool maybe", "!!bool"),
        ("a: !!null x", "!!null"),
        ("1: b", "has a key that is not text (1); keys are names, quote this one if it is meant as text"),
        ("true: b", "not text (true)"),
        ("? [a]\n: b", "(a list or mapping)"),
        ("a: {<<: {b: 1}}", "merge keys"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("a: 0x" + "f" * 1025, "1027 digits"),  # which Python reads, and cannot show
    ],
)
def test_values_that_are_refused_leave_the_rest_readable(text, words):
    document = read_document(text)
    assert not document.fatal
    assert len(document.problems) == 1
    assert words in document.problems[0].message
    assert document.problems[0].line is not None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: [1, 2\n", 3, "expected ',' or ']'"),
        ("a: b: c", 1, "put text that holds ': ' in quotes"),
        ("a:\n\tb: 1", 2, "indent with spaces"),
        ("a: 1\n---\nb: 2", 2, "one document"),
        ("a: *b", 1, "undefined alias"),
        ("a: [*.query]", 1, "starts with * in quotes"),
        ("a: @b", 1, "in quotes"),
        ("a: \x00", None, "U+0000"),
        ('a: "\\UFFFFFFFF"', None, "out of range"),
        ("a: 'b", 1, "quoted scalar"),
    ],
)
def test_text_that_is_not_yaml(text, line, words):
    document = read_document(text)
    assert document.fatal
    (problem,) = document.problems
    assert words in problem.message
    assert problem.line == line


def test_alias_bombs_and_loops_are_refused_unread():
    """Whoever read them through would not come back: the suite's limit on a test ends that."""
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))  # 2^60 values
    for text in (bomb, "a: &a [*a]", "a: &a {b: *a}", "[" * 20_000, "{a: " * 5_000, "- " * 5_000):
        document = read_document(text)
        assert document.fatal
        assert "alias" in document.problems[0].message or "nested too deeply" in document.problems[0].message


def test_limits_are_where_they_are_said_to_be():
    assert not read_document("[" + "0, " * (MAX_VALUES - 1) + "]").fatal  # the list itself counts too
    assert read_document("[" + "0, " * MAX_VALUES + "]").fatal
    assert not read_document("[" * MAX_DEPTH + "]" * MAX_DEPTH).fatal
    assert read_document("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2)).fatal


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(alphabet=st.sampled_from(list("ab01:-[]{}&*!|>'\"%@#,.? \n\t\\eUx~")), max_size=40))
def test_no_text_makes_it_raise(text):
    document = read_document(text)
    assert not document.fatal or document.problems


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False) | st.integers() | st.booleans() | st.none())
def test_what_yaml_writes_is_read_as_the_same_value(value):
    read = read_document(yaml.safe_dump(value)).value
    assert read == value
    assert type(read) is type(value)


def test_open_brackets_without_end_cost_nothing(monkeypatch):
    """PyYAML's scanner looks through all that are open at every token: no more are opened than a recipe may have."""
    levels = []
    plain = Scanner.fetch_flow_collection_start
    monkeypatch.setattr(
        Scanner, "fetch_flow_collection_start", lambda self, token: levels.append(self.flow_level) or plain(self, token)
    )
    for text in ("[" * 20_000, "{a: " * 20_000, "? " * 20_000, "- " * 20_000):
        document = read_document(text)
        assert document.fatal
        assert "at most 20 levels" in document.problems[0].message
    assert max(levels) == MAX_DEPTH
