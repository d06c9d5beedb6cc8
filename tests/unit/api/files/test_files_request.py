"""What clients send about files."""

from __future__ import annotations

import pytest

from batch.api.files.request import read_form_lifetime
from batch.api.http.multipart import FormUpload
from batch.batches.rows import Purpose
from batch.errors import BadRequest
from batch.settings import FileSettings


def lifetime(seconds: str) -> int | None:
    form = FormUpload({"expires_after[anchor]": ["created_at"], "expires_after[seconds]": [seconds]})
    return read_form_lifetime(form, Purpose.BATCH, FileSettings())


def test_a_files_lifetime_has_bounds_however_it_is_written() -> None:
    assert lifetime("3600") == lifetime("0000003600") == 3600
    for seconds in ("3599", "2592001", "-3600", "3600.5", "0000003600999", "0000003600" + "9" * 5000, ""):
        with pytest.raises(BadRequest):
            lifetime(seconds)
