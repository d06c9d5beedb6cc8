"""What a request of the page says: keys of its address or of a form, each with a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TypeVar
from urllib.parse import parse_qs

from starlette.requests import Request

from batch.errors import BadRequest, TooLarge

MAX_CHARS = 2000
MAX_FORM_BYTES = 256 << 10
MAX_FORM_FIELDS = 2000
_MAX_NUMBER = (1 << 62) - 1
Choice = TypeVar("Choice", bound=StrEnum)


class Parameters:
    """Values by name. An empty value counts as none, as browsers send every field of a form."""

    def __init__(self, values: Mapping[str, Sequence[str]]) -> None:
        self._values = values

    @classmethod
    def of_address(cls, request: Request) -> Parameters:
        """Those of a request's query string."""
        return cls(_address_values(request))

    @classmethod
    async def of_form(cls, request: Request) -> Parameters:
        """Those of an urlencoded form, and of the address. Raises TooLarge, BadRequest."""
        data = bytearray()
        async for block in request.stream():
            data += block
            if len(data) > MAX_FORM_BYTES:
                raise TooLarge(f"The form is larger than {MAX_FORM_BYTES} bytes: choose fewer entries.")
        try:
            fields = parse_qs(data.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS)
        except ValueError:  # also what is no UTF-8
            raise BadRequest(f"The form cannot be read, or has more than {MAX_FORM_FIELDS} fields.") from None
        return cls(_address_values(request) | fields)

    def text(self, name: str, max_chars: int = MAX_CHARS) -> str | None:
        """The last value. Raises BadRequest for one that is too long or holds a NUL character."""
        texts = self.texts(name, max_chars)
        return texts[-1] if texts else None

    def texts(self, name: str, max_chars: int = MAX_CHARS) -> list[str]:
        """All values. Raises BadRequest as `text` does."""
        texts = [text for text in self._values.get(name, ()) if text]
        for text in texts:
            if len(text) > max_chars:
                raise BadRequest(f'"{name}" has more than {max_chars} characters.', param=name)
            if "\0" in text:
                raise BadRequest(f'"{name}" holds a NUL character: leave it away.', param=name)
        return texts

    def number(self, name: str) -> int | None:
        """A whole number from 0 on. Raises BadRequest."""
        text = self.text(name)
        return None if text is None else whole_number(text, name)

    def numbers(self, name: str) -> list[int]:
        """Whole numbers from 0 on. Raises BadRequest."""
        return [whole_number(text, name) for text in self.texts(name)]

    def seconds(self, name: str) -> float | None:
        """A number of seconds from 0 on. Raises BadRequest."""
        text = self.text(name, 32)
        if text is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 1e9:
            raise BadRequest(f'"{name}" must be a number of seconds.', param=name)
        return seconds

    def choice(self, name: str, choices: type[Choice]) -> Choice | None:
        """One of an enum's values. Raises BadRequest, which lists them."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return choices(text)
        except ValueError:
            raise BadRequest(f'"{name}" must be one of {", ".join(choices)}.', param=name) from None


def _address_values(request: Request) -> dict[str, list[str]]:
    """In one pass: `getlist` goes through all of them for each name, seconds for an address of thousands."""
    values: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        values.setdefault(name, []).append(value)
    return values


def whole_number(text: str, name: str) -> int:
    """A whole number from 0 to 2**62. Raises BadRequest, which names the parameter."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > _MAX_NUMBER:
        raise BadRequest(f'"{name}" must be a whole number.', param=name)
    return int(text)
