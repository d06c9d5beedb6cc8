"""docs/formats.md, made from the table of file formats."""

from __future__ import annotations

from batch.media.formats import FORMATS, MediaKind

_HEADINGS = {
    MediaKind.IMAGE: "Pictures: captions, and pictures in chats",
    MediaKind.AUDIO: "Sound: transcripts",
    MediaKind.VIDEO: "Films: transcripts of their sound",
    MediaKind.TEXT: "Texts: vectors",
}
_HEAD = """\
# File formats

What `batch` takes, in the inbox and in requests. A file is judged by its content first and by its name second; what is
recognised by its content needs no ending.
"""
_TAIL = """
Not taken: playlists (they would make the decoder open other files and addresses), vector graphics, and raw streams that
nothing in the file describes (GSM, raw PCM). Sound may have 1,000 to 1,536,000 samples a second, up to 64 channels and up to
48 hours; a container with several sound tracks is heard in its default one unless `audio_track` names another
([speech.md](speech.md)). Bounds of pictures stand in [edges.md](edges.md).
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for kind, heading in _HEADINGS.items():
        parts.append(f"\n## {heading}\n| format | endings |\n|---|---|\n")
        for row in FORMATS:
            if row.kind is kind:
                parts.append(f"| {row.name} | {' '.join(f'`.{suffix}`' for suffix in row.suffixes)} |\n")
    return "".join([*parts, _TAIL])
