"""Groups runs by method and setting, and decides by which measurement each run counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_rl.report.run_folders import LEVEL_SETS, LeftOut, Run, Task, shown
from lightning_rl.report.settings import Setting, group_names

_SAME_STEPS = 1.05  # within 5 %, tests are compared


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one run returned in one task.

    Attributes:
        seed: of the run.
        env_steps: where it was measured.
        returns: mean return by level set.
        tested: test.json's values by level set; none of a validation.
        folder: the run folder; None for published figures.
    """

    seed: int
    env_steps: int
    returns: Mapping[str, float]
    tested: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of one method and setting.

    Attributes:
        name: the method, and what sets the group apart.
        method: the method.
        setting: options by name.
        scores: each run's, by task.
        env_steps: at which they count.
        source: what was measured, in words.
        runs: the run folders; none of a baseline.
        levels: number of training levels and the first.
    """

    name: str
    method: str
    setting: Setting = field(default_factory=dict)
    scores: Mapping[Task, Sequence[Score]]
    env_steps: int
    source: str
    runs: Sequence[Run] = ()
    levels: tuple[int, int] | None = None

    def fewest_runs(self) -> int:
        """Runs of the game that has fewest."""
        return min(map(len, self.scores.values()))


def grouped(runs: Sequence[Run]) -> tuple[list[Group], list[LeftOut]]:
    """The groups of these runs, and the runs that are left out.

    Args:
        runs: of any methods, settings, games and seeds.
    """
    members, left_out = _by_setting(runs)
    chosen: list[tuple[list[Run], dict[Task, list[Score]], int, str]] = []
    for together in _compared(members):
        own, more = _measured(together)
        chosen += own
        left_out += more
    methods = [_method(kept) for kept, *_ in chosen]
    names = group_names(methods, [kept[0].setting for kept, *_ in chosen])
    groups = [
        Group(
            name=name,
            method=method,
            setting=kept[0].setting,
            scores=scores,
            env_steps=env_steps,
            source=source,
            runs=kept,
            levels=kept[0].levels,
        )
        for name, method, (kept, scores, env_steps, source) in zip(names, methods, chosen, strict=True)
    ]
    return groups, left_out


def _method(runs: Sequence[Run]) -> str:
    """As test.json names it, where there is one."""
    return next((run.method for run in runs if run.tested is not None), runs[0].method)


def _by_setting(runs: Sequence[Run]) -> tuple[list[list[Run]], list[LeftOut]]:
    """Runs of the same setting; of one seed and game there is one run, since a second one tells nothing new."""
    members: dict[tuple[Any, ...], dict[tuple[Any, ...], Run]] = {}
    left_out = []
    for run in runs:
        group = members.setdefault(tuple(sorted(run.setting.items())), {})
        first = group.setdefault((run.tasks, run.seed), run)
        if first is not run:
            games = "+".join(task.game for task in run.tasks)
            why = f"seed {run.seed} of {games} counts already, in {shown(first.folder)}"
            left_out.append(LeftOut(shown(run.folder), why))
    return [list(group.values()) for group in members.values()], left_out


def _compared(members: Sequence[list[Run]]) -> list[list[list[Run]]]:
    """Groups that share tasks, directly or through others, together: their runs must count at equal env steps."""
    together: list[tuple[set[Task], list[list[Run]]]] = []
    for group in members:
        tasks = {task for run in group for task in run.tasks}
        apart = [other for other in together if not other[0] & tasks]
        joined = [other for other in together if other[0] & tasks]
        merged = (tasks.union(*(other[0] for other in joined)), [*(g for other in joined for g in other[1]), group])
        together = [*apart, merged]
    return [groups for _, groups in together]


def _measured(
    groups: Sequence[list[Run]],
) -> tuple[list[tuple[list[Run], dict[Task, list[Score]], int, str]], list[LeftOut]]:
    """Each group's runs, scores, env steps and source.

    A run counts by its test where all runs' env steps are within 5 %, else by its last validation at or before the
    fewest env steps.
    """
    steps = [run.env_steps for group in groups for run in group]
    budget = None if max(steps) <= _SAME_STEPS * min(steps) else min(steps)
    chosen, left_out = [], []
    for group in groups:
        scores: dict[Task, list[Score]] = {}
        kept = []
        for run in group:
            found = {task: _score(run, task, budget) for task in run.tasks}
            if None in found.values():
                why = f"has no validation/return at or before {budget} env steps, where all runs are compared"
                left_out.append(LeftOut(shown(run.folder), why))
                continue
            kept.append(run)
            for task, score in found.items():
                scores.setdefault(task, []).extend([score] if score else [])
        if kept:
            ordered = {task: sorted(scores[task], key=lambda score: score.seed) for task in sorted(scores)}
            chosen.append((kept, ordered, budget or min(run.env_steps for run in kept), _source(ordered, budget)))
    return chosen, left_out


def _score(run: Run, task: Task, budget: int | None) -> Score | None:
    if budget is None and run.tested is not None:
        tested = run.tested[task.game]
        returns = {name: float(values["return_mean"]) for name, values in tested.items()}
        return Score(seed=run.seed, env_steps=run.env_steps, returns=returns, tested=tested, folder=run.folder)
    found = run.validated(task, run.env_steps if budget is None else budget)
    return None if found is None else Score(seed=run.seed, env_steps=found[0], returns=found[1], folder=run.folder)


def _source(scores: Mapping[Task, Sequence[Score]], budget: int | None) -> str:
    if budget is not None:
        return f"validation rows at or before {budget} env steps, because runs differ by more than 5 %"
    tested = {bool(score.tested) for found in scores.values() for score in found}
    return {
        (True,): "test.json",
        (False,): "the last validation rows, because `test` was not run",
        (False, True): "test.json, or the last validation row where `test` was not run",
    }[tuple(sorted(tested))]


def common_level_sets(groups: Sequence[Group]) -> list[str]:
    """The level sets that at least one group has."""
    there = {name for group in groups for found in group.scores.values() for score in found for name in score.returns}
    return [name for name in LEVEL_SETS if name in there]
