"""Measures taken in alternating rounds, their medians, ratios and bars, and how they are told."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peer import Peer


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure of every peer."""

    name: str
    unit: str
    run: Callable[[Peer, int], float]
    """The figure; the number is another one for every call, so that nothing is answered from a cache by accident."""
    better: Literal["more", "less"] = "more"
    bar: float | None = None
    """Ours / theirs, at least (more) or at most (less)."""
    slack: float = 0.0
    """What ours may have more than that, in `unit`."""
    rounds: int | None = None
    """Instead of the run's."""
    alone: bool = False
    """Of ours only."""


@dataclass(slots=True)
class Report:
    """What was measured: figures and seconds of CPU by measure and peer, the ones that are ours under "ours"."""

    title: str
    facts: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    cpu: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    only: str = ""
    lines: list[tuple[str, bool | None]] = field(default_factory=list)
    """Further sentences, and whether what they say is as it should be."""

    def take(self, measures: Sequence[Measure], peers: Sequence[Peer], rounds: int) -> None:
        """Measure every peer in turn, so that what else the machine does falls on all alike."""
        measures = [m for m in measures if self.only in m.name]
        self.measures += measures
        number = 0
        for done in range(max([m.rounds or rounds for m in measures], default=0)):
            for measure in measures:
                if done >= (measure.rounds or rounds):
                    continue
                if sys.stderr.isatty():
                    print(f"\r{self.title}: {measure.name}, round {done + 1}\033[K", end="\r", file=sys.stderr, flush=True)
                turn = list(peers)[:: 1 if done % 2 else -1]
                for peer in turn if not measure.alone else [p for p in turn if p.name == "ours"]:
                    number += 1
                    before = peer.cpu()
                    figure = measure.run(peer, number)
                    after = peer.cpu()
                    if not sys.stderr.isatty():  # what a time limit cuts off has told what it had
                        print(f"{measure.name}, {peer.name}: {figure:.4g} {measure.unit}", file=sys.stderr, flush=True)
                    self.figures.setdefault(measure.name, {}).setdefault(peer.name, []).append(figure)
                    if before is not None and after is not None:
                        self.cpu.setdefault(measure.name, {}).setdefault(peer.name, []).append(after - before)

    def say(self, sentence: str, good: bool | None = None) -> None:
        self.lines.append((sentence, good))

    def rows(self) -> list[dict[str, Any]]:
        """One row a measure: medians, ours / theirs (the best of theirs), least CPU likewise, the bar and whether it is met."""
        rows = []
        for measure in self.measures:
            by = {peer: statistics.median(values) for peer, values in self.figures[measure.name].items()}
            # What else runs only ever adds to CPU time (caches, shared cores), so the least is the truest.
            cpu = {peer: min(values) for peer, values in self.cpu.get(measure.name, {}).items()}
            row: dict[str, Any] = {
                "measure": measure.name,
                "unit": measure.unit,
                "medians": by,
                "cpu_seconds": cpu,
                "runs": min(map(len, self.figures[measure.name].values())),
            }
            theirs = {peer: value for peer, value in by.items() if peer != "ours"}
            if theirs:
                best = (max if measure.better == "more" else min)(theirs, key=lambda peer: theirs[peer])
                row |= {"best": best, "ratio": by["ours"] / theirs[best]}
                if cpu.get(best):
                    row["cpu_ratio"] = cpu["ours"] / cpu[best]
                if measure.bar is not None:
                    limit = measure.bar * theirs[best]
                    met = by["ours"] >= limit if measure.better == "more" else by["ours"] <= limit + measure.slack
                    slack = f" + {measure.slack:g} {measure.unit}" if measure.slack else ""
                    word = "at least" if measure.better == "more" else "at most"
                    row |= {"bar": f"{word} {measure.bar:g} x{slack}", "met": met}
            rows.append(row)
        return rows

    @property
    def good(self) -> bool:
        return all(row.get("met", True) for row in self.rows()) and all(good is not False for _, good in self.lines)

    def told(self) -> dict[str, Any]:
        return {
            "title": self.title,
            **self.facts,
            "measures": self.rows(),
            "notes": [{"note": note, "met": good} for note, good in self.lines],
        }

    def show(self) -> None:
        print(f"\n{self.title}\n" + "; ".join(f"{k} {v}" for k, v in self.facts.items()))
        for row in self.rows():
            figures = ", ".join(f"{peer} {value:.4g}" for peer, value in row["medians"].items())
            line = f"  {row['measure']:34} {figures} {row['unit']}"
            if "ratio" in row:
                line += f" | ratio {row['ratio']:.3f}"
            if "cpu_ratio" in row:
                line += f", CPU {row['cpu_ratio']:.2f}"
            if "met" in row:
                line += f" | {row['bar']}: {'met' if row['met'] else 'MISSED'}"
            print(line)
        for note, good in self.lines:
            print(f"  {note}" + ("" if good is None else f" | {'met' if good else 'MISSED'}"))
        sys.stdout.flush()


def options(doc: str, *, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="alternating rounds, whose median counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of every server; default: the cores")
    parser.add_argument("--only", default="", help="measure only what has this in its name")
    parser.add_argument("--json", action="store_true", help="tell everything as JSON")
    return parser


def machine(threads: int, rounds: int) -> dict[str, Any]:
    """What a reader has to know to judge the figures."""
    load = round(os.getloadavg()[0], 2)
    return {"processor": processor(), "cores": os.cpu_count(), "threads": threads, "load before": load, "rounds": rounds}


def processor() -> str:
    """The processor's name, and the widest of the instruction sets that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^flags\s*: (.+)$", text, re.MULTILINE)
    known = flags[1].split() if flags else []
    sets = (("amx_int8", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
    widest = next((label for flag, label in sets if flag in known), "")
    return ", ".join(filter(None, (name[1].strip() if name else platform.machine(), widest)))


def finish(reports: Iterable[Report], as_json: bool) -> int:
    """Tell each report once it is made, as JSON all together at the end; the exit status."""
    made = []
    for report in reports:
        made.append(report)
        if not as_json:
            report.show()
    if as_json:
        print(json.dumps([report.told() for report in made], indent=1))
    return 0 if all(report.good for report in made) else 1
