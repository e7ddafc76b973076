"""The plots of a report, from the numbers of report.json."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from lightning_rl.report.run_folders import LEVEL_SETS
from lightning_rl.report.svg import Bar, Series, interval_plot, line_plot

LEVEL_NAMES = {"train_levels": "training levels", "full_distribution": "all levels"}
AGGREGATE_NAMES = {
    "iqm": "Interquartile mean",
    "mean": "Mean",
    "median": "Median",
    "optimality_gap": "Optimality gap (less is better)",
}

_AXES = ("env_steps", "hours")

Groups = Sequence[Mapping[str, Any]]


class Figure(NamedTuple):
    """A plot.

    Attributes:
        name: of its file, without the suffix.
        svg: on the page.
        alt: what it shows, in words.
        picture: in a file of its own, with a legend where the page has one beside it.
    """

    name: str
    svg: Markup
    alt: str
    picture: Markup


class Figures(NamedTuple):
    """All plots of a report.

    Attributes:
        aggregates: one per level set and aggregate.
        profiles: one per level set.
        improvements: one, or none without pairs.
        curves: one per game and mode, by axis (`env_steps` or `hours`) and level set.
    """

    aggregates: list[Figure]
    profiles: list[Figure]
    improvements: list[Figure]
    curves: dict[tuple[str, str], list[Figure]]

    def all(self) -> list[Figure]:
        """In the page's order."""
        return [*self.aggregates, *self.profiles, *self.improvements, *itertools.chain(*self.curves.values())]


def figures(report: Mapping[str, Any]) -> Figures:
    """Draws the plots of a report."""
    groups = report["groups"]
    return Figures(
        _aggregates(groups),
        _profiles(groups),
        _improvements(report),
        {(axis, level_set): _all_curves(groups, axis, level_set) for axis in _AXES for level_set in LEVEL_SETS},
    )


def _aggregates(groups: Groups) -> list[Figure]:
    """One plot per level set and aggregate: every group with its interval."""
    return [
        figure
        for level_set in LEVEL_SETS
        for name in AGGREGATE_NAMES
        if (figure := _aggregate(groups, level_set, name)) is not None
    ]


def _aggregate(groups: Groups, level_set: str, name: str) -> Figure | None:
    bars = []
    for style, group in enumerate(groups):
        values = group[level_set] or {}
        if values.get(name) is not None:
            label = f"{group['name']} *" if group["marked"] else group["name"]
            bars.append(Bar(style, label, values[name], values[f"{name}_ci95"]))
    title = f"{AGGREGATE_NAMES[name]}, {LEVEL_NAMES[level_set]}"
    return _intervals(file_name(name, level_set), bars, title, "normalized return") if bars else None


def _improvements(report: Mapping[str, Any]) -> list[Figure]:
    """The probability of improvement of each pair of groups."""
    bars = [
        Bar(number, " > ".join(pair["groups"]), pair["probability_of_improvement"], pair["ci95"])
        for number, pair in enumerate(report["comparisons"])
    ]
    title = "Probability of improvement, all levels"
    return [_intervals("improvement", bars, title, "probability", zero=0.5)] if bars else []


def _intervals(name: str, bars: Sequence[Bar], title: str, x_label: str, zero: float | None = None) -> Figure:
    said = "; ".join(f"{bar.label} {bar.value:.3f}{_spoken(bar.interval)}" for bar in bars)
    alt = f"{title}: {said}"
    svg = interval_plot(bars, title=title, x_label=x_label, alt=alt, zero=zero)
    return Figure(name, svg, alt, picture=svg)


