"""Arguments of a Gemma 4 tool call, `{key:<|"|>text<|"|>,n:1}`, turned into JSON while they arrive."""

from __future__ import annotations

import json
import re

QUOTE = '<|"|>'
CALL_END = "<tool_call|>"
_LITERAL = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null")
_SPACE = " \t\r\n"
_CLOSERS = {"{": "}", "[": "]"}


class CallArguments:
    """Feed it the text from the opening brace on.

    A model that no grammar binds may leave out quotes or a closing bracket: a bare word becomes a string, and what is
    still open at the end of the call is closed, so that a finished call is always valid JSON.
    """

    def __init__(self) -> None:
        self.done = False
        self._text = ""
        self._open: list[str] = []
        self._state = "value"
        self._comma = False
        self._out: list[str] = []

    def feed(self, text: str) -> tuple[str, str]:
        """(new JSON text, what lies behind the arguments once `done`)."""
        self._text += text
        while not self.done and self._step():
            pass
        json_text = "".join(self._out)
        self._out.clear()
        rest = ""
        if self.done:
            rest, self._text = self._text, ""
        return json_text, rest

    def _step(self) -> bool:
        """One piece of syntax; False when more text is needed."""
        match self._state:
            case "text":
                return self._string(QUOTE)
            case "json":
                return self._json_string()
            case "bare":
                return self._bare()
        self._text = self._text.lstrip(_SPACE)
        if not self._text:
            return False
        if self._text.startswith(CALL_END):
            self._close_all()
            return True
        if CALL_END.startswith(self._text):
            return False
        match self._state:
            case "key":
                return self._key()
            case "value":
                return self._value()
            case _:
                return self._after()

    def _key(self) -> bool:
        if self._text[0] == "}":
            return self._close()
        if self._text[0] == ",":
            self._text = self._text[1:]
            return True
        if self._text.startswith(QUOTE):
            end = self._text.find(QUOTE, len(QUOTE))
            if end < 0:
                return False
            name, behind = self._text[len(QUOTE) : end], self._text[end + len(QUOTE) :].lstrip(_SPACE)
            if not behind:
                return False
            self._text = behind.removeprefix(":")
        else:
            if QUOTE.startswith(self._text):
                return False
            match = re.search(r"[:}]|<tool_call\|>", self._text)
            if not match:
                return False
            name = self._text[: match.start()].strip(_SPACE)
            if len(name) > 1 and name[0] == name[-1] == '"':
                name = name[1:-1]
            self._text = self._text[match.start() :].removeprefix(":")
        self._separate()
        self._out.append(json.dumps(name, ensure_ascii=False) + ":")
        self._state = "value"
        return True

    def _value(self) -> bool:
        head = self._text[0]
        if head in "]}" and self._open[-1] == "[":
            return self._close()
        if head == "," and self._open[-1] == "[":
            self._text = self._text[1:]
            return True
        if self._text.startswith(QUOTE):
            self._begin('"', "text", len(QUOTE))
        elif QUOTE.startswith(self._text):
            return False
        elif head == '"':
            self._begin('"', "json", 1)
        elif head in _CLOSERS:
            self._begin(head, "key" if head == "{" else "value", 1)
            self._open.append(head)
        else:
            self._begin("", "bare", 0)
        return True

    def _begin(self, json_text: str, state: str, length: int) -> None:
        if self._open and self._open[-1] == "[":
            self._separate()
        self._out.append(json_text)
        self._text = self._text[length:]
        self._state = state
        self._comma = False

    def _string(self, quote: str) -> bool:
        end = self._text.find(quote)
        overlap = 0
        if end < 0:
            overlap = next((n for n in range(len(quote) - 1, 0, -1) if self._text.endswith(quote[:n])), 0)
        body = self._text[:end] if end >= 0 else self._text[: len(self._text) - overlap]
        self._out.append(json.dumps(body, ensure_ascii=False)[1:-1])
        if end < 0:
            self._text = self._text[len(body) :]
            return False
        self._text = self._text[end + len(quote) :]
        self._out.append('"')
        self._ended()
        return True

    def _json_string(self) -> bool:
        match = re.match(r'(?:[^"\\]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*', self._text)
        assert match is not None
        body, rest = match.group(), self._text[match.end() :]
        # A backslash that begins no JSON escape stands for itself.
        stray = len(rest) > 1 and rest[0] == "\\" and not re.fullmatch(r"\\u[0-9a-fA-F]{0,3}", rest)
        self._out.append(re.sub(r"[\x00-\x1f]", lambda m: f"\\u{ord(m.group()):04x}", body))
        if stray:
            self._out.append("\\\\")
        elif rest.startswith('"'):
            self._out.append('"')
            self._ended()
        else:
            self._text = rest
            return False
        self._text = rest[1:]
        return True

    def _bare(self) -> bool:
        match = re.search(r"[,}\]]|<tool_call\|>", self._text)
        if not match:
            return False
        word = self._text[: match.start()].strip(_SPACE)
        self._text = self._text[match.start() :]
        if word in ("", "None"):
            word = "null"
        self._out.append(word if _LITERAL.fullmatch(word) else json.dumps(word, ensure_ascii=False))
        self._ended()
        return True

    def _after(self) -> bool:
        head = self._text[0]
        if head == ",":
            self._comma = True
            self._text = self._text[1:]
            self._state = "key" if self._open[-1] == "{" else "value"
        elif head in "}]":
            return self._close()
        else:
            self._text = self._text[1:]
        return True

    def _separate(self) -> None:
        if self._comma:
            self._out.append(",")
        self._comma = False

    def _close(self) -> bool:
        self._out.append(_CLOSERS[self._open.pop()])
        self._text = self._text[1:]
        self._ended()
        return True

    def _close_all(self) -> None:
        if self._state == "value" and self._open[-1] == "{":
            self._out.append("null")
        while self._open:
            self._out.append(_CLOSERS[self._open.pop()])
        self._ended()

    def _ended(self) -> None:
        self._comma = False
        self._state = "after"
        self.done = not self._open
