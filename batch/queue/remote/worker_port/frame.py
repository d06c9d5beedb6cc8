"""What goes over a stream between a worker's machine and a front: JSON after its length in four bytes, told apart by "type"."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

import msgspec

from batch.payloads.json_text import decoder, encode
from batch.queue.remote.packet import Packet

MAX_FRAME_BYTES = 256 << 20
"""Longest frame of a peer that has proven itself: as long as a line of a worker of this machine."""
MAX_UNPROVEN_FRAME_BYTES = 4096
MIN_BYTES_PER_S = 1 << 18
"""A line that is slower than this counts as cut."""
_LENGTH_BYTES = 4


class FrameTooLong(Exception):
    """A peer announced more than it may send."""


class _PortFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all frames."""


class Challenge(_PortFrame, tag="challenge", frozen=True, kw_only=True):
    """A front's first frame."""

    front: str
    """Its id."""
    challenge: str
    """Random, for this stream alone."""


class Proof(_PortFrame, tag="proof", frozen=True, kw_only=True):
    """The answer to it: whoever can write a worker's row knows the nonce that goes into `answer`."""

    home: str
    """The id of the home that dials."""
    answer: str
    sender: str
    """Under which name its packets are numbered."""


class Welcome(_PortFrame, tag="welcome", frozen=True, kw_only=True):
    """The front believes it."""

    sender: str


class Acknowledged(_PortFrame, tag="acknowledged", frozen=True, kw_only=True):
    """All packets of a sender up to this number have arrived, on whatever way; the first one says where to begin."""

    sender: str
    sequence: int


class Carried(_PortFrame, tag="packet", frozen=True, kw_only=True):
    """A packet as it would go through the database."""

    packet: Packet


class Wakened(_PortFrame, tag="wake", frozen=True, kw_only=True):
    """Something was queued for these, or a job was cancelled."""

    queues: list[str]


class Ping(_PortFrame, tag="ping", frozen=True, kw_only=True):
    """A sign of life from a peer that has nothing to say."""


Handshake = Challenge | Proof | Welcome
PortFrame = Acknowledged | Carried | Wakened | Ping

read_handshake = decoder(Handshake)
read_port_frame = decoder(PortFrame)


def answer_to(challenge: Challenge, nonce: str, cert_sha256: str, home: str) -> str:
    """What proves that `home` knows the nonce, to this front on this stream and to nobody else."""
    told = encode([challenge.challenge, challenge.front, cert_sha256, home])
    return hmac.new(nonce.encode(), told, hashlib.sha256).hexdigest()


def framed(data: bytes) -> bytes:
    """JSON as it goes over the line. Raises FrameTooLong."""
    if len(data) > MAX_FRAME_BYTES:
        raise FrameTooLong(f"a frame has {len(data)} bytes")
    return len(data).to_bytes(_LENGTH_BYTES, "big") + data


def carried(packet: bytes) -> bytes:
    """A packet that is JSON already, as it goes over the line. Raises FrameTooLong."""
    return framed(b'{"type":"packet","packet":' + packet + b"}")


async def read_data(reader: asyncio.StreamReader, limit: int, timeout_s: float) -> bytes:
    """The next frame's JSON: `timeout_s` for its length, and as much for the rest, besides what that takes on a slow line.
    Raises FrameTooLong, TimeoutError, EOFError (asyncio's IncompleteReadError) and OSError."""
    async with asyncio.timeout(timeout_s):
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if length > limit:
        raise FrameTooLong(f"a frame of {length} bytes was announced")
    async with asyncio.timeout(timeout_s + length / MIN_BYTES_PER_S):
        return await reader.readexactly(length)
