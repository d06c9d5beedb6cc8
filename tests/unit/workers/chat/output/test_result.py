"""The result of a chat, as its choices add up to it."""

from __future__ import annotations

from batch.payloads.chat import AssistantMessage, ChatChoice
from batch.workers.chat.output.result import ChoiceResult, make_chat_result, make_timings


def test_what_functions_that_are_not_strict_ask_for_in_vain_is_told_in_a_note() -> None:
    choice = ChatChoice(finish_reason="stop", message=AssistantMessage(content="x"))
    result = ChoiceResult(choice, make_timings(0, 1, 1.0, 1, 1.0), 0, "stopped a repetition")
    assert make_chat_result([result], 1).note == "stopped a repetition"
    places = [f"tools[0].function.parameters.properties.p{n}.if" for n in range(7)]
    note = make_chat_result([result], 1, unenforced=places).note
    assert note is not None and note.startswith("stopped a repetition; not enforced, as the function is not strict: tools[0]")
    assert "p4.if" in note and "p5.if" not in note and note.endswith("and 2 more")
