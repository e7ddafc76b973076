"""`lightning-rl play`, from its command line to the first frame and to its end."""

import os
import signal
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn

import lightning_rl
from lightning_rl.cli import play, program
from lightning_rl.data.atari import AtariDataModule
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.modules.impala_vae import ImpalaVAEModule, SurpriseConfig
from lightning_rl.modules.ppo_distill import PPODistillModule
from lightning_rl.runs.episodes_file import NAME, write_episodes
from lightning_rl.viewer.access import is_loopback
from lightning_rl.viewer.description import images_of, numbers_of, outcome_of
from lightning_rl.viewer.lenses import lens_of
from lightning_rl.viewer.scene import Scene
from lightning_rl.viewer.serving import Viewer
from lightning_rl.viewer.session import Session
from lightning_rl.viewer.table import Table
from tests.examples.corridor import CorridorDataModule
from tests.support.command_lines import refusal
from tests.support.methods import RUNNING_STD, SEVERAL_TEACHERS
from tests.support.runs import start, wait_until
from tests.support.shared_runs import SharedRuns
from tests.viewer.walk import Talk


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "ckpt_path: play needs a checkpoint, found none; give --ckpt_path FILE, or --game NAME"),
        (["--game", "nogame"], "game must be one of Procgen's or of Atari's, found 'nogame'; allowed: bigfish"),
        (["--game", "startpilot"], "found 'startpilot'; did you mean starpilot or time_pilot?"),
        (["--game", "bigfish", "--distribution_mode", "memory"], "memory"),
        (["--game", "pong", "--ckpt_path", "x"], "game: --game is played without an agent and takes no --ckpt_path"),
        (["--ckpt_path", "nowhere.ckpt", "--config", "configs/ppo.yaml"], "nowhere.ckpt"),
        (["--ckpt_path", "nowhere.ckpt"], "ckpt_path: nowhere.ckpt is not there"),
        (["--ckpt_path", "tests"], "ckpt_path: tests holds no last.ckpt, and is no exported policy"),
        (["--ckpt_path", "last"], "ckpt_path: last is that of a run folder; give --run_dir DIR, too"),
        (["--ckpt_path", "x", "--distribution_mode", "hard"], "distribution_mode is one of --game"),
        (["--game", "pong", "--distribution_mode", "hard"], "distribution_mode must not be given for Atari"),
        (["--game", "bigfish", "--out", ""], "out must be a path, found an empty text"),
        (["--game", "bigfish", "--host", ""], "host must be an address of this machine, found ''"),
        (["--game", "bigfish", "--port", "99999"], "port must be from 0 to 65535, found 99999"),
        (["--port", "x"], "argument --port: invalid int value: 'x'"),
        (["--game", "bigfish", "--horizon", "5"], "horizon is a world model's, and bigfish (easy) has none"),
        (["--game", "bigfish", "--temperature", "1"], "temperature is a world model's, and bigfish (easy) has none"),
        (["--game", "bigfish", "--level", "-1"], "level must be from 0 to 2147483646, found -1"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(args: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refusal(["play", *args], capsys)


def scene_at(args: list[str]) -> Scene:
    [scene] = play.checkpoint_show(args).scenes
    return scene


# runs that other tests ask for, too
_SIMPLE = {"data__num_envs": 16, "data__num_steps": 2}
_ATARI = {"iterations": 1, "trainer__check_val_every_n_epoch": 1}


@pytest.mark.parametrize(
    ("config", "options", "difficulty"),
    [
        ("ppo", {}, "easy"),
        pytest.param("ppo_distill", RUNNING_STD, "easy", marks=pytest.mark.slow),
        pytest.param("impala_vae", {}, "hard", marks=pytest.mark.slow),
        pytest.param("simple_cpu", _SIMPLE, "easy", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_every_method_is_played(
    config: str, options: dict[str, Any], difficulty: str, runs: SharedRuns
) -> None:
    scene = scene_at(["--ckpt_path", str(runs.finished(config, **options))])
    session = Session(scene)
    for _ in range(3):
        session.step()
    shown = session.now
    session.history.seek(1)
    session.step()
    session.step()
    session.close()

    assert shown.output is not None
    assert len(scene.actions) == shown.output.logits.shape[1] == 15
    assert scene.title == f"{scene.method} on dodgeball ({difficulty})"
    assert scene.levels.count in (200, 500)
    assert (session.now.frame == shown.frame).all()
    assert session.now.output is not None
    assert session.now.output.logits.equal(shown.output.logits)
    assert session.now.episode.actions[:3] == shown.episode.actions[:3]


def test_the_autoencoder_shows_what_it_sees_and_its_latent_moves(runs: SharedRuns) -> None:
    scene = scene_at(["--ckpt_path", str(runs.finished("impala_vae"))])
    session = Session(scene)
    session.step()
    assert scene.lens is not None
    before = images_of(session.now)
    scene.lens.move(scene.lens.sliders[0], 4.0)
    session.look_again()
    moved = images_of(session.now)
    session.close()

    assert list(before) == ["game", "autoencoder sees", "reconstruction"]
    assert set(before["autoencoder sees"].flat) <= {0, 255}
    assert len(scene.lens.sliders) == 8
    assert [(before[name] == moved[name]).all() for name in before] == [True, True, False]
    with pytest.raises(ValueError, match="found nan"):
        scene.lens.move(scene.lens.sliders[0], float("nan"))


def test_an_exported_policy_shows_the_autoencoder_that_it_brings() -> None:
    scene = scene_at(["--ckpt_path", "checkpoints/impala-vae-starpilot"])
    session = Session(scene)
    for _ in range(3):
        session.step()
    shown = images_of(session.now)
    session.close()

    assert scene.world_model is None
    assert list(shown) == ["game", "autoencoder sees", "reconstruction"]
    # trained, it gives back most of the pixels that it was given
    assert ((shown["reconstruction"] > 127) == (shown["autoencoder sees"] > 127)).mean() > 0.9


def test_an_exported_policy_dreams_in_the_world_model_that_it_brings() -> None:
    scene = scene_at(["--ckpt_path", "checkpoints/simple-ms-pacman"])
    session = Session(scene)
    session.step()
    session.go("both")
    session.step()
    shown = images_of(session.now)
    session.close()

    assert scene.real_frames is None
    assert list(shown) == ["game", "world model", "difference"]
    # trained, it is closer to the game than a black picture is
    error = shown["world model"].astype(float) - shown["game"]
    assert (error**2).mean() < 0.1 * (shown["game"].astype(float) ** 2).mean()


@pytest.mark.slow
def test_distillation_shows_the_intrinsic_reward_and_learns_nothing(runs: SharedRuns) -> None:
    scene = scene_at(["--ckpt_path", str(runs.finished("ppo_distill", **RUNNING_STD))])
    assert isinstance(scene.policy, PPODistillModule)
    before = {name: value.clone() for name, value in scene.policy.state_dict().items()}
    session = Session(scene)
    session.step()
    session.close()
    obs = torch.from_numpy(session.now.frame)[None, None]

    assert all(value.equal(before[name]) for name, value in scene.policy.state_dict().items())
    expected = float(scene.policy.intrinsic_rewards(obs, {}, update=False)[0])
    assert numbers_of(session.now) == {"Intrinsic reward": pytest.approx(expected, rel=1e-5)}


def test_the_surprise_is_told_from_the_second_frame_on() -> None:
    lens = lens_of(ImpalaVAEModule(surprise=SurpriseConfig(weight=0.5), obs_shape=(64, 64, 3), num_actions=3))
    assert lens is not None
    frames = np.random.default_rng(0).integers(256, size=(2, 1, 64, 64, 3), dtype=np.uint8)
    first = lens.look(frames[0], None)
    second = lens.look(frames[1], first.memory)
    again = lens.look(frames[0], first.memory)

    assert first.numbers == {}
    assert second.numbers["Surprise reward"] < again.numbers["Surprise reward"]


def test_the_world_model_plays_beside_the_game_and_alone(runs: SharedRuns) -> None:
    args = ["--horizon", "9", "--temperature", "0.5", "--ckpt_path", str(runs.finished("simple_cpu", **_SIMPLE))]
    session = play.table(*play.parser().parse_known_args(args)).session
    assert (session.horizon, session.temperature) == (9, 0.5)
    session.step()
    session.go("both")
    session.step()
    beside = images_of(session.now)
    session.go("model")
    session.step()
    session.dream_of_replay()
    stack = session.now.dream
    session.step()
    session.close()

    assert stack is not None
    assert stack.is_of_replay
    assert stack.stack.any()
    assert list(beside) == ["game", "world model", "difference"]
    assert beside["world model"].shape == beside["game"].shape == (64, 64, 3)
    assert (session.now.length, session.now.where) == (1, "model")


def test_a_notebook_shows_the_page_inline(runs: SharedRuns) -> None:
    shown = lightning_rl.play(runs.finished("ppo"), height=500)
    with Talk(shown.link) as window:
        window.until(lambda frame: frame["length"] > 0)
    with urllib.request.urlopen(shown.link) as answer:
        policy = answer.headers["Content-Security-Policy"]
    shown.close()

    assert f'<iframe src="{shown.link}" width="100%" height="500"' in shown._repr_html_()
    assert policy.endswith("frame-ancestors 'self' http://127.0.0.1:* http://localhost:* vscode-webview:")


def test_a_notebook_goes_on_as_if_nothing_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    states = torch.random.get_rng_state(), np.random.get_state()  # noqa: NPY002  # as others draw
    following = torch.rand(3).tolist(), np.random.rand(3).tolist()  # noqa: NPY002  # likewise
    torch.random.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002  # likewise

    lightning_rl.play("checkpoints/ppo-starpilot").close()

    # of Python's own random numbers the shape checks of these tests draw some
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist()) == following  # noqa: NPY002  # likewise
    assert "PL_GLOBAL_SEED" not in os.environ
    with pytest.raises(ValueError, match=r"ckpt_path: nowhere\.ckpt is not there"):
        lightning_rl.play("nowhere.ckpt")


def test_a_notebook_is_told_why_its_game_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail() -> Table:
        raise ValueError("no such game")

    told: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", told.append)  # which prints below the notebook's cell
    shown = play.Inline(Viewer(fail, recordings=tmp_path), 100)
    end = time.monotonic() + 30
    while not told:
        assert time.monotonic() < end
        time.sleep(0.01)
    shown.close()

    assert [(str(one.exc_value), one.thread and one.thread.name) for one in told] == [("no such game", "play")]


def test_a_network_that_fails_ends_play_with_its_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(server: uvicorn.Server, sockets: Any) -> None:
        raise RuntimeError(f"the network is gone, and {len(sockets)} sockets with it")

    monkeypatch.setattr(uvicorn.Server, "serve", fail)

    with pytest.raises(RuntimeError, match="the network is gone, and 1 sockets with it"):
        play.main(["--game", "dodgeball"])

    assert capsys.readouterr().out.startswith("http://127.0.0.1:")
    assert not [thread for thread in threading.enumerate() if thread.name in ("games", "network")]


@pytest.mark.slow
def test_an_atari_run_is_played(runs: SharedRuns) -> None:
    session = Session(scene_at(["--ckpt_path", str(runs.finished("ppo_atari", **_ATARI))]))
    frame = session.now.frame
    for _ in range(13):  # an episode, and the first step of another one
        session.step()
    session.close()

    assert frame.shape == (105, 80, 3)
    assert [action.name for action in session.scene.actions] == ["noop", "fire", "right", "left"]
    assert (session.now.episode.level, session.now.length) == (1, 0)


def left_by_test(data: RolloutDataModule, folder: Path, **games: Any) -> Path:
    """A folder with the episodes that random play had."""
    (episodes,) = data.evaluation("full_distribution", UniformPolicy(data.num_actions), num_envs=2, is_test=True)
    class_path = games.pop("class_path", f"lightning_rl.{type(data).__name__}")
    write_episodes(folder / NAME, {"all": episodes}, class_path=class_path, init_args=games)
    return folder


@pytest.mark.parametrize(
    ("games", "options"),
    [
        (ProcgenDataModule, {"game": "dodgeball", "num_threads": 0}),
        (AtariDataModule, {"game": "Breakout", "max_episode_steps": 40, "frame_stack": 1, "sticky_actions": True}),
    ],
)
def test_the_episodes_of_test_are_listed_and_played_exactly(
    games: type[RolloutDataModule], options: dict[str, Any], tmp_path: Path
) -> None:
    data = games(**options, seed=3)
    episodes = play.episodes_in([tmp_path / "none", left_by_test(data, tmp_path, **options)], data)
    shown = Table(replace(play.show_of(data, None), episodes=episodes))
    assert episodes is not None

    for row in episodes.rows:
        shown.follow("window", {"do": "episode", "number": row.number})
        frames = {shown.now.frame.tobytes()}
        for _ in range(row.length):
            assert outcome_of(shown.now) is None
            shown.step()
            frames.add(shown.now.frame.tobytes())
        assert outcome_of(shown.now) == "As it was recorded"
        assert len(frames) > row.length / 4  # it does not stand still
    shown.close()
    assert {row.game for row in episodes.rows} == {data.game}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"game": "maze"}, "is of other games"),
        ({"game": "nogame"}, "game must be one of"),
        ({"game": "dodgeball", "nothing": 1}, "unexpected keyword argument 'nothing'"),
        ({"game": "dodgeball", "frame_stack": 2}, "is of other games"),
        ({"game": "dodgeball", "class_path": "gone.Module"}, "data must be one of"),
    ],
)
def test_episodes_that_cannot_be_shown_are_told_in_one_line(
    options: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ProcgenDataModule(game="dodgeball", num_threads=0, seed=3)
    folder = left_by_test(data, tmp_path, **options)

    assert play.episodes_in([folder], data) is None

    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lightning-rl: the episodes of test are not shown: ")
    assert told in line


def test_episodes_of_games_that_cannot_be_opened_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = CorridorDataModule(seed=3)
    folder = left_by_test(data, tmp_path, class_path="tests.examples.corridor.CorridorDataModule", game="corridor")

    assert play.episodes_in([folder], data) is None

    assert "are not shown: CorridorDataModule has no open_episode" in capsys.readouterr().err


def test_a_test_that_was_run_anew_is_told(tmp_path: Path) -> None:
    options: dict[str, Any] = {"game": "dodgeball", "num_threads": 0}
    data = ProcgenDataModule(**options, seed=3)
    listed = play.episodes_in([left_by_test(data, tmp_path, **options)], data)
    left_by_test(ProcgenDataModule(**options, seed=4), tmp_path, **options)
    assert listed is not None

    with pytest.raises(ValueError, match=r"found 0 of .*episodes\.npz, which was written anew"):
        listed.read(0)


def test_the_one_level_of_exploration_is_played(tmp_path: Path) -> None:
    args = ["--game", "coinrun", "--distribution_mode", "exploration"]
    shown = play.table(*play.parser().parse_known_args(args))
    shown.step()
    data = ProcgenDataModule(game="coinrun", distribution_mode="exploration", num_levels=0, num_threads=0, seed=3)

    assert shown.now.length == 1
    shown.close()
    session = Session(play.show_of(data, None).scenes[0])
    session.begin(7)
    session.close()


@pytest.mark.slow
def test_a_run_that_was_tested_offers_its_episodes_and_a_policy_those_of_judging_it(
    runs: SharedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, policy = runs.copied(tmp_path / "run", "ppo"), tmp_path / "policy"
    assert program.main(["test", "--ckpt_path", str(run)]) == 0
    assert program.main(["export", "--ckpt_path", str(run), "--out", str(policy)]) == 0
    assert play.checkpoint_show(["--ckpt_path", str(policy)]).episodes is None
    assert program.main(["test", "--ckpt_path", str(policy)]) == 0

    for path in (run, policy):
        shown = Table(play.checkpoint_show(["--ckpt_path", str(path)]))
        assert shown.show.episodes is not None
        rows = shown.show.episodes.rows
        assert [row.level_set for row in rows[::2]] == ["train_levels", "full_distribution", "random_policy"]
        last = rows[-1]
        shown.follow("window", {"do": "episode", "number": last.number})
        for _ in range(last.length):
            shown.step()
        assert outcome_of(shown.now) == "As it was recorded"
        shown.close()


@pytest.mark.slow
def test_a_run_of_several_games_is_played_with_its_episodes(runs: SharedRuns, tmp_path: Path) -> None:
    run = runs.copied(tmp_path / "run", "policy_distill", **SEVERAL_TEACHERS)
    assert program.main(["test", "--ckpt_path", str(run)]) == 0
    shown = Table(play.checkpoint_show(["--ckpt_path", str(run)]))
    assert shown.show.episodes is not None
    assert [scene.title for scene in shown.show.scenes] == [
        "policy_distill on dodgeball (easy)",
        "policy_distill on starpilot (easy)",
    ]
    assert shown.show.title == "policy_distill on dodgeball+starpilot (easy)"
    last = shown.show.episodes.rows[-1]
    shown.follow("window", {"do": "episode", "number": last.number})
    for _ in range(last.length):
        shown.step()
    assert (outcome_of(shown.now), last.game, shown.session.scene.game) == (
        "As it was recorded",
        "starpilot",
        "starpilot",
    )
    shown.follow("window", {"do": "grid", "number": 4})
    shown.step()
    shown.close()
    assert [session.scene.game for session in shown.sessions] == ["starpilot", "dodgeball"] * 2


@pytest.mark.slow
def test_an_exported_policy_is_played_as_its_checkpoint(runs: SharedRuns, tmp_path: Path) -> None:
    run, policy = runs.finished("ppo"), tmp_path / "policy"
    assert program.main(["export", "--ckpt_path", str(run), "--out", str(policy)]) == 0
    shown = [Table(play.checkpoint_show(["--ckpt_path", str(path)])) for path in (run, policy)]
    for one in shown:
        for _ in range(5):
            one.step()
        one.close()

    first, second = (one.now for one in shown)
    assert first.episode.actions == second.episode.actions
    assert (first.frame == second.frame).all()
    assert first.output is not None
    assert second.output is not None
    assert first.output.logits.equal(second.output.logits)


def test_the_games_of_a_plug_in_are_played() -> None:
    shown = Table(play.show_of(CorridorDataModule(), None), level=5)
    first = shown.now.frame
    for _ in range(12):
        shown.step()
    later = shown.now.frame
    shown.follow("window", {"do": "seek", "at": 3})
    for _ in range(9):
        shown.step()

    assert (shown.now.frame == later).all()
    assert [action.keys for action in shown.session.scene.actions] == [("Digit1",), ("Digit2",)]
    shown.follow("window", {"do": "level", "number": 5})
    assert (shown.now.frame == first).all()
    shown.close()


def test_a_game_is_played_without_an_agent() -> None:
    data = play.parser().parse_args(["--game", "coinrun", "--distribution_mode", "hard", "--level", "9"])
    session = play.table(data, []).session
    session.hand_to("person")
    session.held = 7
    first = session.now.frame
    for _ in range(5):
        session.step()
    walked = session.now.frame
    session.begin(9)
    session.close()

    assert (walked != first).any()
    assert (session.now.frame == first).all()
    assert session.scene.title == "coinrun (hard)"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_with_0(number: int, tmp_path: Path) -> None:
    output = tmp_path / "output"
    process = start(["play", "--game", "pong", "--out", str(tmp_path / "recordings")], output)
    wait_until(lambda: output.is_file() and output.read_text().endswith("\n"), process)
    link = output.read_text().strip()
    with Talk(link) as window:
        window.until(lambda frame: frame["length"] > 1)
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(60)

    assert process.exitcode == 0
    assert output.read_text() == f"{link}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("node17", False)],
)
def test_what_only_this_machine_reaches_is_told_apart(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
