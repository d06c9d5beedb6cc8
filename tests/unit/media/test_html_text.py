"""The visible text of HTML pages, whole and broken."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.media.html_text import visible_text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>one</p><p>two</p>", "one\ntwo"),
        ("<title>T</title><body>a<br>b", "T\na\nb"),
        ("a <b>bold</b> word", "a bold word"),
        ("<ul><li>x<li>y</ul>", "x\ny"),
        ("1 < 2 and 3 > 2 &lt;tag&gt;", "1 < 2 and 3 > 2 <tag>"),
        ("<script>if (a<b) alert('</p>')</script>after", "after"),
        ("<STYLE>p{}</STYLE >after<!-- <p>no</p> -->more", "aftermore"),
        ("before<script>never closed", "before"),
        ("<td>a</td><td>b</td>", "a\nb"),
        ("plain text", "plain text"),
        ("", ""),
        ("<?xml version='1.0'?><!DOCTYPE html><p>x</p>", "x"),
    ],
)
def test_visible_text(page: str, text: str) -> None:
    assert visible_text(page) == text


@pytest.mark.parametrize(
    "page",
    ["<" * 500_000, "<!--" * 200_000, "<script>" * 100_000, "<p " * 200_000, "</" * 200_000, "&" * 500_000, " \n" * 400_000],
)
def test_a_broken_page_costs_no_more_than_its_length(page: str) -> None:
    started = time.process_time()
    visible_text(page)
    assert time.process_time() - started < 20


@given(st.text(st.sampled_from("<>/!-ap \n&;script\"'"), max_size=300))
def test_any_page_has_a_text(page: str) -> None:
    assert isinstance(visible_text(page), str)
