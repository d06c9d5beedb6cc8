"""FastMCP's own client, at its defaults, against /mcp at MCP_URL and against `batch mcp` of HOME_FOLDER, run by BATCH_PYTHON.

Prints one JSON object that the test looks at; any error ends it with a traceback and status 1.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

from loopback_only import forbid_other_hosts

TRIED = forbid_other_hosts()

from fastmcp import Client  # noqa: E402
from fastmcp.client.transports import StdioTransport  # noqa: E402

AGENT = StdioTransport(
    os.environ["BATCH_PYTHON"],
    ["-m", "batch", "mcp", "--home", os.environ["HOME_FOLDER"]],
    env={"PYTHONPATH": os.environ["BATCH_ROOT"], "PATH": os.environ["PATH"]},
)


async def use(client: Client[Any]) -> dict[str, Any]:
    reported: list[float] = []

    async def note_progress(done: float, total: float | None, message: str | None) -> None:
        reported.append(done)

    async with client:
        tools = {tool.name: bool(tool.outputSchema) for tool in await client.list_tools()}
        search = await client.call_tool("search", {"query": "tomatoes", "mode": "text"})
        caption = await client.call_tool("caption", {"path": "trip/circle.png"}, progress_handler=note_progress)
        mistake = await client.call_tool("caption", {"path": "../x.png"}, raise_on_error=False)
    return {
        "tools": tools,
        "search": search.structured_content,
        # an object of a class that the client makes of the tool's output schema
        "source": search.data.hits[0].source if hasattr(search.data.hits[0], "source") else search.data.hits[0]["source"],
        "caption": caption.data.text,
        "is_error": mistake.is_error,
        "says": mistake.content[0].text,
    }


async def main() -> None:
    seen = {"http": await use(Client(os.environ["MCP_URL"])), "stdio": await use(Client(AGENT))}
    print(json.dumps({**seen, "other_hosts": TRIED}))


asyncio.run(main())
