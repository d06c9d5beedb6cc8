"""The vision-language engine: chat and completion over llama.cpp."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from batch.catalog.resolved import resolve
from batch.errors import BadRequest, BatchError, ContextExceeded, NotFound, NotSupported
from batch.media.image import image_header, open_image
from batch.queue.jobs import Kind, Priority
from batch.queue.spool import Spool
from batch.settings import Settings
from batch.workers.chat.dialects import dialect as dialects
from batch.workers.chat.generation import Generation, Resources
from batch.workers.chat.grammar import constraint
from batch.workers.chat.grammar.matcher import Grammar
from batch.workers.chat.prompt.builder import PromptMaker, PromptText
from batch.workers.chat.prompt.template import ChatTemplate
from batch.workers.chat.prompt_cache import PromptCache
from batch.workers.chat.result import Total
from batch.workers.chat.sampling_params import Sampling, model_defaults
from batch.workers.chat.task_params import Plan, apply_generation, logit_bias
from batch.workers.chat.vision import Picture, Vision
from batch.workers.llama.context import Context
from batch.workers.llama.library import lib
from batch.workers.llama.model import Model
from batch.workers.untyped_engine import UntypedWork as Work

_LARGEST_PICTURE = 1152
"""Room for the 1,120 tokens of Gemma's largest picture; more would only make every sliding window larger, and slower."""
_SEQUENCES = len(Priority)
"""A job of every priority class may wait inside another's yield point."""


