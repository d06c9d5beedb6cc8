"""The events of a streamed Response, in OpenAI's order: one item is open at a time, and one event comes last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from batch.api.generation.jobs import note_comment
from batch.api.generation.tools.custom import CustomInput
from batch.api.jobs.answer_ids import random_id
from batch.api.jobs.server_sent_events import named_sse_event, sse_comment
from batch.api.responses.request import ResponsesBody
from batch.api.responses.response import (
    CustomCallItem,
    FunctionCallItem,
    ItemStatus,
    MessageItem,
    OutputItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponseObject,
    SummaryText,
    call_item,
    failed_response,
    finished_response,
    reasoning_item,
)
from batch.errors import BatchError
from batch.payloads.chat import ChatResult, TokenLogprob, ToolCallDelta
from batch.payloads.events import Delta, JobEvent, Progress

OpenItem = Literal["reasoning", "message"] | int
"""A thought, the message, or one of the calls by its index."""


class ResponseEvents:
    """The event serializer of /v1/responses."""

    def __init__(self, body: ResponsesBody, response: ResponseObject, notes: Sequence[str] = ()) -> None:
        """`response`: the object as it stands before the first token."""
        self._response = response
        self.log: list[tuple[int, bytes]] | None = None
        """Where every event goes with its sequence number, for streams that can be taken up again; None: nowhere."""
        self._summarized = body.summarizes_reasoning
        self._notes = notes
        self._custom_names = body.custom_names
        self._custom_input = CustomInput()
        """Reads the open call of a custom tool."""
        self._output: list[OutputItem] = []
        self._open: OpenItem | None = None
        self._item: OutputItem = MessageItem(id="")
        self._text: list[str] = []
        """The open item's text so far, in pieces."""
        self._logprobs: list[TokenLogprob] = []
        self._number = 0
        """The next event's sequence number."""
        self._started = False
        self._announced = False

    # -- the serializer

    def event(self, job: int, event: JobEvent) -> bytes:
        match event:
            case Progress():  # a job that is refused at its start reports none, and stays an HTTP error
                return self._start()
            case Delta(index=0):
                return self._start() + self._delta(event)
            case _:
                return b""

    def finish(self, job: int, result: ChatResult) -> bytes:
        cut = result.choices[0].finish_reason == "length"
        piece = self._start() + self._close_item("incomplete" if cut else "completed") + note_comment(result.note)
        self._response = finished_response(self._response, result, self._output)
        timings = {"timings": result.timings} if result.timings else {}
        return piece + self._event("response.incomplete" if cut else "response.completed", response=self._response, **timings)

    def close(self) -> bytes:
        return b""

    def error(self, error: BatchError) -> bytes:
        """The last event of a stream that broke: clients take an `error` event only where no response has begun."""
        if not self._announced:
            self._response = failed_response(self._response, error, self._output)
            return self._event("error", code=str(error.status), message=error.message, param=error.details.get("param"))
        piece = self._close_item("incomplete")
        self._response = failed_response(self._response, error, self._output)
        return piece + self._event("response.failed", response=self._response)

    def replay(self, response: ResponseObject) -> bytes:
        """Every event of a response that has ended, each text as one delta."""
        piece = self._start()
        for item in response.output:
            piece += self._close_item("completed")
            self._open, self._text, self._logprobs = "message", [], []
            match item:
                case MessageItem():
                    self._item = MessageItem(id=item.id, status="in_progress")
                    self._logprobs = [logprob for part in item.content for logprob in part.logprobs]
                    text = "".join(part.text for part in item.content)
                case ReasoningItem():
                    self._item = ReasoningItem(id=item.id, status="in_progress")
                    self._summarized = bool(item.summary)
                    text = "".join(part.text for part in item.summary) + "".join(part.text for part in item.content)
                case FunctionCallItem():
                    self._item = msgspec.structs.replace(item, arguments="", status="in_progress")
                    text = item.arguments
                case CustomCallItem():
                    self._item = msgspec.structs.replace(item, input="", status="in_progress")
                    text = item.input
            piece += self._event("response.output_item.added", output_index=len(self._output), item=self._item)
            piece += self._part_added() + self._whole_text(text)
            piece += self._close_item(item.status)
        self._response = response
        last = response.status if response.status in ("completed", "incomplete") else "failed"
        return piece + self._event(f"response.{last}", response=response)

    def _whole_text(self, text: str) -> bytes:
        match self._item:
            case _ if not text:
                return b""
            case ReasoningItem():
                return self._reasoning_delta(text)
            case MessageItem():
                self._text.append(text)
                return self._item_event("response.output_text.delta", content_index=0, delta=text, logprobs=self._logprobs)
            case CustomCallItem():
                self._text.append(text)
                return self._item_event("response.custom_tool_call_input.delta", delta=text)
            case _:
                self._text.append(text)
                return self._item_event("response.function_call_arguments.delta", delta=text)

    # -- its parts

    def _event(self, event_type: str, **fields: object) -> bytes:
        piece = named_sse_event(event_type, {"type": event_type, "sequence_number": self._number, **fields})
        if self.log is not None:
            self.log.append((self._number, piece))
        self._number += 1
        return piece

    def _item_event(self, event_type: str, **fields: object) -> bytes:
        return self._event(event_type, item_id=self._item.id, output_index=len(self._output), **fields)

    def _start(self) -> bytes:
        if self._started:
            return b""
        piece = b"".join(sse_comment(f"note: {note}") for note in self._notes) + self.announce()
        if self._response.status == "queued":
            self._response = msgspec.structs.replace(self._response, status="in_progress")
        self._started = True
        return piece + self._event("response.in_progress", response=self._response)

    def announce(self) -> bytes:
        """The first events: the response is created, and a background one queued. Nothing where they were sent."""
        if self._announced:
            return b""
        self._announced = True
        piece = self._event("response.created", response=self._response)
        return piece + (self._event("response.queued", response=self._response) if self._response.background else b"")

    @property
    def response(self) -> ResponseObject:
        """The response as far as it is known; final once `finish` or `error` was called."""
        return self._response

    def _delta(self, event: Delta) -> bytes:
        delta, piece = event.delta, b""
        if delta.reasoning_content:
            piece += self._open_item("reasoning") + self._reasoning_delta(delta.reasoning_content)
        if delta.content or (event.logprobs and self._open == "message"):
            piece += self._open_item("message")
            logprobs = event.logprobs.content if event.logprobs else []
            text = delta.content or ""
            self._text.append(text)
            self._logprobs += logprobs
            piece += self._item_event("response.output_text.delta", content_index=0, delta=text, logprobs=logprobs)
        for call in delta.tool_calls:
            piece += self._open_item(call.index, call)
            arguments = call.function.arguments or ""
            if isinstance(self._item, CustomCallItem):
                arguments = self._custom_input.feed(arguments)
            piece += self._whole_text(arguments)
        return piece

    def _reasoning_delta(self, text: str) -> bytes:
        self._text.append(text)
        if self._summarized:
            return self._item_event("response.reasoning_summary_text.delta", summary_index=0, delta=text)
        return self._item_event("response.reasoning_text.delta", content_index=0, delta=text)

    def _open_item(self, item: OpenItem, call: ToolCallDelta | None = None) -> bytes:
        if self._open == item:
            return b""
        piece = self._close_item("completed")
        self._open, self._text, self._logprobs = item, [], []
        match item:
            case "reasoning":
                self._item = ReasoningItem(id=random_id("rs_"), status="in_progress")
            case "message":
                self._item = MessageItem(id=random_id("msg_"), status="in_progress")
            case _:
                name = (call.function.name if call else None) or ""
                is_custom = name in self._custom_names
                self._item = call_item(call.id if call else None, name, status="in_progress", is_custom=is_custom)
                self._custom_input = CustomInput()
        piece += self._event("response.output_item.added", output_index=len(self._output), item=self._item)
        return piece + self._part_added()

    def _part_added(self) -> bytes:
        match self._item:
            case MessageItem():
                part = OutputText(text="")
                return self._item_event("response.content_part.added", content_index=0, part=part)
            case ReasoningItem() if self._summarized:
                summary = SummaryText(text="")
                return self._item_event("response.reasoning_summary_part.added", summary_index=0, part=summary)
            case ReasoningItem():
                thought = ReasoningText(text="")
                return self._item_event("response.content_part.added", content_index=0, part=thought)
            case _:
                return b""

    def _close_item(self, status: ItemStatus) -> bytes:
        """Close the open item and put it into the output."""
        if self._open is None:
            return b""
        text = "".join(self._text)
        match self._item:
            case ReasoningItem(id=item_id):
                piece = self._reasoning_done(text)
                item: OutputItem = reasoning_item(text, item_id, summarized=self._summarized, status=status)
            case MessageItem(id=item_id):
                part = OutputText(text=text, logprobs=self._logprobs)
                piece = self._item_event("response.output_text.done", content_index=0, text=text, logprobs=self._logprobs)
                piece += self._item_event("response.content_part.done", content_index=0, part=part)
                item = MessageItem(id=item_id, content=[part], status=status)
            case CustomCallItem() as custom:
                item = msgspec.structs.replace(custom, input=text, status=status)
                piece = self._item_event("response.custom_tool_call_input.done", input=text)
            case call:
                item = msgspec.structs.replace(call, arguments=text, status=status)
                piece = self._item_event("response.function_call_arguments.done", name=call.name, arguments=text)
        piece += self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        self._open = None
        return piece

    def _reasoning_done(self, text: str) -> bytes:
        if self._summarized:
            piece = self._item_event("response.reasoning_summary_text.done", summary_index=0, text=text)
            part = SummaryText(text=text)
            return piece + self._item_event("response.reasoning_summary_part.done", summary_index=0, part=part)
        piece = self._item_event("response.reasoning_text.done", content_index=0, text=text)
        return piece + self._item_event("response.content_part.done", content_index=0, part=ReasoningText(text=text))
