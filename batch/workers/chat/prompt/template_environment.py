"""Jinja as chat templates need it: in a sandbox, with Hugging Face's additions, ended at a deadline."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.idtracking import VAR_LOAD_RESOLVE
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batch.workers.chat.prompt.template_loops import end_searches


class _Generation(Extension):
    """`{% generation %}` marks what training learns from; here it is only a bracket."""

    tags = {"generation"}  # noqa: RUF012 - the base class wants a set

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


MAX_PROBING_S = 5.0
"""For one rendering of a few words: far above what any takes, as one that is refused changes how a model is understood."""
MAX_REPEATED_ITEMS = 1 << 24
"""Longest text or list that a template may make by multiplying."""
MAX_NUMBER_BITS = 1 << 16


class _VariableCollector(CodeGenerator):
    """Notes which variables a template reads from outside, as jinja2.meta does by generating the code once more."""

    def enter_frame(self, frame: Frame) -> None:
        super().enter_frame(frame)
        assert isinstance(self.environment, TemplateEnvironment)
        read = {name for action, name in frame.symbols.loads.values() if action == VAR_LOAD_RESOLVE and name}
        self.environment.variables |= read - self.environment.globals.keys()


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Looks at the clock while a template runs: some look through all messages for each one, and one from a stranger's model
    file may count for ever."""

    intercepted_binops = frozenset({"*", "**"})
    code_generator_class = _VariableCollector

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.clock = threading.local()
        self.variables: set[str] = set()
        """What the templates that were compiled here read from outside."""

    def compile_template(self, source: str) -> jinja2.Template:
        """A template whose searches end once they have what they look for. Raises jinja2.TemplateError, RecursionError."""
        tree = self.parse(source)
        end_searches(tree)
        for loop in tree.find_all(nodes.For):
            look = nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("look_at_clock"), [], [], None, None))
            loop.body.insert(0, look.set_lineno(loop.lineno).set_environment(self))
        return self.from_string(tree)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """As the base class, which templates call for each function and macro."""
        self.look_at_clock()
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """As the base class, but nothing becomes so large that it takes the memory, or a step that no clock ends."""
        numbers = [abs(value) for value in (left, right) if isinstance(value, int)]
        if len(numbers) == 2:
            bits = [number.bit_length() for number in numbers]
            if (bits[0] * numbers[1] if operator == "**" else sum(bits)) > MAX_NUMBER_BITS:
                raise jinja2.TemplateError("A number in it is too large")
        length = next((len(value) for value in (left, right) if isinstance(value, str | list | tuple)), 0)
        if operator == "*" and length and numbers and length * numbers[0] > MAX_REPEATED_ITEMS:
            raise jinja2.TemplateError("A text or list in it is too long")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the base class, which templates call for each attribute."""
        self.look_at_clock()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As the base class, which templates call for each item."""
        self.look_at_clock()
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As the base class, but templates may lengthen lists: what they get of a request is a copy."""
        return (isinstance(obj, list) and attr == "append") or super().is_safe_attribute(obj, attr, value)

    def start_clock(self, limit_s: float) -> None:
        """A rendering begins in this thread that may take so many seconds."""
        self.clock.deadline = time.monotonic() + min(limit_s, getattr(self.clock, "limit_s", math.inf))

    @contextlib.contextmanager
    def probing(self) -> Iterator[None]:
        """While this lasts, renderings in this thread are of a few words: of dozens, none may take long."""
        before, self.clock.limit_s = getattr(self.clock, "limit_s", math.inf), MAX_PROBING_S
        try:
            yield
        finally:
            self.clock.limit_s = before

    def look_at_clock(self) -> None:
        """Raises RenderingTooSlow behind the deadline."""
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
