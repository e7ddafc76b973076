"""`lightning-rl play`, from its command line to the first frame and to its end."""

import os
import signal
from pathlib import Path

import pytest

from lightning_rl.cli import play
from lightning_rl.viewer.access import is_loopback
from lightning_rl.viewer.session import Session
from tests.support.command_lines import refusal
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


@pytest.mark.parametrize("config", ["ppo", "ppo_distill", "impala_vae_cpu", "simple_cpu"])
def test_a_run_of_every_method_is_played(config: str, runs: SharedRuns) -> None:
    scene = play.checkpoint_scene(["--ckpt_path", str(runs.finished(config))])
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
    assert scene.title == f"{scene.method} on dodgeball (easy)"
    assert scene.levels.count == 200
    assert (session.now.frame == shown.frame).all()
    assert session.now.output is not None
    assert session.now.output.logits.equal(shown.output.logits)
    assert session.now.episode.actions[:3] == shown.episode.actions[:3]


def test_an_atari_run_is_played(runs: SharedRuns) -> None:
    session = Session(play.checkpoint_scene(["--ckpt_path", str(runs.finished("ppo_atari"))]))
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
