"""What the bodies of all three chat APIs take besides the generation's parameters: how the model thinks."""

from __future__ import annotations

from batch.api.generation.conversation import Thinking
from batch.api.generation.request import GenerationBody, TokenLimit
from batch.api.json_body import JsonObject, quoted
from batch.errors import BadRequest


class ChatGenerationBody(GenerationBody, frozen=True, kw_only=True):
    """Fields of llama-server and vLLM that every chat API here takes."""

    enable_thinking: bool | None = None
    chat_template_kwargs: JsonObject | None = None
    reasoning_format: str | None = None
    reasoning_budget_tokens: TokenLimit | None = None
    thinking_budget_tokens: TokenLimit | None = None

    def read_thinking(self, effort: str | None = None) -> Thinking:
        """Whether and how the model thinks; `effort` is OpenAI's word, "none" switches thinking off.

        Raises BadRequest naming the field.
        """
        kwargs = dict(self.chat_template_kwargs or {})
        enabled = self.enable_thinking
        if (switch := kwargs.pop("enable_thinking", None)) is not None:
            if not isinstance(switch, bool):
                raise BadRequest(
                    "Field 'chat_template_kwargs.enable_thinking': should be true or false",
                    param="chat_template_kwargs.enable_thinking",
                )
            enabled = switch
        if effort == "none":
            enabled = False
            kwargs.pop("reasoning_effort", None)
        elif effort:
            kwargs["reasoning_effort"] = effort
        budgets = (self.reasoning_budget_tokens, self.thinking_budget_tokens)
        budget = next((tokens for tokens in budgets if tokens is not None), -1)
        thinking = Thinking(enabled=enabled, budget_tokens=budget, template_kwargs=kwargs)
        match self.reasoning_format:
            case None | "auto":
                pass
            case "none" | "deepseek":
                thinking.reasoning_format = self.reasoning_format
            case _:
                raise BadRequest(
                    f"Field 'reasoning_format': should be none, auto or deepseek, not {quoted(self.reasoning_format)}",
                    param="reasoning_format",
                )
        return thinking
