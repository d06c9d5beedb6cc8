"""Search at 100,000 passages: how long a query takes, what it finds, what a result's place in the index costs.

    python bench/search.py [--passages 100000] [--queries 200] [--home FOLDER] [--only WORD]

No model and no service: the query's vector is given, so figures are "beyond the query's embedding". With --home the filled
index is kept for the next run. The exit status is 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from measure import Report

from batch.folder.reindex.rebuild import Rebuild
from batch.media.kind import MediaKind
from batch.queue.open_store import open_store
from batch.search.documents import IndexedContent
from batch.search.index.prepared_content import PreparedContent
from batch.search.index.reader import IndexReader
from batch.search.index.vector_index import VectorIndex
from batch.search.index.vectors import from_stored
from batch.search.index.writer import IndexWriter
from batch.search.request import SearchFilter, SearchRequest
from batch.search.searcher import QueryVector, Searcher

MODEL = "bench"
DIMENSIONS = 768
TOPICS = 2000
"""Middles that vectors lie around, as those of texts on like things do."""
SPREAD = 0.9
"""Length of what is added to a middle."""
PARTS = ("query", "recall", "runs", "commit", "reindex", "mcp")
WRITTEN_AT_ONCE = 500
REINDEXED_FILES = 2000
RESULTS = 400
"""Commits that are timed, with and without the index."""
SCRIPTS = {
    "Chinese": ("今天天气很好我们去公园散步东京的桥明天关闭预算被削减一半", 2),
    "Japanese": ("昨日の会議では新しい橋の予算について話し合いましたカタカナも", 3),
    "Korean": ("오늘은날씨가좋아서공원에산책하러갔습니다다리는내일닫힙니다", 4),
    "Thai": ("วันนี้อากาศดีเราไปเดินเล่นที่สวนสาธารณะสะพานจะปิดพรุ่งนี้", 5),
}
"""Characters that texts are drawn from, and a seed."""


class Corpus:
    """Made-up contents, the same in every run."""

    def __init__(self, passages: int) -> None:
        self.passages = passages
        draw = np.random.default_rng(1)
        self._middles = _unit(draw.standard_normal((TOPICS, DIMENSIONS)))

    def vectors(self, first: int, count: int) -> np.ndarray:
        """The vectors of some contents, each near one of the middles."""
        draw = np.random.default_rng(first + 7)
        topics = draw.integers(0, TOPICS, count)
        noise = _unit(draw.standard_normal((count, DIMENSIONS)))
        return _unit(self._middles[topics] + SPREAD * noise).astype(np.float32)

    def queries(self, count: int) -> np.ndarray:
        """Vectors of questions: as near to a middle as contents are."""
        return self.vectors(10**9, count)

    def text(self, number: int) -> str:
        """Words, and in every fourth content a run of a script without spaces."""
        text = f"{words(number, 16)} number{number}"
        return text if number % 4 else f"{text} {foreign_run(number)[1]}"

    def contents(self, first: int, count: int) -> Iterator[PreparedContent]:
        """Some contents, ready for the index."""
        vectors = self.vectors(first, count)
        for place in range(count):
            number, text = first + place, self.text(first + place)
            yield PreparedContent(
                IndexedContent(
                    content=f"content-{number}",
                    sha256=f"{number:064x}",
                    kind=MediaKind.IMAGE if number % 3 else MediaKind.TEXT,
                    language=None,
                    model="eyes",
                    created=1_700_000_000.0 + number,
                    text=text,
                    windows=[(0, len(text))],
                    vectors=vectors[place : place + 1],
                    embedding_model=MODEL,
                )
            )


def words(seed: int, count: int) -> str:
    """Made-up words, few of them in most texts and most of them in few, as in people's language."""
    draw = random.Random(seed)
    return " ".join(_word(int(VOCABULARY ** draw.random()) - 1) for _ in range(count))


def _word(rank: int) -> str:
    return f"{_SYLLABLES[rank % 40]}{_SYLLABLES[rank // 40 % 40]}{rank // 1600}"


_SYLLABLES = [a + b for a in "bdfgklmn" for b in "aeiou"]
VOCABULARY = 20_000