def _spoken(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def _profiles(groups: Groups) -> list[Figure]:
    """One plot per level set: the share of runs above each score."""
    return [figure for level_set in LEVEL_SETS if (figure := _profile(groups, level_set)) is not None]


def _profile(groups: Groups, level_set: str) -> Figure | None:
    series, said = [], []
    for style, group in enumerate(groups):
        profile = group["profile"][level_set]
        if profile is not None:
            low, high = profile["ci95"] or ((), ())
            series.append(Series(style, profile["thresholds"], profile["share_above"], low, high))
            said.append(f"{group['name']} {_share_at_half(profile):.2f}")
    title = f"Performance profile, {LEVEL_NAMES[level_set]}"
    alt = f"{title}: share of runs above each normalized return; above 0.5: {'; '.join(said)}"
    x_label = "normalized return τ: share of runs above τ"
    name = file_name("profile", level_set)
    return _lines(name, groups, series, title=title, x_label=x_label, alt=alt, y_range=(0, 1.02)) if series else None


def _lines(name: str, groups: Groups, series: Sequence[Series], **options: Any) -> Figure:
    drawn = dict.fromkeys(one.style for one in series)
    legend = [(style, groups[style]["name"]) for style in drawn]
    svg, picture = line_plot(series, **options), line_plot(series, **options, legend=legend)
    return Figure(name, svg, options["alt"], picture)


def file_name(*parts: str) -> str:
    """Parts of a name, level sets and games among them, without what does not belong into a file's name."""
    return "-".join(re.sub(r"[^\w+-]+", "-", LEVEL_NAMES.get(part, part)).strip("-") for part in parts)


def _share_at_half(profile: Mapping[str, Any]) -> float:
    at_half = min(range(len(profile["thresholds"])), key=lambda k: abs(profile["thresholds"][k] - 0.5))
    return float(profile["share_above"][at_half])


def _all_curves(groups: Groups, axis: str, level_set: str) -> list[Figure]:
    """One plot per game and mode that has curves on this axis."""
    places = sorted({(game, group["distribution_mode"] or "") for group in groups for game in group["curves"]})
    return [figure for place in places if (figure := _curves(groups, axis, level_set, *place)) is not None]


def game_name(groups: Groups, game: str, mode: str | None) -> str:
    """The game, with its mode where a report has several."""
    several = len({group["distribution_mode"] for group in groups if group["distribution_mode"]}) > 1
    return f"{game} ({mode})" if several and mode else game


def _curves(groups: Groups, axis: str, level_set: str, game: str, mode: str) -> Figure | None:
    series: list[Series] = []
    said = []
    there = [(style, group) for style, group in enumerate(groups) if (group["distribution_mode"] or "") == mode]
    for style, group in there:
        curve = group["curves"].get(game, {}).get(axis, {}).get(level_set)
        if curve is not None:
            series += _series(style, curve, published=group["baseline"])
            lacking = f", without {curve['lacking']} of its runs" if curve.get("lacking") else ""
            said.append(f"{group['name']} ends at {_end(curve)}{lacking}")
    if not series or all(group["baseline"] for _, group in there if game in group["curves"]):
        return None
    what = "return in training" if level_set == "train_levels" else "return on all levels"
    x_label = "env steps" if axis == "env_steps" else "wall-clock hours"
    title = f"{game_name(groups, game, mode)}: {what}"
    alt = f"{title} against {x_label}: {'; '.join(said)}"
    name = file_name("curves", axis, level_set, game_name(groups, game, mode))
    return _lines(name, groups, series, title=title, x_label=x_label, alt=alt)


def _series(style: int, curve: Mapping[str, Any], *, published: bool) -> Iterator[Series]:
    if "runs" in curve:
        yield from (Series(style, run["x"], run["y"]) for run in curve["runs"])
    else:
        low, high = curve["ci95"]
        yield Series(style, curve["x"], curve["mean"], low, high, marked=published)


def _end(curve: Mapping[str, Any]) -> str:
    if "runs" in curve:
        return " and ".join(f"{run['y'][-1]:.2f}" for run in curve["runs"])
    return f"{curve['mean'][-1]:.2f} ({curve['ci95'][0][-1]:.2f} to {curve['ci95'][1][-1]:.2f})"
