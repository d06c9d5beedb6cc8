"""What the chat model takes to be there: seconds until it answers, and memory, at its whole context and at shorter ones.

    python bench/load.py [--model tiny|gemma-270m|e4b-shape] [--contexts 0,8192] [--json]

A context of 0 is the model's own (128K tokens for E4B's shape). Memory is the largest of the worker processes, resident and
of its own: what is mapped from the file can be dropped by the system and is read again.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import e4b_shape
from chat import SUBJECTS, Subject
from measure import Report, finish, machine, options
from peer import Peer, family, ours


def memory(peer: Peer) -> tuple[float, float]:
    """(resident, of that anonymous) GB of the largest of its processes."""
    largest = (0.0, 0.0)
    for pid in (pid for root in peer.pids for pid in family(root)):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if "VmRSS" in fields:
            resident, anonymous = (int(fields[name].split()[0]) * 1024 / 1e9 for name in ("VmRSS", "RssAnon"))
            largest = max(largest, (resident, anonymous))
    return largest


def bench(subject: Subject, contexts: list[int], threads: int) -> Report:
    """Each context once."""
    report = Report(f"load: {subject.name}", machine(threads, 1))
    models = {"vlm": str(subject.path)} | ({"vlm_mmproj": str(subject.mmproj)} if subject.mmproj else {})
    for context in contexts:
        os.environ["BATCH_VLM__CONTEXT"] = str(context)
        begun = time.perf_counter()
        with ours(threads, **models) as peer:
            seconds = time.perf_counter() - begun
            peer.client().post(subject.route, subject.ask("warm up", 8))
            resident, anonymous = memory(peer)
        name = f"a context of {context}" if context else "the model's whole context"
        report.say(f"{name}: up after {seconds:.1f} s, {resident:.2f} GB resident, {anonymous:.2f} GB of that its own")
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=1)
    parser.add_argument("--model", choices=list(SUBJECTS), default="e4b-shape")
    parser.add_argument("--contexts", default="0,8192", help="values of vlm.context; 0: the model's own")
    given = parser.parse_args()
    if given.model == "e4b-shape":
        e4b_shape.paths()
    contexts = [int(value) for value in given.contexts.split(",")]
    return finish([bench(SUBJECTS[given.model], contexts, given.threads)], given.json)


if __name__ == "__main__":
    sys.exit(main())
