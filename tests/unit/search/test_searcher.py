"""What a search finds, in which order, and what a hit tells; the vectors are made of words, so that no model is needed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from batch.errors import BadRequest, NotFound, Unavailable
from batch.media.kind import MediaKind
from batch.search.highlights import FoldedText
from batch.search.index import reader, vector_index
from batch.search.query_language import parse_query
from batch.search.segmentation import has_words
from property_examples import examples
from search_stage import MODEL, SearchStage, vector_of


@pytest.fixture
def stage(database: Path | str) -> Iterator[SearchStage]:
    stage = SearchStage(database)
    yield stage
    stage.store.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchStage]:
    stage = SearchStage(tmp_path_factory.mktemp("index") / "batch.db")
    yield stage
    stage.store.close()


def test_words_are_anded_phrases_stand_as_they_are_and_minus_excludes(stage: SearchStage) -> None:
    stage.put("a.txt", "the red circle is large")
    stage.put("b.txt", "a circle, red and blue")
    stage.put("c.txt", "the blue square")
    only = {"mode": "text"}
    assert set(stage.sources("red circle", **only)) == {"a.txt", "b.txt"}
    assert stage.sources('"red circle"', **only) == ["a.txt"]
    assert stage.sources("circle -blue", **only) == ["a.txt"]
    assert stage.sources('blue -"red and"', **only) == ["c.txt"]
    assert set(stage.sources("squ* OR", **only)) == set()
    assert stage.sources("squ*", **only) == ["c.txt"]
    assert stage.sources("squ", **only) == []


@pytest.mark.parametrize(
    "query", ["a AND b", "NEAR(red blue)", "t : red", "red^2", "{red}", "(red", 'red"', "red NOT", "*red", "'"]
)
def test_the_syntax_of_the_database_is_literal(stage: SearchStage, query: str) -> None:
    stage.put("a.txt", "nothing of the kind")
    if has_words(query):
        assert stage.sources(query, mode="text") == []
    else:
        with pytest.raises(BadRequest):
            stage.search(query, mode="text")


def test_case_accents_and_width_do_not_matter(stage: SearchStage) -> None:
    stage.put("a.txt", "Ein Café an der STRASSE, naïve Ｔｅｘｔ")
    for query in ("cafe", "CAFÉ", "cafe\u0301", "straße", "Strasse", "naive", "text", "ＣＡＦＥ"):
        assert stage.sources(query, mode="text") == ["a.txt"], query


RUNS = "机器学习東京都ひらがなカタカナー々한국어학교에서ไทยภาษาลาวລາວខ្មែរမြန်မာ𠀀𪜀𰀀㐀"


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=st.text(st.sampled_from(RUNS), min_size=1, max_size=12), data=st.data())
def test_every_part_of_a_run_without_spaces_finds_its_item(shared: SearchStage, run: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(run) - 1))
    part = run[start : start + data.draw(st.integers(1, 4))]
    assume(has_words(part))
    shared.put("a.txt", f"before {run}, after", embed=False)
    assert shared.sources(part, mode="text") == ["a.txt"]


@pytest.mark.parametrize(
    "text, query, other",
    [
        ("今天天气很好，我们去公园散步。", "公园", "公司"),
        ("東京タワーは東京都港区にあります", "東京都", "京都府"),
        ("학교에서 한국어를 배웁니다", "한국어", "한국인"),
        ("ภาษาไทยไม่ยาก", "ไทย", "ไทร"),
        ("हिन्दी में लिखा है", "हिन्दी", "हिंदू"),
        ("Владивосток и Москва", "москва", "москвич"),
        ("مرحبا بالعالم", "مَرْحَبًا", "سلام"),
    ],
)
def test_scripts_of_the_world_are_found_by_their_words(stage: SearchStage, text: str, query: str, other: str) -> None:
    stage.put("a.txt", text, embed=False)
    result = stage.search(query, mode="text")
    assert [hit.source for hit in result.data] == ["a.txt"]
    assert stage.sources(other, mode="text") == []


def test_highlights_are_code_points_of_the_text(stage: SearchStage) -> None:
    stage.put("a.txt", "😀 Ein Café, und noch ein CAFÉ 東京タワー", embed=False)
    (hit,) = stage.search("cafe 東京", mode="text").data
    assert [hit.text[start:end] for start, end in hit.highlights] == ["Café", "CAFÉ", "東京"]


def test_a_long_text_shows_300_characters_around_the_words(stage: SearchStage) -> None:
    stage.put("a.txt", "word " * 100 + "the needle lies here " + "word " * 100, embed=False)
    (hit,) = stage.search("needle", mode="text").data
    assert len(hit.text) <= 300 and hit.text.startswith("…") and hit.text.endswith("…")
    assert [hit.text[start:end] for start, end in hit.highlights] == ["needle"]


def test_near_meanings_are_found_without_the_words(stage: SearchStage) -> None:
    stage.put("a.txt", "river stone market")
    stage.put("b.txt", "planet silver forest")
    hits = stage.search("river stone engine", min_similarity=0.3).data
    assert [hit.source for hit in hits] == ["a.txt"]
    assert hits[0].rank.text is None and hits[0].rank.vector == 1
    assert hits[0].similarity == pytest.approx(
        float(vector_of("river stone market")[0] @ vector_of("river stone engine")[0]), abs=2e-3
    )


def test_what_both_lists_have_comes_first(stage: SearchStage) -> None:
    stage.put("both.txt", "river stone")
    stage.put("text.txt", "river stone and much more that has nothing to do with it at all", embed=False)
    stage.put("vector.txt", "stone river bank", embedding_model=MODEL)
    result = stage.search("river stone", min_similarity=0.0)
    assert result.data[0].source == "both.txt"
    assert result.data[0].score == pytest.approx(2 / 61, abs=1e-6)
    assert result.mode == "hybrid" and result.degraded is None and result.total.text == 3


def test_text_weighs_more_for_a_script_that_the_model_does_not_know(stage: SearchStage) -> None:
    stage.put("noise.txt", "東京 タワー 港区", embed=True)
    stage.put("words.txt", "港区の東京タワーです", embed=False)
    plain = {hit.source: hit.score for hit in stage.search("東京タワー").data}
    foreign = {hit.source: hit.score for hit in stage.search("東京タワー", is_foreign=True).data}
    assert foreign["words.txt"] == pytest.approx(2 * plain["words.txt"], abs=1e-5)


def test_the_newest_comes_first_among_equals(stage: SearchStage) -> None:
    for name, created in (("old", 10.0), ("new", 30.0), ("middle", 20.0)):
        stage.put(f"{name}.txt", "same words", created=created)
    assert stage.sources("same words", mode="text") == ["new.txt", "middle.txt", "old.txt"]


def test_one_hit_a_content_with_the_other_files_that_hold_it(stage: SearchStage) -> None:
    stage.put("talks/a.m4a", "the budget", also=["copy/a.m4a", *(f"z/{i:02}.m4a" for i in range(20))])
    (hit,) = stage.search("budget").data
    assert hit.source == "copy/a.m4a" and len(hit.also) == 10 and hit.also[0] == "talks/a.m4a"
    (hit,) = stage.search("budget", folder="talks").data
    assert hit.source == "talks/a.m4a" and "copy/a.m4a" in hit.also


def test_the_moment_of_a_recording_in_which_the_words_are_said(stage: SearchStage) -> None:
    said = ["good morning everybody", "the budget was cut in half", "any questions", "no the budget is final", "goodbye"]
    text = " ".join(said)
    moments = [(text.index(part), 10.0 * i, 10.0 * i + 8) for i, part in enumerate(said)]
    stage.put("a.m4a", text, kind=MediaKind.AUDIO, moments=moments, language="en", model="whisper-base")
    (hit,) = stage.search("budget", mode="text").data
    assert (hit.start, hit.end) == (10.0, 18.0)
    assert [(moment.start, moment.end, moment.text) for moment in hit.moments] == [(30.0, 38.0, "no the budget is final")]
    assert (hit.kind, hit.language, hit.model) == ("audio", "en", "whisper-base")
    (hit,) = stage.search("morning budget goodbye everybody", mode="vector", min_similarity=0.1).data
    assert hit.start == 0.0


def test_a_moment_is_told_once_where_windows_overlap(stage: SearchStage) -> None:
    said = ["first words here", "the budget was cut", "last words here"]
    text = " ".join(said)
    moments = [(text.index(part), 10.0 * i, 10.0 * i + 8) for i, part in enumerate(said)]
    windows = [(0, text.index("last")), (text.index("the"), len(text))]
    stage.put("a.m4a", text, kind=MediaKind.AUDIO, moments=moments, windows=windows)
    (hit,) = stage.search("budget", mode="text").data
    assert (hit.start, hit.moments) == (10.0, [])


def test_filters_choose_before_anything_is_ranked(stage: SearchStage) -> None:
    stage.put("trips/2024/a.jpg", "red circle", kind=MediaKind.IMAGE, created=100.0, model="gemma")
    stage.put("trips/b.m4a", "red circle", kind=MediaKind.AUDIO, created=200.0, language="en", model="whisper")
    stage.put("tripsy/c.txt", "red circle", created=300.0, language="de")
    for mode in ("text", "vector", "hybrid"):

        def found(mode: str = mode, **more: object) -> set[str]:
            return set(stage.sources("red circle", mode=mode, min_similarity=0.5, **more))

        assert found() == {"trips/2024/a.jpg", "trips/b.m4a", "tripsy/c.txt"}
        assert found(kinds=["image", "text"]) == {"trips/2024/a.jpg", "tripsy/c.txt"}
        assert found(folder="trips") == found(folder="/trips/") == {"trips/2024/a.jpg", "trips/b.m4a"}
        assert found(folder="trips/2024") == {"trips/2024/a.jpg"} and found(folder="rips") == set()
        assert found(language="en") == {"trips/b.m4a"} and found(language="fr") == set()
        assert found(model="gemma") == {"trips/2024/a.jpg"}
        assert found(since="1970-01-01T00:03:20Z") == {"trips/b.m4a", "tripsy/c.txt"}
        assert found(until="1970-01-01T00:03:20+00:00") == {"trips/2024/a.jpg", "trips/b.m4a"}


def test_pages_follow_each_other(stage: SearchStage) -> None:
    for i in range(30):
        stage.put(f"{i:02}.txt", "same words", created=float(i))
    first, second = (stage.search("same words", mode="text", limit=20, offset=offset) for offset in (0, 20))
    assert len(first.data) == 20 and first.has_more and len(second.data) == 10 and not second.has_more
    assert {hit.source for hit in first.data}.isdisjoint(hit.source for hit in second.data)


def test_a_file_is_a_query_too(stage: SearchStage) -> None:
    stage.put("a.txt", "river stone market")
    stage.put("b.txt", "river stone garden")
    stage.put("c.txt", "planet silver forest")
    stage.put("silent.txt", "words without vectors", embed=False)
    result = stage.search(None, like="a.txt", min_similarity=0.3)
    assert [hit.source for hit in result.data] == ["b.txt"]
    for unknown in ("d.txt", "silent.txt"):
        with pytest.raises(NotFound) as refused:
            stage.search(None, like=unknown)
        assert refused.value.details["param"] == "like"


def test_more_contents_than_can_be_ranked_give_the_newest(stage: SearchStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_RANKED_HITS", 10)
    for i in range(15):
        stage.put(f"{i:02}.txt", "same words", embed=False)
    result = stage.search("same words", mode="text", limit=3)
    assert (result.total.text, result.total.relation) == (10, "gte")
    assert [hit.source for hit in result.data] == ["14.txt", "13.txt", "12.txt"]


def test_without_a_model_the_text_list_answers_and_says_so(stage: SearchStage) -> None:
    stage.put("a.txt", "red circle")
    result = stage.search("red", degraded="embedding_unavailable")
    assert [hit.source for hit in result.data] == ["a.txt"] and result.degraded == "embedding_unavailable"
    assert result.data[0].similarity is None and result.data[0].rank.vector is None


def test_vectors_of_another_model_are_not_compared(stage: SearchStage) -> None:
    stage.put("old.txt", "river stone", embedding_model="another")
    result = stage.search("river stone")
    assert result.degraded == "other_model" and result.data[0].similarity is None
    with pytest.raises(Unavailable, match="search with mode text"):
        stage.search("river stone", mode="vector")
    stage.put("new.txt", "river stone")
    result = stage.search("river stone", mode="vector")
    assert [hit.source for hit in result.data] == ["new.txt"] and result.degraded == "other_model"


def test_what_changes_is_found_at_once(stage: SearchStage) -> None:
    stage.put("a.txt", "river stone")
    assert stage.sources("river stone") == ["a.txt"]
    stage.put("b.txt", "river stone bridge")
    assert set(stage.sources("river stone")) == {"a.txt", "b.txt"}
    stage.put("a.txt", "planet silver", content="a.txt")
    assert stage.sources("river stone", min_similarity=0.5) == ["b.txt"]
    assert stage.sources("planet silver", min_similarity=0.5) == ["a.txt"]
    stage.remove("b.txt")
    assert stage.sources("river stone", min_similarity=0.5) == []


def test_a_content_goes_with_its_last_file_and_leaves_nothing(stage: SearchStage) -> None:
    stage.put("a.txt", "river stone", also=["b.txt"])
    stage.remove("a.txt")
    assert stage.sources("river", mode="text") == ["b.txt"]
    stage.put("b.txt", "planet silver", content="another")
    assert stage.sources("river", mode="text") == []
    stage.remove("b.txt")
    assert [stage.count(table) for table in ("entry", "entry_source", "passage", "passage_fts", "vector")] == [0] * 5


def test_a_content_without_words_is_not_in_the_index(stage: SearchStage) -> None:
    stage.put("a.m4a", "something was said")
    stage.put("a.m4a", "  ", content="a.m4a", embed=False)
    assert [stage.count(table) for table in ("entry", "entry_source", "passage")] == [0] * 3


def test_candidates_by_signs_are_nearly_what_exact_scores_give(stage: SearchStage, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        f"{a} {b} {c}"
        for a in ["river", "stone", "market", "engine"]
        for b in ["winter", "garden", "letter"]
        for c in map(str, range(50))
    ]
    for i, text in enumerate(texts):
        stage.put(f"{i}.txt", text)
    exact = [stage.sources(query, mode="vector", limit=10, min_similarity=0) for query in texts[::37]]
    monkeypatch.setattr(vector_index, "MAX_EXACT_VECTORS", 100)
    monkeypatch.setattr(vector_index, "CANDIDATES", 150)
    stage.searcher = type(stage.searcher)()
    rescored = [stage.sources(query, mode="vector", limit=10, min_similarity=0) for query in texts[::37]]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, rescored, strict=True)])
    assert recall > 0.9


def test_a_kind_that_is_named_thousands_of_times_counts_once(stage: SearchStage) -> None:
    stage.put("a.txt", "the red circle")
    assert stage.sources("circle", mode="text", kinds=["text"] * 300_000) == ["a.txt"]


@pytest.mark.parametrize("repeated", [[495], range(1, 30)], ids=["one long phrase", "many phrases"])
def test_words_that_a_query_and_a_text_repeat_are_highlighted_in_bounded_work(repeated: Sequence[int]) -> None:
    terms = parse_query(" ".join(f'"{"a b " * number}"' for number in repeated)).terms
    started_at = time.process_time()
    spans = FoldedText("a b " * 15_000).find(terms)
    assert spans[0][0] == 0 and time.process_time() - started_at < 1
