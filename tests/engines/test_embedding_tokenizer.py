"""Texts become the tokens that BERT's own tokeniser makes of them, with MiniLM's vocabulary."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from batch.settings import default_models_dir
from batch.workers.embedding import wordpiece
from batch.workers.embedding.tokenizer import TextTokenizer
from batch.workers.llama.model import Model
from bert_reference import reference_tokens, vocabulary

MODEL = default_models_dir() / "all-MiniLM-L6-v2-f16.gguf"
VOCABULARY = vocabulary(MODEL)
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    + "eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6" * 4
    + ".SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV" * 4
)
SCRIPTS = (
    "abcXYZ ,.-_'\"\t\n\r\x0b\x0c\x00\x1f\x7f\x85\u00a0\u200b\u200d\u2028\u3000\ufeff\ufffd",
    "äéîőñçßøłIİıſKﬁÀÉ\u0301\u0308\u0327",
    "안녕하세요한국어각힣ㄱㅏ\u1100\u1161\u11a8",
    "हिन्दीभाषाकािीुे्।",
    "ไทยภาษาน้ำผู้ป่วยเก่า",
    "العربيةשלוםfàآأ",
    "中文漢字𠀀𪜀豈々〇、。「」がぎぱカナｶﾅ",
    "😀👩‍💻🇩🇪①½²™№℃",
    "ΣΐΰЙйЁёΆά",
)


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[TextTokenizer]:
    model = Model(MODEL)
    yield TextTokenizer(model)
    model.close()


@pytest.fixture(scope="module")
def original() -> tokenizers.Tokenizer:
    """The `tokenizers` package used as its authors do: one call for the whole text."""
    bert = tokenizers.Tokenizer(tokenizers.models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    bert.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    bert.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    frame = [("[SEP]", VOCABULARY["[SEP]"]), ("[CLS]", VOCABULARY["[CLS]"])]
    bert.post_processor = tokenizers.processors.BertProcessing(*frame)
    return bert


WORDS = st.sampled_from(
    ["hello", "World", "unaffable", "tokenisation", "[SEP]", "##ing", "x" * 100, "x" * 101, JWT, "a,b" * 60]
)
TEXTS = st.lists(
    WORDS | st.text(max_size=8) | st.one_of([st.text(st.sampled_from(script), max_size=12) for script in SCRIPTS]), max_size=12
).flatmap(lambda parts: st.sampled_from(["", " "]).map(lambda glue: glue.join(parts)))


@settings(max_examples=400, deadline=None)
@given(text=TEXTS)
def test_any_text_becomes_the_tokens_of_the_tokenizers_package(
    tokenizer: TextTokenizer, original: tokenizers.Tokenizer, text: str
) -> None:
    assert tokenizer.tokenize(text).tolist() == original.encode(text).ids


ASSIGNED = st.lists(WORDS | st.one_of([st.text(st.sampled_from(script), max_size=12) for script in SCRIPTS]), max_size=12).map(
    " ".join
)


@settings(max_examples=300, deadline=None)
@given(text=ASSIGNED)
def test_any_text_becomes_the_tokens_that_berts_description_says(tokenizer: TextTokenizer, text: str) -> None:
    text = text.replace("\u2028", "")  # a line separator, whose meaning the two implementations of BERT differ on
    assert tokenizer.tokenize(text).tolist() == reference_tokens(text, VOCABULARY)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS, piece_chars=st.integers(1, 9))
def test_a_text_cut_into_pieces_becomes_the_same_tokens(tokenizer: TextTokenizer, text: str, piece_chars: int) -> None:
    whole = tokenizer.tokenize(text).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wordpiece, "PIECE_CHARS", piece_chars)
        assert tokenizer.tokenize(text).tolist() == whole


def test_a_word_over_100_characters_is_one_unknown_token(tokenizer: TextTokenizer) -> None:
    unknown = VOCABULARY["[UNK]"]
    assert tokenizer.tokenize("x" * 100).tolist() != [101, unknown, 102]
    assert tokenizer.tokenize("x" * 101).tolist() == [101, unknown, 102]
    base64 = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=899)) + "="
    assert len(tokenizer.tokenize(base64)) == 4
    assert tokenizer.tokenize(JWT).tolist().count(unknown) == 1


def test_a_word_of_megabytes_is_one_unknown_token_too(tokenizer: TextTokenizer) -> None:
    text = "before " + "x" * 3_000_000 + ",after"
    ids = [VOCABULARY[word] for word in ("[CLS]", "before", "[UNK]", ",", "after", "[SEP]")]
    assert tokenizer.tokenize_long(text, None, lambda: None).tolist() == ids


def test_korean_and_devanagari_are_taken_apart_as_in_training(tokenizer: TextTokenizer) -> None:
    korean = [1463, 30006, 30021, 29992, 30010, 30025, 30005, 30006, 29997, 30009, 29999, 30013]
    assert tokenizer.tokenize("안녕하세요", add_special=False).tolist() == korean
    assert tokenizer.tokenize("हिन्दी में", add_special=False).tolist() == [1339, 29877, 29863, 29861, 29878, 1331]
    assert tokenizer.tokenize("a\u0085b", add_special=False).tolist() == [VOCABULARY["ab"]]


def test_a_memory_of_words_never_grows_beyond_its_bound(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"word{i} and{i}" for i in range(50)]
    expected = [tokenizer.tokenize(text).tolist() for text in texts]
    monkeypatch.setattr(wordpiece, "MAX_CACHED_WORDS", 7)
    assert [tokenizer.tokenize(text).tolist() for text in texts] == expected


def test_special_tokens_are_parsed_only_where_that_is_asked_for(tokenizer: TextTokenizer) -> None:
    assert tokenizer.tokenize("a[SEP]b", add_special=False, parse_special=True).tolist() == [1037, 102, 1038]
    assert 102 not in tokenizer.tokenize("a[SEP]b", add_special=False)


def test_a_truncated_text_keeps_its_closing_token(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.tokenize("one two three four")
    assert tokenizer.truncate(ids, 4).tolist() == [101, 2028, 2048, 102]
    assert np.array_equal(tokenizer.truncate(ids, 6), ids)


def test_rows_of_another_vocabulary_are_told_from_our_own(tokenizer: TextTokenizer) -> None:
    own = [[101, 102], [101, 7592, 102]]
    foreign = [[], [101], [102], [7592], [9906, 1917], [101, 7592], [7592, 102]]
    assert all(tokenizer.is_framed(np.array(row, np.int32)) for row in own)
    assert not any(tokenizer.is_framed(np.array(row, np.int32)) for row in foreign)


def test_the_vocabulary_says_whether_texts_are_lower_cased() -> None:
    capitals = [f"\u2581{letter}" for letter in string.ascii_uppercase]
    assert wordpiece.is_cased([*capitals, "\u2581a"])
    assert not wordpiece.is_cased(["\u2581a", "\u2581R", "\u2581b"])


def test_capitals_and_accents_are_kept_for_a_model_that_knows_them() -> None:
    words = ["[UNK]", "\u2581É", "\u2581e", "t", "\u2581a"]
    cased = wordpiece.WordPieceTokenizer(words, frozenset({0}), 0, lowercase=False, strip_accents=False)
    plain = wordpiece.WordPieceTokenizer(words, frozenset({0}), 0, lowercase=True, strip_accents=True)
    assert cased.encode("Ét A a") == [1, 3, 0, 4]
    assert plain.encode("Ét A a") == [2, 3, 4, 4]
