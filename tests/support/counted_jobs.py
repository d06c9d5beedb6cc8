"""Jobs that are submitted while faults happen, and what the database itself counted of them when the dust has settled."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import re
import threading
import time
from collections import Counter

import psycopg

from batch.queue.jobs import Draft, Kind, State
from batch.queue.open_store import open_store
from batch.queue.remote.channel import Receiver
from batch.queue.remote.open_channel import open_channel
from batch.queue.store import Store, StoreAway
from drill_home import chat_draft
from running_service import wait_until

_AUDIT = """
create table if not exists audit (job text, token bigint, state text, at timestamptz default clock_timestamp());
create or replace function note_end() returns trigger language plpgsql as $$
begin
  insert into audit (job, token, state) values (new.id, old.token, new.state);
  return null;
end $$;
create or replace trigger job_end after update of state on job for each row
  when (old.state <> new.state and new.state in ('done', 'failed', 'cancelled')) execute function note_end();
"""
"""A row for every end that the database has seen, in the transaction that ended the job."""


class CountedJobs:
    """Bulk chats, each with its own words. A thread submits them durably, as long as it runs, whatever happens meanwhile; one
    whose submit broke off is submitted again under its id, until it is accepted."""

    def __init__(
        self, url: str, *, seed: int = 14, waiting: int = 6, words: int = 20, pause_ms: int = 10, listen_url: str = ""
    ) -> None:
        """`waiting`: how many are kept in the queue; `words`: of the longest; `pause_ms`: a word;
        `listen_url`: past a pooler."""
        self.url, self._listen_url = url, listen_url
        self.accepted: dict[str, str] = {}
        """What each accepted job is asked to say, by id."""
        self.broken_off = 0
        """Submits of which nobody knew whether they had been accepted."""
        self._ends = 0
        self._dice = random.Random(seed)
        self._waiting, self._words, self._pause_ms = waiting, words, pause_ms
        self._stop = threading.Event()
        self.store: Store = open_store(url)
        with psycopg.connect(_plain(url), autocommit=True) as conn:
            conn.execute(_AUDIT)
        self._thread = threading.Thread(target=self._submit_all, daemon=True)

    def __enter__(self) -> CountedJobs:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        self.store.close()

    def _draft(self) -> Draft:
        number = len(self.accepted)
        text = f"job {number} " + " ".join(f"w{n}" for n in range(self._dice.randrange(self._words)))
        return chat_draft(text.strip(), pause_ms=self._pause_ms)

    def _submit_all(self) -> None:
        with contextlib.closing(_patient_store(self.url)) as store, contextlib.ExitStack() as stack:
            channel = open_channel(self.url, "counted", is_front=False, listen_url=self._listen_url)
            assert channel is not None
            channel.open(Receiver(lambda packet: None, lambda queue: None, lambda: None))
            stack.callback(channel.close)
            while not self._stop.is_set():
                try:
                    if store.queue_size(Kind.VLM) >= self._waiting:
                        self._stop.wait(0.05)
                        continue
                except StoreAway:
                    self._stop.wait(0.05)
                    continue
                draft = self._draft()
                for attempt in itertools.count():
                    try:
                        store.submit(draft, durable=True)
                        break
                    except StoreAway:
                        self.broken_off += not attempt
                        time.sleep(0.05)
                channel.wake({str(draft.queue)})
                self.accepted[draft.id] = str(draft.payload.messages[0].content)  # type: ignore[union-attr]

    def wait_for_work(self, seconds: float = 60.0) -> None:
        """Until a job runs."""
        wait_until(lambda: self._read("select 1 from claim limit 1"), "a job runs", seconds)

    def _read(self, sql: str) -> list[tuple[object, ...]]:
        try:
            return self.store.read(sql)
        except StoreAway:
            return []

    def wait_for_ends(self, count: int, seconds: float = 60.0) -> None:
        """Until so many more jobs have ended: the work goes on."""
        before = self.ends
        wait_until(lambda: self.ends >= before + count, f"{count} more jobs end", seconds)

    @property
    def ends(self) -> int:
        """How many jobs have ended, as the database said last."""
        for (count,) in self._read("select count(*) from audit"):
            self._ends = int(str(count))
        return self._ends

    def finish(self, output: str = "", seconds: float = 120.0) -> Counter[str]:
        """Submit no more, wait until all have ended, and hold what the database counted against what was accepted: each job
        ended once, was done, and says its own words; nothing is left over. Returns counts for a report."""
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        open_jobs = "select id, state, attempts, cancel from job where state in ('queued', 'running') limit 5"
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.ends and not self._read(open_jobs), "all end", seconds)
        assert self._read(open_jobs) == [], f"jobs that never ended\n{output}"
        ended = Counter(str(job) for (job,) in self.store.read("select job from audit"))
        assert {job: count for job, count in ended.items() if count > 1} == {}, "ended twice"
        assert set(self.accepted) <= set(ended), "an accepted job is lost"
        rows = self.store.read("select id, state, result, attempts, token from job")
        for id, state, result, _, _ in rows:
            if id in self.accepted:
                assert state == State.DONE, (id, state, self.store.job(id))
                said = json.loads(result or "{}")["choices"][0]["message"]["content"]
                assert said.split() == self.accepted[id].split(), id
        newest = {str(id): token for id, _, _, _, token in rows}
        stale = [job for job, token in self.store.read("select job, token from audit") if newest.get(str(job), token) != token]
        assert stale == [], "ended under an old token"
        assert self.store.read("select * from claim") == [] and self.store.read("select * from task") == []
        tally: Counter[str] = Counter()
        for *_, state, count in self.store.tally():
            tally[str(state)] += count
        by_state = Counter(str(row[1]) for row in rows)
        assert +tally == by_state, f"the counters are wrong: {tally} of {by_state}"
        attempts = [int(row[3]) for row in rows]
        return Counter(
            accepted=len(self.accepted),
            ended_once=len(ended),
            broken_off_submits=self.broken_off,
            taken_again=sum(max(0, count - 1) for count in attempts),
        )


def _plain(url: str) -> str:
    """Without what PostgreSQL's library does not know."""
    return re.sub(r"&(lease|pooler)=[^&]*", "", url)


def _patient_store(url: str) -> Store:
    while True:
        try:
            return open_store(url)
        except StoreAway:
            time.sleep(0.1)
