"""The episodes of a run's test that are worth a look, which `predict --replay` plays again."""

import math
from pathlib import Path
from typing import NamedTuple


class Example(NamedTuple):
    """The worst, the median and the best episode on one level set of one game.

    Attributes:
        game: its name.
        level_set: name of the levels.
        returns: of the three episodes.
        rows: of the three episodes in episodes.npz.
    """

    game: str
    level_set: str
    returns: tuple[float, float, float]
    rows: tuple[int, int, int]


def examples(path: Path, level_sets: tuple[str, ...]) -> list[Example]:
    """Those of each game and level set.

    Of equal returns the episode that was played first counts as the lower one.

    Args:
        path: the file of episodes, which may come from a stranger.
        level_sets: names of the levels that matter, in order.

    Raises:
        ValueError: the file is damaged or another kind of file, or has returns that are no numbers; says which.
    """
    from lightning_rl.runs.episodes_file import read_rows  # loads torch

    played: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for row in read_rows(path):
        if not math.isfinite(row.episode_return):
            raise ValueError(f"{path} has a return that is no number, in row {row.number}")
        if row.level_set in level_sets:
            played.setdefault((row.game, row.level_set), []).append((row.episode_return, row.number))
    found = []
    for (game, level_set), episodes in sorted(played.items(), key=lambda item: level_sets.index(item[0][1])):
        episodes.sort()
        (worst, first), (median, middle), (best, last) = episodes[0], episodes[(len(episodes) - 1) // 2], episodes[-1]
        found.append(Example(game, level_set, (worst, median, best), (first, middle, last)))
    return found
