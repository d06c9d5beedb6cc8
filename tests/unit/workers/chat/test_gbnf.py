"""GBNF grammars mean here what they mean to llama.cpp, at a cost that has a bound."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batch.errors import BadRequest
from batch.payloads.chat import GenerationParams
from batch.workers.llama.library import clear_errors, lib
from grammar_setup import builder, matcher, takes, tiny_model
from property_examples import examples


def taken(gbnf: str, text: str, *, whole: bool = True) -> bool:
    return takes(builder().for_completion(GenerationParams(grammar=gbnf)), text, whole=whole)


def is_read_by_llama(gbnf: str) -> bool:
    """Whether llama.cpp takes the grammar: it refuses those that begin with themselves."""
    clear_errors()
    sampler = lib.llama_sampler_init_grammar(tiny_model().vocab, gbnf.encode(), b"root")
    if sampler:
        lib.llama_sampler_free(sampler)
    return bool(sampler)


def taken_by_llama(gbnf: str, text: str) -> bool:
    """What llama.cpp's own grammar says. Only for grammars that are no bombs."""
    model = tiny_model()
    clear_errors()
    sampler = lib.llama_sampler_init_grammar(model.vocab, gbnf.encode(), b"root")
    assert sampler
    one = lib.llama_token_data()
    row = lib.llama_token_data_array(lib.ctypes.pointer(one), 1, -1, False)
    try:
        for token in [*model.tokenize(text, parse_special=False), min(model.end_tokens)]:
            one.id, one.logit, one.p = token, 1.0, 0.0
            lib.llama_sampler_apply(sampler, lib.ctypes.byref(row))
            if one.logit < -1e30:
                return False
            if token not in model.end_tokens:
                lib.llama_sampler_accept(sampler, token)
        return True
    finally:
        lib.llama_sampler_free(sampler)


@pytest.mark.parametrize(
    ("gbnf", "good", "bad"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "ye", "yesno"]),
        ('root ::= "a" "bd" | "abc"', ["abd", "abc"], ["ab", "abcd"]),
        ('root ::= [a-z]+ "end"', ["xend", "endend"], ["end", "xen"]),
        ('root ::= item ("," item)*\nitem ::= [0-9]{1,3}', ["1", "12,345"], ["", "1234", "1,"]),
        ('root ::= expr\nexpr ::= expr "+" term | term\nterm ::= "(" expr ")" | [0-9]', ["1", "1+2+(3)"], ["1+", "()"]),
        ("root ::= [^\"a]* . # a comment\n", ["xyz", "xa"], ["", "ax"]),
        ('root ::= (\n  "a"\n  | "b" # one of both\n)\n\nother ::= "c"', ["a", "b"], ["c"]),
        ('root ::= "\\x41\\u00e9\\U0001F600\\t\\"\\\\"', ['Aé😀\t"\\'], ["A"]),
        ("root ::= [\\]a-c\\x2d]", ["]", "b", "-"], ["d", "\\"]),
        ('root ::= "a"{2} "b"{0,2} "c"{1,}', ["aac", "aabbcc"], ["ac", "aabbbc"]),
        ('root ::= ws "x"\nws ::= | " " ws', ["x", "   x"], [" "]),
        ('root ::= ("a" | "b")* "a" ("a" | "b"){3}', ["abbb", "bbaaaa"], ["bbbb"]),
        ('root ::= "" | "a"', ["", "a"], ["b"]),
        ('root ::= r2 "z"\nr2 ::= r1 r1\nr1 ::= "a"?', ["z", "aaz"], ["aaaz"]),
    ],
)  # fmt: skip
def test_a_grammar_lets_through_what_llama_cpp_lets_through(gbnf: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        assert taken(gbnf, text), text
    for text in bad:
        assert not taken(gbnf, text), text
    if "expr ::= expr" not in gbnf:  # which llama.cpp refuses
        assert all(taken_by_llama(gbnf, text) for text in good) and not any(taken_by_llama(gbnf, text) for text in bad)


ITEMS = st.recursive(
    st.sampled_from(['"a"', '"ab"', "[ab]", "[^a]", "r1", '"b"']),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{0,2}"])).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(" ".join).map("({})".format),
        st.lists(inner, min_size=2, max_size=2).map(" | ".join).map("({})".format),
    ),
    max_leaves=4,
)


