"""Jinja as chat templates need it: in a sandbox, with Hugging Face's additions, ended at a deadline."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batch.workers.chat.prompt.template_loops import end_searches


class _Generation(Extension):
    """`{% generation %}` marks what training learns from; here it is only a bracket."""

    tags = {"generation"}  # noqa: RUF012 - the base class wants a set

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Looks at the clock while a template runs: some look through all messages for each one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.clock = threading.local()

    def compile_template(self, source: str) -> jinja2.Template:
        """A template whose searches end once they have what they look for. Raises jinja2.TemplateError, RecursionError."""
        tree = self.parse(source)
        end_searches(tree)
        return self.from_string(tree)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the base class, which templates call for each attribute."""
        self._look_at_clock()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As the base class, which templates call for each item."""
        self._look_at_clock()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As the base class, but templates may lengthen lists: what they get of a request is a copy."""
        return (isinstance(obj, list) and attr == "append") or super().is_safe_attribute(obj, attr, value)

    def _look_at_clock(self) -> None:
        if time.monotonic() > getattr(self.clock, "deadline", math.inf):
            raise RenderingTooSlow


class RenderingTooSlow(Exception):
    """Rendering takes longer than anybody should have to wait."""


def template_environment() -> TemplateEnvironment:
    """An environment with the filters and functions that templates on Hugging Face expect."""
    environment = TemplateEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    strftime_now: Callable[[str], str] = lambda form: datetime.now().strftime(form)  # noqa: E731
    environment.globals["strftime_now"] = strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Not Jinja's own, which escapes for HTML.
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_listed
    )


def _listed(value: Any) -> Any:
    """What filters such as `map` return is a list that has not been made yet."""
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def template_complaint(error: BaseException) -> str:
    """What a template or Jinja says, as one sentence of at most 298 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text[:297] + "…" if len(text) > 298 else text).rstrip(".") + "."
