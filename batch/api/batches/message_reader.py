"""The requests of an Anthropic batch, read from a body as it arrives: what is in memory is one request, not the batch."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Generator

import msgspec

from batch.api.json_body import Body, field_error, quoted
from batch.batches.line_reader import line_problem
from batch.errors import BadRequest, TooLarge
from batch.payloads.json_text import encode

MAX_MESSAGE_REQUESTS = 100_000
LONGEST_TOKEN_CHARS = 16
"""Of JSON, strings and numbers aside: what is wrong further from the end of the text is wrong whatever follows."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*+")
_MESSAGE_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")

_Waiting = Generator[None, None, str]
"""Reads on whenever more text has come, to what it gives in the end."""


class MessageRequest(Body, frozen=True, kw_only=True):
    """One request of an Anthropic batch; its params stay JSON, as they are checked when they run."""

    custom_id: str
    params: msgspec.Raw


class MessageReader:
    """Turns the body of POST /v1/messages/batches into the lines of a batch's input, a piece at a time."""

    def __init__(self, endpoint: str, max_line_bytes: int) -> None:
        self._endpoint, self._max_line_bytes = endpoint, max_line_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        """What is no UTF-8 is told with the request that it stands in."""
        self._text, self._at = "", 0
        """What is being read, and how far."""
        self._pieces: list[str] = []
        """What has come since and is not looked at yet."""
        self._waiting_chars = self._needed_chars = 0
        self._is_whole = False
        self._lines: list[bytes] = []
        self._custom_ids: set[str] = set()
        self._has_requests = False
        self._document = self._read_document()

    @property
    def count(self) -> int:
        """Requests so far."""
        return len(self._custom_ids)

    def feed(self, data: bytes) -> bytes:
        """The lines that a piece of the body completes; may be empty.

        Raises BadRequest, naming the request, and TooLarge for too many requests or one that no line can hold.
        """
        return self._take(data, is_last=False)

    def close(self) -> bytes:
        """The last lines, once the whole body was fed. Raises as `feed` does, also where nothing was asked for."""
        lines = self._take(b"", is_last=True)
        if not self.count:
            raise BadRequest("requests: should hold at least one request", param="requests")
        return lines

    def _take(self, data: bytes, *, is_last: bool) -> bytes:
        piece = self._utf8.decode(data, is_last)
        self._pieces.append(piece)
        self._waiting_chars += len(piece)
        self._is_whole = is_last
        # A long request is looked at again each time it has doubled, not with every piece.
        if is_last or len(self._text) - self._at + self._waiting_chars >= self._needed_chars:
            self._text = "".join((self._text[self._at :], *self._pieces))
            self._at = self._waiting_chars = 0
            self._pieces.clear()
            next(self._document, None)
        lines, self._lines = b"".join(self._lines), []
        return lines

    # -- the document

    def _read_document(self) -> Generator[None, None, None]:
        yield from self._expect("{", "The request body must be a JSON object.")
        if (yield from self._look()) != "}":
            separator = ","
            while separator == ",":
                key = yield from self._value()
                yield from self._expect(":")
                if key == '"requests"':
                    yield from self._read_requests()
                else:
                    yield from self._value()
                separator = yield from self._look()
                if separator == ",":
                    self._at += 1
        yield from self._expect("}")
        while self._skip_space() == len(self._text):
            if self._is_whole:
                return
            yield from self._wait()
        raise self._malformed("something follows its end")

    def _read_requests(self) -> Generator[None, None, None]:
        if self._has_requests:
            raise BadRequest("requests: stands twice", param="requests")
        self._has_requests = True
        yield from self._expect("[", "requests: should be an array")
        if (yield from self._look()) != "]":
            separator = ","
            while separator == ",":
                line = self._line((yield from self._value()))
                self._lines.append(line)
                separator = yield from self._look()
                if separator == ",":
                    self._at += 1
        yield from self._expect("]")

    def _wait(self, chars: int = 0) -> Generator[None, None, None]:
        """Until `chars` of text are there, or any; raises BadRequest where no more will come."""
        if self._is_whole:
            raise self._malformed("it ends in the middle")
        self._needed_chars = chars
        yield
        self._needed_chars = 0

    def _skip_space(self) -> int:
        """Where the text goes on behind white space."""
        space = _SPACE.match(self._text, self._at)
        assert space is not None
        self._at = space.end()
        return self._at

    def _look(self) -> _Waiting:
        """The next character that is no white space, which stays."""
        while self._skip_space() == len(self._text):
            yield from self._wait()
        return self._text[self._at]

    def _expect(self, char: str, message: str = "") -> Generator[None, None, None]:
        if (yield from self._look()) != char:
            raise BadRequest(message, param="requests") if message else self._malformed(f"{char!r} is missing")
        self._at += 1

    def _value(self) -> _Waiting:
        """The text of the next value."""
        yield from self._look()
        while True:
            size = len(self._text) - self._at
            try:
                _, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:  # it may be a part of one
                is_cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - LONGEST_TOKEN_CHARS
                if self._is_whole or not is_cut:
                    raise self._malformed(error.msg[:1].lower() + error.msg[1:]) from None
                if size > self._max_line_bytes:
                    raise self._too_large() from None
            except RecursionError:
                raise self._malformed("it nests too deep") from None
            except ValueError as error:  # a number of thousands of digits
                raise self._malformed(str(error)) from None
            else:
                if end < len(self._text) or self._is_whole:  # a number may go on
                    text = self._text[self._at : end]
                    self._at = end
                    return text
            yield from self._wait(2 * size)

    # -- a request

    def _line(self, text: str) -> bytes:
        """A request as a line of the batch's input."""
        at = self.count
        if at >= MAX_MESSAGE_REQUESTS:
            raise TooLarge(f"requests: {MAX_MESSAGE_REQUESTS} requests are taken at most", param="requests")
        try:
            request = msgspec.json.decode(text.encode("utf-8", "surrogateescape"), type=MessageRequest)
        except msgspec.ValidationError as error:
            problem = field_error(error)
            param = f"requests.{at}" + (f".{name}" if (name := str(problem.details.get("param") or "")) else "")
            raise BadRequest(f"{param}: {problem.message}", param=param) from None
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise BadRequest(f"requests.{at}.params: should be JSON: {error}", param=f"requests.{at}.params") from None
        name = request.custom_id
        if not _MESSAGE_ID.fullmatch(name):
            raise BadRequest(
                f"requests.{at}.custom_id: should be 1 to 64 letters, digits, - and _", param=f"requests.{at}.custom_id"
            )
        if bytes(memoryview(request.params)[:1]) != b"{":
            raise BadRequest(f"requests.{at}.params: should be an object", param=f"requests.{at}.params")
        if name in self._custom_ids:
            raise BadRequest(f"requests.{at}.custom_id: {quoted(name)} stands twice", param=f"requests.{at}.custom_id")
        head = encode({"custom_id": name, "method": "POST", "url": self._endpoint})
        line = head[:-1] + b',"body":' + bytes(request.params).translate(_NO_LINE_ENDS) + b"}"
        if len(line) > self._max_line_bytes:
            raise self._too_large()
        # What a line of its batch could not hold would end that batch, without a word to this client.
        if reason := line_problem(line, self._endpoint):
            raise BadRequest(f"requests.{at}.params: {reason}", param=f"requests.{at}.params")
        self._custom_ids.add(name)
        return line + b"\n"

    def _place(self) -> str:
        return f"requests.{self.count}" if self._has_requests else "The request body"

    def _malformed(self, reason: str) -> BadRequest:
        return BadRequest(f"{self._place()} is not JSON: {reason}.", param=f"requests.{self.count}.params")

    def _too_large(self) -> TooLarge:
        return TooLarge(f"{self._place()} has more than {self._max_line_bytes} bytes (limits.body_bytes in batch.toml).")


_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
