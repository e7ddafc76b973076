"""One agent of several games, through the command: its metrics, reports, videos and exports."""

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_rl.cli.program import main
from lightning_rl.policies.folder import CARD, read_policy
from tests.support.command_lines import refusal
from tests.support.methods import SEVERAL_TEACHERS
from tests.support.runs import fit_args, load
from tests.support.shared_runs import SharedRuns

GAMES = ("dodgeball", "starpilot")
BOTH = "dodgeball+starpilot"


@pytest.fixture
def student(runs: SharedRuns) -> Path:
    """A run with a teacher for each of two games."""
    return runs.finished("policy_distill", **SEVERAL_TEACHERS)


@pytest.mark.slow
def test_each_is_judged_by_itself_with_the_share_that_is_kept_of_its_teachers_return_and_in_reports(
    tmp_path: Path, runs: SharedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.copied(tmp_path / "run", "policy_distill", **SEVERAL_TEACHERS)
    capsys.readouterr()
    assert main(["test", "--ckpt_path", str(run)]) == 0
    told = " ".join(capsys.readouterr().out.split())

    assert load(run)["lightning_rl"]["game"] == load(run)["ProcgenDataModule"]["game"] == BOTH
    report = json.loads((run / "test.json").read_text())
    assert (report["game"], list(report["games"])) == (BOTH, list(GAMES))
    assert "level_sets" not in report
    for game, found in report["games"].items():
        assert list(found["level_sets"]) == ["train_levels", "full_distribution", "teacher", "random_policy"]
        assert f"policy_distill on {game} easy after 64 env steps" in told
        kept = found["teacher_return_kept"]
        line = f"kept of its teacher's return in {game} on all levels: "
        assert (line in told) == (kept is not None)
        if kept is not None:
            returns = [found["level_sets"][name]["return_mean"] for name in ("full_distribution", "teacher")]
            assert kept["share"] == pytest.approx(returns[0] / returns[1])
            assert f"{line}{kept['share']:.3f}, 95 % interval" in told
    assert any(found["teacher_return_kept"] for found in report["games"].values())

    last = 2 * 4 * 2 - 1  # of two games, four level sets and two episodes of each
    assert main(["predict", "--replay", str(run), "--episode", str(last), "--run_dir", str(tmp_path / "replay")]) == 0

    assert main(["report", str(run), "--out", str(tmp_path / "report"), "--baseline", "none"]) == 0
    [group] = json.loads((tmp_path / "report" / "report.json").read_text())["groups"]
    assert group["games"] == list(GAMES)
    assert group["per_game"].keys() == set(GAMES)


@pytest.mark.slow
def test_an_exported_agent_of_several_games_is_judged_in_all_of_them(
    tmp_path: Path, runs: SharedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    run, policy = runs.copied(tmp_path / "run", "policy_distill", **SEVERAL_TEACHERS), tmp_path / "policy"
    assert main(["test", "--ckpt_path", str(run)]) == 0
    assert main(["export", "--ckpt_path", str(run), "--out", str(policy)]) == 0
    config = read_policy(policy).config
    assert (config.game, config.data.init_args["game"]) == (list(GAMES), list(GAMES))
    card = (policy / CARD).read_text()
    assert "| starpilot, all levels |" in card
    assert "--model.teachers.starpilot" in card
    capsys.readouterr()
    assert main(["validate", "--ckpt_path", str(policy), "--run_dir", str(tmp_path / "judged")]) == 0
    shown = dict(line.split() for line in capsys.readouterr().out.splitlines())
    for key in ("validation/return", "validation/train_levels_return"):
        own = [float(shown[f"{key}/{game}"]) for game in GAMES]
        assert float(shown[key]) == pytest.approx(sum(own) / 2, abs=0.02)


def test_all_games_are_shown_in_one_video(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["predict", "--ckpt_path", str(student / "last.ckpt"), "--run_dir", str(tmp_path)]
    assert main([*args, "--data.predict_episodes", "2"]) == 0

    played: dict[str, Any] = json.loads((tmp_path / "media" / "episodes.json").read_text())["games"]
    assert {game: len(found["returns"]) for game, found in played.items()} == dict.fromkeys(GAMES, 2)
    assert (tmp_path / "media" / "episodes.mp4").stat().st_size > 0
    told = capsys.readouterr().out
    assert all(f"returns {found['returns']} in {game}\n" in told for game, found in played.items())


def test_judging_by_the_options_of_other_games_is_refused(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["test", "--ckpt_path", str(student / "last.ckpt"), "--run_dir", str(tmp_path)]

    told = refusal([*args, "--data.game", "[starpilot,dodgeball]"], capsys)

    assert f"is of game {BOTH}, this command of game starpilot+dodgeball" in told


@pytest.mark.parametrize(
    ("config", "options", "told"),
    [
        ("ppo", {"data__num_envs": 3}, "data.num_envs must be a multiple of 2, the number of games, found 3"),
        ("ppo", {"data__game": "[maze, pong]"}, "game must be one of Procgen's, found 'pong'; allowed: bigfish, "),
        ("ppo_atari", {"data__game": "[pong, breakout]"}, "data.game must be str, found ['pong', 'breakout']"),
        ("simple_cpu", {"data__game": "[maze, heist]"}, "data.game must be one game for SimPLeModule"),
        ("policy_distill", {"model__teachers__maze": "x"}, "model.teacher must be null where model.teachers are given"),
    ],
)
def test_what_several_games_cannot_have_is_refused_in_one_line(
    config: str, options: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = fit_args(tmp_path / "run", config=config, **{"data__game": "[maze, heist]"} | options)

    assert told in refusal(args, capsys)
    assert not (tmp_path / "run").exists()
