"""Power cuts: at any moment of a recorded run, what was not flushed being dropped, torn or out of order, nothing accepted is
lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store
from paths import TESTS
from power_cuts import Change, Disk, Operation, compile_recorder, read_changes
from power_workload import FATES
from running_service import WEIGHTLESS, RunningService, wait_until

CUTS = int(os.environ.get("POWER_CUTS", "250"))
"""States of the disk that are looked into."""
STARTS = int(os.environ.get("POWER_CUT_STARTS", "4"))
"""Of these, how many a whole service is started on."""
SEED = int(os.environ.get("DRILL_SEED", "1"))


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    """What a service and its clients did to a new home, from its first start to its end."""
    folder = tmp_path_factory.mktemp("recorded").resolve()
    recorder = compile_recorder(folder)
    if recorder is None:
        pytest.skip("there is no C compiler here, or no /proc")
    home, log = folder / "home", folder / "log"
    home.mkdir()
    inode = home.stat().st_ino
    environment = {"LD_PRELOAD": str(recorder), "RECORD_HOME": str(home), "RECORD_LOG": str(log)}
    with RunningService(home, {**WEIGHTLESS, **environment}) as service:
        subprocess.run(
            [sys.executable, TESTS / "support/power_workload.py", home, str(service.ports["vlm"])],
            env={**os.environ, **environment},
            check=True,
            timeout=120,
        )
        assert service.stop() == 0
    recorded = list(read_changes(log))
    assert {change.operation for change in recorded} >= set(Operation) - {Operation.LINK}
    recorded.insert(0, Change(Operation.MKDIR, inode, 0, 0, 0, "", "", b""))
    return recorded


def cuts(changes: list[Change], moments: list[int], folder: Path) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """A home after a cut behind each of these changes, ascending, and what had been accepted by then."""
    disk, accepted, marks = Disk(changes[0].node), [], -1
    text = b""
    remaining = iter(Counter(moments).items())
    moment, times = next(remaining)
    for number, change in enumerate(changes[1:], 1):
        disk.apply(change)
        if change.operation is Operation.CREATE and change.name == "accepted":
            marks = change.node
        if change.operation is Operation.WRITE and change.node == marks:
            text += change.data
            accepted = [(kind, id) for kind, _, id in (line.partition(" ") for line in text.decode().splitlines())]
        if number == moment:
            for copy in range(times):
                home = folder / f"cut-{number}-{copy}"
                disk.cut(home, random.Random(f"{SEED} {number} {copy}"))
                yield home, list(accepted)
                shutil.rmtree(home)
            moment, times = next(remaining, (0, 0))
            if not moment:
                return


def moments_of(changes: list[Change], count: int, salt: str) -> list[int]:
    """Half of them anywhere, the others just behind what takes something away or says that it is there."""
    luck = random.Random(f"{SEED} {salt}")
    telling = [
        n for n, change in enumerate(changes) if change.operation in (Operation.RENAME, Operation.UNLINK, Operation.SYNC)
    ]
    anywhere = luck.choices(range(1, len(changes)), k=count // 2)
    return sorted(
        anywhere + [min(luck.choice(telling) + luck.randrange(3), len(changes) - 1) for _ in range(count - count // 2)]
    )


def losses(home: Path, accepted: list[tuple[str, str]]) -> list[str]:
    """What is missing in a home after a cut."""
    missing: list[str] = []
    for path in (home / "outbox").rglob("*.json"):
        with contextlib.suppress(ValueError):
            json.loads(path.read_bytes())
            continue
        missing.append(f"{path.name} is half-written")
    store = open_store(home / ".batch" / "batch.db")
    try:
        store.check()
        spool = Spool(home / ".batch" / "spool")
        for job, sha256 in store.read(
            "select blob.job, sha256 from blob left join job on job.id = blob.job "
            "where job.id is null or not waited and state in ('queued', 'running', 'done')"
        ):
            if not _is_in(spool, sha256):
                missing.append(f"payload {sha256[:8]} of {job}")
        for kind, id in accepted:
            missing += _lost(home, store, kind, id)
    finally:
        store.close()
    return missing


def _is_in(spool: Spool, sha256: str) -> bool:
    path = spool.path(sha256)
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _lost(home: Path, store: Store, kind: str, id: str) -> list[str]:
    tables = {"job": "job", "file": "stored_file", "output": "stored_file", "batch": "batch", "response": "response"}
    if table := tables.get(kind, "conversation" if kind == "conversation" else ""):
        return [] if store.read(f"select 1 from {table} where id=?", (id,)) else [f"{kind} {id}"]
    if kind != "dropped" or id.endswith(".toml") or (home / "inbox" / id).exists():
        return []
    rows = store.read("select state from file where path=?", (os.fsencode(id),))
    if not rows:
        return [f"{id} is not in the inbox, and not known"]
    state = rows[0][0]
    result = home / "outbox" / f"{id}.json"
    if state in ("done", "linked") and not result.exists():
        return [f"{id} is {state} and gone, without its result"]
    if FATES[id.partition("/")[0]] == "keep":
        return [f"{id} should lie in the inbox"]
    return [] if state in ("waiting", "writing", "done", "linked") else [f"{id} is {state}"]


def test_a_power_cut_at_any_moment_loses_nothing_that_was_accepted(changes: list[Change], tmp_path: Path) -> None:
    problems: list[str] = []
    looked = 0
    for home, accepted in cuts(changes, moments_of(changes, CUTS, "look"), tmp_path):
        looked += 1
        try:
            missing = losses(home, accepted)
        except Exception as error:
            missing = [f"{type(error).__name__}: {error}"]
        problems += [f"{home.name}: {problem}" for problem in missing]
    assert looked == CUTS
    assert not problems, f"{len(problems)} losses in {looked} cuts:\n" + "\n".join(problems[:40])


def test_after_a_power_cut_the_service_starts_and_does_all_that_was_accepted(changes: list[Change], tmp_path: Path) -> None:
    for home, accepted in cuts(changes, moments_of(changes, STARTS, "start"), tmp_path):
        (home / ".batch" / "run").mkdir(parents=True, exist_ok=True)
        with RunningService(home, WEIGHTLESS) as service:
            dropped = [id for kind, id in accepted if kind == "dropped" and not id.endswith(".toml")]

            def is_done(dropped: list[str] = dropped, home: Path = home) -> bool:
                return all((home / "outbox" / f"{name}.json").exists() for name in dropped)

            wait_until(is_done, f"all results of {home.name}\n{service.output}", 60)
            jobs = [id for kind, id in accepted if kind == "job"]

            def has_ended(jobs: list[str] = jobs, home: Path = home) -> bool:
                with contextlib.closing(open_store(home / ".batch" / "batch.db")) as store:
                    return all((row := store.job(id)) is not None and row.state == "done" for id in jobs)

            wait_until(has_ended, f"all jobs of {home.name}\n{service.output}", 60)
            assert service.stop() == 0
