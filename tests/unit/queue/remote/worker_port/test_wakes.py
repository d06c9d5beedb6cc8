"""Wake-ups by streams: at once, and for however many homes never the whole thread."""

from __future__ import annotations

import asyncio
import threading
import time

from batch.queue.postgres.channel import PostgresChannel
from batch.queue.remote.worker_port.channel import StreamChannel
from batch.queue.remote.worker_port.peer import Peer


class SlowPeer(Peer):
    """One as long to write to as a thousand."""

    def __init__(self, took_s: float) -> None:
        super().__init__(lambda packet: None)
        self.took_s = took_s
        self.woken: list[set[str]] = []

    def wake(self, queues: set[str]) -> None:
        time.sleep(self.took_s)
        self.woken.append(queues)


def test_many_wake_ups_take_a_part_of_the_thread_and_each_queue_is_woken_after_its_last_one() -> None:
    database = PostgresChannel("postgresql://nobody@127.0.0.1/none", "a", is_front=True)
    channel = StreamChannel(database, "a", 30.0)
    peer = channel._peers["b"] = SlowPeer(0.01)
    thread = threading.Thread(target=channel._run, daemon=True)
    thread.start()
    try:
        begun = time.monotonic()
        for number in range(200):
            channel.wake({f"vlm:{number}"})
        asked_s = time.monotonic() - begun
        deadline = time.monotonic() + 10
        while not any("vlm:199" in queues for queues in peer.woken):
            assert time.monotonic() < deadline, "the last one too"
            time.sleep(0.01)
        assert set().union(*peer.woken) == {f"vlm:{number}" for number in range(200)}, "none is forgotten"
        assert len(peer.woken) <= 3 + asked_s / 0.1
    finally:
        asyncio.run_coroutine_threadsafe(channel._close(), channel._loop).result(10)
        channel._loop.call_soon_threadsafe(channel._loop.stop)
        thread.join(10)
