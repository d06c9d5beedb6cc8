"""The embedding engine with the real MiniLM on one thread, against a BERT written in numpy."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import batch.catalog
from batch.errors import BadRequest, Cancelled, ContextExceeded, ModelProblem, NotSupported
from batch.memory import text_length
from batch.memory.machine import MachineMemory
from batch.payloads.chat import ChatPayload
from batch.payloads.embedding import EmbeddingPayload, TextWindow
from batch.payloads.questions import ApplyTemplate, Detokenize, Tokenize
from batch.queue.jobs import Kind, Priority
from batch.settings import EmbeddingSettings, Settings, default_models_dir
from batch.workers.embedding import engine as embedding_engine
from batch.workers.embedding import model as embedding_model
from batch.workers.embedding.engine import EmbeddingEngine
from batch.workers.embedding.model import PooledModel
from batch.workers.embedding.pooling_context import MAX_SEQUENCES, Interrupted, PoolingContext
from batch.workers.llama.barrier_watch import BarrierWatch
from batch.workers.llama.context import DECODED, Context
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model
from graph_rows import GraphRows
from scripted_work import ScriptedWork

MODEL = default_models_dir() / "all-MiniLM-L6-v2-f16.gguf"
TEXTS = [
    "hello world",
    "The quick brown fox jumps over the lazy dog.",
    "A cat sits on the mat.",
    "A kitten is resting on a rug.",
    "Stock prices fell sharply on Monday.",
    "Ein Satz mit Umlauten: Käse, Straße, Öl.",
    "你好，世界！今天天气很好。",
    "こんにちは、元気ですか",
    "안녕하세요 세계",
    "numbers 3.14159 and symbols #&@ (mixed) — dash",
    "repetition " * 150,
]


def make(tmp_path: Path, model: Path = MODEL, threads: int = 1) -> EmbeddingEngine:
    settings = Settings(home=tmp_path, embedding=EmbeddingSettings(model=str(model), threads=threads))
    engine = EmbeddingEngine(settings)
    engine.load(lambda _: None)
    return engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddingEngine]:
    engine = make(tmp_path_factory.mktemp("home"))
    yield engine
    engine.close()


def work(folder: Path, inputs: Any = None, **more: Any) -> ScriptedWork:
    given = {key: more.pop(key) for key in ("truncate", "windows", "dimensions", "query", "blob") if key in more}
    return ScriptedWork(folder, Kind.EMBEDDING, "embed", EmbeddingPayload(inputs=inputs, **given), **more)


def vectors(result: Any, folder: Path) -> np.ndarray:
    data = (folder / result.blob).read_bytes() if result.blob else base64.b64decode(result.vectors)
    return np.frombuffer(data, "<f4").reshape(result.count, result.dimensions)


def embed(engine: EmbeddingEngine, folder: Path, inputs: list[Any], **more: Any) -> np.ndarray:
    return vectors(engine.run(work(folder, inputs, **more)), folder)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest cosine distance between rows."""
    return float((1 - (a.astype(np.float64) * b).sum(axis=1)).max())


def normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class NumpyBert:
    """The forward pass of BERT in float32, from a GGUF's weights: nothing of llama.cpp in it."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.w = {t.name: np.array(t.data, np.float32) for t in reader.tensors}
        self.heads = int(reader.fields["bert.attention.head_count"].contents())
        self.layers = int(reader.fields["bert.block_count"].contents())
        self.eps = float(reader.fields["bert.attention.layer_norm_epsilon"].contents())
        self.pools_first = reader.fields["bert.pooling_type"].contents() == gguf.PoolingType.CLS

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.eps)
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def __call__(self, ids: list[int]) -> np.ndarray:
        n = len(ids)
        x = self.w["token_embd.weight"][ids] + self.w["position_embd.weight"][:n] + self.w["token_types.weight"][0]
        x = self.norm(x, "token_embd_norm")
        erf = np.vectorize(math.erf, otypes=[np.float32])
        for i in range(self.layers):
            q, k, v = (self.linear(x, f"blk.{i}.attn_{part}").reshape(n, self.heads, -1).transpose(1, 0, 2) for part in "qkv")
            scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
            scores = np.exp(scores - scores.max(-1, keepdims=True))
            seen = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(n, -1)
            x = self.norm(x + self.linear(seen, f"blk.{i}.attn_output"), f"blk.{i}.attn_output_norm")
            up = self.linear(x, f"blk.{i}.ffn_up")
            up = up * 0.5 * (1 + erf(up / np.sqrt(2)))
            x = self.norm(x + self.linear(up, f"blk.{i}.ffn_down"), f"blk.{i}.layer_output_norm")
        pooled = x[0] if self.pools_first else x.mean(axis=0)
        return pooled / np.linalg.norm(pooled)


def test_a_model_for_which_the_gpu_has_no_room_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_engine.lib, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(embedding_engine, "gpu_free_bytes", lambda: 200_000_000)
    with pytest.raises(
        ModelProblem, match=r"needs about 0\.5 GB of the GPU's memory and 0\.2 GB .* set embedding\.gpu_layers to 0"
    ):
        make(tmp_path)


def test_vectors_agree_with_another_runtime(engine: EmbeddingEngine, tmp_path: Path) -> None:
    reference = NumpyBert(MODEL)
    ours = embed(engine, tmp_path, TEXTS)
    theirs = np.vstack([reference(engine.model.tokenizer.tokenize(text).tolist()) for text in TEXTS])
    assert distance(ours, theirs) < 1e-4


def test_tokens_are_those_of_the_original_tokeniser(engine: EmbeddingEngine) -> None:
    ids = {
        "hello world": [101, 7592, 2088, 102],
        "The quick brown fox": [101, 1996, 4248, 2829, 4419, 102],
        "unaffable": [101, 14477, 20961, 3468, 102],
        "": [101, 102],
        # taken apart, which llama.cpp by itself does not do
        "안녕하세요": [101, 1463, 30006, 30021, 29992, 30010, 30025, 30005, 30006, 29997, 30009, 29999, 30013, 102],
    }
    for text, expected in ids.items():
        assert engine.model.tokenizer.tokenize(text).tolist() == expected


def test_near_sentences_are_nearer_than_far_ones(engine: EmbeddingEngine, tmp_path: Path) -> None:
    cat, kitten, stocks = embed(engine, tmp_path, [TEXTS[2], TEXTS[3], TEXTS[4]])
    assert cat @ kitten > 0.5 > 0.2 > cat @ stocks


def test_vectors_have_length_one(engine: EmbeddingEngine, tmp_path: Path) -> None:
    assert np.allclose(np.linalg.norm(embed(engine, tmp_path, TEXTS), axis=1), 1, atol=1e-6)


def test_the_same_text_gives_the_same_vector_alone_or_in_a_batch(engine: EmbeddingEngine, tmp_path: Path) -> None:
    texts = [*TEXTS, *(f"filler number {i} about {'this and that ' * (i % 7)}" for i in range(60))]
    alone = np.vstack([embed(engine, tmp_path, [text]) for text in TEXTS])
    together = embed(engine, tmp_path, texts)[: len(TEXTS)]
    backwards = embed(engine, tmp_path, texts[::-1])[::-1][: len(TEXTS)]
    assert distance(alone, together) < 1e-5
    assert distance(alone, backwards) < 1e-5
    # An element may move by the last bits of the float16 numbers that the model computes with.
    assert np.abs(alone - together).max() < 5e-4
    assert np.array_equal(alone, np.vstack([embed(engine, tmp_path, [text]) for text in TEXTS]))


def test_texts_of_as_many_tokens_one_after_another_get_vectors_of_their_own(engine: EmbeddingEngine, tmp_path: Path) -> None:
    one, other, longer = "a cat on a mat", "the price of oil fell", "the price of oil fell on a Monday"
    assert engine.model.tokenizer.count(one) == engine.model.tokenizer.count(other)
    embed(engine, tmp_path, [longer])
    vectors = [embed(engine, tmp_path, [text]) for text in (one, other, one, longer, other)]
    assert np.array_equal(vectors[0], vectors[2]) and np.array_equal(vectors[1], vectors[4])
    assert distance(vectors[0], vectors[1]) > 0.1
    pairs = [embed(engine, tmp_path, texts) for texts in ([one, longer], [longer, other], [other, longer], [longer, one])]
    assert all(distance(pair, again[::-1]) < 1e-5 for pair, again in ((pairs[0], pairs[3]), (pairs[1], pairs[2])))


def test_results_come_in_the_order_of_the_inputs(engine: EmbeddingEngine, tmp_path: Path) -> None:
    texts = ["one " * (i * 37 % 50 + 1) for i in range(100)]
    result = engine.run(work(tmp_path, texts))
    assert sum(result.tokens) == sum(i * 37 % 50 + 3 for i in range(100))
    rows = vectors(result, tmp_path)
    for i in (0, 17, 99):
        assert distance(rows[i : i + 1], embed(engine, tmp_path, [texts[i]])) < 1e-5


def test_usage_counts_special_tokens(engine: EmbeddingEngine, tmp_path: Path) -> None:
    result = engine.run(work(tmp_path, ["", "hello world", [101, 7592, 102], ["hello", 2088]]))
    assert result.tokens == [2, 4, 3, 4]
    assert result.dimensions == 384 and result.count == 4 and result.ms > 0


def test_exactly_512_tokens_pass_and_513_are_refused_by_name(engine: EmbeddingEngine, tmp_path: Path) -> None:
    assert engine.run(work(tmp_path, ["x " * 510])).tokens == [512]
    with pytest.raises(ContextExceeded) as refused:
        engine.run(work(tmp_path, ["fine", "x " * 511]))
    assert refused.value.details == {"index": 1, "n_prompt_tokens": 513, "n_ctx": 512}
    assert "Item 1" in refused.value.message and "513" in refused.value.message and "512" in refused.value.message


def test_a_text_for_whose_numbers_there_is_no_memory_is_refused_by_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_length, "MIN_TEXT_TOKENS", 64)
    free = 2 * 100 * 4 * 30522  # a number for each of the vocabulary's words and each of 100 tokens, in half of it
    monkeypatch.setattr(embedding_model, "machine_memory", lambda: MachineMemory(free, free))
    monkeypatch.setattr(embedding_engine, "require_memory", lambda *_: None)
    small = make(tmp_path)
    try:
        assert small.info.n_ctx == 100
        assert small.run(work(tmp_path, ["x " * 98])).tokens == [100]
        with pytest.raises(ContextExceeded) as refused:
            small.run(work(tmp_path, ["x " * 99]))
        assert refused.value.details == {"index": 0, "n_prompt_tokens": 101, "n_ctx": 100}
    finally:
        small.close()


def test_truncate_keeps_the_closing_token(engine: EmbeddingEngine, tmp_path: Path) -> None:
    result = engine.run(work(tmp_path, ["x " * 600, "short"], truncate=True))
    assert result.tokens == [512, 3]
    assert distance(vectors(result, tmp_path)[:1], embed(engine, tmp_path, ["x " * 510])) < 1e-5


def test_a_huge_text_is_counted_piece_by_piece(engine: EmbeddingEngine, tmp_path: Path) -> None:
    text = "some words of a very long text, " * 12_000
    job = work(tmp_path, [text])
    with pytest.raises(ContextExceeded) as refused:
        engine.run(job)
    assert refused.value.details["n_prompt_tokens"] == 8 * 12_000 + 2
    assert len(job.units) > 4
    assert engine.run(work(tmp_path, [text], truncate=True)).tokens == [512]


@pytest.mark.parametrize("item", [[101, 30522], [101, -1], [2**40], [101, "x", 99999]])
def test_ids_outside_the_vocabulary_are_refused_by_name(engine: EmbeddingEngine, tmp_path: Path, item: Any) -> None:
    with pytest.raises(BadRequest, match=r"Item 1 .* 30521"):
        engine.run(work(tmp_path, ["fine", item]))


def test_special_tokens_written_in_a_text_stay_text(engine: EmbeddingEngine, tmp_path: Path) -> None:
    assert engine.run(work(tmp_path, ["[SEP]"])).tokens[0] > 3
    assert engine.run(work(tmp_path, [["[SEP]"]])).tokens[0] > 3, "nor in one that stands in a token array"


def test_strange_texts_get_vectors(engine: EmbeddingEngine, tmp_path: Path) -> None:
    strange = ["\0", "a\0b", "\ud800", "\U0010ffff", " \n\t ", "\u202e" * 50, "x" * 5000, "안녕하세요"]
    assert np.isfinite(embed(engine, tmp_path, strange, truncate=True)).all()


def test_dimensions_are_refused_for_a_model_that_is_not_matryoshka(engine: EmbeddingEngine, tmp_path: Path) -> None:
    assert engine.run(work(tmp_path, ["x"], dimensions=384)).dimensions == 384
    for wrong in (100, 385, 0):
        with pytest.raises(BadRequest, match=r"384"):
            engine.run(work(tmp_path, ["x"], dimensions=wrong))


def make_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **known: Any) -> EmbeddingEngine:
    """An engine of MiniLM, of which the catalogue says something else."""
    resolve = batch.catalog.resolve
    monkeypatch.setattr(batch.catalog, "resolve", lambda *given: dataclasses.replace(resolve(*given), **known))
    return make(tmp_path)


def test_dimensions_cut_and_renormalise_for_a_matryoshka_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_as(tmp_path, monkeypatch, matryoshka=True)
    short = embed(engine, tmp_path, ["hello world"], dimensions=64)
    whole = embed(engine, tmp_path, ["hello world"])[:, :64]
    assert short.shape == (1, 64)
    assert distance(short, whole / np.linalg.norm(whole)) < 1e-6
    engine.close()


def test_a_query_gets_the_prefix_that_its_model_was_trained_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_as(tmp_path, monkeypatch, query_prefix="Represent this: ")
    query = embed(engine, tmp_path, ["a cat"], query=True)
    assert np.array_equal(query, embed(engine, tmp_path, ["Represent this: a cat"]))
    assert distance(query, embed(engine, tmp_path, ["a cat"])) > 1e-3
    with pytest.raises(BadRequest, match=r"Item 1 .* a query must be a text"):
        engine.run(work(tmp_path, ["a cat", [101, 102]], query=True))
    engine.close()


def test_a_query_is_its_text_where_the_model_knows_no_prefix(engine: EmbeddingEngine, tmp_path: Path) -> None:
    assert np.array_equal(embed(engine, tmp_path, ["a cat"], query=True), embed(engine, tmp_path, ["a cat"]))


@pytest.mark.parametrize("ids", [[9906, 1917], [101, 9906], [9906, 102], [15339, 1917], [0], [100] * 600])
def test_token_ids_of_another_vocabulary_are_refused_with_what_to_set(
    engine: EmbeddingEngine, tmp_path: Path, ids: list[int]
) -> None:
    with pytest.raises(BadRequest, match=r"Item 1 .*another vocabulary.*check_embedding_ctx_length=False") as refused:
        engine.run(work(tmp_path, ["fine", ids]))
    assert refused.value.details["index"] == 1
    with pytest.raises(BadRequest, match=r"Item 2 .*99999.*check_embedding_ctx_length=False"):
        engine.run(work(tmp_path, ["fine", ids, [99999]]))


def test_windows_split_a_long_text_with_offsets(engine: EmbeddingEngine, tmp_path: Path) -> None:
    long = " ".join(f"Sentence number {i} of a long report about things." for i in range(300))
    result = engine.run(work(tmp_path, ["short text", long], windows=True))
    places = result.windows
    assert len(places) == result.count > 3
    assert places[0] == TextWindow(0, 0, 10)
    mine = [p for p in places if p.index == 1]
    assert mine[0].start == 0 and mine[-1].end == len(long)
    for before, after in pairwise(mine):
        assert before.start < after.start <= before.end < after.end
        shared = long[after.start : before.end]
        assert 40 <= len(engine.model.tokenizer.tokenize(shared, add_special=False)) <= 64
    rows = vectors(result, tmp_path)
    last = mine[-1]
    assert distance(rows[-1:], embed(engine, tmp_path, [long[last.start : last.end]])) < 1e-5


@pytest.mark.parametrize("text", ["", "   ", "字" * 1500, "a" * 9_000, "naïve café — “quoted” " * 150, "안녕하세요 " * 250])
def test_windows_of_any_text_fit_the_model(engine: EmbeddingEngine, tmp_path: Path, text: str) -> None:
    result = engine.run(work(tmp_path, [text], windows=True))
    assert result.windows[0].start == 0 and result.windows[-1].end == len(text)


def count_batches(engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts in each batch that is decoded from now on."""
    sizes: list[int] = []
    embed = engine.model.embed

    def counted(texts: Any, threads: int) -> Any:
        sizes.append(len(texts))
        return embed(texts, threads)

    monkeypatch.setattr(engine.model, "embed", counted)
    return sizes


