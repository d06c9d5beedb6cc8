"""What a connection receives at a time."""

from __future__ import annotations

import asyncio
import socket

from batch.receive_size import RECEIVE_BYTES, bound_receive_size


class Receiver(asyncio.Protocol):
    def __init__(self, total: int) -> None:
        self.sizes: list[int] = []
        self.missing = total
        self.has_all = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        bound_receive_size(transport)

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self.missing -= len(data)
        if not self.missing:
            self.has_all.set()


def test_pieces_are_small_enough_for_memory_that_is_at_hand_and_nothing_is_lost() -> None:
    async def send(total: int) -> list[int]:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * RECEIVE_BYTES)
        loop = asyncio.get_running_loop()
        transport, receiver = await loop.create_connection(lambda: Receiver(total), sock=ours)
        sending, _ = await loop.create_connection(asyncio.Protocol, sock=theirs)
        sending.write(bytes(total))
        async with asyncio.timeout(20):
            await receiver.has_all.wait()
        transport.close()
        sending.close()
        return receiver.sizes

    sizes = asyncio.run(send(16 * RECEIVE_BYTES))
    assert max(sizes) <= RECEIVE_BYTES and sum(sizes) == 16 * RECEIVE_BYTES


def test_a_loop_whose_connections_have_no_such_size_is_left_alone() -> None:
    bound_receive_size(transport := asyncio.BaseTransport())
    assert not hasattr(transport, "max_size")
