"""The commands that show and steer the queue, with the service down."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from batch.cli.exit_status import ExitStatus
from batch.errors import BadRequest
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import Arrival
from batch.folder.safe_open import FileStamp
from batch.payloads.chat import AssistantMessage, ChatChoice, ChatPayload, ChatResult, ImagePart, Message, TextPart, Usage
from batch.payloads.embedding import EmbeddingPayload
from batch.payloads.json_text import encode
from batch.payloads.speech import TranscriptionPayload
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from documents import pdf_with_text, scanned_pdf
from one_worker import OneWorker
from run_batch import RunBatch

STEERING = "a\x1b[2Jb\x9b31mc\u202etxt.exe\u2066\u200b"
"""Control sequences, C1 and turned text, as a file may be called and a model may say."""


def store_of(home: Path) -> OneWorker:
    return OneWorker(open_store(home / ".batch" / "batch.db"))


def caption_job(store: OneWorker, source: str = "trip/a.jpg", *, state: State | None = None, text: str = "a red circle") -> str:
    draft = Draft(
        ChatPayload(
            messages=[Message(role="user", content=[ImagePart(blob="ab" * 32), TextPart(text="Describe this image.")])]
        ),
        Origin.INBOX,
        Priority.INBOX,
        source=source,
    )
    store.submit(draft)
    if state is None:
        return draft.id
    if state is State.CANCELLED:
        store.cancel(draft.id)
        return draft.id
    assert store.take(Kind.VLM) is not None
    if state is State.DONE:
        result = ChatResult(
            choices=[ChatChoice(finish_reason="stop", message=AssistantMessage(content=text))],
            usage=Usage(prompt_tokens=1, completion_tokens=1, total_tokens=2),
        )
        store.end(draft.id, State.DONE, result=encode(result).decode())
    elif state is State.FAILED:
        store.end(draft.id, State.FAILED, error=BadRequest(text).record())
    return draft.id


# -- where a command works


@pytest.mark.parametrize("below", ["", "inbox", "inbox/deep/er", ".batch"])
def test_the_home_is_found_from_below_it(home: Path, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    (home / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(home / below)
    assert json.loads(run_batch("status", "--json").out)["home"] == str(home)
    assert run_batch("jobs").status == ExitStatus.DONE


def test_a_home_of_somebody_else_above_is_none(tmp_path: Path, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid():
        pytest.skip("only root gives files to others")
    (tmp_path / "batch.toml").write_text('[folder]\nsource = "delete"')
    os.chown(tmp_path / "batch.toml", 12345, -1)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert json.loads(run_batch("status", "--json").out)["home"] == str(tmp_path / "mine")


@pytest.mark.parametrize("command", ["jobs", "files", "show x", "retry x", "wait x", "submit a.txt", "gc"])
def test_without_a_home_a_command_says_so_and_makes_none(
    tmp_path: Path, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BATCH_HOME", raising=False)
    ended = run_batch(*command.split())
    assert ended.status == ExitStatus.FAILED and "start `batch serve`" in ended.err and len(ended.err.splitlines()) == 1
    assert os.listdir(tmp_path) == ["a.txt"]


def test_status_is_3_when_the_service_is_down(home: Path, run_batch: RunBatch) -> None:
    for arguments in (["status"], ["status", "--json"]):
        ended = run_batch(*arguments)
        assert ended.status == ExitStatus.SERVICE_DOWN
    assert "not running" in run_batch("status").out


def test_submit_says_when_nobody_will_do_the_jobs_yet(home: Path, run_batch: RunBatch) -> None:
    (home / "a.txt").write_text("text")
    ended = run_batch("submit", "a.txt")
    assert ended.status == ExitStatus.DONE and "not running" in ended.err and len(ended.out.splitlines()) == 1


def test_submit_wait_without_a_service_says_so_and_queues_nothing(home: Path, run_batch: RunBatch) -> None:
    (home / "a.txt").write_text("text")
    ended = run_batch("submit", "--wait", "a.txt")
    assert ended.status == ExitStatus.SERVICE_DOWN and "Nothing was queued" in ended.err and not ended.out
    assert json.loads(run_batch("jobs", "--json").out) == []


def test_wait_without_a_service_says_so_and_prints_what_has_ended(home: Path, run_batch: RunBatch) -> None:
    with store_closed(home) as store:
        queued = caption_job(store)
    ended = run_batch("wait", queued)
    assert ended.status == ExitStatus.SERVICE_DOWN and "not running" in ended.err
    with store_closed(home) as store:
        store.cancel(queued)
        done = caption_job(store, state=State.DONE, text="a blue triangle")
    assert run_batch("wait", done) == (0, "a blue triangle\n", "")
    assert run_batch("wait", queued).status == ExitStatus.FAILED


def store_closed(home: Path):  # type: ignore[no-untyped-def]
    from contextlib import closing

    return closing(store_of(home))


# -- lists


def test_jobs_are_filtered_by_each_of_what_is_known_of_them(home: Path, run_batch: RunBatch) -> None:
    with store_closed(home) as store:
        failed = caption_job(store, "trip/a.jpg", state=State.FAILED, text="The image is damaged.")
        done = caption_job(store, "trip/b.jpg", state=State.DONE)
        queued = caption_job(store, "tripod/c.jpg")
        text = Draft(EmbeddingPayload(inputs=["hello"]), Origin.CLI, Priority.BATCH, source="d.txt")
        store.submit(text)

    def listed(*arguments: str) -> set[str]:
        return {row["id"] for row in json.loads(run_batch("jobs", "--json", *arguments).out)}

    assert listed() == {failed, done, queued, text.id}
    assert listed("--state", "failed") == {failed} and listed("--state", "failed", "--state", "done") == {failed, done}
    assert listed("--kind", "embedding") == {text.id} and listed("--origin", "cli") == {text.id}
    assert listed("--folder", "trip") == {failed, done} and listed("--folder", "trip/") == {failed, done}
    assert listed("--error", "DAMAGED") == {failed} and listed("--error", "50%") == set()
    assert listed("--since", "1h") == listed() and listed("--since", "2099-01-01") == set()
    assert len(listed("--limit", "1")) == 1
    assert run_batch("jobs", "--since", "yesterday-ish").status == ExitStatus.USAGE


def test_a_piped_list_of_jobs_is_never_cut(home: Path, run_batch: RunBatch) -> None:
    source = "deep/" * 40 + "the end.jpg"
    with store_closed(home) as store:
        caption_job(store, source)
    assert source in run_batch("jobs").out


def test_no_command_lets_a_name_or_a_text_steer_the_terminal(home: Path, run_batch: RunBatch) -> None:
    with store_closed(home) as store:
        failed = caption_job(store, STEERING, state=State.FAILED, text=STEERING)
        done = caption_job(store, STEERING, state=State.DONE, text=f"first line\n{STEERING}")
        Ledger(store).accept([Arrival(path=STEERING, stamp=FileStamp(1, 1, 1, 1), error=BadRequest(STEERING).record())])
    (home / ".batch" / "logs").mkdir()
    (home / ".batch" / "logs" / "batch.log").write_text(f"2026-01-01 {STEERING}\n")
    commands = ("jobs", "jobs --json", "files", "files --json", "logs", "status", f"show {failed}", f"show {failed} --json")
    commands += (f"show {done}", f"show {done} --json", f"wait {done}", f"wait {failed}")
    wrong = [["retry", STEERING], ["submit", STEERING], ["jobs", "--home", STEERING], ["config", STEERING], [STEERING]]
    for arguments in [*(command.split() for command in commands), *wrong]:
        ended = run_batch(*arguments)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]", ended.out + ended.err), arguments
    assert json.loads(run_batch("show", done, "--json").out)["source"] == STEERING, "JSON says the same, escaped"


def test_show_prints_times_and_text_and_no_json(home: Path, run_batch: RunBatch) -> None:
    with store_closed(home) as store:
        done = caption_job(store, state=State.DONE, text="a red circle\non white")
        speech = Draft(TranscriptionPayload(blob="cd" * 32, filename="talk.wav"), Origin.CLI, Priority.BATCH)
        store.submit(speech)
    out = run_batch("show", done).out
    assert "Describe this image. (1 picture)" in out and "a red circle\n" in out and " on white" in out
    assert time.strftime("%Y-%m-%d") in out and not re.search(r"\d{9,}\.\d", out) and "{" not in out
    assert "talk.wav (language auto)" in run_batch("show", speech.id).out


def test_files_that_were_refused_at_intake_are_listed_with_the_reason(home: Path, run_batch: RunBatch) -> None:
    with store_closed(home) as store:
        stamp = FileStamp(1, 1, 1, 1)
        Ledger(store).accept(
            [
                Arrival(path="x/locked", stamp=stamp, error=BadRequest("x/locked cannot be read: Permission denied.").record()),
                Arrival(
                    path="caf\udce9.xyz", stamp=stamp, error=BadRequest("It is of a kind that is not known here.").record()
                ),
            ]
        )
        with store.transaction() as transaction:
            transaction.execute("update file set state='failed', finished_at=accepted_at")
    out = run_batch("files").out
    assert " x/locked cannot be read: Permission denied." in out and "x/locked: x/locked" not in out
    assert "caf\\xe9.xyz: It is" in out
    assert "batch files --state failed" in run_batch("status").out
    (row,) = json.loads(run_batch("files", "--json", "--folder", "x").out)
    assert row["path"] == "x/locked" and row["state"] == "failed" and row["job"] is None
    (row,) = json.loads(run_batch("files", "--json", "--error", "not known").out)
    assert row["path_bytes"] == "Y2Fm6S54eXo="
    assert json.loads(run_batch("files", "--json", "--state", "done").out) == []
    assert json.loads(run_batch("files", "--json", "--kind", "image").out) == []


def test_ignored_files_are_listed_for_people_who_wonder(home: Path, run_batch: RunBatch) -> None:
    (home / "batch.toml").write_text('[folder]\nignore = ["*.bak", "raw/"]')
    for name in ("a.jpg", "a.bak", "movie.mkv.part", ".hidden", "raw/b.jpg", "@eaDir/t.jpg", "sub/c.bak"):
        (home / "inbox" / name).parent.mkdir(exist_ok=True)
        (home / "inbox" / name).write_text("x")
    rows = json.loads(run_batch("files", "--state", "ignored", "--json").out)
    assert {row["path"] for row in rows} == {".hidden", "@eaDir/", "a.bak", "movie.mkv.part", "raw/", "sub/c.bak"}


def test_print0_separates_paths_by_nul_bytes_as_they_are(home: Path) -> None:
    with store_closed(home) as store:
        error = BadRequest("no").record()
        for number, path in enumerate(["a\nb.txt", "caf\udce9.txt"]):
            Ledger(store).accept([Arrival(path=path, stamp=FileStamp(number, 1, 1, 1), error=error)])
    out = subprocess.run([sys.executable, "-m", "batch", "files", "-0"], cwd=home, capture_output=True, check=True).stdout
    assert sorted(out.split(b"\0")) == [b"", b"a\nb.txt", b"caf\xe9.txt"]


# -- many at once


def test_a_filter_retries_all_that_match_and_says_before_how_many(home: Path, run_batch: RunBatch) -> None:
    with store_closed(home) as store:
        ids = [caption_job(store, f"trip/{n}.jpg", state=State.FAILED, text="no memory") for n in range(3)]
        other = caption_job(store, "other.jpg", state=State.FAILED, text="damaged")
    assert run_batch("retry", "--error", "memory", "--dry-run").out == "3 jobs would be queued again.\n"
    assert json.loads(run_batch("retry", "--error", "memory", "--dry-run", "--json").out) == {"matching": 3}
    assert run_batch("retry", "--error", "memory").out.count("is queued again") == 3
    with store_closed(home) as store:
        assert all(store.job(id).state is State.QUEUED for id in ids)  # type: ignore[union-attr]
        assert store.job(other).state is State.FAILED  # type: ignore[union-attr]
    assert run_batch("cancel", "--folder", "trip", "--state", "queued").out.count("is cancelled") == 3
    assert run_batch("cancel", "--folder", "trip", "--state", "queued").out == "No job matches.\n"


def test_an_action_needs_ids_or_a_filter_and_not_both(home: Path, run_batch: RunBatch) -> None:
    with store_closed(home) as store:
        job = caption_job(store)
    for arguments in ([], [job, "--state", "queued"], ["--state", "done"]):
        ended = run_batch("cancel", *arguments)
        assert ended.status == ExitStatus.USAGE and "Traceback" not in ended.err
    assert run_batch("cancel", job).status == ExitStatus.DONE
    ended = run_batch("retry", job, "nothing-like-it")
    assert ended.status == ExitStatus.FAILED and "is queued again" in ended.out and len(ended.err.splitlines()) == 1


# -- submitting folders and standard input


def test_a_folder_is_submitted_with_all_that_can_be_read_in_it(home: Path, run_batch: RunBatch, tmp_path: Path) -> None:
    for name in ("a.txt", "deep/b.md", "c.xyz", ".hidden.txt", "d.txt.part", ".git/e.txt"):
        (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "f" / name).write_bytes(b"\0\1" if name == "c.xyz" else b"text")
    os.mkfifo(tmp_path / "f" / "pipe.txt")
    ended = run_batch("submit", "--json", str(tmp_path / "f"))
    assert [Path(row["file"]).name for row in json.loads(ended.out)] == ["a.txt", "b.md"]
    assert "c.xyz" in ended.err and "pipe.txt" in ended.err and ended.status == ExitStatus.DONE
    (tmp_path / "empty").mkdir()
    assert run_batch("submit", str(tmp_path / "empty")).status == ExitStatus.FAILED


def test_standard_input_is_submitted_as_a_file(home: Path) -> None:
    command = [sys.executable, "-m", "batch", "submit", "-", "--json"]
    ended = subprocess.run(command, cwd=home, input=b"text from a pipe", capture_output=True)
    assert ended.returncode == 0, ended.stderr
    (row,) = json.loads(ended.stdout)
    with store_closed(home) as store:
        job = store.job(row["id"])
    assert job is not None and isinstance(job.payload, EmbeddingPayload) and job.payload.inputs == ["text from a pipe"]


def test_documents_with_text_are_submitted_and_those_of_pictures_are_for_the_inbox(home: Path, run_batch: RunBatch) -> None:
    (home / "a.pdf").write_bytes(pdf_with_text("Page one.", "Page two."))
    (home / "b.html").write_text("<p>seen</p><script>not seen</script>")
    (home / "c.pdf").write_bytes(scanned_pdf("red"))
    queued = json.loads(run_batch("submit", "--json", "a.pdf", "b.html").out)
    with store_closed(home) as store:
        payloads = [store.job(row["id"]).payload for row in queued]  # type: ignore[union-attr]
    assert [payload.inputs for payload in payloads] == [["Page one.\n\nPage two."], ["seen"]]  # type: ignore[union-attr]
    ended = run_batch("submit", "c.pdf")
    assert ended.status == ExitStatus.FAILED and "drop it into the inbox" in ended.err


def test_one_wrong_name_among_files_queues_none_of_them(home: Path, run_batch: RunBatch) -> None:
    (home / "a.txt").write_text("text")
    ended = run_batch("submit", "a.txt", "b.txt")
    assert ended.status == ExitStatus.FAILED and "b.txt cannot be read" in ended.err
    assert json.loads(run_batch("jobs", "--json").out) == []


# -- faults of the system


def run_process(home: Path, script: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    command = ["bash", "-c", script.replace("BATCH", f"{sys.executable} -P -m batch")]
    return subprocess.run(command, cwd=home, env=env, text=True, capture_output=True, errors="replace", timeout=120)


def test_a_reader_that_has_seen_enough_is_no_failure(home: Path) -> None:
    with store_closed(home) as store:
        for number in range(300):
            caption_job(store, f"{'long/' * 40}{number}.jpg")
    for command in ("jobs --limit 300", "jobs --limit 300 --json", "config", "--help"):
        ended = run_process(home, f"set -o pipefail; BATCH {command} | true; echo ${{PIPESTATUS[0]}}")
        assert ended.stdout.splitlines()[-1] == "0" and not ended.stderr, (command, ended)


def test_following_the_log_ends_when_its_reader_does(home: Path) -> None:
    (home / ".batch" / "logs").mkdir()
    (home / ".batch" / "logs" / "batch.log").write_text("first\n")
    ended = run_process(home, "timeout 30 BATCH logs -f | head -1; echo ${PIPESTATUS[0]}")
    assert ended.stdout.splitlines() == ["first", "0"] and not ended.stderr


def test_watching_the_status_prints_lines_where_there_is_no_terminal_and_ends_with_its_reader(home: Path) -> None:
    ended = run_process(home, "timeout 30 BATCH status --watch --every 0.1 | head -2; echo ${PIPESTATUS[0]}")
    *lines, status = ended.stdout.splitlines()
    assert len(lines) == 2 and all("not running; vlm down: idle, 0 queued" in line for line in lines), lines
    assert status == "0" and not ended.stderr
    ended = run_process(home, "timeout 30 BATCH status --watch --every 0.1 --json | head -1")
    assert json.loads(ended.stdout)["running"] is False


def test_a_full_disk_behind_the_output_is_one_sentence(home: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    for command in ("status", "jobs", "config", "--version", "status --json"):
        ended = run_process(home, f"BATCH {command} > /dev/full")
        assert ended.returncode == 1 and "Traceback" not in ended.stderr
        assert ended.stderr == "batch: The output cannot be written: No space left on device.\n", (command, ended.stderr)


@pytest.mark.parametrize(
    "command", ["status", "jobs", "files", "config", "submit a.txt", "logs", "models", "retry x", "gc", "doctor"]
)
def test_a_current_folder_that_is_gone_is_one_sentence(
    home: Path, run_batch: RunBatch, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("PWD", raising=False)
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()
    ended = run_batch(*command.split())
    assert ended.status == ExitStatus.FAILED and len(ended.err.splitlines()) == 1, ended.err


def test_a_service_whose_current_folder_is_gone_says_so_in_one_sentence(home: Path) -> None:
    ended = run_process(home, "mkdir gone; cd gone; rmdir ../gone; BATCH serve")
    assert ended.returncode == ExitStatus.FAILED
    assert len([line for line in ended.stderr.splitlines() if "getcwd" not in line]) == 1, ended.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_output_that_knows_not_every_character_gets_them_escaped(home: Path, encoding: str) -> None:
    with store_closed(home) as store:
        job = caption_job(store, "日本.jpg", state=State.DONE, text="日本 … é")
    commands = ["jobs", f"show {job}", f"show {job} --json", f"wait {job}", "jobs --json"]
    ended = in_one_process(home, "", commands, PYTHONIOENCODING=encoding)
    assert ended.stderr.splitlines() == [f"{command} ended with 0" for command in commands]


def in_one_process(home: Path, first: str, commands: list[str], **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Run commands one after the other in one process of their own, which tells each one's status behind what it said."""
    script = f"{first}\nfor command in {commands!r}:\n{AND_TELL_ITS_STATUS}"
    env = {key: value for key, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run([sys.executable, "-c", script], cwd=home, env=env, capture_output=True, text=True, errors="replace")


AND_TELL_ITS_STATUS = """
    import sys
    from batch.cli.app import main
    sys.argv = ["batch", *command.split()]
    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        print(command, "ended with", ended.code, file=sys.stderr)
"""


def test_another_users_home_is_one_sentence(home: Path) -> None:
    if os.geteuid():
        pytest.skip("only root becomes another user")
    commands = ["status", "jobs", "files", "show x", "retry x", "cancel x", "gc", "logs", "submit a.txt"]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's own folders let nobody else through
        shutil.copytree(home, folder, dirs_exist_ok=True)
        Path(folder, "a.txt").write_text("text")
        Path(folder).chmod(0o755)
        # Once as itself, so that whatever they import is in: Python itself may lie where nobody else gets.
        as_itself = f"for command in {commands!r}:\n{AND_TELL_ITS_STATUS}"
        become_nobody = "import os\nos.setgid(65534)\nos.setuid(65534)\nprint('now as nobody', file=sys.stderr)"
        ended = in_one_process(Path(folder), f"{as_itself}\n{become_nobody}", commands)
    _, _, said = ended.stderr.rpartition("now as nobody\n")
    lines = said.splitlines()
    assert lines[1::2] == [f"{command} ended with 1" for command in commands], said
    assert len(lines) == 2 * len(commands) and all(line.startswith("batch: ") for line in lines[::2]), said


def test_a_user_without_a_home_folder_is_no_traceback(home: Path) -> None:
    (home / "a.txt").write_text("text")
    commands = ["status", "jobs", "config", "models", "doctor", "submit a.txt"]
    no_libraries = "import batch.cli.doctor.command\nbatch.cli.doctor.command.check_libraries = lambda: iter(())"
    ended = in_one_process(home, no_libraries, commands, HOME=None, XDG_CACHE_HOME=None)
    assert "Traceback" not in ended.stderr, ended.stderr
    assert all(f"{command} ended with " in ended.stderr for command in commands), ended.stderr


def test_names_that_are_no_utf_8_are_submitted_and_shown(home: Path) -> None:
    name = os.fsencode(home) + b"/caf\xe9.txt"
    Path(os.fsdecode(name)).write_text("text")
    ended = run_process(home, "BATCH submit caf*.txt && BATCH jobs && BATCH submit caf*.txt --json")
    assert ended.returncode == 0 and "caf\\xe9.txt" in ended.stdout, ended.stderr


def test_a_home_whose_path_is_no_utf_8_is_one_sentence(tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    home.mkdir()
    (home / "a.txt").write_text("text")
    commands = ["status", "jobs", "config", "submit a.txt", "logs"]
    ended = in_one_process(home, "", commands)
    said: dict[str, list[str]] = {}
    told: list[str] = []
    for line in ended.stderr.splitlines():
        command, mark, status = line.partition(" ended with ")
        if mark and command in commands:
            assert int(status) == (ExitStatus.SERVICE_DOWN if command == "status" else ExitStatus.FAILED), ended.stderr
            said[command], told = told, []
        else:
            told.append(line)
    assert list(said) == commands and all(len(lines) <= 1 for lines in said.values()), ended.stderr
    ended = run_process(home, "BATCH serve")
    assert ended.returncode == ExitStatus.FAILED and len(ended.stderr.splitlines()) == 1, ended.stderr


# -- help


def test_every_exit_status_has_its_place_in_the_help(run_batch: RunBatch, home: Path) -> None:
    out = " ".join(run_batch("--help").out.split())
    for status in ExitStatus:
        assert re.search(rf"\b{status.value} ", out), status


def test_version_and_completion(run_batch: RunBatch, home: Path) -> None:
    from batch import __version__

    assert run_batch("--version").out == f"batch {__version__}\n"
    ended = run_process(home, "BATCH --show-completion bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (ended.returncode == 0 and "_BATCH_COMPLETE" in ended.stdout + ended.stderr) or "complete" in ended.stdout


# -- holding work back, and doing it again


def test_pause_and_resume_say_what_is_held_back(home: Path, run_batch: RunBatch) -> None:
    assert json.loads(run_batch("pause", "vlm", "--class", "inbox", "--json").out) == {
        "vlm": ["inbox"],
        "embedding": [],
        "stt": [],
    }
    assert run_batch("pause").out.count("inbox and batch paused") == 3
    assert json.loads(run_batch("status", "--json").out)["models"]["stt"]["paused"] == ["batch", "inbox"]
    assert "inbox paused" in run_batch("status").out
    assert run_batch("resume", "stt").out.count("paused") == 2
    assert run_batch("resume").out.count("goes on") == 3
    assert run_batch("pause", "nothing").status == ExitStatus.USAGE


def test_redo_marks_files_by_path_or_folder_and_says_what_cannot_be_done_again(home: Path, run_batch: RunBatch) -> None:
    with store_closed(home) as store:
        error = BadRequest("no").record()
        paths = ["trip/a.jpg", "trip/b.jpg", "other/c.jpg", "gone.jpg"]
        stamps = [FileStamp(number, 1, 1, 1) for number in range(4)]
        Ledger(store).accept([Arrival(path=path, stamp=stamp, error=error) for path, stamp in zip(paths, stamps, strict=True)])
        with store.transaction() as transaction:
            transaction.execute("update file set state='done'")
            transaction.execute("update file set gone=1 where path=?", (b"gone.jpg",))
    assert run_batch("redo", "--folder", "trip", "--dry-run").out == "2 files would be done again.\n"
    assert "2 files will be done again, once `batch serve` is started" in run_batch("redo", "--folder", "trip").out
    assert run_batch("redo", "inbox/other/c.jpg", "--prompt", "What colour?").status == ExitStatus.DONE
    ended = run_batch("redo", "gone.jpg", "nothing.jpg", "--json")
    assert ended.status == ExitStatus.FAILED and len(json.loads(ended.out)["problems"]) == 2
    assert run_batch("redo", "trip/a.jpg", "--language", "klingon").status == ExitStatus.USAGE
    assert run_batch("redo").status == ExitStatus.USAGE
    with store_closed(home) as store:
        assert Ledger(store).recorded_files(["other/c.jpg"])["other/c.jpg"].redo is not None


def test_a_password_on_the_command_line_is_refused(run_batch: RunBatch, home: Path) -> None:
    outcome = run_batch("serve", "--database", "postgresql://me:s3cret@localhost/jobs")
    assert outcome.status == 1 and "BATCH_DATABASE" in outcome.err and "s3cret" not in outcome.err


def test_a_worker_port_that_nobody_could_dial_is_refused_with_the_flag_that_names_it(run_batch: RunBatch, home: Path) -> None:
    for address, sentence in (("0.0.0.0:9443", "set front.advertise"), ("9443", "must be host:port")):
        outcome = run_batch("serve", "--front-listen", address)
        assert outcome.status == 1 and "(--front-listen)" in outcome.err and sentence in outcome.err, outcome.err


def test_commands_of_a_database_that_is_away_are_one_sentence(
    run_batch: RunBatch, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BATCH_DATABASE", f"postgresql://me@/jobs?host={tmp_path}")
    for command in ("status", "jobs", "files", "gc"):
        outcome = run_batch(command)
        assert outcome.status == 1 and outcome.err.count("\n") == 1 and "cannot be reached" in outcome.err, outcome
    for command in (("repair",), ("backup", "copy.db")):
        outcome = run_batch(*command)
        assert outcome.status == 1 and "Traceback" not in outcome.err and outcome.err.count("\n") == 1, outcome
