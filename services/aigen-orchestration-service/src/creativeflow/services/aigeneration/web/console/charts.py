"""Small charts as places on a drawing; a template makes them SVG, with their words and a table
beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 300, 64
_GAP = 1.0
_LEAST = 1.5
"""What is there at all can be seen."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One minute's bar."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn: bars, bars on top of them, and lines; `top` is the value at the upper edge."""

    top: float
    bars: Sequence[Bar] = ()
    above: Sequence[Bar] = ()
    lines: Sequence[str] = ()
    width: int = WIDTH
    height: int = HEIGHT


def bars(values: Sequence[float], above: Sequence[float] = ()) -> Chart:
    """A bar for each value, and on top of it what stands in `above`."""
    stacked = [
        value + more for value, more in zip(values, above or [0.0] * len(values), strict=True)
    ]
    top = nice(max(stacked, default=0))
    below = [
        _bar(number, len(values), 0, value, top) for number, value in enumerate(values) if value
    ]
    upper = [
        _bar(number, len(values), values[number], more, top)
        for number, more in enumerate(above)
        if more
    ]
    return Chart(top=top, bars=below, above=upper)


def lines(*series: Sequence[float | None]) -> Chart:
    """A line for each series, broken where nothing is known; a lonely value is a short stroke."""
    top = nice(
        max((value for values in series for value in values if value is not None), default=0)
    )
    return Chart(top=top, lines=[_path(values, top) for values in series])


def nice(value: float) -> float:
    """The next round number: 1, 2 or 5 times a power of ten."""
    step = 1.0
    while value > step * 10:
        step *= 10
    while value and value <= step / 2 and step > 0.01:  # noqa: PLR2004 - a hundredth of a second is below sight
        step /= 10
    return next(step * factor for factor in (1, 2, 5, 10) if value <= step * factor)


def _bar(number: int, count: int, base: float, value: float, top: float) -> Bar:
    slot = WIDTH / count
    height = max(_LEAST, HEIGHT * value / top)
    foot = HEIGHT - HEIGHT * base / top
    return Bar(
        round(number * slot + _GAP / 2, 2),
        round(foot - height, 2),
        round(slot - _GAP, 2),
        round(height, 2),
    )


def _path(values: Sequence[float | None], top: float) -> str:
    slot, said, drawing = WIDTH / max(1, len(values)), [], False
    for number, value in enumerate(values):
        if value is None:
            drawing = False
            continue
        x, y = round((number + 0.5) * slot, 1), round(HEIGHT - (HEIGHT - 2) * value / top - 1, 1)
        alone = not drawing and (number + 1 == len(values) or values[number + 1] is None)
        said.append(f"M{x - 1.5} {y}h3" if alone else f"{'L' if drawing else 'M'}{x} {y}")
        drawing = True
    return "".join(said)
