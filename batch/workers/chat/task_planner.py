"""From a payload to what the model is to do: prompt, sampling, constraint, parser."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable
from functools import partial

from batch.errors import BadRequest, BatchError, ContextExceeded
from batch.media.decoder.pixel_memory import Pixels
from batch.media.image import image_header, shrink_factor
from batch.payloads.chat import ChatPayload, CompletionPayload
from batch.payloads.sampling import SamplingParams
from batch.queue.open_store import open_spool
from batch.settings import Settings
from batch.workers.chat.dialects.dialect import Dialect
from batch.workers.chat.grammar.constraint import Constraint, ConstraintBuilder
from batch.workers.chat.grammar.matcher import Matcher, Vocabulary
from batch.workers.chat.images.image_chunk import TokenizedImage
from batch.workers.chat.images.vision import Vision
from batch.workers.chat.prompt.builder import PromptMaker, PromptText
from batch.workers.chat.sampling.sampling_params import resolve_sampling
from batch.workers.chat.task_params import TaskParams, logit_bias
from batch.workers.llama.model import Model


class TaskPlanner:
    """Plans jobs for one model. All of it may be called from any thread."""

    def __init__(
        self,
        model: Model,
        vision: Vision | None,
        maker: PromptMaker,
        dialect: Dialect,
        defaults: SamplingParams,
        n_ctx: int,
        settings: Settings,
    ) -> None:
        self._model = model
        self._vision = vision
        self._maker = maker
        self._dialect = dialect
        self._defaults = defaults
        self._n_ctx = n_ctx
        self._thinking_budget = settings.vlm.thinking_budget
        self._limits = settings.limits
        self._spool = open_spool(
            # Pictures of questions, which belong to no lease: what was put in a moment ago may be read by any worker.
            settings.database_address,
            settings.state_dir / "spool",
            worker_secret=secrets.token_hex(16),
        )
        markers = self._marker_tokens()
        self._shown_tokens = frozenset(markers.values())
        control = {model.token_text(token): token for token in model.control_tokens}
        self._vocabulary = Vocabulary(model.all_pieces(), model.end_tokens, {**control, **markers})
        self._constraints = ConstraintBuilder(dialect, self._vocabulary.token_id)

    def plan(self, payload: ChatPayload | CompletionPayload, read_picture: Callable[[str], Pixels]) -> TaskParams:
        """What the job asks of the model; `read_picture` decodes a picture by its sha256.

        Raises BadRequest naming the field, ContextExceeded where the prompt is too long.
        """
        text = self._prompt_text(payload)
        prompt = text.token_sequence(lambda sha256: self._tokenize_image(sha256, read_picture))
        if len(prompt) >= self._n_ctx:
            raise ContextExceeded.for_prompt(len(prompt), self._n_ctx)
        params = payload.generation
        sampling = resolve_sampling(params, self._defaults, self._n_ctx)
        task = TaskParams.from_params(prompt, sampling, params, self._model)
        task.n = payload.n
        constraint = self._constraint(payload, text)
        if constraint is not None:
            task.matcher = lambda: Matcher(self._vocabulary, constraint.grammar, constraint.field)
        task.constraint = constraint
        if isinstance(payload, ChatPayload):
            self._plan_parsing(task, payload, text)
        elif payload.echo:
            task.echo = text.text or self._model.detokenize(prompt.ids, special=False).decode("utf-8", "replace")
        return task

    def check(self, payload: ChatPayload | CompletionPayload) -> int:
        """How many tokens the prompt has; raises what the job would be refused for once it has its turn."""
        text = self._prompt_text(payload)
        logit_bias(payload.generation, self._model)
        constraint = self._constraint(payload, text)
        if constraint is not None:
            Matcher(self._vocabulary, constraint.grammar, constraint.field)
        return text.tokens(self._count_image_tokens)

    def render(self, payload: ChatPayload) -> str:
        """The prompt of a chat as text, with markers where pictures stand."""
        return self._prompt_text(payload).text

    def _prompt_text(self, payload: ChatPayload | CompletionPayload) -> PromptText:
        if isinstance(payload, ChatPayload):
            return self._maker.chat(payload)
        return self._maker.completion(payload.prompt)

    def _plan_parsing(self, task: TaskParams, payload: ChatPayload, text: PromptText) -> None:
        functions = frozenset(tool.function.name for tool in payload.callable_tools)
        schemas = {tool.function.name: tool.function.parameters or {} for tool in payload.callable_tools}
        is_fenced = task.constraint is not None and task.constraint.fenced
        task.shown_tokens = self._shown_tokens
        task.is_thinking_in_content = payload.reasoning_format == "none"
        if self._dialect.thinking:
            task.thinking_budget = payload.reasoning_budget if payload.reasoning_budget >= 0 else self._thinking_budget
            task.end_of_thinking = self._model.tokenize(self._dialect.thinking[1])
        task.parser = lambda: self._dialect.parser(
            reasoning_format=payload.reasoning_format,
            functions=functions,
            schemas=schemas,
            parallel=payload.parallel_tool_calls,
            prompt_tail=text.tail,
            fenced=is_fenced,
            prefill=text.prefill,
        )

    def _constraint(self, payload: ChatPayload | CompletionPayload, text: PromptText) -> Constraint | None:
        """What the job's answer has to follow."""
        if isinstance(payload, ChatPayload):
            return self._constraints.for_chat(payload, may_think=text.thinking is not False, prompt_tail=text.tail)
        return self._constraints.for_completion(payload.generation)

    def _marker_tokens(self) -> dict[str, int]:
        """The dialect's markers that are tokens of their own: the parser sees them even where the vocabulary calls them
        control tokens, and no text in a grammar spells them."""
        model, markers = self._model, dict[str, int]()
        special = frozenset().union(*model.special_texts)
        for text in self._dialect.markers:
            for part in re.split(r"[\x00-\x02]", text):
                ids = model.tokenize(part) if part else []
                names = [part] if len(ids) == 1 else [model.token_text(token) for token in ids]
                markers.update(
                    (name, token) for name, token in zip(names, ids, strict=True) if len(ids) == 1 or name in special
                )
        return {text: token for text, token in markers.items() if token not in model.end_tokens}

    # -- pictures

    def _seeing(self) -> Vision:
        if self._vision is None or not self._vision.supports_images:
            raise BadRequest(
                "This model cannot see: image input needs a vision projector (set vlm.mmproj or choose a model that has one)."
            )
        return self._vision

    def _tokenize_image(self, sha256: str, read_picture: Callable[[str], Pixels]) -> TokenizedImage:
        return self._seeing().tokenize_image(sha256, partial(read_picture, sha256))

    def _count_image_tokens(self, sha256: str) -> int:
        limits = self._limits

        def read_size() -> tuple[int, int]:
            try:
                path: str | os.PathLike[str] = self._spool.path(sha256)
                _, width, height = image_header(path, limits.image_pixels, limits.image_bytes)
                factor = shrink_factor(width, height)
                return -(-width // factor), -(-height // factor)
            except (OSError, ValueError):
                raise BatchError(f"The spool does not hold the image {sha256[:12]}…") from None

        return self._seeing().count_tokens(sha256, read_size)
