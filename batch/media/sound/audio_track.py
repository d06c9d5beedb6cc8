"""Which of a film's sound tracks is heard: the one that was asked for, else the one that a player would start with."""

from __future__ import annotations

from av import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from batch.errors import BadRequest
from batch.media import language as languages

LISTED_TRACKS = 20
"""Most tracks that an error's sentence lists."""

_ASIDE = Disposition.comment | Disposition.visual_impaired | Disposition.hearing_impaired | Disposition.dependent


def choose_track(container: InputContainer, name: str, choice: str | None) -> AudioStream | None:
    """The sound track to decode; None where the file holds none.

    `choice` is a number, from 1, or a language (a code or an English name); None or "" leaves the choice to the file:
    its default track, never a commentary where there is another. Raises BadRequest where there is no such track.
    """
    tracks = container.streams.audio
    if not tracks:
        return None
    if choice:
        return _named_track(tracks, name, choice.strip())
    for group in (
        [track for track in tracks if track.disposition & Disposition.default and not track.disposition & _ASIDE],
        [track for track in tracks if not track.disposition & _ASIDE],
    ):
        readable = [track for track in group if track.codec_context is not None]
        if readable:
            return readable[0]
    return tracks[0]


def _named_track(tracks: tuple[AudioStream, ...], name: str, choice: str) -> AudioStream:
    if choice.isascii() and choice.isdecimal():
        if 1 <= int(choice[:9]) <= len(tracks):
            return tracks[int(choice[:9]) - 1]
    else:
        code = languages.normalise(choice)
        for track in tracks:
            if code not in (None, languages.AUTO) and track.language and languages.normalise(track.language) == code:
                return track
    listed = ", ".join(f"{i} ({t.language})" if t.language else str(i) for i, t in enumerate(tracks[:LISTED_TRACKS], 1))
    raise BadRequest(f'{name} has no sound track "{choice[:40]}": there are {listed}.', param="audio_track")
