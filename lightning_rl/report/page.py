"""Draws report.json as one page that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lightning_rl.report.figures import LEVEL_NAMES, Figure, Figures, game_name
from lightning_rl.report.run_folders import LEVEL_SETS
from lightning_rl.report.svg import key

GENERATOR = "lightning_rl report"
"""By which an earlier report is known."""

_FOLDER = Path(__file__).parent
_CURVES = (
    (
        "training-curves",
        "env_steps",
        "train_levels",
        "Learning curves by env steps: training",
        "Mean return of the last 100 training episodes.",
    ),
    (
        "validation-curves",
        "env_steps",
        "full_distribution",
        "Learning curves by env steps: all levels",
        "Mean return of the validations on all levels.",
    ),
    (
        "hours-curves",
        "hours",
        "train_levels",
        "Learning curves by wall-clock time: training",
        "Validating and saving included. Mean return of the last 100 training episodes.",
    ),
    (
        "hours-validation-curves",
        "hours",
        "full_distribution",
        "Learning curves by wall-clock time: all levels",
        "Validating and saving included. Mean return of the validations on all levels.",
    ),
)
_OVER_SEEDS = (
    " Lines are means over seeds, bands Student's intervals; fewer than three seeds have one line each."
    " OpenAI's points are marked."
)
_WITHOUT_TIMES = (
    " A run whose metrics.csv does not tell its time throughout, as an older one of SimPLe, is not among these: {}."
)


def page(report: Mapping[str, Any], figures: Figures) -> str:
    """The page of a report.

    Args:
        report: what report.json holds. Its texts are escaped here.
        figures: its plots.
    """
    groups = list(enumerate(report["groups"]))
    curves = _curves(report["groups"], figures)
    aggregates = {
        name: [(number, group) for number, group in groups if (group[name] or {}).get("iqm") is not None]
        for name in LEVEL_SETS
    }
    gaps = [pair for pair in groups if pair[1]["generalization_gap"] is not None]
    examples = [(*pair, run, example) for pair in groups for run in pair[1]["runs"] for example in run["examples"]]
    return (
        _environment()
        .get_template("page.html")
        .render(
            **{name: report[name] for name in ("comparisons", "left_out", "resamples", "coverage_too_low")},
            aggregates=aggregates,
            css=Markup(plot_style() + (_FOLDER / "page.css").read_text(encoding="utf-8")),
            curves=curves,
            examples=examples,
            figures=figures,
            gaps=gaps,
            generator=GENERATOR,
            groups=groups,
            kept=[
                (number, group, game_name(report["groups"], game, group["distribution_mode"]), values)
                for number, group in groups
                for game, values in group["teacher_return_kept"].items()
            ],
            key=key,
            level_names=LEVEL_NAMES,
            per_game=_per_game(report["groups"]),
            script=Markup((_FOLDER / "page.js").read_text(encoding="utf-8")),
            sections=_sections(report, curves, gaps, examples, figures),
            summary=_summary(report["groups"]),
            title="Results by method and setting",
            version=report["lightning_rl_version"],
            with_curves=[(number, group) for number, group in groups if _has_curves(group)],
        )
    )


def plot_style() -> str:
    """The style sheet of plots."""
    return (_FOLDER / "plots.css").read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["fixed"] = _fixed
    environment.filters["steps"] = lambda count: f"{count:,}".replace(",", " ")
    return environment


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def _curves(groups: Sequence[Mapping[str, Any]], figures: Figures) -> list[tuple[str, str, str, list[Figure]]]:
    found = []
    for name, axis, level_set, label, text in _CURVES:
        drawn = figures.curves[axis, level_set]
        lacking = [group["name"] for group in groups if axis == "hours" and group["runs"] and group["hours"] is None]
        if drawn:
            without = _WITHOUT_TIMES.format("; ".join(lacking)) if lacking else ""
            found.append((name, label, text + _OVER_SEEDS + without, drawn))
    return found


def _has_curves(group: Mapping[str, Any]) -> bool:
    return any(curve for axes in group["curves"].values() for curve in axes.values())


def _per_game(groups: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, Mapping[str, Any], str, Mapping[str, Any]]]:
    """The rows of the table of returns: by game, level set and group."""
    games = sorted({(game, group["distribution_mode"] or "") for group in groups for game in group["games"]})
    return [
        (game_name(groups, game, mode), number, group, level_set, group["per_game"][game][level_set])
        for game, mode in games
        for level_set in LEVEL_SETS
        for number, group in enumerate(groups)
        if (group["distribution_mode"] or "") == mode and group["per_game"].get(game, {}).get(level_set) is not None
    ]


def _summary(groups: Sequence[Mapping[str, Any]]) -> str:
    runs = sum(len(group["runs"]) for group in groups)
    own = sum(not group["baseline"] for group in groups)
    games = {game for group in groups for game in group["games"]}
    return f"{_counted(runs, 'run')} in {_counted(own, 'group')}, {_counted(len(games), 'game')}."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _sections(
    report: Mapping[str, Any],
    curves: Sequence[tuple[Any, ...]],
    gaps: Sequence[Any],
    examples: Sequence[Any],
    figures: Figures,
) -> list[tuple[str, str]]:
    """What the page holds, for its navigation."""
    found = [("notes", "What is compared"), ("aggregates", "All games together")]
    found += [("profiles", "Performance profiles")] if figures.profiles else []
    found += [("improvement", "Probability of improvement")] if report["comparisons"] else []
    found += [("gap", "Generalization gap")] if gaps else []
    students = any(group["teacher_return_kept"] for group in report["groups"])
    found += [
        ("games", "Game by game"),
        *([("kept", "Students and teachers")] if students else []),
        *((name, label) for name, label, *_ in curves),
    ]
    found += [("repeat", "Settings, commands and cost")]
    found += [("episodes", "Episodes to watch")] if examples else []
    return [*found, ("sources", "Sources and what was left out")]
