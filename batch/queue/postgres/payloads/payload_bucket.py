"""Objects in a bucket that speaks S3, under the prefix that the setting `payloads` names."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from batch.errors import SettingsProblem
from batch.queue.store import StoreAway

try:
    import obstore
    from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
    from obstore.store import S3Store
except ModuleNotFoundError:
    raise SettingsProblem(
        'The package for object stores is not installed: run `pip install "batch-engine[s3]"`, or leave out the '
        "setting payloads, which keeps payloads in the database."
    ) from None

CHUNK_BYTES = 8 << 20
"""Of a request: larger objects go and come in several, so that each ends in time and little is in memory."""
_CONCURRENT_CHUNKS = 4
_CONNECT_TIMEOUT_S = 5
_REQUEST_TIMEOUT_S = 30
_RETRY_TIMEOUT_S = 15
_MAX_RETRIES = 2
_ABSENT = (FileNotFoundError, NotFoundError)
"""It raises either."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_TRUE = ("1", "true", "yes", "on")
_REASON = re.compile(r"(?:HTTP error: |Server returned non-2xx status code: )([^\n<]{1,200})")


class PayloadBucket:
    """Endpoint, region and credentials come from the environment, as for every program that speaks S3 (`AWS_ENDPOINT_URL`,
    `AWS_REGION`, `AWS_ACCESS_KEY_ID` …, or the machine's role). Methods may be called from any thread."""

    def __init__(self, place: str) -> None:
        """`place`: s3://BUCKET/PREFIX. Raises SettingsProblem where the environment cannot be used."""
        self.place = place
        is_open_line_allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in _TRUE
        endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), "")
        if endpoint.startswith("http://") and not is_open_line_allowed:
            raise SettingsProblem(
                "The bucket's endpoint in AWS_ENDPOINT_URL has no TLS: write https://, or set AWS_ALLOW_HTTP=true where nobody "
                "else hears that line."
            )
        try:
            self._store = S3Store.from_url(
                place,
                client_options={
                    "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
                    "timeout": timedelta(seconds=_REQUEST_TIMEOUT_S),
                    "allow_http": is_open_line_allowed,
                },
                retry_config={"max_retries": _MAX_RETRIES, "retry_timeout": timedelta(seconds=_RETRY_TIMEOUT_S)},
            )
        except (BaseError, ValueError) as error:
            raise SettingsProblem(f"The setting payloads = {place} cannot be used: {_first_line(error)}.") from error

    def put(self, key: str, path: Path) -> None:
        """Write a file's bytes as one object, whole or not at all. Raises StoreAway."""
        is_large = path.stat().st_size > CHUNK_BYTES
        with path.open("rb") as file, self._trouble():
            obstore.put(
                self._store,
                key,
                file,
                use_multipart=is_large,
                chunk_size=CHUNK_BYTES,
                max_concurrency=_CONCURRENT_CHUNKS,
            )

    def has(self, key: str) -> bool:
        """Whether an object is there. Raises StoreAway."""
        with self._trouble():
            try:
                obstore.head(self._store, key)
            except _ABSENT:
                return False
        return True

    def read(self, key: str) -> Iterator[bytes]:
        """An object's bytes, piece by piece; none where it is not there. Raises StoreAway."""
        with self._trouble():
            try:
                response = obstore.get(self._store, key)
            except _ABSENT as error:
                if "NoSuchBucket" in str(error):
                    raise
                return
            size = response.meta["size"]
            if size <= CHUNK_BYTES:
                yield bytes(response.bytes())
                return
            del response  # its one long answer is not waited for
            for start in range(0, size, CHUNK_BYTES):
                end = min(size, start + CHUNK_BYTES)
                yield bytes(obstore.get_range(self._store, key, start=start, end=end))

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are none. Raises StoreAway."""
        with self._trouble():
            obstore.delete(self._store, list(keys))

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except _ABSENT as error:
            raise StoreAway(f"The bucket of {self.place} does not exist: make it, or correct the setting payloads.") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreAway(
                f"{self.place} refuses this machine: look after AWS_ACCESS_KEY_ID, its secret and what it may do there."
            ) from error
        except BaseError as error:
            raise StoreAway(f"{self.place} cannot be reached ({_reason(error)}): try again soon.") from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split())[:200]


def _reason(error: Exception) -> str:
    match = _REASON.search(str(error))
    return match.group(1).strip() if match else _first_line(error)
