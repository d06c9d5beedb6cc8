"""Logged or stored responses as streams again: what a log says was sent, and events for a response that was never streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from batch.api.json_body import JsonObject
from batch.api.responses.events import ResponseEvents
from batch.api.responses.request import ResponsesBody
from batch.api.responses.response import ResponseObject
from batch.payloads.chat import FunctionDelta, MessageDelta, ToolCallDelta
from batch.payloads.json_text import encode

_TEXT_EVENTS = {
    "response.output_text.delta": "content",
    "response.reasoning_text.delta": "reasoning_content",
    "response.reasoning_summary_text.delta": "reasoning_content",
}
"""The field of a message that an event's text belongs to."""


class LoggedDeltas:
    """Reads a log's events, page by page, as the deltas that they were made of."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        """Which of the answer's calls an output item is, by its index in the output."""

    def read(self, events: Sequence[tuple[int, bytes]]) -> Iterator[MessageDelta]:
        """What of the answer the next events have brought, in order."""
        for _, piece in events:
            fields = event_fields(piece)
            kind = fields["type"]
            if field := _TEXT_EVENTS.get(kind):
                yield MessageDelta(**{field: fields["delta"]})
            elif kind == "response.output_item.added" and fields["item"]["type"] in ("function_call", "custom_tool_call"):
                item, index = fields["item"], len(self._calls)
                self._calls[fields["output_index"]] = index
                name = FunctionDelta(name=item["name"])
                yield MessageDelta(tool_calls=[ToolCallDelta(index=index, id=item["call_id"], type="function", function=name)])
                if item["type"] == "custom_tool_call":
                    yield _more_arguments(index, '{"input": "')
            elif kind == "response.function_call_arguments.delta":
                index = self._calls[fields["output_index"]]
                yield _more_arguments(index, fields["delta"])
            elif kind == "response.custom_tool_call_input.delta":
                yield _more_arguments(self._calls[fields["output_index"]], encode(fields["delta"]).decode()[1:-1])
            elif kind == "response.custom_tool_call_input.done":
                yield _more_arguments(self._calls[fields["output_index"]], '"}')


def _more_arguments(index: int, text: str) -> MessageDelta:
    return MessageDelta(tool_calls=[ToolCallDelta(index=index, function=FunctionDelta(arguments=text))])


def event_fields(piece: bytes) -> JsonObject:
    """The JSON of a server-sent event."""
    fields: JsonObject = msgspec.json.decode(piece.partition(b"data: ")[2])
    return fields


def events_of_response(body: ResponsesBody, response: ResponseObject) -> list[tuple[int, bytes]]:
    """Events, with their sequence numbers, of a response that has ended and whose stream was not logged."""
    started = msgspec.structs.replace(response, status="in_progress", output=[], usage=None, completed_at=None)
    serializer = ResponseEvents(body, started)
    log: list[tuple[int, bytes]] = []
    serializer.log = log
    serializer.replay(response)
    return log
