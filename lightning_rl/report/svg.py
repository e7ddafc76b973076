"""Plots as SVG: lines with bands, and intervals. Colors come from a style sheet, so that dark mode changes them."""

import math
import re
import textwrap
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from markupsafe import Markup, escape

STYLES = 10
"""Series styles of the page; further series take them again."""

Number = float | int
"""Coordinates: a whole one is as good."""

_LINE = 12  # pixels from one line of a text to the next
_LEGEND_ROW = 16
_MARKS = ("circle", "square", "diamond", "triangle")


class Series(NamedTuple):
    """One line of a plot.

    Attributes:
        style: number of its color, dashes and marks.
        x: coordinates.
        y: as many.
        low: lower end of the band; empty without one.
        high: its upper end.
        marked: draw a mark at each point.
    """

    style: int
    x: Sequence[Number]
    y: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    marked: bool = False


class Bar(NamedTuple):
    """One row of an interval plot.

    Attributes:
        style: number of its color and mark.
        label: at its left.
        value: the mark's place.
        interval: the line's ends, or None.
    """

    style: int
    label: str
    value: Number
    interval: Sequence[Number] | None


class _Frame(NamedTuple):
    """Where data lies in a drawing: its box in pixels, and the values at the box's edges."""

    left: Number
    top: Number
    right: Number
    bottom: Number
    x: tuple[Number, Number]
    y: tuple[Number, Number]

    def px(self, value: Number) -> float:
        share = (value - self.x[0]) / (self.x[1] - self.x[0])
        return round(self.left + share * (self.right - self.left), 1)

    def py(self, value: Number) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return round(self.bottom - share * (self.bottom - self.top), 1)


def element(name: str, *children: str, **attributes: object) -> Markup:
    """An XML element; texts and attributes are escaped, underscores in attributes' names become hyphens."""
    written = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.strip("_").replace("_", "-")), value) for key, value in attributes.items()
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, Markup("").join(map(escape, children)))


def line_plot(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    alt: str,
    y_range: tuple[Number, Number] | None = None,
    legend: Sequence[tuple[int, str]] = (),
) -> Markup:
    """Lines, each with its band.

    Args:
        series: at least one of them with a point.
        title: above the plot.
        x_label: below the plot.
        alt: what the plot shows, in words.
        y_range: values at the lower and upper edge; by default what the series need.
        legend: styles and their names, below the plot; none where the page has one.
    """
    width, height = 360, 240
    xs = [x for one in series for x in one.x]
    ys = [y for one in series for y in (*one.y, *one.low, *one.high)]
    frame = _Frame(46, 26, width - 18, height - 40, _widened(min(0.0, *xs), max(xs)), y_range or _padded(ys))
    drawn = [_axes(frame, x_label, ticks_y=True)]
    drawn += [_band(frame, one) for one in series if one.low]
    drawn += [_curve(frame, one) for one in series]
    entries = [(style, _wrapped(name, 46)) for style, name in legend]
    tops = list(accumulate((_LEGEND_ROW + _LINE * (len(lines) - 1) for _, lines in entries), initial=height))
    drawn += [_named(frame.left, top + 6, *entry) for top, entry in zip(tops, entries, strict=False)]
    return _drawing(width, tops[-1], title, alt, drawn)


def interval_plot(bars: Sequence[Bar], *, title: str, x_label: str, alt: str, zero: Number | None = None) -> Markup:
    """Marks with intervals, one below the other.

    Args:
        bars: at least one.
        title: above the plot.
        x_label: below the plot.
        alt: what the plot shows, in words.
        zero: value of a dashed line, such as that of no difference.
    """
    labels = [_wrapped(bar.label, 36) for bar in bars]
    left = 16 + 6.4 * max(len(line) for lines in labels for line in lines)
    tops = list(accumulate((22 + _LINE * (len(lines) - 1) for lines in labels), initial=0))
    width, height = 460, 66 + tops[-1]
    values = [value for bar in bars for value in (bar.value, *(bar.interval or ()))] + ([] if zero is None else [zero])
    frame = _Frame(left, 26, width - 14, height - 40, _padded(values), (tops[-1], 0))
    drawn = [_axes(frame, x_label, ticks_y=False)]
    if zero is not None:
        drawn.append(_line(frame.px(zero), frame.top, frame.px(zero), frame.bottom, "zero"))
    places = [(top + bottom) / 2 for top, bottom in pairwise(tops)]
    drawn += [_row(frame, *row) for row in zip(places, bars, labels, strict=True)]
    return _drawing(width, height, title, alt, drawn)


def key(style: int) -> Markup:
    """A short line in a series' color, dashes and mark, for a legend."""
    return element(
        "svg", *_key(0, 6, style), viewBox="0 0 28 12", width=28, height=12, aria_hidden="true", class_="key"
    )


