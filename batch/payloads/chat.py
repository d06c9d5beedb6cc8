"""Chat and completion jobs on the vlm queue: payloads, results and the deltas that are pushed meanwhile."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from batch.payloads.sampling import SamplingParams

JsonSchema = dict[str, Any]
"""A JSON Schema document, as the client wrote it."""


class _Struct(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of what stands in rows and frames: absent fields are left out of the JSON."""


class TextPart(_Struct, tag="text", frozen=True, kw_only=True):
    """Text inside a message."""

    text: str


class ImagePart(_Struct, tag="image", frozen=True, kw_only=True):
    """A picture inside a message."""

    blob: str
    """sha256 of its bytes in the spool."""


Part = TextPart | ImagePart


class FunctionCall(_Struct, frozen=True, kw_only=True):
    """The function that a tool call names."""

    name: str
    arguments: str
    """Text as the model wrote it: JSON, unless the call was cut."""


class ToolCall(_Struct, frozen=True, kw_only=True):
    """A call that an assistant's message holds."""

    function: FunctionCall
    id: str | None = None
    type: Literal["function"] = "function"


class Message(_Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    """What an assistant thought before its content."""
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None


class Function(_Struct, frozen=True, kw_only=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None
    is_custom: bool = False
    """Its only argument is a text, `input`, which the client gets as it is."""
    lark: str | None = None
    """The grammar of that text."""


class Tool(_Struct, frozen=True, kw_only=True):
    """A tool that the model may call."""

    function: Function
    type: Literal["function"] = "function"


class NamedToolChoice(_Struct, frozen=True, kw_only=True):
    """The one function that has to be called."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | NamedToolChoice


MAX_STOPS = 64
MAX_STOP_CHARS = 1024
MAX_BIASES = 1 << 18
"""Most tokens that are biased: as many as a large vocabulary has."""
StopList = Annotated[list[Annotated[str, Meta(max_length=MAX_STOP_CHARS)]], Meta(max_length=MAX_STOPS)]
BiasList = Annotated[list[tuple[int | str, float | Literal[False]]], Meta(max_length=MAX_BIASES)]


class GenerationParams(SamplingParams, frozen=True, omit_defaults=True, kw_only=True):
    """Everything that decides on a generation besides its prompt; sampling parameters by llama-server's names."""

    max_tokens: int | None = None
    """None or -1: until the model ends or the context is full."""
    stop: StopList = msgspec.field(default_factory=list)
    """Strings that end the content; never looked for in thinking or tool calls."""
    ignore_eos: bool = False
    t_max_predict_ms: int | None = None
    """Milliseconds of generating after which the next line feed ends it."""
    logit_bias: BiasList = msgspec.field(default_factory=list)
    """Pairs of a token (id or text) and a bias; False forbids the token."""
    logprobs: bool = False
    n_probs: int = 0
    """Most likely tokens reported beside each one, with `logprobs`."""
    post_sampling_probs: bool = False
    """Log probabilities are those after the samplers, among the tokens that these left."""
    grammar: str | None = None
    """GBNF or Lark that the content has to follow."""
    json_schema: JsonSchema | bool | None = None
    """A JSON Schema that the content has to follow; {} or True: any JSON object."""
    regex: str | None = None
    """A regular expression that the whole content has to match."""
    cache_prompt: bool = True
    timings_per_token: bool = False
    return_progress: bool = False


class ChatPayload(_Struct, tag="chat", tag_field="task", frozen=True, kw_only=True):
    """Answer a conversation through the model's chat template."""

    messages: list[Message]
    generation: GenerationParams = GenerationParams()
    tools: list[Tool] = []
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    enable_thinking: bool | None = None
    """None: the template's own default."""
    reasoning_format: Literal["none", "auto", "deepseek"] = "auto"
    """"none" leaves thinking inside content; the others split it into reasoning_content."""
    reasoning_budget: int = -1
    """Most tokens of thinking; -1: the setting vlm.thinking_budget, no limit by default."""
    chat_template_kwargs: dict[str, Any] = {}
    n: int = 1
    """Choices."""
    stream: bool | None = None
    """False: a client waits for the result alone, so no deltas are emitted."""

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that may be called: none with tool_choice "none", one when it names one."""
        choice = self.tool_choice
        if isinstance(choice, NamedToolChoice):
            return [tool for tool in self.tools if tool.function.name == choice.name]
        return [] if choice == "none" else self.tools


class CompletionPayload(_Struct, tag="completion", tag_field="task", frozen=True, kw_only=True):
    """Continue a prompt without template or parsing."""

    prompt: str | list[int | str]
    """Text, or token ids and texts mixed."""
    generation: GenerationParams = GenerationParams()
    n: int = 1
    echo: bool = False
    """The text of each choice begins with the prompt."""
    stream: bool | None = None
    """As in ChatPayload."""
    describe: bool = False
    """Report the prompt's token count before the first delta, and its text in the result."""


def pictures_of(payload: ChatPayload | CompletionPayload) -> list[str]:
    """sha256 names of a payload's pictures in the spool."""
    if isinstance(payload, CompletionPayload):
        return []
    contents = [message.content for message in payload.messages if isinstance(message.content, list)]
    return [part.blob for content in contents for part in content if isinstance(part, ImagePart)]


class TopLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """One likely token and its log probability."""

    id: int
    token: str
    bytes: list[int]
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, kw_only=True):
    """A drawn token's log probability, in OpenAI's shape; see Logprobs for which one."""

    id: int
    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TopLogprob] = msgspec.field(default_factory=list)


