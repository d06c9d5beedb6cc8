"""`batch search`: what was captioned, heard and read, by the running service or, with words alone, without it."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batch.cli.app import Json, app
from batch.cli.exit_status import ExitStatus
from batch.cli.home import Home, open_store, service_note
from batch.cli.jobs.filters import Folder, Since, parse_since
from batch.cli.output import print_error, print_json
from batch.errors import BadRequest

if TYPE_CHECKING:
    from batch.queue.store import Store
    from batch.search.request import SearchRequest
    from batch.search.result import SearchResult

_TIMEOUT_S = 60.0

_SERVICE_DOWN = "the service is not running, so only words are looked for, not meanings: start `batch serve` for both."
_DEGRADED = {
    "embedding_unavailable": "the embedding model is not loaded, so only words were looked for, not meanings.",
    "other_model": "some vectors were made by a model that is not loaded, and were left out: `batch reindex --embed` makes "
    "new ones.",
    "reindexing": "the index is being made anew, and the old one answers; if nobody is at it, `batch reindex` goes on.",
}
"""What is said on standard error when a search had only a part of what it asked for."""


@app.command()
def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="QUERY...",
            help='Words that must all be there; "a phrase" in its quotes, word* for a beginning, and -word, inside quotes or '
            "behind --, for one that must not.",
            show_default=False,
        ),
    ] = None,
    home: Home = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="image, audio, video or text; may be given several times.")
    ] = None,
    folder: Folder = None,
    language: Annotated[str | None, typer.Option("--language", help="Only speech in this language: en, zh.")] = None,
    since: Since = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Only what came before: an age as 30m, 2h or 3d, or a date.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="text (words), vector (meanings) or hybrid (both) [default: hybrid]"),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="How many, 100 at most.")] = 20,
    like: Annotated[
        Path | None, typer.Option("--like", metavar="FILE", help="Instead of words: a file of the inbox to find the like of.")
    ] = None,
    as_json: Json = False,
    nul: Annotated[bool, typer.Option("-0", "--print0", help="Only paths below the inbox, with a NUL behind each.")] = False,
) -> None:
    """Find what was captioned, heard or read, by its words and by its meaning.

    Exit status 1 when nothing is found. With the service down, words alone are looked for.
    """
    with open_store(home, readonly=True) as store:
        fields = {
            "query": " ".join(words) if words else None,
            "like": None if like is None else _path_below_inbox(store, home, like),
            "mode": mode,
            "folder": folder,
            "language": language,
            "since": _iso(parse_since(since)),
            "until": _iso(parse_since(until)),
            "limit": limit,
        }
        result = _search(store, {name: value for name, value in fields.items() if value is not None}, kind or [])
        if nul:
            for hit in result.data:
                sys.stdout.buffer.write(hit.source_path() + b"\0")
            sys.stdout.buffer.flush()
        elif as_json:
            import msgspec

            print_json(msgspec.to_builtins(result))
        else:
            from batch.cli.search.view import print_hits

            print_hits(result)
    if not result.data:
        raise typer.Exit(ExitStatus.FAILED)


def _search(store: Store, fields: dict[str, Any], kinds: list[str]) -> SearchResult:
    """The answer of the running service, or of the text list alone where none runs."""
    import msgspec

    from batch.port_client import PortAway, PortClient, Refusal
    from batch.search.request import SearchRequest
    from batch.search.result import SearchResult

    try:
        request = SearchRequest.of(kinds=kinds, **fields)
    except BadRequest as error:
        raise typer.BadParameter(error.message) from None
    note = service_note(store)
    if note is not None:
        try:
            body = PortClient(note["ports"]["embedding"]).post("/v1/search", {**fields, "kind": kinds}, _TIMEOUT_S)
            result = msgspec.convert(body, SearchResult)
        except PortAway:
            note = None
        except Refusal as refusal:
            if refusal.http_status == 400:
                raise typer.BadParameter(refusal.message) from None
            raise
    if note is None:
        result = _search_without_service(store, request)
    if result.degraded is not None and note is not None:
        print_error(_DEGRADED[result.degraded])
    return result


def _search_without_service(store: Store, request: SearchRequest) -> SearchResult:
    from batch.search.index.reader import IndexReader
    from batch.search.request import SearchMode
    from batch.search.searcher import Searcher

    if request.query is not None:
        if request.mode is SearchMode.VECTOR:
            print_error("the service is not running, and only its embedding model finds meanings: start `batch serve`.")
            raise typer.Exit(ExitStatus.SERVICE_DOWN)
        if request.mode is SearchMode.HYBRID:
            print_error(_SERVICE_DOWN)
    return Searcher().search(IndexReader(store), request, None, None if request.like else "embedding_unavailable")


def _path_below_inbox(store: Store, home: Path | None, path: Path) -> str:
    """What the index calls a file that was named as it lies below the inbox, or by any other path."""
    from batch.folder.ledger.file_listing import find_file
    from batch.settings import Settings

    name = os.fspath(path)
    if find_file(store, name) is not None:
        return name
    below = os.path.relpath(path.absolute(), Settings.load(home).inbox_dir)
    return name if below.startswith("..") else below


def _iso(when: float | None) -> str | None:
    return None if when is None else datetime.fromtimestamp(when, UTC).isoformat()
