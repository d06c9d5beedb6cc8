"""What is searched for, checked where it comes in: a struct that HTTP, the command line and the page share."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from batch.errors import BadRequest
from batch.media.kind import MediaKind
from batch.search.query_language import MAX_QUERY_CHARS, TextQuery, parse_query

MAX_LIMIT = 100
DEFAULT_LIMIT = 20
MAX_DEPTH = 200
"""Of limit and offset together: as long as each of the two lists that are joined."""
MAX_FILTER_CHARS = 1024
SEARCHABLE_KINDS = (MediaKind.IMAGE, MediaKind.AUDIO, MediaKind.VIDEO, MediaKind.TEXT)


class SearchMode(StrEnum):
    """Which lists a search joins."""

    HYBRID = "hybrid"
    TEXT = "text"
    VECTOR = "vector"


class SearchFilter(msgspec.Struct, frozen=True, kw_only=True):
    """A content matches when every field that is set does. Times are Unix seconds."""

    kinds: tuple[MediaKind, ...] = ()
    folder: str | None = None
    """One of its files lies in this folder of the inbox, or below it; without slashes at its ends."""
    language: str | None = None
    model: str | None = None
    since: float | None = None
    until: float | None = None


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A checked search. Exactly one of `query` and `like` is set."""

    query: TextQuery | None = None
    like: str | None = None
    """A file of the inbox, whose stored vectors are the query."""
    mode: SearchMode = SearchMode.HYBRID
    filter: SearchFilter = SearchFilter()
    limit: int = DEFAULT_LIMIT
    offset: int = 0
    min_similarity: float | None = None
    """None: what the model's own vectors say."""

    @staticmethod
    def of(
        *,
        query: str | None = None,
        like: str | None = None,
        mode: str | None = None,
        kinds: list[str] | None = None,
        folder: str | None = None,
        language: str | None = None,
        model: str | None = None,
        since: str | None = None,
        until: str | None = None,
        limit: int | None = None,
        offset: int | None = None,
        min_similarity: float | None = None,
    ) -> SearchRequest:
        """A search as a client put it; None is absent. Raises BadRequest, which names the parameter."""
        if (query is None) == (like is None):
            raise BadRequest(
                'Send "query", the words to look for, or "like", a file to look for others of its kind.', param="query"
            )
        limit, offset = _page(limit, offset)
        if min_similarity is not None and not 0 <= min_similarity <= 1:
            raise BadRequest('"min_similarity" must be a number from 0 to 1.', param="min_similarity")
        return SearchRequest(
            query=None if query is None else parse_query(query),
            like=None if like is None else _path(like, "like"),
            mode=_mode(mode),
            filter=SearchFilter(
                kinds=tuple(dict.fromkeys(map(_kind, kinds or ()))),
                folder=None if folder is None else _path(folder, "folder") or None,
                language=_word(language, "language"),
                model=_word(model, "model"),
                since=_moment(since, "since"),
                until=_moment(until, "until"),
            ),
            limit=limit,
            offset=offset,
            min_similarity=min_similarity,
        )


def _page(limit: int | None, offset: int | None) -> tuple[int, int]:
    limit, offset = DEFAULT_LIMIT if limit is None else limit, offset or 0
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f'"limit" must be a whole number from 1 to {MAX_LIMIT}.', param="limit")
    if offset < 0 or limit + offset > MAX_DEPTH:
        raise BadRequest(f'"offset" must be at least 0, and with "limit" at most {MAX_DEPTH}.', param="offset")
    return limit, offset


def _mode(name: str | None) -> SearchMode:
    try:
        return SearchMode.HYBRID if name is None else SearchMode(name)
    except ValueError:
        raise BadRequest(f'"mode" must be one of {", ".join(SearchMode)}.', param="mode") from None


def _kind(name: str) -> MediaKind:
    if name not in SEARCHABLE_KINDS:
        raise BadRequest(f'"kind" must be one of {", ".join(SEARCHABLE_KINDS)}.', param="kind")
    return MediaKind(name)


def _path(text: str, param: str) -> str:
    """A path below the inbox, without slashes at its ends."""
    _check_text(text, param, MAX_QUERY_CHARS)
    parts = text.strip("/").split("/")
    if any(part in (".", "..") for part in parts) or (len(parts) > 1 and "" in parts):
        raise BadRequest(f'"{param}" must be a path below the inbox, without "." or ".." in it.', param=param)
    path = "/".join(parts)
    if not path and param == "like":
        raise BadRequest('"like" is empty: name a file of the inbox.', param=param)
    return path


def _word(text: str | None, param: str) -> str | None:
    if text is None:
        return None
    _check_text(text, param, MAX_FILTER_CHARS)
    if not text:
        raise BadRequest(f'"{param}" is empty: leave it away.', param=param)
    return text


def _check_text(text: str, param: str, max_chars: int) -> None:
    if "\0" in text:
        raise BadRequest(f'"{param}" holds a NUL character: leave it away.', param=param)
    if len(text) > max_chars:
        raise BadRequest(f'"{param}" has more than {max_chars} characters.', param=param)


def _moment(text: str | None, param: str) -> float | None:
    """Unix seconds of an ISO 8601 date or time; one without a zone is UTC."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        message = f'"{param}" must be a date or time as in 2026-11-26 or 2026-11-26T10:30:00Z.'
        raise BadRequest(message, param=param) from None
