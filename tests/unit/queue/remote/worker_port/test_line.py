"""Packets that are kept until they have arrived."""

from __future__ import annotations

from batch.payloads.json_text import decode, encode
from batch.queue.remote.packet import MAX_PACKET_BYTES, Packet
from batch.queue.remote.worker_port.line import MAX_KEPT_BYTES, MAX_WAITING_BYTES, Line
from ears import word


def filled(line: Line, *texts: str) -> None:
    for text in texts:
        line.add(encode(word(text)))
    line.pack()


def sent(line: Line) -> list[Packet]:
    packets: list[Packet] = []
    while (packet := line.next_packet()) is not None:
        packets.append(decode(packet, Packet))
    return packets


def numbers(packets: list[Packet]) -> list[int]:
    return [packet.sequence for packet in packets]


def test_packets_are_numbered_in_order_fit_a_notification_and_are_sent_again_until_they_are_acknowledged() -> None:
    line = Line()
    filled(line, *(f"word {number}" for number in range(1000)))
    data = line.next_packet()
    assert data is not None and MAX_PACKET_BYTES - 200 < len(data) <= MAX_PACKET_BYTES
    packets = [decode(data, Packet), *sent(line)]
    assert numbers(packets) == list(range(1, len(packets) + 1)) and len(packets) > 5
    assert {packet.sender for packet in packets} == {line.sender}
    assert sum(len(packet.items) for packet in packets) == 1000
    assert line.next_packet() is None, "each once"
    line.acknowledge(2)
    line.rewind()
    assert numbers(sent(line)) == numbers(packets)[2:] and not line.is_idle
    line.acknowledge(len(packets))
    line.rewind()
    assert line.is_idle and line.next_packet() is None


def test_of_what_was_sent_the_oldest_go_beyond_the_bound_and_of_what_waits_only_far_beyond_it() -> None:
    line = Line()
    filled(line, "first", *("x" * (MAX_KEPT_BYTES * 2) for _ in range(3)))
    filled(line, "last")
    assert len(sent(line)) == 5, "what was not sent yet is all there"
    filled(line, *("y" * (MAX_KEPT_BYTES // 20) for _ in range(40)))
    line.rewind()
    again = numbers(sent(line))
    assert again[-1] == 45 and again == list(range(again[0], 46)) and 20 <= len(again) <= 40, (
        "a missing number tells of the rest"
    )
    filled(line, *("z" * (MAX_WAITING_BYTES // 8) for _ in range(20)))
    waiting = numbers(sent(line))
    assert waiting[-1] == 65 and len(waiting) <= 9


def test_a_packet_that_is_larger_than_the_bound_can_be_sent_again_while_it_is_the_newest() -> None:
    line = Line()
    filled(line, "x" * (2 * MAX_WAITING_BYTES))
    assert numbers(sent(line)) == [1]
    line.rewind()
    assert numbers(sent(line)) == [1]


def test_two_lines_are_never_taken_for_one() -> None:
    assert Line().sender != Line().sender
