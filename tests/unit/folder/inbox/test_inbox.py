"""The inbox and the way of a file to the outbox; workers answer from a script, everything else is real."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import re
import socket
import stat
import time
from pathlib import Path

import pytest

from batch.folder.file_names import is_ignored
from batch.folder.inbox import inbox as inbox_module
from batch.folder.inbox import intake as intake_module
from batch.folder.inbox import source_file as source_file_module
from batch.folder.ledger.file_counts import FileCounts, count_files
from batch.folder.ledger.ledger import Ledger
from batch.payloads.chat import ChatResult
from batch.queue.frames import End
from batch.queue.jobs import Kind, State
from batch.queue.open_store import open_store
from folder_stage import Stage, answer, caption, picture, sound, staged
from payloads import as_dict


def run(coroutine: object) -> None:
    asyncio.run(coroutine)  # type: ignore[arg-type]


def test_a_picture_in_a_sub_folder_gets_caption_and_json_in_the_mirrored_place(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("trip/a.jpg", picture())
            await stage.until(stage.has("trip/a.jpg.json"))
            assert stage.tree() == ["trip/a.jpg.json", "trip/a.jpg.txt"]
            found = stage.json("trip/a.jpg.json")
            assert (stage.outbox / "trip/a.jpg.txt").read_text() == found["text"] + "\n"
            assert found["version"] == 1 and found["source"] == "trip/a.jpg" and found["kind"] == "image"
            assert found["model"] == "eyes-1" and found["parameters"]["prompt"] == "Describe this image."
            assert found["embedding"]["model"] == "vectors-1" and len(found["embedding"]["vectors"][0]) == 3
            assert found["embedding"]["dimensions"] == 3
            caption = stage.ran[0]
            assert as_dict(caption.payload)["messages"][0]["content"] == [
                {"type": "image", "blob": found["sha256"]},
                {"type": "text", "text": "Describe this image."},
            ]
            assert caption.payload.enable_thinking is False
            assert as_dict(caption.payload.generation) == {"max_tokens": 1024, "temperature": 0.2}
            assert stage.ran[1].kind is Kind.EMBEDDING and stage.ran[1].parent == caption.id
            assert (stage.inbox / "trip/a.jpg").exists()

    run(play())


def test_sound_gets_a_transcript_subtitles_and_segments_and_a_text_gets_json_only(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, formats=("txt", "json", "srt", "vtt")) as stage:
            stage.drop("talk.wav", sound())
            stage.drop("a.txt", "x" * 2500)
            stage.drop("b.md", "# short")
            await stage.until(stage.has("talk.wav.json", "a.txt.json", "b.md.json"))
            assert stage.tree() == [
                "a.txt.json",
                "b.md.json",
                "talk.wav.json",
                "talk.wav.srt",
                "talk.wav.txt",
                "talk.wav.vtt",
            ]
            found = stage.json("talk.wav.json")
            assert found["text"] == "Hello there. General." and found["language"] == "en" and found["duration"] == 3.0
            assert [s["text"] for s in found["segments"]] == ["Hello there.", "General."]
            assert (stage.outbox / "talk.wav.txt").read_text() == "Hello there.\nGeneral.\n"
            assert "00:00:00,000 --> " in (stage.outbox / "talk.wav.srt").read_text()
            assert (stage.outbox / "talk.wav.vtt").read_text().startswith("WEBVTT")
            text = stage.json("a.txt.json")
            assert text["text"] == "x" * 2500 and len(text["embedding"]["vectors"]) == 3
            assert text["embedding"]["windows"][-1] == {"start": 2000, "end": 2500}
            assert stage.json("b.md.json")["model"] == "vectors-1"

    run(play())


def test_a_half_copied_file_is_not_touched_until_it_stands_still(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, settle=1) as stage:
            data = picture(size=200)
            path = stage.drop("a.jpg", data[:100])
            for cut in range(125, 450, 25):  # for longer than it takes to settle
                await asyncio.sleep(0.1)
                with path.open("ab") as file:
                    file.write(data[cut - 25 : cut])
                assert not stage.store.tally() and not stage.tree()
            with path.open("ab") as file:
                file.write(data[425:])
            await stage.until(stage.has("a.jpg.json"))
            assert stage.json("a.jpg.json")["size"] == len(data)

    run(play())


def test_a_file_that_changes_while_it_is_read_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            real, times = source_file_module.SourceFile.chunks, []

            def growing(self: intake_module._Source) -> object:
                if not times:
                    times.append(1)
                    with (stage.inbox / "a.txt").open("a") as file:
                        file.write(" and more")
                return real(self)

            monkeypatch.setattr(source_file_module.SourceFile, "chunks", growing)
            stage.drop("a.txt", "one")
            await stage.until(stage.has("a.txt.json"))
            assert stage.json("a.txt.json")["text"] == "one and more"
            assert len(stage.ran) == 1

    run(play())


def test_the_same_content_twice_is_done_once_and_linked(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.jpg", picture())
            stage.drop("deep/b.jpg", picture())
            await stage.until(stage.has("a.jpg.json", "deep/b.jpg.json"))
            stage.drop("later.jpeg", picture())
            stage.drop("text.txt", "words " * 1000)
            await stage.until(stage.has("later.jpeg.json", "text.txt.json"))
            stage.drop("again.txt", "words " * 1000)
            await stage.until(stage.has("again.txt.json"))
            assert [job.task for job in stage.ran].count("chat") == 1 and len(stage.ran) == 3
            one, two = stage.json("a.jpg.json"), stage.json("later.jpeg.json")
            assert one["text"] == two["text"] and one["embedding"] == two["embedding"] and two["source"] == "later.jpeg"
            assert two["linked"] and {one["linked"], stage.json("deep/b.jpg.json")["linked"]} == {True, False}
            assert stage.json("again.txt.json")["text"] == "words " * 1000
            await stage.until(lambda: count_files(stage.store).linked == 3)
            assert count_files(stage.store) == FileCounts(waiting=0, done=2, failed=0, linked=3)

    run(play())


def test_other_parameters_are_other_work(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.inbox.joinpath("x").mkdir()
            stage.drop("x/.batch.toml", 'caption_prompt = "What colour?"')
            stage.drop("a.jpg", picture())
            stage.drop("x/a.jpg", picture())
            await stage.until(stage.has("a.jpg.json", "x/a.jpg.json"))
            assert stage.json("x/a.jpg.json")["parameters"]["prompt"] == "What colour?"
            assert [job.task for job in stage.ran].count("chat") == 2

    run(play())


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.xyz", b"what is this", "kind that is not known"),
        ("empty.jpg", b"", "is empty"),
        ("empty.txt", b"", "is empty"),
        ("blank.txt", b" \n ", "holds no text"),
        ("broken.jpg", b"garbage", "no image"),
        ("broken.png", b"\x89PNG\r\n\x1a\n", "damaged|no image"),
        ("bin.txt", b"\x00\x01\x02" * 99, "kind that is not known"),
        ("big.txt", b"x" * 5000, r"at most 4,096 are taken \(limits.text_bytes\)"),
        ("big.png", picture(format="PNG", size=40), r"limits.image_pixels"),
        ("heavy.bmp", picture(format="BMP", size=30), r"limits.image_bytes"),
    ],
)
def test_a_broken_or_unknown_or_too_big_file_gets_an_error_json(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    async def play() -> None:
        limits = {"text_bytes": 4096, "image_bytes": 2048, "image_pixels": 1000}
        async with staged(tmp_path, limits=limits) as stage:
            stage.drop(f"in/{name}", data)
            await stage.until(stage.has(f"in/{name}.error.json"))
            found = stage.json(f"in/{name}.error.json")
            assert found["version"] == 1 and found["source"] == f"in/{name}" and found["job"] is None
            assert re.search(words, found["error"]) and "\n" not in found["error"], found
            assert stage.tree() == [f"in/{name}.error.json"] and not stage.store.tally()
            await stage.until(lambda: count_files(stage.store).failed == 1)

    run(play())


def test_a_failed_job_is_told_and_not_tried_for_ever(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.jpg", picture() + b"BREAK")
            await stage.until(stage.has("a.jpg.error.json"))
            error = stage.json("a.jpg.error.json")
            assert error["error"] == "The image is damaged: broken on purpose." and error["job"] == stage.ran[0].id
            until = time.monotonic() + 1.0  # several scans
            await stage.until(lambda: time.monotonic() > until)
            assert len(stage.ran) == 1 and stage.tree() == ["a.jpg.error.json"]

            stage.drop("a.jpg", picture("blue"))  # mended
            await stage.until(stage.has("a.jpg.json"))
            assert stage.tree() == ["a.jpg.json", "a.jpg.txt"]

            stage.drop("a.jpg", b"garbage")  # and spoilt again
            await stage.until(stage.has("a.jpg.error.json"))
            assert stage.tree() == ["a.jpg.error.json"]

    run(play())


def test_a_retried_job_mends_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.jpg", picture() + b"BREAK")
            stage.drop("b.jpg", picture() + b"BREAK")
            await stage.until(stage.has("a.jpg.error.json", "b.jpg.error.json"))
            monkeypatch.setattr("folder_stage.answer", _instead(caption("fine now")))
            stage.store.retry(stage.json("a.jpg.error.json")["job"])
            await stage.until(stage.has("a.jpg.json", "b.jpg.json"))
            assert stage.tree() == ["a.jpg.json", "a.jpg.txt", "b.jpg.json", "b.jpg.txt"]
            assert stage.json("b.jpg.json")["text"] == "fine now"

    run(play())


def _instead(good: ChatResult):  # type: ignore[no-untyped-def]
    return lambda job, spool: good if job.task == "chat" else answer(job, spool)


def test_a_file_dropped_again_is_taken_anew(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "first")
            await stage.until(stage.has("a.txt.json"))
            stage.drop("a.txt", "second text")
            await stage.until(stage.says("a.txt.json", "second text"))
            # a failed file moved out and back in, unchanged, gets another try
            stage.drop("b.jpg", picture() + b"BREAK")
            await stage.until(stage.has("b.jpg.error.json"))
            await stage.until(lambda: count_files(stage.store).failed == 1)
            before = len(stage.ran)
            os.rename(stage.inbox / "b.jpg", tmp_path / "b.jpg")
            gone = "select gone from file where state='failed'"
            await stage.until(lambda: stage.store.read(gone) == [(1,)])
            os.rename(tmp_path / "b.jpg", stage.inbox / "b.jpg")
            await stage.until(lambda: len(stage.ran) == before + 1)
            await stage.until(stage.has("b.jpg.error.json"))

    run(play())


@pytest.mark.parametrize(
    "name",
    [
        ".hidden",
        "a.part",
        "a.jpg.crdownload",
        "a.download",
        "a.tmp",
        "a.PARTIAL",
        "a.txt~",
        "~$doc.txt",
        ".~lock.a#",
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
        "~a",
    ],
)
def test_partial_hidden_and_desktop_files_are_ignored(name: str) -> None:
    assert is_ignored(name)


def test_ignored_files_leave_no_trace_until_they_get_their_name(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("x/a.jpg.crdownload", picture())
            stage.drop(".git/config.txt", "text")
            stage.drop("mark.txt", "to see that a scan has passed")
            await stage.until(stage.has("mark.txt.json"))
            assert stage.tree() == ["mark.txt.json"]
            os.rename(stage.inbox / "x/a.jpg.crdownload", stage.inbox / "x/a.jpg")
            await stage.until(stage.has("x/a.jpg.json"))

    run(play())


def test_links_out_fifos_and_sockets_are_told_of_and_never_opened(tmp_path: Path) -> None:
    async def play() -> None:
        outside = tmp_path / "secret.txt"
        outside.write_text("secret")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "inner.txt").write_text("secret")
        async with staged(tmp_path / "home") as stage:
            stage.drop("real.txt", "real")
            (stage.inbox / "out.txt").symlink_to(outside)
            (stage.inbox / "out").symlink_to(tmp_path / "folder")
            (stage.inbox / "broken.txt").symlink_to("nowhere")
            (stage.inbox / "inside.txt").symlink_to("real.txt")
            (stage.inbox / "loop").symlink_to(".")
            os.mkfifo(stage.inbox / "pipe.txt")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(os.path.relpath(stage.inbox / "sock.txt"))
            wanted = [f"{n}.error.json" for n in ("broken.txt", "out", "out.txt", "pipe.txt", "sock.txt")]
            await stage.until(stage.has(*wanted, "real.txt.json", "inside.txt.json"))
            listener.close()
            assert stage.tree() == sorted([*wanted, "real.txt.json", "inside.txt.json"])
            assert "leads out of the inbox" in stage.json("out.txt.error.json")["error"]
            assert "named pipe" in stage.json("pipe.txt.error.json")["error"]
            assert stage.json("inside.txt.json")["text"] == "real" and len(stage.ran) == 1

    run(play())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO])
def test_a_file_that_may_not_be_read_is_told_of_once_and_taken_once_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # Injected, as root may read whatever its rights say.
    real, refused = intake_module.open_below, [0]

    def refuse(root: str, path: str, *more: int) -> int:
        if path == "secret.txt" and refused[0] < 1:
            refused[0] += 1
            raise OSError(number, os.strerror(number))
        return real(root, path, *more)

    monkeypatch.setattr(intake_module, "open_below", refuse)

    async def play() -> None:
        async with staged(tmp_path) as stage:
            path = stage.drop("secret.txt", "for my eyes only")
            stage.drop("other.txt", "for all")
            await stage.until(stage.has("secret.txt.error.json", "other.txt.json"))
            error = stage.json("secret.txt.error.json")["error"]
            assert error == f"secret.txt cannot be read: {os.strerror(number)}."
            await stage.until(lambda: count_files(stage.store).failed == 1)
            assert refused == [1] and len(stage.ran) == 1
            path.chmod(0o600)  # whoever mends its rights gets it taken, without touching its bytes
            await stage.until(lambda: stage.tree() == ["other.txt.json", "secret.txt.json"])

    run(play())


def test_a_device_is_told_of_and_never_opened(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "probe", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except OSError:
        pytest.skip("this system lets its users make no devices")

    async def play() -> None:
        async with staged(tmp_path / "home") as stage:
            os.mknod(stage.inbox / "zero.txt", stat.S_IFCHR | 0o600, os.makedev(1, 5))  # endless, were it read
            stage.drop("other.txt", "for all")
            await stage.until(stage.has("zero.txt.error.json", "other.txt.json"))
            assert "device" in stage.json("zero.txt.error.json")["error"] and len(stage.ran) == 1

    run(play())


def test_hostile_names_get_results_with_valid_json(tmp_path: Path) -> None:
    names = [
        b"new\nline.txt",
        b"\x01\x1b[31m.txt",
        b"caf\xe9.txt",
        "日本語🎉.txt".encode(),
        b"a" * 251 + b".txt",
        "é".encode() * 125 + b".txt",
        b"-rf.txt",
        b"a b'c\"d.txt",
        b"\xff\xfe.xyz",
    ]

    async def play() -> None:
        async with staged(tmp_path) as stage:
            for number, name in enumerate(names):
                path = os.path.join(os.fsencode(stage.inbox), name)
                with open(path, "wb") as file:
                    file.write(b"text %d" % number)
            await stage.until(lambda: len(list(os.scandir(stage.outbox))) == len(names))
            await stage.until(lambda: count_files(stage.store).waiting == 0)
            found = {}
            for entry in os.scandir(os.fsencode(stage.outbox)):
                document = json.loads(Path(os.fsdecode(entry.path)).read_bytes().decode("utf-8"))
                raw = base64.b64decode(document["source_bytes"]) if "source_bytes" in document else None
                found[raw or document["source"].encode()] = entry.name
            assert set(found) == set(names)
            assert found[b"new\nline.txt"] == b"new\nline.txt.json"
            assert found[b"caf\xe9.txt"] == b"caf\xe9.txt.json"
            assert all(len(name) <= 255 for name in found.values())
            assert "\n" not in "".join(job.source or "" for job in stage.ran)

    run(play())


def test_a_deleted_inbox_that_comes_back_works_on(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.txt", "one")
            await stage.until(stage.has("a.txt.json"))
            (stage.inbox / "a.txt").unlink()
            stage.inbox.rmdir()
            await stage.until(lambda: not stage.folder.watcher.is_watching)
            stage.inbox.mkdir()
            stage.drop("b.txt", "two")
            await stage.until(stage.has("b.txt.json"))
            await stage.until(lambda: stage.folder.watcher.is_watching)  # and it is watched again

    run(play())


def test_new_sub_folders_are_picked_up_without_a_scan(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path, scan=3600) as stage:
            await stage.until(lambda: stage.folder.watcher.is_watching)
            stage.drop("one/two/a.txt", "deep")
            moved = tmp_path / "moved"
            moved.mkdir()
            (moved / "b.txt").write_text("in a folder that is moved in")
            os.rename(moved, stage.inbox / "moved")
            await stage.until(stage.has("one/two/a.txt.json", "moved/b.txt.json"))
            stage.drop("one/c.txt", "later")
            await stage.until(stage.has("one/c.txt.json"))

    run(play())


def test_without_events_the_scan_finds_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr("batch.folder.watcher.Observer", lambda: type("Blind", (), {"schedule": refuse})())

    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("one/a.txt", "x")
            await stage.until(stage.has("one/a.txt.json"))

    run(play())


@pytest.mark.slow
def test_ten_thousand_files_at_once_are_accepted_in_chunks_without_freezing_the_loop(tmp_path: Path) -> None:
    async def play() -> None:
        stage = Stage(tmp_path)
        stage.inbox.mkdir()
        for number in range(10_000):
            (stage.inbox / f"{number}.txt").write_text(f"text {number}")
        chunks: list[int] = []
        real = Ledger.accept

        def counted(self: Ledger, arrivals: list[object]) -> object:
            chunks.append(len(arrivals))
            return real(self, arrivals)  # type: ignore[arg-type]

        Ledger.accept = counted  # type: ignore[assignment,method-assign]
        worst = 0.0
        try:
            await stage.folder.start()
            until = time.monotonic() + 200
            while count_files(stage.store).waiting < 10_000 and time.monotonic() < until:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                worst = max(worst, time.monotonic() - before - 0.01)
        finally:
            Ledger.accept = real  # type: ignore[method-assign]
            await stage.folder.stop()
            await stage.hub.close()
        assert count_files(stage.store).waiting == 10_000 == stage.store.queue_size(Kind.EMBEDDING)
        stage.store.close()
        assert max(chunks) <= inbox_module.MAX_CHUNK_FILES and len(chunks) >= 50
        assert worst < 5.0, worst  # a busy machine's; in one go it would be several times that

    run(play())


def test_with_the_disk_full_the_inbox_waits_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            real, full = type(stage.spool).keep_chunks, [True]

            def keep_chunks(self: object, *args: object, **options: object) -> object:
                if full[0]:
                    raise OSError(28, "No space left on device")
                return real(self, *args, **options)  # type: ignore[arg-type]

            monkeypatch.setattr(type(stage.spool), "keep_chunks", keep_chunks)
            stage.drop("a.jpg", picture())
            stage.drop("small.txt", "needs no copy")
            await stage.until(stage.has("small.txt.json"))
            until = time.monotonic() + 0.6
            await stage.until(lambda: time.monotonic() > until)
            assert stage.tree() == ["small.txt.json"]
            full[0] = False
            await stage.until(stage.has("a.jpg.json"))

    run(play())


def test_files_are_counted_at_no_cost_however_many_there_are(tmp_path: Path) -> None:
    store = open_store(tmp_path / "db" / "batch.db")
    assert count_files(store) == FileCounts(waiting=0, done=0, failed=0, linked=0)
    Ledger(store)
    with store.transaction() as transaction:
        transaction.execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 40000) "
            "insert into file (path, folder, size, mtime_ns, inode, ctime_ns, state, accepted_at) "
            "select cast(i as blob), x'', 1, 1, 1, 1, iif(i % 4, 'done', 'waiting'), 0 from n"
        )
    spent = []
    for _ in range(5):
        begun = time.process_time()
        assert count_files(store) == FileCounts(waiting=10_000, done=30_000, failed=0, linked=0)
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.002, "going through the rows takes longer"
    store.close()


def test_a_cancelled_job_is_told_in_the_outbox(tmp_path: Path) -> None:
    async def play() -> None:
        async with staged(tmp_path) as stage:
            stage.drop("a.jpg", picture())
            await stage.until(lambda: count_files(stage.store).waiting == 1, work=False)
            (job,) = stage.store.jobs()
            assert await stage.hub.cancel(job.id) is State.CANCELLED
            stage.hub.reports.receive(Kind.VLM, End(job=job.id, state=State.CANCELLED))
            await stage.until(stage.has("a.jpg.error.json"))
            assert "cancelled" in stage.json("a.jpg.error.json")["error"]

    run(play())
