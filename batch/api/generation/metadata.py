"""Metadata that clients attach to what is stored: up to 16 pairs of short strings."""

from __future__ import annotations

from batch.api.json_body import JsonObject
from batch.errors import BadRequest

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512


def read_metadata(metadata: JsonObject | None) -> dict[str, str] | None:
    """Up to 16 pairs of short strings. Raises BadRequest."""
    if metadata is None:
        return None
    if len(metadata) > MAX_METADATA_PAIRS:
        raise BadRequest(f"'metadata' holds {len(metadata)} pairs; {MAX_METADATA_PAIRS} are taken at most", param="metadata")
    for key, value in metadata.items():
        fits = isinstance(value, str) and len(value) <= MAX_METADATA_VALUE_CHARS
        if not fits or not 0 < len(key) <= MAX_METADATA_KEY_CHARS:
            raise BadRequest(
                f"'metadata.{key[:MAX_METADATA_KEY_CHARS]}' should be a string of at most {MAX_METADATA_VALUE_CHARS} "
                f"characters under a name of at most {MAX_METADATA_KEY_CHARS}",
                param="metadata",
            )
    return {key: str(value) for key, value in metadata.items()}
