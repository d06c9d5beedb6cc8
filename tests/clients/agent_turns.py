"""openai-agents at its defaults against the live address of OPENAI_BASE_URL. FOLDER is an empty folder.

Prints one JSON object that the test looks at; any error ends it with a traceback and status 1.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from loopback_only import forbid_other_hosts

TRIED = forbid_other_hosts()

from agents import Agent, OpenAIConversationsSession, Runner, SQLiteSession  # noqa: E402
from agents.tracing import get_trace_provider  # noqa: E402
from openai import AsyncOpenAI, NotFoundError  # noqa: E402

AGENT = Agent(name="clerk", instructions="Be short.")
"""Neither a model nor a client is named: the package's own model and its Responses class are taken."""


def say(items: list[Any]) -> list[list[str]]:
    """Role and text of each item."""
    return [[item["role"], text if isinstance(text := item["content"], str) else text[0]["text"].strip()] for item in items]


async def run_chain(client: AsyncOpenAI) -> dict[str, Any]:
    first = await Runner.run(AGENT, "first words")
    second = await Runner.run(AGENT, "second words", previous_response_id=first.last_response_id)
    history = client.responses.input_items.list(second.last_response_id or "", order="asc")
    return {
        "answers": [first.final_output.strip(), second.final_output.strip()],
        "items": say([item.model_dump() async for item in history]),
    }


async def run_streamed() -> dict[str, Any]:
    result = Runner.run_streamed(AGENT, "stream these words")
    deltas = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return {"deltas": deltas, "answer": result.final_output}


async def run_file_session() -> dict[str, Any]:
    session = SQLiteSession("clerk", f"{os.environ['FOLDER']}/session.db")
    try:
        answers = [(await Runner.run(AGENT, text, session=session)).final_output.strip() for text in ("hello there", "go on")]
        return {"answers": answers, "items": say(await session.get_items())}
    finally:
        session.close()


async def run_conversation(client: AsyncOpenAI) -> dict[str, Any]:
    session = OpenAIConversationsSession()
    for text in ("remember this", "and this"):
        await Runner.run(AGENT, text, session=session)
    id = session.session_id
    items, last = await session.get_items(), await session.pop_item()
    await session.add_items([{"role": "user", "content": f"note {n}"} for n in range(25)])
    newest = await session.get_items(limit=2)
    count = len([item async for item in client.conversations.items.list(id)])
    await session.clear_session()
    try:
        await client.conversations.retrieve(id)
    except NotFoundError:
        is_deleted = True
    else:
        is_deleted = False
    return {
        "items": say(items),
        "popped": say([last]),
        "newest": say(newest),
        "count": count,
        "is_deleted": is_deleted,
    }


async def main() -> dict[str, Any]:
    async with AsyncOpenAI() as client:
        return {
            "chain": await run_chain(client),
            "stream": await run_streamed(),
            "file": await run_file_session(),
            "conversation": await run_conversation(client),
        }


seen = asyncio.run(main())
get_trace_provider().shutdown()  # what is still to be sent anywhere is sent now
print(json.dumps({**seen, "other_hosts": TRIED}))
