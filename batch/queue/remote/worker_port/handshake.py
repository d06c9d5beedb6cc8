"""How a home that dials a front proves itself, and how it knows the front: each by what stands in the other's row."""

from __future__ import annotations

import asyncio
import hmac
import re
import secrets
import ssl
from collections.abc import Awaitable, Callable

import msgspec

from batch.errors import BatchError
from batch.payloads.json_text import encode
from batch.queue.remote.worker_port.certificate import sha256_of
from batch.queue.remote.worker_port.frame import (
    MAX_UNPROVEN_FRAME_BYTES,
    Challenge,
    Handshake,
    Proof,
    Welcome,
    answer_to,
    framed,
    read_data,
    read_handshake,
)

HANDSHAKE_S = 5.0
"""For all of it."""
_HOME = re.compile(r"[0-9a-f]{16}")
_MAX_SENDER_CHARS = 64


class NotProven(BatchError):
    """One of two peers is not who its row says, or cannot show it."""

    sentence = "The other end of a stream is not the one that the database names."


async def admit(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    front: str,
    cert_sha256: str,
    nonces: Callable[[str], Awaitable[list[str]]],
    sender_to: Callable[[str], str],
) -> Proof:
    """A front's side: ask a home for its proof, and compare that with what the rows of its workers give. `sender_to` names
    under what this side's packets to that home are numbered. Raises NotProven, and what reading raises."""
    challenge = Challenge(front=front, challenge=secrets.token_hex(32))
    writer.write(framed(encode(challenge)))
    proof = await _receive(reader)
    if not isinstance(proof, Proof) or not _HOME.fullmatch(proof.home) or len(proof.sender) > _MAX_SENDER_CHARS:
        raise NotProven("what it sent is no proof")
    answers = [answer_to(challenge, nonce, cert_sha256, proof.home) for nonce in await nonces(proof.home)]
    # All are compared, and each whole, so that the time says nothing.
    if not any([hmac.compare_digest(answer.encode(), proof.answer.encode()) for answer in answers]):
        raise NotProven("it does not know the nonce of a worker that lives")
    writer.write(framed(encode(Welcome(sender=sender_to(proof.home)))))
    return proof


async def prove(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    *,
    front: str,
    cert_sha256: str,
    home: str,
    nonce: str,
    sender: str,
) -> str:
    """A worker's side: nothing is sent before the front's certificate is the one that its row names. Returns the name under
    which the front's packets are numbered. Raises NotProven, and what reading raises."""
    connection = writer.get_extra_info("ssl_object")
    shown = sha256_of(connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLObject) else None)
    if not hmac.compare_digest(shown.encode(), cert_sha256.encode()):
        raise NotProven("its certificate is not the one that its row in the database names")
    challenge = await _receive(reader)
    if not isinstance(challenge, Challenge) or challenge.front != front:
        raise NotProven("it is another front than its row in the database says")
    answer = answer_to(challenge, nonce, cert_sha256, home)
    writer.write(framed(encode(Proof(home=home, answer=answer, sender=sender))))
    try:
        welcome = await _receive(reader)
    except EOFError:
        raise NotProven("it does not believe that this machine has a worker") from None
    if not isinstance(welcome, Welcome):
        raise NotProven("it sent no welcome")
    return welcome.sender


async def _receive(reader: asyncio.StreamReader) -> Handshake:
    data = await read_data(reader, MAX_UNPROVEN_FRAME_BYTES, HANDSHAKE_S)
    try:
        frame: Handshake = read_handshake(data)
    except (ValueError, msgspec.MsgspecError):
        raise NotProven("what it sent is no frame of a handshake") from None
    return frame
