"""Which pictures a projector's cache keeps, and what each costs it."""

from __future__ import annotations

import numpy as np
import pytest

from batch.workers.chat.images.image_cache import ImageCache
from batch.workers.chat.images.image_chunk import ImageChunk, ImageEncoding, TokenizedImage

FLOATS = 25
BYTES = 4 * FLOATS


def prepared(name: str, parts: int = 1) -> TokenizedImage:
    encodings = [ImageEncoding(name, None, FLOATS) for _ in range(parts)]
    return TokenizedImage(name, [ImageChunk(-1, FLOATS, FLOATS, encoding) for encoding in encodings], pixel_bytes=BYTES)


def encode(cache: ImageCache, image: TokenizedImage) -> None:
    for chunk in image.chunks:
        assert chunk.encoding is not None
        chunk.encoding.embedding = np.zeros(FLOATS, np.float32)
        cache.note_encoded(image.sha256)


def names(cache: ImageCache) -> str:
    return "".join(image.sha256 for image in cache.images)


def test_the_picture_that_was_not_used_for_longest_makes_room_and_the_last_stays_at_any_size() -> None:
    cache = ImageCache(3 * BYTES)
    for name in "abc":
        cache.add(image := prepared(name))
        assert cache.use(name) is None and cache.get(name) is image, "it is yet to be encoded"
        encode(cache, image)
    assert cache.use("a") is not None
    cache.add(image := prepared("d"))
    encode(cache, image)
    assert names(cache) == "cad"
    cache.add(image := prepared("e", parts=5))
    encode(cache, image)
    assert names(cache) == "e" and cache.use("e") is image
    cache.clear()
    assert names(cache) == "" and (cache._embedding_bytes, cache._pixel_bytes) == (0, 0)


def test_pictures_that_nobody_has_encoded_make_room_for_their_kind_alone() -> None:
    cache = ImageCache(2 * BYTES)
    cache.add(image := prepared("a"))
    encode(cache, image)
    left = [prepared(name) for name in "bcd"]
    for image in left:
        cache.add(image)
    assert names(cache) == "acd"
    encode(cache, left[0])  # its job had a hold on it
    assert names(cache) == "acd" and cache._embedding_bytes == BYTES
    cache.add(prepared("c"))  # once more, for another job
    assert names(cache) == "adc" and cache._pixel_bytes == 2 * BYTES


def test_what_a_picture_costs_does_not_grow_with_the_number_of_those_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, looks = ImageCache(1 << 30), list[str]()
    for name in ("is_encoded", "embedding_bytes"):
        value = getattr(TokenizedImage, name).fget

        def look(image: TokenizedImage, name: str = name, value: object = value) -> object:
            looks.append(name)
            return value(image)  # type: ignore[operator]

        monkeypatch.setattr(TokenizedImage, name, property(look))
    costs = []
    for number in range(300):
        looks.clear()
        cache.add(image := prepared(str(number)))
        encode(cache, image)
        costs.append(len(looks))
    assert len(cache.images) == 300 and set(costs) == {3}
