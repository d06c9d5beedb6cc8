"""batch/workers/speech/whisper/decoding.py: prompts and characters that are cut."""

from __future__ import annotations

from batch.payloads.speech import TranscriptionOptions
from batch.workers.speech.whisper.decoding import MAX_PROMPT_BYTES, Decoding, prompt_end, whole_characters


def test_of_a_long_prompt_the_end_counts() -> None:
    prose = "And so my fellow Americans. " * 400
    kept = prompt_end(prose)
    assert prose.endswith(kept) and kept.startswith((" And", " so", " my", " fellow", " Americans"))
    assert MAX_PROMPT_BYTES - 64 < len(kept) <= MAX_PROMPT_BYTES
    for letter in "a天😀":
        assert len(prompt_end(letter * 100_000)) == MAX_PROMPT_BYTES // len(letter.encode())
    assert prompt_end(prose[:900]) == prose[:900] and prompt_end("") == ""


def test_a_cut_character_is_seen() -> None:
    text = "a月😀é".encode()
    for length in range(len(text) + 1):
        kept = whole_characters(text[:length])
        text[:kept].decode()
        assert length - kept < 4


def test_options_that_were_not_sent_are_whisper_servers_defaults() -> None:
    assert Decoding.of(TranscriptionOptions(), "de") == Decoding(language="de")
    sent = TranscriptionOptions(language="zh-TW", beam_size=5, temperature=0.4, translate=True, vad=True, offset_t=9)
    assert Decoding.of(sent, "zh") == Decoding(language="zh", beam_size=5, temperature=0.4, translate=True)
