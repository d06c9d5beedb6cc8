"""Languages: Whisper's codes with their English names, and what people write instead of them."""

from __future__ import annotations

import re

# In the order of Whisper's language tokens: the position is the token's offset. Models with 51,865 tokens know the
# first 99; Cantonese came with large-v3.
NAMES: dict[str, str] = {
    "en": "english",
    "zh": "chinese",
    "de": "german",
    "es": "spanish",
    "ru": "russian",
    "ko": "korean",
    "fr": "french",
    "ja": "japanese",
    "pt": "portuguese",
    "tr": "turkish",
    "pl": "polish",
    "ca": "catalan",
    "nl": "dutch",
    "ar": "arabic",
    "sv": "swedish",
    "it": "italian",
    "id": "indonesian",
    "hi": "hindi",
    "fi": "finnish",
    "vi": "vietnamese",
    "he": "hebrew",
    "uk": "ukrainian",
    "el": "greek",
    "ms": "malay",
    "cs": "czech",
    "ro": "romanian",
    "da": "danish",
    "hu": "hungarian",
    "ta": "tamil",
    "no": "norwegian",
    "th": "thai",
    "ur": "urdu",
    "hr": "croatian",
    "bg": "bulgarian",
    "lt": "lithuanian",
    "la": "latin",
    "mi": "maori",
    "ml": "malayalam",
    "cy": "welsh",
    "sk": "slovak",
    "te": "telugu",
    "fa": "persian",
    "lv": "latvian",
    "bn": "bengali",
    "sr": "serbian",
    "az": "azerbaijani",
    "sl": "slovenian",
    "kn": "kannada",
    "et": "estonian",
    "mk": "macedonian",
    "br": "breton",
    "eu": "basque",
    "is": "icelandic",
    "hy": "armenian",
    "ne": "nepali",
    "mn": "mongolian",
    "bs": "bosnian",
    "kk": "kazakh",
    "sq": "albanian",
    "sw": "swahili",
    "gl": "galician",
    "mr": "marathi",
    "pa": "punjabi",
    "si": "sinhala",
    "km": "khmer",
    "sn": "shona",
    "yo": "yoruba",
    "so": "somali",
    "af": "afrikaans",
    "oc": "occitan",
    "ka": "georgian",
    "be": "belarusian",
    "tg": "tajik",
    "sd": "sindhi",
    "gu": "gujarati",
    "am": "amharic",
    "yi": "yiddish",
    "lo": "lao",
    "uz": "uzbek",
    "fo": "faroese",
    "ht": "haitian creole",
    "ps": "pashto",
    "tk": "turkmen",
    "nn": "nynorsk",
    "mt": "maltese",
    "sa": "sanskrit",
    "lb": "luxembourgish",
    "my": "myanmar",
    "bo": "tibetan",
    "tl": "tagalog",
    "mg": "malagasy",
    "as": "assamese",
    "tt": "tatar",
    "haw": "hawaiian",
    "ln": "lingala",
    "ha": "hausa",
    "ba": "bashkir",
    "jw": "javanese",
    "su": "sundanese",
    "yue": "cantonese",
}

CODES: tuple[str, ...] = tuple(NAMES)

AUTO = "auto"

_BY_NAME = {name: code for code, name in NAMES.items()} | {
    "burmese": "my",
    "valencian": "ca",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "pushto": "ps",
    "panjabi": "pa",
    "moldavian": "ro",
    "moldovan": "ro",
    "sinhalese": "si",
    "castilian": "es",
    "mandarin": "zh",
    "farsi": "fa",
    "filipino": "tl",
}

# Other codes for the same languages: ISO 639-2/3 and today's spelling where Whisper keeps an old one.
_ALIASES = {
    "cmn": "zh",
    "zho": "zh",
    "chi": "zh",
    "eng": "en",
    "deu": "de",
    "ger": "de",
    "fra": "fr",
    "fre": "fr",
    "spa": "es",
    "rus": "ru",
    "kor": "ko",
    "jpn": "ja",
    "por": "pt",
    "ita": "it",
    "nld": "nl",
    "dut": "nl",
    "ara": "ar",
    "hin": "hi",
    "tur": "tr",
    "pol": "pl",
    "ukr": "uk",
    "vie": "vi",
    "tha": "th",
    "nb": "no",
    "nob": "no",
    "nno": "nn",
    "iw": "he",
    "in": "id",
    "jv": "jw",
    "fil": "tl",
}


_CHINESE_VARIANTS = {
    "hans": "Hans",
    "cn": "Hans",
    "sg": "Hans",
    "my": "Hans",
    "hant": "Hant",
    "tw": "TW",
    "hk": "HK",
    "mo": "HK",
}
"""What a tag's later parts say of the characters that Chinese is to be written with; HK and TW are traditional."""

_CHINESE_NAMES = {
    "simplified chinese": "zh-Hans",
    "chinese simplified": "zh-Hans",
    "chinese (simplified)": "zh-Hans",
    "traditional chinese": "zh-Hant",
    "chinese traditional": "zh-Hant",
    "chinese (traditional)": "zh-Hant",
}


def tag_of(value: str) -> str | None:
    """As `normalise`, but Chinese keeps what its tag says of its characters: zh-Hans, zh-Hant, zh-TW or zh-HK."""
    text = value.strip().lower()
    if text in _CHINESE_NAMES:
        return _CHINESE_NAMES[text]
    code = normalise(value)
    variant = chinese_variant(value) if code in ("zh", "yue") else None
    return f"{code}-{variant}" if variant else code


def chinese_variant(tag: str) -> str | None:
    """ "Hans", "Hant", "TW" or "HK" of a Chinese tag; None where it says nothing, or for another language."""
    stem, *parts = re.split(r"[-_.@]", tag.strip().lower())
    if _ALIASES.get(stem, stem) not in ("zh", "yue"):
        return None
    script = next((part for part in parts if part in ("hans", "hant")), None)
    if script == "hant":  # zh-Hant-HK has the forms of Hong Kong
        return _CHINESE_VARIANTS[next((part for part in parts if part in ("tw", "hk", "mo")), script)]
    part = script or next((part for part in parts if part in _CHINESE_VARIANTS), None)
    return _CHINESE_VARIANTS[part] if part else None


def normalise(value: str) -> str | None:
    """Whisper's code for a code, a tag (`zh-CN`, `pt_BR`) or an English name in any case; "auto" for auto or
    nothing; None when no language matches."""
    text = value.strip().lower()
    if text in ("", AUTO):
        return AUTO
    if text in NAMES:
        return text
    if text in _BY_NAME:
        return _BY_NAME[text]
    if text in _CHINESE_NAMES:
        return "zh"
    stem = re.split(r"[-_.@]", text, maxsplit=1)[0]
    if stem in NAMES:
        return stem
    return _ALIASES.get(stem)


def name(code: str) -> str:
    """Lower-case English name of a code, as whisper-server and OpenAI print it."""
    return NAMES.get(code, code)
