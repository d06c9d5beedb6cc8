"""Searching from the service: the query is embedded through the queue, the rest runs in two threads beside the event loop."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from batch.cpu_sharing.core_table import CoreTable
from batch.errors import BatchError, QueueFull, Unavailable
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.payloads.model_info import EmbeddingModelInfo
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.store import Store
from batch.search.index.reader import IndexReader
from batch.search.ranking import is_foreign_script
from batch.search.request import SearchMode, SearchRequest
from batch.search.result import Degradation, SearchResult, TookMs
from batch.search.searcher import QueryVector, Searcher

MAX_RUNNING = 2
MAX_WAITING = 64
EMBED_TIMEOUT_S = 10.0
"""After which a search goes on with its text list alone."""
SEARCH_WEIGHT = 1.0
"""Of a running search when the cores are shared: it has one thread."""


class SearchService:
    """One a service; `search` runs on the hub's event loop."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._searcher = Searcher()
        self._threads = ThreadPoolExecutor(MAX_RUNNING, thread_name_prefix="search")
        self._local = threading.local()
        self._connections: list[Store] = []
        """One of each searching thread."""
        self._cores = CoreTable()
        self._admitted = 0
        self._running = 0
        self._counting = threading.Lock()

    async def search(self, request: SearchRequest) -> SearchResult:
        """A page of hits. Raises QueueFull when too many searches wait, NotFound for an unknown `like`, Unavailable where
        only a model could answer and none is there."""
        if self._admitted >= MAX_RUNNING + MAX_WAITING:
            raise QueueFull(f"{MAX_WAITING} searches are waiting already: try again in a second.", retry_after=1)
        self._admitted += 1
        try:
            started_at = time.perf_counter()
            query, degraded = await self._query_vector(request)
            embed_ms = round((time.perf_counter() - started_at) * 1000, 1)
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._threads, self._search, request, query, degraded)
            return msgspec.structs.replace(result, took_ms=TookMs(embed_ms, result.took_ms.search))
        finally:
            self._admitted -= 1

    def close(self) -> None:
        """End the threads; searches under way are waited for."""
        self._threads.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._cores.close()

    async def _query_vector(self, request: SearchRequest) -> tuple[QueryVector | None, Degradation | None]:
        if request.query is None or request.mode is SearchMode.TEXT:
            return None, None
        state = self._hub.models[Kind.EMBEDDING]
        if state.status != "ready" or not isinstance(state.info, EmbeddingModelInfo):
            return self._without_model(request)
        meaning = request.query.meaning()
        payload = EmbeddingPayload(inputs=[meaning], truncate=True, query=True)
        try:
            async with asyncio.timeout(EMBED_TIMEOUT_S):
                result = await self._embed(payload)
        except (BatchError, TimeoutError):
            return self._without_model(request)
        data = base64.b64decode(result.vectors or "")
        vector = np.frombuffer(data, "<f4").reshape(1, result.dimensions)
        is_foreign = is_foreign_script(meaning, state.info.scripts)
        usual_floor = state.info.usual_similarity
        return QueryVector(vector=vector, model=state.info.model, usual_floor=usual_floor, is_foreign=is_foreign), None

    async def _embed(self, payload: EmbeddingPayload) -> EmbeddingResult:
        ticket = await self._hub.submit(Draft(payload, Origin.HTTP, Priority.INTERACTIVE, waited=True))
        try:
            return await ticket.result(EmbeddingResult)
        finally:
            if not ticket.ended:
                await asyncio.shield(ticket.cancel())

    def _without_model(self, request: SearchRequest) -> tuple[None, Degradation]:
        if request.mode is SearchMode.VECTOR:
            raise Unavailable("The embedding model is not there to read the query: try again, or search in mode text.")
        return None, "embedding_unavailable"

    # -- in a thread

    def _search(self, request: SearchRequest, query: QueryVector | None, degraded: Degradation | None) -> SearchResult:
        self._count(1)
        try:
            return self._searcher.search(self._reader(), request, query, degraded)
        finally:
            self._count(-1)

    def _reader(self) -> IndexReader:
        """This thread's own connection."""
        reader: IndexReader | None = getattr(self._local, "reader", None)
        if reader is None:
            self._connections.append(store := self._hub.store.open_reader())
            reader = self._local.reader = IndexReader(store)
        return reader

    def _count(self, change: int) -> None:
        with self._counting:
            self._running += change
            self._cores.busy(SEARCH_WEIGHT * self._running)
