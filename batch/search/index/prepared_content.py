"""A content made ready for the search index, so that the transaction only inserts."""

from __future__ import annotations

from batch.search.documents import IndexedContent, Passage, moments_json, passages_of
from batch.search.index.vectors import to_stored
from batch.search.segmentation import index_text


class PreparedContent:
    """What a content's rows hold."""

    def __init__(self, document: IndexedContent) -> None:
        self.document = document
        self.passages: list[tuple[Passage, str, str | None]] = [
            (passage, index_text(passage.text), moments_json(passage.moments)) for passage in passages_of(document)
        ]
        vectors = document.vectors
        self.vectors: list[bytes] = [] if vectors is None else to_stored(vectors)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to find, as in a silent recording."""
        return not self.document.text.strip()
