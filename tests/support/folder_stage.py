"""A stage for the folder door: the real store, spool and hub, and workers that answer from a script."""

from __future__ import annotations

import array
import asyncio
import base64
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from batch.errors import BadRequest, BatchError
from batch.folder.service import FolderService
from batch.payloads.chat import AssistantMessage, ChatChoice, ChatResult, Usage
from batch.payloads.embedding import EmbeddingResult, TextWindow
from batch.payloads.job_payload import Result
from batch.payloads.model_info import ChatModelInfo, EmbeddingModelInfo, SpeechModelInfo
from batch.payloads.speech import TranscriptionResult, TranscriptSegment
from batch.queue.frames import End
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Job, Kind, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.settings import Settings
from one_worker import OneWorker
from sounds import wav

INFO = {Kind.VLM: ChatModelInfo, Kind.EMBEDDING: EmbeddingModelInfo, Kind.STT: SpeechModelInfo}
FACTS = {Kind.VLM: "eyes-1", Kind.EMBEDDING: "vectors-1", Kind.STT: "ears-1"}


def answer(job: Job, spool: Spool) -> Result:
    """What a worker would return; the text follows the payload, so that results can be told apart."""
    match job.task:
        case "chat":
            part = job.payload.messages[0].content[0]
            data = spool.read(part.blob)
            if b"BREAK" in data:
                raise BadRequest("The image is damaged: broken on purpose.")
            return caption(f"picture {part.blob[:6]}")
        case "transcribe":
            assert spool.path(job.payload.blob).exists()
            return TranscriptionResult(
                text=" Hello there.\n General.\n",
                language="en",
                language_name="english",
                duration=3.0,
                segments=[_segment(0, 0.0, 1.5, " Hello there."), _segment(1, 1.5, 3.0, " General.")],
                ms=5.0,
            )
        case "embed":
            (text,) = json.loads(spool.read(job.payload.blob)) if job.payload.blob else job.payload.inputs
            starts = range(0, len(text), 1000)
            rows = array.array("f", [cell for start in starts for cell in (float(start), 0.25, 1 / 3)])
            return EmbeddingResult(
                count=len(starts),
                dimensions=3,
                vectors=base64.b64encode(rows.tobytes()).decode(),
                tokens=[len(text)],
                ms=1.0,
                windows=[TextWindow(index=0, start=start, end=min(len(text), start + 1000)) for start in starts],
            )
    raise AssertionError(job.task)


def caption(text: str) -> ChatResult:
    """A chat result that says `text`."""
    return ChatResult(
        choices=[ChatChoice(finish_reason="stop", message=AssistantMessage(content=text))],
        usage=Usage(prompt_tokens=3, completion_tokens=1, total_tokens=4),
    )


def _segment(number: int, start: float, end: float, text: str) -> TranscriptSegment:
    return TranscriptSegment(
        id=number,
        start=start,
        end=end,
        text=text,
        tokens=[1],
        temperature=0.0,
        avg_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_prob=0.0,
    )


def picture(colour: str = "red", format: str = "JPEG", size: int = 9) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(out, format)
    return out.getvalue()


def sound(seconds: float = 0.1) -> bytes:
    return wav(b"\1\0" * int(16000 * seconds))


class Stage:
    """A home with a folder door that is running, and workers that run when told to."""

    def __init__(self, home: Path, **folder: Any) -> None:
        home.mkdir(exist_ok=True, parents=True)
        limits, outbox = folder.pop("limits", {}), folder.pop("outbox", {})
        self.settings = Settings(
            home=home,
            folder={"settle": 0.05, "scan": 0.2, **folder},
            limits=limits,  # type: ignore[arg-type]
            outbox=outbox,  # type: ignore[arg-type]
        )
        self.inbox, self.outbox = self.settings.inbox_dir, self.settings.outbox_dir
        self.reopen_store()
        self.spool = Spool(self.settings.state_dir / "spool")
        self.hub = Hub(self.store, self.spool, self.settings.state_dir)
        for kind, name in FACTS.items():
            self.hub.models.update(kind, status="ready", info=INFO[kind](model=name))
        self.folder = FolderService(self.settings, self.hub)
        self.ran: list[Job] = []
        self.deaf = False
        """Workers end jobs without telling the hub."""

    def reopen_store(self) -> None:
        """As the next start does."""
        self.store = open_store(self.settings.database_address, home=self.settings.home)
        self.worker = OneWorker(self.store)

    def work(self, most: int = 1_000_000) -> int:
        """Run what is queued, as the three workers would; returns how many jobs ran."""
        count = 0
        for kind in Kind:
            while count < most and (job := self.worker.take(kind)):
                count += 1
                self.ran.append(job)
                try:
                    result = msgspec.json.encode(answer(job, self.spool)).decode()
                    state = State.DONE
                    self.worker.end(job.id, state, result=result)
                except BatchError as error:
                    state = State.FAILED
                    self.worker.end(job.id, state, error=error.record())
                if not self.deaf:
                    self.hub.reports.receive(kind, End(job=job.id, state=state))
        return count

    async def until(self, true: Callable[[], Any], seconds: float = 90.0, work: bool = True) -> None:
        """Run the workers until something holds."""
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, f"not within {seconds} s; the outbox holds {self.tree()}"
            if work:
                self.work()
            await asyncio.sleep(0.01)

    def drop(self, name: str, data: bytes | str) -> Path:
        """As a careful program does: whole at once, however slow this machine is."""
        path = self.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        return partial.rename(path)

    def tree(self) -> list[str]:
        return sorted(str(p.relative_to(self.outbox)) for p in self.outbox.rglob("*") if not p.is_dir())

    def json(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.outbox / name).read_text("utf-8")))

    def says(self, name: str, text: str) -> Callable[[], bool]:
        """Whether a result holds this text; while it is written anew there is none."""

        def now() -> bool:
            with contextlib.suppress(FileNotFoundError):
                return bool(self.json(name)["text"] == text)
            return False

        return now

    def has(self, *names: str) -> Callable[[], bool]:
        return lambda: all((self.outbox / name).exists() for name in names)

    async def close(self) -> None:
        await self.folder.stop()
        await self.hub.close()
        self.store.close()


@contextlib.asynccontextmanager
async def staged(home: Path, **folder: Any) -> AsyncIterator[Stage]:
    stage = Stage(home, **folder)
    await stage.folder.start()
    try:
        yield stage
    finally:
        await stage.close()
