"""PDF pages as pictures or text. Run as a program of its own: `python -m batch.media.document.pdf_renderer`.

A document chooses what its rendering costs, and PDFium is native code: so it runs in a process that can be ended at a
deadline, with bounds on its memory and processor time, and takes nothing else down when it crashes.

Standard input holds the document; standard output gets frames of a length (4 bytes, big-endian) and as many bytes: a
PNG or UTF-8 text a page. Arguments: pictures or texts, the most pages, and a page's number where only its picture is
wanted. A problem is one sentence on standard error and exit status 1; TOO_MANY_PAGES_STATUS when the
document has more pages than asked for.
"""

from __future__ import annotations

import io
import resource
import sys
from collections.abc import Iterator

import pypdfium2
import pypdfium2.raw as pdfium_c

from batch.media.document.page_frames import TOO_MANY_PAGES_STATUS, to_frame

LONGEST_SIDE_PX = 1600
"""A larger picture costs a vision model no more tokens: it is scaled down to about this."""
CPU_LIMIT_S = 60
MEMORY_LIMIT_BYTES = 4 << 30
MAX_PAGE_CHARS = 1 << 20


def pictures(document: pypdfium2.PdfDocument, only: int | None = None) -> Iterator[bytes]:
    """Each page, or `only` one counted from 0, as a PNG whose longer side has LONGEST_SIDE_PX pixels."""
    for page in document if only is None else [document[only]]:
        width, height = page.get_size()
        longest = max(width, height, 1.0)
        image = page.render(scale=LONGEST_SIDE_PX / longest).to_pil()
        file = io.BytesIO()
        image.convert("RGB").save(file, "PNG", compress_level=1)
        yield file.getvalue()
        page.close()


def texts(document: pypdfium2.PdfDocument) -> Iterator[bytes]:
    """Each page's text as UTF-8."""
    for page in document:
        text = page.get_textpage().get_text_bounded()[:MAX_PAGE_CHARS]
        yield text.replace("\r\n", "\n").encode("utf-8", "replace")
        page.close()


def main(mode: str, max_pages: int, only: int | None = None) -> int:
    """Write every page of the document on standard input, or a picture of `only` one; the exit status."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        document = pypdfium2.PdfDocument(sys.stdin.buffer.read())
    except pypdfium2.PdfiumError as error:
        locked = error.err_code == pdfium_c.FPDF_ERR_PASSWORD
        print("it is locked with a password" if locked else "it is no PDF that can be read", file=sys.stderr)
        return 1
    if only is None and len(document) > max_pages:
        print(f"it has {len(document)} pages", file=sys.stderr)
        return TOO_MANY_PAGES_STATUS
    try:
        for frame in pictures(document, only) if mode == "pictures" else texts(document):
            sys.stdout.buffer.write(to_frame(frame))
        sys.stdout.buffer.flush()
    except (pypdfium2.PdfiumError, MemoryError, OSError, ValueError, IndexError):
        print("one of its pages cannot be drawn", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:4])))
