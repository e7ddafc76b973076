"""`lightning-rl play`, from its command line to the first frame and to its end."""

import os
import signal
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lightning_rl
from lightning_rl.cli import play
from lightning_rl.modules.impala_vae import ImpalaVAEModule, SurpriseConfig
from lightning_rl.modules.ppo_distill import PPODistillModule
from lightning_rl.viewer.access import is_loopback
from lightning_rl.viewer.games_thread import images_of, numbers_of
from lightning_rl.viewer.lenses import AutoencoderLens
from lightning_rl.viewer.session import Session
from tests.support.command_lines import refusal
from tests.support.methods import RUNNING_STD
from tests.support.runs import start, wait_until
from tests.support.shared_runs import SharedRuns
from tests.viewer.walk import Talk


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "ckpt_path: play needs a checkpoint, found none; give --ckpt_path FILE, or --game NAME"),
        (["--game", "nogame"], "game must be one of Procgen's"),
        (["--game", "bigfish", "--distribution_mode", "memory"], "memory"),
        (["--game", "pong", "--ckpt_path", "x"], "game: --game is played without an agent and takes no --ckpt_path"),
        (["--ckpt_path", "nowhere.ckpt", "--config", "configs/ppo.yaml"], "nowhere.ckpt"),
        (["--port", "x"], "argument --port: invalid int value: 'x'"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(args: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refusal(["play", *args], capsys)


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
    scene = play.checkpoint_scene(["--ckpt_path", str(runs.finished(config, **options))])
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
    scene = play.checkpoint_scene(["--ckpt_path", str(runs.finished("impala_vae"))])
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


@pytest.mark.slow
def test_distillation_shows_the_intrinsic_reward_and_learns_nothing(runs: SharedRuns) -> None:
    scene = play.checkpoint_scene(["--ckpt_path", str(runs.finished("ppo_distill", **RUNNING_STD))])
    assert isinstance(scene.policy, PPODistillModule)
    before = {name: value.clone() for name, value in scene.policy.state_dict().items()}
    session = Session(scene)
    session.step()
    session.close()
    obs = torch.from_numpy(session.now.frame)[None, None]

    assert all(value.equal(before[name]) for name, value in scene.policy.state_dict().items())
    expected = float(scene.policy.intrinsic_rewards(obs, {})[0])
    assert numbers_of(session.now) == {"Intrinsic reward": pytest.approx(expected, rel=1e-5)}


def test_the_surprise_is_told_from_the_second_frame_on() -> None:
    lens = AutoencoderLens(ImpalaVAEModule(surprise=SurpriseConfig(weight=0.5), obs_shape=(64, 64, 3), num_actions=3))
    frames = np.random.default_rng(0).integers(256, size=(2, 1, 64, 64, 3), dtype=np.uint8)
    first = lens.look(frames[0], None)
    second = lens.look(frames[1], first.memory)
    again = lens.look(frames[0], first.memory)

    assert first.numbers == {}
    assert second.numbers["Surprise reward"] < again.numbers["Surprise reward"]


def test_the_world_model_plays_beside_the_game_and_alone(runs: SharedRuns) -> None:
    session = Session(play.checkpoint_scene(["--ckpt_path", str(runs.finished("simple_cpu", **_SIMPLE))]))
    session.step()
    session.go("both")
    session.step()
    beside = images_of(session.now)
    session.go("model")
    session.step()
    session.close()

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


@pytest.mark.slow
def test_an_atari_run_is_played(runs: SharedRuns) -> None:
    session = Session(play.checkpoint_scene(["--ckpt_path", str(runs.finished("ppo_atari", **_ATARI))]))
    frame = session.now.frame
    for _ in range(13):  # an episode, and the first step of another one
        session.step()
    session.close()

    assert frame.shape == (105, 80, 3)
    assert [action.name for action in session.scene.actions] == ["noop", "fire", "right", "left"]
    assert (session.now.episode.level, session.now.length) == (1, 0)


def test_a_game_is_played_without_an_agent() -> None:
    data = play.parser().parse_args(["--game", "coinrun", "--distribution_mode", "hard", "--level", "9"])
    session = Session(play.scene(data, []), level=data.level)
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
