"""truncation: "auto" of a Responses request: the oldest turns go until the rest fits into the context."""

from __future__ import annotations

import msgspec

from batch.payloads.chat import ChatPayload, Message
from batch.payloads.questions import CountTokens
from batch.queue.hub.hub import Hub

ANSWER_SHARE = 4
"""A quarter of the context at most is kept free for the answer."""
DEFAULT_ANSWER_TOKENS = 1024


async def drop_oldest(hub: Hub, payload: ChatPayload, queue: str) -> tuple[ChatPayload, int]:
    """The payload with as many of its oldest turns dropped as have to be, and how many those are.

    A call goes together with its results; instructions and the last user turn stay. What is too long even so is left
    to be refused. Waits while the model loads.
    """
    groups = _droppable(payload.messages)
    if await _fits(hub, payload, queue):
        return payload, 0
    low, high = 1, len(groups)
    while low < high:
        middle = (low + high) // 2
        if await _fits(hub, _without(payload, groups[:middle]), queue):
            high = middle
        else:
            low = middle + 1
    dropped = groups[:low]
    return _without(payload, dropped), sum(len(group) for group in dropped)


async def _fits(hub: Hub, payload: ChatPayload, queue: str) -> bool:
    count = await hub.ask(queue, CountTokens(payload=payload))
    answer = payload.generation.max_tokens or DEFAULT_ANSWER_TOKENS
    return not count.n_ctx or count.tokens + min(answer, count.n_ctx // ANSWER_SHARE) <= count.n_ctx


def _without(payload: ChatPayload, groups: list[list[int]]) -> ChatPayload:
    dropped = {at for group in groups for at in group}
    messages = [message for at, message in enumerate(payload.messages) if at not in dropped]
    return msgspec.structs.replace(payload, messages=messages)


def _droppable(messages: list[Message]) -> list[list[int]]:
    """Positions of the messages that may go, oldest first; those that only go together stand in one list."""
    last_user = max((at for at, message in enumerate(messages) if message.role == "user"), default=-1)
    groups: list[list[int]] = []
    group_of_call: dict[str, list[int]] = {}
    for at, message in enumerate(messages):
        if message.role in ("system", "developer") or at >= last_user:
            continue
        group = group_of_call.get(message.tool_call_id or "")
        if group is not None:
            group.append(at)
            continue
        groups.append([at])
        group_of_call |= {call.id: groups[-1] for call in message.tool_calls if call.id}
    return groups
