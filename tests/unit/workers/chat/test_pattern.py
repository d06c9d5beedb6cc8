"""Regular expressions as terminals: the same texts fit as with Python's re, anchors and look-ahead included."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.errors import BadRequest
from batch.workers.chat.grammar.schema.shapes import StringRule, Strings
from batch.workers.chat.grammar.strings.string_terminals import StringProbe
from property_examples import examples

PROBE = StringProbe()


def fits(pattern: str, text: str) -> bool:
    return PROBE.fits(StringRule("pattern", pattern, "pattern"), text)


@pytest.mark.parametrize(
    "pattern",
    [
        "", "a", "^a", "a$", "^a$", "^$", "^", "$", "a|^b$", "^a|b$", "(^a|b)c", "a(b$|c)", "^(a|b)*$", "(?=a)", "(?!a)",
        "^(?=.*b)a", "^(?!.*b)a", "a(?!b)", "a(?=b)c|d", "^(?=a)(?=.*c).b", "(?:a(?=b)|c)d|bc", "(^a?)b",
        "[ab]+c?", "[^ab]", "a{2}", "a{2,}", "a{0,2}b", "a{,2}b", ".", r"\w\W", r"\d|\s", r"^\S+$", "a.b", "(?<name>a)b",
        r"\Aab\Z", "x{", "a{b}", "[a-]b", "[-a]", r"[\w-]", r"\.", r"\x61\u0062", "(a(b(c)?)?)?d",
        "^(?!a|b).c$", "^(?!b)..$", "(?!)", "(?=)a",
    ],
)  # fmt: skip
def test_the_same_texts_fit_as_in_python(pattern: str) -> None:
    python = pattern.replace(r"\Z", "$").replace("$", r"\Z").replace("(?<name>", "(?P<name>")
    for length in range(4):
        for at in range(4**length):
            text = "".join("abc d"[at // 4**i % 4] for i in range(length))
            for full in (text, text + "d", "-" + text):
                assert fits(pattern, full) == bool(re.search(python, full)), full


NODES = st.recursive(
    st.sampled_from(["a", "b", "[ab]", "[^a]", ".", "c"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}"])).map(lambda t: f"(?:{t[0]}){t[1]}"),
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})"),
    ),
    max_leaves=5,
)
PARTS = st.one_of(NODES, NODES.map(lambda n: f"(?={n})"), NODES.map(lambda n: f"(?!{n})"))
PATTERNS = st.tuples(
    st.sampled_from(["", "^"]), st.lists(PARTS, min_size=1, max_size=3).map("".join), st.sampled_from(["", r"\Z"])
)


@settings(max_examples=examples(200), deadline=None)
@given(PATTERNS.map("".join), st.lists(st.text("abcd", max_size=5), min_size=5, max_size=5))
def test_any_pattern_fits_what_python_finds_it_in(pattern: str, texts: list[str]) -> None:
    for text in texts:
        assert fits(pattern, text) == bool(re.search(pattern, text)), text


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\p{L}+$", ["äж漢"], ["1"]),
        (r"^\P{L}$", ["1"], ["a"]),
        (r"^[\p{Lu}\d]$", ["Ä", "7"], ["a"]),
        (r"^\p{Script=Greek}$", ["α"], ["a"]),
        (r"^😀$", ["😀"], ["x"]),
        (r"^😀?[é-ü]$", ["😀ö"], ["😀x"]),
        (r"^\cA\0\t$", ["\x01\0\t"], ["A0t"]),
        (r"^[\s\S]$", ["\n", "a"], ["ab"]),
        (r"^/\/-\-$", ["//--"], ["/-"]),
    ],
)
def test_escapes_and_classes(pattern: str, good: list[str], bad: list[str]) -> None:
    assert all(fits(pattern, text) for text in good)
    assert not any(fits(pattern, text) for text in bad)


@pytest.mark.parametrize(
    "pattern",
    [
        "(?<=a)b", "(?<!a)b", r"\bx", r"\Bx", r"(a)\1", r"\k<a>", "(a", "a)", "[a", "[b-a]", "*a", "a{3,2}", r"\p{X",
        r"\p{Nope}", "(?i)a", "(?>a)", r"\u12", r"\ud800", "\\", "(" * 60 + ")" * 60, "a" * 9000,
        "(^a)*$", "a?^b", "a{9999999}", r"\q",
    ],
)  # fmt: skip
def test_what_no_grammar_can_follow_is_refused_with_its_place(pattern: str) -> None:
    with pytest.raises(BadRequest, match=r"^pattern "):
        PROBE.has_any(Strings(rules=(StringRule("pattern", pattern, "pattern"),)))


@pytest.mark.parametrize(
    ("strings", "there_is_one"),
    [
        (Strings(rules=(StringRule("pattern", "^a+$", "p"), StringRule("pattern", "^b+$", "p"))), False),
        (Strings(rules=(StringRule("pattern", "^a+$", "p"), StringRule("pattern", "^[ab]+$", "p"))), True),
        (Strings(rules=(StringRule("pattern", "^a+$", "p"), StringRule("pattern", "a", "p", negated=True))), False),
        (Strings(least=5, rules=(StringRule("pattern", "^a{1,4}$", "p"),)), False),
        (Strings(most=0, excluded=("",)), False),
        (Strings(rules=(StringRule("pattern", "^(?=a)b$", "p"),)), False),
        (Strings(rules=(StringRule("format", "date", "p"), StringRule("pattern", "^9999", "p"))), True),
    ],
)
def test_whether_any_string_is_left(strings: Strings, there_is_one: bool) -> None:
    assert PROBE.has_any(strings) == there_is_one
