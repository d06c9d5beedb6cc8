"""What every carrier between workers and services promises: local sockets, streams by TLS, and the database's notifications."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from batch.payloads.json_text import encode
from batch.payloads.questions import Detokenize, Detokenized
from batch.queue.frames import Answered, Ask
from batch.queue.jobs import Kind
from batch.queue.remote.channel import Channel
from batch.queue.remote.packet import FromWorker
from ears import Ears, question, word
from home_sockets import ServiceEnd, WorkerEnd
from played_homes import PlayedHome

CARRIERS = ["unix", *(pytest.param(name, marks=pytest.mark.postgres) for name in ("stream", "notify"))]


class JoinedEnds:
    """A service and a worker's home, and what each hears."""

    def __init__(self, service: Channel, worker: Channel, service_id: str, worker_id: str, heard: tuple[Ears, Ears]) -> None:
        self.service, self.worker = service, worker
        self.service_id, self.worker_id = service_id, worker_id
        self.service_ears, self.worker_ears = heard


@contextlib.contextmanager
def joined_by_sockets() -> Iterator[JoinedEnds]:
    with tempfile.TemporaryDirectory() as folder:
        heard = Ears(), Ears()
        service, worker = ServiceEnd(Path(folder)), WorkerEnd(Path(folder), "service")
        service.open(heard[0].receiver())
        worker.open(heard[1].receiver())
        assert service.is_connected.wait(10)
        yield JoinedEnds(service, worker, "service", "worker", heard)
        service.close()
        worker.close()


@pytest.fixture(params=CARRIERS)
def ends(request: pytest.FixtureRequest) -> Iterator[JoinedEnds]:
    if request.param == "unix":
        with joined_by_sockets() as joined:
            yield joined
        return
    home: Callable[..., PlayedHome] = request.getfixturevalue("home")
    front = home(listen="127.0.0.1:0" if request.param == "stream" else "")
    machine = home(is_front=False)
    if request.param == "stream":
        machine.wait_for_stream(front)
    yield JoinedEnds(front.channel, machine.channel, front.id, machine.id, (front.ears, machine.ears))


def test_words_arrive_once_in_order_and_whole_however_large_they_are(ends: JoinedEnds) -> None:
    texts = [f"word {n}" for n in range(500)] + ["é" * 1_500_000] + [f"after {n}" for n in range(500)]
    for text in texts:
        ends.worker.send(ends.service_id, word(text))
    ends.service_ears.wait(lambda: len(ends.service_ears.texts()) >= len(texts), "all of it")
    assert ends.service_ears.texts() == texts and ends.worker_ears.texts() == []


def test_questions_reach_the_worker_in_order_and_its_answers_come_back(ends: JoinedEnds) -> None:
    for number in range(20):
        ends.service.send(ends.worker_id, question(ends.service_id, Ask(number=number, question=Detokenize(tokens=[number]))))
    ears = ends.worker_ears
    ears.wait(lambda: len(ears.questions()) == 20, "all questions")
    assert [item.ask.question for item in ears.questions()] == [Detokenize(tokens=[number]) for number in range(20)]
    for item in ears.questions():
        answer = msgspec.Raw(encode(Detokenized(str(item.ask.question))))
        frame = Answered(number=item.ask.number, answer=answer)
        ends.worker.send(item.home, FromWorker(worker="w", queue=Kind.VLM, frame=frame))
    heard = ends.service_ears

    def answered() -> list[Answered]:
        return [i.frame for i in heard.items() if isinstance(i, FromWorker) and isinstance(i.frame, Answered)]

    heard.wait(lambda: len(answered()) == 20, "all answers")
    assert sorted(frame.number for frame in answered()) == list(range(20))


def test_a_worker_is_woken(ends: JoinedEnds) -> None:
    ends.service.wake({Kind.VLM})
    ends.worker_ears.wait(lambda: Kind.VLM in ends.worker_ears.woken, "woken")


def test_words_for_a_home_that_is_not_there_hold_up_nobody(ends: JoinedEnds) -> None:
    ends.service.wake({Kind.STT})
    ends.worker.send("0" * 16, word("for nobody"))
    ends.worker.send(ends.service_id, word("heard"))
    ends.service_ears.wait(lambda: ends.service_ears.texts() == ["heard"], "those that are there go on")
