"""What chat templates read: Jinja knows attributes of mappings, so messages, tools and calls reach it as such."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TemplateValue = Mapping[str, Any]
"""A message, tool, call or set of arguments as a template reads it."""
TemplateObject = dict[str, Any]
"""The same while it is being made."""
