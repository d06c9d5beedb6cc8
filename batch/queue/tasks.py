"""What a job asks for and what it answers: the JSON shapes that doors and workers share.

A worker never sees a caller's bytes in here: images and sound are spool files named by sha256.
Keys marked NotRequired have the default that their comment gives; null counts as absent.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class ChatRequest(TypedDict):
    """task "chat" on the vlm queue."""

    messages: list[dict[str, Any]]
    """OpenAI messages. Image parts stand as {"type": "image", "blob": sha256}; text parts as {"type": "text", "text"};
    content may be a string, null or a list of parts; assistant turns may carry reasoning_content and tool_calls."""
    generation: NotRequired[Generation]
    tools: NotRequired[list[dict[str, Any]]]
    tool_choice: NotRequired[str | dict[str, Any]]
    parallel_tool_calls: NotRequired[bool]
    enable_thinking: NotRequired[bool]
    """Default: the template's own default for `<think>` models, True for Gemma 4."""
    reasoning_format: NotRequired[Literal["none", "auto", "deepseek"]]
    """none leaves the thinking inside content; auto (default) splits it into reasoning_content."""
    reasoning_budget: NotRequired[int]
    """Most tokens of thinking; -1 (default) no limit."""
    chat_template_kwargs: NotRequired[dict[str, Any]]
    n: NotRequired[int]
    stream: NotRequired[bool]
    """False: a caller waits, but for the result alone, so no deltas are made."""


class CompletionRequest(TypedDict):
    """task "completion" on the vlm queue: no template, no parsing."""

    prompt: str | list[int] | list[str | int]
    generation: NotRequired[Generation]
    n: NotRequired[int]
    echo: NotRequired[bool]
    stream: NotRequired[bool]
    """As in a ChatRequest."""
    describe: NotRequired[bool]
    """Tell how many tokens the prompt has in an event before the first delta, and its text in the result."""


class Generation(TypedDict, total=False):
    """How tokens are drawn. Every field has llama-server's name, range and default (GGUF's, else its own)."""

    max_tokens: int
    stop: list[str]
    seed: int
    ignore_eos: bool
    t_max_predict_ms: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    repeat_penalty: float
    repeat_last_n: int
    presence_penalty: float
    frequency_penalty: float
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: list[str]
    xtc_probability: float
    xtc_threshold: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    dynatemp_range: float
    dynatemp_exponent: float
    logit_bias: list[list[Any]]
    """Pairs [token id or text, bias or false]."""
    samplers: list[str]
    n_probs: int
    """0: no logprobs."""
    logprobs: bool
    grammar: str
    """GBNF."""
    json_schema: dict[str, Any] | bool
    """A JSON Schema; {} or True stands for any JSON object ("json_object")."""
    cache_prompt: bool
    timings_per_token: bool
    return_progress: bool


class ChatResult(TypedDict):
    """Result of chat; of completion too, whose choices carry "text" instead of "message"."""

    choices: list[dict[str, Any]]
    """As in OpenAI's response: index, message {role, content, reasoning_content?, tool_calls?}, finish_reason,
    logprobs?; and given {field: characters} where the request began the message itself: no delta tells them."""
    usage: dict[str, Any]
    """prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details {cached_tokens},
    completion_tokens_details {reasoning_tokens}."""
    timings: dict[str, Any]
    """llama-server's: cache_n, prompt_n, prompt_ms, …, predicted_per_second."""
    prompt: NotRequired[str]
    """Of a completion with `describe`: the prompt's tokens as text."""
    note: NotRequired[str]
    """For a header, say: "all of max_tokens went into thinking", "stopped a repetition"."""


class ChatDelta(TypedDict):
    """An event of a chat or completion job, pushed while it runs: {"type": "delta", …}."""

    index: int
    delta: dict[str, Any]
    """Only what is new: content | reasoning_content | tool_calls (OpenAI deltas); {"text"} for a completion.
    The API adds the first {"role": "assistant"} chunk itself."""
    logprobs: NotRequired[dict[str, Any]]
    timings: NotRequired[dict[str, Any]]
    finish_reason: NotRequired[str]
    """Present on the last delta of a choice, whose `delta` may be empty."""
    prompt: NotRequired[dict[str, int]]
    """On a job's first delta: the prompt's tokens, and how many of them were cached. An event of its own would have the
    first token wait to be sent."""


class EmbedRequest(TypedDict):
    """task "embed" on the embedding queue."""

    inputs: NotRequired[list[str | list[int | str]]]
    """Texts or token arrays (a token array may mix ids and strings), at least one."""
    blob: NotRequired[str]
    """Instead of `inputs`: sha256 of a spool file that holds that list as JSON (large calls)."""
    truncate: NotRequired[bool]
    """Cut what is too long, keeping the closing token; default False: ContextExceeded with index, n_prompt_tokens and
    n_ctx in its details."""
    windows: NotRequired[bool]
    """Split what is too long into overlapping windows (inbox texts); one vector a window."""
    dimensions: NotRequired[int]


class EmbedResult(TypedDict):
    count: int
    """Number of vectors."""
    dimensions: int
    vectors: NotRequired[str]
    """base64 of count x dimensions little-endian float32, row by row; absent when `blob` is there."""
    blob: NotRequired[str]
    """sha256 of a spool file with the same bytes, for results above 64 KB of vectors."""
    tokens: list[int]
    """Tokens of each input with special tokens; a spooled result holds the sum alone, as one item."""
    windows: NotRequired[list[dict[str, int]]]
    """One a vector, with request.windows: {"index": input, "start": first character, "end": one past the last}."""
    ms: float


class TranscribeRequest(TypedDict):
    """task "transcribe" on the stt queue."""

    blob: str
    """sha256 of the sound or video file as it came."""
    filename: NotRequired[str]
    options: NotRequired[dict[str, Any]]
    """whisper-server's fields with their names, types already right: language ("auto", "en", …; default "en" for
    /inference, "auto" for the inbox), translate, detect_language, temperature, temperature_inc, prompt,
    carry_initial_prompt, offset_t, duration, max_len, split_on_word, token_timestamps, no_timestamps, best_of,
    beam_size, audio_ctx, max_context, word_thold, entropy_thold, logprob_thold, no_speech_thold, suppress_nst,
    no_language_probabilities, vad, … Booleans are bools, numbers numbers."""
    words: NotRequired[bool]
    """Times of whole words are wanted."""


class TranscribeResult(TypedDict):
    text: str
    """Every segment's text, as whisper-server's json has it (leading space, trailing newline of each segment)."""
    language: str
    """Two-letter code."""
    language_name: str
    """Lower-case English name."""
    duration: float
    """Seconds of sound."""
    segments: list[dict[str, Any]]
    """id, start, end (s), text, tokens [ids], temperature, avg_logprob, compression_ratio, no_speech_prob,
    words when asked: whole ones [{word, start, end}] with request.words, with token_timestamps whisper-server's
    [{word, start, end, probability, t_dtw}], a word a token."""
    language_probabilities: NotRequired[dict[str, float]]
    truncated: NotRequired[str]
    """One sentence when the file broke off before its end."""
    ms: float


# Events that any job may push besides deltas:
#   {"type": "started"}                                     a worker has taken it
#   {"type": "prompt", "tokens": n}                         a completion with `describe`: what it goes on from
#   {"type": "progress", "done": n, "total": n | None, "unit": "tokens" | "seconds" | "texts"}
#   {"type": "segment", "segment": {…}}                     a transcript's segment is final
#   {"type": "end", "state": "done" | "failed" | "cancelled"}   the row holds the result or the error
