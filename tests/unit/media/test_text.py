"""Text files of every encoding become str; what is no text is refused in one sentence that names the file."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batch.errors import UnsupportedMedia
from batch.media.text import charset_of_html, decode_text, read_encoded

ENGLISH = "The quick brown fox jumps over the lazy dog.\nA second line — with “quotes”.\n"
CHINESE = "你好，世界！今天天气很好，我们去公园散步。\n第二行：机器学习与自然语言处理。\n"
GERMAN = "Über die schönen Straßen größerer Städte führen Wege nach Köln und München.\nÄpfel, Öl, Käse.\n" * 3
JAPANESE = "これは日本語の文章です。今日はとても良い天気なので、公園へ散歩に行きましょう。\n" * 5
RUSSIAN = "Съешь ещё этих мягких французских булок, да выпей чаю. Погода сегодня хорошая.\n" * 5


KOREAN = "안녕하세요, 반갑습니다. 오늘은 날씨가 매우 좋습니다. 함께 산책하러 갈까요?\n"
FRENCH = "Déjà vu à l'hôtel : un café crème, s'il vous plaît.\n"
POLISH = "Zażółć gęślą jaźń. Pójdźmy dziś na spacer do pięknego ogrodu.\n"
CZECH = "Dnes je hezké počasí a půjdeme na procházku do parku, děti už čekají před domem.\n"
TURKISH = "Pijamalı hasta yağız şoföre çabucak güvendi. Bugün hava çok güzel.\n"
GREEK = "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ο καιρός είναι καλός σήμερα.\n"
HEBREW = "דג סקרן שט בים מאוכזב ולפתע מצא חברה. מזג האוויר יפה היום.\n"
ARABIC = "صباح الخير، الطقس جميل اليوم ونحن نذهب إلى الحديقة للتنزه.\n"
THAI = "สวัสดีครับ วันนี้อากาศดีมาก เราไปเดินเล่นที่สวนสาธารณะกันเถอะ\n"
ITALIAN = "Perché no? La città è più bella di così.\n"


@pytest.mark.parametrize("text", [ENGLISH, CHINESE, GERMAN, JAPANESE, RUSSIAN, "", "x", "\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_files_are_read(text: str, encoding: str) -> None:
    decoded = read_encoded(text.encode(encoding), "note.txt")
    assert decoded.text == text and not decoded.is_guessed


@pytest.mark.parametrize("mark, encoding", [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")])
@pytest.mark.parametrize("text", [ENGLISH, CHINESE])
def test_utf16_is_read_in_both_byte_orders(mark: bytes, encoding: str, text: str) -> None:
    assert decode_text(mark + text.encode(encoding), "note.txt") == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        GERMAN,
        "Notes:\n" + RUSSIAN,
        CHINESE,
        JAPANESE,
        KOREAN,
        THAI,
        GREEK,
        HEBREW,
        ARABIC,
        CZECH,
        RUSSIAN[:12],
        "你好，世界",
    ],
)
def test_utf16_without_a_mark_is_recognised(encoding: str, text: str) -> None:
    decoded = read_encoded(text.encode(encoding), "note.txt")
    assert decoded.text == text and decoded.encoding == encoding and decoded.is_guessed


@pytest.mark.parametrize("encoding", ["utf-32-le", "utf-32-be"])
def test_utf32_without_a_mark_is_recognised(encoding: str) -> None:
    assert read_encoded((ENGLISH + CHINESE).encode(encoding), "note.txt") == (ENGLISH + CHINESE, encoding, True)


@pytest.mark.parametrize(
    ("text", "encoding", "name"),
    [
        (CHINESE, "gb18030", "gb2312"),
        ("你好", "gbk", "gb2312"),
        ("# 标题 Title\n\n正文 with English words. " * 20, "gb18030", "gb2312"),
        ("𠮷野家，镕基。" * 5, "gb18030", "gb18030"),
        (GERMAN, "cp1252", "iso-8859-1"),
        (FRENCH, "latin-1", "iso-8859-1"),
        (FRENCH + "– « ça coûte 5 € »", "cp1252", "windows-1252"),
        (ITALIAN, "latin-1", "iso-8859-1"),
        ("Un café crème, Zoë.\n", "latin-1", "iso-8859-1"),
        ("Ærø, Ål, Øre.\n", "cp1252", "iso-8859-1"),
        (KOREAN, "euc_kr", "euc-kr"),
        ("한국어 텍스트", "euc_kr", "euc-kr"),
        ("똠방각하 펲시콜라 " * 3, "cp949", "cp949"),
        (JAPANESE, "shift_jis", "shift_jis"),
        ("①②③ 株式会社㈱です。" * 3, "cp932", "cp932"),
        (JAPANESE, "euc_jp", "euc_jp"),
        (JAPANESE, "iso2022_jp", "iso2022_jp"),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8_r", "koi8-r"),
        ("今天天氣很好，我們去公園散步。" * 20, "big5", "big5"),
        (POLISH, "cp1250", "windows-1250"),
        (POLISH * 3, "iso8859_2", "iso8859-2"),
        (CZECH, "cp1250", "windows-1250"),
        ("Žluťoučký kůň úpěl ďábelské ódy", "cp1250", "windows-1250"),
        (TURKISH, "cp1254", "iso-8859-9"),
        (GREEK, "cp1253", "iso8859-7"),
        (HEBREW * 2, "cp1255", "cp1255"),
        (ARABIC, "cp1256", "cp1256"),
        (THAI, "cp874", "tis-620"),
    ],
)
def test_older_encodings_are_recognised_and_named(text: str, encoding: str, name: str) -> None:
    decoded = read_encoded(text.encode(encoding), "note.txt")
    assert decoded.text == text and decoded.is_guessed
    assert codecs.lookup(decoded.encoding).name == codecs.lookup(name).name


@pytest.mark.parametrize(
    ("page", "declared", "text"),
    [
        (f"<meta charset=euc-kr>{KOREAN}", "euc_kr", KOREAN),
        (f'<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1">{FRENCH}', "cp1252", FRENCH),
        (f"<meta charset='no-such-thing'>{GERMAN}", None, GERMAN),
    ],
)
def test_what_an_html_page_declares_is_believed_where_it_fits(page: str, declared: str | None, text: str) -> None:
    data = page.encode(declared or "cp1252")
    decoded = read_encoded(data, "page.html", charset_of_html(data))
    assert text in decoded.text and decoded.is_guessed is (declared is None)


def test_a_declaration_that_the_bytes_contradict_is_not_believed() -> None:
    data = f"<meta charset=utf-8>{KOREAN}".encode("euc_kr")
    assert KOREAN in read_encoded(data, "page.html", charset_of_html(data)).text
    data = f"<meta charset=euc-kr>{KOREAN}".encode()
    assert read_encoded(data, "page.html", charset_of_html(data)).encoding == "utf-8"


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
def test_a_binary_file_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia, match=r"^picture\.txt .*binary"):
        decode_text(data, "picture.txt")


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