class VlmEngine:
    """One chat model with its projector, if it has one."""

    brief = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._context: Context | None = None
        self._vision: Vision | None = None

    # -- life

    def load(self, report: Callable[[float], None]) -> Mapping[str, Any]:
        wanted = self._settings.vlm
        found = resolve(self._settings, Kind.VLM)
        threads = wanted.threads or os.cpu_count() or 1
        share = 0.9 if found.mmproj else 0.95
        self._model = model = Model(found.path, gpu_layers=wanted.gpu_layers, report=lambda p: report(p * share))
        self._gpu = bool(lib.llama_supports_gpu_offload()) and wanted.gpu_layers != 0
        if found.mmproj:
            self._vision = Vision(
                found.mmproj, model, threads=threads, gpu=self._gpu, cache_bytes=max(wanted.cache_bytes // 4, 64 << 20)
            )
        # A picture that is attended to in both directions must fit into one physical batch.
        whole = self._vision is not None and self._vision.non_causal
        self._context = context = Context(
            model,
            n_ctx=wanted.context,
            n_batch=2048,
            n_ubatch=_LARGEST_PICTURE if whole else 512,
            sequences=_SEQUENCES,
            threads=threads,
        )
        forgets = (
            model.n_swa > 0 or bool(lib.llama_model_is_recurrent(model.handle)) or bool(lib.llama_model_is_hybrid(model.handle))
        )
        cache = PromptCache(context, model.n_swa, wanted.cache_bytes, forgets=forgets)
        self._resources = Resources(model, context, cache, self._vision, *self._slices())
        self._defaults: Sampling = model_defaults(model, found.sampling)
        source = model.chat_template()
        control, user_defined = model.special_texts
        template = ChatTemplate(
            source, model.token_text(model.bos), model.token_text(model.eos), control=control, user_defined=user_defined
        )
        self._dialect = dialects.for_template(source)
        self._maker = PromptMaker(model, template, self._dialect)
        self._shown = self._shown_tokens()
        self._warm_up()
        report(1.0)
        self._facts = {
            "model": found.name,
            "path": str(found.path),
            "mmproj": str(found.mmproj) if found.mmproj else None,
            "size": model.size,
            "n_ctx": context.n_ctx,
            "n_ctx_train": model.n_ctx_train,
            "n_vocab": model.n_vocab,
            "n_params": model.n_params,
            "n_embd": model.n_embd,
            "vocab_type": int(lib.llama_vocab_type(model.vocab)),
            "ftype": model.description(),
            "vision": self._vision is not None and self._vision.sees,
            "chat": source is not None,
            "dialect": self._dialect.name,
            "chat_template": source or "",
            "bos_token": model.token_text(model.bos),
            "eos_token": model.token_text(model.eos),
            "sampling": self._defaults.told(),
            "build": lib.llama_print_system_info().decode("utf-8", "replace").strip(),
            "gpu": self._gpu,
        }
        return self._facts

    def _slices(self) -> tuple[int, int]:
        """Prompt tokens between two units, for callers and for bulk work: for the latter fewer the bigger the model, as
        somebody may wait. Set by the model, not by the clock, so that a job's tokens never depend on how busy the
        machine was."""
        assert self._context is not None
        if self._gpu:
            return self._context.n_batch, 512
        billions = self._model.n_params / 1e9
        return 512, next((n for limit, n in ((0.5, 512), (1.0, 256), (2.0, 128)) if billions < limit), 64)

    def _shown_tokens(self) -> frozenset[int]:
        """Tokens whose text a parser must see even where the vocabulary calls them control tokens."""
        texts = [
            *(self._dialect.thinking or ()),
            "<|channel>",
            "<channel|>",
            "<|tool_call>",
            "<tool_call|>",
            '<|"|>',
            "<tool_call>",
            "</tool_call>",
        ]
        singles = (self._model.tokenize(t) for t in texts)
        return frozenset(ids[0] for ids in singles if len(ids) == 1 and ids[0] not in self._model.end_tokens)

    def _warm_up(self) -> None:
        assert self._context is not None
        token = self._model.bos if self._model.bos >= 0 else 0
        self._context.decode_tokens([token], 0, 0, output=True)
        self._context.forget(0)
        _ = self._model.ascii_tokens  # the first bound answer needs them

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None
        if self._vision is not None:
            self._vision.close()
            self._vision = None
        if hasattr(self, "_model"):
            self._model.close()

    def interrupt(self) -> None:
        if self._context is not None:
            self._context.abort()

    # -- jobs

    def run(self, work: Work) -> Mapping[str, Any]:
        match work.job.task:
            case "chat":
                plan = self._plan_chat(work)
            case "completion":
                plan = self._plan_completion(work)
            case task:
                raise NotSupported(f"The vlm queue has no task {task!r}.")
        n_ctx = self._resources.context.n_ctx
        if len(plan.prompt) >= n_ctx:
            raise exceeded(len(plan.prompt), n_ctx)
        describe = bool(work.request.get("describe"))
        if describe and work.watched:
            work.emit({"type": "prompt", "tokens": len(plan.prompt)})
        patient = work.job.priority < Priority.CALLER
        total = Total()
        for index in range(plan.n):
            total.outcomes.append(Generation(self._resources, work, plan, index, patient=patient).run())
        result = total.result(len(plan.prompt))
        if describe:
            result["prompt"] = self._model.detokenize(plan.prompt.ids).decode("utf-8", "replace")
        return result

    def _plan_chat(self, work: Work) -> Plan:
        request = work.request
        text = self._maker.chat(request)
        generation = request.get("generation") or {}
        plan = Plan(text.cells(lambda sha: self._picture(work, sha)), self._sampling(generation))
        apply_generation(plan, generation, self._model)
        plan.n = int(request.get("n") or 1)
        plan.shown = self._shown
        parallel = request.get("parallel_tool_calls") is not False
        plan.constraint = self._bound(request, text)
        fenced = plan.constraint is not None and plan.constraint.fenced
        if self._dialect.thinking:
            budget = request.get("reasoning_budget")
            plan.budget = -1 if budget is None else int(budget)
            plan.closing = self._model.tokenize(self._dialect.thinking[1])
        plan.parser = lambda: self._dialect.parser(
            reasoning_format=request.get("reasoning_format") or "auto",
            tools=request.get("tools"),
            tool_choice=request.get("tool_choice"),
            parallel=parallel,
            prompt_tail=text.tail,
            fenced=fenced,
            prefill=text.prefill,
        )
        return plan

    def _plan_completion(self, work: Work) -> Plan:
        request = work.request
        text = self._maker.completion(request["prompt"])
        generation = request.get("generation") or {}
        plan = Plan(text.cells(lambda sha: self._picture(work, sha)), self._sampling(generation))
        apply_generation(plan, generation, self._model)
        plan.n = int(request.get("n") or 1)
        plan.constraint = self._bound(request, text)
        if request.get("echo"):
            plan.echo = text.text or self._model.detokenize(plan.prompt.ids, special=False).decode("utf-8", "replace")
        return plan

    def _bound(self, request: Mapping[str, Any], text: PromptText) -> constraint.Constraint | None:
        """What a job's answer is bound to."""
        generation = request.get("generation") or {}
        if "messages" in request:
            return constraint.build(
                generation,
                request.get("tools"),
                request.get("tool_choice"),
                request.get("parallel_tool_calls") is not False,
                self._dialect,
                text.thinking is not False,
                text.tail,
            )
        if generation.get("grammar"):
            return constraint.Constraint(str(generation["grammar"]), root="root", closable=False)
        if generation.get("json_schema") not in (None, False):
            return constraint.json_answer(generation["json_schema"])
        return None

    def _check(self, request: Mapping[str, Any], text: PromptText) -> None:
        """Raises what the job would be refused for once it has its turn."""
        generation = request.get("generation") or {}
        self._sampling(generation)
        logit_bias(generation.get("logit_bias") or [], self._model)
        bound = self._bound(request, text)
        if bound is not None:
            Grammar(self._model, bound.grammar, bound.root).close()

    def _sampling(self, generation: Mapping[str, Any]) -> Sampling:
        return self._defaults.asked(generation, self._resources.context.n_ctx)

    # -- pictures

    def _seeing(self) -> Vision:
        if self._vision is None or not self._vision.sees:
            raise BadRequest(
                "This model cannot see: image input needs a vision projector (set vlm.mmproj or choose a model that has one)."
            )
        return self._vision

    def _picture(self, work: Work, sha256: str) -> Picture:
        limits = self._settings.limits

        def pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
            return np.asarray(open_image(work.blob(sha256), limits.image_pixels, limits.image_bytes))

        return self._seeing().picture(sha256, pixels)

    def _picture_tokens(self, sha256: str) -> int:
        limits = self._settings.limits

        def size() -> tuple[int, int]:
            try:
                path = Spool(self._settings.state_dir / "spool").path(sha256)
                return image_header(path, limits.image_pixels, limits.image_bytes)[1:]
            except (OSError, ValueError):
                raise BatchError(f"The spool does not hold the image {sha256[:12]}…") from None

        return self._seeing().count(sha256, size)

    # -- questions

    def ask(self, question: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        match question:
            case "tokenize":
                return self._tokenize(payload)
            case "detokenize":
                tokens = self._maker.mixed(payload.get("tokens"), add_special=False, parse_special=True, name="tokens")
                return {"content": self._model.detokenize(tokens).decode("utf-8", "replace")}
            case "apply_template":
                return {"prompt": self._maker.chat(payload).text}
            case "count":
                text = self._prompt_text(payload)
                self._check(payload, text)
                return {"tokens": text.tokens(self._picture_tokens), "n_ctx": self._resources.context.n_ctx}
            case "props":
                return self._facts
            case "metrics":
                cache = self._resources.cache
                return {
                    "cache_bytes": cache.host_bytes,
                    "cache_conversations": cache.host_conversations,
                    "image_encodes": self._vision.encodes if self._vision else 0,
                }
        raise NotFound(f"The vlm engine cannot answer {question!r}.")

    def _prompt_text(self, payload: Mapping[str, Any]) -> PromptText:
        if "messages" in payload:
            return self._maker.chat(payload)
        if "prompt" in payload:
            return self._maker.completion(payload["prompt"])
        raise BadRequest("messages or prompt is required.")

    def _tokenize(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        tokens = self._maker.mixed(
            payload.get("content") or "",
            add_special=bool(payload.get("add_special", False)),
            parse_special=payload.get("parse_special") is not False,
            name="content",
        )
        if not payload.get("with_pieces"):
            return {"tokens": tokens}
        return {"tokens": [{"id": t, "piece": _piece(self._model.piece(t, special=True))} for t in tokens]}


def exceeded(tokens: int, n_ctx: int) -> ContextExceeded:
    return ContextExceeded(
        f"request ({tokens} tokens) exceeds the available context size ({n_ctx} tokens), try increasing it",
        n_prompt_tokens=tokens,
        n_ctx=n_ctx,
    )


def _piece(data: bytes) -> str | list[int]:
    """As llama-server tells pieces: text, or bytes where they are no whole characters."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
