"""The embedding engine: jobs of texts in, vectors out, what waits together packed into one decode."""

from __future__ import annotations

import base64
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from batch.errors import BadRequest, BatchError, ContextExceeded, NotSupported
from batch.queue.jobs import Kind
from batch.settings import Settings
from batch.workers.embedding.model import MOST_SEQUENCES, Interrupted, PooledModel, Tokens, Vectors
from batch.workers.embedding.text_windows import Window, windows
from batch.workers.untyped_engine import UntypedWork as Work

Text = str | list[int | str]
"""An item of a request: a text, or a token array that may hold texts too."""
INLINE_BYTES = 64 << 10
"""Vectors above this go into the spool instead of the result."""
_PIECE = 1 << 16
"""Characters tokenised between two yields."""
_log = logging.getLogger(__name__)


class Order:
    """One job's texts as token rows, and its vectors as they come."""

    def __init__(self, work: Work, rows: list[Tokens], places: list[dict[str, int]] | None, width: int) -> None:
        self.work = work
        self.rows = rows
        self.places = places
        self.width = width
        self.started = time.perf_counter()
        # The longest first: packs of like lengths, and the first pack shows at once whether memory suffices.
        self.waiting = deque(sorted(range(len(rows)), key=lambda i: -len(rows[i])))
        self.vectors: Vectors = np.empty((len(rows), width), np.float32)
        self.done = 0

    def put(self, row: int, vector: Vectors) -> None:
        if len(vector) > self.width:
            vector = vector[: self.width]
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        self.vectors[row] = vector
        self.done += 1

    def result(self) -> dict[str, Any]:
        """What batch/payloads/ calls EmbedResult."""
        data = self.vectors.astype("<f4", copy=False).tobytes()
        tokens = [len(row) for row in self.rows]
        result: dict[str, Any] = {"count": len(self.rows), "dimensions": self.width}
        if len(data) > INLINE_BYTES:
            result |= {"blob": self.work.keep(data), "tokens": [sum(tokens)]}
        else:
            result |= {"vectors": base64.b64encode(data).decode(), "tokens": tokens}
        if self.places is not None:
            result["windows"] = self.places
        return result | {"ms": round((time.perf_counter() - self.started) * 1000, 3)}


