"""Geometry of small charts, which a template renders as SVG with a summary and a table."""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 300, 64
_GAP = 1.0
_HEIGHT_MIN = 1.5
"""Keeps the smallest value visible."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The bar of one minute."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Bars, bars stacked on them, and lines as SVG paths; `top` is the axis maximum."""

    top: float
    bars: Sequence[Bar] = ()
    stacked: Sequence[Bar] = ()
    lines: Sequence[str] = ()
    width: int = WIDTH
    height: int = HEIGHT


def build_bars(values: Sequence[float], stacked: Sequence[float] = ()) -> Chart:
    """Build a bar for each value, with the values of `stacked` on top of them."""
    totals = [
        value + more for value, more in zip(values, stacked or [0.0] * len(values), strict=True)
    ]
    top = round_up_axis(max(totals, default=0))
    lower = [
        _build_bar(number, len(values), 0, value, top)
        for number, value in enumerate(values)
        if value
    ]
    upper = [
        _build_bar(number, len(values), values[number], more, top)
        for number, more in enumerate(stacked)
        if more
    ]
    return Chart(top=top, bars=lower, stacked=upper)


def build_lines(*series: Sequence[float | None]) -> Chart:
    """Build a line for each series, broken at None; an isolated value is a short stroke."""
    top = round_up_axis(
        max((value for values in series for value in values if value is not None), default=0)
    )
    return Chart(top=top, lines=[_build_path(values, top) for values in series])


def round_up_axis(value: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    step = 1.0
    while value > step * 10:
        step *= 10
    while value and value <= step / 2 and step > 0.01:  # noqa: PLR2004 - 10 ms is precise enough
        step /= 10
    return next(step * factor for factor in (1, 2, 5, 10) if value <= step * factor)


def _build_bar(number: int, count: int, base: float, value: float, top: float) -> Bar:
    slot = WIDTH / count
    height = max(_HEIGHT_MIN, HEIGHT * value / top)
    bottom = HEIGHT - HEIGHT * base / top
    return Bar(
        round(number * slot + _GAP / 2, 2),
        round(bottom - height, 2),
        round(slot - _GAP, 2),
        round(height, 2),
    )


def _build_path(values: Sequence[float | None], top: float) -> str:
    slot, commands, drawing = WIDTH / max(1, len(values)), [], False
    for number, value in enumerate(values):
        if value is None:
            drawing = False
            continue
        x, y = round((number + 0.5) * slot, 1), round(HEIGHT - (HEIGHT - 2) * value / top - 1, 1)
        isolated = not drawing and (number + 1 == len(values) or values[number + 1] is None)
        commands.append(f"M{x - 1.5} {y}h3" if isolated else f"{'L' if drawing else 'M'}{x} {y}")
        drawing = True
    return "".join(commands)
