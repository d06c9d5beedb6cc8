"""What the chat model takes to be there: seconds until it answers, and memory, at its whole context and at shorter ones.

    python bench/load.py [--model tiny|gemma-270m|e4b-shape] [--contexts 0,8192] [--kv f16,q8_0] [--repack on,off] [--json]

A context of 0 is the model's own (128K tokens for E4B's shape). Memory is the largest of the worker processes, resident and
of its own: what is mapped from the file can be dropped by the system and is read again.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import e4b_shape
from chat import SUBJECTS, Subject
from measure import Report, finish, machine, options
from peer import Peer, family, ours
from words import prose

ANSWER_TOKENS = 16


def processor() -> str:
    """Its name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


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


def bench(subject: Subject, contexts: Sequence[int], kv_types: Sequence[str], repacks: Sequence[str], threads: int) -> Report:
    """Each combination once."""
    report = Report(f"load: {subject.name}", machine(threads, 1) | {"processor": processor()})
    models = {"vlm": str(subject.path)} | ({"vlm_mmproj": str(subject.mmproj)} if subject.mmproj else {})
    for context, kv_type, repack in itertools.product(contexts, kv_types, repacks):
        os.environ |= {"BATCH_VLM__CONTEXT": str(context), "BATCH_VLM__KV_CACHE": kv_type, "BATCH_VLM__REPACK": repack}
        begun = time.perf_counter()
        with ours(threads, **models) as peer:
            seconds = time.perf_counter() - begun
            client = peer.client()
            client.post(subject.route, subject.ask("warm up", 8))
            resident, anonymous = memory(peer)
            props = json.loads(client.get("/props"))
            begun, cpu_before = time.perf_counter(), peer.cpu()
            client.post(subject.route, subject.ask(prose(1, 120), ANSWER_TOKENS))
            answered, cpu = time.perf_counter() - begun, (peer.cpu() or 0.0) - (cpu_before or 0.0)
        name = f"a context of {context}" if context else "the model's whole context"
        repacked = "repacked" if props["repacked"] else "not repacked"
        sentence = (
            f"{name}, kv {props['kv_cache']}, {repacked}, {props['parallel']} bulk jobs: up after {seconds:.1f} s, "
            f"{resident:.2f} GB resident, {anonymous:.2f} GB of that its own; 120 words and {ANSWER_TOKENS} tokens took "
            f"{answered:.1f} s, {cpu:.1f} of CPU"
        )
        report.say(sentence)
        print(sentence, file=sys.stderr, flush=True)
    return report


def main() -> int:
    parser = options(__doc__ or "", rounds=1)
    parser.add_argument("--model", choices=list(SUBJECTS), default="e4b-shape")
    parser.add_argument("--kv", default="auto", help="values of vlm.kv_cache")
    parser.add_argument("--repack", default="auto", help="values of vlm.repack")
    parser.add_argument("--contexts", default="0,8192", help="values of vlm.context; 0: the model's own")
    given = parser.parse_args()
    if given.model == "e4b-shape":
        e4b_shape.paths()
    contexts = [int(value) for value in given.contexts.split(",")]
    report = bench(SUBJECTS[given.model], contexts, given.kv.split(","), given.repack.split(","), given.threads)
    return finish([report], given.json)


if __name__ == "__main__":
    sys.exit(main())
