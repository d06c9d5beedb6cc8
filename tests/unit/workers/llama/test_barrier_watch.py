"""When fewer threads share a decode because others keep them from it."""

from __future__ import annotations

from batch.workers.llama.barrier_watch import MAX_PAUSE_S, SUSPICION_S, BarrierWatch


def test_threads_that_are_in_each_others_way_give_place_to_fewer_and_are_tried_again() -> None:
    watch = BarrierWatch(1)
    assert watch.choose(2, now=0) == 2
    watch.note(2, took_s=0.2, few_take_s=0.01, now=9)
    watch.note(2, took_s=0.2, few_take_s=0.01, now=10)
    assert watch.choose(2, now=11.8) == 1
    assert watch.choose(2, now=12) == 2, "ten times what was lost"
    watch.note(2, took_s=0.2, few_take_s=0.01, now=13)
    assert watch.choose(2, now=13.1) == 1, "once is enough where it was so before"
    watch.note(2, took_s=0.005, few_take_s=0.01, now=15)
    assert watch.choose(2, now=15.1) == 2


def test_one_slow_decode_is_forgotten_and_no_loss_makes_fewer_compute_for_long() -> None:
    watch = BarrierWatch(2)
    for now in (0, SUSPICION_S + 1):
        watch.note(4, took_s=0.2, few_take_s=0.01, now=now)
        assert watch.choose(4, now=now) == 4
    watch.note(4, took_s=100, few_take_s=0.01, now=12)
    assert watch.choose(4, now=12 + MAX_PAUSE_S - 1) == 2 and watch.choose(4, now=12 + MAX_PAUSE_S) == 4


def test_a_slow_decode_of_few_threads_says_nothing_of_more() -> None:
    watch = BarrierWatch(2)
    for now in (0, 1):
        watch.note(2, took_s=1, few_take_s=0.01, now=now)
        assert watch.choose(4, now=now) == 4 and watch.choose(1, now=now) == 1
