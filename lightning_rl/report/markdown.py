"""The tables of a report that go into a README or a pull request, in GitHub's Markdown."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_rl.report.figures import LEVEL_NAMES, Figure, Groups, file_name, game_name

_MARK = " \\*"
_MARKED = "\\* Fewer than three seeds, so no interval over seeds.\n"
_NONE = "–"


def markdown(report: Mapping[str, Any], figures: Sequence[Figure], *, folder: str) -> str:
    """A table for each game, best first, with its learning curves, and one of the groups' comparisons.

    Args:
        report: what report.json holds. Its texts are escaped here.
        figures: its plots.
        folder: of the plots' files.
    """
    pictures = {figure.name: f"![{_plain(figure.alt)}]({folder}/{figure.name}.svg)" for figure in figures}
    groups = report["groups"]
    games = sorted({(game, group["distribution_mode"] or "") for group in groups for game in group["games"]})
    parts = [_game(groups, game, mode) + _curves(groups, game, mode, pictures) for game, mode in games]
    if report["comparisons"]:
        parts.append(_comparisons(report["comparisons"]))
    return "\n".join(parts)


def _game(groups: Groups, game: str, mode: str) -> str:
    own = [group for group in groups if game in group["games"] and (group["distribution_mode"] or "") == mode]
    own.sort(key=lambda group: _mean(group, game), reverse=True)
    level_sets = [name for name in LEVEL_NAMES if any(group["per_game"][game][name] is not None for group in own)]
    rows = [
        [
            _plain(group["name"]),
            str(len(group["seeds"][game])) + (_MARK if group["marked"] else ""),
            f"{group['env_steps']:,}".replace(",", " ") if group["env_steps"] else _NONE,
            *(_returns(group["per_game"][game][name]) for name in level_sets),
        ]
        for group in own
    ]
    table = _table(["group", "seeds", "env steps", *(LEVEL_NAMES[name] for name in level_sets)], rows)
    note = f"\n{_MARKED}" if any(group["marked"] for group in own) else ""
    return (
        f"## {_plain(game_name(groups, game, mode))}\n\n"
        f"Mean return over seeds and its 95 % interval, Student's over seeds.\n\n{table}{note}"
    )


def _curves(groups: Groups, game: str, mode: str, pictures: Mapping[str, str]) -> str:
    names = [file_name("curves", "env_steps", level_set, game_name(groups, game, mode)) for level_set in LEVEL_NAMES]
    shown = [pictures[name] for name in names if name in pictures]
    return f"\n{' '.join(shown)}\n" if shown else ""


def _mean(group: Mapping[str, Any], game: str) -> tuple[float, str]:
    """What a game's rows are ordered by: the return on all levels."""
    found = group["per_game"][game]
    values = found["full_distribution"] or found["train_levels"]
    return (-float("inf") if values is None else values["return_mean"], group["name"])


def _comparisons(pairs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            *map(_plain, pair["groups"]),
            str(len(pair["games"])),
            _interval(pair["probability_of_improvement"], pair["ci95"]),
            _NONE if pair["ci95_coverage"] is None else f"{100 * pair['ci95_coverage']:.1f} %",
        ]
        for pair in pairs
    ]
    heads = ["first", "second", "games", "probability", "held"]
    text = (
        "The probability that a run of the first returns more than one of the second, on all levels, with its 95 %"
        " bootstrap interval, and how often such an interval held 0.5 for two equal methods in a simulation."
    )
    return f"## Probability of improvement\n\n{text}\n\n{_table(heads, rows)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(line)} |\n" for line in (heads, *rows)]
    return "".join([lines[0], "|---" * len(heads) + "|\n", *lines[1:]])


def _returns(values: Mapping[str, Any] | None) -> str:
    return _NONE if values is None else _interval(values["return_mean"], values["ci95"])


def _interval(mean: float, ends: Sequence[float] | None) -> str:
    text = f"{mean:.2f}" if ends is None else f"{mean:.2f}, {ends[0]:.2f} to {ends[1]:.2f}"
    return text.replace("-", "−")


def _plain(text: str) -> str:
    """A name from folders and files, in which no sign is Markdown's or HTML's."""
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w))", r"\\\1", html.escape(" ".join(text.split()), quote=False))
