"""What an agent's way costs: how soon `batch mcp` says hello, and what a search through it adds to the same by HTTP.

    python bench/agent.py [--calls N] [--json]

One service with the engines without weights and a few texts in its inbox; searches are for words, in turn by HTTP and through
`batch mcp` over standard input and output. Ready in under 2 s; a search takes at most 50 ms more.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from measure import Report, finish, machine, options
from peer import Peer, ours

READY_BAR_S = 2.0
SEARCH_BAR_MS = 50.0
GREETINGS = 5
TEXTS = 20
DEADLINE_S = 60.0
QUERY = {"query": "budget bridge", "mode": "text", "limit": 5}
HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


class Agent:
    """`batch mcp`, spoken to in lines of JSON."""

    def __init__(self, home: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batch", "mcp", "--home", home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._id = 0
        self.ask("initialize", HELLO)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """The result of a request."""
        self._id += 1
        self._send({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params})
        assert self._process.stdout is not None
        while True:
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
            if answer.get("id") == self._id:
                return dict(answer["result"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


def milliseconds(work: Callable[[], Any]) -> float:
    started_at = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started_at)


def fill(service: Peer) -> None:
    """Texts that the search finds, with their results."""
    assert service.home is not None
    for number in range(TEXTS):
        path = service.home / f"text-{number}.txt"
        path.write_text(f"The budget for bridge number {number} was cut.")
        path.rename(service.home / "inbox" / path.name)
    deadline = time.monotonic() + DEADLINE_S
    while len(list((service.home / "outbox").glob("*.json"))) < TEXTS:
        if time.monotonic() > deadline:
            raise SystemExit("the texts have no results yet")
        time.sleep(0.05)


def bench(calls: int, threads: int) -> Report:
    report = Report("An agent's way (batch mcp)", machine(threads, calls))
    with ours(threads) as service:
        fill(service)
        home = os.fspath(service.home or "")
        greetings = []
        for _ in range(GREETINGS + 1):
            started_at = time.perf_counter()
            agent = Agent(home)
            greetings.append(time.perf_counter() - started_at)
            agent.close()
        ready = statistics.median(greetings[1:])  # the first one compiles and reads from disk what later ones find in memory
        report.say(f"ready after {ready:.2f} s (at most {READY_BAR_S:g})", ready <= READY_BAR_S)
        agent, client = Agent(home), service.client("vlm")
        found = agent.ask("tools/call", {"name": "search", "arguments": QUERY})["structuredContent"]["hits"]
        if len(found) != QUERY["limit"] or len(client.post("/v1/search", QUERY)["data"]) != QUERY["limit"]:
            raise SystemExit("the two searches do not find the same")
        by_http, by_agent = [], []
        for _ in range(calls):
            by_http.append(milliseconds(lambda: client.post("/v1/search", QUERY)))
            by_agent.append(milliseconds(lambda: agent.ask("tools/call", {"name": "search", "arguments": QUERY})))
        agent.close()
    added = statistics.median(by_agent) - statistics.median(by_http)
    report.say(
        f"a search through it: {statistics.median(by_agent):.1f} ms, by HTTP {statistics.median(by_http):.1f}: "
        f"{added:.1f} ms more (at most {SEARCH_BAR_MS:g})",
        added <= SEARCH_BAR_MS,
    )
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=1)
    parser.add_argument("--calls", type=int, default=50, help="searches of each way")
    given = parser.parse_args()
    os.environ.update(BATCH_FOLDER__SETTLE="0.2", BATCH_FOLDER__SCAN="1")
    return finish([bench(given.calls, given.threads)], given.json)


if __name__ == "__main__":
    sys.exit(main())
