"""Items in the database, and their pictures in the spool: the same bytes once, however often a conversation repeats them."""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from batch.conversations.rows import Item
from batch.errors import NotFound
from batch.payloads.json_text import encode
from batch.queue.spool import Spool, is_spool_name
from batch.queue.store import Store, Transaction

SPOOLED = "batch-spool:"
"""What a stored picture's image_url begins with; its media type, a comma and the sha256 follow."""
MAX_SQL_PARAMETERS = 500


class ItemStore:
    """Named queries on items. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store, spool: Spool) -> None:
        self._store = store
        self._spool = spool

    def item(self, id: str) -> Item:
        """One item. Raises NotFound."""
        rows = self._store.read("select data from item where id=?", (id,))
        if not rows:
            raise NotFound(f"Item with id '{id}' not found.", param="input")
        return _decode(rows[0][0])

    def items(self, ids: Sequence[str]) -> list[Item]:
        """The items with these ids, in order; ids of no item are passed over."""
        items_by_id: dict[str, Item] = {}
        for start in range(0, len(ids), MAX_SQL_PARAMETERS):
            some = ids[start : start + MAX_SQL_PARAMETERS]
            marks = ",".join("?" * len(some))
            for id, data in self._store.read(f"select id, data from item where id in ({marks})", tuple(some)):
                items_by_id[id] = _decode(data)
        return [items_by_id[id] for id in ids if id in items_by_id]

    def first_items(self, ids: Sequence[str], max_bytes: int, *, with_pictures: bool) -> tuple[list[Item], int]:
        """As many of the items with these ids, in order, as take `max_bytes` together, one at least, and how many of the ids
        those stand for. `with_pictures`: counted with the pictures that they are to be shown with."""
        loaded: list[Item] = []
        total = 0
        for place, id in enumerate(ids):
            for (data,) in self._store.read("select data from item where id=?", (id,)):
                item = _decode(data)
                total += len(data) + (self._picture_bytes(item) if with_pictures else 0)
                if loaded and total > max_bytes:
                    return loaded, place
                loaded.append(item)
        return loaded, len(ids)

    def _picture_bytes(self, item: Item) -> int:
        """How long an item's pictures are as data: URLs."""
        total = 0
        for sha256 in picture_blobs(item):
            with contextlib.suppress(OSError):
                total += self._spool.path(sha256).stat().st_size * 4 // 3
        return total

    def spool_pictures(self, items: Iterable[Item]) -> list[Item]:
        """The items with the pictures of their data: URLs put into the spool and named by hash."""
        return [{**item, "content": self._spooled(item["content"])} if "content" in item else item for item in items]

    def _spooled(self, content: object) -> object:
        if not isinstance(content, list):
            return content
        return [self._spooled_part(part) for part in content]

    def _spooled_part(self, part: object) -> object:
        if not isinstance(part, dict) or not isinstance(url := part.get("image_url"), str) or not url.startswith("data:"):
            return part
        head, _, text = url.partition(",")
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return part
        media_type = head[5:].partition(";")[0] or "image/jpeg"
        return {**part, "image_url": f"{SPOOLED}{media_type},{self._spool.keep(data, durable=True)}"}

    def with_pictures(self, item: Item) -> Item:
        """The item with its pictures as data: URLs again; one whose bytes are gone keeps none."""
        return _map_images(item, self._data_url)

    def _data_url(self, url: str) -> str | None:
        if not url.startswith(SPOOLED):
            return url
        media_type, _, sha256 = url.removeprefix(SPOOLED).partition(",")
        try:
            data = self._spool.read(sha256)
        except (OSError, ValueError):
            return None
        return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def without_pictures(item: Item) -> Item:
    """The item without image_url, as lists show it unless they are asked to include it."""
    return _map_images(item, lambda url: None)


def _map_images(item: Item, change: Callable[[str], str | None]) -> Item:
    content = item.get("content")
    if not isinstance(content, list):
        return item
    parts = []
    for part in content:
        if isinstance(part, dict) and isinstance(url := part.get("image_url"), str):
            changed = change(url)
            part = {key: value for key, value in part.items() if key != "image_url"}
            if changed is not None:
                part["image_url"] = changed
        parts.append(part)
    return {**item, "content": parts}


def insert_items(transaction: Transaction, items: Iterable[Item]) -> None:
    """Write items that are not there yet, and hold their pictures in the spool."""
    for item in items:
        id = str(item["id"])
        if transaction.execute("insert into item values (?,?) on conflict do nothing", (id, encode(item).decode())).rowcount:
            transaction.hold(id, list(picture_blobs(item)), "item")


def picture_blobs(item: Item) -> Iterator[str]:
    """sha256 names of an item's pictures in the spool."""
    content = item.get("content")
    for part in content if isinstance(content, list) else ():
        url = part.get("image_url") if isinstance(part, dict) else None
        if isinstance(url, str) and url.startswith(SPOOLED) and is_spool_name(name := url.rpartition(",")[2]):
            yield name


def _decode(data: str) -> Item:
    return msgspec.json.decode(data, type=Item)
