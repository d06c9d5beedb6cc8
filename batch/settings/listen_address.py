"""Addresses of the form host:port that a front's worker port has."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_HOST_CHARS = 253
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|([A-Za-z0-9_.-]+)):([0-9]{1,5})")
_EVERYWHERE = ("0.0.0.0", "::")


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, or of `[::1]:port`. Raises ValueError."""
    match = _ADDRESS.fullmatch(text)
    if match is None or len(host := match[1] or match[2]) > MAX_HOST_CHARS or int(match[3]) > 65535:
        raise ValueError("it is no host:port")
    return host, int(match[3])


def join_address(host: str, port: int) -> str:
    """The text that `split_address` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_everywhere(text: str) -> bool:
    """Whether an address stands for all of this machine's, so that nobody can dial it."""
    return bool(text) and split_address(text)[0] in _EVERYWHERE


def check_listen_address(text: str) -> str:
    """The address; ValueError where it is none."""
    if text:
        split_address(text)
    return text


def check_public_address(text: str) -> str:
    """The address; ValueError where nobody could dial it."""
    if text and (is_everywhere(text) or not split_address(text)[1]):
        raise ValueError("nobody can dial that")
    return text


ListenAddress = Annotated[str, Field(max_length=300), AfterValidator(check_listen_address), "host:port"]
PublicAddress = Annotated[str, Field(max_length=300), AfterValidator(check_public_address), "host:port"]
