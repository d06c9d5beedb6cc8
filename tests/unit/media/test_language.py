"""batch/media/language.py: languages by what people write instead of Whisper's codes."""

from __future__ import annotations

import pytest

from batch.media import language


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("zh-CN", "zh"),
        ("Chinese", "zh"),
        ("zh_Hant_TW", "zh"),
        ("EN", "en"),
        ("pt-BR", "pt"),
        ("Mandarin", "zh"),
        ("haitian creole", "ht"),
        ("cmn", "zh"),
        ("nb-NO", "no"),
        ("yue", "yue"),
        ("", "auto"),
        (" Auto ", "auto"),
        ("xx", None),
        ("klingon", None),
        ("english!", None),
    ],
)
def test_languages_are_known_by_code_tag_and_name(written: str, code: str | None) -> None:
    assert language.normalise(written) == code


@pytest.mark.parametrize(
    ("written", "tag"),
    [
        ("zh", "zh"),
        ("Chinese", "zh"),
        ("zh-CN", "zh-Hans"),
        ("zh_SG", "zh-Hans"),
        ("zh-Hans-HK", "zh-Hans"),
        ("Simplified Chinese", "zh-Hans"),
        ("cmn-Hans", "zh-Hans"),
        ("zh-Hant", "zh-Hant"),
        ("ZH-HANT-CN", "zh-Hant"),
        ("Traditional Chinese", "zh-Hant"),
        ("zh-TW", "zh-TW"),
        ("zh_Hant_TW", "zh-TW"),
        ("zh-HK", "zh-HK"),
        ("zh-MO", "zh-HK"),
        ("yue-Hant-HK", "yue-HK"),
        ("en-HK", "en"),
        ("pt_BR", "pt"),
        ("auto", "auto"),
        ("", "auto"),
        ("xx-TW", None),
    ],
)
def test_chinese_keeps_what_its_tag_says_of_its_characters(written: str, tag: str | None) -> None:
    assert language.tag_of(written) == tag
    if tag is not None:
        assert language.tag_of(tag) == tag and language.normalise(tag) == tag.split("-")[0]
