"""The embedding engine: jobs of texts in, vectors out; jobs that wait together are decoded together."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

from batch.errors import BadRequest, BatchError, NotSupported
from batch.memory.machine import require_gpu_memory, require_memory
from batch.memory.sizes import GPU_PROCESS_BYTES
from batch.memory.text_length import EMBEDDING_PROCESS_BYTES
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.payloads.job_payload import Result
from batch.payloads.model_info import EmbeddingModelInfo
from batch.payloads.questions import Answer, Detokenize, Detokenized, Question, Tokenize, Tokenized, TokenPiece
from batch.queue.jobs import Kind
from batch.settings import Settings
from batch.workers.embedding.input_rows import InputReader
from batch.workers.embedding.known_scripts import known_scripts
from batch.workers.embedding.model import PooledModel
from batch.workers.embedding.pooling_context import MAX_SEQUENCES, Interrupted
from batch.workers.embedding.text_batch import EmbeddingJob, TextBatch
from batch.workers.embedding.usual_similarity import usual_similarity
from batch.workers.engine import Work
from batch.workers.llama.devices import gpu_free_bytes
from batch.workers.llama.library import lib

MAX_BATCH_OVERFLOW = 1.5
"""What the last rows or the last batch mate may make of a batch's target: another batch, or sending the mate back, costs more
than one that is a little large."""
_log = logging.getLogger(__name__)


class EmbeddingEngine:
    """One embedding model. Everything a run needs is local to it, so runs may nest at any yield point."""

    has_short_steps = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loaded: tuple[PooledModel, InputReader, EmbeddingModelInfo] | None = None
        self._usual_tokens = 32.0
        """Of a job that is small enough to be a batch mate: a running mean."""

    @property
    def model(self) -> PooledModel:
        return self._parts[0]

    @property
    def info(self) -> EmbeddingModelInfo:
        return self._parts[2]

    @property
    def _parts(self) -> tuple[PooledModel, InputReader, EmbeddingModelInfo]:
        if self._loaded is None:
            raise BatchError("The embedding model is not loaded.")
        return self._loaded

    def load(self, report: Callable[[float], None]) -> EmbeddingModelInfo:
        from batch.catalog import resolve

        resolved = resolve(self._settings, Kind.EMBEDDING)
        settings = self._settings.embedding
        size = resolved.path.stat().st_size
        if settings.gpu_layers != 0 and lib.llama_supports_gpu_offload():
            require_gpu_memory(resolved.name, size + GPU_PROCESS_BYTES, "embedding", gpu_free_bytes())
        else:
            require_memory(resolved.name, size + EMBEDDING_PROCESS_BYTES, "embedding.model")
        model = PooledModel(resolved.path, gpu_layers=settings.gpu_layers, report=report)
        # Half the cores: the other workers load at the same time, and threads that wait for each other measure nothing.
        most_threads = settings.threads or os.cpu_count() or 1
        threads = settings.threads or max(1, most_threads // 2)
        # What one thread computes well is the size of a half, too: in one decode, two of them would find a smaller one best.
        rates = model.measure(1 if model.computes_halves(most_threads) else threads)
        _log.info("batches of %d tokens; tokens a second by size: %s", model.batch_tokens, rates)
        weights = model.weights
        scripts = known_scripts(weights)
        info = EmbeddingModelInfo(
            model=resolved.name,
            path=str(resolved.path),
            size=weights.size,
            n_ctx=model.max_tokens,
            n_ctx_train=weights.n_ctx_train,
            n_vocab=weights.n_vocab,
            n_params=weights.n_params,
            n_embd=model.width,
            pooling=model.pooling,
            matryoshka=resolved.matryoshka,
            batch_tokens=model.batch_tokens,
            batch_rates={str(size): rate for size, rate in rates.items()},
            scripts=scripts,
            usual_similarity=usual_similarity(model, scripts, threads),
        )
        reader = InputReader(
            model.tokenizer, n_vocab=weights.n_vocab, max_tokens=model.max_tokens, query_prefix=resolved.query_prefix
        )
        self._loaded = model, reader, info
        return info

    def run(self, work: Work) -> EmbeddingResult:
        job = self._job(work, yield_point=work.yield_point)
        while job.pending_rows:
            threads = work.yield_point(job.computed, len(job.rows), "texts")
            target = self.model.target_tokens(threads)
            most = min(self.model.max_batch_tokens, int(target * MAX_BATCH_OVERFLOW))
            batch = TextBatch(MAX_SEQUENCES, target, most)
            batch.add_next_rows(job)
            mates: list[EmbeddingJob] = []
            try:
                if not job.pending_rows:
                    mates = self._add_batch_mates(work, batch)
                self._compute(work, batch, threads)
            except BaseException:
                # Whatever stops this job, its batch mates did nothing wrong: they wait again where they stood.
                for mate in mates:
                    mate.work.put_back()
                raise
            _finish(work, mates)
        return job.result()

    def _job(self, work: Work, yield_point: Callable[[], object] = lambda: None) -> EmbeddingJob:
        """A job's inputs as rows. Raises what is wrong with them."""
        payload = work.payload
        if not isinstance(payload, EmbeddingPayload):
            raise NotSupported(f'The embedding model does not know the task "{work.job.task}".')
        width = self._kept_width(payload.dimensions)
        blob = work.spool_path(payload.blob) if payload.blob is not None else None
        return EmbeddingJob(work, self._parts[1].read(payload, blob, yield_point), width)

    def _kept_width(self, dimensions: int | None) -> int:
        width = self.model.width
        if dimensions is None or dimensions == width:
            return width
        if not 0 < dimensions < width:
            raise BadRequest(f'"dimensions" must be a whole number from 1 to {width}.', param="dimensions")
        if not self.info.matryoshka:
            raise BadRequest(
                f'This model\'s vectors have {width} dimensions and cannot be shortened: leave "dimensions" away.',
                param="dimensions",
            )
        return dimensions

    def _add_batch_mates(self, work: Work, batch: TextBatch) -> list[EmbeddingJob]:
        """Fill a job's last batch with jobs that wait already and fit into it as a whole; returns those jobs."""
        mates: list[EmbeddingJob] = []
        while batch.free_rows and batch.free_tokens:
            limit = max(1, min(batch.free_rows, int(batch.free_tokens / self._usual_tokens)))
            claimed = work.claim_batch_mates(limit)
            for place, mate in enumerate(claimed):
                payload = mate.payload
                if not isinstance(payload, EmbeddingPayload) or payload.blob is None:
                    job = self._mate_job(mate)
                    if job is None:
                        continue
                    self._usual_tokens += (job.tokens - self._usual_tokens) / 16
                    if len(job.rows) <= batch.free_rows and batch.tokens + job.tokens <= batch.max_tokens:
                        batch.add_job(job)
                        mates.append(job)
                        continue
                # Too large for this batch or for any: its turn comes next, and what stands behind it waits too.
                for late in claimed[place:]:
                    late.put_back()
                return mates
            if len(claimed) < limit:
                break
        return mates

    def _mate_job(self, mate: Work) -> EmbeddingJob | None:
        """A batch mate's inputs as rows; None where that cannot be done, for which it has failed alone."""
        try:
            return self._job(mate)
        except Exception as error:
            mate.fail(error)
            return None

    def _compute(self, work: Work, batch: TextBatch, threads: int) -> None:
        """Decode a batch and hand out its vectors; after an interrupt pass the yield point and do it again."""
        while True:
            try:
                batch.set_vectors(self.model.embed(batch.rows, threads))
                return
            except Interrupted:
                threads = work.yield_point()

    # -- questions, from another thread

    def ask(self, question: Question) -> Answer:
        model, reader, _ = self._parts
        match question:
            case Tokenize():
                content = [question.content] if isinstance(question.content, str) else question.content
                ids: list[int] = reader.token_row(
                    content, 0, add_special=question.add_special, parse_special=question.parse_special
                ).tolist()
                if question.with_pieces:
                    return Tokenized([TokenPiece(i, model.weights.shown_piece(i)) for i in ids])
                return Tokenized([*ids])
            case Detokenize():
                ids = reader.token_row(question.tokens, 0).tolist()
                return Detokenized(model.weights.detokenize(ids).decode("utf-8", "replace"))
            case _:
                raise NotSupported("The embedding model cannot answer this question.")

    def follow_prefixes(self) -> None:
        """No prompt is kept here."""

    def settle(self) -> bool:
        """Nothing can be done ahead."""
        return False

    def interrupt(self) -> None:
        if self._loaded is not None:
            self.model.stop()

    def close(self) -> None:
        if self._loaded is not None:
            self.model.close()
            self._loaded = None


def _finish(work: Work, mates: Sequence[EmbeddingJob]) -> None:
    """End a job's batch mates with their results; one whose result cannot be kept fails alone."""
    results: list[tuple[Work, Result]] = []
    for mate in mates:
        try:
            results.append((mate.work, mate.result()))
        except Exception as error:
            mate.work.fail(error)
    if results:
        work.finish_mates(results)
