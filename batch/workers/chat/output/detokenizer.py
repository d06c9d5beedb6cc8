"""Token bytes to text: whole characters only."""

from __future__ import annotations

import codecs


class Detokenizer:
    """Joins the bytes of tokens to text; a character whose last bytes have not come yet waits for them."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, data: bytes) -> str:
        """The characters that these bytes complete."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What is left once no more bytes will come: a replacement character for an incomplete one, else nothing."""
        return self._decoder.decode(b"", True)
