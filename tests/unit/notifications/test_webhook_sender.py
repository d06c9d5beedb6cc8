"""What a receiver's answer says of the next attempt."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from batch.notifications import webhook_sender
from batch.notifications.webhook_sender import MAX_RETRY_AFTER_S


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("120", 120.0, 120.0),
        (lambda: formatdate(time.time() + 300, usegmt=True), 200.0, 300.0),
        (lambda: formatdate(time.time() - 300, usegmt=True), 0.0, 0.0),
        ("999999999", MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S),
        (None, 0.0, 0.0),
        ("", 0.0, 0.0),
        ("soon", 0.0, 0.0),
        ("-5", 0.0, 0.0),
        ("nan", 0.0, 0.0),
        ("9" * 400, 0.0, 0.0),
    ],
    ids=["seconds", "date", "past date", "too long", "none", "empty", "word", "negative", "nan", "infinite"],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: object, least: float, most: float) -> None:
    text = header() if callable(header) else header
    assert least <= webhook_sender._seconds(text) <= most
