"""Text files of every encoding become str; what is no text is refused in one sentence that names the file."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batch.errors import TooLarge, UnsupportedMedia
from batch.media.text import decode_text, read_text

ENGLISH = "The quick brown fox jumps over the lazy dog.\nA second line — with “quotes”.\n"
CHINESE = "你好，世界！今天天气很好，我们去公园散步。\n第二行：机器学习与自然语言处理。\n"
GERMAN = "Über die schönen Straßen größerer Städte führen Wege nach Köln und München.\nÄpfel, Öl, Käse.\n" * 3
JAPANESE = "これは日本語の文章です。今日はとても良い天気なので、公園へ散歩に行きましょう。\n" * 5
RUSSIAN = "Съешь ещё этих мягких французских булок, да выпей чаю. Погода сегодня хорошая.\n" * 5


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, GERMAN, JAPANESE, RUSSIAN, "", "x", "\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_files_are_read(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(text.encode(encoding))
    assert read_text(path, 1 << 20) == text


@pytest.mark.parametrize("mark, encoding", [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")])
@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_utf16_is_read_in_both_byte_orders(mark: bytes, encoding: str, text: str) -> None:
    assert decode_text(mark + text.encode(encoding), "note.txt") == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [ENGLISH, GERMAN, "Notes:\n" + RUSSIAN])
def test_utf16_without_a_mark_is_recognised(encoding: str, text: str) -> None:
    assert decode_text(text.encode(encoding), "note.txt") == text


@pytest.mark.parametrize(
    "text, encoding",
    [
        (CHINESE, "gb18030"),
        ("你好", "gbk"),
        ("# 标题 Title\n\n正文 with English words. " * 20, "gb18030"),
        (GERMAN, "cp1252"),
        (JAPANESE, "shift_jis"),
        (RUSSIAN, "cp1251"),
        ("今天天氣很好，我們去公園散步。" * 20, "big5"),
    ],
)
def test_older_encodings_are_recognised(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding), "note.txt") == text


def test_line_ends_become_newlines() -> None:
    assert decode_text(b"a\r\nb\rc\n", "note.txt") == "a\nb\nc\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\0\0\0\x01\0\x08\x02\0\0\0" * 20,
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0" * 50,
        b"PK\x03\x04\x14\0\0\0\x08\0" * 100,
        bytes(range(256)) * 64,
        b"\0" * 1000,
    ],
)
def test_a_binary_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "picture.txt"
    path.write_bytes(data)
    with pytest.raises(UnsupportedMedia, match=r"^picture\.txt .*binary"):
        read_text(path, 1 << 20)


def test_a_file_above_the_limit_is_refused_and_one_at_the_limit_read(tmp_path: Path) -> None:
    path = tmp_path / "long.md"
    path.write_bytes(b"x" * 1000)
    assert len(read_text(path, 1000)) == 1000
    with pytest.raises(TooLarge, match=r"^long\.md .*999 bytes.*limits\.text_bytes"):
        read_text(path, 999)


@given(st.binary(max_size=2000))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        text = decode_text(data, "note.txt")
    except UnsupportedMedia as error:
        assert "note.txt" in error.message
        return
    assert text == text.encode().decode(), "no half of a character"


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=500))
def test_any_utf8_text_comes_back_unchanged(text: str) -> None:
    assume(not text.startswith("\ufeff"))  # a mark of byte order is no text
    assert decode_text(text.encode(), "note.txt") == text
