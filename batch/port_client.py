"""Asking the running service over one of its ports, as the command line and the MCP server do."""

from __future__ import annotations

import http.client
import json
from typing import Any

from batch.errors import BatchError, Unavailable

DEFAULT_TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 256 << 20


class PortAway(Unavailable):
    """Nobody answers at the port."""

    sentence = "The service does not answer: see `batch status`."


class Refusal(BatchError):
    """The port answered with an error."""

    def __init__(self, message: str, http_status: int) -> None:
        super().__init__(message)
        self.http_status = http_status


class PortClient:
    """One port of the service on this machine; a connection a question, so any thread may ask."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
        """The JSON at a path. Raises PortAway, and Refusal where the port says no."""
        return self._ask("GET", path, None, {}, timeout_s)

    def post(self, path: str, body: object, timeout_s: float = DEFAULT_TIMEOUT_S) -> Any:
        """What the port answers to a JSON body. Raises PortAway, and Refusal where the port says no."""
        headers = {"Content-Type": "application/json"}
        return self._ask("POST", path, json.dumps(body).encode(), headers, timeout_s)

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str], timeout_s: float) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read(MAX_ANSWER_BYTES)
        except TimeoutError:
            raise PortAway(f"The service did not answer within {timeout_s:.0f} seconds.") from None
        except (OSError, http.client.HTTPException):
            raise PortAway() from None
        finally:
            connection.close()
        try:
            document = json.loads(data)
        except ValueError:
            raise PortAway(f"What answers at port {self.port} is not batch: its answer is no JSON.") from None
        if answer.status >= 400:
            raise Refusal(_message(document), answer.status)
        return document


def _message(document: Any) -> str:
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "The service refused without saying why.")
