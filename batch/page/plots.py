"""Numbers as the geometry of a plot: the templates draw it as SVG, and write the same numbers into a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600, 160
"""Of the drawing, in its own units."""
MARGIN_LEFT, MARGIN_BOTTOM, MARGIN_TOP = 44, 22, 8
"""Room for the numbers at its sides."""


@dataclass(frozen=True, slots=True)
class PlotBar:
    """One stretch of a bar."""

    x: float
    y: float
    width: float
    height: float
    series: int
    """Which series it belongs to: 0 for the first."""


@dataclass(frozen=True, slots=True)
class PlotLine:
    """Some points of a series that follow each other."""

    points: str
    """As SVG has them: x,y and a space."""
    series: int


@dataclass(frozen=True, slots=True)
class PlotDot:
    """A point of a series that stands alone."""

    x: float
    y: float
    series: int


@dataclass(frozen=True, slots=True)
class PlotMark:
    """A number or a word at an axis."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing: bars or lines, a scale, and the table with the same numbers."""

    title: str
    sentence: str
    """What it shows, for who cannot see it."""
    series: tuple[str, ...]
    labels: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    """A row for each series; None where there is no value."""
    is_line: bool = False
    bars: tuple[PlotBar, ...] = ()
    lines: tuple[PlotLine, ...] = ()
    dots: tuple[PlotDot, ...] = ()
    grid: tuple[PlotMark, ...] = ()
    ticks: tuple[PlotMark, ...] = ()
    width: int = WIDTH
    height: int = HEIGHT
    left: int = MARGIN_LEFT
    unit: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to see."""
        return not any(any(row) for row in self.values)


def bar_plot(title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], unit: str = "") -> Plot:
    """Bars, the series stacked."""
    totals = [sum(values[place] for _, values in series) for place in range(len(labels))]
    top = _nice(max(totals, default=0))
    step = (WIDTH - MARGIN_LEFT) / max(1, len(labels))
    bars = []
    for place in range(len(labels)):
        base = 0.0
        for number, (_, values) in enumerate(series):
            if value := values[place]:
                height = max(1.0, _height(value, top))
                y = HEIGHT - MARGIN_BOTTOM - _height(base, top) - height
                bars.append(
                    PlotBar(
                        round(MARGIN_LEFT + place * step + step * 0.15, 1), round(y, 1), round(step * 0.7, 1), height, number
                    )
                )
                base += value
    names, rows = tuple(name for name, _ in series), tuple(tuple(values) for _, values in series)
    return Plot(
        title,
        _sentence(names, rows, unit),
        names,
        tuple(labels),
        rows,
        bars=tuple(bars),
        unit=unit,
        grid=_grid(top, unit),
        ticks=_ticks(labels, step, step / 2),
    )


def line_plot(title: str, labels: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]], unit: str = "") -> Plot:
    """Lines over points at equal distances, one for each series; they break off where there is no value."""
    top = _nice(max((value for _, values in series for value in values if value is not None), default=0))
    step = (WIDTH - MARGIN_LEFT) / max(1, len(labels) - 1)
    lines, dots = [], []
    for number, (_, values) in enumerate(series):
        run: list[str] = []
        for place, value in enumerate([*values, None]):
            if value is not None:
                x, y = round(MARGIN_LEFT + place * step, 1), round(HEIGHT - MARGIN_BOTTOM - _height(value, top), 1)
                run.append(f"{x},{y}")
                continue
            if len(run) == 1:
                dots.append(PlotDot(x, y, number))
            elif run:
                lines.append(PlotLine(" ".join(run), number))
            run = []
    names, rows = tuple(name for name, _ in series), tuple(tuple(values) for _, values in series)
    return Plot(
        title=title,
        sentence=_sentence(names, rows, unit),
        series=names,
        labels=tuple(labels),
        values=rows,
        is_line=True,
        lines=tuple(lines),
        dots=tuple(dots),
        unit=unit,
        grid=_grid(top, unit),
        ticks=_ticks(labels, step, 0.0),
    )


def number_text(value: float | None) -> str:
    """A number as it stands in a plot and its table; a dash for none."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}"


def _height(value: float, top: float) -> float:
    return round(value / top * (HEIGHT - MARGIN_BOTTOM - MARGIN_TOP), 1)


def _nice(largest: float) -> float:
    """The least of 1, 2, 5, 10, 20, 50 … that is not below."""
    top = 1.0
    while top < largest:
        top *= 2.5 if str(top).startswith("2") else 2
    return top


def _grid(top: float, unit: str) -> tuple[PlotMark, ...]:
    shares = (0.0, 0.5, 1.0)
    return tuple(
        PlotMark(MARGIN_LEFT, round(HEIGHT - MARGIN_BOTTOM - _height(top * share, top), 1), f"{number_text(top * share)}{unit}")
        for share in shares
    )


def _ticks(labels: Sequence[str], step: float, shift: float) -> tuple[PlotMark, ...]:
    """The first label, the middle one and the last."""
    if not labels:
        return ()
    places = sorted({0, len(labels) // 2, len(labels) - 1})
    return tuple(PlotMark(round(MARGIN_LEFT + place * step + shift, 1), HEIGHT - 6, labels[place]) for place in places)


def _sentence(names: Sequence[str], rows: Sequence[Sequence[float | None]], unit: str) -> str:
    parts = []
    for name, values in zip(names, rows, strict=True):
        numbers = [value for value in values if value is not None]
        if numbers:
            parts.append(f"{name}: at most {number_text(max(numbers))}{unit}, lately {number_text(numbers[-1])}{unit}")
    return "; ".join(parts)