def foreign_run(number: int) -> tuple[str, str]:
    """(script, 24 characters of it) of a content."""
    script = list(SCRIPTS)[number // 4 % len(SCRIPTS)]
    alphabet, seed = SCRIPTS[script]
    draw = random.Random(number * 10 + seed)
    return script, "".join(draw.choice(alphabet) for _ in range(24))


def main() -> int:
    """Measure, print, and say by the exit status whether every bar is met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--home", type=Path)
    parser.add_argument(
        "--only", default="", help="only parts whose name holds this word: query, recall, runs, commit, reindex, mcp"
    )
    options = parser.parse_args()
    report = Report(f"search among {options.passages:,} passages of {DIMENSIONS} dimensions")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.home or Path(folder), Corpus(options.passages), options.queries, report)
        for name in PARTS:
            if options.only in name:
                getattr(bench, f"measure_{name}")()
    return 0 if all(is_met is not False for _, is_met in report.lines) else 1


class Bench:
    """The index and what is measured of it."""

    def __init__(self, home: Path, corpus: Corpus, queries: int, report: Report) -> None:
        self._home, self._corpus, self._report = home, corpus, report
        self._queries = queries
        (home / ".batch").mkdir(parents=True, exist_ok=True)
        self._store = open_store(home / ".batch" / "batch.db")
        self._reader = IndexReader(self._store.open_reader())
        self._searcher = Searcher()
        self._fill()

    def _tell(self, line: str, is_met: bool | None = None) -> None:
        self._report.lines.append((line, is_met))
        print(f"{'  ' if is_met is None else 'ok' if is_met else 'NO'}  {line}", flush=True)

    def _fill(self) -> None:
        there = int(self._store.read("select count(*) from passage")[0][0])
        if there >= self._corpus.passages:
            return
        writer, started_at = IndexWriter(), time.perf_counter()
        for first in range(there, self._corpus.passages, WRITTEN_AT_ONCE):
            prepared = list(self._corpus.contents(first, min(WRITTEN_AT_ONCE, self._corpus.passages - first)))
            with self._store.transaction() as transaction:
                for place, content in enumerate(prepared):
                    writer.put(transaction, content, [b"folder-%d/%d.jpg" % ((first + place) % 50, first + place)])
        self._tell(f"filled at {(self._corpus.passages - there) / (time.perf_counter() - started_at):,.0f} passages/s")

    def measure_query(self) -> None:
        """One client, hybrid: full text and vectors, as the service does it after the query's embedding."""
        vectors = self._corpus.queries(self._queries)
        took: dict[str, list[float]] = {"two words": [], "a part of a run": [], "a word of most texts": []}
        cpu: dict[str, list[float]] = {name: [] for name in took}
        for number, vector in enumerate(vectors):
            stored = self._corpus.text(number * 37).split()[:16]
            asked = (" ".join(sorted(stored, key=len)[-2:]), foreign_run(number * 4)[1][:3], _word(0))
            for name, query in zip(took, asked, strict=True):
                request = SearchRequest.of(query=query)
                started_at, cpu_at = time.perf_counter(), time.thread_time()
                self._searcher.search(self._reader, request, QueryVector(vector=vector[None, :], model=MODEL))
                took[name].append((time.perf_counter() - started_at) * 1000)
                cpu[name].append((time.thread_time() - cpu_at) * 1000)
                if number == 0 and name == "two words":
                    self._tell(f"first query, which loads the vectors: {took[name].pop():,.0f} ms")
        for name, milliseconds in took.items():
            ordered = sorted(milliseconds)
            p50, p95, most = statistics.median(ordered), ordered[int(len(ordered) * 0.95)], ordered[-1]
            line = f"hybrid, {name}: p50 {p50:.0f}, p95 {p95:.0f}, max {most:.0f} ms (bars 80 and 150)"
            self._tell(f"{line}; {statistics.median(cpu[name]):.0f} ms of CPU", p95 < 80 and most < 150)

    def measure_recall(self) -> None:
        """The ten nearest by signs and exact scores among all, against the ten nearest of all; and the memory that takes."""
        tracemalloc.start()
        index = VectorIndex(MODEL, DIMENSIONS, self._reader.state())
        before = tracemalloc.get_traced_memory()[0]
        index.follow(self._reader, self._reader.state())
        megabytes = (tracemalloc.get_traced_memory()[0] - before) / 2**20
        tracemalloc.stop()
        self._tell(f"index memory: {megabytes:.1f} MiB (bar 40)", megabytes <= 40)
        queries = self._corpus.queries(50)
        nearest: list[list[tuple[float, int]]] = [[] for _ in queries]
        after = 0
        while rows := self._reader.vectors_after(after, MODEL, 5000):
            after = rows[-1].passage
            scores = from_stored([row.data for row in rows], DIMENSIONS) @ queries.T
            for number in range(len(queries)):
                best = np.argsort(-scores[:, number])[:10]
                merged = nearest[number] + [(float(scores[row, number]), rows[row].passage) for row in best]
                nearest[number] = sorted(merged, reverse=True)[:10]
        kept = 0
        for query, exact in zip(queries, nearest, strict=True):
            hits = index.search(self._reader, query[None, :], SearchFilter(), entries=None, without=[], limit=10)
            kept += len({hit.passage for hit in hits} & {passage for _, passage in exact})
        recall = kept / (10 * len(queries))
        self._tell(f"recall@10 against exact: {recall:.3f} (bar 0.99)", recall >= 0.99)

    def measure_runs(self) -> None:
        """Any one to four neighbouring characters of a script without spaces find the text they stand in."""
        draw = random.Random(3)
        numbers = draw.sample(range(0, self._corpus.passages, 4), min(400, self._corpus.passages // 4))
        tried: dict[str, list[bool]] = {}
        for number in numbers:
            script, run = foreign_run(number)
            length = draw.randint(1, 4)
            start = draw.randint(0, len(run) - length)
            # with the content's own number, as a single character stands in thousands of texts
            request = SearchRequest.of(query=f"{run[start : start + length]} number{number}", mode="text")
            found = self._searcher.search(self._reader, request, None).data
            tried.setdefault(script, []).append(any(hit.source.endswith(f"/{number}.jpg") for hit in found))
        for script, outcomes in sorted(tried.items()):
            share = sum(outcomes) / len(outcomes)
            self._tell(f"{script}: {share:.3f} of {len(outcomes)} parts of a run find their text (bar 1)", share == 1)

    def measure_commit(self) -> None:
        """A result's transaction with and without its place in the index."""
        writer = IndexWriter()
        first = self._corpus.passages + 10**6
        with self._store.transaction() as transaction:
            transaction.execute("create table if not exists _bench (name text primary key, value text)")

        def commits(with_index: bool) -> float:
            took = []
            for place, content in enumerate(self._corpus.contents(first + (RESULTS if with_index else 0), RESULTS)):
                started_at = time.perf_counter()
                with self._store.transaction(durable=True) as transaction:
                    transaction.execute("insert or replace into _bench values (?,?)", (f"bench-{place % 10}", "{}"))
                    if with_index:
                        writer.put(transaction, content, [b"new/%d.jpg" % place])
                took.append((time.perf_counter() - started_at) * 1000)
            return statistics.median(took)

        alone, indexed = commits(False), commits(True)
        self._forget(b"new/%")
        self._tell(
            f"commit of a result: {indexed:.2f} ms, {alone:.2f} without the index (bar: 2 ms more)", indexed - alone <= 2
        )

    def _forget(self, like: bytes) -> None:
        writer = IndexWriter()
        with self._store.transaction() as transaction:
            transaction.execute("drop table _bench")
            for (path,) in transaction.execute("select path from entry_source where path like ?", (like.decode(),)).fetchall():
                writer.remove_source(transaction, path)

    def measure_reindex(self) -> None:
        """A rebuild from an outbox, in a home of its own."""
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            outbox = home / "outbox"
            outbox.mkdir()
            count = min(REINDEXED_FILES, self._corpus.passages)
            vectors = self._corpus.vectors(0, count)
            for number in range(count):
                (outbox / f"{number}.txt.json").write_text(
                    json.dumps(_result(number, self._corpus.text(number), vectors[number]))
                )
            store = open_store(home / ".batch" / "batch.db")
            took = _seconds(lambda: Rebuild(store, os.fspath(outbox), loaded_model=MODEL).run())
            store.close()
        self._tell(f"reindex: {count / took:,.0f} results/s, {took * 100_000 / count:.0f} s for 100,000 (prototype 18 s)")

    def measure_mcp(self) -> None:
        """How long an agent waits until `batch mcp` has said hello."""
        hello = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
        }

        def greet() -> None:
            with subprocess.Popen(
                [sys.executable, "-m", "batch", "mcp", "--home", os.fspath(self._home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                assert process.stdin is not None and process.stdout is not None
                print(json.dumps(hello), file=process.stdin, flush=True)
                assert "serverInfo" in process.stdout.readline()
                process.stdin.close()

        greet()  # compiles and reads from disk what later ones find in memory
        took = statistics.median([_seconds(greet) for _ in range(3)])
        self._tell(f"batch mcp is ready and gone again after {took:.2f} s (bar 2)", took < 2)


def _result(number: int, text: str, vector: np.ndarray) -> dict[str, object]:
    windows = [{"start": 0, "end": len(text)}]
    return {
        "version": 1,
        "source": f"{number}.txt",
        "sha256": f"{number:064x}",
        "size": len(text),
        "kind": "text",
        "jobs": {"embedding": f"{number:020x}"},
        "created": "2026-11-23T15:47:44.638Z",
        "linked": False,
        "model": MODEL,
        "parameters": {},
        "text": text,
        "embedding": {
            "model": MODEL,
            "dimensions": DIMENSIONS,
            "windows": windows,
            "vectors": [[round(float(cell), 9) for cell in vector]],
        },
    }


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _seconds(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    work()
    return time.perf_counter() - started_at


if __name__ == "__main__":
    sys.exit(main())
