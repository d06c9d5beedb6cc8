"""Registers every command with the app."""

from __future__ import annotations

from batch.cli import serve, status  # noqa: F401
