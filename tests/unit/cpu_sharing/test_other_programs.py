from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from batch.cpu_sharing.other_programs import OtherPrograms
from running_service import wait_until

_USABLE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
pytestmark = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux alone counts so")


class Machine:
    """A /proc folder as a machine would have it, and its clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now_s = folder, 1000.0

    def look(self) -> OtherPrograms:
        return OtherPrograms(self.folder, clock=lambda: self.now_s)

    def run(self, seconds: float, *, busy: float, processes: dict[int, tuple[str, float]], niceness: int = 0) -> None:
        """So many seconds later; `busy`: ticks that the first usable processor has run, `processes`: names and ticks by pid."""
        self.now_s += seconds
        others = "".join(f"cpu{number} 0 0 0 900 0 0 0 0 0 0\n" for number in _USABLE[1:])
        first = f"cpu{_USABLE[0]} {busy} 5000 0 900 70 0 0 30 0 0\n"
        foreign = "cpu4000 777 0 0 0 0 0 0 0 0 0\n"
        (self.folder / "stat").write_text(f"cpu  1 2 3\n{first}{others}{foreign}intr 12 cpu0\n")
        for pid, (name, ticks) in processes.items():
            (self.folder / str(pid)).mkdir(exist_ok=True)
            columns = f"R 1 1 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 {20 + niceness} {niceness} 3 0 0"
            (self.folder / str(pid) / "stat").write_text(f"{pid} ({name}) {columns}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_others_run_counts_and_what_our_own_processes_run_does_not(machine: Machine) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    others = machine.look()
    machine.run(0, busy=100, processes={7: ("a ) R 9", 50)})
    assert others.cores([7]) == 0.0
    machine.run(2.0, busy=100 + 1.5 * ticks, processes={7: ("a ) R 9", 50 + 0.5 * ticks)})
    assert others.cores([7]) == pytest.approx(0.5)
    machine.run(2.0, busy=100 + 1.5 * ticks, processes={7: ("a ) R 9", 50 + 0.5 * ticks)})
    assert others.cores([7]) == 0.0


def test_a_process_that_came_or_went_since_the_last_look_takes_nothing_off(machine: Machine) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    others = machine.look()
    machine.run(0, busy=0, processes={7: ("old", 9000)})
    others.cores([7])
    machine.run(1.0, busy=ticks, processes={8: ("new", 12345)})
    assert others.cores([8, 9]) == pytest.approx(1.0)


def test_what_our_own_processes_run_at_a_lower_priority_is_not_taken_off_what_others_run(machine: Machine) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    others = machine.look()
    machine.run(0, busy=0, processes={7: ("batch", 0)}, niceness=10)
    others.cores([7])
    machine.run(1.0, busy=ticks, processes={7: ("batch", ticks)}, niceness=10)
    assert others.cores([7]) == pytest.approx(1.0)


def test_between_two_looks_lies_half_a_second(machine: Machine) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    others = machine.look()
    machine.run(0, busy=0, processes={})
    others.cores([])
    machine.run(0.4, busy=0.4 * ticks, processes={})
    assert others.cores([]) == 0.0
    machine.run(0.1, busy=0.5 * ticks, processes={})
    assert others.cores([]) == pytest.approx(1.0)


def test_what_was_before_a_job_is_forgotten(machine: Machine) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    others = machine.look()
    machine.run(0, busy=0, processes={})
    others.cores([])
    machine.run(1.0, busy=ticks, processes={})
    assert others.cores([]) == pytest.approx(1.0)
    others.forget()
    machine.run(1.0, busy=2 * ticks, processes={})
    assert others.cores([]) == 0.0
    machine.run(1.0, busy=2.7 * ticks, processes={})
    assert others.cores([]) == pytest.approx(0.7)


@pytest.mark.parametrize("text", [None, "", "cpu0 x y\n", "cpu0 1\n"])
def test_where_it_cannot_be_read_nobody_else_counts(machine: Machine, text: str | None) -> None:
    if text is not None:
        (machine.folder / "stat").write_text(text.replace("cpu0", f"cpu{_USABLE[0]}"))
    others = machine.look()
    others.cores([])
    machine.now_s += 1
    assert others.cores([os.getpid()]) == 0.0


def test_on_a_system_that_is_no_linux_nobody_else_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    others = machine.look()
    assert others.cores([os.getpid()]) == 0.0
    machine.now_s += 1
    assert others.cores([os.getpid()]) == 0.0


def test_a_program_that_keeps_a_core_busy_is_seen() -> None:
    others = OtherPrograms()
    others.cores([os.getpid()])
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as program:
        try:
            seen: Callable[[], bool] = lambda: others.cores([os.getpid()]) >= 0.3  # noqa: E731
            wait_until(seen, "the program is seen", 20)
        finally:
            program.kill()
