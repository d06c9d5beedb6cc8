"""Parses what a model writes by the layouts that its chat template shows: thoughts, answers and calls between markers."""

from __future__ import annotations

from batch.workers.chat.dialects.derived.call_reader import (
    CallReader,
    JsonArgumentsReader,
    JsonCallReader,
    TaggedArgumentsReader,
)
from batch.workers.chat.dialects.derived.layout import AnswerLayout, CallLayout, chunks, first_marker
from batch.workers.chat.dialects.derived.literal_match import match_literal
from batch.workers.chat.dialects.derived.python_calls import PythonCallsReader
from batch.workers.chat.dialects.marker_search import Markers
from batch.workers.chat.dialects.stream_parser import Reading, StreamParser

_PYTHON_TAG = "<|python_tag|>"


class MarkedParser(StreamParser):
    """Thinking stands at the beginning only; space around markers belongs to nothing."""

    def __init__(self, reading: Reading, answer: AnswerLayout, calls: CallLayout | None) -> None:
        super().__init__(reading)
        self._layout = calls if reading.functions else None
        self._answer_layout = answer
        self._space = self._lead = ""
        self._has_content = False
        self._open, self._close = answer.thinking or ("", "")
        self._in_thought = Markers((self._close,) if self._close else ())
        self._triggers = self._find_triggers()
        self._ends = tuple(marker for marker in (answer.content_end,) if marker and marker not in self._triggers)
        begins = (answer.content_begin,) if answer.content_begin.startswith(("<", "[")) else ()
        if any(begin.startswith(marker) for begin in begins for marker in (*self._triggers, *self._ends)):
            begins = ()  # what it begins with is told apart before the rest of it can be seen
        self._in_content = Markers((*self._triggers, *self._ends, *begins))
        self._edges = self._find_edges()
        self._reader: CallReader | None = None
        self._trigger = ""
        self._steps = {
            "start": self._start,
            "indent": self._indent,
            "thought": self._thought,
            "gap": self._gap,
            "content": self._answer,
            "call": self._calling,
            "between": self._between,
            "over": self._over,
        }
        self._read_tail(reading.tail)

    def _find_triggers(self) -> dict[str, str]:
        """Each marker that begins a call, and what stands between it and the function's name."""
        layout = self._layout
        if layout is None or (layout.json_call is not None and layout.json_call.is_bare):
            return {}
        marker, texts = first_marker(layout.call_begin.lstrip()), (layout.call_end, layout.turn_end, self._close)
        triggers = {layout.trigger: layout.head}
        if marker.startswith(("<", "[", "]", ">")) and not any(marker in text for text in texts):
            # Some models leave out what the section begins with.
            triggers.setdefault(marker, layout.call_begin.lstrip())
        return {marker: head[len(marker) :] for marker, head in triggers.items() if marker}

    def _find_edges(self) -> dict[str, str | None]:
        """What may stand behind a call: texts that belong to nothing (None), and texts that begin another one, with what
        stands between them and its name."""
        layout = self._layout
        if layout is None:
            return {}
        texts = (layout.call_end, layout.separator, layout.section_end, layout.turn_end)
        closers = {chunk for text in texts for chunk in chunks(text)}
        if layout.json_call is not None:
            closers |= {chunk.lstrip("}],") for chunk in closers} | {"]", ","}
        edges: dict[str, str | None] = dict.fromkeys(closers - {""})
        again = layout.call_begin.lstrip()
        if marker := first_marker(again):
            edges[marker] = again[len(marker) :]
        edges.update(self._triggers)
        return dict(sorted(edges.items(), key=lambda edge: -len(edge[0])))

    def _read_tail(self, tail: str) -> None:
        """Where the prompt leaves off."""
        if not self._close:
            self._state = "start"
        elif tail.rfind(self._open) > tail.rfind(self._close):
            self._state = "indent" if not tail.rpartition(self._open)[2].strip() else "thought"
        elif self._close in tail:
            self._state = "gap"
        if self._layout is not None and self._layout.is_opened_by(tail):
            # The prompt itself ends with what begins a call or names who is spoken to.
            self._begin_call("", "")

    @property
    def thinking(self) -> bool:
        return self._state in ("indent", "thought")

    @property
    def called(self) -> str | None:
        reader = self._reader
        if self._state != "call" or reader is None or reader.has_begun or self._reply.calls:
            return None
        text = reader.raw + self._text
        if self._trigger:
            return text
        layout = self._layout
        if layout is not None and layout.json_call is not None:
            name = f'"{layout.json_call.name_key}"'
            return text[text.find(name) + len(name) :] if name in text else None
        return text

    def _end(self, cut: bool) -> None:
        text, self._text = self._text, ""
        match self._state:
            case "start" | "content":
                self._content(self._lead + text)
            case "thought":
                self._thinks(self._space + text if text or self._reading.raw else "")
            case "call" if self._reader is not None:
                self._reader.finish(is_cut=cut)
                if self._reader.has_begun:
                    return
                if not cut and self._trigger != (self._answer_layout.content_end or None):
                    self._say(self._trigger + self._reader.raw + text)
                    self._content(self._lead)

    def _start(self) -> bool:
        body = self._text.lstrip()
        if not body:
            return False
        begin = self._answer_layout.content_begin
        if self._open and body.startswith(self._open):
            self._mark(self._text[: len(self._text) - len(body)] + self._open)
            self._text = body[len(self._open) :]
            self._state = "indent"
            return True
        starts = [self._open, begin, *([_PYTHON_TAG] if self._is_bare else [])]
        if any(start and start.startswith(body) and start != body for start in starts):
            return False
        for start in (begin, _PYTHON_TAG if self._is_bare else ""):
            if start and body.startswith(start):
                self._text = body[len(start) :]
                self._state = "gap"
                return True
        return self._start_content(body)

    @property
    def _is_bare(self) -> bool:
        layout = self._layout
        return layout is not None and layout.json_call is not None and layout.json_call.is_bare

    def _start_content(self, body: str) -> bool:
        """The answer begins, or a call that nothing but its JSON tells from one."""
        if self._is_bare and body.startswith("{"):
            layout = self._layout
            assert layout is not None and layout.json_call is not None
            trigger = match_literal('{ "' + layout.json_call.name_key + '"', body)
            if trigger.is_open:
                return False
            if trigger.is_whole:
                self._text = body
                self._begin_call("", "")
                return True
        self._state = "content"
        return True

    def _indent(self) -> bool:
        return self._skip_space("thought")

    def _gap(self) -> bool:
        if not self._text.strip():
            return self._skip_space("content")
        body = self._text.lstrip()
        begin = self._answer_layout.content_begin
        if begin and begin.startswith(body) and begin != body:
            return False
        self._mark(self._text[: len(self._text) - len(body)])
        rest = body.removeprefix(begin)
        self._text = rest.lstrip()
        self._mark(rest[: len(rest) - len(self._text)])
        return self._start_content(self._text) if self._text else False

    def _thought(self) -> bool:
        before, marker, self._text = self._in_thought.cut(self._text)
        # Space before the closing marker is held until it is known not to stand there.
        before = self._space + before
        text = before.rstrip()
        self._space = before[len(text) :]
        self._thinks(text)
        if not marker:
            return False
        self._mark(self._space + marker)
        self._space = ""
        self._state = "gap"
        return True

    def _answer(self) -> bool:
        before, marker, self._text = self._in_content.cut(self._text)
        self._say(before)
        if marker in self._triggers:
            self._begin_call(marker, self._triggers[marker])
        elif marker in self._ends:
            self._mark(marker)
        return bool(marker)

    def _say(self, text: str) -> None:
        """Content; space before the first of it is kept back, as it may stand before a call."""
        self._lead += text
        if self._has_content or self._lead.strip():
            self._has_content = True
            self._content(self._lead)
            self._lead = ""

    def _begin_call(self, trigger: str, before: str) -> None:
        assert self._layout is not None
        self._trigger, self._lead = trigger, ""
        self._reader = self._make_reader(self._layout, before)
        self._state = "call"

    def _make_reader(self, layout: CallLayout, before: str) -> CallReader:
        """A reader for one call. `before`: what the layout has between the trigger and the name."""
        reading, reply = self._reading, self._reply
        if layout.json_call is not None:
            return JsonCallReader(reading, reply, before, layout.json_call)
        if layout.tags is None:
            return JsonArgumentsReader(reading, reply, before, layout)
        if layout.tags.is_python:
            return PythonCallsReader(reading, reply, layout.section_end.lstrip("]"))
        return TaggedArgumentsReader(reading, reply, before, layout, layout.tags)

    def _calling(self) -> bool:
        reader = self._reader
        assert reader is not None
        self._text = reader.feed(self._text)
        if reader.is_done:
            self._state = "between"
        elif reader.has_failed:
            self._give_back(reader.raw)
        else:
            return False
        return True

    def _give_back(self, raw: str) -> None:
        """What looked like a call is text."""
        if self._trigger and self._trigger == self._answer_layout.content_end:
            self._state = "over"
            return
        self._say(self._trigger)
        self._text = raw
        self._state = "content" if self._trigger or self._is_bare else "start"

    def _between(self) -> bool:
        """Behind a call: another one, what belongs to neither, or an answer."""
        self._text = self._text.lstrip()
        if not self._text:
            return False
        text = self._text
        if any(edge.startswith(text) and edge != text for edge in self._edges):
            return False
        is_object = self._layout is not None and self._layout.json_call is not None
        edge = next((edge for edge in self._edges if text.startswith(edge)), None)
        if edge is not None and not (is_object and text.startswith("{")):
            self._text = text[len(edge) :]
            before = self._edges[edge]
            if before is not None:
                self._begin_call(edge, before)
            return True
        if is_object and text.startswith("{"):
            self._begin_call("", "")
        else:
            self._state = "content"
        return True

    def _over(self) -> bool:
        self._text = ""
        return False
