"""The table of scripts that are written without spaces."""

from __future__ import annotations

import re

from batch.media.scripts import UNSPACED_CLASS, UNSPACED_MARKS, UNSPACED_RANGES, is_unspaced, script_of


def test_chinese_japanese_thai_khmer_lao_and_burmese_are_written_without_spaces() -> None:
    assert all(map(is_unspaced, "中文ひらカタไทยລາວខ្មែរမြန်མာབོད々"))


def test_korean_and_alphabets_are_written_with_spaces() -> None:
    assert not any(map(is_unspaced, "한국어abcäöüАБВαβγ1 ,。"))


def test_the_character_class_matches_what_the_table_holds() -> None:
    pattern = re.compile(f"[{UNSPACED_CLASS}]")
    borders = [code for first, last in UNSPACED_RANGES for code in (first - 1, first, last, last + 1)]
    assert [bool(pattern.match(chr(code))) for code in borders] == [is_unspaced(chr(code)) for code in borders]


def test_vowel_and_tone_signs_are_known() -> None:
    assert {"\u0e31", "\u0e48", "\u17d2"} <= set(UNSPACED_MARKS)
    assert "ก" not in UNSPACED_MARKS


def test_a_letter_has_its_script_and_signs_have_none() -> None:
    scripts = {
        "Latin": "aZéßĐẞＡ", "Greek": "ωἀ", "Cyrillic": "яЇ", "Hebrew": "א", "Arabic": "ع", "Devanagari": "क", "Thai": "ก",
        "Kana": "ひカｶー", "Han": "東㐀𠮷", "Hangul": "한ㄱ", "Georgian": "ა",
    }  # fmt: skip
    for script, letters in scripts.items():
        assert {script_of(letter) for letter in letters} == {script}
    assert not any(map(script_of, "1 ,。×÷😀\u0e31\u202e"))