class Logprobs(msgspec.Struct, frozen=True, omit_defaults=True):
    """Log probabilities of content tokens, in order: joined, their texts are the content."""

    content: list[TokenLogprob]
    post_sampling: bool = False
    """Whether they are those that sampling left; else the model's own, over the whole vocabulary."""


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """llama-server's timings; the first token comes with the prompt, so steps are one fewer than tokens."""

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float = 0.0
    prompt_per_second: float = 0.0
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float = 0.0
    predicted_per_second: float = 0.0


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens: those that stood in the prompt cache."""

    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """Of the generated tokens: those spent on thinking."""

    reasoning_tokens: int = 0


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in and out, in OpenAI's shape."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class AssistantMessage(_Struct, frozen=True, kw_only=True):
    """What a chat choice says."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] = []


FinishReason = Literal["stop", "length", "tool_calls"]
StopType = Literal["eos", "word", "limit"]
"""llama-server's word for what ended a generation: the model, a stop string, a limit."""


class ChatChoice(_Struct, frozen=True, kw_only=True):
    """One choice: `message` of a chat, `text` and `tokens` of a completion."""

    index: int = 0
    finish_reason: FinishReason
    message: AssistantMessage | None = None
    text: str | None = None
    tokens: list[int] = []
    logprobs: Logprobs | None = None
    prefill: dict[str, int] = {}
    """Characters of each field that the request began itself (a prefilled message): no delta repeats them."""
    stop_type: StopType = "eos"
    stopping_word: str = ""


class ChatResult(_Struct, frozen=True, kw_only=True):
    """Result of a chat or completion job."""

    choices: list[ChatChoice]
    usage: Usage
    timings: Timings | None = None
    prompt: str | None = None
    """Of a completion with `describe`: the prompt's tokens as text."""
    note: str | None = None
    """What a person should know: "all of max_tokens went into thinking", "stopped a repetition"."""


class FunctionDelta(_Struct, frozen=True, kw_only=True):
    """New characters of a tool call's function."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(_Struct, frozen=True, kw_only=True):
    """What is new of one tool call; id and type come with its first delta."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta = FunctionDelta()


class MessageDelta(_Struct, frozen=True, kw_only=True, gc=False):
    """Only what is new of a choice; `text` for a completion."""

    # One a token, and in no cycle: the collector need not follow it (gc=False), which makes it in a third of the time.

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] = []
    text: str | None = None


class PromptTokens(msgspec.Struct, frozen=True):
    """Tokens of a prompt, and how many of them stood in the prompt cache."""

    tokens: int
    cached: int
