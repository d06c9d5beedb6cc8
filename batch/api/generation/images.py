"""Image parts of a chat: data: URLs checked, put in the spool and replaced by the name of their bytes."""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Any

from batch.errors import BadRequest, TooLarge, UnsupportedMedia
from batch.media.image import image_header
from batch.queue.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.untyped_hub import facts
from batch.settings import LimitSettings


def _parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    contents = [message["content"] for message in messages if isinstance(message.get("content"), list)]
    return [part for content in contents for part in content]


async def keep_images(messages: list[dict[str, Any]], hub: Hub, limits: LimitSettings) -> tuple[str, ...]:
    """Turn every image_url part into {"type": "image", "blob": sha256}; the names of all blobs.

    BadRequest for what is no image, TooLarge for too many, too big or too many pixels. The bytes go on as they came:
    the worker decodes them.
    """
    parts = [part for part in _parts(messages) if part["type"] == "image_url"]
    if not parts:
        return ()
    if facts(hub.model(Kind.VLM)).get("vision", True) is False:
        raise BadRequest("image input is not supported - hint: this model has no vision projector (mmproj)")
    if len(parts) > limits.images:
        raise TooLarge(f"The request holds {len(parts)} images; this service takes {limits.images} at most.")
    blobs = []
    for at, part in enumerate(parts):
        url = part.pop("image_url")["url"]
        try:
            data = await asyncio.to_thread(_decoded, url, limits)
        except (BadRequest, TooLarge) as error:
            if len(parts) == 1:
                raise
            raise type(error)(f"Image {at + 1} of {len(parts)}: {error.message}") from None
        blob = await hub.keep(data)
        part.clear()
        part |= {"type": "image", "blob": blob}
        blobs.append(blob)
    return tuple(dict.fromkeys(blobs))


def _decoded(url: str, limits: LimitSettings) -> bytes:
    scheme = url[:8].lower()
    if scheme.startswith(("http:", "https:", "file:", "ftp:")):
        raise BadRequest(
            f"image_url: {scheme.split(':')[0]} addresses are not fetched; send the image itself as a "
            "data: URL (data:image/jpeg;base64,…)"
        )
    head, comma, text = url.partition(",") if scheme.startswith("data:") else ("base64", ",", url)
    if not comma:
        raise BadRequest("image_url: Invalid uri-encoded base64 value")
    if not head.endswith("base64"):
        raise BadRequest("image_url: uri must be base64 encoded")
    if len(text) * 3 // 4 > limits.image_bytes + 2:
        raise TooLarge(f"An image is larger than {limits.image_bytes} bytes.")
    try:
        text = "".join(text.split()).rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("image_url: Invalid base64 value") from None
    try:
        image_header(data, max_pixels=limits.image_pixels, max_bytes=limits.image_bytes)
    except UnsupportedMedia as error:  # 415 is for a body; the body here is JSON, and one field of it is wrong
        raise BadRequest(f"image_url: {error.message}") from None
    return data