def test_waiting_jobs_are_decoded_together_and_answered_on_their_own(
    engine: EmbeddingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = [work(tmp_path, [f"mate {i}"]) for i in range(3)]
    bad = work(tmp_path, [[99999]])
    batches = count_batches(engine, monkeypatch)
    result = engine.run(work(tmp_path, ["leader"], mates=[good[0], bad, *good[1:]]))
    assert batches == [4]
    assert isinstance(bad.error, BadRequest) and bad.result is None
    for i, mate in enumerate(good):
        assert mate.error is None and mate.result is not None and mate.result.tokens == [4]
        assert distance(vectors(mate.result, tmp_path), embed(engine, tmp_path, [f"mate {i}"])) < 1e-5
    assert distance(vectors(result, tmp_path), embed(engine, tmp_path, ["leader"])) < 1e-5


def test_a_mate_that_does_not_fit_goes_back_to_its_place(engine: EmbeddingEngine, tmp_path: Path) -> None:
    large = [work(tmp_path, ["word " * 500]), work(tmp_path, blob="somewhere")]
    for mate in large:
        behind = work(tmp_path, ["behind"])
        leader = work(tmp_path, ["leader"], mates=[mate, behind])
        engine.run(leader)
        assert mate.returned == 1 and mate.result is None and mate.error is None
        assert (behind in leader.waiting) != (behind.returned == 1), "what stood behind it stands there again"
        assert behind.result is None and behind.error is None


def test_mates_go_back_when_the_leader_is_stopped(
    engine: EmbeddingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mate = work(tmp_path, ["mate"])

    def fail(*_: Any) -> Any:
        raise Cancelled()

    monkeypatch.setattr(engine.model, "embed", fail)
    with pytest.raises(Cancelled):
        engine.run(work(tmp_path, ["leader"], mates=[mate]))
    assert mate.returned == 1


def test_a_pack_never_holds_more_sequences_than_the_context(engine: EmbeddingEngine, tmp_path: Path) -> None:
    mates = [work(tmp_path, [[101, 102]]) for _ in range(MAX_SEQUENCES * 2)]
    engine.run(work(tmp_path, ["leader"], mates=mates))
    assert sum(mate.result is not None for mate in mates) < MAX_SEQUENCES


def test_a_large_call_yields_between_packs_and_tells_its_progress(engine: EmbeddingEngine, tmp_path: Path) -> None:
    texts = [f"text number {i}" for i in range(300)]
    (tmp_path / "request").write_text(json.dumps(texts))
    job = work(tmp_path, blob="request", priority=Priority.INBOX)
    result = engine.run(job)
    assert result.count == 300 and result.vectors is None and result.tokens == [sum([5] * 300)]
    told = [done for done, total, name in job.units if total == 300 and name == "texts"]
    assert len(told) > 5 and told == sorted(told) and told[0] == 0
    assert distance(vectors(result, tmp_path)[[0, 299]], embed(engine, tmp_path, [texts[0], texts[299]])) < 1e-5


def test_a_run_inside_a_unit_disturbs_nothing(engine: EmbeddingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.model, "batch_tokens", 128)  # as it is measured, there may be too few units for two runs
    texts = [f"text number {i}" for i in range(100)]
    inner: list[np.ndarray] = []
    nested = {n: (lambda: inner.append(embed(engine, tmp_path, ["urgent question"]))) for n in (2, 3)}
    disturbed = embed(engine, tmp_path, texts, at=nested)
    assert np.array_equal(disturbed, embed(engine, tmp_path, texts))
    assert len(inner) == 2 and np.array_equal(inner[0], embed(engine, tmp_path, ["urgent question"]))


def test_a_cancelled_job_stops_at_its_next_unit(engine: EmbeddingEngine, tmp_path: Path) -> None:
    def cancel() -> None:
        raise Cancelled()

    job = work(tmp_path, ["text"] * 1000, at={3: cancel})
    with pytest.raises(Cancelled):
        engine.run(job)
    assert len(job.units) == 3


def test_an_interrupted_pack_is_done_again_unless_its_job_ends(engine: EmbeddingEngine, tmp_path: Path) -> None:
    job = work(tmp_path, ["hello world"], at={1: engine.interrupt})
    assert distance(vectors(engine.run(job), tmp_path), embed(engine, tmp_path, ["hello world"])) < 1e-5
    assert len(job.units) == 2


def test_two_threads_compute_a_batch_in_halves_and_give_each_text_its_vector(
    engine: EmbeddingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [" ".join([name] * (1 + place % 20)) for place, name in enumerate(["cat", "stone", "market", "river"] * 10)]
    whole = embed(engine, tmp_path, texts)
    halved: list[int] = []
    embed_halves = engine.model._embed_halves
    monkeypatch.setattr(
        engine.model, "_embed_halves", lambda texts, *more: halved.append(len(texts)) or embed_halves(texts, *more)
    )
    assert distance(embed(engine, tmp_path, texts, threads=2), whole) < 1e-5
    assert halved
    interrupted = embed(engine, tmp_path, texts, threads=2, at={1: engine.interrupt})
    assert distance(interrupted, whole) < 1e-5, "a half that was broken off is computed again"


def test_a_batch_that_two_threads_measured_is_no_larger_where_each_of_them_computes_half_of_it(
    engine: EmbeddingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = engine.model
    assert model.target_tokens(2) == min(model.max_batch_tokens, 2 * model.batch_tokens), "what one measured"
    for name in ("batch_tokens", "measured_threads"):
        monkeypatch.setattr(model, name, getattr(model, name))
    model.measure(2)
    assert model.target_tokens(2) == model.target_tokens(1) == model.batch_tokens


def slow_pairs(model: PooledModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have two threads take long for each decode that they share, as where another program holds a core; returns how many
    threads each decode has, as it comes."""
    context, used = model._context, list[int]()

    def embed_slowly(texts: Any, threads: int) -> Any:
        used.append(threads)
        if threads == 2:
            time.sleep(0.2)
        return PoolingContext.embed(context, texts, threads)

    monkeypatch.setattr(model, "_watch", BarrierWatch(1))
    monkeypatch.setattr(model, "_token_s", 1e-3)
    monkeypatch.setattr(context, "embed", embed_slowly)
    return used


def test_where_two_threads_are_in_each_others_way_one_embeds_a_text_for_a_while(
    engine: EmbeddingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = slow_pairs(engine.model, monkeypatch)
    alone = [embed(engine, tmp_path, ["a text"], threads=2) for _ in range(4)]
    assert used == [2, 2, 1, 1] and distance(alone[1], alone[2]) < 1e-5


def test_long_texts_whose_tokens_take_longer_by_themselves_keep_all_threads(
    engine: EmbeddingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = slow_pairs(engine.model, monkeypatch)
    monkeypatch.setattr(embedding_model, "MAX_TIMED_TEXT_TOKENS", 10)
    for _ in range(3):
        embed(engine, tmp_path, ["x " * 20], threads=2)
    assert used == [2, 2, 2]


def test_where_two_threads_embed_a_batch_is_twice_what_one_of_them_computes_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    measure = PooledModel.measure
    monkeypatch.setattr(PooledModel, "measure", lambda model, threads: measured.append(threads) or measure(model, threads))
    engine = make(tmp_path, threads=2)
    try:
        assert measured == [1]
        assert engine.model.target_tokens(2) == min(engine.model.max_batch_tokens, 2 * engine.model.batch_tokens)
    finally:
        engine.close()


def test_without_memory_for_a_second_context_a_batch_is_computed_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make(tmp_path)
    try:

        def refuse(*_: object, **__: object) -> None:
            raise ModelProblem("There is not enough memory.")

        monkeypatch.setattr("batch.workers.embedding.model.PoolingContext", refuse)
        texts = [f"text number {i}" for i in range(60)]
        assert distance(embed(engine, tmp_path, texts, threads=2), embed(engine, tmp_path, texts)) < 1e-5
    finally:
        engine.close()


def test_questions_are_answered_as_llama_server_does(engine: EmbeddingEngine) -> None:
    def tokens(content: Any, **how: bool) -> Any:
        return engine.ask(Tokenize(content=content, **how)).tokens

    assert tokens("hello world") == [7592, 2088]
    assert tokens("hello world", add_special=True) == [101, 7592, 2088, 102]
    mixed = ["hello", 2088, "[SEP]"]
    assert tokens(mixed) == [7592, 2088, 102]
    assert tokens(mixed, add_special=True) == [101, 7592, 102, 2088, 102]
    assert tokens(mixed, parse_special=False) == [7592, 2088, 1031, 19802, 1033]
    (piece,) = tokens("hello", with_pieces=True)
    assert piece.id == 7592 and piece.piece.strip() == "hello"
    assert engine.ask(Detokenize(tokens=[7592, 2088])).content.strip() == "hello world"
    with pytest.raises(BadRequest):
        engine.ask(Detokenize(tokens=[10**9]))
    with pytest.raises(NotSupported):
        engine.ask(ApplyTemplate(payload=ChatPayload(messages=[])))


def test_model_information_describes_the_model(engine: EmbeddingEngine) -> None:
    info = engine.info
    assert info.model == "all-MiniLM-L6-v2-f16" and info.n_embd == 384 and info.pooling == "mean"
    assert info.n_ctx_train == 512 and info.n_vocab == 30522 and not info.vision
    assert 96 <= info.batch_tokens <= 512 and str(info.batch_tokens) in info.batch_rates
    assert info.scripts == ["Latin"], "the few hundred Chinese characters of an English vocabulary are no knowledge of Chinese"
    assert 0.1 < info.usual_similarity < 0.3, "what unrelated texts seldom reach"


def wide_bert(path: Path, pooling: gguf.PoolingType | None = gguf.PoolingType.CLS) -> Path:
    """A BERT of bge-base's width and one layer, with random weights: its vectors mean nothing."""
    rng = np.random.default_rng(7)
    width, inner, vocab = 768, 3072, 64
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(1)
    writer.add_head_count(12)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("jina-v2-de")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"\u2581{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    tokens += [f"[unused{i}]" for i in range(vocab - len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 5 + [1] * 26 + [3] * (vocab - 31))
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_unk_token_id(1)
    writer.add_pad_token_id(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocab, width),
        "position_embd.weight": (512, width),
        "token_types.weight": (2, width),
    }
    for part in "qkv":
        shapes[f"blk.0.attn_{part}.weight"] = (width, width)
    shapes |= {
        "blk.0.attn_output.weight": (width, width),
        "blk.0.ffn_up.weight": (inner, width),
        "blk.0.ffn_down.weight": (width, inner),
    }
    for name, shape in shapes.items():
        exact = name.startswith(("position", "token_types"))  # llama.cpp adds these as they are: float32 only
        writer.add_tensor(name, (rng.standard_normal(shape) * 0.05).astype(np.float32 if exact else np.float16))
        if name.startswith("blk"):
            writer.add_tensor(name.replace("weight", "bias"), np.zeros(shape[0], np.float32))
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        writer.add_tensor(f"{norm}.weight", np.ones(width, np.float32))
        writer.add_tensor(f"{norm}.bias", np.zeros(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_where_llama_cpp_chooses_how_attention_is_computed_it_chooses_the_same_on_a_processor(
    engine: EmbeddingEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embed(engine, tmp_path, TEXTS)
    monkeypatch.setattr(lib, "llama_supports_gpu_offload", lambda: True)
    automatic = PoolingContext(engine.model.weights, engine.model.max_batch_tokens)
    try:
        monkeypatch.setattr(engine.model, "_context", automatic)
        assert np.array_equal(embed(engine, tmp_path, TEXTS), expected)
    finally:
        automatic.close()


def test_a_768_wide_model_with_cls_pooling_runs(tmp_path: Path) -> None:
    engine = make(tmp_path, wide_bert(tmp_path / "wide.gguf"))
    try:
        result = engine.run(work(tmp_path, ["a b c", "z"]))
        assert result.dimensions == 768 and result.tokens == [5, 3]
        assert np.allclose(np.linalg.norm(vectors(result, tmp_path), axis=1), 1, atol=1e-6)
        assert engine.info.pooling == "cls"
    finally:
        engine.close()


def rows_of_the_last_net(weights: Model, layers: int, lengths: Sequence[int]) -> int:
    """How many its feed-forward net computes of texts with so many tokens."""
    rows = GraphRows()
    context = Context(weights, n_ctx=512, n_batch=512, n_ubatch=512, sequences=64, embeddings=True, cb_eval=rows.callback)
    try:
        sequences = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        assert context.decode_rows(np.full(sum(lengths), 5, np.int32), positions, sequences) == DECODED
    finally:
        context.close()
    assert layers == 1 or rows.by_name["ffn_out-0"] == sum(lengths)
    return rows.by_name[f"ffn_out-{layers - 1}"]


def test_where_the_first_token_is_the_vector_the_last_layers_net_computes_no_other(tmp_path: Path) -> None:
    path = wide_bert(tmp_path / "wide.gguf")
    reference, weights = NumpyBert(path), Model(path, gpu_layers=0)
    layers = int(lib.llama_model_n_layer(weights.handle))
    context = PoolingContext(weights, 512)
    try:
        for lengths in ([7], [3, 20, 9], [5] * 16):
            assert rows_of_the_last_net(weights, layers, lengths) == len(lengths)
        # One text, others with as many tokens in all, as many texts again, more, of one token each, the first again.
        for lengths in ([7], [3, 20, 9], [20, 3, 9], [9, 9, 9], [5] * 16, [1, 1, 1], [7]):
            texts = [(np.arange(length) * 7 % 25 + 5 + place % 3).astype(np.int32) for place, length in enumerate(lengths)]
            vectors = context.embed(texts, 1)
            expected = np.array([reference(text.tolist()) for text in texts])
            assert distance(normalised(vectors), expected) < 1e-4
        context.stop()
        with pytest.raises(Interrupted):
            context.embed(texts, 1)
        assert np.array_equal(context.embed(texts, 1), vectors), "a decode that was broken off leaves nothing behind"
    finally:
        context.close()
        weights.close()


def test_a_model_that_pools_all_tokens_computes_them_all(engine: EmbeddingEngine) -> None:
    assert engine.model.pooling == "mean"
    layers = int(lib.llama_model_n_layer(engine.model.weights.handle))
    assert rows_of_the_last_net(engine.model.weights, layers, [3, 20, 9]) == 32


def test_a_model_without_pooling_is_refused_by_name(tmp_path: Path) -> None:
    path = wide_bert(tmp_path / "unpooled.gguf", pooling=None)
    with pytest.raises(ModelProblem, match=r"unpooled\.gguf"):
        make(tmp_path, path)


def test_a_damaged_model_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(MODEL.read_bytes()[:1_000_000])
    with pytest.raises(ModelProblem, match=r"cut\.gguf"):
        make(tmp_path, path)
