"""Clients that read streams while faults happen: no word may be missing, and none may come twice."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable

from running_service import RunningService, chat

_TIMEOUT_S = 240.0


class StreamingClients:
    """Some clients of a service, each asking again and again until it is told to end. A 503 is asked again; whatever else is no
    whole answer is kept in `faults`."""

    def __init__(self, service: Callable[[], RunningService], *, count: int = 2, words: int = 40, pause_ms: int = 20) -> None:
        """`service`: the one to ask, looked up for each request; `words` of each answer, one in `pause_ms`."""
        self._service = service
        self._words, self._pause_ms = words, pause_ms
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._ask_all, daemon=True) for _ in range(count)]

    def __enter__(self) -> StreamingClients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> Counter[str]:
        """Let each have its last answer; what they counted."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S)
            assert not thread.is_alive(), "a client waits for ever"
        return self.counts

    def _ask_all(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            text = " ".join(f"c{number}w{n}" for n in range(self._words))
            try:
                self._ask(text)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code == 503 and error.headers["Retry-After"]:
                        self.counts["refused_503"] += 1
                        time.sleep(0.2)
                    else:
                        self.faults.append(f"client {number}: {error.code} {error.read()[:300]!r}")
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.faults.append(f"client {number}: {error!r}")

    def _ask(self, text: str) -> None:
        body = {**chat(text, pause_ms=self._pause_ms), "stream": True}
        url = self._service().url("vlm", "/v1/chat/completions")
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        pieces: list[str] = []
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            for line in answer:
                data = line.decode().strip().removeprefix("data: ")
                if data == "[DONE]":
                    break
                if data.startswith("{"):
                    event = json.loads(data)
                    if "error" in event:
                        raise ValueError(f"an error in the stream: {data[:300]}")
                    pieces.append(event["choices"][0]["delta"].get("content") or "")
            else:
                raise ValueError(f"the stream broke off after {len(pieces)} pieces")
        said = "".join(pieces).split()
        if said != text.split():
            double = [word for word, n in Counter(said).items() if n > 1]
            raise ValueError(f"{len(said)} words, twice: {double[:5]}")
        self.counts["streams_whole"] += 1
        self.counts["words_once"] += len(said)
