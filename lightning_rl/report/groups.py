"""Groups runs by method and setting, and decides by which measurement each run counts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_rl.report.run_folders import LeftOut, Run, Task, shown
from lightning_rl.report.settings import Setting, group_names, leads_to_a_run, path_forms

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
        checkpoint: name of the file that was tested; None of a validation.
    """

    seed: int
    env_steps: int
    returns: Mapping[str, float]
    tested: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    folder: Path | None = None
    checkpoint: str | None = None


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
    chosen: list[Measured] = []
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
    for run in _with_common_paths(runs):
        group = members.setdefault(tuple(sorted(run.setting.items())), {})
        first = group.setdefault((run.tasks, run.seed), run)
        if first is not run:
            games = "+".join(task.game for task in run.tasks)
            why = f"seed {run.seed} of {games} counts already, in {shown(first.folder)}"
            left_out.append(LeftOut(shown(run.folder), why))
    return [list(group.values()) for group in members.values()], left_out


def _with_common_paths(runs: Sequence[Run]) -> list[Run]:
    """The runs, with paths to other runs in the form that most runs of otherwise the same setting share.

    So one teacher for all seeds is one setting, a teacher for each game and seed is one, and two teachers are two.
    """
    forms = [_path_forms(run) for run in runs]
    others = [tuple(sorted(run.setting.items() - _paths(run).items())) for run in runs]
    shared = Counter(
        (other, key, form)
        for other, own in zip(others, forms, strict=True)
        for key, found in own.items()
        for form in found
    )
    found = []
    for run, other, own in zip(runs, others, forms, strict=True):
        chosen = {}
        for key, these in own.items():
            counts = [shared[other, key, form] for form in these]
            chosen[key] = these[counts.index(max(counts))]  # of equally common ones the path itself
        found.append(replace(run, setting=run.setting | chosen))
    return found


def _paths(run: Run) -> Setting:
    return {key: value for key, value in run.setting.items() if leads_to_a_run(key)}


def _path_forms(run: Run) -> dict[str, list[str]]:
    games = [task.game for task in run.tasks]
    return {key: path_forms(value, games, run.seed) for key, value in _paths(run).items()}


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


Measured = tuple[list[Run], dict[Task, list[Score]], int, str]


def _measured(groups: Sequence[list[Run]]) -> tuple[list[Measured], list[LeftOut]]:
    """Each group's runs, scores, env steps and source.

    A run counts by its test where all runs' env steps are within 5 %, else by its last validation at or before a budget
    that all have reached. A group none of whose runs can be counted there stands alone, by its tests.
    """
    runs = [run for group in groups for run in group]
    if _near([run.env_steps for run in runs]):
        return _counted(groups, None, None)
    reached = sorted({run.env_steps for run in runs})
    common = max(reached, key=lambda steps: sum(_has_score(run, steps) for run in runs))
    kept = [run.env_steps for run in runs if _has_score(run, common)]
    return _counted(groups, common if kept and not _near(kept) else None, common)


def _near(steps: Sequence[int]) -> bool:
    return max(steps) <= _SAME_STEPS * min(steps)


def _has_score(run: Run, budget: int) -> bool:
    """Whether the run has got so far, and was validated until then, or tested there."""
    return run.env_steps * _SAME_STEPS >= budget and all(_score(run, task, budget) for task in run.tasks)


def _counted(
    groups: Sequence[list[Run]], budget: int | None, common: int | None
) -> tuple[list[Measured], list[LeftOut]]:
    """What `_measured` returns.

    Args:
        groups: of runs.
        budget: env steps at or before which validation rows count; None where tests do.
        common: env steps that a run must have reached to be compared; None where all have.
    """
    chosen: list[Measured] = []
    left_out: list[LeftOut] = []
    for group in groups:
        kept = [run for run in group if common is None or _has_score(run, common)]
        alone = not kept and all(run.tested for run in group) and _near([run.env_steps for run in group])
        if alone:
            chosen.append(_scored(group, None, f"test.json; not compared with what counts at {common} env steps"))
            continue
        left_out += [LeftOut(shown(run.folder), _why(run, common)) for run in group if run not in kept]
        scorable = [run for run in kept if all(_score(run, task, budget) for task in run.tasks)]
        left_out += [LeftOut(shown(run.folder), _why(run, run.env_steps)) for run in kept if run not in scorable]
        if scorable:
            chosen.append(_scored(scorable, budget))
    return chosen, left_out


def _why(run: Run, budget: int | None) -> str:
    if budget is not None and run.env_steps * _SAME_STEPS < budget:
        return f"ends at {run.env_steps} env steps, before {budget}, where all runs are compared"
    return f"has no validation/return at or before {budget} env steps, where all runs are compared"


def _scored(runs: list[Run], budget: int | None, source: str | None = None) -> Measured:
    scores: dict[Task, list[Score]] = {}
    for run in runs:
        for task in run.tasks:
            scores.setdefault(task, []).extend([score] if (score := _score(run, task, budget)) else [])
    ordered = {task: sorted(scores[task], key=lambda score: score.seed) for task in sorted(scores)}
    return runs, ordered, budget or min(run.env_steps for run in runs), source or _source(ordered, budget)


def _score(run: Run, task: Task, budget: int | None) -> Score | None:
    """By the test without a budget, or where that is the run's end and no validation was before; else by validation."""
    validated = run.validated(task, run.env_steps if budget is None else budget)
    ended = budget is None or (validated is None and _near([run.env_steps, budget]))
    if ended and run.tested is not None:
        tested = run.tested[task.game]
        returns = {name: float(values["return_mean"]) for name, values in tested.items()}
        return Score(
            seed=run.seed,
            env_steps=run.env_steps,
            returns=returns,
            tested=tested,
            folder=run.folder,
            checkpoint=run.checkpoint,
        )
    if validated is None:
        return None
    return Score(seed=run.seed, env_steps=validated[0], returns=validated[1], folder=run.folder)


def _source(scores: Mapping[Task, Sequence[Score]], budget: int | None) -> str:
    every = [score for found in scores.values() for score in found]
    if budget is not None:
        early = min(score.env_steps for score in every)
        since = "" if early * _SAME_STEPS >= budget else f" (the earliest at {early})"
        tests = ", or test.json of a run that ended there without one" if any(score.tested for score in every) else ""
        return f"validation rows at or before {budget} env steps{since}{tests}, because runs differ by more than 5 %"
    checkpoints = sorted({score.checkpoint for score in every if score.checkpoint is not None})
    of = "" if checkpoints in ([], ["last.ckpt"]) else f" of {' and '.join(checkpoints)}"
    return {
        (True,): f"test.json{of}",
        (False,): "the last validation rows, because `test` was not run",
        (False, True): f"test.json{of}, or the last validation row where `test` was not run",
    }[tuple(sorted({bool(score.tested) for score in every}))]


def comparable(first: Group, second: Group) -> bool:
    """Whether both count at the same env steps, or one never learned, as random play."""
    steps = (first.env_steps, second.env_steps)
    return 0 in steps or _near(steps)
