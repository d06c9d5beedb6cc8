"""The vision-language engine: chat and completion over llama.cpp."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from batch.catalog.resolved import resolve
from batch.errors import NotSupported
from batch.media.decoder.pixel_memory import Pixels
from batch.payloads.chat import ChatPayload, ChatResult, CompletionPayload
from batch.payloads.events import PromptCounted
from batch.payloads.job_payload import Payload
from batch.payloads.model_info import ChatModelInfo
from batch.payloads.questions import (
    Answer,
    ApplyTemplate,
    CountTokens,
    Detokenize,
    Detokenized,
    EngineMetrics,
    Question,
    ReadEngineMetrics,
    TemplateApplied,
    TokenCount,
    Tokenize,
    Tokenized,
    TokenPiece,
)
from batch.payloads.sampling import SamplingParams
from batch.queue.jobs import Kind, Priority
from batch.settings import Settings
from batch.workers.chat.bulk.bulk_context import make_bulk_context
from batch.workers.chat.bulk.job import BulkJob
from batch.workers.chat.bulk.preparation import has_cores_to_prepare
from batch.workers.chat.bulk.scheduler import BulkScheduler
from batch.workers.chat.bulk.speed import (
    CLIENT_SEQUENCES,
    expected_tokens,
    measure_bulk_speed,
)
from batch.workers.chat.dialects import dialect as dialects
from batch.workers.chat.generation import Generation, Resources
from batch.workers.chat.images.picture_reader import PictureReader
from batch.workers.chat.images.vision import Vision
from batch.workers.chat.kv.prompt_cache import PromptCache
from batch.workers.chat.memory_planner import (
    MIN_IMAGE_CACHE_BYTES,
    N_BATCH_TOKENS,
    N_UBATCH_TOKENS,
    budget_now,
    plan_memory,
)
from batch.workers.chat.model_info import chat_model_info
from batch.workers.chat.output.result import ChoiceResult, make_chat_result
from batch.workers.chat.prompt.builder import PromptMaker
from batch.workers.chat.prompt.template import ChatTemplate
from batch.workers.chat.sampling.sampling_params import model_defaults
from batch.workers.chat.step_runner import StepRunner
from batch.workers.chat.task_params import TaskParams
from batch.workers.chat.task_planner import TaskPlanner
from batch.workers.engine import Work
from batch.workers.llama.context import Context
from batch.workers.llama.library import lib
from batch.workers.llama.mapped_file import release_pages
from batch.workers.llama.model import Model

if TYPE_CHECKING:
    from batch.queue.remote.prompt_prefix import HeldPrefixes
    from batch.workers.chat.prefix_record import PrefixRecord

_log = logging.getLogger(__name__)
_BULK_CACHE_SHARE = 4
"""Bulk jobs keep conversations in one in so many bytes of the cache."""
_SLICE_TOKENS = 512
_CHECKPOINT_INTERVAL_TOKENS = 512
_GPU_CHECKPOINT_INTERVAL_TOKENS = 8192
"""On a GPU a checkpoint has to be copied out, which takes as long as computing a few hundred tokens."""


class VlmEngine:
    """One chat model with its projector, if it has one."""

    has_short_steps = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context: Context | None = None
        """For clients, and for bulk jobs that are computed one by one."""
        self._bulk_context: Context | None = None
        """For bulk jobs that are computed together; made when the first one comes. Attention passes over all cells of a
        context, so a client's answer would be slower beside their tokens, and a long prompt beside room for their windows."""
        self._scheduler: BulkScheduler | None = None
        self._width = 1
        """Most bulk jobs computed together."""
        self._vision: Vision | None = None
        self._model: Model | None = None
        self._pictures = PictureReader(settings.limits)
        self._bulk_pictures = PictureReader(settings.limits)
        """For the thread that prepares bulk jobs."""
        self._prefixes: PrefixRecord | None = None

    # -- life

    def load(self, report: Callable[[float], None]) -> ChatModelInfo:
        """Load model and projector, reporting the loaded share; raises ModelProblem naming the file."""
        vlm = self._settings.vlm
        resolved = resolve(self._settings, Kind.VLM)
        threads = vlm.threads or os.cpu_count() or 1
        share = 0.9 if resolved.mmproj else 0.95
        has_gpu = bool(lib.llama_supports_gpu_offload()) and vlm.gpu_layers != 0
        self._plan = plan = plan_memory(self._settings, resolved, budget_now(self._settings, has_gpu=has_gpu))
        self._cache_bytes = cache_bytes = int(vlm.cache_bytes * plan.cache_share)
        if plan.note:
            _log.warning("%s", plan.note)
        self._model = model = Model(
            resolved.path,
            gpu_layers=vlm.gpu_layers,
            repack=plan.repack,
            tables_on_gpu=plan.tables_on_gpu,
            report=lambda p: report(p * share),
        )
        if plan.copied:
            release_pages(resolved.path)  # they were read once, to be copied
        if resolved.mmproj:
            image_cache_bytes = max(cache_bytes // 4, MIN_IMAGE_CACHE_BYTES)
            self._vision = Vision(resolved.mmproj, model, threads=threads, gpu=has_gpu, cache_bytes=image_cache_bytes)
            self._pictures.start()
        width = None if vlm.parallel == "auto" else vlm.parallel
        widest, kv_type, own_kv = plan.width, plan.kv_type, plan.own_tokens > 0
        speed = measure_bulk_speed(model, threads, width=width, widest=widest, kv_type=kv_type, own_kv=own_kv, has_gpu=has_gpu)
        self._width, self._speed = speed.width, speed
        encodes_ahead = has_gpu or has_cores_to_prepare(threads)
        if self._vision is not None and encodes_ahead and self._width > 1:
            self._bulk_pictures.start()
        self._context = context = self._make_context(vlm.context, CLIENT_SEQUENCES)
        if self._vision is not None:
            self._vision.slice_tokens = speed.picture_slice_tokens
        bulk_bytes = cache_bytes // _BULK_CACHE_SHARE if self._width > 1 else 0
        # On a GPU a small decode takes as long as a micro-batch, and several of those in one only keep a client waiting: 2,048
        # tokens of E4B for 0.2 s on an H200.
        most = context.n_ubatch if has_gpu else speed.mixed_prompt_tokens
        self._resources = Resources(
            model,
            context,
            PromptCache(context, model, cache_bytes - bulk_bytes),
            self._vision,
            slice_tokens=context.n_batch if has_gpu else _SLICE_TOKENS,
            bulk_slice_tokens=speed.slice_tokens,
            checkpoint_interval=_GPU_CHECKPOINT_INTERVAL_TOKENS if has_gpu else _CHECKPOINT_INTERVAL_TOKENS,
            mixed_prompt_tokens=0 if speed.own_kv else most,
            joint_prompt_tokens=most if has_gpu and speed.own_kv else speed.joint_prompt_tokens,
            joint_multiple=speed.joint_multiple,
            joint_picture_tokens=most,
            decodes_ahead=has_gpu,
            encodes_ahead=encodes_ahead,
            pictures=self._pictures,
        )
        self._runner = StepRunner(self._resources)
        source = model.chat_template()
        control, user_defined = model.special_texts
        bos, eos = model.token_text(model.bos), model.token_text(model.eos)
        template = ChatTemplate(source, bos, eos, control=control, user_defined=user_defined)
        dialect = dialects.for_template(source, template.probe, ends=frozenset(map(model.token_text, model.end_tokens)))
        thinks_by_default = {"auto": None, "on": True, "off": False}[vlm.thinking]
        self._maker = PromptMaker(model, template, dialect, thinks_by_default=thinks_by_default)
        defaults = model_defaults(model, msgspec.convert(resolved.sampling, SamplingParams))
        self._planner = TaskPlanner(model, self._vision, self._maker, dialect, defaults, context.n_ctx, self._settings)
        self._warm_up(model, context)
        report(1.0)
        return chat_model_info(
            resolved,
            model,
            n_ctx=context.n_ctx,
            plan=plan,
            speed=speed,
            sampling=defaults,
            dialect=dialect.name,
            can_see=self._vision is not None and self._vision.supports_images,
            has_gpu=has_gpu,
        )

    def _make_context(self, n_ctx: int, sequences: int, *, own_kv: bool = False) -> Context:
        assert self._model is not None
        # A picture that is attended to in both directions must fit into one micro-batch.
        chunk_tokens = self._vision.max_chunk_tokens if self._vision is not None and self._vision.is_non_causal else 0
        n_ubatch = max(N_UBATCH_TOKENS, chunk_tokens)
        return Context(
            self._model,
            n_ctx=n_ctx,
            n_batch=max(N_BATCH_TOKENS, n_ubatch),
            n_ubatch=n_ubatch,
            sequences=sequences,
            threads=self._settings.vlm.threads or os.cpu_count() or 1,
            kv_type=self._plan.kv_type,
            own_kv=own_kv,
        )

    def _open_scheduler(self) -> BulkScheduler | None:
        """What computes bulk jobs together, made when the first one comes; None: each is computed by itself."""
        if self._scheduler is not None or self._width == 1:
            return self._scheduler
        resources, own_kv = self._resources, self._speed.own_kv
        most, own_tokens = resources.context.n_ctx, self._plan.own_tokens if own_kv else 0
        context, self._width = make_bulk_context(self._make_context, most, self._width, own_tokens)
        if context is not None:
            self._bulk_context = context
            cache = PromptCache(context, resources.model, self._cache_bytes // _BULK_CACHE_SHARE)
            resources = replace(resources, context=context, cache=cache, most_tokens=most if own_kv else 0)
            self._scheduler = BulkScheduler(resources, StepRunner(resources), self, self._width, self._bulk_pictures)
        return self._scheduler

    def _warm_up(self, model: Model, context: Context) -> None:
        context.decode_tokens([max(model.bos, 0)], 0, 0, output=True)
        context.forget(0)

    def close(self) -> None:
        """Free everything. Harmless when called again."""
        if self._scheduler is not None:
            self._scheduler.close()
        self._pictures.close()
        self._bulk_pictures.close()
        for context in self._contexts:
            context.close()
        if self._vision is not None:
            self._vision.close()
        if self._model is not None:
            self._model.close()
        self._context = self._bulk_context = self._scheduler = self._vision = self._model = None

    @property
    def _contexts(self) -> list[Context]:
        return [context for context in (self._context, self._bulk_context) if context is not None]

    def interrupt(self) -> None:
        """From any thread: end the decode in flight."""
        for context in self._contexts:
            context.abort()

    # -- jobs

    def run(self, work: Work) -> ChatResult | None:
        """Answer a chat or continue a completion, its choices one after the other.

        A bulk job is computed together with others that wait; all of them are ended here, and None is returned.
        """
        if work.job.priority < Priority.INTERACTIVE and (scheduler := self._open_scheduler()) is not None:
            scheduler.run(work)
            return None
        with self._scheduler.held_up() if self._scheduler is not None else nullcontext():
            return self.run_alone(work, self.plan_job(work))

    def run_alone(self, work: Work, task: TaskParams | BulkJob, pass_others: Callable[[], None] | None = None) -> ChatResult:
        """Compute a planned job by itself, or the rest of one that others were computed with, in the clients' context.
        `pass_others` is called at each of its yield points."""
        if isinstance(task, BulkJob):
            task.finish_alone(self._resources, self._runner, pass_others)
            return self.make_result(work, task.task, task.results)
        is_bulk = work.job.priority < Priority.INTERACTIVE
        results = [
            self._runner.run(Generation(self._resources, work, task, index, is_bulk=is_bulk), work, pass_others)
            for index in range(task.n)
        ]
        if self._prefixes is not None:
            self._prefixes.update(task, results[0].timings)
        return self.make_result(work, task, results)

    def plan_job(self, work: Work, read_picture: Callable[[str], Pixels] | None = None) -> TaskParams:
        """What a job asks of the model; `read_picture` decodes its pictures where another thread than the engine's plans it.
        Raises BatchError where it cannot run."""
        payload = work.payload
        if not isinstance(payload, ChatPayload | CompletionPayload):
            raise NotSupported(f"The vlm queue has no task {work.job.task!r}.")
        task = self._planner.plan(payload, read_picture or partial(self._pictures.read, work))
        if _is_described(payload) and work.is_watched:
            work.emit(PromptCounted(tokens=len(task.prompt)))
        if self._prefixes is not None and work.job.priority >= Priority.INTERACTIVE:
            self._prefixes.name(task, payload)
        return task

    def fits_bulk(self, task: TaskParams) -> bool:
        """Whether the context of bulk jobs has room for a job; one that does not fit is computed by itself."""
        assert self._bulk_context is not None
        n_ctx = self._bulk_context.n_ctx
        answer_tokens = expected_tokens(n_ctx, task.max_tokens, own_kv=self._speed.own_kv)
        return n_ctx >= self._resources.context.n_ctx or len(task.prompt) + answer_tokens <= n_ctx

    def make_result(self, work: Work, task: TaskParams, results: Sequence[ChoiceResult]) -> ChatResult:
        """The result of a job whose choices are all there."""
        prompt = self._detokenize(task.prompt.ids) if _is_described(work.payload) else None
        unenforced = task.constraint.unenforced if task.constraint is not None else ()
        return make_chat_result(results, len(task.prompt), prompt, unenforced)

    def _detokenize(self, tokens: list[int]) -> str:
        return self._resources.model.detokenize(tokens).decode("utf-8", "replace")

    def follow_prefixes(self) -> Callable[[], HeldPrefixes]:
        """Note from now on which prompts the clients' cache holds; returns what reads that, from any thread."""
        from batch.workers.chat.prefix_record import PrefixRecord  # here, as a home with its file to itself needs none

        self._prefixes = PrefixRecord(self._resources.cache)
        return self._prefixes.read

    def settle(self) -> bool:
        """Nobody waits: copy the last conversation out, which a stranger's prompt would have to wait for."""
        return self._resources.cache.settle()

    # -- questions

    def ask(self, question: Question) -> Answer:
        """Answer from another thread than the jobs'. Raises BadRequest for what a job would be refused for."""
        match question:
            case Tokenize():
                return self._tokenize(question)
            case Detokenize():
                tokens = self._maker.mixed(question.tokens, add_special=False, parse_special=True, name="tokens")
                return Detokenized(self._detokenize(tokens))
            case ApplyTemplate():
                return TemplateApplied(self._planner.render(question.payload))
            case CountTokens():
                return TokenCount(self._planner.check(question.payload), self._resources.context.n_ctx)
            case ReadEngineMetrics():
                caches = [self._resources.cache, *([self._scheduler.cache] if self._scheduler is not None else [])]
                return EngineMetrics(
                    cache_bytes=sum(cache.host_bytes for cache in caches),
                    cache_conversations=sum(cache.host_conversations for cache in caches),
                    image_encodes=self._vision.encoded_chunks if self._vision else 0,
                )

    def _tokenize(self, question: Tokenize) -> Tokenized:
        tokens = self._maker.mixed(
            question.content, add_special=question.add_special, parse_special=question.parse_special, name="content"
        )
        if not question.with_pieces:
            return Tokenized(list(tokens))
        model = self._resources.model
        return Tokenized([TokenPiece(token, model.shown_piece(token)) for token in tokens])


def _is_described(payload: Payload) -> bool:
    return isinstance(payload, CompletionPayload) and payload.describe
