"""By what a front knows that words of a job come from the worker that has its lease: the channel may be anybody's."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING

from batch.payloads.json_text import encode

if TYPE_CHECKING:
    from batch.queue.remote.packet import FromWorker


def proof_of(item: FromWorker, key: str) -> str:
    """What a worker's home writes beside a frame: by the key of the lease, over all that the frame says and its number."""
    said = f"{item.worker}\n{item.queue}\n{item.token}\n{item.number}\n".encode() + encode(item.frame)
    return hmac.new(key.encode(), said, sha256).hexdigest()


class LeaseKeys:
    """The keys of all leases, of which the database tells a worker its own."""

    def __init__(self, outer_key: bytes, inner_key: bytes) -> None:
        self._outer_key, self._inner_key = outer_key, inner_key

    def key(self, job: str, token: int, worker: str) -> str:
        """As the database's function `lease_key` says it."""
        inner = sha256(self._inner_key + f"{job}:{token}:{worker}".encode()).digest()
        return sha256(self._outer_key + inner).hexdigest()

    def prove(self, item: FromWorker, job: str) -> bool:
        """Whether a frame of a job was sent by the worker it names, under the lease it names."""
        expected = proof_of(item, self.key(job, item.token, item.worker))
        return hmac.compare_digest(expected.encode(), item.proof.encode())
