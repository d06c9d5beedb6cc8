"""Names of hosts and web pages in which a star stands for any part, refused where they would let everybody in."""

from __future__ import annotations

import re

_HOST = re.compile(r"[A-Za-z0-9*._-]+")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+/?")
_WEBHOOK = re.compile(r"https?://[^\s/@]+(/\S*)?", re.IGNORECASE)
_EVERY_PAGE = re.compile(r"https?://[*.:]*(\*\.?[A-Za-z]*)?/?", re.IGNORECASE)
"""All pages of the web, or of a top-level domain."""


def check_host_pattern(text: str) -> str:
    """A host name; ValueError where it is none, or every name."""
    if not _HOST.fullmatch(text):
        raise ValueError('it is no host name, as in "host.docker.internal"')
    if not text.strip("*.") or (text.startswith("*") and "." not in text.strip("*.")):
        raise ValueError("it would let any name be this machine's")
    return text


def check_origin_pattern(text: str) -> str:
    """The origin of a web page; ValueError where it is none, or every page of the web."""
    if not _ORIGIN.fullmatch(text):
        raise ValueError('it is no address of a page, as in "https://example.org" or "vscode-webview://*"')
    if _EVERY_PAGE.fullmatch(text):
        raise ValueError("it would let every page of the web use this service")
    return text


def check_webhook(text: str) -> str:
    """The address of a webhook's receiver; ValueError where it is none."""
    if not _WEBHOOK.fullmatch(text) or "#" in text or not text.isascii():
        raise ValueError('it is no address to send events to, as in "http://127.0.0.1:9000/events"')
    return text
