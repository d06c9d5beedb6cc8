"""Pictures inside a chat."""

from __future__ import annotations

import base64

import pytest

from batch.payloads.model_info import ChatModelInfo
from batch.queue.hub.model_state import ModelState
from batch.settings import LimitSettings
from chat_calls import (
    chat,
    png,
    says,
    with_image,
)
from scripted_hub import answer


def test_a_data_url_is_spooled_and_named_by_its_bytes() -> None:
    hub = says(answer("a red square"))
    assert chat(with_image(png()), hub).status_code == 200
    (sha,) = hub.blobs
    assert hub.blobs[sha] == base64.b64decode(png().split(",")[1])
    assert hub.drafts[0].blobs == (sha,)
    parts = hub.requests[0]["messages"][0]["content"]
    assert parts == [{"type": "text", "text": "What?"}, {"type": "image", "blob": sha}]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "data:image/png;base64,!!!",
        "data:image/png,abc",
        "data:image/png;base64",
        "data:image/png;base64,",
        "data:image/png;base64," + base64.b64encode(b"no image at all").decode(),
    ],
)
def test_what_is_no_image_here_is_a_400(url: str) -> None:
    hub = says(answer("x"))
    reply = chat(with_image(url), hub)
    assert reply.status_code == 400 and not hub.drafts


def test_of_several_images_the_wrong_one_is_named() -> None:
    turns = [*with_image(png())["messages"], *with_image("https://example.org/a.png")["messages"]]
    error = chat({"messages": turns}).json()["error"]
    assert error["message"].startswith("Image 2 of 2: image_url: https addresses are not fetched")


def test_too_large_images_are_a_413() -> None:
    assert chat(with_image(png(100, 100)), limits=LimitSettings(image_pixels=9999)).status_code == 413
    assert chat(with_image(png()), limits=LimitSettings(image_bytes=10)).status_code == 413
    two = with_image(png())["messages"] * 2
    assert chat({"messages": two}, limits=LimitSettings(images=1)).status_code == 413


def test_an_image_without_a_vision_model_is_a_400() -> None:
    hub = says(answer("x"))
    hub.state = ModelState("ready", 1.0, ChatModelInfo(model="text"))
    assert chat(with_image(png()), hub).status_code == 400
