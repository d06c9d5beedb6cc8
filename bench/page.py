"""Whether captions take longer while people look at the page: the inbox's pictures with a page open, and with none.

    python bench/page.py [--rounds N] [--pictures N] [--watchers N] [--threads N] [--json]

One service with the tiny Gemma 4 captions as many new pictures in each round, in turn with and without a page that is open
with its live view. The gallery and the status page are loaded when it is opened, and its stream of events is read to the end
of the round, as a browser does. CPU time of the service's processes and the clock must both stay within 1.02 of what they are
without; and what an open page costs an idle service must stay below two hundredths of a core.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from chat import SUBJECTS
from measure import Measure, Report, finish, machine, options
from peer import Peer, ours
from PIL import Image

BAR = 1.02
SIZE = (320, 240)
DEADLINE_S = 120.0
IDLE_S = 10.0
OPENED_PAGES = ("/", "/page/status")
OPEN, CLOSED = "ours", "page closed"
WATCHERS, EVENTS, CPU, OPENING_CPU = "watchers", "events", "cpu", "opening_cpu"


def write_pictures(folder: Path, seed: int, count: int) -> list[Path]:
    """Pictures that nobody has seen yet."""
    folder.mkdir()
    noise = np.random.default_rng(seed)
    paths = [folder / f"{seed}-{number}.png" for number in range(count)]
    for path in paths:
        small = noise.integers(0, 255, (SIZE[1] // 16, SIZE[0] // 16, 3), np.uint8)
        Image.fromarray(small).resize(SIZE).save(path)
    return paths


def caption(peer: Peer, seed: int, *, count: int) -> float:
    """Seconds from the drop of the pictures until the last result lies in the outbox."""
    assert peer.home is not None
    staged = write_pictures(peer.home / f"staged-{seed}", seed, count)
    inbox, outbox = peer.home / "inbox" / str(seed), peer.home / "outbox" / str(seed)
    with watching(peer):
        cpu_before, started_at = peer.cpu() or 0.0, time.perf_counter()
        os.rename(staged[0].parent, inbox)
        while True:
            with contextlib.suppress(FileNotFoundError):
                if sum(entry.name.endswith(".json") for entry in os.scandir(outbox)) >= count:
                    break
            if time.perf_counter() - started_at > DEADLINE_S:
                raise SystemExit(f"not all of {count} pictures were captioned within {DEADLINE_S:.0f} s")
            time.sleep(0.02)
        seconds = time.perf_counter() - started_at
        peer.notes[CPU].append((peer.cpu() or 0.0) - cpu_before)
        return seconds


@contextlib.contextmanager
def watching(peer: Peer) -> Iterator[None]:
    """As many pages as this side has are open meanwhile."""
    cpu_before = peer.cpu() or 0.0
    with contextlib.ExitStack() as stack:
        for _ in range(peer.notes[WATCHERS]):
            stack.enter_context(page_opened(peer))
        peer.notes[OPENING_CPU].append((peer.cpu() or 0.0) - cpu_before)
        yield


@contextlib.contextmanager
def page_opened(peer: Peer) -> Iterator[None]:
    """A page is loaded, and its events are read until the block is left."""
    client = peer.connect()
    for address in OPENED_PAGES:
        if "<h1>" not in client.get(address):
            raise SystemExit(f"{address} is no page: is page.enabled off?")
    client.close()
    connection = http.client.HTTPConnection("127.0.0.1", peer.ports["vlm"], timeout=60)
    connection.request("GET", "/page/events", headers={"Accept": "text/event-stream", "Sec-Fetch-Site": "same-origin"})
    stream = connection.getresponse()
    if stream.status != 200:
        raise SystemExit(f"/page/events answered {stream.status}")
    sock = connection.sock
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                if not (line := stream.readline()):
                    return
                peer.notes[EVENTS] += line.startswith(b"data:")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        with contextlib.suppress(OSError):
            sock.shutdown(2)
        thread.join()
        connection.close()


def say_cpu(report: Report, sides: Sequence[Peer], pictures: int) -> None:
    """What a caption costs the service in CPU time, both ways: the median of all rounds, which the clock has no part in."""
    watched, unwatched = (1e3 * statistics.median(side.notes[CPU]) / pictures for side in sides)
    report.say(
        f"CPU time of the service a caption: {watched:.2f} ms with a page open, {unwatched:.2f} without: "
        f"{watched / unwatched:.4f} (at most {BAR})",
        watched <= BAR * unwatched,
    )
    opening = 1e3 * statistics.median(sides[0].notes[OPENING_CPU])
    report.say(f"opening the page once, gallery and status, before that: {opening:.0f} ms of CPU")


def say_idle(report: Report, sides: Sequence[Peer]) -> None:
    """What an open page costs by itself, with nothing else to do: its share of one core is what captions can lose to it."""
    per_second = []
    for side in sides:
        with watching(side):
            time.sleep(1)
            cpu_before = side.cpu() or 0.0
            time.sleep(IDLE_S)
            per_second.append(1e3 * ((side.cpu() or 0.0) - cpu_before) / IDLE_S)
    added = per_second[0] - per_second[1]
    report.say(
        f"CPU time of the idle service a second: {per_second[0]:.1f} ms with a page open, {per_second[1]:.1f} without: "
        f"{added / 10:.2f} % of a core (at most {100 * (BAR - 1):.0f})",
        added <= 1e3 * (BAR - 1),
    )


def bench(rounds: int, pictures: int, watchers: int, threads: int) -> Report:
    report = Report(f"{pictures} captions with {watchers} page(s) open, and with none (tiny Gemma 4)", machine(threads, rounds))
    subject = SUBJECTS["tiny"]
    with ours(threads, vlm=str(subject.path), vlm_mmproj=str(subject.mmproj)) as service:
        sides: Sequence[Peer] = [
            Peer(OPEN, service.ports, service.pids, service.home, _notes(watchers)),
            Peer(CLOSED, service.ports, service.pids, service.home, _notes(0)),
        ]
        for seed, side in enumerate(sides):
            caption(side, 10**6 + seed, count=min(20, pictures))
            side.notes[CPU], side.notes[OPENING_CPU] = [], []
        measure = Measure("all captioned", "s", functools.partial(caption, count=pictures), "less", bar=BAR)
        report.take([measure], sides, rounds)
        say_cpu(report, sides, pictures)
        say_idle(report, sides)
        events = sides[0].notes[EVENTS]
        report.say(f"events that the open pages were sent: {events}", events > 0)
    return report


def _notes(watchers: int) -> dict[str, Any]:
    return {WATCHERS: watchers, EVENTS: 0, CPU: [], OPENING_CPU: []}


def main() -> int:
    parser = options(__doc__ or "", rounds=9)
    parser.add_argument("--pictures", type=int, default=100, help="in each round")
    parser.add_argument("--watchers", type=int, default=1, help="pages that are open at once, 8 at most")
    given = parser.parse_args()
    os.environ.update(BATCH_FOLDER__SETTLE="0.2", BATCH_FOLDER__SCAN="1")
    return finish([bench(given.rounds, given.pictures, given.watchers, given.threads)], given.json)


if __name__ == "__main__":
    sys.exit(main())
