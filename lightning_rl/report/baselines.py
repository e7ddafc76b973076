"""Published and measured figures that a report shows beside its runs: OpenAI's PPO, run by run, and random play."""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

from lightning_rl.report.groups import Group, Score
from lightning_rl.report.run_folders import Task
from lightning_rl.report.settings import options

OPENAI = "OpenAI PPO"
RANDOM = "random"
SOURCES = {
    OPENAI: "openai/train-procgen, the three published runs of each game: mean return of the last 100 training episodes"
    " at the nearest update (training levels), and of as many episodes on all levels",
    RANDOM: "uniformly random actions on all levels, measured with this package's evaluation:"
    " python -m tests.benchmarks.random_play",
}
_LEVEL_SETS = {"train": "train_levels", "test": "full_distribution"}
_FOLDER = Path(__file__).with_name("data")
_NUM_LEVELS = {"easy": 200, "hard": 500}
_PLAYED = {"use_sequential_levels": False}
"""Options that change what an episode pays; with other values than the published ones no figure applies."""
_SEEN = {
    "center_agent": True,
    "paint_vel_info": False,
    "restrict_themes": False,
    "use_backgrounds": True,
    "use_generated_assets": False,
    "use_monochrome_assets": False,
}
"""Options that change what an agent sees, which makes another task of it."""

Points = dict[int, float]
"""Return by env steps."""


@cache
def openai_runs() -> dict[tuple[str, str, str, int], Points]:
    """Every published run's points, by mode, game, level set and run."""
    found: dict[tuple[str, str, str, int], Points] = {}
    with (_FOLDER / "procgen_official_ppo_runs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = (row["mode"], row["game"], _LEVEL_SETS[row["split"]], int(row["run"]))
            found.setdefault(key, {})[int(row["env_steps"])] = float(row["return_mean"])
    return found


def baselines(groups: Sequence[Group]) -> list[Group]:
    """The groups of figures that these groups can be compared with.

    Args:
        groups: of run folders.
    """
    published: dict[tuple[str, int], list[Task]] = {}
    played: dict[str, list[Task]] = {}
    for group in groups:
        for task in group.scores:
            if task.suite != "procgen" or task.mode not in _NUM_LEVELS or not _as_published(group, _PLAYED):
                continue
            played.setdefault(task.mode, []).append(task)
            same_levels = group.levels is not None and group.levels[0] == _NUM_LEVELS[task.mode]
            if same_levels and _as_published(group, _SEEN):
                published.setdefault((task.mode, group.env_steps), []).append(task)
    openai = [_openai(sorted(set(tasks)), steps) for (_, steps), tasks in _without_near(published).items()]
    measured = [_random(sorted(set(tasks))) for tasks in played.values()]
    return [named for kind in (openai, measured) for named in _named([group for group in kind if group.scores])]


def _as_published(group: Group, values: Mapping[str, bool]) -> bool:
    given = [options(run.config["data"]) for run in group.runs]
    return all(own.get(name, value) == value for own in given for name, value in values.items())


def _without_near(published: dict[tuple[str, int], list[Task]]) -> dict[tuple[str, int], list[Task]]:
    """Budgets within 5 % of each other as one, the smaller: those groups are compared."""
    merged: dict[tuple[str, int], list[Task]] = {}
    for (mode, steps), tasks in sorted(published.items()):
        near = [key for key in merged if key[0] == mode and steps <= 1.05 * key[1]]
        merged.setdefault(near[0] if near else (mode, steps), []).extend(tasks)
    return merged


def _named(groups: Sequence[Group]) -> list[Group]:
    """Names that tell them apart where a report has several of one kind."""
    if len(groups) < 2:
        return list(groups)
    apart = []
    for group in groups:
        mode = next(iter(group.scores)).mode
        same_mode = [other for other in groups if next(iter(other.scores)).mode == mode]
        steps = f", {group.env_steps} env steps" if len(same_mode) > 1 else ""
        apart.append(_renamed(group, f"{group.name}, {mode}{steps}"))
    return apart


def _renamed(group: Group, name: str) -> Group:
    return Group(
        name=name,
        method=group.method,
        scores=group.scores,
        env_steps=group.env_steps,
        source=group.source,
        levels=group.levels,
    )


def _openai(tasks: Sequence[Task], env_steps: int) -> Group:
    scores: dict[Task, list[Score]] = {}
    for task in tasks:
        for run in range(3):
            points = {
                name: openai_runs().get((str(task.mode), task.game, name, run), {}) for name in _LEVEL_SETS.values()
            }
            returns = {name: between(own, env_steps) for name, own in points.items()}
            known = {name: value for name, value in returns.items() if value is not None}
            if known:
                scores.setdefault(task, []).append(Score(seed=run, env_steps=env_steps, returns=known))
    levels = (_NUM_LEVELS[str(tasks[0].mode)], 0)
    source = f"{SOURCES[OPENAI]}; between two published points on the line through them"
    return Group(name=OPENAI, method="ppo", scores=scores, env_steps=env_steps, source=source, levels=levels)


def between(points: Points, env_steps: int) -> float | None:
    """The value at some env steps, on the line between the points around; None outside all points.

    Up to 5 % outside counts as the outermost point, as runs end at the first boundary past their budget.
    """
    steps = sorted(points)
    if not steps or not steps[0] / 1.05 <= env_steps <= steps[-1] * 1.05:
        return None
    inside = min(max(env_steps, steps[0]), steps[-1])
    for low, high in pairwise(steps):
        if low <= inside <= high:
            share = (inside - low) / (high - low)
            return points[low] * (1 - share) + points[high] * share
    return points[steps[0]]


def _random(tasks: Sequence[Task]) -> Group:
    played = random_play()
    scores = {
        task: [
            Score(seed=run, env_steps=0, returns={"full_distribution": float(row["return_mean"])}, tested=_tested(row))
            for run, row in enumerate(played.get((str(task.mode), task.game), ()))
        ]
        for task in tasks
    }
    measured = {task: found for task, found in scores.items() if found}
    episodes = {row["episodes"] for rows in played.values() for row in rows}
    source = f"{SOURCES[RANDOM]}; each run is the mean of {' or '.join(sorted(episodes))} episodes"
    return Group(name=RANDOM, method=RANDOM, scores=measured, env_steps=0, source=source)


def _tested(row: dict[str, str]) -> dict[str, dict[str, float]]:
    keys = ("return_mean", "return_variance", "return_max", "return_min", "episodes")
    return {"full_distribution": {key: float(row[key]) for key in keys}}


@cache
def random_play() -> dict[tuple[str, str], list[dict[str, str]]]:
    """The measured rows of random play, by mode and game."""
    found: dict[tuple[str, str], list[dict[str, str]]] = {}
    with (_FOLDER / "procgen_random_play.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["distribution_mode"], row["game"]), []).append(row)
    return found
