"""Which worker a request is kept for, for the sake of its prompt cache."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from batch.payloads.chat import ChatPayload, Function, ImagePart, Message, TextPart, Tool
from batch.payloads.json_text import encode
from batch.queue.hub import prefix_affinity
from batch.queue.hub.prefix_affinity import MAX_HOLD_S, PrefixAffinity
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.nodes import Node
from batch.queue.remote.prompt_prefix import MAX_HELD_PREFIXES, HeldPrefixes, ends_of, prefixes_of, read_held
from payloads import payload

SLOW_MS_PER_KIB = 10_000.0


def conversation(*turns: str, system: str = "", tools: list[Tool] | None = None, **options: Any) -> ChatPayload:
    messages = [Message(role="system", content=system)] if system else []
    messages += [Message(role=("user", "assistant")[n % 2], content=turn) for n, turn in enumerate(turns)]
    return ChatPayload(messages=messages, tools=tools or [], **options)


def request(*turns: str, priority: Priority = Priority.INTERACTIVE, **options: Any) -> Draft:
    return Draft(conversation(*turns, **options), Origin.HTTP, priority, waited=True)


def worker(name: str, *held: ChatPayload, ms_per_kib: float = SLOW_MS_PER_KIB, **changes: Any) -> Node:
    digests = [digest for prompt in held for digest in ends_of(prefixes_of(prompt))]
    report = encode(HeldPrefixes(ms_per_kib, digests)).decode()
    node = Node(name, Kind.VLM, Kind.VLM, "ready", prefixes=report)
    return dataclasses.replace(node, **changes)


class Cluster(PrefixAffinity):
    """Affinity among workers whose jobs are played."""

    def __init__(self, *nodes: Node) -> None:
        self.jobs: dict[str, set[str]] = {}
        super().__init__(lambda worker: self.jobs.get(worker, set()))
        self.refresh(nodes)

    def holder(self, draft: Draft) -> str:
        routed = self.route(draft)
        assert routed.payload is draft.payload and routed.id == draft.id
        assert bool(routed.holder) == (routed.hold_s > 0) and routed.hold_s <= MAX_HOLD_S
        return routed.holder


FIRST = conversation("Tell me a story.")
NEXT = ("Tell me a story.", "Once upon a time.", "Go on.")


def digests(prompt: ChatPayload) -> list[str]:
    return [prefix.digest for prefix in prefixes_of(prompt)]


def test_a_next_turn_begins_with_the_last_ones_prefixes_and_another_system_prompt_or_tool_is_another_beginning() -> None:
    assert digests(conversation(*NEXT))[:1] == digests(FIRST)
    assert len(set(digests(conversation(*NEXT)))) == 3
    sizes = [prefix.size for prefix in prefixes_of(conversation(*NEXT))]
    assert sizes == sorted(set(sizes))
    tool = Tool(function=Function(name="clock"))
    beginnings = [
        FIRST,
        conversation("Tell me a story.", system="Be brief."),
        conversation("Tell me a story.", tools=[tool]),
        conversation("Tell me a story.", enable_thinking=True),
        conversation("Tell me a story.", chat_template_kwargs={"a": 1}),
    ]
    assert len({digests(one)[0] for one in beginnings}) == 5
    one, two = (conversation(text, system="Be brief.") for text in ("ping", "pong"))
    assert digests(one)[0] == digests(two)[0] and digests(one)[1] != digests(two)[1], "what they share is the system prompt"
    assert prefixes_of(payload("embed")) == [] and prefixes_of(payload("completion")) == []


def test_a_picture_counts_for_its_content_and_its_tokens() -> None:
    def about(blob: str) -> ChatPayload:
        parts = [ImagePart(blob=blob), TextPart(text="What is this?")]
        return ChatPayload(messages=[Message(role="user", content=list(parts))])

    assert digests(about("ab")) != digests(about("cd"))
    assert prefixes_of(about("ab"))[0].size > 1000


def test_a_next_turn_is_kept_for_the_worker_that_has_computed_the_last_and_for_the_longest_match() -> None:
    affinity = Cluster(worker("a", FIRST), worker("b"), worker("c", conversation(*NEXT)))
    assert affinity.holder(request(*NEXT[:2], "Stop.")) in ("a", "c")
    assert affinity.holder(request(*NEXT, "And then?", "More.")) == "c"
    assert affinity.holder(request("Something else.")) == ""


def test_a_request_is_kept_no_longer_than_its_prefill_would_take() -> None:
    affinity = Cluster(worker("a", FIRST, ms_per_kib=400.0), worker("b", ms_per_kib=400.0))
    routed = affinity.route(request(*NEXT))
    kib = prefixes_of(FIRST)[-1].size / 1024
    assert routed.holder == "a" and routed.hold_s == pytest.approx(0.4 * kib)
    affinity = Cluster(worker("a", FIRST, ms_per_kib=1.0), worker("b"))
    assert affinity.route(request(*NEXT)).hold_s == 0.0, "too little to wait for"
    affinity = Cluster(worker("a", FIRST, ms_per_kib=0.0), worker("b"))
    assert affinity.holder(request(*NEXT)) == "", "nobody knows how long it takes"


def test_with_one_worker_nothing_is_kept_and_nothing_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_affinity, "prefixes_of", None)
    draft = request(*NEXT)
    other_queue = worker("b", queue="vlm:other")
    assert Cluster(worker("a", FIRST), other_queue).route(draft) is draft
    assert Cluster().route(draft) is draft


@pytest.mark.parametrize(
    "changes",
    [{"is_draining": True}, {"beat_age_s": 16.0}, {"status": "loading"}, {"leases": 3}],
    ids=lambda one: next(iter(one)),
)
def test_nothing_is_kept_for_a_worker_that_drains_is_silent_or_far_behind(changes: dict[str, Any]) -> None:
    affinity = Cluster(worker("a", FIRST, **changes), worker("b"), worker("c"))
    assert affinity.holder(request(*NEXT)) == ""
    affinity.refresh([worker("a", FIRST, leases=2), worker("b")])
    assert affinity.holder(request(*NEXT)) == "a", "two jobs behind is not more than two"


def test_jobs_that_were_heard_of_or_are_kept_count_before_the_next_look() -> None:
    affinity = Cluster(worker("a", FIRST), worker("b"))
    kept = [affinity.holder(request(*NEXT, "n", str(n))) for n in range(5)]
    assert kept == ["a", "a", "a", "", ""]
    affinity = Cluster(worker("a", FIRST), worker("b"))
    affinity.jobs["a"] = {"1", "2", "3"}
    assert affinity.holder(request(*NEXT)) == ""
    affinity.jobs["b"] = {"4"}
    assert affinity.holder(request(*NEXT)) == "a"


def test_of_several_that_hold_as_much_the_least_busy_one_is_chosen_and_where_all_do_nobody_is_waited_for() -> None:
    affinity = Cluster(worker("a", FIRST, leases=2), worker("b", FIRST), worker("c"))
    assert affinity.holder(request(*NEXT)) == "b"
    assert Cluster(worker("a", FIRST), worker("b", FIRST)).holder(request(*NEXT)) == ""


def test_what_a_worker_was_heard_to_begin_counts_before_it_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = worker("a"), worker("b")
    affinity = Cluster(*nodes)
    first = request("Tell me a story.")
    assert affinity.holder(first) == ""
    affinity.started(first.id, "b")
    affinity.started("a job of another service", "a")
    assert affinity.holder(request(*NEXT)) == "b"
    monkeypatch.setattr(prefix_affinity, "_SEEN_FOR_S", -1.0)
    affinity.refresh(nodes)
    assert affinity.holder(request(*NEXT)) == "", "by now it would have said so"


def test_bulk_work_and_other_kinds_are_kept_for_nobody() -> None:
    affinity = Cluster(worker("a", FIRST), worker("b"))
    assert affinity.holder(request(*NEXT, priority=Priority.BATCH)) == ""
    draft = Draft(payload("embed"), Origin.HTTP, Priority.INTERACTIVE)
    assert affinity.holder(draft) == ""


def test_what_a_service_remembers_and_what_a_worker_may_claim_are_bounded() -> None:
    affinity = Cluster(worker("a"), worker("b"))
    for n in range(1100):
        draft = request(*(f"turn {t} of {n}" for t in range(30)))
        affinity.route(draft)
        if n % 2:
            affinity.started(draft.id, "a")
    assert len(affinity._prompts) <= 1024 and len(affinity._seen) <= 8192
    assert max(map(len, affinity._prompts.values())) == 8
    assert read_held("no JSON") == read_held('{"digests": 7}') == HeldPrefixes()
    many = encode(HeldPrefixes(1.0, ["00"] * (MAX_HELD_PREFIXES + 1))).decode()
    assert read_held(many) == HeldPrefixes()
