"""The workers of all machines in numbers, and the first of them one by one: three statements, however many there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from batch.queue.jobs import Kind, Priority
from batch.queue.nodes import MAX_TOLD_QUEUES, NODE_STATES, Node, NodeOverview, NodeState, QueueNodes

Read = Callable[[str, Sequence[Any]], list[Any]]
"""`Store.read`."""

_SEEN = (
    "with seen as (select n.*, greatest(0.0, extract(epoch from clock_timestamp() - n.beat))::double precision as age, "
    "case when n.beat < clock_timestamp() - make_interval(secs => ?) then 'silent' when n.is_draining <> 0 then 'draining' "
    "else n.status::text end as condition from node n)"
)
_FIRST = _SEEN + (
    ", first as (select s.*, array_position(?::text[], condition) as place from seen s "
    "order by place, kind, queue, started_at, id limit ?) "
    "select id, kind, queue, status, model, build, version, error, home, pid, started_at, age, "
    "(select count(*) from claim c where c.worker = f.id), is_draining, takes from first f "
    "order by place, kind, queue, started_at, id"
)
_NUMBERS = _SEEN + (
    ", held as (select worker, count(*) as n from claim group by worker) "
    "select queue, condition, count(*), coalesce(sum(h.n), 0), max(age), "
    "array_agg(distinct build) filter (where build <> '' and condition <> 'silent') "
    "from seen s left join held h on h.worker = s.id group by queue, condition"
)
_WAITS = (
    "with line as (select unnest(?::text[]) as queue union select queue from node where queue <> '' "
    "union select substr(name, 7) from service where name like 'model:%') "
    "select l.queue, max(case when p.kind is null then unix_now() - j.created_at end) "
    "from line l cross join unnest(?::double precision[]) as c (priority) "
    "left join lateral (select t.job from task t where t.queue = l.queue and t.priority <= c.priority "
    "and t.priority > c.priority - 1 order by t.priority desc, t.id limit 1) t on true left join job j on j.id = t.job "
    "left join pause p on p.kind = split_part(l.queue, ':', 1) and p.priority = c.priority group by l.queue order by l.queue"
)
"""The first message of each class is the oldest, and one look into an index, however many wait: an order by priority, though
all of a class have the same, keeps Postgres from a walk through all messages by their ids."""


def read_overview(read: Read, limit: int, lease_s: float) -> NodeOverview:
    """What there is, at most `limit` workers one by one; those are silent that were not heard of for `lease_s`."""
    nodes = [_to_node(row) for row in read(_FIRST, (lease_s, list(NODE_STATES), limit))]
    states: dict[str, dict[NodeState, int]] = {}
    leases: dict[str, int] = {}
    builds: dict[str, set[str]] = {}
    ages: dict[str, float] = {}
    for queue, state, count, held, age, distinct in read(_NUMBERS, (lease_s,)):
        states.setdefault(queue, {})[state] = count
        leases[queue] = leases.get(queue, 0) + int(held)
        builds.setdefault(queue, set()).update(distinct or ())
        ages[queue] = max(age, ages.get(queue, 0.0))
    waits = dict(read(_WAITS, ([str(kind) for kind in Kind], [float(priority) for priority in Priority])))
    queues = [
        QueueNodes(
            queue,
            {state: states[queue][state] for state in NODE_STATES if state in states.get(queue, {})},
            leases.get(queue, 0),
            len(builds.get(queue, ())),
            ages.get(queue, 0.0),
            None if (wait := waits.get(queue)) is None else max(0.0, wait),
        )
        for queue in sorted({*waits, *states})[:MAX_TOLD_QUEUES]
    ]
    return NodeOverview(nodes, queues, read_clock_difference(read))


def read_clock_difference(read: Read) -> float:
    """How many seconds the database's clock is ahead of this machine's, as exactly as one way to it takes."""
    before = time.time()
    now = float(read("select extract(epoch from clock_timestamp())::double precision", ())[0][0])
    return now - (before + time.time()) / 2


def _to_node(row: Sequence[Any]) -> Node:
    id, kind, queue, status, model, build, version, error, home, pid, started_at, age, leases, is_draining, takes = row
    return Node(
        id=id,
        kind=Kind(kind),
        queue=queue,
        status=status,
        model=model,
        build=build,
        version=version,
        error=error,
        home=home,
        pid=pid,
        started_at=started_at,
        beat_age_s=age,
        leases=leases,
        is_draining=bool(is_draining),
        takes=takes,
    )
