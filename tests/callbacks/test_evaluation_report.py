import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console

from lightning_rl.callbacks.evaluation_report import EvaluationReport, _measured, share_kept, summary, table
from lightning_rl.distributed import collectives
from lightning_rl.envs.procgen_games import normalized_return
from lightning_rl.errors import UsageError
from lightning_rl.types import Episodes
from tests.support.worlds import make_module, make_trainer, toy_data

RETURNS = [0.0, 10.0, 10.0, 2.5, 7.5, -1.0]


def episodes(returns: list[float], *, complete: list[bool] | None = None) -> Episodes:
    return Episodes(
        level_set="train_levels",
        returns=torch.tensor(returns, dtype=torch.float64),
        lengths=torch.arange(1, len(returns) + 1),
        level_complete=None if complete is None else torch.tensor(complete),
    )


def statistics(played: Episodes, *, game: str = "coinrun", distribution_mode: str = "easy") -> dict[str, Any]:
    return summary(played, (200, 3), normalized_return=partial(normalized_return, game, distribution_mode))


def test_the_statistics_are_numpys() -> None:
    found = statistics(episodes(RETURNS, complete=[False, True, True, False, True, False]))
    mean, error = np.mean(RETURNS), np.std(RETURNS, ddof=1) / np.sqrt(len(RETURNS))
    assert found["return_ci95"] == pytest.approx([mean - 1.959964 * error, mean + 1.959964 * error])
    del found["return_ci95"]
    assert found == {
        "num_levels": 200,
        "start_level": 3,
        "episodes": 6,
        "env_steps": 21,
        "return_mean": pytest.approx(mean),
        "return_variance": pytest.approx(np.var(RETURNS)),
        "return_max": 10.0,
        "return_min": -1.0,
        "normalized_return": pytest.approx((mean - 5) / 5),
        "level_complete_rate": 0.5,
    }


def test_one_episode_has_an_interval_of_no_width() -> None:
    assert statistics(episodes([4.0]))["return_ci95"] == [4.0, 4.0]


@pytest.mark.parametrize(
    ("game", "distribution_mode", "expected"),
    [
        ("starpilot", "easy", (10 - 2.5) / 61.5),
        ("starpilot", "hard", (10 - 1.5) / 33.5),
        ("fruitbot", "easy", 11.5 / 33.9),
        ("dodgeball", "extreme", None),
    ],
)
def test_returns_are_normalised_by_openais_constants(game: str, distribution_mode: str, expected: float | None) -> None:
    found = statistics(episodes([10.0, 10.0]), game=game, distribution_mode=distribution_mode)["normalized_return"]
    assert found == (None if expected is None else pytest.approx(expected))


def test_what_a_game_does_not_say_is_null() -> None:
    assert statistics(episodes([1.0]))["level_complete_rate"] is None


def test_no_episode_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"^data.test_env_steps must be more: no episode of train_levels ended"):
        statistics(episodes([]))


@pytest.mark.parametrize("budget", [None, 1_000_000])
def test_the_table_has_the_papers_form(budget: int | None) -> None:
    report = {
        "method": "ppo",
        "game": "dodgeball",
        "distribution_mode": "extreme",
        "env_steps": 64,
        "level_sets": {"train_levels": statistics(episodes(RETURNS), game="dodgeball", distribution_mode="extreme")},
    }
    console = Console(file=io.StringIO(), width=120)
    console.print(table(report, budget=budget))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    for part in ("ppo on dodgeball extreme after 64 env steps", "4.83 (20.56) [10, -1]", "0.86 to 8.81", "–", "6"):
        assert part in shown
    assert ("short episodes count too often" in shown) == (budget is not None)


def test_the_share_kept_of_a_teachers_return_has_the_interval_of_a_quotient() -> None:
    draw = np.random.default_rng(2)
    student, teacher = draw.normal(4.0, 2.0, size=400), draw.normal(5.0, 3.0, size=300)

    kept = share_kept(episodes(student.tolist()), episodes(teacher.tolist()))

    assert kept is not None
    assert kept["share"] == pytest.approx(student.mean() / teacher.mean())
    quotients = [
        draw.choice(student, len(student)).mean() / draw.choice(teacher, len(teacher)).mean() for _ in range(4000)
    ]
    assert kept["ci95"] == pytest.approx(np.quantile(quotients, (0.025, 0.975)), abs=0.01)


def test_it_is_kept_on_all_levels() -> None:
    returns = {"train_levels": [9.0, 9.0], "full_distribution": [3.0, 3.0], "teacher": [4.0, 4.0]}

    found = _measured({name: episodes(own) for name, own in returns.items()}, toy_data())

    assert found["teacher_return_kept"]["share"] == pytest.approx(0.75)


@pytest.mark.parametrize(("student", "teacher"), [([0.0, 0.0], [1.0, 2.0]), ([1.0, 2.0], [-3.0, 1.0])])
def test_no_share_is_kept_of_returns_that_are_not_positive(student: list[float], teacher: list[float]) -> None:
    assert share_kept(episodes(student), episodes(teacher)) is None


@pytest.mark.parametrize(("is_first", "expected"), [(True, "validation/return               0.50\n"), (False, "")])
def test_the_first_rank_prints_what_all_found(
    is_first: bool, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    trainer, module = make_trainer(), make_module()
    trainer.state.fn = TrainerFn.VALIDATING
    module.validation_returns = {"validation/return": 0.75}
    monkeypatch.setattr(Trainer, "is_global_zero", is_first)
    monkeypatch.setattr(collectives, "all_gather", lambda own: [own, {"validation/return": 0.25}])

    EvaluationReport(tmp_path, method="ppo", checkpoint=lambda: None).on_validation_end(trainer, module)

    assert capsys.readouterr().out == expected