class EmbeddingEngine:
    """One embedding model. Everything a run needs is local to it, so runs may nest at any yield point."""

    brief = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model: PooledModel | None = None
        self._facts: dict[str, Any] = {}
        self._texts = self._tokens = self._packs = 0
        self._usual = 32.0  # tokens of a job that is small enough to be a mate
        self._seconds = 0.0

    @property
    def model(self) -> PooledModel:
        if self._model is None:
            raise BatchError("The embedding model is not loaded.")
        return self._model

    def load(self, report: Callable[[float], None]) -> Mapping[str, Any]:
        from batch.catalog import resolve

        found = resolve(self._settings, Kind.EMBEDDING)
        settings = self._settings.embedding
        self._model = model = PooledModel(found.path, gpu_layers=settings.gpu_layers, report=report)
        # Half the cores: the other workers load at the same time, and threads that wait for each other measure nothing.
        rates = model.measure(settings.threads or max(1, (os.cpu_count() or 1) // 2))
        _log.info("packs of %d tokens; tokens a second by size: %s", model.pack_tokens, rates)
        raw = model.model
        self._facts = {
            "model": found.name,
            "path": str(found.path),
            "size": raw.size,
            "n_ctx": model.limit,
            "n_ctx_train": raw.n_ctx_train,
            "n_vocab": raw.n_vocab,
            "n_params": raw.n_params,
            "n_embd": model.width,
            "vision": False,
            "pooling": model.pooling,
            "matryoshka": found.matryoshka,
            "pack_tokens": model.pack_tokens,
            "pack_rates": {str(k): v for k, v in rates.items()},
        }
        return self._facts

    # -- jobs

    def run(self, work: Work) -> Mapping[str, Any]:
        if work.job.task != "embed":
            raise NotSupported(f'The embedding model does not know the task "{work.job.task}".')
        order = self._order(work, between=work.unit)
        total = len(order.rows)
        while order.waiting:
            threads = work.unit(order.done, total, "texts")
            pack = self._pack(order)
            mates: list[Order] = []
            try:
                if not order.waiting:
                    mates = self._mates(work, pack)
                self._compute(work, pack, threads)
            except BaseException:
                # Whatever stops this job, its mates did nothing wrong: they wait again where they stood.
                for mate in mates:
                    mate.work.put_back()
                raise
            for mate in mates:
                _answer(mate)
        return order.result()

    def _pack(self, order: Order) -> list[tuple[Order, int]]:
        """The next rows of an order: one at least, then as many as the budget takes."""
        pack: list[tuple[Order, int]] = []
        used = 0
        while order.waiting and len(pack) < MOST_SEQUENCES:
            size = len(order.rows[order.waiting[0]])
            if pack and used + size > self.model.pack_tokens:
                break
            pack.append((order, order.waiting.popleft()))
            used += size
        return pack

    def _mates(self, work: Work, pack: list[tuple[Order, int]]) -> list[Order]:
        """Fill the last pack of a job with jobs that wait already and fit into it as a whole."""
        model = self.model
        used = sum(len(order.rows[row]) for order, row in pack)
        # The last may reach over the budget: sending it back costs more than a pack that is a little too large.
        most = min(model.room, model.pack_tokens * 3 // 2)
        mates: list[Order] = []
        while len(pack) < MOST_SEQUENCES and used < model.pack_tokens:
            wanted = max(1, min(MOST_SEQUENCES - len(pack), int((model.pack_tokens - used) / self._usual)))
            taken = work.mates(wanted)
            for at, mate in enumerate(taken):
                if "blob" not in mate.request:
                    order = self._mate(mate)
                    if order is None:
                        continue
                    size = sum(map(len, order.rows))
                    self._usual += (size - self._usual) / 16
                    if len(pack) + len(order.rows) <= MOST_SEQUENCES and used + size <= most:
                        pack += [(order, row) for row in order.waiting]
                        used += size
                        mates.append(order)
                        continue
                # too large, here or in any pack: the next job's turn, and what stands behind it waits too
                for late in taken[at:]:
                    late.put_back()
                return mates
            if len(taken) < wanted:
                break
        return mates

    def _mate(self, mate: Work) -> Order | None:
        """What a mate asks for; None where that cannot be done, which it has failed for alone."""
        try:
            return self._order(mate)
        except Exception as error:
            mate.fail(error)
            return None

    def _compute(self, work: Work, pack: list[tuple[Order, int]], threads: int) -> None:
        """Decode a pack and hand out its vectors; after an interrupt ask the yield point, then do it again."""
        began = time.perf_counter()
        rows = [order.rows[row] for order, row in pack]
        while True:
            try:
                vectors = self.model.embed(rows, threads)
                break
            except Interrupted:
                threads = work.unit()
        for (order, row), vector in zip(pack, vectors, strict=True):
            order.put(row, vector)
        self._packs += 1
        self._texts += len(rows)
        self._tokens += sum(map(len, rows))
        self._seconds += time.perf_counter() - began

    # -- requests

    def _order(self, work: Work, between: Callable[[], object] = lambda: None) -> Order:
        request = work.request
        width = self._width(request.get("dimensions"))
        inputs = _inputs(work)
        rows: list[Tokens] = []
        places: list[dict[str, int]] | None = None
        if request.get("windows"):
            places = []
            for i, item in enumerate(inputs):
                if not isinstance(item, str):
                    raise BadRequest(f"Item {i} of the input is a token array: only texts can be split into windows.")
                for window in self._windows(item, between):
                    rows.append(self.model.tokenize(item[window.start : window.end]))
                    places.append({"index": i, "start": window.start, "end": window.end})
                    between()
        else:
            truncate = bool(request.get("truncate"))
            seen = 0
            for i, item in enumerate(inputs):
                rows.append(self._row(i, item, truncate, between))
                seen += len(item) + 16
                if seen > _PIECE:
                    seen = 0
                    between()
        return Order(work, rows, places, width)

    def _width(self, dimensions: Any) -> int:
        width = self.model.width
        if dimensions is None or dimensions == width:
            return width
        if not isinstance(dimensions, int) or not 0 < dimensions < width:
            raise BadRequest(f'"dimensions" must be a whole number from 1 to {width}.', param="dimensions")
        if not self._facts.get("matryoshka"):
            raise BadRequest(
                f'This model\'s vectors have {width} dimensions and cannot be shortened: leave "dimensions" away.',
                param="dimensions",
            )
        return dimensions

    def _row(self, index: int, item: Text, truncate: bool, between: Callable[[], object]) -> Tokens:
        model = self.model
        row = self._tokens_of(index, item, truncate, between)
        if len(row) == 0:
            raise BadRequest(f"Item {index} of the input is empty: it has no tokens.", index=index)
        if len(row) <= model.limit:
            return row
        if not truncate:
            raise ContextExceeded(
                f"Item {index} of the input has {len(row)} tokens, more than the {model.limit} this model takes: "
                'shorten or split it, or send "truncate": true to have it cut.',
                index=index,
                n_prompt_tokens=len(row),
                n_ctx=model.limit,
            )
        kept = model.limit - model.suffix
        return np.concatenate([row[:kept], row[len(row) - model.suffix :]])

    def _tokens_of(
        self, index: int, item: Text, truncate: bool = False, between: Callable[[], object] = lambda: None
    ) -> Tokens:
        return self._text_row(item, truncate, between) if isinstance(item, str) else self._token_row(index, item)

    def _text_row(self, text: str, truncate: bool, between: Callable[[], object]) -> Tokens:
        """Tokens of a text. A huge one is tokenised piece by piece, so that its job can be stopped."""
        model = self.model
        if len(text) <= _PIECE:
            return model.tokenize(text)
        frame = model.tokenize("")
        parts = [frame[: model.prefix]]
        size = len(frame)
        for piece in _pieces(text):
            parts.append(model.tokenize(piece, add_special=False))
            size += len(parts[-1])
            if truncate and size > model.limit:
                break
            between()
        return np.concatenate([*parts, frame[model.prefix :]])

    def _token_row(
        self, index: int, item: Sequence[int | str], *, add_special: bool = True, parse_special: bool = False
    ) -> Tokens:
        """A token array as it stands; strings in it are tokenised, one that comes first with its special tokens."""
        model = self.model
        parts: list[Tokens] = []
        ids: list[int] = []
        for at, value in enumerate(item):
            if isinstance(value, str):
                special = add_special and at == 0
                parts += [
                    np.array(ids, np.int32),
                    model.tokenize(value, add_special=special, parse_special=parse_special),
                ]
                ids = []
            elif isinstance(value, int) and 0 <= value < model.model.n_vocab:
                ids.append(value)
            else:
                raise BadRequest(
                    f"Item {index} of the input holds the token id {value!r}: this model's run from 0 to "
                    f"{model.model.n_vocab - 1}.",
                    index=index,
                )
        return np.concatenate([*parts, np.array(ids, np.int32)])

    def _windows(self, text: str, between: Callable[[], object]) -> list[Window]:
        model = self.model
        room = model.limit - model.prefix - model.suffix
        return windows(text, room, lambda piece: len(model.tokenize(piece, add_special=False)), between=between)

    # -- questions, from another thread

    def ask(self, question: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        model = self.model
        raw = model.model
        match question:
            case "tokenize":
                content = payload.get("content") or ""
                special = bool(payload.get("add_special") or False)
                parse = payload.get("parse_special") is not False
                if isinstance(content, str):
                    ids = model.tokenize(content, add_special=special, parse_special=parse).tolist()
                else:
                    ids = self._token_row(0, content, add_special=special, parse_special=parse).tolist()
                if payload.get("with_pieces"):
                    return {"tokens": [{"id": i, "piece": _shown(raw.piece(i, special=True))} for i in ids]}
                return {"tokens": ids}
            case "detokenize":
                ids = self._token_row(0, payload.get("tokens") or []).tolist()
                return {"content": raw.detokenize(ids).decode("utf-8", "replace")}
            case "count":
                given = payload.get("inputs")
                counts = [len(self._tokens_of(i, item)) for i, item in enumerate([""] if given is None else given)]
                return {"tokens": counts}
            case "props":
                return self._facts
            case "metrics":
                return {
                    "texts": self._texts,
                    "prompt_tokens": self._tokens,
                    "packs": self._packs,
                    "prompt_seconds": round(self._seconds, 6),
                }
            case _:
                raise NotSupported(f'The embedding model has no answer to "{question}".')

    def interrupt(self) -> None:
        if self._model is not None:
            self._model.stop()

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None


def _answer(mate: Order) -> None:
    """End a mate; one whose result cannot be kept fails alone."""
    try:
        result = mate.result()
    except Exception as error:
        mate.work.fail(error)
    else:
        mate.work.finish(result)


def _inputs(work: Work) -> list[Text]:
    request = work.request
    blob = request.get("blob")
    inputs = json.loads(work.blob(blob).read_bytes()) if blob else request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise BadRequest('"input" must not be empty')
    return inputs


def _pieces(text: str) -> Iterator[str]:
    """Cut before white space, so that no word's tokens change; a run without any is cut where it must be."""
    at = 0
    while len(text) - at > _PIECE:
        cut = next((i for i in range(at + _PIECE, at + _PIECE // 2, -1) if text[i].isspace()), at + _PIECE)
        yield text[at:cut]
        at = cut
    yield text[at:]


def _shown(piece: bytes) -> str | list[int]:
    """A token's text, or its bytes when they are only part of a character, as llama-server has it."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