def standalone(drawing: Markup, css: str, *, sign: str) -> str:
    """A plot as a file of its own, with its style sheet.

    Args:
        drawing: the plot.
        css: its style sheet.
        sign: a comment at the beginning, by which the file is known.
    """
    head, _, rest = str(drawing).partition(">")
    return f'{sign}\n{head} xmlns="http://www.w3.org/2000/svg">\n<style>\n{css}</style>\n{rest}\n'


def ticks(low: Number, high: Number, count: int = 5) -> list[Number]:
    """About so many round numbers from low to high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def short(value: Number) -> str:
    """A number for an axis: 500 k, 2.5 M, 0.25."""
    for size, unit in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _key(x: Number, y: Number, style: int) -> list[Markup]:
    return [_line(x, y, x + 28, y, f"line s{style % STYLES}"), _mark(x + 14, y, style)]


def _named(x: Number, y: Number, style: int, name: Sequence[str]) -> Markup:
    """A row of a legend, its first line at y."""
    return element("g", *_key(x, y, style), *_label(x + 34, y + _LINE * (len(name) - 1) / 2, name, "start"))


def _label(x: Number, y: Number, lines: Sequence[str], anchor: str) -> list[Markup]:
    """Lines of text, their middle at y."""
    first = y + 4 - _LINE * (len(lines) - 1) / 2
    return [_text(x, first + _LINE * number, line, "tick", anchor) for number, line in enumerate(lines)]


def _wrapped(text: str, most: int) -> list[str]:
    """A label's lines, an option and its value on one. Names of groups differ at their ends: few are cut."""
    kept = re.sub(r"(?<=[^,>]) (?!>)", "\N{NO-BREAK SPACE}", text)
    lines = textwrap.wrap(kept, most, max_lines=6, placeholder="…")
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines] or [""]


def _widened(low: Number, high: Number) -> tuple[Number, Number]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _padded(values: Sequence[Number]) -> tuple[Number, Number]:
    low, high = _widened(min(values), max(values))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _drawing(width: Number, height: Number, title: str, alt: str, drawn: Sequence[str]) -> Markup:
    heading = _text(width / 2, 15, title, "title", "middle")
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    return element("svg", heading, *drawn, **size, role="img", aria_label=alt)


def _axes(frame: _Frame, x_label: str, *, ticks_y: bool) -> Markup:
    drawn = []
    for value in ticks(*frame.x):
        drawn.append(_line(frame.px(value), frame.top, frame.px(value), frame.bottom, "grid"))
        drawn.append(_text(frame.px(value), frame.bottom + 14, short(value), "tick", "middle"))
    for value in ticks(*frame.y) if ticks_y else ():
        drawn.append(_line(frame.left, frame.py(value), frame.right, frame.py(value), "grid"))
        drawn.append(_text(frame.left - 5, frame.py(value) + 4, short(value), "tick", "end"))
    drawn.append(_text((frame.left + frame.right) / 2, frame.bottom + 31, x_label, "label", "middle"))
    return element("g", *drawn)


def _row(frame: _Frame, place: Number, bar: Bar, label: Sequence[str]) -> Markup:
    y = frame.py(place)
    drawn = [*_label(frame.left - 8, y, label, "end"), _mark(frame.px(bar.value), y, bar.style)]
    if bar.interval is not None:
        low, high = map(frame.px, bar.interval)
        drawn.insert(-1, _line(low, y, high, y, f"line solid s{bar.style % STYLES}"))
    return element("g", *drawn)


def _band(frame: _Frame, series: Series) -> Markup:
    there = list(zip(series.x, series.high, strict=True))
    back = list(zip(series.x, series.low, strict=True))[::-1]
    points = " ".join(f"{frame.px(x)},{frame.py(y)}" for x, y in (*there, *back))
    return element("polygon", points=points, class_=f"band f{series.style % STYLES}")


def _curve(frame: _Frame, series: Series) -> Markup:
    points = [(frame.px(x), frame.py(y)) for x, y in zip(series.x, series.y, strict=True)]
    path = " ".join(f"{x},{y}" for x, y in points)
    drawn = [element("polyline", points=path, class_=f"line s{series.style % STYLES}")]
    if series.marked or len(points) == 1:
        drawn += [_mark(x, y, series.style) for x, y in points]
    return element("g", *drawn)


def _mark(x: Number, y: Number, style: int) -> Markup:
    css = f"mark f{style % STYLES}"
    shape = _MARKS[style % len(_MARKS)]
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=3.5, class_=css)
    corners = {
        "square": ((-3, -3), (3, -3), (3, 3), (-3, 3)),
        "diamond": ((0, -4.5), (4.5, 0), (0, 4.5), (-4.5, 0)),
        "triangle": ((0, -4), (4, 3.5), (-4, 3.5)),
    }[shape]
    return element("polygon", points=" ".join(f"{x + dx:g},{y + dy:g}" for dx, dy in corners), class_=css)


def _line(x1: Number, y1: Number, x2: Number, y2: Number, css: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=css)


def _text(x: Number, y: Number, text: str, css: str, anchor: str) -> Markup:
    return element("text", text, x=round(x, 1), y=round(y, 1), class_=css, text_anchor=anchor)
