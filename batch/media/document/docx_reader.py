"""The text of a Word document. Run as a program of its own: `python -m batch.media.document.docx_reader`.

A document is a ZIP file of XML, and may unpack to gigabytes: so it is read in a process with bounds on its memory and
processor time. Standard input holds the document (a file, as a ZIP file is read from its end); standard output gets its
text as UTF-8. A problem is one sentence on standard error and exit status 1.
"""

from __future__ import annotations

import resource
import sys
import zipfile

import mammoth

CPU_LIMIT_S = 60
MEMORY_LIMIT_BYTES = 2 << 30
MAX_UNPACKED_BYTES = 512 << 20


def main() -> int:
    """Write the text of the document on standard input; the exit status."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with zipfile.ZipFile(sys.stdin.buffer) as archive:
            if sum(part.file_size for part in archive.infolist()) > MAX_UNPACKED_BYTES:
                print("it unpacks to more than any document needs", file=sys.stderr)
                return 1
            if "word/document.xml" not in archive.namelist():
                print("it is no Word document", file=sys.stderr)
                return 1
        sys.stdin.buffer.seek(0)
        text = mammoth.extract_raw_text(sys.stdin.buffer).value
    except Exception as error:  # a library's own, of any kind: what is broken is the document
        print(f"it is damaged ({type(error).__name__})", file=sys.stderr)
        return 1
    lines = [line.rstrip() for line in text.split("\n")]
    sys.stdout.buffer.write("\n".join(_without_blank_pairs(lines)).encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
    return 0


def _without_blank_pairs(lines: list[str]) -> list[str]:
    """The library puts a blank line behind each paragraph."""
    paragraphs: list[str] = []
    for line in lines:
        if line or (paragraphs and paragraphs[-1]):
            paragraphs.append(line)
    return paragraphs


if __name__ == "__main__":
    sys.exit(main())