@settings(max_examples=examples(150), deadline=None)
@given(ITEMS, ITEMS, st.lists(st.text("abc", max_size=6), min_size=6, max_size=6))
def test_any_small_grammar_means_what_it_means_to_llama_cpp(first: str, second: str, texts: list[str]) -> None:
    gbnf = f'root ::= {first} "c"?\nr1 ::= "c" {second.replace("r1", "[bc]")}'
    assume(is_read_by_llama(gbnf))
    for text in texts:
        assert taken(gbnf, text) == taken_by_llama(gbnf, text), text


def test_tokens_can_be_named() -> None:
    model = tiny_model()
    marker = model.tokenize("<|channel>", parse_special=True)[0]
    assert taken(f'root ::= <[{marker}]> "x"', "<|channel>x")
    assert taken('root ::= <|channel> "x"', "<|channel>x")
    assert taken('root ::= "<|channel>" "x"', "<|channel>x")
    assert taken('root ::= !<|channel> "x"', "ax") and not taken('root ::= !<|channel> "x"', "<|channel>x")
    with pytest.raises(BadRequest, match=r"grammar names '<nothing>'"):
        taken("root ::= <nothing>", "x")


@pytest.mark.parametrize(
    "gbnf",
    [
        "root ::= ((", "nothing", 'root ::= "a', "root ::= [a", 'root ::= ("a"', "root ::= other", 'other ::= "a"',
        'root ::= "a"{3,2}',
        'root ::= "a"{2001}', "root ::= * ", 'root ::= "\\q"', 'root ::= "a" )', "root = x", "root ::= <1", 'root ::= "a"{x}',
        "\0",
        'root ::= "\\x4"', "root ::= " + "(" * 100_000 + '"a"' + ")" * 100_000, "root ::= " + '"a" ' * 400_000,
    ],
)  # fmt: skip
def test_a_broken_grammar_is_a_bad_request_that_names_the_field(gbnf: str) -> None:
    with pytest.raises(BadRequest, match=r"^grammar ") as caught:
        taken(gbnf, "")
    assert len(caught.value.message) < 300


DOUBLING = 'root ::= r28 "z"\n' + "".join(f"r{i} ::= r{i - 1} r{i - 1}\n" for i in range(28, 0, -1)) + 'r0 ::= "a"?\n'
BOMBS = {
    "447 bytes": DOUBLING,
    "optional 5,000 times": "root ::= " + '"a"? ' * 5000,
    "optional 20,000 times": "root ::= " + '"a"? ' * 20_000,
    "repeated": "root ::= ((((" + "[a-z]?" + "{1000}) {1000}) {1000}) {1000})",
    "every way to split": 'root ::= (("a" | "aa" | "aaa")* "b"?)*',
    "nullable of nullable": "root ::= " + "(" * 60 + '"a"?' + ")*" * 60,
    "right recursion": 'root ::= "a" root | "b" root | root "c" | ""',
    "every rule every rule": "".join(
        f"r{i} ::= " + " | ".join(f'"a" r{j}' for j in range(70)) + ' | "b"\n' for i in range(70)
    ) + "root ::= r0 r1\n",
    "many rules": "root ::= r0\n" + "".join(f'r{i} ::= "a" r{i + 1}\n' for i in range(2400)) + 'r2400 ::= "b"\n',
    "long alternatives": "root ::= (" + " | ".join(f'"{i}a" .*' for i in range(3000)) + ")*",
}  # fmt: skip


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) if kind == "repeated" else kind for kind in BOMBS])
def test_a_bomb_is_followed_or_refused_within_a_bound(kind: str) -> None:
    start = time.process_time()
    with contextlib.suppress(BadRequest):
        follower = matcher(builder().for_completion(GenerationParams(grammar=BOMBS[kind])))
        for token in tiny_model().tokenize("aa" * 20 + "z", parse_special=False):
            step = time.process_time()
            if follower.allows(token):
                follower.accept(token)
                follower.mask()
            assert time.process_time() - step < 10
    assert time.process_time() - start < 60


def test_the_447_bytes_that_stopped_the_port_are_followed_like_any_grammar() -> None:
    assert len(DOUBLING) < 600
    assert taken(DOUBLING, "aaz") and taken(DOUBLING, "z") and not taken(DOUBLING, "aab", whole=False)


def test_the_grammars_that_llama_cpp_ships_can_be_read(llama_cpp_source: Path) -> None:
    grammars = sorted((llama_cpp_source / "grammars").glob("*.gbnf"))
    assert len(grammars) >= 6
    for path in grammars:
        builder().for_completion(GenerationParams(grammar=path.read_text()))
        matcher(builder().for_completion(GenerationParams(grammar=path.read_text()))).mask()
