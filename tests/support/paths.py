"""Where the tests find the checkout and their data."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
DATA = TESTS / "data"
TINY_GEMMA4V = ROOT / "batch" / "data" / "tiny-gemma4v"
"""The folder of the vision-language model that comes with the package."""
